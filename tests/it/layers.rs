//! The architecture: which module of `src` may use which other one, which
//! libraries stay behind which module, and that no two types which others see share
//! a name. The sources are read, tests of theirs apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The top-level modules from the bottom up: each with all that it may use,
/// which stands above it here. So there is no circle.
const LAYERS: &[(&str, &[&str])] = &[
    // Plain data, and what needs nothing of ours.
    ("digest", &[]),
    ("escape", &[]),
    ("disk", &["digest"]),
    ("directory", &[]),
    ("machine", &[]),
    ("process", &[]),
    ("usage", &[]),
    ("version", &[]),
    ("network", &[]),
    ("certificates", &[]),
    ("flags", &[]),
    ("task", &["digest", "escape"]),
    ("cancel", &[]),
    ("cache", &["cancel"]),
    ("cooldown", &["digest"]),
    // What runs guests. It is to become a process of its own, so that it knows
    // nothing of messages, settings or the journal.
    ("nn", &["cache", "cancel", "cooldown", "digest", "directory", "disk", "task"]),
    (
        "runtime",
        &[
            "cache",
            "cancel",
            "certificates",
            "cooldown",
            "digest",
            "directory",
            "disk",
            "escape",
            "network",
            "nn",
            "process",
            "task",
        ],
    ),
    // What the process that runs them may do.
    // The process that it runs in.
    ("host", &["cancel", "disk", "network", "nn", "process", "runtime", "task", "usage"]),
    // Where code comes from.
    ("sources", &["cache", "cancel", "certificates", "digest", "disk", "network", "task"]),
    // Messages and the line that they come on.
    ("protocol", &["task"]),
    ("mqtt", &["certificates", "task"]),
    // What a task may have, and what is known of it.
    ("policy", &["directory", "flags", "task"]),
    ("queue", &["digest", "task"]),
    ("journal", &["digest", "task"]),
    ("ledger", &["digest", "journal", "mqtt", "protocol", "queue", "task"]),
    ("deploy", &["journal", "protocol", "queue", "task"]),
    ("manager", &["cancel", "certificates", "journal", "ledger", "task"]),
    ("executor", &["cancel", "journal", "queue", "task", "usage"]),
    // What is told of the worker: numbers of the others, no call to them.
    ("metrics", &["journal", "manager", "mqtt", "nn", "runtime", "task", "usage", "version"]),
    ("status", &["metrics"]),
    // What is set: the settings' values are types of those that use them.
    (
        "config",
        &["digest", "flags", "manager", "mqtt", "network", "nn", "process", "protocol", "task"],
    ),
    ("client", &["config", "mqtt", "protocol", "task"]),
    // What wires it all.
    (
        "worker",
        &[
            "cancel",
            "certificates",
            "config",
            "deploy",
            "digest",
            "disk",
            "executor",
            "host",
            "journal",
            "ledger",
            "machine",
            "manager",
            "metrics",
            "mqtt",
            "network",
            "nn",
            "policy",
            "process",
            "protocol",
            "queue",
            "runtime",
            "sources",
            "status",
            "task",
            "usage",
            "version",
        ],
    ),
    (
        "doctor",
        &[
            "config", "host", "journal", "manager", "mqtt", "nn", "policy", "protocol", "runtime",
            "status", "task", "usage", "version", "worker",
        ],
    ),
    ("broker", &[]),
    (
        "cli",
        &[
            "broker", "cancel", "client", "config", "doctor", "escape", "flags", "host", "manager",
            "mqtt", "network", "nn", "policy", "process", "protocol", "runtime", "sources",
            "status", "task", "version", "worker",
        ],
    ),
    ("main", &["cli"]),
    ("fuzzing", &["flags", "nn", "policy", "protocol", "task"]),
];

/// Libraries that are used by these modules alone.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("wasmparser", &["runtime"]),
    ("wasmtime", &["nn", "runtime"]),
    ("wasmtime_wasi", &["runtime"]),
    ("wasmtime_wasi_http", &["runtime"]),
    ("wasmtime_wasi_nn", &["nn"]),
    ("wiggle", &["nn", "runtime"]),
    ("openvino_sys", &["nn"]),
    ("rumqttc", &["mqtt"]),
    ("prometheus_client", &["metrics"]),
    ("oci_client", &["sources"]),
    ("redb", &["journal"]),
    ("rustls_native_certs", &["certificates"]),
    ("ureq", &["config", "manager", "sources", "status"]),
];

/// What the sources of a top-level module use.
#[derive(Default)]
struct Uses {
    /// Paths that begin with `crate::` or `proplet::`: the name behind it.
    ours: BTreeMap<String, BTreeSet<PathBuf>>,
    /// First names of other paths.
    others: BTreeMap<String, BTreeSet<PathBuf>>,
    /// Types that other top-level modules may use: `pub` or `pub(crate)`.
    types: Vec<(String, PathBuf)>,
}

