//! The engines of the process, one for small code and one for large, and their
//! clock.
//!
//! A thread advances the engines' epochs every [`TICK`] while a task runs, and
//! cancels the tasks whose time is over. It sleeps while nothing runs.

use crate::cancel::{Cancel, Reason};
use anyhow::Context as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often WebAssembly code is asked whether it should end. A tenth of what
/// `stop` is allowed to take.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Stack of WebAssembly code in bytes. `-W max-wasm-stack` of a task may ask
/// for no less than it has.
pub const MAX_WASM_STACK: usize = 1 << 20;

/// Stack of a thread that runs tasks: the guest's, and what loading graphs
/// needs.
pub const THREAD_STACK: usize = MAX_WASM_STACK + crate::nn::STACK;

/// Slots that are kept for instances, so that a task finds its memory mapped
/// and, what matters more, its pages resident: with 14 MB of weights to read,
/// half of a warm task's time was page faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InstancePool {
    /// Instances at the same time.
    pub instances: u32,
    /// Bytes of the largest linear memory.
    pub memory: u64,
}

/// Memories of a module, or of all modules of a component. LLVM emits one for a
/// program, however many libraries it links.
pub(super) const MAX_MEMORIES: u32 = 16;
/// Tables of one module. LLVM emits one.
pub(super) const MAX_TABLES: u32 = 16;
/// Modules that a component may instantiate: one a command with its adapters has
/// four, one of an interpreter with its native libraries some dozens.
pub(super) const MAX_CORE_INSTANCES: u32 = 256;
/// Tables of all modules of a component: an adapter has one of its own.
pub(super) const MAX_COMPONENT_TABLES: u32 = 64;
/// Elements of one table, and of all tables of a task.
pub(super) const MAX_TABLE_ELEMENTS: usize = 1_000_000;
/// What a slot keeps resident of its memory, from the beginning: it is written
/// with zeros, touched or not, and the kernel takes back what is behind it. A
/// small guest has all of its memory there. LLVM puts a stack of 1 MiB first, of
/// which a guest touches the last pages: to clear all of it costs more than these
/// are worth, and pushes out of the cache what an inference needs.
const KEEP_RESIDENT: usize = 64 << 10;
/// The same where guests copy large files into their memory.
const KEEP_RESIDENT_OF_COPIES: usize = 32 << 20;
/// The instance's own data, 24 bytes for each function that is referred to and
/// 16 for each global: the engine's default of 1 MiB is little for Python. All
/// instances of a component have it together.
pub(super) const MAX_INSTANCE_SIZE: usize = 16 << 20;

/// Most bytes of a binary that is small.
const SMALL: usize = 512 << 10;

/// One for small binaries and one for large ones.
pub(super) struct BySize<T> {
    small: T,
    large: T,
}

impl<T> BySize<T> {
    /// The one for this binary.
    pub(super) fn of(&self, binary: &[u8]) -> &T {
        if binary.len() <= SMALL { &self.small } else { &self.large }
    }

    /// What `make` makes of each.
    pub(super) fn try_map<U, E>(
        &self,
        mut make: impl FnMut(&T) -> Result<U, E>,
    ) -> Result<BySize<U>, E> {
        Ok(BySize { small: make(&self.small)?, large: make(&self.large)? })
    }
}

/// Makes the engines that all tasks share; `mapping` says that large files are
/// mapped into guests' memories, not copied.
///
/// An instance of large code shares the pages of its data with the others until
/// it writes to them. Each page costs a fault then, or two, and an interruption
/// of the other cores; so an instance of small code, of whose few pages it
/// writes most, has its data copied.
pub(super) fn engines(
    pool: Option<InstancePool>,
    mapping: bool,
) -> wasmtime::Result<BySize<wasmtime::Engine>> {
    Ok(BySize { small: engine(pool, mapping, false)?, large: engine(pool, mapping, true)? })
}

/// `shared`: instances share the pages of their data until they write to them.
fn engine(
    pool: Option<InstancePool>,
    mapping: bool,
    shared: bool,
) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = wasmtime::Config::new();
    config.memory_init_cow(shared);
    // Epochs, since fuel would cost two to three times the guest's time.
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_WASM_STACK);
    if let Some(pool) = pool {
        config.allocation_strategy(wasmtime::InstanceAllocationStrategy::Pooling(pooling(
            pool, mapping,
        )));
    }
    wasmtime::Engine::new(&config)
}

impl InstancePool {
    /// Bytes of address space behind the first of each memory.
    pub(super) fn reserved(self) -> usize {
        usize::try_from(self.memory).unwrap_or(usize::MAX).min(4 << 30)
    }
}

fn pooling(pool: InstancePool, mapping: bool) -> wasmtime::PoolingAllocationConfig {
    let instances = pool.instances;
    // What was mapped is gone without being written, unless this reaches it.
    let keep = if mapping { KEEP_RESIDENT } else { KEEP_RESIDENT_OF_COPIES };
    let mut pooling = wasmtime::PoolingAllocationConfig::new();
    pooling
        .total_component_instances(instances)
        .total_core_instances(instances * MAX_CORE_INSTANCES)
        .total_memories(instances * MAX_MEMORIES)
        .total_tables(instances * MAX_COMPONENT_TABLES)
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_module(MAX_TABLES)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_COMPONENT_TABLES)
        .max_memory_size(pool.reserved())
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_core_instance_size(MAX_INSTANCE_SIZE)
        .max_component_instance_size(MAX_INSTANCE_SIZE)
        .max_unused_warm_slots(instances)
        .linear_memory_keep_resident(keep)
        .table_keep_resident(1 << 20)
        // Wasmtime 48 asks PAGEMAP_SCAN for the pages that are present: one that
        // a guest has written and that is in swap at that moment, or on its way
        // to another place in memory, keeps its contents for the next guest in
        // the slot (bytecodealliance/wasmtime#14357). Swap can be switched on
        // after the start, so no look at the machine makes the scan safe.
        .pagemap_scan(wasmtime::Enabled::No);
    pooling
}

