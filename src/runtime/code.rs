//! A task's code, compiled: a core module or a component, told by its header.

use super::component::size;
use super::limiter::mib;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// What a binary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Module,
    Component,
}

impl Kind {
    /// What `binary` is by its header, or a sentence on what it is instead. The
    /// engine would say so, too, in words that help only who knows the format.
    pub(super) fn of(binary: &[u8]) -> Result<Kind, String> {
        const MAGIC: &[u8] = b"\0asm";
        // A component has layer 1 where a module has the upper half of its version.
        const COMPONENT_LAYER: &[u8] = &[1, 0];
        if binary.starts_with(MAGIC) {
            let component = binary.get(6..8) == Some(COMPONENT_LAYER);
            return Ok(if component { Kind::Component } else { Kind::Module });
        }
        let text = std::str::from_utf8(&binary[..binary.len().min(4096)]).is_ok();
        let hint = if binary.is_empty() {
            "it is empty".to_owned()
        } else if binary.starts_with(b"<") {
            "it looks like an HTML or XML page: was a link to a web page given?".to_owned()
        } else if binary.starts_with(b"version https://git-lfs.github.com/spec/") {
            "it is a git-lfs pointer in place of the file: `git lfs pull` fetches that one".into()
        } else if text {
            "it is text: convert WebAssembly text with `wat2wasm` or `wasm-tools parse`".to_owned()
        } else {
            format!("it starts with {:02x?}", &binary[..binary.len().min(4)])
        };
        Err(format!("the module is not a WebAssembly binary: {hint}"))
    }

    /// The sentence of a task whose code the engine refuses.
    pub(super) fn does_not_compile(self, error: &wasmtime::Error) -> String {
        let name = match self {
            Kind::Module => "module",
            Kind::Component => "component",
        };
        if let Some((minimum, limit)) = error.chain().find_map(|e| over_the_pool(&e.to_string())) {
            let (minimum, limit) = (mib(minimum), mib(limit));
            return format!(
                "the {name} has a memory of {minimum} from its start: a task may have {limit} \
                 (--task-memory)"
            );
        }
        format!("the {name} does not compile: {error:#}")
    }
}

/// A memory's least bytes and the most that the pool has, of the sentence in
/// which the engine says that the first are too many.
fn over_the_pool(sentence: &str) -> Option<(u64, u64)> {
    let (_, numbers) = sentence.split_once("memory has a minimum byte size of ")?;
    let (minimum, limit) = numbers.split_once(" which exceeds the limit of ")?;
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    Some((number(minimum)?, number(limit.strip_suffix(" bytes")?)?))
}

/// Compiled code. Clones share it.
#[derive(Clone)]
pub(super) enum CompiledCode {
    Module(Module),
    Component(Component),
}

impl CompiledCode {
    /// Compiles `binary`, which is of this kind.
    ///
    /// # Errors
    ///
    /// A sentence for the task's result.
    pub(super) fn compile(
        engine: &Engine,
        kind: Kind,
        binary: &[u8],
    ) -> Result<CompiledCode, String> {
        match kind {
            Kind::Module => Module::from_binary(engine, binary)
                .map(CompiledCode::Module)
                .map_err(|e| kind.does_not_compile(&e)),
            Kind::Component => {
                size::check(binary)?;
                Component::from_binary(engine, binary)
                    .map(CompiledCode::Component)
                    .map_err(|e| kind.does_not_compile(&e))
            }
        }
    }

    /// The same for another process: what [`CompiledCode::serialize`] would give.
    ///
    /// # Errors
    ///
    /// A sentence for the task's result.
    pub(super) fn precompile(
        engine: &Engine,
        kind: Kind,
        binary: &[u8],
    ) -> Result<Vec<u8>, String> {
        match kind {
            Kind::Module => engine.precompile_module(binary).map_err(|e| kind.does_not_compile(&e)),
            Kind::Component => {
                size::check(binary)?;
                engine.precompile_component(binary).map_err(|e| kind.does_not_compile(&e))
            }
        }
    }

    /// What [`CompiledCode::serialize`] gave. Refuses what is of another kind, another
    /// version of the engine, or other settings.
    ///
    /// # Safety
    ///
    /// The bytes are run as they are: nobody may have changed them.
    #[allow(unsafe_code, reason = "passes the engine's own contract on")]
    pub(super) unsafe fn deserialize(
        engine: &Engine,
        kind: Kind,
        bytes: &[u8],
    ) -> wasmtime::Result<CompiledCode> {
        match kind {
            // SAFETY: the caller's promise.
            Kind::Module => unsafe { Module::deserialize(engine, bytes) }.map(CompiledCode::Module),
            Kind::Component => {
                // SAFETY: the caller's promise.
                unsafe { Component::deserialize(engine, bytes) }.map(CompiledCode::Component)
            }
        }
    }

    /// As bytes, for another process of this program.
    pub(super) fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            CompiledCode::Module(module) => module.serialize(),
            CompiledCode::Component(component) => component.serialize(),
        }
    }

    /// For which engine it is.
    pub(super) fn engine(&self) -> &Engine {
        match self {
            CompiledCode::Module(module) => module.engine(),
            CompiledCode::Component(component) => component.engine(),
        }
    }

    /// Bytes of the compiled code.
    pub(super) fn size(&self) -> usize {
        let image = match self {
            CompiledCode::Module(module) => module.image_range(),
            CompiledCode::Component(component) => component.image_range(),
        };
        (image.end as usize).saturating_sub(image.start as usize)
    }
}
