//! A native library that does what no code of ours stops: it crashes, never
//! comes back, or tries what an attacker would. A library of the tests' own
//! stands in front of OpenVINO and does so when it is told to, or when it reads
//! a model with a layer named `crashes` or `hangs`.

#![allow(dead_code, reason = "part of two test programs, each of which needs some of it")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A folder with the library, and in it `out`, which it may write to.
pub struct Broken {
    folder: tempfile::TempDir,
}

impl Broken {
    /// `assets`: the folder with OpenVINO in `openvino`.
    pub fn new(assets: &Path) -> Broken {
        let openvino = openvino(assets);
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path();
        fs::copy(built(&openvino), path.join("libopenvino_c.so")).expect("copied");
        // Where this leads to may be read, too, and so OpenVINO itself.
        symlink(openvino, path.join("libopenvino_c.so.1")).expect("linked");
        fs::create_dir(path.join("out")).expect("made");
        Broken { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// From now on it does this.
    pub fn order(&self, lines: &[&str]) {
        let (new, order) = (self.path().join("new"), self.path().join("order"));
        fs::write(&new, lines.join("\n")).expect("written");
        fs::rename(new, order).expect("renamed");
    }

    pub fn obey_no_more(&self) {
        fs::remove_file(self.path().join("order")).expect("there was an order");
    }
}

fn openvino(assets: &Path) -> PathBuf {
    let folder = assets.join("openvino/libs");
    let files = fs::read_dir(&folder).expect("OpenVINO").flatten().map(|file| file.path());
    let is = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with("libopenvino_c.so")
    };
    files.into_iter().find(is).expect("its C library")
}

/// What a library's file has of OpenVINO's functions, with a space around each.
fn names(library: &Path) -> String {
    let file = fs::read(library).expect("OpenVINO's C library");
    let texts = file.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let name = |text: &&str| {
        let mut rest = text.bytes();
        text.starts_with("ov_") && rest.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    texts.filter(name).fold(" ".to_owned(), |names, name| names + name + " ")
}

/// The library, built once.
fn built(openvino: &Path) -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a directory");
        let library = folder.path().join("libopenvino_c.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken/library.rs");
        let built = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition=2024", "--crate-name=broken", "--crate-type=cdylib"])
            .args(["-Cpanic=abort", "-Clink-arg=-Wl,--no-as-needed"])
            .arg(format!("-Clink-arg={}", openvino.display()))
            .arg(format!(
                "-Clink-arg=-Wl,-rpath,{}",
                openvino.parent().expect("a folder").display()
            ))
            .arg("-o")
            .arg(&library)
            .arg(source)
            .env("OPENVINO", openvino)
            .env("NAMES", names(openvino))
            .output()
            .expect("rustc starts: cargo, which started this, has it");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        (folder, library)
    });
    library
}
