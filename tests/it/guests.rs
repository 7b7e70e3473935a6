//! The compiled guests against their sources.

use crate::support::fixtures;
use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Paths below `dir`, with `/`, of what goes into the guests.
fn sources(root: &Path, dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" {
                sources(root, &path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "wit")
            || name == "Cargo.toml"
            || name == "Cargo.lock"
        {
            let below = path.strip_prefix(root).expect("below the root");
            found.push(below.to_str().expect("text").to_owned());
        }
    }
}

#[test]
fn the_compiled_guests_are_those_of_the_sources() {
    let root = fixtures().join("guests");
    let mut found = Vec::new();
    sources(&root, &root, &mut found);
    found.sort_unstable();
    let lines: String = found
        .iter()
        .map(|path| {
            let digest = Sha256::digest(std::fs::read(root.join(path)).expect("a source"));
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}  {path}\n")
        })
        .collect();
    let recorded = std::fs::read_to_string(root.join("bin/SOURCES.sha256")).expect("the record");
    assert_eq!(
        lines, recorded,
        "fixtures/guests has changed since bin/ was built: run fixtures/guests/build.sh"
    );
    let modules = [
        "classification",
        "by-name",
        "file-type",
        "logistic",
        "classify",
        "voice",
        "read",
        "faces",
    ]
    .map(|guest| (guest, b"\x01\0\0\0"));
    let components = [
        "classification-component",
        "classify-component",
        "voice-component",
        "typed",
        "http",
        "http-image",
    ]
    .map(|guest| (guest, b"\x0d\0\x01\0"));
    for (guest, version) in modules.into_iter().chain(components) {
        let binary = std::fs::read(root.join(format!("bin/{guest}.wasm"))).expect("a guest");
        assert_eq!(binary[..8], [*b"\0asm", *version].concat(), "{guest}");
    }
}
