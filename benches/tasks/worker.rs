//! The program `proplet worker`, as operators start it.

use crate::broker::free_address;
use crate::place::Place;
use anyhow::{Context as _, bail, ensure};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A running worker. Dropping it kills it and takes its state away.
pub struct Worker {
    child: Child,
    pub started: Instant,
    log: Receiver<(Instant, String)>,
    metrics: SocketAddr,
    state: tempfile::TempDir,
}

impl Worker {
    /// With a state directory of its own, unless the settings have one.
    pub fn start(
        place: &Place,
        broker: SocketAddr,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Worker> {
        let metrics = free_address()?;
        let state = tempfile::tempdir_in(place.scratch.path())?;
        let state_dir = state.path().to_string_lossy().into_owned();
        let (broker, port) = (broker.to_string(), metrics.port().to_string());
        let own = [
            ("mqtt-address", broker.as_str()),
            ("metrics-enabled", "true"),
            ("metrics-port", &port),
            ("state-dir", &state_dir),
        ];
        let environment = place.environment(&[&own, settings].concat());
        let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PROPLET_") {
                command.env_remove(name);
            }
        }
        command.arg("worker").envs(environment.variables()).current_dir(environment.working_dir());
        let started = Instant::now();
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("its log")?);
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody may be interested any more.
                sender.send((Instant::now(), line)).ok();
            }
        });
        Ok(Worker { child, started, log, metrics, state })
    }

    /// When it logged a line with this text.
    pub fn logged(&self, text: &str) -> anyhow::Result<Instant> {
        let mut log = Vec::new();
        while let Ok((at, line)) = self.log.recv_timeout(Duration::from_secs(30)) {
            if line.contains(text) {
                return Ok(at);
            }
            log.push(line);
        }
        bail!("the worker did not log `{text}`, but: {}", log.join("\n"))
    }

    /// A counter of its `/metrics`; zero before it is there.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let url = format!("http://{}/metrics", self.metrics);
        let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or("0").parse().context("a number")
    }

    /// Resident memory in MiB of the worker's own process.
    pub fn resident(&self) -> anyhow::Result<f64> {
        resident(self.child.id())
    }

    /// The same with the processes that it has started, where guests and models are.
    pub fn resident_of_all(&self) -> anyhow::Result<f64> {
        // One may have ended meanwhile.
        Ok(self.all()?.into_iter().map(|process| resident(process).unwrap_or(0.0)).sum())
    }

    /// Memory in MiB of all of them in which what several have counts once, and
    /// with it the contents of files that are kept for guests, mapped or not.
    pub fn proportional_with_contents(&self) -> anyhow::Result<f64> {
        let (mut mib, mut contents) = (0.0, HashMap::new());
        for process in self.all()? {
            mib += proportional(process)?;
            for descriptor in fs::read_dir(format!("/proc/{process}/fd"))?.flatten() {
                // It may be closed meanwhile.
                let Ok(name) = fs::read_link(descriptor.path()) else { continue };
                if name.to_string_lossy().starts_with("/memfd:proplet-content-") {
                    let file = fs::metadata(descriptor.path())?;
                    contents.insert(file.ino(), file.len());
                }
            }
        }
        ensure!(!contents.is_empty(), "no content of a file is kept");
        Ok(mib + contents.values().sum::<u64>() as f64 / f64::from(1 << 20))
    }

    /// Its process and those that it has started.
    fn all(&self) -> anyhow::Result<Vec<u32>> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while let Some(&process) = all.get(at) {
            all.extend(children(process)?);
            at += 1;
        }
        Ok(all)
    }

    /// Waits until this many compiled modules and graphs are on the disk.
    pub fn kept(&self, entries: usize) -> anyhow::Result<()> {
        let cache = self.state.path().join("bench-worker/cache");
        let began = Instant::now();
        while finished(&cache)? < entries {
            ensure!(began.elapsed() < Duration::from_secs(30), "nothing is kept on the disk");
            thread::yield_now();
        }
        Ok(())
    }

    /// Ends it in order, and gives the state that it leaves.
    pub fn stop(mut self) -> anyhow::Result<tempfile::TempDir> {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status()?;
        ensure!(kill.success(), "there is no worker to end");
        self.child.wait()?;
        let empty = tempfile::tempdir()?;
        Ok(std::mem::replace(&mut self.state, empty))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn resident(process: u32) -> anyhow::Result<f64> {
    mib(&format!("/proc/{process}/status"), "VmRSS:")
}

fn proportional(process: u32) -> anyhow::Result<f64> {
    mib(&format!("/proc/{process}/smaps_rollup"), "Pss:")
}

/// A size that the system tells in KiB.
fn mib(file: &str, field: &'static str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()).context(field)?.parse()?;
    Ok(kib / 1024.0)
}

fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse() else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let of = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if of.is_some_and(|of| of.trim() == parent.to_string()) {
            found.push(process);
        }
    }
    Ok(found)
}

/// Entries of a cache that are whole: they have the name of a digest and no extension.
/// Those of a process that still runs are in a folder of its own.
fn finished(folder: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    // It comes with the first entry.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        count += match entry.file_type()?.is_dir() {
            true => finished(&entry.path())?,
            false => usize::from(entry.file_name().len() == 64),
        };
    }
    Ok(count)
}
