//! What a guest is, which its author or an operator wants to know before it
//! runs: what it imports and exports, what memory it takes, what this worker
//! lacks for it. It is compiled, and no function of it is called.

use super::code::{CompiledCode, Kind};
use super::component::{imports, signatures};
use super::link::{Linkers, MODULES};
use super::{Stdio, engine, sandbox};
use crate::task::{EntryPoint, Grant, Limits};
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use wasmtime::{ExternType, FuncType, Module};

/// Imports and exports that are told of each.
const MOST: usize = 500;

/// A guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GuestDescription {
    /// `module` or `component`.
    pub kind: &'static str,
    /// What it imports.
    pub imports: Vec<GuestImport>,
    /// What it exports that can be called, with its types.
    pub exports: Vec<String>,
    /// Whether a task runs it without `--invoke`.
    pub command: bool,
    /// Its linear memories, as far as that is told: of a module alone.
    pub memories: Vec<GuestMemory>,
    /// Whether it imports wasi-nn, and loads graphs by name as far as that can
    /// be told.
    pub nn: bool,
    /// See [`GuestDescription::nn`].
    pub loads_by_name: bool,
    /// Whether it opens files.
    pub files: bool,
    /// Whether it asks for sockets or addresses, which no guest gets.
    pub network: bool,
}

/// An import of a guest's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GuestImport {
    /// The module and the name, or the interface.
    pub name: String,
    /// Its type; of an interface nothing.
    pub signature: Option<String>,
    /// Why it is not there, if it is not.
    pub missing: Option<String>,
}

/// A linear memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GuestMemory {
    /// Bytes that it begins with.
    pub minimum: u64,
    /// Bytes that it may grow to by itself.
    pub maximum: Option<u64>,
}

/// What the guest with this code is.
///
/// # Errors
///
/// A sentence: it is no guest, or does not compile.
pub fn inspect(binary: &[u8]) -> Result<GuestDescription, String> {
    let failed = |e: wasmtime::Error| format!("the engine does not start: {e:#}");
    let engines = engine::engines(None, false).map_err(failed)?;
    let linkers = Linkers::new(engines.of(binary), Stdio::Captured).map_err(failed)?;
    let kind = Kind::of(binary)?;
    match CompiledCode::compile(linkers.engine(), kind, binary)? {
        CompiledCode::Module(module) => of_module(&linkers, &module),
        CompiledCode::Component(component) => Ok(of_component(&component)),
    }
}

fn of_module(linkers: &Linkers, module: &Module) -> Result<GuestDescription, String> {
    // The linker is asked with a store, which no guest gets.
    let mut store = sandbox::store(linkers.engine(), &nothing(), None, None, None, &Arc::default())
        .map_err(|e| e.to_string())?;
    let imports = module.imports().take(MOST).map(|import| {
        let (from, name) = (import.module(), import.name());
        let there = linkers.modules().get(&mut store, from, name).is_ok();
        let missing = || match MODULES.contains(&from) {
            true => format!("this worker's `{from}` has no `{name}`"),
            false => format!("this worker provides {} alone", MODULES.join(", ")),
        };
        GuestImport {
            name: format!("{from}.{name}"),
            signature: Some(signature(&import.ty())),
            missing: (!there).then(missing),
        }
    });
    let imports: Vec<_> = imports.collect();
    let has = |from: &str, what: &str| {
        module.imports().any(|import| import.module() == from && import.name().starts_with(what))
    };
    let wasi = |what| MODULES[..2].iter().any(|from| has(from, what));
    let function = |name: &str| matches!(module.get_export(name), Some(ExternType::Func(_)));
    let memories = module.exports().map(|export| export.ty());
    let memories = memories.chain(module.imports().map(|import| import.ty()));
    Ok(GuestDescription {
        kind: "module",
        exports: module
            .exports()
            .take(MOST)
            .map(|export| format!("{}: {}", export.name(), signature(&export.ty())))
            .collect(),
        command: function("_start") || function(""),
        memories: memories
            .filter_map(|ty| {
                let memory = ty.memory()?.clone();
                let bytes = |pages: u64| pages.saturating_mul(memory.page_size());
                Some(GuestMemory {
                    minimum: bytes(memory.minimum()),
                    maximum: memory.maximum().map(bytes),
                })
            })
            .collect(),
        nn: has(crate::nn::MODULE, ""),
        loads_by_name: has(crate::nn::MODULE, "load_by_name"),
        files: wasi("path_open"),
        network: wasi("sock_"),
        imports,
    })
}

