//! Calls of a component's exported functions: which one a name means, with
//! values as WAVE texts in and out.

use super::wave;
use crate::runtime::CallError;
use crate::runtime::sandbox::TaskState;
use crate::task::{EntryPoint, Failure};
use std::fmt;
use wasmtime::Store;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Val};

/// What a component exports to be run as a command: no function for a name.
const COMMAND: &str = "wasi:cli/run";

/// The most functions that a message lists, and the most bytes of each.
const MAX_LISTED: usize = 20;
const MAX_SIGNATURE: usize = 600;

/// What a task calls in a component.
pub(in crate::runtime) enum Target {
    /// `wasi:cli/run`.
    Command,
    /// An exported function.
    Function(Box<Function>),
}

/// An exported function.
pub(in crate::runtime) struct Function {
    /// `function` or `interface#function`.
    name: String,
    index: ComponentExportIndex,
    ty: ComponentFunc,
    /// The values as the call has them, from `(` on, where it is written out.
    written: Option<String>,
}

impl Function {
    /// `name: func(a: string) -> u32`, as far as a message goes.
    fn signature(&self) -> String {
        let params: Vec<_> = self
            .ty
            .params()
            .take(MAX_LISTED)
            .map(|(name, ty)| format!("{name}: {}", wave::type_text(&ty)))
            .collect();
        let result = self.ty.results().next();
        let result = result.map_or(String::new(), |ty| format!(" -> {}", wave::type_text(&ty)));
        let mut text = format!("{}: func({}){result}", self.name, params.join(", "));
        if text.len() > MAX_SIGNATURE {
            text.truncate(text.floor_char_boundary(MAX_SIGNATURE));
            text.push_str("...");
        }
        format!("`{text}`")
    }
}

/// What the entry of a task means for this component, and a sentence for the
/// task's diagnostics if its name is no export.
///
/// # Errors
///
/// `--invoke` names no function, or more than one.
pub(in crate::runtime) fn target(
    component: &Component,
    entry: &EntryPoint,
) -> Result<(Target, Option<String>), Failure> {
    match entry {
        EntryPoint::Invoke(call) => {
            let (name, written) = match call.find('(') {
                Some(open) => (call[..open].trim_end(), Some(call[open..].trim_end().to_owned())),
                None => (call.as_str(), None),
            };
            let mut found = find(component, name);
            match (found.pop(), found.as_slice()) {
                (Some(function), []) => {
                    Ok((Target::Function(Box::new(Function { written, ..function })), None))
                }
                (None, _) => Err(Failure::Module(format!(
                    "`--invoke {call}`: the component exports no such function; it exports {}",
                    exports(component)
                ))),
                (Some(last), others) => Err(Failure::Module(format!(
                    "`--invoke {call}`: several interfaces have that function: say which one of {}",
                    listed(others.iter().chain([&last]))
                ))),
            }
        }
        // What managers write there that is meant for no function.
        EntryPoint::Label(label)
            if label.is_empty() || label == "_start" || label.starts_with("fl-round-") =>
        {
            Ok((Target::Command, None))
        }
        EntryPoint::Label(label) => {
            let mut found = find(component, label);
            Ok(match (found.pop(), found.as_slice()) {
                (Some(function), []) => (Target::Function(Box::new(function)), None),
                (None, _) => {
                    let note = || {
                        format!(
                            "the task's name `{label}` is not a function that the component exports: \
                             it ran as a command"
                        )
                    };
                    (Target::Command, may_be_a_function(label).then(note))
                }
                (Some(last), others) => {
                    let note = format!(
                        "the task's name `{label}` is that of several functions: it ran as a \
                         command, not as one of {}",
                        listed(others.iter().chain([&last]))
                    );
                    (Target::Command, Some(note))
                }
            })
        }
    }
}

