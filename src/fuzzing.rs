//! What may be fuzzed: each target takes any bytes and panics where a promise
//! is broken.
//!
//! `fuzz/` runs them guided by coverage (`cargo fuzz run message`), the tests
//! below with mutations of the same corpus. Not part of the crate's interface:
//! it is there with the feature `fuzzing` alone.

use crate::flags;
use crate::policy::{Policy, Root, Trust};
use crate::protocol::{decode_invoke, decode_start, decode_stop, encode_start};
use crate::task::{Binary, Limits, ModuleSource, TaskId, TaskRequest};
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

pub use crate::nn::fuzz::{nn, onnx, tensorflow, tflite, torchscript, xml};

/// The largest module that [`message`] takes.
const MODULE: usize = 1 << 16;

/// A message of whoever has access to the channel.
pub fn message(data: &[u8]) {
    let _ = (decode_stop(data, "me"), decode_invoke(data, "me"));
    let Ok(Some(task)) = decode_start(data, "me", MODULE) else { return };
    if let Some(ModuleSource::Bytes(module)) = &task.module {
        assert!(module.len() <= MODULE, "a module of {} bytes", module.len());
    }
    // What was read is what would be sent for it.
    let again = decode_start(&encode_start(&task, Some("me")), "me", MODULE);
    assert_eq!(again, Ok(Some(task)));
}

/// The `cli_args` of a task, one a line: what they are granted stays within
/// what the worker has.
pub fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let cli_args: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let _ = flags::parse_command(&cli_args);
    let root = |path: &str, writable| Root { path: path.into(), writable };
    let limits = Limits {
        timeout: Some(Duration::from_secs(300)),
        run: None,
        memory: Some(1 << 29),
        output: 1 << 18,
    };
    let policy = Policy {
        trust: Trust::Remote {
            roots: vec![root("/models", false), root("/data", true), root("/data/in", false)],
        },
        proplet_id: None,
        limits: limits.clone(),
        serving: None,
        private: vec!["/models/own/config.toml".into()],
        kernel: vec!["/proc".into(), "/data/proc".into()],
        module_size: 100,
        working_dir: "/models".into(),
        max_wasm_stack: 1 << 20,
        resolve: lexically,
        subdirectories: |_| Ok(vec!["a".to_owned()]),
    };
    let request = TaskRequest {
        module: Some(ModuleSource::Bytes(Binary::new(*b"\0asm"))),
        cli_args,
        env: BTreeMap::from([("MINE".to_owned(), "1".to_owned())]),
        ..TaskRequest::new(TaskId::new("t").expect("an id"))
    };
    let Ok(spec) = policy.admit(request) else { return };
    let grant = spec.grant();
    for dir in &grant.dirs {
        let (host, readable) = (&dir.host, dir.host.starts_with("/models"));
        assert!(readable || host.starts_with("/data"), "{host:?} was granted");
        assert!(!Path::new("/models/own/config.toml").starts_with(host), "{host:?} was granted");
        let protected = readable || host.starts_with("/data/in") || host == Path::new("/data");
        assert!(!(dir.writable && protected), "{host:?} may be written to");
    }
    for graph in grant.nn.iter().flatten() {
        assert!(graph.dir.starts_with("/models") || graph.dir.starts_with("/data"));
        assert!(!graph.name.is_empty());
    }
    assert_eq!(grant.limits.timeout, limits.timeout);
    assert!(grant.limits.memory.is_some_and(|memory| Some(memory) <= limits.memory));
    assert_eq!(grant.limits.output, limits.output);
}

/// A disk on which every directory exists and none is a link.
fn lexically(path: &Path) -> io::Result<PathBuf> {
    let mut canonical = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                canonical.pop();
            }
            Component::Normal(name) => canonical.push(name),
            _ => {}
        }
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests;
