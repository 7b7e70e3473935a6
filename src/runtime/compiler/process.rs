//! A process that compiles, as the one who started it has it.

use super::super::code::Kind;
use super::wire::{self, CompileAnswer};
use crate::process::no_output;
use anyhow::Context as _;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The verb of the program that becomes such a process; its standard input is
/// the line to it. The argument behind it is the memory that a compile may take.
pub const VERB: &str = "compile-server";

/// What becomes of this process when one that compiles is gone.
#[derive(Clone, Copy, Debug)]
pub enum WhenLost {
    /// It starts another one.
    StartAgain,
    /// It ends in this way, since it may start none: whoever started it starts
    /// it again.
    End(fn() -> !),
}

/// Processes that compile, started and waiting. To be started before this
/// process takes the right to do so from itself. They end with the last clone.
#[derive(Clone)]
pub struct CompileProcesses(Arc<Processes>);

struct Processes {
    program: PathBuf,
    memory: u64,
    lost: WhenLost,
    waiting: Mutex<Vec<Process>>,
}

impl CompileProcesses {
    /// Starts `count` of them, of `program`, which is this one and has the verb
    /// [`VERB`]. A compile may take `memory` bytes.
    ///
    /// # Errors
    ///
    /// The program can't be started.
    pub fn start(
        program: &Path,
        count: usize,
        memory: u64,
        lost: WhenLost,
    ) -> anyhow::Result<CompileProcesses> {
        let waiting = (0..count).map(|_| Process::start(program, memory));
        let waiting = Mutex::new(waiting.collect::<anyhow::Result<_>>()?);
        let program = program.to_owned();
        Ok(CompileProcesses(Arc::new(Processes { program, memory, lost, waiting })))
    }

    /// Bytes that a compile may take.
    pub(super) fn memory(&self) -> u64 {
        self.0.memory
    }

    /// One of them, or a new one.
    pub(super) fn take(&self) -> anyhow::Result<Process> {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match (waiting, self.0.lost) {
            (Some(process), _) => Ok(process),
            (None, WhenLost::StartAgain) => Process::start(&self.0.program, self.0.memory),
            (None, WhenLost::End(end)) => {
                tracing::error!(
                    "a process that compiles is gone, and this one may start none: it ends"
                );
                end()
            }
        }
    }
}

/// One of them.
pub(super) struct Process {
    child: Child,
    line: UnixStream,
}

impl Process {
    fn start(program: &Path, memory: u64) -> anyhow::Result<Process> {
        let (ours, its) = UnixStream::pair().context("a line to the process that compiles")?;
        let child = Command::new(program)
            .arg(VERB)
            .arg(memory.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(no_output().context("an output for the process that compiles")?)
            .spawn()
            .with_context(|| format!("starting {} {VERB}", program.display()))?;
        Ok(Process { child, line: ours })
    }

    /// How what it compiles is ended from another thread.
    pub(super) fn ender(&self) -> io::Result<Ender> {
        self.line.try_clone().map(Ender)
    }

    /// Has it compile; [`Process::answer`] is to be called next.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub(super) fn ask(
        &mut self,
        kind: Kind,
        within: Duration,
        patient: bool,
        binary: &[u8],
    ) -> io::Result<()> {
        wire::request(&mut self.line, kind, within, patient, binary)
    }

    /// Waits for what came of it.
    ///
    /// # Errors
    ///
    /// The process is gone.
    pub(super) fn answer(&mut self) -> io::Result<CompileAnswer> {
        CompileAnswer::receive(&mut self.line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It notices by its line, which others may have a clone of; whether it
        // has gone is nothing to wait for but its number.
        self.line.shutdown(std::net::Shutdown::Both).ok();
        self.child.wait().ok();
    }
}

/// Ends what a process compiles.
pub(in crate::runtime) struct Ender(UnixStream);

impl Ender {
    /// If it compiles no more, nothing happens.
    pub(in crate::runtime) fn end(&self) {
        // A process that is gone has ended it, too.
        wire::end(&mut &self.0).ok();
    }
}
