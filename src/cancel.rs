//! The one way to interrupt a task, whatever it is doing.
//!
//! A [`Cancel`] is shared by who runs a task and who may end it. WebAssembly
//! code asks for the reason at each epoch, a sleep waits on it, and a native
//! call that can be interrupted registers how. The first reason stays. The
//! other way round it tells who may end the task what its guest holds, and what
//! the task is doing.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::warn;

/// Why a task is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The manager said `stop`.
    Stopped,
    /// Its time limit, which this is, has passed.
    Timeout(Duration),
    /// The worker ends and will not wait any longer.
    ShuttingDown,
}

/// What a task is doing. A graph is known by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doing {
    /// It has not begun, or is between two of the others.
    #[default]
    Preparing,
    /// Its module is compiled.
    Compiling,
    /// This graph is loaded.
    Loading(#[serde(with = "shared_text")] Arc<str>),
    /// Its guest runs.
    Running,
    /// This graph is computed.
    Computing(#[serde(with = "shared_text")] Arc<str>),
}

/// A text that clones share, as plain data.
mod shared_text {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}

impl fmt::Display for Doing {
    /// What follows 'while'.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doing::Preparing => f.write_str("the task was prepared"),
            Doing::Compiling => f.write_str("its module was compiled"),
            Doing::Loading(graph) => write!(f, "the graph {graph} was loaded"),
            Doing::Running => f.write_str("its guest ran"),
            Doing::Computing(graph) => write!(f, "the graph {graph} was computed"),
        }
    }
}

/// How a native call is interrupted, once, unless it has ended before. Its
/// lock is held meanwhile, so that the call does not return too early.
type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

#[derive(Default)]
struct State {
    reason: Option<Reason>,
    hook: Option<Hook>,
    /// Each by its number, the next one's beside them.
    wakers: (Vec<(u64, Waker)>, u64),
}

/// Wakes a thread that waits for something else.
type Waker = Arc<dyn Fn() + Send + Sync>;

/// As long as it is there, a thread is woken. See [`Cancel::wakes`].
#[must_use = "dropped, it wakes nobody"]
pub struct Waking<'a> {
    cancel: &'a Cancel,
    number: u64,
}

impl Drop for Waking<'_> {
    fn drop(&mut self) {
        self.cancel.lock().wakers.0.retain(|(number, _)| *number != self.number);
    }
}

/// A task's cancellation. See the module's documentation.
#[derive(Default)]
pub struct Cancel {
    state: Mutex<State>,
    changed: Condvar,
    memory: AtomicU64,
    doing: Mutex<Doing>,
    listener: Listener,
}

