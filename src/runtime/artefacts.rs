//! Compiled modules, shared by all tasks: digest of the binary → what is ready
//! to be instantiated. Tasks that bring the same module at the same time wait
//! for one compile, and a module that does not compile is remembered as such.
//! What was compiled before the last restart is found on the disk.

use super::RuntimeConfig;
use super::compiler::{Compiler, Promise};
use super::sandbox::TaskState;
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
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module};

/// A module that is ready to be instantiated.
pub(super) struct Artefact {
    pub(super) pre: InstancePre<TaskState>,
    /// Whether it imports anything of wasi-nn.
    pub(super) imports_nn: bool,
}

/// The artefact, or a sentence for the task's result.
pub(super) type Compiled = Result<Arc<Artefact>, Arc<str>>;

/// The cache. See the module's documentation.
pub(super) struct Artefacts {
    shared: Arc<Shared>,
    compiler: Compiler,
}

struct Shared {
    engine: Engine,
    linker: Linker<TaskState>,
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
        linker: Linker<TaskState>,
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
        let shared = Shared { engine, linker, cache, disk, pending, compiled: AtomicU64::new(0) };
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
            .unwrap_or_else(|_| Err("the compiler panicked on this module; see the log".into()));
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
                artefact.pre.module().serialize().map_err(|error| format!("{error:#}"))
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
        recognise(binary)?;
        if let Some(module) = self.find(&binary.digest()) {
            return Ok((self.link(&module)?, false));
        }
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let module = Module::from_binary(&self.engine, binary)
            .map_err(|e| format!("the module does not compile: {e:#}"))?;
        Ok((self.link(&module)?, true))
    }

    /// What an earlier process compiled, if this engine can run it.
    fn find(&self, digest: &Digest) -> Option<Module> {
        let disk = self.disk.as_ref()?;
        let bytes = disk.get(digest)?;
        // SAFETY: they are what `Module::serialize` gave this program, whole by
        // their digest, in a folder for modules alone that nobody else can
        // write to; that they are of this version, these settings and this kind
        // of processor is looked at by the engine.
        #[allow(unsafe_code, reason = "compiled code is run as it is found")]
        let module = unsafe { Module::deserialize(&self.engine, &bytes) };
        module
            .inspect_err(|error| {
                debug!("a compiled module on the disk is of no use: {error:#}");
                disk.remove(digest);
            })
            .ok()
    }

    fn link(&self, module: &Module) -> Result<Artefact, String> {
        let imports_nn = module.imports().any(|import| import.module() == crate::nn::MODULE);
        let pre = self.linker.instantiate_pre(module).map_err(|e| {
            let unknown = module
                .imports()
                .filter(|import| matches!(import.ty(), ExternType::Func(_)))
                .map(|import| import.module())
                .find(|name| !PROVIDED.contains(name));
            match unknown {
                Some(name) => format!(
                    "the module can't be linked: {e:#}; this worker provides {} and knows nothing \
                     of `{name}`",
                    PROVIDED.join(", ")
                ),
                None => format!("the module can't be linked: {e:#}"),
            }
        })?;
        Ok(Artefact { pre, imports_nn })
    }

    // Entries come and go whole.
    fn pending(&self) -> MutexGuard<'_, HashMap<Digest, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The import modules that guests find here.
const PROVIDED: [&str; 3] = ["wasi_snapshot_preview1", "wasi_unstable", crate::nn::MODULE];

/// Says what a binary is that is not a core module. The engine would, too, in
/// words that help only who knows the format.
fn recognise(binary: &[u8]) -> Result<(), String> {
    const MAGIC: &[u8] = b"\0asm";
    // A component has layer 1 where a module has the upper half of its version.
    const COMPONENT_LAYER: &[u8] = &[1, 0];
    if !binary.starts_with(MAGIC) {
        let text = std::str::from_utf8(&binary[..binary.len().min(4096)]).is_ok();
        let hint = if binary.is_empty() {
            "it is empty".to_owned()
        } else if binary.starts_with(b"<") {
            "it looks like an HTML or XML page: was a link to a web page given?".to_owned()
        } else if text {
            "it is text: convert WebAssembly text with `wat2wasm` or `wasm-tools parse`".to_owned()
        } else {
            format!("it starts with {:02x?}", &binary[..binary.len().min(4)])
        };
        return Err(format!("the module is not a WebAssembly binary: {hint}"));
    }
    if binary.get(6..8) == Some(COMPONENT_LAYER) {
        return Err("the module is a component, which this version does not run yet: \
                    build the guest for `wasm32-wasip1`"
            .into());
    }
    Ok(())
}

fn weight(compiled: &Compiled) -> u32 {
    // What the entry itself costs.
    const ENTRY: usize = 1024;
    let bytes = match compiled {
        Ok(artefact) => {
            let image = artefact.pre.module().image_range();
            (image.end as usize).saturating_sub(image.start as usize)
        }
        Err(message) => message.len(),
    };
    u32::try_from(bytes.saturating_add(ENTRY)).unwrap_or(u32::MAX)
}
