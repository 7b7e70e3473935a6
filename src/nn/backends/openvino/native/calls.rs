//! Whose message the library's last one is.
//!
//! The library keeps one message for the process: it stays from earlier calls,
//! and a failure on any thread replaces it. What is told of a failed call goes
//! to the task that made it, so it has to be proven to be of that call: no
//! other call failed while it ran, and none that still ran when the message was
//! read has failed by its end.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a failed call waits for the others' ends. An inference mostly takes
/// less; what takes longer is not worth it, since a stopped task waits, too.
const PROOF: Duration = Duration::from_millis(200);

/// Every call of the process that can fail.
pub(super) struct Calls {
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// The number of the next call.
    next: u64,
    running: BTreeSet<u64>,
    /// What `next` was when the last call failed.
    failed: u64,
    doubts: Vec<Doubt>,
}

/// A failed call that has read its message while others ran.
struct Doubt {
    call: u64,
    /// Those that have not ended yet.
    others: BTreeSet<u64>,
    /// One of them failed: the message may be that one's.
    spoiled: bool,
}

impl Calls {
    /// No call yet.
    pub(super) const fn new() -> Calls {
        let state = State { next: 0, running: BTreeSet::new(), failed: 0, doubts: Vec::new() };
        Calls { state: Mutex::new(state), ended: Condvar::new() }
    }

    /// Makes a call. If it fails, `message` reads the library's last message,
    /// which comes back only if it is proven to be this call's.
    pub(super) fn make<E>(
        &self,
        call: impl FnOnce() -> Result<(), E>,
        message: impl FnOnce(&E) -> Option<String>,
    ) -> Result<(), (E, Option<String>)> {
        let number = self.lock().begin();
        let running = Running { calls: self, number };
        let result = call();
        mem::forget(running);
        let mut state = self.lock();
        if state.end(number, result.is_err()) {
            self.ended.notify_all();
        }
        let Err(error) = result else { return Ok(()) };
        let alone = state.failed <= number;
        state.failed = state.next;
        // Under the lock, so that a call that fails later is one that runs now.
        let Some(text) = Some(&error).filter(|_| alone).and_then(message) else {
            return Err((error, None));
        };
        if state.running.is_empty() {
            return Err((error, Some(text)));
        }
        let others = state.running.clone();
        state.doubts.push(Doubt { call: number, others, spoiled: false });
        let open = |state: &mut State| state.doubts.iter().any(|doubt| doubt.is_open(number));
        let waited = self.ended.wait_timeout_while(state, PROOF, open);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let own = state.doubts.iter().any(|doubt| doubt.call == number && doubt.is_settled());
        state.doubts.retain(|doubt| doubt.call != number);
        Err((error, own.then_some(text)))
    }

    // Each change is one step: whole whoever panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a call that panics as one that failed.
struct Running<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.calls.lock();
        state.end(self.number, true);
        state.failed = state.next;
        self.calls.ended.notify_all();
    }
}

impl State {
    fn begin(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.running.insert(number);
        number
    }

    /// Returns whether anyone waited for it.
    fn end(&mut self, number: u64, failed: bool) -> bool {
        self.running.remove(&number);
        let mut waited = false;
        for doubt in &mut self.doubts {
            if doubt.others.remove(&number) {
                doubt.spoiled |= failed;
                waited = true;
            }
        }
        waited
    }
}

impl Doubt {
    fn is_open(&self, call: u64) -> bool {
        self.call == call && !self.spoiled && !self.others.is_empty()
    }

    fn is_settled(&self) -> bool {
        !self.spoiled && self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::thread;

    /// A library like the real one: its last message is anybody's.
    #[derive(Default)]
    struct Library(Mutex<Option<String>>);

    impl Library {
        fn fail(&self, says: &str) -> Result<(), ()> {
            *self.0.lock().expect("no panic") = Some(says.to_owned());
            Err(())
        }

        fn last(&self) -> Option<String> {
            self.0.lock().expect("no panic").clone()
        }
    }

    #[test]
    fn a_call_that_fails_alone_is_told_why() {
        let (calls, library) = (Calls::new(), Library::default());
        for says in ["one", "two"] {
            let failed = calls.make(|| library.fail(says), |()| library.last());
            assert_eq!(failed, Err(((), Some(says.to_owned()))));
        }
        assert_eq!(calls.make(|| Ok::<(), ()>(()), |()| library.last()), Ok(()));
    }

    /// Runs `other` from before a call fails until after its message was read.
    fn beside(other: impl FnOnce(&Library) -> Result<(), ()> + Send) -> Option<String> {
        let (calls, library) = (Calls::new(), Library::default());
        let (begun, begins) = mpsc::channel();
        let (read, was_read) = mpsc::channel();
        thread::scope(|scope| {
            let (calls, library) = (&calls, &library);
            scope.spawn(move || {
                let call = || {
                    begun.send(()).expect("the other waits");
                    was_read.recv().expect("it is read");
                    other(library)
                };
                calls.make(call, |()| None).ok();
            });
            begins.recv().expect("the other runs");
            let message = |&(): &()| {
                let last = library.last();
                read.send(()).expect("the other waits");
                last
            };
            calls.make(|| library.fail("mine"), message).expect_err("it fails").1
        })
    }

    #[test]
    fn beside_a_call_that_succeeds_the_text_is_proven_once_that_has_ended() {
        assert_eq!(beside(|_| Ok(())).as_deref(), Some("mine"));
    }

    #[test]
    fn beside_a_call_that_fails_there_is_no_text() {
        assert_eq!(beside(|library| library.fail("another's")), None);
    }

    #[test]
    fn a_call_that_panicked_is_in_nobodys_way() {
        let (calls, library) = (Calls::new(), Library::default());
        let panics = || calls.make(|| -> Result<(), ()> { panic!("as asked") }, |()| None);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        let failed = calls.make(|| library.fail("mine"), |()| library.last());
        assert_eq!(failed, Err(((), Some("mine".to_owned()))));
    }

    #[test]
    fn beside_a_call_that_does_not_end_there_is_no_text() {
        let (end, ends) = mpsc::channel::<()>();
        let (calls, library) = (Calls::new(), Library::default());
        let (begun, begins) = mpsc::channel();
        thread::scope(|scope| {
            let calls = &calls;
            scope.spawn(move || {
                let call = || {
                    begun.send(()).expect("the test waits");
                    ends.recv().ok();
                    Ok::<(), ()>(())
                };
                calls.make(call, |()| None).ok();
            });
            begins.recv().expect("it runs");
            let failed = calls.make(|| library.fail("mine"), |()| library.last());
            assert_eq!(failed, Err(((), None)));
            drop(end);
        });
    }

    #[test]
    fn many_threads_never_get_each_others_text() {
        let (calls, library) = (Calls::new(), Library::default());
        let told = AtomicU64::new(0);
        thread::scope(|scope| {
            for n in 0..4 {
                let (calls, library, told) = (&calls, &library, &told);
                scope.spawn(move || {
                    let mine = format!("thread {n}");
                    for round in 0..2000 {
                        let fails = round % (n + 2) == 0;
                        let call = || {
                            if !fails {
                                return Ok(());
                            }
                            library.fail(&mine).inspect_err(|()| thread::yield_now())
                        };
                        let made = calls.make(call, |()| library.last());
                        if let Err(((), Some(text))) = made {
                            assert_eq!(text, mine);
                            told.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        println!("{} texts were told", told.into_inner());
    }
}