/// The tasks that run and their deadlines.
#[derive(Default)]
struct Watched {
    tasks: Vec<(u64, Option<Deadline>)>,
    next: u64,
    /// The clock's thread waits for the first task.
    asleep: bool,
    closed: bool,
}

struct Deadline {
    at: Instant,
    limit: Duration,
    cancel: Arc<Cancel>,
}

#[derive(Default)]
struct Deadlines {
    watched: Mutex<Watched>,
    changed: Condvar,
}

impl Deadlines {
    // Vectors of plain data: a panic elsewhere leaves them whole.
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock thread. Joined when it is dropped.
pub(super) struct Ticker {
    shared: Arc<Deadlines>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the clock of `engines`.
    pub(super) fn start(engines: &BySize<wasmtime::Engine>) -> anyhow::Result<Ticker> {
        let shared = Arc::new(Deadlines::default());
        let thread = std::thread::Builder::new()
            .name("epoch".into())
            .spawn({
                let shared = shared.clone();
                let engines = [engines.small.clone(), engines.large.clone()];
                move || tick(&shared, &engines)
            })
            .context("starting the epoch thread")?;
        Ok(Ticker { shared, thread: Some(thread) })
    }

    /// Lets the clock run until the guard is dropped; if there is a `limit`,
    /// `cancel` gets [`Reason::Timeout`] when it has passed.
    pub(super) fn watch(&self, cancel: &Arc<Cancel>, limit: Option<Duration>) -> Watch<'_> {
        let deadline = limit.and_then(|limit| {
            // A limit beyond the clock's range never passes.
            let at = Instant::now().checked_add(limit)?;
            Some(Deadline { at, limit, cancel: cancel.clone() })
        });
        let mut watched = self.shared.lock();
        let id = watched.next;
        watched.next += 1;
        watched.tasks.push((id, deadline));
        // Not for each of many short tasks: it would wake up, to wait again.
        if watched.asleep {
            watched.asleep = false;
            self.shared.changed.notify_one();
        }
        Watch { shared: &self.shared, id }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It holds no lock while it sleeps, and a panic in it has been
            // reported by the panic hook.
            thread.join().ok();
        }
    }
}

/// While it lives, a task is running.
pub(super) struct Watch<'a> {
    shared: &'a Deadlines,
    id: u64,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.shared.lock().tasks.retain(|(id, _)| *id != self.id);
    }
}

fn tick(shared: &Deadlines, engines: &[wasmtime::Engine]) {
    let mut watched = shared.lock();
    while !watched.closed {
        if watched.tasks.is_empty() {
            watched.asleep = true;
            watched = shared.changed.wait(watched).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        (watched, _) =
            shared.changed.wait_timeout(watched, TICK).unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let over: Vec<_> = watched
            .tasks
            .iter()
            .filter_map(|(_, deadline)| deadline.as_ref())
            .filter(|deadline| deadline.at <= now)
            .map(|deadline| (deadline.cancel.clone(), deadline.limit))
            .collect();
        // Not under the lock: what a cancellation interrupts may end its watch.
        drop(watched);
        // First, so that nothing that is done for one task delays the others.
        engines.iter().for_each(wasmtime::Engine::increment_epoch);
        for (cancel, limit) in over {
            cancel.cancel(Reason::Timeout(limit));
        }
        watched = shared.lock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_cancels_with_its_limit() {
        let ticker = Ticker::start(&engines(None, false).expect("engines")).expect("a thread");
        let cancel = Arc::new(Cancel::default());
        let limit = Duration::from_millis(1);
        let _watch = ticker.watch(&cancel, Some(limit));
        let an_hour = Instant::now() + Duration::from_secs(3600);
        assert_eq!(cancel.wait_until(an_hour), Err(Reason::Timeout(limit)));
    }

    /// ARCHITECTURE.md, case 75. What a guest wrote can be out of the scan's sight.
    #[test]
    fn no_slot_is_cleared_by_what_the_page_map_says() {
        let pooling = pooling(InstancePool { instances: 1, memory: 1 << 20 }, true);
        let settings = format!("{pooling:?}");
        assert!(settings.contains("pagemap_scan: No"), "{settings}");
    }

    #[test]
    fn a_task_that_ended_is_not_cancelled() {
        let ticker = Ticker::start(&engines(None, false).expect("engines")).expect("a thread");
        let ended = Arc::new(Cancel::default());
        drop(ticker.watch(&ended, Some(Duration::from_millis(5))));
        let later = Arc::new(Cancel::default());
        let _watch = ticker.watch(&later, Some(Duration::from_millis(50)));
        let an_hour = Instant::now() + Duration::from_secs(3600);
        later.wait_until(an_hour).expect_err("its time passes");
        assert_eq!(ended.reason(), None);
    }
}
