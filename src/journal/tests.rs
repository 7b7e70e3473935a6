//! The journal over a disk that fills up, tears and dies.

use super::modules::Files;
use super::sequence::Counter;
use super::*;
use crate::digest::Digest;
use crate::task::{Binary, ManagerState, ModuleSource};
use proptest::prelude::*;
use redb::StorageBackend;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// A disk in memory. A copy made of it is what a crash leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// What is written, and what of it would survive a loss of power.
    files: Mutex<(Vec<u8>, Vec<u8>)>,
    /// Writes and syncs until each one fails; 0: never.
    fuse: AtomicUsize,
    /// Bytes that all may have; 0: any number.
    room: AtomicU64,
    /// How often there was none.
    full: AtomicUsize,
    /// The sequence beside the database, and what of it would survive a loss
    /// of power.
    counter: Mutex<[Vec<u8>; 2]>,
    /// Modules that were read.
    reads: AtomicUsize,
    /// The modules' files, and those whose names would survive a loss of power.
    modules: Mutex<[BTreeMap<String, Vec<u8>>; 2]>,
}

impl Disk {
    /// What is found after a loss of power, when of the last writes only the
    /// first `torn` bytes got through.
    fn after_power_loss(&self, torn: usize) -> Disk {
        let (written, synced) = &*self.0.files.lock().expect("the files");
        let mut found = synced.clone();
        found.resize(written.len().max(synced.len()), 0);
        let differing: Vec<_> =
            (0..written.len()).filter(|&at| found[at] != written[at]).take(torn).collect();
        differing.into_iter().for_each(|at| found[at] = written[at]);
        let disk = Disk::default();
        *disk.0.files.lock().expect("the files") = (found.clone(), found);
        // An unsynced file may be written at any time, too.
        let counter =
            &self.0.counter.lock().expect("the counter")[usize::from(torn.is_multiple_of(2))];
        *disk.0.counter.lock().expect("the counter") = [counter.clone(), counter.clone()];
        let modules = &*self.0.modules.lock().expect("the modules");
        // The system writes names at any time.
        let modules = &modules[usize::from(torn != usize::MAX)];
        *disk.0.modules.lock().expect("the modules") = [modules.clone(), modules.clone()];
        disk
    }

    /// What is found after the process was killed.
    pub(super) fn after_kill(&self) -> Disk {
        self.after_power_loss(usize::MAX)
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        let modules = &self.0.modules.lock().expect("the modules")[0];
        self.len().expect("a length") + modules.values().map(|m| m.len() as u64).sum::<u64>()
    }

    /// Whether each write and sync fails from now on.
    pub(super) fn fails(&self, fails: bool) {
        self.0.fuse.store(usize::from(fails), Ordering::SeqCst);
    }

    /// Has `f` change the database.
    pub(super) fn overwrite(&self, f: impl FnOnce(&mut Vec<u8>)) {
        f(&mut self.0.files.lock().expect("the files").0);
    }

    /// Has `f` change a module's file, as something that is there already.
    fn damage(&self, wasm: &[u8], f: impl FnOnce(&mut Vec<u8>)) {
        let modules = &mut self.0.modules.lock().expect("the modules");
        f(modules[0].get_mut(&Digest::of(wasm).to_string()).expect("a module"));
        let [written, synced] = &mut **modules;
        synced.clone_from(written);
    }

