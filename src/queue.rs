//! Bounded admission, as a state machine without I/O, locks or clocks.
//!
//! ```text
//!            admit            take             finish
//!   (none) ────────▶ queued ────────▶ running ────────▶ (none)
//!                      │ stop, drain
//!                      └────────▶ (none)
//! ```
//!
//! A task's id is in at most one of the two states, and may come again once it
//! is in none. A queued task that is held counts as queued, and is passed over
//! until it is released.

use crate::digest::Digest;
use crate::task::{TaskId, Weight};
use std::collections::{HashMap, VecDeque};

/// Why a task was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many tasks as allowed are waiting.
    Full {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
    },
    /// The waiting tasks would hold more bytes than allowed.
    Heavy {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// Bytes that those hold.
        bytes: usize,
    },
    /// A task of this id is queued or running; [`Queue::get`] tells which.
    Duplicate,
    /// [`Queue::drain`] was called.
    Draining,
}

/// How a task is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// To be taken when its turn comes.
    Ready,
    /// To be passed over until [`Queue::release`].
    Held,
    /// It had been admitted by an earlier process: the bounds don't apply.
    Again,
}

/// A task that the queue knows.
#[derive(Debug, PartialEq, Eq)]
pub enum Known<'a, T, H> {
    /// It waits.
    Queued(&'a T),
    /// It runs, and this is its handle.
    Running(&'a H),
}

/// What there was to stop.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped<T, H> {
    /// The task was waiting: here it is, and it will not be taken.
    Queued(T),
    /// The task is running: this is its handle.
    Running(H),
    /// No such task.
    Unknown,
}

struct Waiting<T> {
    id: TaskId,
    task: T,
    weight: Weight,
    held: bool,
}

/// The queue of tasks `T`; a running one is known by its handle `H`.
pub struct Queue<T, H> {
    capacity: usize,
    byte_capacity: usize,
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    /// The modules of waiting tasks: how many wait with each.
    shared: HashMap<Digest, usize>,
    running: HashMap<TaskId, H>,
    draining: bool,
}

impl<T, H: Clone> Queue<T, H> {
    /// At most `capacity` tasks wait, and hold at most `byte_capacity` bytes; a
    /// single one may hold more.
    pub fn new(capacity: usize, byte_capacity: usize) -> Queue<T, H> {
        Queue {
            capacity,
            byte_capacity,
            waiting: VecDeque::new(),
            bytes: 0,
            shared: HashMap::new(),
            running: HashMap::new(),
            draining: false,
        }
    }

    /// Lets a task wait for its turn.
    ///
    /// # Errors
    ///
    /// The reason, with the task.
    pub fn admit(
        &mut self,
        id: &TaskId,
        task: T,
        weight: Weight,
        admission: Admission,
    ) -> Result<(), (Refusal, T)> {
        if self.get(id).is_some() {
            return Err((Refusal::Duplicate, task));
        }
        if self.draining {
            return Err((Refusal::Draining, task));
        }
        let (running, queued) = (self.running.len(), self.waiting.len());
        if admission != Admission::Again {
            if queued >= self.capacity {
                return Err((Refusal::Full { running, queued }, task));
            }
            let more = weight.own + self.unshared(weight);
            if queued > 0 && self.bytes.saturating_add(more) > self.byte_capacity {
                return Err((Refusal::Heavy { running, queued, bytes: self.bytes }, task));
            }
        }
        self.bytes += weight.own + self.unshared(weight);
        if let Some((key, _)) = weight.module {
            *self.shared.entry(key).or_default() += 1;
        }
        let held = admission == Admission::Held;
        self.waiting.push_back(Waiting { id: id.clone(), task, weight, held });
        Ok(())
    }

    /// Bytes of its module, if those are not counted yet.
    fn unshared(&self, weight: Weight) -> usize {
        weight
            .module
            .filter(|(key, _)| !self.shared.contains_key(key))
            .map_or(0, |(_, bytes)| bytes)
    }

