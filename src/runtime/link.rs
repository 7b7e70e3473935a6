//! What guests may import: WASI and wasi-nn, for core modules and for
//! components, and code with its imports resolved.

use super::code::CompiledCode;
use super::component::imports;
use super::sandbox::TaskState;
use super::{Stdio, files, sleep};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module};

/// Code that is ready to be instantiated.
pub(super) struct Artefact {
    pub(super) code: CompiledCode,
    pub(super) pre: Pre,
    /// Whether it imports anything of wasi-nn.
    pub(super) imports_nn: bool,
}

/// Code with its imports resolved.
pub(super) enum Pre {
    Module(InstancePre<TaskState>),
    Component(component::InstancePre<TaskState>),
}

/// The import modules that core modules find here.
pub(super) const MODULES: [&str; 3] =
    ["wasi_snapshot_preview1", "wasi_unstable", crate::nn::MODULE];

/// What the two kinds of guests find.
pub(super) struct Linkers {
    modules: Linker<TaskState>,
    components: component::Linker<TaskState>,
}

impl Linkers {
    /// The functions for guests that read and write there.
    pub(super) fn new(engine: &Engine, stdio: Stdio) -> wasmtime::Result<Linkers> {
        Ok(Linkers {
            modules: modules(engine, stdio)?,
            components: imports::linker(engine, stdio)?,
        })
    }

    /// For code of which engine they are.
    pub(super) fn engine(&self) -> &Engine {
        self.modules.engine()
    }

    /// What core modules find.
    pub(super) fn modules(&self) -> &Linker<TaskState> {
        &self.modules
    }

    /// Resolves the imports of `code`.
    ///
    /// # Errors
    ///
    /// A sentence that names an import which is not provided.
    pub(super) fn link(&self, code: &CompiledCode) -> Result<Artefact, String> {
        let (pre, imports_nn) = match code {
            CompiledCode::Module(module) => {
                (Pre::Module(self.module(module)?), module_imports_nn(module))
            }
            CompiledCode::Component(component) => (
                Pre::Component(imports::link(&self.components, component)?),
                component_imports_nn(component),
            ),
        };
        Ok(Artefact { code: code.clone(), pre, imports_nn })
    }

    fn module(&self, module: &Module) -> Result<InstancePre<TaskState>, String> {
        self.modules.instantiate_pre(module).map_err(|e| {
            let unknown = module
                .imports()
                .filter(|import| matches!(import.ty(), ExternType::Func(_)))
                .map(|import| import.module())
                .find(|name| !MODULES.contains(name));
            match unknown {
                Some(name) => format!(
                    "the module can't be linked: {e:#}; this worker provides {} and knows nothing \
                     of `{name}`",
                    MODULES.join(", ")
                ),
                None => format!("the module can't be linked: {e:#}"),
            }
        })
    }
}

fn modules(engine: &Engine, stdio: Stdio) -> wasmtime::Result<Linker<TaskState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_sync(&mut linker, TaskState::wasi)?;
    wasmtime_wasi::p0::add_to_linker_sync(&mut linker, TaskState::wasi)?;
    crate::nn::add_to_linker(&mut linker, TaskState::nn)?;
    files::shadow(&mut linker)?;
    match stdio {
        Stdio::Captured => sleep::shadow(&mut linker)?,
        // A poll on the terminal must really wait for it.
        Stdio::Inherited => {}
    }
    Ok(linker)
}

fn module_imports_nn(module: &Module) -> bool {
    module.imports().any(|import| import.module() == crate::nn::MODULE)
}

fn component_imports_nn(component: &Component) -> bool {
    let ty = component.component_type();
    ty.imports(component.engine()).any(|(name, _)| {
        name.strip_prefix(imports::NN_PACKAGE).is_some_and(|rest| rest.starts_with('/'))
    })
}
