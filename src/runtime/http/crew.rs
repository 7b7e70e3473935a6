//! The threads that requests run on.
//!
//! A guest computes, infers or waits on a thread of its own, and the system
//! shares the processors among them; so no guest has to be asked to make room.
//! As many as there are processors begin at once. More would only take turns,
//! unless those at work wait or compute for long: one that has been at it for
//! [`SHORT`] is not counted any more, and the next begins beside it.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{error, warn};

/// How long a request may hold up those that wait.
const SHORT: Duration = Duration::from_millis(4);
/// A thread that has nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce() + Send>;

/// How threads are made, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrewThreads {
    /// Requests at work at the same time; as many more may wait.
    pub(super) most: usize,
    /// Bytes of stack of each.
    pub(super) stack: usize,
    /// What is added to the niceness of each, so that a flood of requests leaves
    /// the processors to tasks.
    pub(super) nice: i32,
}

/// There is no room for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Since when each job is at work, by its number.
    working: BTreeMap<u64, Instant>,
    next: u64,
    /// Threads that wait to be called.
    idle: usize,
    /// Those that were, and are on their way to a job.
    called: usize,
    /// Threads that were started, and are on their way to one.
    starting: usize,
    /// Threads that there are.
    threads: usize,
    /// Jobs that never end, whose threads are replaced.
    lost: usize,
    /// Somebody will look again.
    looking: bool,
}

/// See the module's documentation.
pub(super) struct Crew {
    threads: CrewThreads,
    at_once: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Crew {
    pub(super) fn new(threads: CrewThreads) -> Arc<Crew> {
        let at_once = thread::available_parallelism().map_or(1, usize::from).min(threads.most);
        Arc::new(Crew { threads, at_once, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Has `job` run as soon as may be. To be called within a Tokio runtime,
    /// which the job finds, too.
    ///
    /// # Errors
    ///
    /// Too many are at work and wait.
    pub(super) fn submit(self: &Arc<Crew>, job: Job) -> Result<(), Full> {
        let mut state = self.lock();
        let most = self.threads.most + state.lost;
        if state.working.len() + state.waiting.len() >= 2 * most {
            return Err(Full);
        }
        state.waiting.push_back(job);
        self.look(state);
        Ok(())
    }

    /// One of the jobs will never end: its thread is not counted.
    pub(super) fn lose(&self) {
        let mut state = self.lock();
        // A second set of threads is all that there is for such.
        if state.lost < self.threads.most {
            state.lost += 1;
        }
    }

    /// Lets one begin if one may, and sees to it that the others are thought of.
    fn look(self: &Arc<Crew>, mut state: MutexGuard<'_, State>) {
        if state.waiting.is_empty() {
            return;
        }
        if self.may_begin(&state) {
            if state.idle > 0 {
                // It is called from now on, whichever of them it is.
                state.idle -= 1;
                state.called += 1;
                self.changed.notify_one();
            } else if state.threads < self.threads.most + state.lost {
                self.start_thread(&mut state);
            }
        }
        let more = state.waiting.len() > state.called + state.starting;
        if more && !state.looking {
            state.looking = true;
            let crew = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(SHORT).await;
                let mut state = crew.lock();
                state.looking = false;
                crew.look(state);
            });
        }
    }

    fn may_begin(&self, state: &State) -> bool {
        // In the order of their beginnings, so those that count are the last.
        let counted = state.working.values().rev().take_while(|since| since.elapsed() < SHORT);
        counted.count() + state.called + state.starting < self.at_once
    }

    fn start_thread(self: &Arc<Crew>, state: &mut State) {
        let (crew, tokio) = (self.clone(), tokio::runtime::Handle::current());
        let work = move || {
            let _entered = tokio.enter();
            be_nice(crew.threads.nice);
            crew.work();
        };
        let started = thread::Builder::new()
            .name("request".into())
            .stack_size(self.threads.stack)
            .spawn(work);
        match started {
            Ok(_) => {
                state.threads += 1;
                state.starting += 1;
            }
            Err(e) => warn!("no thread for a request, which waits for another one: {e}"),
        }
    }

    fn work(self: &Arc<Crew>) {
        let mut state = self.lock();
        state.starting -= 1;
        loop {
            if !state.waiting.is_empty()
                && self.may_begin(&state)
                && let Some(job) = state.waiting.pop_front()
            {
                let number = state.next;
                state.next += 1;
                state.working.insert(number, Instant::now());
                drop(state);
                // The guest's panics are caught where its request is answered.
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    error!("a request's thread panicked outside the guest; see above");
                }
                state = self.lock();
                state.working.remove(&number);
                continue;
            }
            state.idle += 1;
            let until = Instant::now() + IDLE;
            while state.called == 0 {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    state.idle -= 1;
                    state.threads -= 1;
                    return;
                }
                let waited = self.changed.wait_timeout(state, left);
                (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            }
            state.called -= 1;
        }
    }

    // Counts and lists that change in steps which can't panic half way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets others go first, where the system has that for a thread.
fn be_nice(by: i32) {
    #[cfg(target_os = "linux")]
    if by > 0
        && let Err(e) = rustix::process::nice(by)
    {
        tracing::debug!("requests run like tasks: {e}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = by;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn crew(most: usize) -> Arc<Crew> {
        Crew::new(CrewThreads { most, stack: 256 << 10, nice: 0 })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_waits_holds_up_no_other() {
        let crew = crew(4);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let (told, seen) = mpsc::channel();
        for _ in 0..3 {
            let held = held.clone();
            let wait = move || drop(held.lock().map(|held| held.recv()));
            crew.submit(Box::new(wait)).expect("room");
        }
        crew.submit(Box::new(move || told.send(()).expect("a test that waits"))).expect("room");
        let seen = tokio::task::spawn_blocking(move || seen.recv_timeout(Duration::from_secs(90)));
        seen.await.expect("no panic").expect("the fourth ran beside those that wait");
        drop(release);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn as_many_wait_as_may_be_at_work_and_then_it_is_full() {
        let crew = crew(2);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let job = || {
            let held = held.clone();
            Box::new(move || drop(held.lock().map(|held| held.recv())))
        };
        for _ in 0..4 {
            crew.submit(job()).expect("room");
        }
        assert_eq!(crew.submit(job()), Err(Full));
        // One that is lost makes room for another one, and one to wait for it.
        crew.lose();
        crew.submit(job()).expect("room");
        drop(release);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_costs_no_thread() {
        let crew = crew(1);
        crew.submit(Box::new(|| panic!("a fault of ours"))).expect("room");
        let (told, seen) = mpsc::channel();
        crew.submit(Box::new(move || told.send(()).expect("a test that waits"))).expect("room");
        let seen = tokio::task::spawn_blocking(move || seen.recv_timeout(Duration::from_secs(90)));
        seen.await.expect("no panic").expect("the thread goes on");
    }
}
