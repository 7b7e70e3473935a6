use std::sync::{Barrier, mpsc};
use std::time::Duration;
use std::{fs, thread};

use super::super::backends::fake::{Fake, MODEL, WEIGHT};
use super::super::directories::Directories;
use super::*;
use crate::cancel::Reason;
use crate::task::GraphDir;

fn load(graphs: &Graphs, fake: &Fake, xml: &[u8]) -> Result<(Arc<SharedGraph>, Found), Halt> {
    graphs.load(fake.served(), ExecutionTarget::Cpu, &[xml, b"weights"], None, &Cancel::default())
}

fn model(n: usize) -> Vec<u8> {
    format!("<net id='{n}'/>").into_bytes()
}

#[test]
fn many_threads_compile_a_model_once() {
    let (graphs, fake) = (Graphs::new(1 << 20, 2), Fake::slow(Duration::from_millis(30)));
    let start = Barrier::new(16);
    let found: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    load(&graphs, &fake, MODEL).expect("a graph")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(fake.compiled(), 1);
    assert_eq!(found.iter().filter(|(_, found)| *found == Found::Compiled).count(), 1);
    assert!(found.iter().all(|(graph, _)| Arc::ptr_eq(graph, &found[0].0)));
    assert_eq!(graphs.stats().hits, 15);
}

#[test]
fn a_difference_of_one_byte_is_another_model() {
    let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
    let weights = vec![7u8; 100_000];
    let get = |weights: &[u8]| {
        let parts = [MODEL, weights];
        graphs
            .load(fake.served(), ExecutionTarget::Cpu, &parts, None, &Cancel::default())
            .expect("a graph")
    };
    let (first, _) = get(&weights);
    for at in [0, 1, 4_999, 50_001, 99_999] {
        let mut other = weights.clone();
        other[at] ^= 1;
        let (graph, found) = get(&other);
        assert_eq!(found, Found::Compiled);
        assert!(!Arc::ptr_eq(&first, &graph));
    }
    assert!(Arc::ptr_eq(&first, &get(&weights).0));
    let (_, found) = graphs
        .load(fake.served(), ExecutionTarget::Gpu, &[MODEL, &weights], None, &Cancel::default())
        .expect("a graph");
    assert_eq!(found, Found::Compiled, "another target is another graph");
}

#[test]
fn a_graph_is_found_by_the_origin_of_its_bytes() {
    let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
    let weights = vec![7_u8; 100_000];
    let get = |weights: &[u8], content: Option<u64>| {
        let within = 4096..98_304;
        let origin = content.map(|content| Origin { content, from: 4096, within });
        let parts = (&[MODEL, weights][..], &[None, origin][..]);
        let cancel = Cancel::default();
        let got = graphs.load_known(fake.served(), ExecutionTarget::Cpu, parts, None, &cancel);
        got.expect("a graph").1
    };
    assert_eq!(get(&weights, None), Found::Compiled);
    // Compared once, and from then on found without a look: zeros are no
    // content's, and yet are taken for it.
    assert_eq!(get(&weights, Some(1)), Found::Reused);
    let mut unread = weights.clone();
    unread[4096..98_304].fill(0);
    assert_eq!(get(&unread, Some(1)), Found::Reused);
    // A byte outside makes another model of it, and so does another origin.
    unread[0] ^= 1;
    assert_eq!(get(&unread, Some(1)), Found::Compiled);
    assert_eq!(get(&vec![0; 100_000], Some(2)), Found::Compiled);
    assert_eq!(get(&weights, None), Found::Reused);
}

#[test]
fn the_least_recently_used_goes_first_and_at_once() {
    let (graphs, fake) = (Graphs::new(2 * WEIGHT, 1), Fake::default());
    let (first, _) = load(&graphs, &fake, &model(1)).expect("a graph");
    let second = {
        let (second, _) = load(&graphs, &fake, &model(2)).expect("a graph");
        Arc::downgrade(&second)
    };
    assert_eq!(load(&graphs, &fake, &model(1)).expect("a graph").1, Found::Reused);
    load(&graphs, &fake, &model(3)).expect("a graph");
    assert!(second.upgrade().is_none(), "evicted and freed");
    assert_eq!(load(&graphs, &fake, &model(1)).expect("a graph").1, Found::Reused);
    let stats = graphs.stats();
    assert_eq!((stats.entries, stats.bytes, stats.evicted), (2, 2 * WEIGHT, 1));
    drop(first);
}

#[test]
fn a_model_over_the_budget_lives_as_long_as_its_task() {
    let (graphs, fake) = (Graphs::new(WEIGHT - 1, 1), Fake::default());
    let (graph, _) = load(&graphs, &fake, MODEL).expect("a graph");
    assert_eq!(graphs.stats().entries, 0);
    let graph = {
        let weak = Arc::downgrade(&graph);
        drop(graph);
        weak
    };
    assert!(graph.upgrade().is_none());
}

#[test]
fn failures_are_not_remembered_and_keep_nothing() {
    let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
    for _ in 0..3 {
        let Err(Halt::Refused(refusal)) = load(&graphs, &fake, b"<bad/>") else {
            panic!("a bad model was taken");
        };
        assert_eq!(refusal.text, "the fake backend can't compile this");
    }
    assert_eq!(graphs.stats(), CacheStats::default());
}

