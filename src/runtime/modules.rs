//! Compiled modules, shared by all tasks: digest of the binary → what is ready
//! to be instantiated. Tasks that bring the same module at the same time wait
//! for one compile, and a module that does not compile is remembered as such.

use super::sandbox::TaskState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module};

/// SHA-256 of a module's binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Digest([u8; 32]);

/// A module that is ready to be instantiated.
pub(super) struct Artefact {
    pub(super) pre: InstancePre<TaskState>,
    /// Whether it imports anything of wasi-nn.
    pub(super) imports_nn: bool,
}

type Compiled = Result<Arc<Artefact>, Arc<str>>;

/// The cache. See the module's documentation.
pub(super) struct Modules {
    engine: Engine,
    linker: Linker<TaskState>,
    cache: Cache<Digest, Compiled>,
    compiled: AtomicU64,
}

impl Modules {
    /// Keeps at most `budget` bytes of compiled code and its metadata; what
    /// was used least recently goes first.
    pub(super) fn new(engine: Engine, linker: Linker<TaskState>, budget: u64) -> Modules {
        let cache = Cache::builder()
            .name("modules")
            .max_capacity(budget)
            .weigher(|_, compiled: &Compiled| weight(compiled))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Modules { engine, linker, cache, compiled: AtomicU64::new(0) }
    }

    /// The artefact of `binary`, and whether it was there already. The error
    /// is a sentence for the task's result.
    pub(super) fn get(&self, binary: &[u8]) -> (Compiled, bool) {
        let digest = Digest(Sha256::digest(binary).into());
        let compiled_here = AtomicBool::new(false);
        let compiled = self.cache.get_with(digest, || {
            compiled_here.store(true, Ordering::Relaxed);
            self.compiled.fetch_add(1, Ordering::Relaxed);
            self.compile(binary).map(Arc::new).map_err(Into::into)
        });
        (compiled, !compiled_here.into_inner())
    }

    /// The engine that they are compiled for.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How many modules were compiled since the start.
    pub(super) fn compiled(&self) -> u64 {
        self.compiled.load(Ordering::Relaxed)
    }

    fn compile(&self, binary: &[u8]) -> Result<Artefact, String> {
        recognise(binary)?;
        let module = Module::from_binary(&self.engine, binary)
            .map_err(|e| format!("the module does not compile: {e:#}"))?;
        let imports_nn = module.imports().any(|import| import.module() == crate::nn::MODULE);
        let pre = self.linker.instantiate_pre(&module).map_err(|e| {
            let missing: Vec<_> = module
                .imports()
                .filter(|import| matches!(import.ty(), ExternType::Func(_)))
                .map(|import| import.module())
                .filter(|name| !PROVIDED.contains(name))
                .collect();
            match missing.first() {
                Some(name) => format!(
                    "the module can't be linked: {e:#}; this worker provides {} and knows nothing of `{name}`",
                    PROVIDED.join(", ")
                ),
                None => format!("the module can't be linked: {e:#}"),
            }
        })?;
        Ok(Artefact { pre, imports_nn })
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