    fn may(&self, size: u64) -> io::Result<()> {
        let room = self.0.room.load(Ordering::SeqCst);
        if room > 0 && size > room {
            self.0.full.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let burnt =
            self.0.fuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                0 | 1 => None,
                left => Some(left - 1),
            });
        match burnt {
            Err(1) => Err(io::Error::other("the disk died")),
            _ => Ok(()),
        }
    }

    pub(super) fn open(&self) -> Result<(Store, Recovered), StoreError> {
        let disk = self.clone();
        let open =
            move || redb::Builder::new().set_cache_size(1 << 20).create_with_backend(disk.clone());
        Store::open(Box::new(open), Box::new(self.clone()), Box::new(self.clone()))
    }

    pub(super) fn store(&self) -> (Store, Recovered) {
        self.open().expect("a store")
    }

    fn journal(&self) -> (Journal<u64>, UnboundedReceiver<u64>, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        let marks = RunningTasks::open(&dir.path().join("running"), 2).expect("a file").0;
        let lock = lock(dir.path()).expect("a lock");
        let (journal, durable) =
            Journal::start(self.store().0, marks, lock, PathBuf::new()).expect("a journal");
        (journal, durable, dir)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.files.lock().expect("the files").0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let files = self.0.files.lock().expect("the files");
        let from = offset as usize;
        let bytes = files.0.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let modules = self.used() - self.len()?;
        self.may(len + modules)?;
        self.0.files.lock().expect("the files").0.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.may(0)?;
        let files = &mut *self.0.files.lock().expect("the files");
        files.1.clone_from(&files.0);
        let [written, survives] = &mut *self.0.counter.lock().expect("the counter");
        survives.clone_from(written);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let modules = self.used() - self.len()?;
        self.may(offset + data.len() as u64 + modules)?;
        let from = offset as usize;
        let files = &mut *self.0.files.lock().expect("the files");
        files.0[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Counter for Disk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.0.counter.lock().expect("the counter")[0].clone())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.may(0)?;
        self.0.counter.lock().expect("the counter")[0] = bytes.to_vec();
        Ok(())
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let modules = &self.0.modules.lock().expect("the modules")[0];
        Ok(modules.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let modules = &self.0.modules.lock().expect("the modules")[0];
        modules.get(name).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.may(self.used() + bytes.len() as u64)?;
        self.0.modules.lock().expect("the modules")[0].insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.may(0)?;
        self.0.modules.lock().expect("the modules")[0].remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.may(0)?;
        let [written, synced] = &mut *self.0.modules.lock().expect("the modules");
        synced.clone_from(written);
        Ok(())
    }
}

pub(super) fn module(number: u64, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u64 ^ number) as u8).collect()
}

fn arrival(run: u64) -> Arrival {
    let id = TaskId::new(&format!("task-{run}")).expect("an id");
    let state = Some(ManagerState::from((run % 8) as u8));
    Arrival { id, fingerprint: Digest::of(&run.to_le_bytes()), state }
}

fn ending(run: u64) -> Ending {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(run);
    Ending { at: Some(at), success: run % 2 == 1 }
}

fn request(run: u64, bytes: &[u8]) -> TaskRequest {
    TaskRequest {
        name: "name".into(),
        module: Some(ModuleSource::Bytes(Binary::new(bytes))),
        inputs: vec![run.to_string()],
        ..TaskRequest::new(arrival(run).id)
    }
}

pub(super) fn accepted(run: u64, bytes: &[u8]) -> Step {
    let request = request(run, bytes);
    Step::Accepted { run: Run(run), arrival: arrival(run), request }
}

pub(super) fn finished(run: u64, result: &str) -> Step {
    let result = Bytes::copy_from_slice(result.as_bytes());
    Step::Finished { run: Run(run), arrival: arrival(run), ending: ending(run), result }
}

#[test]
fn what_was_recorded_is_found_again() {
    let disk = Disk::default();
    let (mut store, recovered) = disk.store();
    assert_eq!(recovered, Recovered::default());
    let wasm = module(1, 5000);
    let steps = [
        accepted(0, &wasm),
        accepted(1, &wasm),
        accepted(2, b"other"),
        Step::Stopped(Run(1)),
        finished(2, "result"),
        finished(3, "refused"),
        Step::Delivered(Run(3)),
        accepted(4, b"gone"),
        finished(4, "x"),
        Step::Forgotten(Run(4)),
        Step::Died { run: Run(0), times: 2 },
        Step::Acknowledged(Run(1)),
        Step::Acknowledged(Run(3)),
        Step::Stopped(Run(3)),
        Step::Replayed(Run(3)),
    ];
    store.apply(steps.iter()).expect("written");
    let (store, recovered) = disk.after_power_loss(0).store();
    let module = Some((Digest::of(&wasm), wasm.len()));
    let found: Vec<_> = recovered
        .waiting
        .iter()
        .map(|waiting| {
            assert_eq!(waiting.arrival, arrival(waiting.run.0));
            assert_eq!(waiting.weight.module, module);
            assert_eq!(waiting.acknowledged, waiting.stopped);
            (waiting.run, waiting.stopped, waiting.suspect, waiting.deaths)
        })
        .collect();
    assert_eq!(found, [(Run(0), false, true, 2), (Run(1), true, false, 0)]);
    let reader = store.reader();
    assert_eq!(reader.request(Run(1)).expect("a request"), request(1, &wasm));
    assert_eq!(reader.result(Run(2)).expect("a result"), "result");
    assert!(matches!(reader.request(Run(2)), Err(ReadError::Absent)), "it has ended");
    assert!(matches!(reader.request(Run(4)), Err(ReadError::Absent)), "it is forgotten");
    let finished = |run, result: &'static str, delivered| Finished {
        run: Run(run),
        arrival: arrival(run),
        ending: ending(run),
        result: result.into(),
        delivered,
        unconfirmed: None,
        stopped: delivered,
        acknowledged: delivered,
        replayed: delivered,
    };
    assert_eq!(recovered.finished, [finished(2, "result", false), finished(3, "refused", true)]);
    assert_eq!((recovered.losses, recovered.next), (vec![], Run(4)));
}

