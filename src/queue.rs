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
//! is in none.

use crate::task::TaskId;
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
    /// A task of this id is queued or running; [`Queue::get`] tells which.
    Duplicate,
    /// [`Queue::drain`] was called.
    Draining,
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

/// The queue of tasks `T`; a running one is known by its handle `H`.
pub struct Queue<T, H> {
    capacity: usize,
    waiting: VecDeque<(TaskId, T)>,
    running: HashMap<TaskId, H>,
    draining: bool,
}

impl<T, H: Clone> Queue<T, H> {
    /// At most `capacity` tasks wait.
    pub fn new(capacity: usize) -> Queue<T, H> {
        Queue { capacity, waiting: VecDeque::new(), running: HashMap::new(), draining: false }
    }

    /// Lets a task wait for its turn.
    ///
    /// # Errors
    ///
    /// The reason, with the task.
    pub fn admit(&mut self, id: &TaskId, task: T) -> Result<(), (Refusal, T)> {
        if self.get(id).is_some() {
            return Err((Refusal::Duplicate, task));
        }
        if self.draining {
            return Err((Refusal::Draining, task));
        }
        if self.waiting.len() >= self.capacity {
            let (running, queued) = (self.running.len(), self.waiting.len());
            return Err((Refusal::Full { running, queued }, task));
        }
        self.waiting.push_back((id.clone(), task));
        Ok(())
    }

    /// The task of this id, if it is queued or running.
    pub fn get(&self, id: &TaskId) -> Option<Known<'_, T, H>> {
        let running = self.running.get(id).map(Known::Running);
        running.or_else(|| {
            let (_, task) = self.waiting.iter().find(|(waiting, _)| waiting == id)?;
            Some(Known::Queued(task))
        })
    }

    /// Starts the task that has waited longest; `handle` makes what it can be
    /// stopped by.
    pub fn take(&mut self, handle: impl FnOnce(&T) -> H) -> Option<T> {
        let (id, task) = self.waiting.pop_front()?;
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
        let at = self.waiting.iter().position(|(waiting, _)| waiting == id);
        match at.and_then(|at| self.waiting.remove(at)) {
            Some((_, task)) => Stopped::Queued(task),
            None => Stopped::Unknown,
        }
    }

    /// From now on nothing is admitted; gives back what was waiting.
    pub fn drain(&mut self) -> Vec<T> {
        self.draining = true;
        self.waiting.drain(..).map(|(_, task)| task).collect()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn id(n: u8) -> TaskId {
        TaskId::new(&n.to_string()).expect("an id")
    }

    #[test]
    fn a_full_queue_says_how_full() {
        let mut queue = Queue::<u8, ()>::new(1);
        queue.admit(&id(1), 1).expect("room");
        assert_eq!(queue.take(|_| ()), Some(1));
        queue.admit(&id(2), 2).expect("room");
        let refused = queue.admit(&id(3), 3);
        assert_eq!(refused, Err((Refusal::Full { running: 1, queued: 1 }, 3)));
    }

    #[test]
    fn an_id_may_come_again_after_it_ended() {
        let mut queue = Queue::<u8, ()>::new(4);
        queue.admit(&id(1), 1).expect("room");
        assert_eq!(queue.admit(&id(1), 1), Err((Refusal::Duplicate, 1)));
        assert_eq!(queue.get(&id(1)), Some(Known::Queued(&1)));
        queue.take(|_| ());
        assert_eq!(queue.get(&id(1)), Some(Known::Running(&())));
        assert_eq!(queue.admit(&id(1), 1), Err((Refusal::Duplicate, 1)));
        queue.finish(&id(1));
        queue.admit(&id(1), 1).expect("it ended");
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
            let mut queue = Queue::<u8, u8>::new(3);
            let mut waiting: Vec<u8> = Vec::new();
            let mut running: HashSet<u8> = HashSet::new();
            let mut draining = false;
            for step in steps {
                match step {
                    Step::Admit(n) => {
                        let admitted = queue.admit(&id(n), n).is_ok();
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
                prop_assert_eq!(queue.is_drained(), draining && running.is_empty());
            }
        }
    }
}
