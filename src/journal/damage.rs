//! Damaged journals: each loss is said.

use super::tests::{Disk, accepted, finished, module};
use super::*;
use database::StoreError;
use std::collections::BTreeSet;

/// What a journal with these tasks in it looks like when the process is killed
/// or ends in good order.
fn journal(kill: bool) -> (Disk, BTreeSet<u64>) {
    let disk = Disk::default();
    let mut store = disk.store().0;
    let mut apply = |steps: &[Step]| store.apply(steps.iter()).expect("written");
    for run in (0..60).step_by(3) {
        let batch: Vec<_> =
            (run..run + 3).map(|run| accepted(run, &module(run % 2, 500))).collect();
        apply(&batch);
        apply(&[finished(run, &"result ".repeat(100))]);
    }
    apply(&[accepted(60, b"wasm"), accepted(61, b"wasm"), finished(61, "the last")]);
    let killed = disk.after_kill();
    drop(store);
    let found = if kill { killed } else { disk };
    (found, (0..=61).collect())
}

/// What became of the tasks of a journal with this damage.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    AllThere,
    Said,
    SetAside,
    Silent,
}

fn fate(disk: &Disk, runs: &BTreeSet<u64>, damage: impl FnOnce(&mut Vec<u8>)) -> Fate {
    let disk = disk.after_kill();
    disk.overwrite(damage);
    let recovered = match disk.open() {
        Ok((_, recovered)) => recovered,
        // The worker says so, and begins a new one.
        Err(StoreError::Broken(_)) => return Fate::SetAside,
        Err(e) => panic!("{e}"),
    };
    let waiting = recovered.waiting.iter().map(|waiting| waiting.run.0);
    let finished = recovered.finished.iter().map(|finished| finished.run.0);
    let found: BTreeSet<u64> = waiting.chain(finished).collect();
    match (found == *runs, recovered.losses.is_empty()) {
        (_, false) => Fate::Said,
        (true, true) => Fate::AllThere,
        (false, true) => Fate::Silent,
    }
}

#[test]
fn no_damage_of_a_page_or_the_header_loses_a_task_in_silence() {
    const PAGE: usize = 4096;
    for kill in [true, false] {
        let (disk, runs) = journal(kill);
        let mut pages = 0;
        disk.overwrite(|file| pages = file.len() / PAGE);
        let mut fates = std::collections::BTreeMap::<Fate, Vec<String>>::new();
        let mut note = |fate, what: String| fates.entry(fate).or_default().push(what);
        for page in 0..pages {
            let mut used = false;
            let range = page * PAGE..(page + 1) * PAGE;
            disk.overwrite(|file| used = file[range.clone()].iter().any(|&byte| byte != 0));
            if used {
                let zeroed = |file: &mut Vec<u8>| file[range].fill(0);
                note(fate(&disk, &runs, zeroed), format!("page {page} zeroed"));
            }
        }
        // The header: what is fixed, then two slots of which one is the newer.
        for at in (0..320).step_by(8) {
            let zeroed = |file: &mut Vec<u8>| file[at..at + 8].fill(0);
            note(fate(&disk, &runs, zeroed), format!("header {at}.. zeroed"));
            for bit in [1, 2, 4, 128] {
                let flipped = |file: &mut Vec<u8>| file[at + 1] ^= bit;
                note(fate(&disk, &runs, flipped), format!("header {}: bits {bit}", at + 1));
            }
        }
        for (fate, damage) in &fates {
            println!("kill {kill}: {} {fate:?}", damage.len());
        }
        assert_eq!(fates.get(&Fate::Silent), None, "kill {kill}");
        assert!(fates.contains_key(&Fate::AllThere) && fates.contains_key(&Fate::SetAside));
        assert!(!kill || fates.contains_key(&Fate::Said), "{fates:?}");
    }
}

#[test]
fn a_journal_that_comes_back_older_while_it_is_used_says_so() {
    let mut said = 0;
    for slot in [64, 192] {
        let disk = Disk::default();
        let mut store = disk.store().0;
        for run in 0..2 {
            store.apply([accepted(run, b"wasm")].iter()).expect("written");
        }
        disk.fails(true);
        store.apply([accepted(2, b"wasm")].iter()).expect_err("the disk fails");
        disk.fails(false);
        disk.overwrite(|file| file[slot + 8..slot + 128].fill(0));
        let loss = match store.apply([accepted(2, b"wasm")].iter()) {
            Ok(loss) => loss,
            // Nothing is accepted any more, which the log says.
            Err(StoreError::Broken(_)) => continue,
            Err(e) => panic!("{e}"),
        };
        let lost = store.reader().request(Run(1)).is_err();
        assert_eq!(loss.is_some(), lost, "{loss:?}");
        said += usize::from(lost);
    }
    assert!(said > 0, "one of the two slots held the newest commit");
}
