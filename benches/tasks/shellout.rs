//! The way that tasks with wasi-nn go without this worker: the guest is
//! written to a file, and `wasmtime run` does the rest and forgets it.

use crate::broker::program;
use crate::place::{Place, guest};
use anyhow::{Context as _, ensure};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// What `wasmtime` remembers of earlier runs: it keeps compiled modules under
/// its user's cache directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Own,
    Empty,
}

/// The `wasmtime` command with OpenVINO.
pub struct Shellout {
    wasmtime: PathBuf,
    folder: PathBuf,
    libs: PathBuf,
}

impl Shellout {
    /// None if there is no `wasmtime`.
    pub fn find(place: &Place) -> anyhow::Result<Option<Shellout>> {
        let Some(wasmtime) = program("PROPLET_BENCH_WASMTIME", "wasmtime") else {
            return Ok(None);
        };
        let folder = place.scratch.path().join("shell-out");
        let libs = folder.join("libs");
        if !libs.exists() {
            fs::create_dir_all(&libs)?;
            symlink(&place.mobilenet, folder.join("fixture"))?;
            symlink(&place.mobilenet, folder.join("mobilenet"))?;
            // It looks for the C library by its unversioned name alone.
            for entry in fs::read_dir(&place.libs)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                symlink(entry.path(), libs.join(&name))?;
                if name.starts_with("libopenvino_c.so.") {
                    symlink(entry.path(), libs.join("libopenvino_c.so"))?;
                }
            }
        }
        Ok(Some(Shellout { wasmtime, folder, libs }))
    }

    pub fn by_bytes(&self, memory: Memory) -> anyhow::Result<Duration> {
        self.run("classification", "nn", memory)
    }

    pub fn by_name(&self, memory: Memory) -> anyhow::Result<Duration> {
        self.run("by-name", "nn,nn-graph=openvino::mobilenet", memory)
    }

    /// A guest that does nothing.
    pub fn nothing(&self) -> anyhow::Result<Duration> {
        let module =
            wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#)?;
        Ok(self.output("nothing", &module, "nn", Memory::Own)?.0)
    }

    fn run(&self, name: &str, wasi: &str, memory: Memory) -> anyhow::Result<Duration> {
        let (took, output) = self.output(name, &guest(name)?, wasi, memory)?;
        ensure!(
            output.stdout.windows(15).any(|w| w == b"InferenceResult"),
            "{name} printed no result: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }

    fn output(
        &self,
        name: &str,
        module: &[u8],
        wasi: &str,
        memory: Memory,
    ) -> anyhow::Result<(Duration, Output)> {
        let empty = tempfile::tempdir()?;
        let mut command = Command::new(&self.wasmtime);
        if memory == Memory::Empty {
            command.env("XDG_CACHE_HOME", empty.path());
        }
        let began = Instant::now();
        let file = self.folder.join(format!("{name}.wasm"));
        fs::write(&file, module)?;
        let output = command
            .args(["run", "-S", wasi, "--dir=fixture"])
            .arg(&file)
            .current_dir(&self.folder)
            .env("LD_LIBRARY_PATH", &self.libs)
            .output()
            .with_context(|| self.wasmtime.display().to_string())?;
        let took = began.elapsed();
        ensure!(
            output.status.success(),
            "{} failed: {}",
            self.wasmtime.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok((took, output))
    }
}
