//! Stamps what `--version` and the discovery message tell: the commit, the
//! wasi-nn backends of this build, and the versions of Wasmtime and rten. With
//! `pytorch` it makes the library around libtorch, a file of its own.

use std::process::Command;

#[cfg(feature = "pytorch")]
#[path = "src/nn/backends/torch/build.rs"]
mod torch;

fn main() {
    println!("cargo::rustc-env=PROPLET_COMMIT={}", commit());
    let built = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let backends = [("PYTORCH", "torch"), ("OPENVINO", "openvino"), ("ONNX", "rten")];
    let backends: Vec<_> = backends.iter().filter(|(f, _)| built(f)).map(|(_, b)| *b).collect();
    let backends = if backends.is_empty() { "none".to_owned() } else { backends.join(", ") };
    println!("cargo::rustc-env=PROPLET_BACKENDS={backends}");
    println!("cargo::rustc-env=PROPLET_WASMTIME={}", locked("wasmtime"));
    println!("cargo::rustc-env=PROPLET_RTEN={}", locked("rten"));
    #[cfg(feature = "pytorch")]
    if let Err(error) = torch::build() {
        println!("cargo::error={error}");
    }
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=build.rs");
}

/// The commit, or `unknown` where the sources come without their history and
/// nobody says which they are (an image is built from sources alone).
fn commit() -> String {
    println!("cargo::rerun-if-env-changed=PROPLET_BUILD_COMMIT");
    if let Some(commit) = std::env::var("PROPLET_BUILD_COMMIT").ok().filter(|c| !c.is_empty()) {
        return commit;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            // A path that is not there would run this at every build.
            if std::path::Path::new(&path).exists() {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

/// A crate with the version that the lock file names.
fn locked(name: &str) -> String {
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let entry = format!("name = \"{name}\"");
    let mut lines = lock.lines().skip_while(|line| *line != entry).skip(1);
    let version =
        lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"))
}