    fn remove(&mut self, at: usize) -> Option<Waiting<T>> {
        let removed = self.waiting.remove(at)?;
        self.bytes -= removed.weight.own;
        if let Some((key, bytes)) = removed.weight.module
            && let Some(count) = self.shared.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&key);
                self.bytes -= bytes;
            }
        }
        Some(removed)
    }

    /// Lets a held task be taken. Returns whether there is one.
    pub fn release(&mut self, id: &TaskId) -> bool {
        let found = self.waiting.iter_mut().find(|waiting| waiting.id == *id);
        found.map(|waiting| waiting.held = false).is_some()
    }

    /// The task of this id, if it is queued or running.
    pub fn get(&self, id: &TaskId) -> Option<Known<'_, T, H>> {
        let running = self.running.get(id).map(Known::Running);
        running.or_else(|| {
            let waiting = self.waiting.iter().find(|waiting| waiting.id == *id)?;
            Some(Known::Queued(&waiting.task))
        })
    }

    /// Starts the task that has waited longest and is not held; `handle` makes
    /// what it can be stopped by.
    pub fn take(&mut self, handle: impl FnOnce(&T) -> H) -> Option<T> {
        let at = self.waiting.iter().position(|waiting| !waiting.held)?;
        let Waiting { id, task, .. } = self.remove(at)?;
        self.running.insert(id, handle(&task));
        Some(task)
    }

    /// Ends a running task.
    pub fn finish(&mut self, id: &TaskId) {
        let known = self.running.remove(id);
        debug_assert!(known.is_some(), "{id} was not running");
    }

    /// Removes a waiting task or gives the handle of a running one.
    pub fn stop(&mut self, id: &TaskId) -> Stopped<T, H> {
        if let Some(handle) = self.running.get(id) {
            return Stopped::Running(handle.clone());
        }
        let at = self.waiting.iter().position(|waiting| waiting.id == *id);
        match at.and_then(|at| self.remove(at)) {
            Some(waiting) => Stopped::Queued(waiting.task),
            None => Stopped::Unknown,
        }
    }

    /// From now on nothing is admitted; gives back what was waiting.
    pub fn drain(&mut self) -> Vec<T> {
        self.draining = true;
        self.bytes = 0;
        self.shared.clear();
        self.waiting.drain(..).map(|waiting| waiting.task).collect()
    }

    /// Handles of all running tasks.
    pub fn running(&self) -> impl Iterator<Item = &H> {
        self.running.values()
    }

    /// Whether [`Queue::drain`] was called and nothing runs any more.
    pub fn is_drained(&self) -> bool {
        self.draining && self.running.is_empty()
    }

    /// Whether [`Queue::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Tasks waiting and running.
    pub fn len(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// Bytes that the waiting tasks hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn id(n: u8) -> TaskId {
        TaskId::new(&n.to_string()).expect("an id")
    }

    fn admit<H: Clone>(queue: &mut Queue<u8, H>, n: u8) -> Result<(), (Refusal, u8)> {
        let weight = Weight { own: 1, module: Some((Digest::of(&[n % 3]), 10)) };
        queue.admit(&id(n), n, weight, Admission::Ready)
    }

    #[test]
    fn a_held_task_is_passed_over_until_it_is_released() {
        let mut queue = Queue::<u8, ()>::new(4, 100);
        queue.admit(&id(1), 1, Weight::default(), Admission::Held).expect("room");
        assert_eq!(queue.take(|_| ()), None);
        admit(&mut queue, 2).expect("room");
        assert_eq!(queue.take(|_| ()), Some(2));
        assert!(queue.release(&id(1)) && !queue.release(&id(3)));
        assert_eq!(queue.take(|_| ()), Some(1));
    }

    #[test]
    fn bytes_are_bounded_and_what_is_shared_counts_once() {
        let mut queue = Queue::<u8, ()>::new(9, 100);
        let weight = |own, key: u8| Weight { own, module: Some((Digest::of(&[key]), 50)) };
        let admit = |queue: &mut Queue<u8, ()>, n, weight| {
            queue.admit(&id(n), n, weight, Admission::Ready).map_err(|(refusal, _)| refusal)
        };
        assert_eq!(admit(&mut queue, 1, weight(500, 1)), Ok(()), "the only one may be any size");
        let heavy = Refusal::Heavy { running: 0, queued: 1, bytes: 550 };
        assert_eq!(admit(&mut queue, 2, weight(0, 1)), Err(heavy));
        assert_eq!(queue.take(|_| ()), Some(1));
        assert_eq!(admit(&mut queue, 2, weight(10, 1)), Ok(()));
        assert_eq!(admit(&mut queue, 3, weight(10, 1)), Ok(()));
        assert_eq!(queue.bytes(), 70);
        assert!(admit(&mut queue, 4, weight(10, 2)).is_err());
        assert_eq!(queue.admit(&id(4), 4, weight(10, 2), Admission::Again), Ok(()));
        queue.drain();
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_full_queue_says_how_full() {
        let mut queue = Queue::<u8, ()>::new(1, 100);
        admit(&mut queue, 1).expect("room");
        assert_eq!(queue.take(|_| ()), Some(1));
        admit(&mut queue, 2).expect("room");
        let refused = admit(&mut queue, 3);
        assert_eq!(refused, Err((Refusal::Full { running: 1, queued: 1 }, 3)));
    }

    #[test]
    fn an_id_may_come_again_after_it_ended() {
        let mut queue = Queue::<u8, ()>::new(4, 100);
        admit(&mut queue, 1).expect("room");
        assert_eq!(admit(&mut queue, 1), Err((Refusal::Duplicate, 1)));
        assert_eq!(queue.get(&id(1)), Some(Known::Queued(&1)));
        queue.take(|_| ());
        assert_eq!(queue.get(&id(1)), Some(Known::Running(&())));
        assert_eq!(admit(&mut queue, 1), Err((Refusal::Duplicate, 1)));
        queue.finish(&id(1));
        admit(&mut queue, 1).expect("it ended");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Admit(u8),
        Take,
        Finish(u8),
        Stop(u8),
        Drain,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u8..12).prop_map(Step::Admit),
            6 => Just(Step::Take),
            4 => (0u8..12).prop_map(Step::Finish),
            3 => (0u8..12).prop_map(Step::Stop),
            1 => Just(Step::Drain),
        ]
    }

    proptest! {
        /// Against a model: each admitted task leaves exactly once, in order,
        /// and the bound holds.
        #[test]
        fn every_admitted_task_leaves_exactly_once(steps in prop::collection::vec(step(), 0..200)) {
            let mut queue = Queue::<u8, u8>::new(3, 100);
            let mut waiting: Vec<u8> = Vec::new();
            let mut running: HashSet<u8> = HashSet::new();
            let mut draining = false;
            for step in steps {
                match step {
                    Step::Admit(n) => {
                        let admitted = admit(&mut queue, n).is_ok();
                        let known = waiting.contains(&n) || running.contains(&n);
                        prop_assert_eq!(admitted, !known && !draining && waiting.len() < 3);
                        if admitted {
                            waiting.push(n);
                        }
                    }
                    Step::Take => {
                        let first = (!waiting.is_empty()).then(|| waiting.remove(0));
                        prop_assert_eq!(queue.take(|n| *n), first);
                        running.extend(first);
                    }
                    Step::Finish(n) => {
                        if running.remove(&n) {
                            queue.finish(&id(n));
                        }
                    }
                    Step::Stop(n) => {
                        let at = waiting.iter().position(|w| *w == n);
                        let expected = match at {
                            Some(at) => Stopped::Queued(waiting.remove(at)),
                            None if running.contains(&n) => Stopped::Running(n),
                            None => Stopped::Unknown,
                        };
                        prop_assert_eq!(queue.stop(&id(n)), expected);
                    }
                    Step::Drain => {
                        draining = true;
                        prop_assert_eq!(queue.drain(), std::mem::take(&mut waiting));
                    }
                }
                prop_assert_eq!(queue.len(), (waiting.len(), running.len()));
                let kinds: HashSet<_> = waiting.iter().map(|n| n % 3).collect();
                prop_assert_eq!(queue.bytes(), waiting.len() + 10 * kinds.len());
                prop_assert_eq!(queue.is_drained(), draining && running.is_empty());
            }
        }
    }
}
