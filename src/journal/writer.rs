//! The thread that writes: takes what waits, writes it at once, says so.

use super::database::StoreError;
use super::pace::Pace;
use super::store::Store;
use super::trim;
use super::{JournalReader, Run, RunningTasks, Step};
use crate::task::ModuleSource;
use anyhow::Context as _;
use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{error, info};

/// Steps of one transaction: more would make the first of them wait.
const BATCH: usize = 1024;
/// How long a step that nothing follows may wait for one that something does.
const LAZY: Duration = Duration::from_millis(500);
/// Time between attempts while the disk fails: from, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Waiting tasks from which on this is a burst, or bytes of their modules.
const BURST: (usize, u64) = (256, 16 << 20);
/// Bytes that the messages of a burst have passed through until their memory is
/// given back.
const GIVE_BACK: usize = 16 << 20;
/// What a message passes through at the least.
const SMALL: usize = 128 << 10;

/// A step, and what follows it.
struct Item<T> {
    step: Step,
    then: Option<T>,
}

/// The writing end. When it is dropped, what was handed to it is written.
pub struct Journal<T> {
    items: Option<Sender<Item<T>>>,
    thread: Option<JoinHandle<()>>,
    marks: RunningTasks,
    reader: JournalReader,
    pace: Pace,
    _lock: File,
}

impl<T: Send + 'static> Journal<T> {
    pub(super) fn start(
        store: Store,
        marks: RunningTasks,
        lock: File,
        file: PathBuf,
    ) -> anyhow::Result<(Journal<T>, UnboundedReceiver<T>)> {
        let (items, incoming) = channel();
        let (released, durable) = unbounded_channel();
        let reader = store.reader();
        let pace = Pace::new(file);
        let writer =
            Writer { store, incoming, released, pace: pace.clone(), failing: None, passed: 0 };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run())
            .context("starting the journal's thread")?;
        let journal =
            Journal { items: Some(items), thread: Some(thread), marks, reader, pace, _lock: lock };
        Ok((journal, durable))
    }

    /// Has a step written; `then` comes back when it is on the disk, and all
    /// steps before it.
    pub fn record(&self, step: Step, then: T) {
        self.send(Item { step, then: Some(then) });
    }

    /// Has a step written that nothing waits for.
    pub fn note(&self, step: Step) {
        self.send(Item { step, then: None });
    }

    fn send(&self, item: Item<T>) {
        if let Some(items) = &self.items {
            // The thread ends after this end of the channel only.
            items.send(item).ok();
        }
    }

    /// Which tasks are in execution.
    pub fn running(&self) -> RunningTasks {
        self.marks.clone()
    }

    /// Reads what is on the disk of a run.
    pub fn reader(&self) -> JournalReader {
        self.reader.clone()
    }

    /// How fast it is written, for whoever looks.
    pub fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// The process ends in good order: a task that is still running did not
    /// cause it.
    pub fn close(self) {
        self.marks.close();
    }
}

impl<T> Drop for Journal<T> {
    fn drop(&mut self) {
        self.items = None;
        if let Some(thread) = self.thread.take() {
            // What panicked in it has been reported by the panic hook.
            thread.join().ok();
        }
    }
}

/// Since when the disk fails, and the time to the next attempt.
struct Failing {
    since: Instant,
    retry: Duration,
}

struct Writer<T> {
    store: Store,
    incoming: Receiver<Item<T>>,
    released: UnboundedSender<T>,
    pace: Pace,
    failing: Option<Failing>,
    /// Bytes that tasks have passed through since memory was given back.
    passed: usize,
}

impl<T> Writer<T> {
    fn run(mut self) {
        let mut waiting: Vec<Item<T>> = Vec::new();
        let mut open = true;
        while open || !waiting.is_empty() {
            open = open && self.gather(&mut waiting);
            if waiting.is_empty() {
                continue;
            }
            let attempt = self.write(&mut waiting);
            match attempt {
                Ok(()) => self.recovered(),
                Err(e) => {
                    self.failed(&e);
                    if !open {
                        error!(
                            "the journal can't be written, so the last {} steps are not in it",
                            waiting.len()
                        );
                        return;
                    }
                }
            }
        }
    }