#[test]
fn each_module_uses_only_what_it_may() {
    let modules = sources();
    let listed: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    let found: BTreeSet<&str> = modules.keys().map(String::as_str).collect();
    assert_eq!(found, listed, "the table lists all modules of src, lib.rs apart, and no other");
    let mut wrong = Vec::new();
    for (module, allowed) in LAYERS {
        let ours = &modules[*module].ours;
        let ours = ours.iter().filter(|(name, _)| found.contains(name.as_str()) && name != module);
        let used: BTreeSet<&str> = ours.clone().map(|(name, _)| name.as_str()).collect();
        for (name, files) in ours.filter(|(name, _)| !allowed.contains(&name.as_str())) {
            wrong.push(format!("`{module}` may not use `{name}`: {files:?}"));
        }
        for unused in allowed.iter().filter(|name| !used.contains(*name)) {
            wrong.push(format!(
                "`{module}` does not use `{unused}`: the table says more than needed"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_use_only_those_below_them() {
    let mut below = BTreeSet::new();
    for (module, allowed) in LAYERS {
        for name in *allowed {
            assert!(below.contains(name), "`{module}` uses `{name}`, which is not below it");
        }
        below.insert(module);
    }
}

#[test]
fn libraries_stay_behind_their_modules() {
    let mut wrong = Vec::new();
    for (library, users) in LIBRARIES {
        let mut used = false;
        for (module, uses) in sources() {
            let Some(files) = uses.others.get(*library) else { continue };
            used = true;
            if !users.contains(&module.as_str()) {
                wrong.push(format!("`{module}` may not use `{library}`: {files:?}"));
            }
        }
        assert!(used, "nobody uses `{library}`: the table or the reading of the sources is wrong");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stays within a module may be called as is best there: each format of models
/// has its `Tensor`, each lock its `State`.
#[test]
fn types_that_other_modules_see_have_names_of_their_own() {
    let mut types = BTreeMap::<String, Vec<PathBuf>>::new();
    for (name, file) in sources().into_values().flat_map(|uses| uses.types) {
        types.entry(name).or_default().push(file);
    }
    assert!(types.contains_key("TaskSpec") && types.contains_key("LedgerEvent"), "{types:?}");
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "of each name one type: {types:?}");
}

#[test]
fn paths_are_found_in_every_form() {
    let mut uses = Uses::default();
    let text = "use crate::task::{Outcome, TaskId};\n\
                use crate::{disk::DiskCache, nn};\n\
                fn f() -> crate::queue::Queue { wasmtime::Engine::default(); }\n\
                // crate::client is only spoken of\n\
                /// [`crate::doctor`], too\n\
                pub(crate) enum Verdict { Yes }\n\
                pub(super) struct Inner;\n\
                pub const fn not_a_type() {}\n\
                #[cfg(test)]\n\
                mod tests { use crate::worker; }\n";
    uses.read(text, Path::new("f.rs"));
    let ours: Vec<&str> = uses.ours.keys().map(String::as_str).collect();
    assert_eq!(ours, ["disk", "nn", "queue", "task"]);
    assert!(uses.others.contains_key("wasmtime") && !uses.others.contains_key("crate"));
    assert_eq!(uses.types, [("Verdict".to_owned(), PathBuf::from("f.rs"))]);
}

impl Uses {
    fn read(&mut self, text: &str, file: &Path) {
        // Unit tests stand at the end of a file, and may use what they need.
        let code = match text.split_once("#[cfg(test)]\nmod tests {") {
            Some((code, _)) => code,
            None => text,
        };
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let types = code.lines().filter_map(type_seen_by_others);
        self.types.extend(types.map(|name| (name.to_owned(), file.to_owned())));
        let mut before = "";
        let mut rest = code.as_str();
        while let Some((head, tail)) = rest.split_once("::") {
            let name = &head[head.rfind(|c: char| !is_name(c)).map_or(0, |at| at + 1)..];
            // Not the middle of a path.
            let first = name.len() < head.len() || before.is_empty();
            if first && matches!(name, "crate" | "proplet") {
                for name in first_names(tail) {
                    self.ours.entry(name.to_owned()).or_default().insert(file.to_owned());
                }
            } else if first && !name.is_empty() {
                self.others.entry(name.to_owned()).or_default().insert(file.to_owned());
            }
            (before, rest) = (head, tail);
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The name of the type that a line defines for other modules.
fn type_seen_by_others(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let item = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) "))?;
    let (kind, rest) = item.split_once(' ')?;
    let is_type = matches!(kind, "struct" | "enum" | "trait" | "type" | "union");
    is_type.then(|| &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())])
}

/// The first names of what stands behind `crate::`: one, or those in braces.
fn first_names(text: &str) -> Vec<&str> {
    let name = |text: &'_ str| text.find(|c| !is_name(c)).unwrap_or(text.len());
    let Some(list) = text.strip_prefix('{') else { return vec![&text[..name(text)]] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, Some(0));
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = Some(at + 1),
            c if is_name(c) && start.take().is_some() => {
                names.push(&list[at..at + name(&list[at..])]);
            }
            _ => {}
        }
    }
    names
}

/// What each top-level module of `src` uses.
fn sources() -> BTreeMap<String, Uses> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::<String, Uses>::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            let inner = path.strip_prefix(&src).expect("below src").to_owned();
            if path.is_dir() {
                // Unit tests that have files of their own.
                if !path.ends_with("tests") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
                && inner != Path::new("lib.rs")
            {
                let top = inner.components().next().expect("a name").as_os_str();
                let top = Path::new(top).file_stem().expect("a name").to_string_lossy();
                let text = std::fs::read_to_string(&path).expect("a source");
                modules.entry(top.into_owned()).or_default().read(&text, &inner);
            }
        }
    }
    modules
}
