//! What a component comes to when each component in it is instantiated as often
//! as it is asked for.
//!
//! The engine unrolls all of it before it compiles, and counts afterwards. With
//! two instances of the next component in each of forty, a kilobyte comes to 10¹²
//! of them: memory and time of the machine. So this counts before.

use crate::runtime::engine::MAX_CORE_INSTANCES;
use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, Instance,
    Parser, Payload,
};

/// Definitions (types, aliases, functions, instances with their arguments) of a
/// component, those of the components in it counted as often as these are
/// instantiated. A command of WASI has some hundreds, an interpreter some
/// thousands.
pub(in crate::runtime) const MAX_ITEMS: u64 = 100_000;

/// What one instance of a component comes to.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Instances of core modules.
    modules: u64,
    /// Definitions.
    items: u64,
}

impl Cost {
    fn add(&mut self, more: Cost) {
        self.modules = self.modules.saturating_add(more.modules);
        self.items = self.items.saturating_add(more.items);
    }
}

/// A component that is being read.
#[derive(Default)]
struct Scope {
    /// By index; none for one that comes from outside, which nobody knows yet.
    components: Vec<Option<Cost>>,
    cost: Cost,
}

impl Scope {
    fn items(&mut self, count: usize) {
        self.cost.add(Cost { modules: 0, items: count as u64 });
    }
}

/// Whether `binary`, a component, stays within what one may come to. What can't
/// be read is left to the compiler to explain.
///
/// # Errors
///
/// A sentence for the task's result.
pub(in crate::runtime) fn check(binary: &[u8]) -> Result<(), String> {
    // Within a module there is no scope.
    let mut scopes: Vec<Option<Scope>> = Vec::new();
    for payload in Parser::new(0).parse_all(binary) {
        let Ok(payload) = payload else { return Ok(()) };
        if let Payload::Version { encoding, .. } = payload {
            let component = encoding == wasmparser::Encoding::Component;
            scopes.push(component.then(Scope::default));
            continue;
        }
        if let Payload::End(_) = payload {
            let ended = scopes.pop().flatten();
            let Some(outer) = scopes.last_mut() else { return Ok(()) };
            if let (Some(outer), Some(ended)) = (outer, ended) {
                outer.components.push(Some(ended.cost));
            }
            continue;
        }
        if read(&mut scopes, payload)?.is_none() {
            return Ok(());
        }
        let Some(Some(Scope { cost, .. })) = scopes.last() else { continue };
        within(*cost)?;
    }
    Ok(())
}

fn within(cost: Cost) -> Result<(), String> {
    let modules = u64::from(MAX_CORE_INSTANCES);
    let (what, limit) = if cost.modules > modules {
        ("modules instantiated", modules)
    } else if cost.items > MAX_ITEMS {
        ("definitions", MAX_ITEMS)
    } else {
        return Ok(());
    };
    Err(format!(
        "the component is too large: it comes to more than {limit} {what}, the components in it \
         counted as often as they are instantiated"
    ))
}