#[test]
fn what_is_deployed_is_found_again_with_its_module_until_it_is_forgotten() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let wasm = module(1, 5000);
    let steps = [
        accepted(0, &wasm),
        accepted(1, &wasm),
        accepted(2, b"replaced"),
        Step::Died { run: Run(1), times: 1 },
        Step::Deployed(Run(1)),
        Step::Deployed(Run(2)),
        Step::Forgotten(Run(2)),
        finished(0, "result"),
    ];
    store.apply(steps.iter()).expect("written");
    let (mut store, recovered) = disk.after_power_loss(0).store();
    assert_eq!(recovered.waiting, []);
    let [Deployed { run, arrival: found, weight }] = &recovered.deployed[..] else {
        panic!("{recovered:?}")
    };
    assert_eq!((*run, found), (Run(1), &arrival(1)));
    assert_eq!(weight.module, Some((Digest::of(&wasm), wasm.len())));
    assert_eq!(store.reader().request(Run(1)).expect("a request"), request(1, &wasm));
    // Many modules of others come and go meanwhile.
    for run in 10..400 {
        store.apply([accepted(run, &module(run, 9)), finished(run, "x")].iter()).expect("written");
    }
    assert_eq!(store.reader().request(Run(1)).expect("a request"), request(1, &wasm));
    store.apply([Step::Forgotten(Run(1))].iter()).expect("written");
    assert!(matches!(store.reader().request(Run(1)), Err(ReadError::Absent)));
    assert_eq!(store.waiting().0, 0, "its module is not needed any more");
}

#[test]
fn the_next_process_learns_which_results_are_not_confirmed() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let left = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let unconfirmed = |run| Step::Unconfirmed { run: Run(run), left };
    let mut steps: Vec<_> = (0..4).map(|run| finished(run, "result")).collect();
    steps.extend((0..4).map(|run| Step::Delivered(Run(run))));
    steps.extend([unconfirmed(1), unconfirmed(2), unconfirmed(3)]);
    steps.extend([Step::Confirmed(Run(2)), Step::Forgotten(Run(3)), unconfirmed(3)]);
    store.apply(steps.iter()).expect("written");
    let disk = disk.after_power_loss(0);
    let (mut store, recovered) = disk.store();
    let found = |recovered: &Recovered| {
        recovered.finished.iter().map(|known| (known.run.0, known.unconfirmed)).collect::<Vec<_>>()
    };
    assert_eq!(found(&recovered), [(0, None), (1, Some(left)), (2, None)]);
    // A run of that number has nothing to do with the one that was forgotten.
    store.apply([finished(3, "another"), Step::Delivered(Run(3))].iter()).expect("written");
    let (_, recovered) = disk.after_power_loss(0).store();
    assert_eq!(found(&recovered).last(), Some(&(3, None)));
}

#[test]
fn a_module_is_kept_once_and_for_the_next_task() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let wasm = module(1, 1 << 20);
    let size = Disk::used;
    store.apply([accepted(0, &wasm)].iter()).expect("written");
    let with_one = size(&disk);
    for run in 1..50 {
        store.apply([accepted(run, &wasm), finished(run, "done")].iter()).expect("written");
    }
    assert!(size(&disk) < with_one + (1 << 20), "{} after {with_one}", size(&disk));
}

