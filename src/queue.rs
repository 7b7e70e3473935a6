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
//!
//! A task whose module is large, and not known to be compiled, is for takers of
//! its own, so that those of all others never wait for a long compile.

mod compiled;
mod load;

use crate::digest::Digest;
use crate::task::{TaskId, Weight};
use compiled::CompiledModules;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use load::Load;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
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
    /// One that has no long compile before it.
    Quick,
    /// One whose module is large, and not known to be compiled.
    Large,
    /// One that has to be alone, in a process of its own.
    Alone,
    /// An invocation, so that tasks which hold all executors hold up none.
    Invocations,
}

/// Which takers there are beside quick ones. Those take all for which there is
/// no other, and invocations in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takers {
    /// One for tasks that have to be alone: they have a process of their own,
    /// and run beside the others. Else nothing else runs meanwhile.
    pub alone: bool,
    /// Those for large modules.
    pub large: bool,
}

/// The most bytes of a module that is compiled within a moment. As in the
/// runtime, whose compilers have a lane for what is not.
const SMALL: usize = 512 << 10;

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

/// The queue of tasks `T`; a running one is known by its handle `H`.
pub struct Queue<T, H> {
    bounds: QueueBounds,
    next: u64,
    /// Boxed: a map that grows at its end leaves half of its room free.
    waiting: BTreeMap<Place, Box<Waiting<T>>>,
    /// Tasks that are not held and not large, and whatever is to run alone.
    ready: BTreeSet<Place>,
    /// Other invocations.
    invocations: BTreeSet<Place>,
    /// The last that was taken was a task.
    turn_of_invocations: bool,
    /// Those that are not held and large, all of them and by their modules.
    large: BTreeSet<Place>,
    modules: HashMap<Digest, BTreeSet<Place>>,
    known: CompiledModules,
    places: HashMap<TaskId, Place>,
    /// What all that wait take up, and those of them in memory.
    load: Load,
    in_memory: Load,
    /// How many invocations wait, and their bytes, which are in memory and
    /// counted in neither of the above.
    invoked: (usize, usize),
    running: HashMap<TaskId, H>,
    takers: Takers,
    /// The one that runs has to be alone, and there is one process.
    alone: bool,
    draining: bool,
}

impl<T, H: Clone> Queue<T, H> {
    /// A queue in which no more waits than this; a single task may take up
    /// more.
    pub fn new(bounds: QueueBounds, takers: Takers) -> Queue<T, H> {
        Queue {
            bounds,
            next: 0,
            waiting: BTreeMap::new(),
            ready: BTreeSet::new(),
            invocations: BTreeSet::new(),
            turn_of_invocations: false,
            large: BTreeSet::new(),
            modules: HashMap::new(),
            known: CompiledModules::default(),
            places: HashMap::new(),
            load: Load::default(),
            in_memory: Load::default(),
            invoked: (0, 0),
            running: HashMap::new(),
            takers,
            alone: false,
            draining: false,
        }
    }

