//! Compiled code, shared by all tasks: digest of the binary → what is ready to
//! be instantiated, a core module or a component. Tasks that bring the same code
//! at the same time wait for one compile, and code that does not compile is
//! remembered as such. A compile that nobody waits for any more is ended, and
//! what took long until then is not begun again for a while. What was compiled
//! before the last restart is found on the disk.

use super::RuntimeConfig;
use super::code::{Code, Kind};
use super::compiler::{Bench, Compiler, Ender, Lane, NotCompiled, Promise};
use super::link::{Artefact, Linkers};
use crate::cancel::{Cancel, Reason};
use crate::digest::Digest;
use crate::disk::DiskCache;
use crate::task::Binary;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;
use wasmtime::Engine;

/// For how long a compile that failed, or was ended, is not begun again.
const PAUSE: Duration = Duration::from_secs(60);
/// One that was ended sooner has cost next to nothing, and may be begun again.
const SHORT: Duration = Duration::from_secs(1);
/// Digests that are remembered for that.
const PAUSED: u64 = 4096;
/// Artefacts that are kept in memory; the disk may have more.
const MAX_KEPT: u64 = 1024;

/// The artefact, or a sentence for the task's result.
pub(super) type Compiled = Result<Arc<Artefact>, Arc<str>>;

/// The cache. See the module's documentation.
pub(super) struct Artefacts {
    shared: Arc<Shared>,
    compiler: Compiler,
}

struct Shared {
    engine: Engine,
    linkers: Linkers,
    cache: Cache<Digest, Compiled>,
    /// What is not begun again for a while, and why.
    paused: Cache<Digest, Arc<str>>,
    disk: Option<Arc<DiskCache>>,
    pending: Mutex<HashMap<Digest, Pending>>,
    numbers: AtomicU64,
    compiled: AtomicU64,
}

/// Code that is being compiled, or waits for it.
struct Pending {
    /// Tells it from an earlier one of the same digest.
    number: u64,
    promise: Arc<Promise<Compiled>>,
    stage: Stage,
}

enum Stage {
    /// No compiler has taken it.
    Waiting(Binary),
    /// One has, and may be looking on the disk.
    Taken,
    /// It is being compiled since then, and can be ended if there is that.
    Compiling(Instant, Option<Ender>),
}

impl Artefacts {
    /// Keeps no more compiled code and metadata than the configuration says,
    /// what was used least recently goes first; compiles no more modules at
    /// the same time.
    pub(super) fn new(
        engine: Engine,
        linkers: Linkers,
        config: &RuntimeConfig,
    ) -> anyhow::Result<Artefacts> {
        // What the engine keeps of a small module besides its code is more than
        // its code, so their number is bounded as well.
        let least = config.module_cache / MAX_KEPT;
        let cache = Cache::builder()
            .name("modules")
            .max_capacity(config.module_cache)
            .weigher(move |_, compiled: &Compiled| weight(compiled, least))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let paused = Cache::builder().max_capacity(PAUSED).time_to_live(PAUSE).build();
        let pending = Mutex::default();
        let disk = config.disk.clone();
        let (compiled, numbers) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Shared { engine, linkers, cache, paused, disk, pending, numbers, compiled };
        let compiler = Compiler::start(config.compilers, config.compile_apart.as_ref())?;
        Ok(Artefacts { shared: Arc::new(shared), compiler })
    }