#[test]
fn damaged_modules_and_records_cost_only_their_own_task() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let (good, bad) = (module(1, 3000), module(2, 3000));
    let steps = [accepted(0, &bad), accepted(1, &good), finished(2, "the result of two")];
    store.apply(steps.iter()).expect("written");
    drop(store);
    disk.damage(&bad, |bytes| bytes[100] ^= 1);
    {
        let files = &mut disk.0.files.lock().expect("the files").0;
        let needle = b"the result of two";
        let at = files.windows(needle.len()).position(|bytes| bytes == needle);
        files[at.expect("written in one piece")] ^= 1;
    }
    let (store, recovered) = disk.store();
    let waiting: Vec<_> = recovered.waiting.iter().map(|waiting| waiting.run).collect();
    assert_eq!(waiting, [Run(0), Run(1)]);
    assert_eq!(recovered.losses, [Loss::Result(arrival(2).id, false)]);
    let reader = store.reader();
    assert!(matches!(reader.request(Run(0)), Err(ReadError::Module)));
    assert_eq!(reader.request(Run(1)).expect("a request"), request(1, &good));
}

#[test]
fn a_start_reads_no_modules() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let steps: Vec<_> = (0..20).map(|run| accepted(run, &module(run, 100 << 10))).collect();
    store.apply(steps.iter()).expect("written");
    let size = disk.len().expect("a length");
    assert!(size < 2 << 20, "a restart after a crash reads all of the database: {size} bytes");
    let found = disk.after_kill();
    drop(store);
    let (store, recovered) = found.store();
    assert_eq!((recovered.waiting.len(), found.0.reads.load(Ordering::SeqCst)), (20, 0));
    store.reader().request(Run(7)).expect("a request");
    assert_eq!(found.0.reads.load(Ordering::SeqCst), 1);
}

#[test]
fn a_task_that_brings_a_damaged_module_again_mends_it() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let wasm = module(1, 3000);
    store.apply([accepted(0, &wasm)].iter()).expect("written");
    // Once found by a reader, once left by the process before.
    for run in [1, 2] {
        disk.damage(&wasm, |bytes| bytes.truncate(10));
        let reader = store.reader();
        if run == 1 {
            assert!(matches!(reader.request(Run(0)), Err(ReadError::Module)));
        } else {
            drop(store);
            store = disk.store().0;
        }
        store.apply([accepted(run, &wasm)].iter()).expect("written");
        assert_eq!(store.reader().request(Run(0)).expect("a request"), request(0, &wasm));
    }
}

#[test]
fn readers_read_beside_a_writer_whose_disk_fails() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let wasm = module(1, 3000);
    store.apply([accepted(0, &wasm), finished(1, "one")].iter()).expect("written");
    let reader = store.reader();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut read = 0;
                    while !done.load(Ordering::SeqCst) || read == 0 {
                        // While the database is being opened anew on a disk that
                        // fails it can't be read; what is read is right.
                        match (reader.request(Run(0)), reader.result(Run(1))) {
                            (Ok(found), Ok(result)) => {
                                assert_eq!((found, &result[..]), (request(0, &wasm), &b"one"[..]));
                                read += 1;
                            }
                            (Err(ReadError::Disk(_)), _) | (_, Err(ReadError::Disk(_))) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        for run in 2..40 {
            disk.0.fuse.store(run as usize % 7 + 2, Ordering::SeqCst);
            while store.apply([accepted(run, &wasm)].iter()).is_err() {
                disk.0.fuse.store(0, Ordering::SeqCst);
            }
        }
        done.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|reader| reader.join().expect("no wrong answer"));
    });
    drop(store);
    assert!(matches!(reader.request(Run(0)), Err(ReadError::Disk(_))), "the journal is closed");
}

#[test]
fn modules_of_version_0_1_0_are_moved_out_of_the_database() {
    let disk = Disk::default();
    let (mut store, _) = disk.store();
    let wasm = module(1, 3000);
    store.apply([accepted(0, &wasm)].iter()).expect("written");
    drop(store);
    disk.0.modules.lock().expect("the modules")[0].clear();
    let old = redb::TableDefinition::<&[u8], &[u8]>::new("modules");
    let database = redb::Builder::new().create_with_backend(disk.clone()).expect("a database");
    let write = database.begin_write().expect("a transaction");
    let digest = Digest::of(&wasm);
    let key = &digest.as_bytes()[..];
    write.open_table(old).expect("a table").insert(key, &wasm[..]).expect("written");
    write.commit().expect("committed");
    drop(database);
    for _ in 0..2 {
        let (store, _) = disk.store();
        assert_eq!(store.reader().request(Run(0)).expect("a request"), request(0, &wasm));
    }
}

