//! Bounded admission, as a state machine without I/O, locks or clocks.
//!
//! ```text
//!            admit            take             finish
//!   (none) ────────▶ queued ────────▶ running ────────▶ (none)
//!                      │ stop, drain
//!                      └────────▶ (none)
//! ```
//!
//! Tasks and invocations of deployed tasks wait in it, each within the bounds for
//! itself, and where both wait they are taken by turns: so neither keeps the
//! other from its turn, or from a place in the queue.
//!
//! A task's id is in at most one of the two states, and may come again once it
//! is in none. A queued task that is held counts as queued, and is passed over
//! until it is released. One that is to run alone comes first. Where all run in
//! one process it waits until nothing runs and lets nothing begin beside it;
//! else it has a process of its own, and they don't wait for one another.

use crate::digest::Digest;
use crate::task::{TaskId, Weight};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tasks.
    pub tasks: usize,
    /// Bytes that they take up on the disk, or in memory if they are nowhere
    /// else; a module that several of them share counts once.
    pub bytes: usize,
    /// Bytes of them that are kept in memory, of those that can be read back
    /// from the disk; none if they can't be.
    pub memory: Option<usize>,
}

/// Why a task was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRefusal {
    /// As many tasks as allowed are waiting.
    Full {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
    },
    /// The waiting tasks would take up more bytes than allowed.
    Heavy {
        /// Tasks in execution.
        running: usize,
        /// Tasks waiting.
        queued: usize,
        /// Bytes that those take up.
        bytes: usize,
    },
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
    /// Its record is on the way to the disk: it is passed over until
    /// [`Queue::release`] only if it has to be read back from there.
    Early,
    /// It had been admitted by an earlier process: the bounds don't apply.
    Again,
    /// Likewise, but ahead of the others, and with nothing beside it.
    Alone,
}

/// Whose turn it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// Anyone's: there is one process for all.
    Any,
    /// One that need not be alone.
    Company,
    /// One that has to be alone, in a process of its own.
    Alone,
    /// An invocation, so that tasks which hold all executors hold up none.
    Invocations {
        /// What has to be alone has a process of its own.
        apart: bool,
    },
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

/// The place of a task in the queue: those that run alone first, else in the
/// order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    in_company: bool,
    number: u64,
}

struct Waiting<T> {
    id: TaskId,
    task: T,
    weight: Weight,
    in_memory: bool,
}

impl<T> Waiting<T> {
    fn is_invocation(&self) -> bool {
        self.id.invocation().is_some()
    }
}

/// What some tasks take up together.
#[derive(Debug, Default)]
pub struct Load {
    bytes: usize,
    /// Their modules: how many of them have each, and its bytes.
    modules: HashMap<Digest, (usize, usize)>,
}

impl Load {
    /// Bytes, a module counted once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes with one task more.
    pub fn with(&self, weight: Weight) -> usize {
        let module = weight.module.filter(|(module, _)| !self.modules.contains_key(module));
        self.bytes.saturating_add(weight.own).saturating_add(module.map_or(0, |(_, bytes)| bytes))
    }

    /// One task more.
    pub fn add(&mut self, weight: Weight) {
        self.bytes = self.with(weight);
        if let Some((module, bytes)) = weight.module {
            self.modules.entry(module).or_insert((0, bytes)).0 += 1;
        }
    }

    /// One less, which was added.
    pub fn remove(&mut self, weight: Weight) {
        self.bytes = self.bytes.saturating_sub(weight.own);
        if let Some((module, _)) = weight.module
            && let Some((count, bytes)) = self.modules.get_mut(&module)
        {
            *count -= 1;
            if *count == 0 {
                self.bytes = self.bytes.saturating_sub(*bytes);
                self.modules.remove(&module);
            }
        }
    }
}