/// Takes a section of the innermost component into account; none if it can't be
/// read.
fn read(scopes: &mut [Option<Scope>], payload: Payload<'_>) -> Result<Option<()>, String> {
    let Some((Some(scope), outer)) = scopes.split_last_mut() else { return Ok(Some(())) };
    match payload {
        Payload::InstanceSection(instances) => {
            for instance in instances {
                match instance {
                    Ok(Instance::Instantiate { args, .. }) => {
                        scope.cost.add(Cost { modules: 1, items: 1 });
                        scope.items(args.len());
                    }
                    Ok(Instance::FromExports(exports)) => scope.items(1 + exports.len()),
                    Err(_) => return Ok(None),
                }
                within(scope.cost)?;
            }
        }
        Payload::ComponentInstanceSection(instances) => {
            for instance in instances {
                match instance {
                    Ok(ComponentInstance::Instantiate { component_index, args }) => {
                        match scope.components.get(component_index as usize) {
                            Some(Some(cost)) => scope.cost.add(*cost),
                            Some(None) => return Err(FOREIGN.into()),
                            None => return Ok(None),
                        }
                        scope.items(1 + args.len());
                    }
                    Ok(ComponentInstance::FromExports(exports)) => {
                        scope.items(1 + exports.len());
                    }
                    Err(_) => return Ok(None),
                }
                within(scope.cost)?;
            }
        }
        Payload::ComponentAliasSection(aliases) => {
            for alias in aliases {
                scope.items(1);
                let found = match alias {
                    Ok(ComponentAlias::Outer {
                        kind: ComponentOuterAliasKind::Component,
                        count,
                        index,
                    }) => match (count as usize).checked_sub(1) {
                        None => scope.components.get(index as usize).copied(),
                        Some(above) => outer
                            .iter()
                            .rev()
                            .nth(above)
                            .and_then(Option::as_ref)
                            .and_then(|scope| scope.components.get(index as usize).copied()),
                    },
                    Ok(ComponentAlias::InstanceExport {
                        kind: ComponentExternalKind::Component,
                        ..
                    }) => Some(None),
                    Ok(_) => continue,
                    Err(_) => return Ok(None),
                };
                let Some(component) = found else { return Ok(None) };
                scope.components.push(component);
            }
        }
        Payload::ComponentImportSection(imports) => {
            for import in imports {
                let Ok(import) = import else { return Ok(None) };
                scope.items(1);
                if import.ty.kind() == ComponentExternalKind::Component {
                    scope.components.push(None);
                }
            }
        }
        Payload::ComponentExportSection(exports) => {
            for export in exports {
                let Ok(export) = export else { return Ok(None) };
                scope.items(1);
                if export.kind == ComponentExternalKind::Component {
                    // It has an index of its own from here on.
                    let Some(component) = scope.components.get(export.index as usize) else {
                        return Ok(None);
                    };
                    scope.components.push(*component);
                }
            }
        }
        Payload::ComponentTypeSection(types) => scope.items(types.count() as usize),
        Payload::CoreTypeSection(types) => scope.items(types.count() as usize),
        Payload::ComponentCanonicalSection(functions) => scope.items(functions.count() as usize),
        _ => {}
    }
    Ok(Some(()))
}

/// Tools that link components give each other instances, not components.
const FOREIGN: &str = "the component instantiates a component that it imports, or one that an \
                       instance exports, which is not supported: put it inside when it is built";

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        check(&wat::parse_str(text).expect("a component"))
    }

    /// Components in components, each of which has two of the next.
    fn nested(depth: usize, innermost: &str) -> String {
        let mut text = innermost.to_owned();
        for _ in 0..depth {
            text = format!(
                "(component $c {text}) (instance (instantiate $c)) (instance (instantiate $c))"
            );
        }
        format!("(component {text})")
    }

    const MODULE: &str = "(core module $m) (core instance (instantiate $m))";

    #[test]
    fn what_is_nested_counts_as_often_as_it_is_instantiated() {
        assert_eq!(checked(&nested(8, MODULE)), Ok(()), "256 of them");
        for depth in [9, 40, 60] {
            let error = checked(&nested(depth, MODULE)).expect_err("too many");
            assert!(error.contains("more than 256 modules"), "{depth}: {error}");
        }
        for depth in [17, 60] {
            let error = checked(&nested(depth, "")).expect_err("too many");
            assert!(error.contains("more than 100000 definitions"), "{depth}: {error}");
        }
    }

    #[test]
    fn what_is_never_instantiated_does_not_count() {
        // Each comes to 256 modules.
        let twice = nested(8, MODULE).repeat(2);
        assert_eq!(checked(&format!("(component {twice})")), Ok(()));
        let many = "(core instance (instantiate $m))".repeat(300);
        assert!(checked(&format!("(component (core module $m) {many})")).is_err());
    }

    #[test]
    fn aliases_and_exports_lead_to_the_component_they_name() {
        // Each doubles through an alias to the component outside, or its export.
        let alias = "(component $a (core module $m) (core instance (instantiate $m)))
            (component $b
                (alias outer 1 $a (component $x))
                (export $y \"y\" (component $x))
                (instance (instantiate $x)) (instance (instantiate $y)))";
        let instances = "(instance (instantiate $b))".repeat(128);
        assert_eq!(checked(&format!("(component {alias} {instances})")), Ok(()));
        let instances = "(instance (instantiate $b))".repeat(129);
        assert!(checked(&format!("(component {alias} {instances})")).is_err());
    }

    #[test]
    fn a_component_from_outside_is_not_instantiated() {
        let text = r#"(component
            (component $f (import "c" (component $c)) (instance (instantiate $c)))
            (component $c)
            (instance (instantiate $f (with "c" (component $c)))))"#;
        assert!(checked(text).expect_err("foreign").contains("put it inside"));
    }

    #[test]
    fn what_can_not_be_read_is_for_the_compiler() {
        let whole = wat::parse_str(nested(3, MODULE)).expect("a component");
        for length in 8..whole.len() {
            assert_eq!(check(&whole[..length]), Ok(()), "{length}");
        }
    }
}