#[test]
fn a_file_that_makes_no_sense_is_set_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("journal.redb");
    let filler: Vec<u8> = (0..100_000_u32).map(|n| (n * 7) as u8).collect();
    for rubbish in [&b"redb"[..], &filler] {
        std::fs::write(&path, rubbish).expect("written");
        let (mut store, recovered) = open_or_begin(dir.path()).expect("a new one");
        assert_eq!(recovered, Recovered::default());
        store.apply([accepted(0, b"wasm")].iter()).expect("written");
    }
    let aside = std::fs::read_dir(dir.path()).expect("a listing").flatten();
    let aside = aside.filter(|file| file.file_name().to_string_lossy().contains("broken"));
    assert_eq!(aside.count(), 2);
}

#[test]
fn a_second_process_is_told_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("a/b");
    let first = Journal::<()>::open(&state, 1).expect("a journal");
    let error = Journal::<()>::open(&state, 1).err().expect("it is taken").to_string();
    assert!(error.contains("another proplet"), "{error}");
    drop(first);
    Journal::<()>::open(&state, 1).expect("it is free again");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&state).expect("a folder"));
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_task_that_was_running_comes_first_and_alone_it_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || Journal::open(dir.path(), 2).expect("a journal");
    let order = |opened: &Opened<u64>| -> Vec<_> {
        let waiting = opened.recovered.waiting.iter();
        waiting.map(|task| (task.run.0, task.suspect, task.deaths)).collect()
    };
    // The process dies with them.
    let die_with = |opened: &Opened<u64>, runs: &[u64]| {
        let marks = opened.journal.running();
        runs.iter().for_each(|run| std::mem::forget(marks.begin(&arrival(*run).id)));
    };
    let opened = open();
    (0..3).for_each(|run| opened.journal.record(accepted(run, b"wasm"), run));
    die_with(&opened, &[1, 2]);
    drop(opened);
    for deaths in 0..3 {
        let opened = open();
        assert_eq!(order(&opened), [(1, true, 0), (2, true, deaths), (0, false, 0)]);
        die_with(&opened, &[2]);
    }
    let opened = open();
    die_with(&opened, &[2]);
    opened.journal.running().close();
    drop(opened);
    let opened = open();
    assert_eq!(order(&opened)[1], (2, true, 3), "an end that was asked for is no death");
    opened.journal.record(finished(2, "result"), 0);
    drop(opened);
    assert_eq!(order(&open()), [(1, true, 0), (0, false, 0)], "an end clears");
}