fn of_component(component: &Component) -> GuestDescription {
    let engine = component.engine();
    let ty = component.component_type();
    let imports = ty.imports(engine).take(MOST).map(|(name, import)| GuestImport {
        name: name.to_owned(),
        signature: match import.ty {
            ComponentItem::ComponentInstance(_) => None,
            _ => Some("a function or type of its own".to_owned()),
        },
        missing: imports::missing(name),
    });
    let imports: Vec<_> = imports.collect();
    let of = |package: &str| imports.iter().any(|import| import.name.starts_with(package));
    let exports = || ty.exports(engine).map(|(name, _)| name);
    GuestDescription {
        kind: "component",
        exports: signatures(component, MOST),
        command: exports().any(|name| name.split('@').next() == Some("wasi:cli/run")),
        memories: Vec::new(),
        nn: of(imports::NN_PACKAGE),
        loads_by_name: of(&format!("{}/graph", imports::NN_PACKAGE)),
        files: of("wasi:filesystem/"),
        network: of("wasi:sockets/") || of("wasi:http/"),
        imports,
    }
}

fn signature(ty: &ExternType) -> String {
    match ty {
        ExternType::Func(ty) => function(ty),
        ExternType::Global(ty) => format!("global {}", ty.content()),
        ExternType::Table(_) => "table".into(),
        ExternType::Memory(_) => "memory".into(),
        ExternType::Tag(_) => "tag".into(),
    }
}

fn function(ty: &FuncType) -> String {
    let list = |types: Vec<String>| types.join(", ");
    let params = list(ty.params().map(|ty| ty.to_string()).collect());
    let results = list(ty.results().map(|ty| ty.to_string()).collect());
    match results.is_empty() {
        true => format!("func({params})"),
        false => format!("func({params}) -> {results}"),
    }
}

fn nothing() -> Grant {
    Grant {
        args: vec![],
        env: vec![],
        dirs: vec![],
        entry: EntryPoint::Label(String::new()),
        nn: None,
        limits: Limits { timeout: None, run: None, memory: None, output: 0 },
        serving: None,
        notes: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> GuestDescription {
        inspect(&wat::parse_str(text).expect("a module")).expect("a guest")
    }

    #[test]
    fn a_module_is_told_with_its_types_its_memory_and_what_is_missing() {
        let guest = told(
            r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_ephemeral_nn" "load_by_name" (func (param i32 i32 i32) (result i32)))
            (import "wasi_ephemeral_nn" "train" (func))
            (import "env" "sin" (func (param f64) (result f64)))
            (memory (export "memory") 2 16)
            (func (export "classify") (param i32 f32) (result i64) (i64.const 0)))"#,
        );
        assert_eq!((guest.kind, guest.command), ("module", false));
        assert_eq!(
            (guest.nn, guest.loads_by_name, guest.files, guest.network),
            (true, true, true, false)
        );
        let missing: Vec<_> = guest.imports.iter().map(|i| i.missing.is_some()).collect();
        assert_eq!(missing, [false, false, true, true]);
        assert!(guest.imports[2].missing.as_ref().is_some_and(|why| why.contains("no `train`")));
        assert!(guest.imports[3].missing.as_ref().is_some_and(|why| why.contains("alone")));
        assert_eq!(guest.imports[3].signature.as_deref(), Some("func(f64) -> f64"));
        assert!(guest.exports.contains(&"classify: func(i32, f32) -> i64".to_owned()));
        assert_eq!(guest.memories, [GuestMemory { minimum: 128 << 10, maximum: Some(1 << 20) }]);
        assert!(told(r#"(module (func (export "_start")))"#).command);
    }

    #[test]
    fn a_component_is_told_by_its_interfaces() {
        let guest = told(
            r#"(component
            (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance))
            (import "wasi:http/outgoing-handler@0.2.0" (instance))
            (import "wasi:config/store@0.2.0" (instance))
            (core module $m (func (export "f") (param i32) (result i32) (local.get 0)))
            (core instance $i (instantiate $m))
            (func (export "double") (param "n" u32) (result u32)
                (canon lift (core func $i "f"))))"#,
        );
        assert_eq!(
            (guest.kind, guest.command, guest.nn, guest.network),
            ("component", false, true, true)
        );
        let missing: Vec<_> = guest.imports.iter().map(|i| i.missing.is_some()).collect();
        assert_eq!(missing, [false, false, true]);
        assert_eq!(guest.exports, ["double: func(n: u32) -> u32"]);
    }

    #[test]
    fn what_is_no_guest_says_what_it_is() {
        assert!(inspect(b"<html>").expect_err("a page").contains("HTML"));
        assert!(inspect(b"\0asm\x01\0\0\0\xff").expect_err("damaged").contains("does not compile"));
    }
}