    /// The artefact of `binary`, and whether this task found it compiled or
    /// being compiled.
    ///
    /// # Errors
    ///
    /// The reason why the task did not wait any longer. If no other one does,
    /// the compile is ended.
    pub(super) fn get(&self, binary: &Binary, cancel: &Cancel) -> Result<(Compiled, bool), Reason> {
        let digest = binary.digest();
        if let Some(compiled) = self.shared.cache.get(&digest) {
            return Ok((compiled, true));
        }
        let (promise, joined) = match self.shared.pending().entry(digest) {
            Entry::Occupied(pending) => (pending.get().promise.clone(), true),
            Entry::Vacant(free) => {
                // It may have been compiled since we looked.
                if let Some(compiled) = self.shared.cache.get(&digest) {
                    return Ok((compiled, true));
                }
                if let Some(reason) = self.shared.paused.get(&digest) {
                    return Ok((Err(reason), true));
                }
                let promise = Arc::new(Promise::new());
                let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
                let stage = Stage::Waiting(binary.clone());
                free.insert(Pending { number, promise: promise.clone(), stage });
                // What it is and whether the disk has it is found out there.
                submit(&self.shared, &self.compiler, Lane::Quick, digest, number);
                (promise, false)
            }
        };
        match promise.wait(cancel) {
            Ok(compiled) => Ok((compiled, joined)),
            Err(reason) => {
                self.shared.give_up(digest, &promise);
                Err(reason)
            }
        }
    }

    /// The artefact of the binary with this digest, if it is there or is being
    /// made.
    ///
    /// # Errors
    ///
    /// The reason why the task did not wait any longer.
    pub(super) fn find(
        &self,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<Option<Compiled>, Reason> {
        if let Some(compiled) = self.shared.cache.get(digest) {
            return Ok(Some(compiled));
        }
        let promise = self.shared.pending().get(digest).map(|pending| pending.promise.clone());
        let Some(promise) = promise else { return Ok(None) };
        let waited = promise.wait(cancel);
        waited.map(Some).inspect_err(|_| self.shared.give_up(*digest, &promise))
    }

    /// The engine that they are compiled for.
    pub(super) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// How many modules were compiled since the start.
    pub(super) fn compiled(&self) -> u64 {
        self.shared.compiled.load(Ordering::Relaxed)
    }

    /// Bytes that are kept: of code, and of sentences on what does not compile.
    pub(super) fn bytes(&self) -> u64 {
        // It is counted when the cache comes to it.
        self.shared.cache.run_pending_tasks();
        self.shared.cache.iter().map(|(_, compiled)| u64::from(weight(&compiled, 0))).sum()
    }
}

fn submit(shared: &Arc<Shared>, compiler: &Compiler, lane: Lane, digest: Digest, number: u64) {
    let (shared, again) = (shared.clone(), compiler.downgrade());
    compiler.submit(lane, move |bench| {
        if !shared.fulfil(digest, number, bench)
            && let Some(compiler) = again.upgrade()
        {
            submit(&shared, &compiler, Lane::Patient, digest, number);
        }
    });
}

impl Shared {
    /// Returns whether it has come to an end in this lane.
    fn fulfil(&self, digest: Digest, number: u64, bench: &mut Bench) -> bool {
        let Some(Stage::Waiting(binary)) = self.change(digest, number, Stage::Taken) else {
            return true;
        };
        // A fault of the compiler's must not leave anyone waiting.
        let made = catch_unwind(AssertUnwindSafe(|| self.make(&binary, number, bench)));
        let made = made.unwrap_or_else(|_| {
            let sentence = "the compiler panicked on this code; see the log";
            Err(NotCompiled::Refused(sentence.into()))
        });
        let (compiled, new) = match made {
            Ok((artefact, new)) => (Ok(Arc::new(artefact)), new),
            Err(NotCompiled::Refused(reason)) => (Err(Arc::from(reason)), false),
            Err(NotCompiled::Failed(reason)) => {
                let again = format!("{reason}; it is not tried again for {} s", PAUSE.as_secs());
                let again = Arc::<str>::from(again);
                self.paused.insert(digest, again.clone());
                self.keep(digest, number, Err(again));
                return true;
            }
            Err(NotCompiled::Patient) => {
                self.change(digest, number, Stage::Waiting(binary));
                return false;
            }
            // Who ended it has said so where it is looked for.
            Err(NotCompiled::Ended) => return true,
        };
        self.cache.insert(digest, compiled.clone());
        self.keep(digest, number, compiled.clone());
        // Nobody waits for this.
        if let (true, Ok(artefact), Some(disk)) = (new, compiled, &self.disk) {
            disk.keep(digest, move || {
                artefact.code.serialize().map_err(|error| format!("{error:#}"))
            });
        }
        true
    }

