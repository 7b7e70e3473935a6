//! Who compiles: two lanes of threads, each of which has it done by a process
//! of its own where there are such, so that it can be ended and can't take more
//! than it may; a task that waits for its code can be ended either way.
//!
//! What is small goes by the quick lane and is given a second. What is larger,
//! or takes longer, goes by the patient one, whose processes come last on the
//! processors: so nothing small waits for anything large.

mod process;
#[cfg(target_os = "linux")]
mod server;
mod wire;

pub use process::{CompileProcesses, VERB, WhenLost};
#[cfg(target_os = "linux")]
pub use server::serve;

use super::code::{CompiledCode, Kind};
use anyhow::Context as _;
pub(super) use process::Ender;
use process::Process;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;
use wasmtime::Engine;
use wire::CompileAnswer;

/// Cranelift recurses over what it compiles.
const STACK: usize = 16 << 20;

/// Largest binary, in bytes, of the quick lane: at Cranelift's worst pace, some
/// 300 KB a second, little more than a second of it.
const QUICK_SIZE: usize = 512 << 10;
/// Time of a compile in the quick lane.
const QUICK: Duration = Duration::from_secs(1);
/// Time of any compile. The largest programs that are known here take a tenth.
const PATIENT: Duration = Duration::from_secs(300);

/// By which lane code is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CompileLane {
    /// Small code, for a second.
    Quick,
    /// All the rest.
    Patient,
}

/// Why there is no code.
#[derive(Debug)]
pub(super) enum NotCompiled {
    /// It does not compile, whenever it is tried: a sentence for the task.
    Refused(String),
    /// It takes more than it may, or the compiler failed: likewise, and worth
    /// another try some time.
    Failed(String),
    /// It is for the other lane.
    Patient,
    /// Nobody waits for it any more.
    Ended,
}

type CompileJob = Box<dyn FnOnce(&mut Bench) + Send>;

/// The threads of the two lanes. They end with it, after what they have begun.
pub(super) struct Compiler(Arc<CompileLanes>);

/// The same, for what the threads themselves hold: they would not end.
pub(super) struct WeakCompiler(Weak<CompileLanes>);

struct CompileLanes {
    quick: mpsc::Sender<CompileJob>,
    patient: mpsc::Sender<CompileJob>,
}

impl Compiler {
    /// Starts `threads` threads for each lane, which compile in `processes` if
    /// there are such.
    pub(super) fn start(
        threads: usize,
        processes: Option<&CompileProcesses>,
    ) -> anyhow::Result<Compiler> {
        Ok(Compiler(Arc::new(CompileLanes {
            quick: lane(CompileLane::Quick, threads, processes)?,
            patient: lane(CompileLane::Patient, threads, processes)?,
        })))
    }

    pub(super) fn downgrade(&self) -> WeakCompiler {
        WeakCompiler(Arc::downgrade(&self.0))
    }

    /// Has `job` done when a thread of the lane is free.
    pub(super) fn submit(&self, lane: CompileLane, job: impl FnOnce(&mut Bench) + Send + 'static) {
        let jobs = match lane {
            CompileLane::Quick => &self.0.quick,
            CompileLane::Patient => &self.0.patient,
        };
        // The threads take jobs as long as there is one who sends them.
        jobs.send(Box::new(job)).ok();
    }
}

impl WeakCompiler {
    pub(super) fn upgrade(&self) -> Option<Compiler> {
        self.0.upgrade().map(Compiler)
    }
}

