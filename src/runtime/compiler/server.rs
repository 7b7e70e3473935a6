//! The process that compiles: it has one thread, and for each request it forks
//! one that does the work, confined, with a limit of memory and of time. So a
//! compile can be ended, and what it takes is given back, whatever Cranelift
//! does. The fork finds the engines ready, where a new program would take
//! twenty times as long to get there.

use super::super::code::{CompiledCode, Kind};
use super::super::engine;
use super::STACK;
use super::wire::{self, CompileAnswer, CompileRequest};
use anyhow::{Context as _, anyhow};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use wasmtime::Engine;

/// Serves whoever has the other end of `line`, until that is closed. `confine`
/// is called in each process that compiles, before anything else. Never starts
/// a thread, and must be called where there is no other one.
///
/// # Errors
///
/// There are no engines, or the line broke within a message.
pub fn serve(mut line: UnixStream, confine: &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let engines =
        engine::engines(None, false).map_err(|e| anyhow!("creating the engines: {e:#}"))?;
    while let Some(request) = wire::next(&mut line).context("reading what to compile")? {
        let CompileRequest::Compile { kind, within, patient, binary } = request else { continue };
        let work = || {
            if patient {
                // Without it, it is only less polite.
                rustix::process::nice(10).ok();
            }
            match confine() {
                Ok(()) => compile(engines.of(&binary), kind, binary.clone()),
                Err(e) => Err(format!("the compiler can't be confined: {e:#}")),
            }
        };
        let Some(answer) = supervise(&line, within, work)? else { return Ok(()) };
        answer.send(&mut line).context("sending what was compiled")?;
    }
    Ok(())
}

/// On a thread with a stack that Cranelift has enough of.
fn compile(engine: &Engine, kind: Kind, binary: Vec<u8>) -> Result<Vec<u8>, String> {
    let engine = engine.clone();
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || CompiledCode::precompile(&engine, kind, &binary))
        .map_err(|e| format!("starting the thread that compiles: {e}"))?
        .join()
        .unwrap_or_else(|_| Err("the compiler panicked on this code; see the log".into()))
}

/// What a forked process has to say: whether it went well, and the rest.
const WELL: u8 = 0;
const REFUSED: u8 = 1;

/// Has `work` done by a fork, and ends it after `within` or when the other end
/// of `line` says so. None: that end was closed.
fn supervise(
    line: &UnixStream,
    within: Duration,
    work: impl FnOnce() -> Result<Vec<u8>, String>,
) -> anyhow::Result<Option<CompileAnswer>> {
    let (mut told, mut tell) = UnixStream::pair().context("a line to the compiler")?;
    // SAFETY: this process has one thread, so that no lock is held by another
    // one that the child does not have.
    #[allow(unsafe_code, reason = "the standard library has no fork")]
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()).context("starting a compiler"),
        0 => {
            drop(told);
            work_in_child(&mut tell, work)
        }
        child => Child(child),
    };
    drop(tell);
    let deadline = Instant::now().checked_add(within);
    let mut said = Vec::new();
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Some(CompileAnswer::Late));
        }
        let [child_spoke, line_spoke] = wait([&told, line], left)?;
        if line_spoke {
            let mut what = [0];
            // Either all that can come meanwhile, or the end.
            return match (&*line).read(&mut what)? {
                0 => Ok(None),
                _ => Ok(Some(CompileAnswer::Ended)),
            };
        }
        if child_spoke {
            let mut part = vec![0; 1 << 16];
            let count = told.read(&mut part)?;
            said.extend_from_slice(&part[..count]);
            if count == 0 {
                break;
            }
        }
    }
    let signal = child.wait()?;
    Ok(Some(match said.split_first() {
        Some((&WELL, code)) if signal.is_none() => CompileAnswer::Code(code.to_vec()),
        Some((&REFUSED, sentence)) if signal.is_none() => {
            CompileAnswer::Refused(String::from_utf8_lossy(sentence).into_owned())
        }
        _ => CompileAnswer::Died(signal.unwrap_or(0)),
    }))
}

/// The forked process's whole life.
fn work_in_child(tell: &mut UnixStream, work: impl FnOnce() -> Result<Vec<u8>, String>) -> ! {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    let bound = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    // It may have died before that.
    let orphan = !bound || getppid() != parent;
    let done = !orphan && {
        let (what, bytes) = match work() {
            Ok(code) => (WELL, code),
            Err(sentence) => (REFUSED, sentence.into_bytes()),
        };
        tell.write_all(&[what]).and_then(|()| tell.write_all(&bytes)).is_ok()
    };
    // SAFETY: it takes a number and does not return. What the parent would clean
    // up at its end is the parent's.
    #[allow(unsafe_code, reason = "the standard library has no end without a clean-up")]
    unsafe {
        libc::_exit(i32::from(!done))
    }
}

/// A forked process, which is gone when this is.
struct Child(libc::pid_t);

impl Child {
    /// Its end: the signal, if one ended it.
    fn wait(self) -> anyhow::Result<Option<i32>> {
        let status = reap(self.0)?;
        std::mem::forget(self);
        Ok(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: it takes numbers; the process is a child that was not waited
        // for, so that its number is nobody else's.
        #[allow(unsafe_code, reason = "the standard library kills only what it started")]
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
        }
        reap(self.0).ok();
    }
}

fn reap(child: libc::pid_t) -> anyhow::Result<libc::c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is there for the call.
        #[allow(unsafe_code, reason = "the standard library waits only for what it started")]
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        if waited == child {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error).context("waiting for a compiler");
        }
    }
}

/// Waits until one of them has something to read or has ended, or for so long.
fn wait<const N: usize>(lines: [&UnixStream; N], left: Option<Duration>) -> io::Result<[bool; N]> {
    let asked =
        lines.map(|line| libc::pollfd { fd: line.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let mut answered = asked;
    // Rounded up, so that it does not ask again and again in the last one.
    let left = left.map_or(-1, |left| {
        i32::try_from(left.as_millis()).map_or(i32::MAX, |left| left.saturating_add(1))
    });
    // SAFETY: the list is there for the call, and has this many entries.
    #[allow(unsafe_code, reason = "the standard library waits for one line at a time")]
    let count = unsafe { libc::poll(answered.as_mut_ptr(), N as libc::nfds_t, left) };
    match count {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == ErrorKind::Interrupted => Ok([false; N]),
            error => Err(error),
        },
        _ => Ok(answered.map(|line| line.revents != 0)),
    }
}
