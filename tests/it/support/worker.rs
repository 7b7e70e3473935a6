//! A worker in this process, and the program as users start it.

use super::PATIENCE;
use proplet::config::{Config, Environment};
use proplet::policy::Resolve;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A worker in this process. Dropping it has it shut down, without waiting.
pub struct Worker {
    shutdown: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<anyhow::Result<()>>>,
    runtime: tokio::runtime::Handle,
}

impl Worker {
    /// `resolve` finds the directories that tasks name.
    pub(super) fn start(config: Config, resolve: Resolve, runtime: &Runtime) -> Worker {
        let (shutdown, stop) = oneshot::channel();
        let ended = runtime.spawn(proplet::worker::run_with(config, resolve, async {
            // Dropped is as good as sent.
            stop.await.ok();
        }));
        let runtime = runtime.handle().clone();
        Worker { shutdown: Some(shutdown), ended: Some(ended), runtime }
    }

    /// Tells it to end, as the first signal does.
    pub fn shut_down(&mut self) {
        self.shutdown.take().expect("told once").send(()).expect("it runs");
    }

    /// Waits for its end.
    pub fn ended(mut self) {
        let ended = self.ended.take().expect("waited for once");
        let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, ended).await });
        ended.expect("it ends").expect("without a panic").expect("without an error");
    }
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

/// The program `proplet`, running. Dropping it kills it.
pub struct Process {
    child: Child,
    log: Arc<Log>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// The program without any of this process's settings.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PROPLET_")) {
            command.env_remove(name);
        }
    }
    command
}

impl Process {
    /// `proplet worker` with these variables in this working directory.
    pub(super) fn worker(environment: &Environment) -> Process {
        let mut command = program();
        command
            .arg("worker")
            .envs(environment.variables())
            .current_dir(environment.working_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Process::spawn(&mut command)
    }

    /// Starts a program whose standard error is its log.
    pub fn spawn(command: &mut Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let log = Arc::<Log>::default();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    log.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    log.changed.notify_all();
                }
            }
        });
        Process { child, log, reader: Some(reader) }
    }

    /// Waits for a line of the log that contains this.
    #[track_caller]
    pub fn logs(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "`{text}` is not in the log: {lines:#?}");
            (lines, _) =
                self.log.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The process's number.
    #[cfg(target_os = "linux")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of its memory: `VmRSS` is what is resident, `VmHWM` the most that was.
    #[cfg(target_os = "linux")]
    pub fn memory(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
        let kilobytes = line.split_whitespace().nth(1).expect("a number");
        kilobytes.parse::<u64>().expect("a number") * 1024
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(self.child.id().to_string());
        assert!(kill.status().expect("kill runs").success(), "no process to signal");
    }

    /// Waits for its end and the end of its log.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < end, "it does not end; its log: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log is read");
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }
}

/// Runs `proplet` with these arguments in the folder `fixtures`, `stdin` being
/// what it can read, and `set` adding to its environment.
pub fn proplet<A: AsRef<OsStr>>(args: &[A], stdin: &[u8], set: &[(&str, &str)]) -> Ran {
    use std::io::Write as _;
    let mut child = program()
        .args(args)
        .envs(set.iter().copied())
        .current_dir(super::fixtures())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that ends without reading closes the pipe.
    child.stdin.take().expect("piped").write_all(stdin).ok();
    let output = child.wait_with_output().expect("it ends");
    Ran {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