type Told = dyn Fn(Reason) + Send + Sync;
type Shown = dyn Fn(TaskChange<'_>) + Send + Sync;

/// What has changed about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskChange<'a> {
    /// It does this from now on.
    Doing(&'a Doing),
    /// Its guest's linear memories have this many bytes from now on.
    Memory(u64),
}

/// Who is told of a task.
#[derive(Default)]
struct Listener {
    cancelled: Option<Box<Told>>,
    changed: Option<Box<Shown>>,
}

impl Cancel {
    /// One that calls `cancelled`, which must not wait, when its task is to end.
    pub fn told(cancelled: impl Fn(Reason) + Send + Sync + 'static) -> Cancel {
        let listener = Listener { cancelled: Some(Box::new(cancelled)), changed: None };
        Cancel { listener, ..Cancel::default() }
    }

    /// One that calls both.
    pub fn told_and_shown(
        cancelled: impl Fn(Reason) + Send + Sync + 'static,
        changed: impl Fn(TaskChange<'_>) + Send + Sync + 'static,
    ) -> Cancel {
        let listener =
            Listener { cancelled: Some(Box::new(cancelled)), changed: Some(Box::new(changed)) };
        Cancel { listener, ..Cancel::default() }
    }

    /// One that calls `changed`, which must not wait, when its task goes on to
    /// something else or has another amount of memory.
    pub fn shown(changed: impl Fn(TaskChange<'_>) + Send + Sync + 'static) -> Cancel {
        let listener = Listener { cancelled: None, changed: Some(Box::new(changed)) };
        Cancel { listener, ..Cancel::default() }
    }

    /// Ends the task for `reason`, unless another reason came first. Never
    /// waits: a native call is interrupted on a thread of its own.
    pub fn cancel(&self, reason: Reason) {
        let mut state = self.lock();
        if state.reason.is_some() {
            return;
        }
        state.reason = Some(reason);
        self.changed.notify_all();
        let hook = state.hook.clone();
        let wakers: Vec<_> = state.wakers.0.iter().map(|(_, wake)| wake.clone()).collect();
        drop(state);
        wakers.iter().for_each(|wake| wake());
        if let Some(cancelled) = &self.listener.cancelled {
            cancelled(reason);
        }
        let Some(hook) = hook else { return };
        let interrupt = move || {
            let mut hook = held(&hook);
            if let Some(interrupt) = hook.take() {
                interrupt();
            }
        };
        if let Err(error) = thread::Builder::new().name("interrupt".into()).spawn(interrupt) {
            warn!("no thread to interrupt a native call, which goes on to its end: {error}");
        }
    }

    /// The reason to end, if there is one.
    pub fn reason(&self) -> Option<Reason> {
        self.lock().reason
    }

    /// Waits until `deadline`, or less when a reason to end comes.
    pub fn wait_until(&self, deadline: Instant) -> Result<(), Reason> {
        let mut state = self.lock();
        loop {
            if let Some(reason) = state.reason {
                return Err(reason);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            (state, _) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Calls `wake`, which must not wait long, when the task is to end, as long
    /// as what this gives is there: for a thread that waits for something else
    /// and looks for a reason whenever it is woken. It is not called for a
    /// reason that is there already.
    pub fn wakes(&self, wake: impl Fn() + Send + Sync + 'static) -> Waking<'_> {
        let mut state = self.lock();
        let number = state.wakers.1;
        state.wakers.1 += 1;
        state.wakers.0.push((number, Arc::new(wake)));
        Waking { cancel: self, number }
    }

    /// Whether a thread is to be woken.
    #[cfg(test)]
    pub fn wakes_somebody(&self) -> bool {
        !self.lock().wakers.0.is_empty()
    }

    /// Runs `call`, which `interrupt` can end early from another thread. The
    /// hook is not called after `call` has returned: if it runs at that moment,
    /// this waits for it.
    ///
    /// # Errors
    ///
    /// The reason, without a call, if there was one before.
    pub fn interruptible<R>(
        &self,
        interrupt: impl FnOnce() + Send + 'static,
        call: impl FnOnce() -> R,
    ) -> Result<R, Reason> {
        /// Also when `call` panics the hook must go.
        struct Unhook<'a>(&'a Cancel);
        impl Drop for Unhook<'_> {
            fn drop(&mut self) {
                let hook = self.0.lock().hook.take();
                if let Some(hook) = hook {
                    held(&hook).take();
                }
            }
        }

        let mut state = self.lock();
        if let Some(reason) = state.reason {
            return Err(reason);
        }
        state.hook = Some(Arc::new(Mutex::new(Some(Box::new(interrupt)))));
        drop(state);
        let _unhook = Unhook(self);
        Ok(call())
    }

    /// The guest's linear memories have grown to this many bytes in all.
    pub fn set_memory(&self, bytes: u64) {
        let before = self.memory.swap(bytes, Ordering::Relaxed);
        if let Some(show) = self.listener.changed.as_ref().filter(|_| before != bytes) {
            show(TaskChange::Memory(bytes));
        }
    }

    /// Bytes of the guest's linear memories; 0 before it has any.
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// The task does this from now on.
    pub fn set_doing(&self, doing: Doing) {
        if let Some(show) = &self.listener.changed {
            show(TaskChange::Doing(&doing));
        }
        *held(&self.doing) = doing;
    }

    /// What the task is doing.
    pub fn doing(&self) -> Doing {
        held(&self.doing).clone()
    }

    /// The task does this until `call` returns, then what it did before.
    pub fn during<R>(&self, doing: Doing, call: impl FnOnce() -> R) -> R {
        let before = self.doing();
        self.set_doing(doing);
        let result = call();
        self.set_doing(before);
        result
    }

    // Each change is one step: whole whoever panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// A hook that panicked has been taken out before.
fn held<T>(hook: &Mutex<T>) -> MutexGuard<'_, T> {
    hook.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    #[test]
    fn the_first_reason_stays() {
        let cancel = Cancel::default();
        assert_eq!(cancel.reason(), None);
        cancel.cancel(Reason::Stopped);
        cancel.cancel(Reason::ShuttingDown);
        assert_eq!(cancel.reason(), Some(Reason::Stopped));
    }

    #[test]
    fn whoever_shows_a_task_hears_what_it_goes_on_to_and_how_its_memory_grows() {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let shown = seen.clone();
        let cancel = Cancel::shown(move |change| {
            held(&shown).push(match change {
                TaskChange::Doing(doing) => doing.to_string(),
                TaskChange::Memory(bytes) => bytes.to_string(),
            });
        });
        cancel.set_doing(Doing::Running);
        cancel.set_memory(7);
        cancel.during(Doing::Computing("x".into()), || {
            assert_eq!(cancel.doing().to_string(), "the graph x was computed");
            // What is as it was is not told again.
            cancel.set_memory(7);
        });
        let expected = ["its guest ran", "7", "the graph x was computed", "its guest ran"];
        assert_eq!(*held(&seen), expected);
    }

    #[test]
    fn whoever_is_told_hears_of_the_end_once() {
        let seen = Arc::<Mutex<Vec<Reason>>>::default();
        let told = seen.clone();
        let cancel = Cancel::told(move |reason| held(&told).push(reason));
        cancel.cancel(Reason::Stopped);
        cancel.cancel(Reason::ShuttingDown);
        assert_eq!(*held(&seen), [Reason::Stopped]);
    }

    #[test]
    fn a_wait_ends_early_with_the_reason() {
        let cancel = Arc::new(Cancel::default());
        let waiter = {
            let cancel = cancel.clone();
            thread::spawn(move || cancel.wait_until(Instant::now() + Duration::from_secs(3600)))
        };
        cancel.cancel(Reason::Stopped);
        assert_eq!(waiter.join().expect("no panic"), Err(Reason::Stopped));
    }

    #[test]
    fn a_native_call_is_interrupted_and_its_hook_forgotten() {
        let cancel = Arc::new(Cancel::default());
        let (done, interrupted) = mpsc::channel();
        let calls = Arc::new(AtomicBool::new(false));
        let seen = calls.clone();
        let other = {
            let cancel = cancel.clone();
            thread::spawn(move || cancel.cancel(Reason::Stopped))
        };
        let result = cancel.interruptible(
            move || {
                seen.store(true, Ordering::SeqCst);
                done.send(()).expect("the call waits");
            },
            || interrupted.recv_timeout(Duration::from_secs(60)),
        );
        other.join().expect("no panic");
        match result {
            Ok(call) => assert!(call.is_ok() && calls.load(Ordering::SeqCst)),
            Err(reason) => assert_eq!(reason, Reason::Stopped),
        }
        assert_eq!(cancel.interruptible(|| (), || ()), Err(Reason::Stopped));
    }

    /// A native library that never answers must hold up nobody but its task.
    #[test]
    fn a_hook_that_blocks_holds_up_its_call_and_not_who_cancels() {
        const LONG: Duration = Duration::from_secs(60);
        let cancel = Arc::new(Cancel::default());
        let (begun, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (cancelled, has_cancelled) = mpsc::channel();
        let hook_ended = Arc::new(AtomicBool::new(false));
        let call = {
            let (cancel, hook_ended) = (cancel.clone(), hook_ended.clone());
            let ended = hook_ended.clone();
            thread::spawn(move || {
                let hook = move || {
                    released.recv().ok();
                    ended.store(true, Ordering::SeqCst);
                };
                // Ends by itself, while the hook has not.
                let call = || {
                    begun.send(()).expect("the test listens");
                    has_cancelled.recv_timeout(LONG)
                };
                let called = cancel.interruptible(hook, call);
                (called, hook_ended.load(Ordering::SeqCst))
            })
        };
        begins.recv_timeout(LONG).expect("the call begins");
        let (done, returned) = mpsc::channel();
        {
            let cancel = cancel.clone();
            thread::spawn(move || {
                cancel.cancel(Reason::Stopped);
                done.send(cancel.reason()).ok();
            });
        }
        let reason = returned.recv_timeout(LONG).expect("who cancels goes on");
        assert_eq!(reason, Some(Reason::Stopped));
        // The hook runs before the call may end.
        while cancel.lock().hook.as_ref().is_some_and(|hook| hook.try_lock().is_ok()) {
            thread::yield_now();
        }
        cancelled.send(()).expect("the call waits");
        while cancel.lock().hook.is_some() {
            thread::yield_now();
        }
        assert!(!call.is_finished(), "the hook still runs");
        release.send(()).expect("the hook waits");
        let (called, hook_ended) = call.join().expect("no panic");
        assert_eq!(called, Ok(Ok(())));
        assert!(hook_ended, "the call returned before its hook");
    }
}