/// The queue of tasks `T`; a running one is known by its handle `H`.
pub struct Queue<T, H> {
    bounds: Bounds,
    next: u64,
    /// Boxed: a map that grows at its end leaves half of its room free.
    waiting: BTreeMap<Place, Box<Waiting<T>>>,
    /// Tasks that are not held, and whatever is to run alone.
    ready: BTreeSet<Place>,
    /// Other invocations.
    invocations: BTreeSet<Place>,
    /// The last that was taken was a task.
    turn_of_invocations: bool,
    places: HashMap<TaskId, Place>,
    /// What all that wait take up, and those of them in memory.
    load: Load,
    in_memory: Load,
    /// How many invocations wait, and their bytes, which are in memory and
    /// counted in neither of the above.
    invoked: (usize, usize),
    running: HashMap<TaskId, H>,
    /// The one that runs has to be alone, and there is one process.
    alone: bool,
    draining: bool,
}

impl<T, H: Clone> Queue<T, H> {
    /// A queue in which no more waits than this; a single task may take up
    /// more.
    pub fn new(bounds: Bounds) -> Queue<T, H> {
        Queue {
            bounds,
            next: 0,
            waiting: BTreeMap::new(),
            ready: BTreeSet::new(),
            invocations: BTreeSet::new(),
            turn_of_invocations: false,
            places: HashMap::new(),
            load: Load::default(),
            in_memory: Load::default(),
            invoked: (0, 0),
            running: HashMap::new(),
            alone: false,
            draining: false,
        }
    }

    /// Lets a task wait for its turn, whose id must not be there yet. `task`
    /// makes it, and is told whether all of it may stay in memory; if not it
    /// is to be read back by whoever takes it. `whole`: whether all of it is in
    /// memory now.
    ///
    /// # Errors
    ///
    /// The reason. Nothing has been made.
    pub fn admit(
        &mut self,
        id: &TaskId,
        weight: Weight,
        whole: bool,
        admission: Admission,
        task: impl FnOnce(bool) -> T,
    ) -> Result<(), QueueRefusal> {
        debug_assert!(
            !self.places.contains_key(id) && !self.running.contains_key(id),
            "{id} is queued or running"
        );
        if self.draining {
            return Err(QueueRefusal::Draining);
        }
        let invocation = id.invocation().is_some();
        let (queued, limit, bytes, with_it) = if invocation {
            let (queued, bytes) = self.invoked;
            let limit = self.bounds.memory.unwrap_or(self.bounds.bytes);
            (queued, limit, bytes, bytes.saturating_add(weight.own))
        } else {
            let queued = self.waiting.len() - self.invoked.0;
            (queued, self.bounds.bytes, self.load.bytes, self.load.with(weight))
        };
        if matches!(admission, Admission::Ready | Admission::Held | Admission::Early) {
            let running = self.running.len();
            if queued >= self.bounds.tasks {
                return Err(QueueRefusal::Full { running, queued });
            }
            if queued > 0 && with_it > limit {
                return Err(QueueRefusal::Heavy { running, queued, bytes });
            }
        }
        let fits = |memory| invocation || self.in_memory.with(weight) <= memory;
        let in_memory = whole && self.bounds.memory.is_none_or(fits);
        if invocation {
            self.invoked = (queued + 1, with_it);
        } else {
            self.load.add(weight);
            if in_memory {
                self.in_memory.add(weight);
            }
        }
        let place = Place { in_company: admission != Admission::Alone, number: self.next };
        self.next += 1;
        let waiting = Waiting { id: id.clone(), task: task(in_memory), weight, in_memory };
        self.waiting.insert(place, Box::new(waiting));
        self.places.insert(id.clone(), place);
        let held = match admission {
            Admission::Held => true,
            Admission::Early => !in_memory,
            Admission::Ready | Admission::Again | Admission::Alone => false,
        };
        if !held {
            self.list(place, invocation);
        }
        Ok(())
    }