#[test]
fn a_panic_while_a_model_is_compiled_is_its_tasks_alone() {
    // ARCHITECTURE.md, case 40.
    let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
    let panicked = thread::scope(|scope| {
        scope.spawn(|| drop(load(&graphs, &fake, b"<panic/>"))).join().is_err()
    });
    assert!(panicked);
    assert!(load(&graphs, &fake, MODEL).is_ok());
}

#[test]
fn a_task_that_is_stopped_does_not_wait_for_another_ones_compile() {
    let (graphs, fake) = (Graphs::new(1 << 20, 1), Fake::default());
    let (graphs, fake) = (&graphs, &fake);
    thread::scope(|scope| {
        let held = fake.hold();
        scope.spawn(|| load(graphs, fake, MODEL).map(drop));
        let parts: [&[u8]; 2] = [MODEL, b"weights"];
        let id = fake.served().encoding.id;
        let fingerprint = graphs.fingerprints.of(id, ExecutionTarget::Cpu, &parts, &[]);
        while !graphs.cache.is_in_flight(&fingerprint) {
            thread::yield_now();
        }
        let cancel = Arc::new(Cancel::default());
        let (ended, end) = mpsc::channel();
        let stop = cancel.clone();
        scope.spawn(move || {
            let waited = graphs.load(fake.served(), ExecutionTarget::Cpu, &parts, None, &cancel);
            // Nobody may wait for it any more.
            ended.send(waited.err()).ok();
        });
        stop.cancel(Reason::Stopped);
        let waited = end.recv_timeout(Duration::from_secs(60));
        // The threads end, whatever came.
        drop(held);
        assert_eq!(waited, Ok(Some(Halt::Cancelled(Reason::Stopped))));
    });
}

/// ARCHITECTURE.md, case 64: of a backend that can't be interrupted.
#[test]
fn a_model_whose_compile_nobody_waits_for_is_not_begun_again_for_a_while() {
    let pauses = Arc::new(ModelPauses::default().of_any());
    let (graphs, fake) = (Graphs::new(1 << 20, 1).pausing(pauses.clone()), Fake::default());
    let (graphs, fake) = (&graphs, &fake);
    let load_until = |cancel: &Cancel| {
        let parts: [&[u8]; 2] = [MODEL, b"weights"];
        graphs.load(fake.served(), ExecutionTarget::Cpu, &parts, None, cancel).map(drop)
    };
    let (first, second) = (Arc::<Cancel>::default(), Arc::<Cancel>::default());
    thread::scope(|scope| {
        let held = fake.hold();
        let compiles = scope.spawn(|| load_until(&first));
        fake.until_compiling();
        let waits = scope.spawn(|| load_until(&second));
        while !second.wakes_somebody() {
            thread::yield_now();
        }
        first.cancel(Reason::Stopped);
        let before = pauses.all();
        second.cancel(Reason::Stopped);
        let waited = waits.join().expect("no panic");
        // In the process that comes after the one in which it is still compiled.
        let next = ModelPauses::default();
        pauses.all().into_iter().for_each(|paused| next.adopt(paused));
        let next = Graphs::new(1 << 20, 1).pausing(Arc::new(next));
        let other = Fake::default();
        let refused = [load(&next, &other, MODEL).err(), by_name(&next, &other).err()];
        let compiled = other.compiled();
        let another = load(&next, &other, &model(1)).is_ok();
        // The threads end, whatever came.
        drop(held);
        compiles.join().expect("no panic").expect("it comes to its end");
        assert_eq!(before, [], "one waits for it");
        assert_eq!(waited, Err(Halt::Cancelled(Reason::Stopped)));
        for refused in refused {
            let Some(Halt::Refused(refusal)) = refused else { panic!("{refused:?}") };
            let text = refusal.text;
            assert!(text.contains("it is not begun again for "), "{text}");
        }
        assert_eq!(compiled, 0);
        assert!(another, "another model is compiled");
    });
    assert_eq!(pauses.all(), [], "it was compiled after all");
    assert_eq!(load(graphs, fake, MODEL).expect("a graph").1, Found::Reused);
}

/// The same model out of a directory.
fn by_name(graphs: &Graphs, fake: &Fake) -> Result<(Arc<SharedGraph>, Found), Halt> {
    let folder = tempfile::tempdir().expect("a directory");
    fs::write(folder.path().join("model.xml"), MODEL).expect("written");
    fs::write(folder.path().join("model.bin"), b"weights").expect("written");
    let (dir, name) = (folder.path().to_owned(), "g".to_owned());
    let dir = GraphDir { encoding: "openvino".into(), dir, name };
    let directories = Directories::default();
    directories.load(graphs, fake.served(), &dir, 1 << 20, None, &Cancel::default())
}

#[test]
fn a_compile_that_fails_or_panics_is_no_pause() {
    let pauses = Arc::new(ModelPauses::default().of_any());
    let (graphs, fake) = (Graphs::new(1 << 20, 1).pausing(pauses.clone()), Fake::default());
    assert!(load(&graphs, &fake, b"<bad/>").is_err());
    let panicked = thread::scope(|scope| {
        scope.spawn(|| drop(load(&graphs, &fake, b"<panic/>"))).join().is_err()
    });
    assert!(panicked);
    assert_eq!(pauses.all(), []);
}