fn lane(
    lane: CompileLane,
    threads: usize,
    processes: Option<&CompileProcesses>,
) -> anyhow::Result<mpsc::Sender<CompileJob>> {
    let (jobs, queue) = mpsc::channel::<CompileJob>();
    let queue = Arc::new(Mutex::new(queue));
    let name = match lane {
        CompileLane::Quick => "compiler",
        CompileLane::Patient => "compiler-patient",
    };
    for n in 0..threads {
        let queue = queue.clone();
        let processes = processes.cloned();
        let mut bench = Bench { lane, processes, process: None };
        std::thread::Builder::new()
            .name(format!("{name}-{n}"))
            .stack_size(STACK)
            .spawn(move || {
                while let Ok(job) = next(&queue) {
                    job(&mut bench);
                }
            })
            .with_context(|| format!("starting compiler thread {n} of {threads}"))?;
    }
    Ok(jobs)
}

fn next(queue: &Mutex<mpsc::Receiver<CompileJob>>) -> Result<CompileJob, mpsc::RecvError> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

/// What a thread compiles with.
pub(super) struct Bench {
    lane: CompileLane,
    processes: Option<CompileProcesses>,
    process: Option<Process>,
}

impl Bench {
    /// Compiles `binary`. `begins` is told, with what ends it early; none: it
    /// runs to its end, in this process. It says whether anyone waits for it.
    pub(super) fn compile(
        &mut self,
        engine: &Engine,
        kind: Kind,
        binary: &[u8],
        begins: impl FnOnce(Option<Ender>) -> bool,
    ) -> Result<CompiledCode, NotCompiled> {
        if self.lane == CompileLane::Quick && binary.len() > QUICK_SIZE {
            return Err(NotCompiled::Patient);
        }
        let Some(processes) = &self.processes else {
            if !begins(None) {
                return Err(NotCompiled::Ended);
            }
            return CompiledCode::compile(engine, kind, binary).map_err(NotCompiled::Refused);
        };
        let lost = |e: &dyn std::fmt::Display| {
            NotCompiled::Failed(format!("there is no compiler process: {e}"))
        };
        let process = match &mut self.process {
            Some(process) => process,
            none => none.insert(processes.take().map_err(|e| lost(&format!("{e:#}")))?),
        };
        let (within, patient) = match self.lane {
            CompileLane::Quick => (QUICK, false),
            CompileLane::Patient => (PATIENT, true),
        };
        let memory = processes.memory() >> 20;
        // Asked before it is told, so that an end comes behind what it ends.
        let answer = process.ender().and_then(|ender| {
            process.ask(kind, within, patient, binary)?;
            let end = process.ender()?;
            if !begins(Some(ender)) {
                end.end();
            }
            process.answer()
        });
        match answer {
            Ok(CompileAnswer::Code(code)) => {
                // SAFETY: it is what `CompiledCode::precompile` gave in a process of this
                // program, over a line that nobody else has an end of.
                #[allow(unsafe_code, reason = "compiled code is run as it comes")]
                let code = unsafe { CompiledCode::deserialize(engine, kind, &code) };
                // This process has the pool, into which it may be too large.
                code.map_err(|e| NotCompiled::Refused(kind.does_not_compile(&e)))
            }
            Ok(CompileAnswer::Refused(sentence)) => Err(NotCompiled::Refused(sentence)),
            Ok(CompileAnswer::Ended) => Err(NotCompiled::Ended),
            Ok(CompileAnswer::Late) if !patient => Err(NotCompiled::Patient),
            Ok(CompileAnswer::Late) => Err(NotCompiled::Failed(format!(
                "compiling it takes more than {} s, the limit",
                PATIENT.as_secs()
            ))),
            Ok(CompileAnswer::Died(signal)) => Err(NotCompiled::Failed(match signal {
                // How Rust ends when there is no memory, or no stack.
                libc::SIGABRT | libc::SIGSEGV => format!(
                    "compiling it takes more than {memory} MiB of memory, the limit, or more stack \
                     than there is (signal {signal})"
                ),
                libc::SIGKILL => "the system ended the compiler, probably for memory".to_owned(),
                0 => "the compiler exited without an answer".to_owned(),
                signal => format!("the compiler was ended by signal {signal}"),
            })),
            Err(e) => {
                self.process = None;
                Err(lost(&e))
            }
        }
    }
}