/// Whether a function could have that name: not a file's, and not a title's.
fn may_be_a_function(label: &str) -> bool {
    let name = label.rsplit('#').next().unwrap_or_default();
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Calls the function in a fresh instance, which ends with its post-return, and
/// gives its value as text to `print`, in pieces.
pub(super) fn call(
    store: &mut Store<TaskState>,
    pre: &InstancePre<TaskState>,
    function: &Function,
    inputs: &[String],
    print: &mut dyn FnMut(&[u8]),
) -> Result<(), CallError> {
    let values = values(function, inputs).map_err(|why| {
        CallError::Refused(Failure::Module(format!("{why}; it is {}", function.signature())))
    })?;
    let instance = pre.instantiate(&mut *store).map_err(CallError::Guest)?;
    let gone = || wasmtime::Error::msg("the instance lacks a function that its component exports");
    let func =
        instance.get_func(&mut *store, function.index).ok_or_else(|| CallError::Guest(gone()))?;
    let mut results = vec![Val::Bool(false); function.ty.results().len()];
    func.call(&mut *store, &values, &mut results).map_err(CallError::Guest)?;
    for value in &results {
        wave::write(value, &mut Printed(print))
            .map_err(|why| CallError::Guest(wasmtime::Error::msg(why)))?;
        print(b"\n");
    }
    Ok(())
}

fn values(function: &Function, inputs: &[String]) -> Result<Vec<Val>, String> {
    let name = &function.name;
    if !function.ty.results().all(|ty| wave::has_text(&ty)) {
        return Err(format!("`{name}` can't be called by name: what it returns has no text"));
    }
    let params: Vec<_> = function.ty.params().collect();
    let values = match &function.written {
        Some(_) if !inputs.is_empty() => {
            return Err(format!(
                "the call of `{name}` has its values written out, and the task has {} inputs, too",
                inputs.len()
            ));
        }
        Some(text) => wave::arguments(&params, text),
        None if inputs.len() != params.len() => {
            return Err(format!(
                "`{name}` takes {} values, and the task has {} inputs",
                params.len(),
                inputs.len()
            ));
        }
        None => wave::values(&params, inputs),
    };
    values.map_err(|why| format!("`{name}`: {why}"))
}

/// The functions that `name` may mean: one of the component's own, or
/// `interface#function`, or one of any interface.
fn find(component: &Component, name: &str) -> Vec<Function> {
    if let Some((interface, function)) = name.split_once('#') {
        return interfaces(component)
            .filter(|full| {
                let bare = full.split_once('@').map_or(full.as_str(), |(bare, _)| bare);
                full == interface || bare == interface
            })
            .filter_map(|full| within(component, &full, function))
            .collect();
    }
    if let Some((ComponentItem::ComponentFunc(ty), index)) = component.get_export(None, name) {
        return vec![Function { name: name.to_owned(), index, ty, written: None }];
    }
    interfaces(component).filter_map(|interface| within(component, &interface, name)).collect()
}

fn within(component: &Component, interface: &str, name: &str) -> Option<Function> {
    let parent = component.get_export_index(None, interface)?;
    match component.get_export(Some(&parent), name)? {
        (ComponentItem::ComponentFunc(ty), index) => {
            Some(Function { name: format!("{interface}#{name}"), index, ty, written: None })
        }
        _ => None,
    }
}

/// The names of the interfaces whose functions can be called.
fn interfaces(component: &Component) -> impl Iterator<Item = String> {
    let ty = component.component_type();
    let names: Vec<String> = ty
        .exports(component.engine())
        .filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentInstance(_)))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.split('@').next() != Some(COMMAND))
        .collect();
    names.into_iter()
}

/// What a component exports that can be called, with the types.
pub(super) fn exports(component: &Component) -> String {
    let functions = functions(component, MAX_LISTED + 1);
    match functions.len() {
        0 => "no function at all".to_owned(),
        _ => listed(functions.iter()),
    }
}

/// The same, one each and at most so many.
pub(in crate::runtime) fn signatures(component: &Component, most: usize) -> Vec<String> {
    let functions = functions(component, most).into_iter();
    functions.map(|function| function.signature().trim_matches('`').to_owned()).collect()
}

fn functions(component: &Component, most: usize) -> Vec<Function> {
    let ty = component.component_type();
    let mut functions = Vec::new();
    for (name, export) in ty.exports(component.engine()) {
        match export.ty {
            ComponentItem::ComponentFunc(_) => functions.extend(find(component, name)),
            ComponentItem::ComponentInstance(instance)
                if name.split('@').next() != Some(COMMAND) =>
            {
                let all = instance.exports(component.engine());
                functions.extend(all.filter_map(|(func, _)| within(component, name, func)));
            }
            _ => {}
        }
        if functions.len() >= most {
            break;
        }
    }
    functions.truncate(most);
    functions
}

fn listed<'a>(functions: impl Iterator<Item = &'a Function>) -> String {
    let mut signatures: Vec<_> = functions.take(MAX_LISTED + 1).map(Function::signature).collect();
    if signatures.len() > MAX_LISTED {
        signatures.truncate(MAX_LISTED);
        signatures.push("more".to_owned());
    }
    signatures.join(", ")
}

/// Text that is printed as it comes: a value may be larger than is kept.
struct Printed<'a>(&'a mut dyn FnMut(&[u8]));

impl fmt::Write for Printed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.0)(text.as_bytes());
        Ok(())
    }
}