    /// Those who wait go on.
    fn keep(&self, digest: Digest, number: u64, compiled: Compiled) {
        let mut pending = self.pending();
        if pending.get(&digest).is_some_and(|pending| pending.number == number)
            && let Some(pending) = pending.remove(&digest)
        {
            pending.promise.keep(compiled);
        }
    }

    /// The stage before, if it is still waited for.
    fn change(&self, digest: Digest, number: u64, stage: Stage) -> Option<Stage> {
        let mut pending = self.pending();
        let pending = pending.get_mut(&digest).filter(|pending| pending.number == number)?;
        Some(std::mem::replace(&mut pending.stage, stage))
    }

    /// Forgets code that nobody waits for any more, and ends its compile: else
    /// tasks that time out could pile them up.
    fn give_up(&self, digest: Digest, promise: &Arc<Promise<Compiled>>) {
        // The map's and the caller's own.
        const LAST: usize = 2;
        let mut pending = self.pending();
        let Entry::Occupied(entry) = pending.entry(digest) else { return };
        if !Arc::ptr_eq(&entry.get().promise, promise) || Arc::strong_count(promise) > LAST {
            return;
        }
        match &entry.get().stage {
            Stage::Waiting(_) | Stage::Taken => {}
            // It runs to its end, and is there for the next.
            Stage::Compiling(_, None) => return,
            Stage::Compiling(since, Some(ender)) => {
                let took = since.elapsed();
                if took >= SHORT {
                    let sentence = format!(
                        "compiling this code was ended after {} s, since no task waited for it any \
                         more; it is not begun again for {} s",
                        took.as_secs(),
                        PAUSE.as_secs()
                    );
                    self.paused.insert(digest, sentence.into());
                }
                // Under the lock, so that it is not the next one that it ends.
                ender.end();
            }
        }
        entry.remove();
    }

    /// The artefact, and whether it had to be compiled.
    fn make(
        &self,
        binary: &Binary,
        number: u64,
        bench: &mut Bench,
    ) -> Result<(Artefact, bool), NotCompiled> {
        let kind = Kind::of(binary).map_err(NotCompiled::Refused)?;
        let digest = binary.digest();
        let link = |code: &Code| self.linkers.link(code).map_err(NotCompiled::Refused);
        if let Some(code) = self.find(kind, &digest) {
            return Ok((link(&code)?, false));
        }
        let code = bench.compile(&self.engine, kind, binary, |ender| {
            self.compiled.fetch_add(1, Ordering::Relaxed);
            self.change(digest, number, Stage::Compiling(Instant::now(), ender)).is_some()
        })?;
        Ok((link(&code)?, true))
    }

    /// What an earlier process compiled, if this engine can run it.
    fn find(&self, kind: Kind, digest: &Digest) -> Option<Code> {
        let disk = self.disk.as_ref()?;
        let bytes = disk.get(digest)?;
        // SAFETY: they are what `Code::serialize` gave this program, whole by
        // their digest, in a folder for code alone that nobody else can write
        // to; that they are of this kind, this version, these settings and this
        // sort of processor is looked at by the engine.
        #[allow(unsafe_code, reason = "compiled code is run as it is found")]
        let code = unsafe { Code::deserialize(&self.engine, kind, &bytes) };
        code.inspect_err(|error| {
            debug!("compiled code on the disk is of no use: {error:#}");
            disk.remove(digest);
        })
        .ok()
    }

    // Entries come and go whole.
    fn pending(&self) -> MutexGuard<'_, HashMap<Digest, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of an entry, no fewer than `least`.
fn weight(compiled: &Compiled, least: u64) -> u32 {
    // What the entry itself costs.
    const ENTRY: usize = 1024;
    let bytes = match compiled {
        Ok(artefact) => artefact.code.size(),
        Err(message) => message.len(),
    };
    let bytes = (bytes.saturating_add(ENTRY) as u64).max(least);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