fn next(durable: &mut UnboundedReceiver<u64>) -> Option<u64> {
    for _ in 0..2000 {
        if let Ok(done) = durable.try_recv() {
            return Some(done);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn a_full_disk_accepts_nothing_lets_results_through_and_recovers() {
    let disk = Disk::default();
    let (journal, mut durable, _dir) = disk.journal();
    journal.record(accepted(0, b"small"), 0);
    assert_eq!(next(&mut durable), Some(0));
    disk.0.room.store(disk.used(), Ordering::SeqCst);
    journal.record(accepted(1, &module(1, 8 << 20)), 1);
    journal.record(Step::Nothing, 2);
    // The large one has been tried.
    while disk.0.full.load(Ordering::SeqCst) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    journal.record(finished(0, "done"), 3);
    assert_eq!(next(&mut durable), Some(3), "a result fits where its task was");
    assert!(durable.try_recv().is_err());
    disk.0.room.store(0, Ordering::SeqCst);
    assert_eq!((next(&mut durable), next(&mut durable)), (Some(1), Some(2)));
    drop(journal);
    let recovered = disk.after_kill().store().1;
    assert_eq!((recovered.waiting.len(), recovered.finished.len()), (1, 1));
}

/// A worker in one thread: what it has told the broker, and what the broker
/// has published.
#[derive(Default)]
struct Model {
    next: u64,
    accepted: Vec<u64>,
    published: HashMap<u64, Vec<Bytes>>,
    delivered: Vec<u64>,
    stopped: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Deed {
    Accept(bool),
    Stop(usize),
    End(usize),
    Deliver(usize),
    Forget(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        5 => any::<bool>().prop_map(Deed::Accept),
        1 => (0..9_usize).prop_map(Deed::Stop),
        4 => (0..9_usize).prop_map(Deed::End),
        2 => (0..9_usize).prop_map(Deed::Deliver),
        1 => (0..9_usize).prop_map(Deed::Forget),
    ]
}

impl Model {
    /// The step of a deed, if it makes sense now.
    fn step(&self, deed: &Deed, salt: u64) -> Option<Step> {
        let pick = |from: Vec<u64>, n: usize| (!from.is_empty()).then(|| from[n % from.len()]);
        let open = || self.accepted.iter().copied().filter(|run| !self.published.contains_key(run));
        match deed {
            Deed::Accept(large) => {
                Some(accepted(self.next, &module(1, if *large { 9000 } else { 90 })))
            }
            Deed::Stop(n) => Some(Step::Stopped(Run(pick(open().collect(), *n)?))),
            // No two executions end alike.
            Deed::End(n) => Some(finished(pick(open().collect(), *n)?, &format!("result {salt}"))),
            Deed::Deliver(n) => {
                Some(Step::Delivered(Run(pick(self.published.keys().copied().collect(), *n)?)))
            }
            Deed::Forget(n) => Some(Step::Forgotten(Run(pick(self.delivered.clone(), *n)?))),
        }
    }

    /// What the worker tells the world once a step is on the disk.
    fn durable(&mut self, step: &Step) {
        match step {
            Step::Accepted { run, .. } => self.accepted.push(run.0),
            Step::Finished { run, result, .. } => {
                self.published.entry(run.0).or_default().push(result.clone());
            }
            Step::Stopped(run) => self.stopped.push(run.0),
            Step::Delivered(run) => self.delivered.push(run.0),
            Step::Forgotten(run) => {
                self.delivered.retain(|delivered| *delivered != run.0);
                self.accepted.retain(|accepted| *accepted != run.0);
            }
            Step::Deployed(_)
            | Step::Serves { .. }
            | Step::Died { .. }
            | Step::Undelivered(_)
            | Step::Acknowledged(_)
            | Step::Replayed(_)
            | Step::Unconfirmed { .. }
            | Step::Confirmed(_)
            | Step::Nothing => {}
        }
    }

    /// What the next process does with what it finds.
    fn recover(&mut self, recovered: Recovered, salt: u64, store: &mut Store) {
        assert_eq!(recovered.losses, []);
        for Finished { run, result, .. } in &recovered.finished {
            self.published.entry(run.0).or_default().push(result.clone());
        }
        for waiting in recovered.waiting {
            let run = waiting.run.0;
            assert!(!self.published.contains_key(&run), "run {run} would have a second result");
            assert!(waiting.stopped || !self.stopped.contains(&run), "a stop was forgotten");
            let found = store.reader().request(waiting.run).expect("its request and module");
            assert_eq!(found.id, waiting.arrival.id);
            let step = finished(run, &format!("again {salt}"));
            store.apply([&step].into_iter()).expect("written");
            self.durable(&step);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the steps, and wherever the disk dies in the middle of one:
    /// after the restart each task that was acknowledged has one result, and
    /// no second one that differs.
    #[test]
    fn every_accepted_task_has_one_result_whenever_it_dies(
        deeds in prop::collection::vec(deed(), 1..25),
        fuse in 1_usize..400,
        torn in prop_oneof![Just(usize::MAX), 0..20_000_usize],
    ) {
        let disk = Disk::default();
        let (mut store, _) = disk.store();
        let mut model = Model::default();
        disk.0.fuse.store(fuse, Ordering::SeqCst);
        for (salt, deed) in deeds.iter().enumerate() {
            let Some(step) = model.step(deed, salt as u64) else { continue };
            model.next += 1;
            if store.apply([&step].into_iter()).is_err() {
                break;
            }
            model.durable(&step);
        }
        let found = disk.after_power_loss(torn);
        drop(store);
        let (mut store, recovered) = found.store();
        model.recover(recovered, 1000, &mut store);
        for run in &model.accepted {
            let results = model.published.get(run).map(Vec::as_slice).unwrap_or_default();
            prop_assert!(!results.is_empty(), "run {run} has no result");
            prop_assert!(results.iter().all(|result| *result == results[0]), "run {run}: {results:?}");
        }
    }
}
