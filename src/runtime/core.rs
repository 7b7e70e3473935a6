//! Core modules: which function of an instance a task means, and calling it
//! as `wasmtime run` does.

use super::CallError;
use crate::task::{EntryPoint, Failure};
use wasmtime::{AsContextMut, Func, Instance, Store, Val, ValType};

/// The default function of a module, in the order of preference.
const DEFAULTS: [&str; 2] = ["", "_start"];
const INITIALIZE: &str = "_initialize";

/// Calls the task's function with `inputs` as positional values if it takes
/// any, after `_initialize` if there is one. Returns a line for each result.
pub(super) fn call<T>(
    store: &mut Store<T>,
    instance: Instance,
    entry: &EntryPoint,
    inputs: &[String],
) -> Result<Vec<String>, CallError> {
    let (name, func) = find(store, instance, entry).map_err(CallError::Refused)?;
    let ty = func.ty(&*store);
    let params: Vec<ValType> = ty.params().collect();
    let args = values(&name, &params, inputs).map_err(CallError::Refused)?;
    let mut results = vec![Val::I32(0); ty.results().len()];
    if let Some(initialize) = instance.get_func(&mut *store, INITIALIZE) {
        initialize
            .typed::<(), ()>(&*store)
            .and_then(|f| f.call(store.as_context_mut(), ()))
            .map_err(CallError::Guest)?;
    }
    func.call(store.as_context_mut(), &args, &mut results).map_err(CallError::Guest)?;
    Ok(results.iter().map(render).collect())
}

fn find<T>(
    store: &mut Store<T>,
    instance: Instance,
    entry: &EntryPoint,
) -> Result<(String, Func), Failure> {
    let mut get = |name: &str| Some((name.to_owned(), instance.get_func(&mut *store, name)?));
    let found = match entry {
        EntryPoint::Invoke(name) => get(name),
        EntryPoint::Label(label) => Some(label.as_str())
            .filter(|label| *label != INITIALIZE)
            .and_then(&mut get)
            .or_else(|| DEFAULTS.into_iter().find_map(&mut get)),
    };
    found.ok_or_else(|| {
        let exports: Vec<_> = instance
            .exports(&mut *store)
            .filter_map(|export| {
                let name = export.name().to_owned();
                export.into_func().map(|_| format!("`{name}`"))
            })
            .collect();
        let exports = match exports.len() {
            0 => "no function at all".to_owned(),
            _ => exports.join(", "),
        };
        Failure::Module(match entry {
            EntryPoint::Invoke(name) => {
                format!(
                    "`--invoke {name}`: the module exports no such function; it exports {exports}"
                )
            }
            EntryPoint::Label(_) => format!(
                "the module has neither a default export nor `_start`; it exports {exports}: \
                 name one with `--invoke`"
            ),
        })
    })
}

fn values(name: &str, params: &[ValType], inputs: &[String]) -> Result<Vec<Val>, Failure> {
    // A command reads them from argv.
    if params.is_empty() {
        return Ok(Vec::new());
    }
    if params.len() != inputs.len() {
        return Err(Failure::Module(format!(
            "the function `{name}` takes {} values ({}), and the task has {} inputs",
            params.len(),
            params.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            inputs.len()
        )));
    }
    let parse = |(ty, input): (&ValType, &String)| {
        value(ty, input).ok_or_else(|| {
            Failure::Module(format!("the function `{name}` takes a {ty}, which `{input}` is not"))
        })
    };
    params.iter().zip(inputs).map(parse).collect()
}

fn value(ty: &ValType, input: &str) -> Option<Val> {
    Some(match ty {
        // Both halves of the range: WebAssembly's integers have no sign.
        ValType::I32 => Val::I32(
            input.parse().ok().or_else(|| input.parse::<u32>().ok().map(u32::cast_signed))?,
        ),
        ValType::I64 => Val::I64(
            input.parse().ok().or_else(|| input.parse::<u64>().ok().map(u64::cast_signed))?,
        ),
        ValType::F32 => Val::F32(input.parse::<f32>().ok()?.to_bits()),
        ValType::F64 => Val::F64(input.parse::<f64>().ok()?.to_bits()),
        ValType::V128 | ValType::Ref(_) => return None,
    })
}

/// As `wasmtime run` prints it.
fn render(value: &Val) -> String {
    match value {
        Val::I32(i) => i.to_string(),
        Val::I64(i) => i.to_string(),
        Val::F32(bits) => f32::from_bits(*bits).to_string(),
        Val::F64(bits) => f64::from_bits(*bits).to_string(),
        Val::V128(v) => v.as_u128().to_string(),
        _ => "<reference>".to_owned(),
    }
}
