//! The one way to interrupt a task, whatever it is doing.
//!
//! A [`Cancel`] is shared by who runs a task and who may end it. WebAssembly
//! code asks for the reason at each epoch, a sleep waits on it, and a native
//! call that can be interrupted registers how. The first reason stays. The
//! other way round it tells who may end the task what its guest holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why a task is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The manager said `stop`.
    Stopped,
    /// Its time limit, which this is, has passed.
    Timeout(Duration),
    /// The worker ends and will not wait any longer.
    ShuttingDown,
}

type Hook = Box<dyn Fn() + Send>;

#[derive(Default)]
struct State {
    reason: Option<Reason>,
    hook: Option<Hook>,
}

/// A task's cancellation. See the module's documentation.
#[derive(Default)]
pub struct Cancel {
    state: Mutex<State>,
    changed: Condvar,
    memory: AtomicU64,
}

impl Cancel {
    /// Ends the task for `reason`, unless another reason came first.
    pub fn cancel(&self, reason: Reason) {
        let mut state = self.lock();
        if state.reason.is_some() {
            return;
        }
        state.reason = Some(reason);
        self.changed.notify_all();
        // Under the lock, so that the call that it interrupts is still there.
        if let Some(hook) = &state.hook {
            hook();
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

    /// Runs `call`, which `interrupt` can end early from another thread. The
    /// hook is not called after `call` has returned.
    ///
    /// # Errors
    ///
    /// The reason, without a call, if there was one before.
    pub fn interruptible<R>(
        &self,
        interrupt: impl Fn() + Send + 'static,
        call: impl FnOnce() -> R,
    ) -> Result<R, Reason> {
        /// Also when `call` panics the hook must go.
        struct Unhook<'a>(&'a Cancel);
        impl Drop for Unhook<'_> {
            fn drop(&mut self) {
                self.0.lock().hook = None;
            }
        }

        let mut state = self.lock();
        if let Some(reason) = state.reason {
            return Err(reason);
        }
        state.hook = Some(Box::new(interrupt));
        drop(state);
        let _unhook = Unhook(self);
        Ok(call())
    }

    /// The guest's linear memories have grown to this many bytes in all.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of the guest's linear memories; 0 before it has any.
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    // A hook that panicked leaves the state whole: the lock is usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    #[test]
    fn the_first_reason_stays() {
        let cancel = Cancel::default();
        assert_eq!(cancel.reason(), None);
        cancel.cancel(Reason::Stopped);
        cancel.cancel(Reason::ShuttingDown);
        assert_eq!(cancel.reason(), Some(Reason::Stopped));
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
        let (done, interrupted) = std::sync::mpsc::channel();
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
}
