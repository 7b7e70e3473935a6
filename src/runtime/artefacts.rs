//! Compiled code, shared by all tasks: digest of the binary → what is ready to
//! be instantiated, a core module or a component. Tasks that bring the same code
//! at the same time wait for one compile, and code that does not compile is
//! remembered as such. What was compiled before the last restart is found on
//! the disk.

use super::RuntimeConfig;
use super::code::{Code, Kind};
use super::compiler::{Compiler, Promise};
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
use tracing::debug;
use wasmtime::Engine;

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
    disk: Option<Arc<DiskCache>>,
    pending: Mutex<HashMap<Digest, Pending>>,
    compiled: AtomicU64,
}

/// A module that is being compiled, or waits for it.
struct Pending {
    promise: Arc<Promise<Compiled>>,
    /// The module, until a compiler takes it.
    binary: Option<Binary>,
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
        let cache = Cache::builder()
            .name("modules")
            .max_capacity(config.module_cache)
            .weigher(|_, compiled: &Compiled| weight(compiled))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let pending = Mutex::default();
        let disk = config.disk.clone();
        let shared = Shared { engine, linkers, cache, disk, pending, compiled: AtomicU64::new(0) };
        Ok(Artefacts { shared: Arc::new(shared), compiler: Compiler::start(config.compilers)? })
    }

    /// The artefact of `binary`, and whether this task found it compiled or
    /// being compiled.
    ///
    /// # Errors
    ///
    /// The reason why the task did not wait any longer. The compile goes on.
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
                let promise = Arc::new(Promise::new());
                free.insert(Pending { promise: promise.clone(), binary: Some(binary.clone()) });
                let shared = self.shared.clone();
                self.compiler.submit(move || shared.fulfil(digest));
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

    /// Bytes that are kept, as they are weighed.
    pub(super) fn bytes(&self) -> u64 {
        // It is counted when the cache comes to it.
        self.shared.cache.run_pending_tasks();
        self.shared.cache.weighted_size()
    }
}

impl Shared {
    fn fulfil(&self, digest: Digest) {
        let binary = self.pending().get_mut(&digest).and_then(|pending| pending.binary.take());
        let Some(binary) = binary else { return };
        // A fault of the compiler's must not leave anyone waiting.
        let made = catch_unwind(AssertUnwindSafe(|| self.make(&binary)))
            .unwrap_or_else(|_| Err("the compiler panicked on this code; see the log".into()));
        let (compiled, new) = match made {
            Ok((artefact, new)) => (Ok(Arc::new(artefact)), new),
            Err(reason) => (Err(Arc::from(reason)), false),
        };
        self.cache.insert(digest, compiled.clone());
        if let Some(pending) = self.pending().remove(&digest) {
            pending.promise.keep(compiled.clone());
        }
        // Nobody waits for this.
        if let (true, Ok(artefact), Some(disk)) = (new, compiled, &self.disk) {
            disk.keep(digest, move || {
                artefact.code.serialize().map_err(|error| format!("{error:#}"))
            });
        }
    }

    /// Forgets a module that nobody waits for any more, unless it is being
    /// compiled already: else tasks that time out could pile them up.
    fn give_up(&self, digest: Digest, promise: &Arc<Promise<Compiled>>) {
        // The map's and the caller's own.
        const LAST: usize = 2;
        let mut pending = self.pending();
        if let Entry::Occupied(entry) = pending.entry(digest)
            && Arc::ptr_eq(&entry.get().promise, promise)
            && Arc::strong_count(promise) <= LAST
            && entry.get().binary.is_some()
        {
            entry.remove();
        }
    }

    /// The artefact, and whether it had to be compiled.
    fn make(&self, binary: &Binary) -> Result<(Artefact, bool), String> {
        let kind = Kind::of(binary)?;
        if let Some(code) = self.find(kind, &binary.digest()) {
            return Ok((self.linkers.link(&code)?, false));
        }
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let code = Code::compile(&self.engine, kind, binary)?;
        Ok((self.linkers.link(&code)?, true))
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

fn weight(compiled: &Compiled) -> u32 {
    // What the entry itself costs.
    const ENTRY: usize = 1024;
    let bytes = match compiled {
        Ok(artefact) => artefact.code.size(),
        Err(message) => message.len(),
    };
    u32::try_from(bytes.saturating_add(ENTRY)).unwrap_or(u32::MAX)
}