    /// Takes what there is, waiting for the first if nothing waits already.
    /// False: there will be no more.
    fn gather(&mut self, waiting: &mut Vec<Item<T>>) -> bool {
        let urgent = |items: &[Item<T>]| items.iter().any(|item| item.then.is_some());
        let pause = match &self.failing {
            Some(failing) => failing.retry,
            None => LAZY,
        };
        let deadline = Instant::now() + pause;
        loop {
            // A disk that fails is left alone until the time has come.
            let wait = self.failing.is_some() || !urgent(waiting);
            let next = if waiting.is_empty() {
                self.incoming.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else if wait {
                self.incoming.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            } else if waiting.len() < BATCH {
                self.incoming.try_recv().map_err(|e| match e {
                    std::sync::mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    std::sync::mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else {
                return true;
            };
            match next {
                Ok(item) => waiting.push(item),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Writes what waits and releases it; what can't be written stays.
    fn write(&mut self, waiting: &mut Vec<Item<T>>) -> Result<(), StoreError> {
        let idle = waiting.iter().all(|item| item.step == Step::Nothing);
        let all = if idle { Ok(()) } else { self.apply(waiting.iter().map(|item| &item.step)) };
        let Err(error) = all else {
            self.passed += waiting.iter().map(|item| passed(&item.step)).sum::<usize>();
            waiting.drain(..).for_each(|item| self.release(item));
            if self.passed >= GIVE_BACK {
                self.passed = 0;
                if self.in_burst() {
                    trim::give_back();
                }
            }
            return Ok(());
        };
        // On a full disk the ends of tasks may still fit, and must not wait
        // behind what does not.
        self.store.make_room();
        let not_yet: HashSet<Run> =
            waiting.iter().filter_map(|item| accepted(&item.step)).collect();
        let ends = |item: &Item<T>| match &item.step {
            Step::Finished { run, .. }
            | Step::Deployed(run)
            | Step::Delivered(run)
            | Step::Unconfirmed { run, .. }
            | Step::Confirmed(run)
            | Step::Forgotten(run) => !not_yet.contains(run),
            _ => false,
        };
        let small: Vec<&Step> =
            waiting.iter().filter(|item| ends(item)).map(|item| &item.step).collect();
        if !small.is_empty() && self.apply(small.into_iter()).is_ok() {
            let (done, left) = waiting.drain(..).partition::<Vec<_>, _>(|item| ends(item));
            *waiting = left;
            done.into_iter().for_each(|item| self.release(item));
        }
        Err(error)
    }

    fn apply<'a>(
        &mut self,
        steps: impl Iterator<Item = &'a Step> + Clone,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        let applied = self.store.apply(steps);
        self.pace.took(begun.elapsed());
        if let Some(loss) = applied? {
            error!("the journal is damaged: {loss}");
        }
        Ok(())
    }

    fn in_burst(&self) -> bool {
        let (tasks, bytes) = self.store.waiting();
        tasks >= BURST.0 || bytes >= BURST.1
    }

    fn release(&self, item: Item<T>) {
        if let Some(then) = item.then {
            // Who dropped the receiver is past caring.
            self.released.send(then).ok();
        }
    }

    fn failed(&mut self, error: &StoreError) {
        match &mut self.failing {
            Some(failing) => failing.retry = (failing.retry * 2).min(RETRY.1),
            none => {
                error!(
                    "the journal can't be written: {error}; until it can (is the disk full?) no \
                     task is accepted and no result is published, running tasks go on"
                );
                *none = Some(Failing { since: Instant::now(), retry: RETRY.0 });
            }
        }
    }

    fn recovered(&mut self) {
        if let Some(failing) = self.failing.take() {
            let after_s = failing.since.elapsed().as_secs_f64();
            info!(after_s, "the journal is written again");
        }
    }
}

fn accepted(step: &Step) -> Option<Run> {
    match step {
        Step::Accepted { run, .. } => Some(*run),
        _ => None,
    }
}

/// Bytes of the buffers that a task's message is read and decoded in, or its
/// result is made and sent in.
fn passed(step: &Step) -> usize {
    match step {
        Step::Accepted { request, .. } => match &request.module {
            // Base64 and bytes.
            Some(ModuleSource::Bytes(binary)) => SMALL.max(binary.len() / 3 * 7),
            _ => SMALL,
        },
        Step::Finished { .. } => SMALL,
        _ => 0,
    }
}