    /// Lets a task wait for its turn, whose id must not be there yet. `task`
    /// makes it, and is told whether all of it may stay in memory; if not it
    /// is to be read back by whoever takes it. `whole`: whether all of it is in
    /// memory now. Returns for whom it is, if it is not held.
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
    ) -> Result<Option<Taker>, QueueRefusal> {
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
            (queued, self.bounds.bytes, self.load.bytes(), self.load.with(weight))
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
        Ok((!held).then(|| self.ready(place, weight, invocation)))
    }

    /// What is at this place may be taken; returns by whom.
    fn ready(&mut self, place: Place, weight: Weight, invocation: bool) -> Taker {
        if invocation && place.in_company {
            self.invocations.insert(place);
            return Taker::Invocations;
        }
        if let Some((digest, bytes)) = weight.module.filter(|_| place.in_company)
            && self.takers.large
            && bytes > SMALL
            && !self.known.has(&digest)
        {
            self.large.insert(place);
            self.modules.entry(digest).or_default().insert(place);
            return Taker::Large;
        }
        self.ready.insert(place);
        if self.takers.alone && !place.in_company { Taker::Alone } else { Taker::Quick }
    }

    /// The process that had compiled modules is gone.
    pub fn forget_compiled(&mut self) {
        self.known = CompiledModules::default();
    }

    /// The module of this task has been compiled. Returns whether others wait
    /// with it, which are for quick takers now.
    pub fn compiled(&mut self, weight: Weight) -> bool {
        let Some((digest, _)) = weight.module.filter(|(_, bytes)| *bytes > SMALL) else {
            return false;
        };
        if !self.known.add(digest) {
            return false;
        }
        let places = self.modules.remove(&digest).unwrap_or_default();
        for place in &places {
            self.large.remove(place);
            self.ready.insert(*place);
        }
        !places.is_empty()
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<T>> {
        let removed = *self.waiting.remove(&place)?;
        self.ready.remove(&place);
        self.invocations.remove(&place);
        if self.large.remove(&place)
            && let Some((digest, _)) = removed.weight.module
            && let Some(places) = self.modules.get_mut(&digest)
        {
            places.remove(&place);
            if places.is_empty() {
                self.modules.remove(&digest);
            }
        }
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

    /// Lets a held task be taken. Returns by whom, if there is one.
    pub fn release(&mut self, id: &TaskId) -> Option<Taker> {
        let place = *self.places.get(id)?;
        let weight = self.waiting.get(&place)?.weight;
        Some(self.ready(place, weight, id.invocation().is_some()))
    }

    /// Starts the task whose turn it is; `handle` makes what it can be stopped
    /// by.
    pub fn take(&mut self, taker: Taker, handle: impl FnOnce(&T) -> H) -> Option<(T, H)> {
        let suspect = self.ready.first().filter(|place| !place.in_company).copied();
        let one_process = !self.takers.alone;
        let place = match taker {
            Taker::Alone => suspect,
            // A suspect that waits is the next, and alone.
            _ if one_process && self.alone => None,
            Taker::Quick if one_process && suspect.is_some() => {
                suspect.filter(|_| self.running.is_empty())
            }
            _ if one_process && suspect.is_some() => None,
            Taker::Quick => self.next_by_turns(),
            Taker::Large => self.large.first().copied(),
            Taker::Invocations => self.invocations.first().copied(),
        };
        let place = place?;
        self.turn_of_invocations = !self.invocations.contains(&place);
        let Waiting { id, task, .. } = self.remove(place)?;
        let handle = handle(&task);
        self.running.insert(id, handle.clone());
        self.alone |= one_process && !place.in_company;
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

    /// Has a running task wait again, for a turn alone. Returns for whom it is.
    ///
    /// # Errors
    ///
    /// The task, which does not run any more: nothing begins since
    /// [`Queue::drain`].
    pub fn suspect(&mut self, id: &TaskId, weight: Weight, task: T) -> Result<Taker, T> {
        self.finish(id);
        if self.draining {
            return Err(task);
        }
        // What memory it has, it had before.
        let admitted = self.admit(id, weight, true, Admission::Alone, |_| task);
        Ok(admitted.ok().flatten().expect("no bound applies, and it is not held"))
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
        self.large.clear();
        self.modules.clear();
        self.places.clear();
        (self.load, self.in_memory) = (Load::default(), Load::default());
        self.invoked = (0, 0);
        std::mem::take(&mut self.waiting).into_values().map(|waiting| waiting.task).collect()
    }

    /// Handles of all running tasks.
    pub fn running(&self) -> impl Iterator<Item = &H> {
        self.running.values()
    }

    /// The tasks that wait, in the order of their turn.
    pub fn waiting(&self) -> impl Iterator<Item = (&TaskId, &T)> {
        self.waiting.values().map(|waiting| (&waiting.id, &waiting.task))
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