    /// It may be taken from now on.
    fn list(&mut self, place: Place, invocation: bool) -> bool {
        let list =
            if invocation && place.in_company { &mut self.invocations } else { &mut self.ready };
        list.insert(place)
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<T>> {
        let removed = *self.waiting.remove(&place)?;
        self.ready.remove(&place);
        self.invocations.remove(&place);
        self.places.remove(&removed.id);
        if removed.is_invocation() {
            let (queued, bytes) = self.invoked;
            self.invoked = (queued - 1, bytes.saturating_sub(removed.weight.own));
            return Some(removed);
        }
        self.load.remove(removed.weight);
        if removed.in_memory {
            self.in_memory.remove(removed.weight);
        }
        Some(removed)
    }

    /// Lets a held task be taken. Returns whether there is one.
    pub fn release(&mut self, id: &TaskId) -> bool {
        let place = self.places.get(id).copied();
        place.map(|place| self.list(place, id.invocation().is_some())).is_some()
    }

    /// Starts the task whose turn it is; `handle` makes what it can be stopped
    /// by.
    pub fn take(&mut self, taker: Taker, handle: impl FnOnce(&T) -> H) -> Option<(T, H)> {
        let suspect = self.ready.first().filter(|place| !place.in_company).copied();
        let place = match taker {
            Taker::Alone => suspect?,
            Taker::Any if self.alone => return None,
            Taker::Any if suspect.is_some() && !self.running.is_empty() => return None,
            Taker::Any if let Some(suspect) = suspect => suspect,
            Taker::Any | Taker::Company => self.next_by_turns()?,
            Taker::Invocations { apart: false } if self.alone || suspect.is_some() => return None,
            Taker::Invocations { .. } => *self.invocations.first()?,
        };
        self.turn_of_invocations = !self.invocations.contains(&place);
        let Waiting { id, task, .. } = self.remove(place)?;
        let handle = handle(&task);
        self.running.insert(id, handle.clone());
        self.alone |= taker == Taker::Any && !place.in_company;
        Some((task, handle))
    }

    /// Of tasks and invocations that need not be alone.
    fn next_by_turns(&self) -> Option<Place> {
        let in_company = Place { in_company: true, number: 0 };
        let (task, invocation) = (self.ready.range(in_company..).next(), self.invocations.first());
        match (task, invocation) {
            (Some(_), Some(invocation)) if self.turn_of_invocations => Some(*invocation),
            (Some(task), _) => Some(*task),
            (None, invocation) => invocation.copied(),
        }
    }

    /// Has a running task wait again, for a turn alone.
    ///
    /// # Errors
    ///
    /// The task, which does not run any more: nothing begins since
    /// [`Queue::drain`].
    pub fn suspect(&mut self, id: &TaskId, weight: Weight, task: T) -> Result<(), T> {
        self.finish(id);
        if self.draining {
            return Err(task);
        }
        // What memory it has, it had before.
        let admitted = self.admit(id, weight, true, Admission::Alone, |_| task);
        debug_assert!(admitted.is_ok(), "no bound applies");
        Ok(())
    }

    /// Ends a running task. Returns whether it ran alone, so that several may
    /// be taken now.
    pub fn finish(&mut self, id: &TaskId) -> bool {
        let known = self.running.remove(id);
        debug_assert!(known.is_some(), "{id} was not running");
        std::mem::replace(&mut self.alone, false)
    }

    /// Removes a waiting task or gives the handle of a running one.
    pub fn stop(&mut self, id: &TaskId) -> Stopped<T, H> {
        if let Some(handle) = self.running.get(id) {
            return Stopped::Running(handle.clone());
        }
        let place = self.places.get(id).copied();
        match place.and_then(|place| self.remove(place)) {
            Some(waiting) => Stopped::Queued(waiting.task),
            None => Stopped::Unknown,
        }
    }

    /// From now on nothing is admitted; gives back what was waiting, in order.
    pub fn drain(&mut self) -> Vec<T> {
        self.draining = true;
        self.ready.clear();
        self.invocations.clear();
        self.places.clear();
        (self.load, self.in_memory) = (Load::default(), Load::default());
        self.invoked = (0, 0);
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.task).collect()
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
mod tests;
