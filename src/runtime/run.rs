//! One task in one fresh instance: [`TaskSpec`] → store → call → [`Outcome`].
//!
//! Nothing of a task outlives it but what its module and its graphs left in
//! the shared caches, and nothing that its guest does leaves this module
//! otherwise than as an outcome.

use super::artefacts::Compilation;
use super::daemon_log::Lines;
use super::engine::Watch;
use super::http::{self, Door};
use super::link::{Artefact, Pre};
use super::output::Capture;
use super::sandbox::{MAX_HANDLES, TaskState};
use super::{CallError, Runtime, Stdio, component, core, refusals};
use crate::cancel::{Cancel, Doing};
use crate::nn::NnCtx;
use crate::task::{Code, Failure, Life, Outcome, TaskSpec};
use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::error;
use wasmtime::component::ResourceTableError;
use wasmtime::{FrameInfo, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

const NO_NETWORK: &str =
    "network: the guest asked for a socket or an address, which was refused: a task has no network";

/// What is left of a task whose outcome is known: its instance, which is cleared
/// away when this is dropped. No native code is called for that.
#[must_use = "dropping it takes a while, for which no answer has to wait"]
pub struct Remains(Option<Store<TaskState>>);

impl Drop for Remains {
    fn drop(&mut self) {
        let store = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(store))).is_err() {
            error!("a panic while a task that had ended was cleared away; see above");
        }
    }
}

/// `door`: of a server, without which it is not served.
pub(super) fn run(
    runtime: &Runtime,
    spec: &TaskSpec,
    door: Option<Door>,
    cancel: &Arc<Cancel>,
) -> (Outcome, Remains) {
    let limit = spec.grant().limits.output;
    let capture = |stream| match spec.life() {
        Life::Daemon | Life::Server => Capture::logged(limit, Lines::new(spec.id(), stream)),
        Life::Once | Life::Latent => Capture::new(limit),
    };
    let mut run = TaskRun {
        runtime,
        spec,
        door,
        cancel,
        stdout: capture("stdout"),
        stderr: capture("stderr"),
        // Filled in as the task gets on.
        outcome: Outcome {
            verdict: Ok(()),
            diagnostics: spec.grant().notes.clone(),
            ..Outcome::failed(Failure::Stopped)
        },
        remains: Remains(None),
        nn: None,
    };
    // Unwind safe: what a panic may leave half done is dropped with the store.
    let verdict = catch_unwind(AssertUnwindSafe(|| run.attempt())).unwrap_or_else(|panic| {
        Err(Failure::Internal(format!("panic while the task ran: {}", panic_message(&*panic))))
    });
    let TaskRun { stdout, stderr, mut outcome, remains, .. } = run;
    outcome.verdict = verdict;
    outcome.stdout = stdout.take();
    outcome.stderr = stderr.take();
    if let Err(Failure::Trap(_) | Failure::Fault(_) | Failure::Exit(_)) = outcome.verdict
        && !outcome.diagnostics.iter().any(|line| line.starts_with("files: "))
    {
        let unasked = refusals::unasked(&outcome.stderr.bytes, &spec.grant().dirs);
        outcome.diagnostics.splice(0..0, unasked);
    }
    (outcome, remains)
}

pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

struct TaskRun<'a> {
    runtime: &'a Runtime,
    spec: &'a TaskSpec,
    door: Option<Door>,
    cancel: &'a Arc<Cancel>,
    stdout: Capture,
    stderr: Capture,
    outcome: Outcome,
    remains: Remains,
    /// wasi-nn that was made while the code was compiled, with the graphs that the
    /// task names, or why it can't have them; until the store has it.
    nn: Option<Result<NnCtx, Failure>>,
}

impl TaskRun<'_> {
    fn attempt(&mut self) -> Result<(), Failure> {
        self.go_on()?;
        let grant = self.spec.grant();
        // One deadline for everything that follows.
        let ticker = &self.runtime.stores.ticker;
        let _whole: Watch<'_> = ticker.watch(self.cancel, grant.limits.timeout);
        let artefact = self.artefact()?;
        if artefact.imports_nn && grant.nn.is_none() {
            return Err(Failure::Module(
                "the module imports wasi-nn, which the task forbids: \
                 take `-S nn=n` out of its cli_args"
                    .into(),
            ));
        }
        if let Pre::Component(pre) = &artefact.pre
            && http::serves(pre.component(), &grant.entry)
        {
            return self.serve(&artefact, pre);
        }
        let mut store = self.store(&artefact)?;
        if self.spec.life() == Life::Latent {
            return self.prepared(&store, &artefact);
        }
        let _run = grant.limits.run.map(|limit| ticker.watch(self.cancel, Some(limit)));
        let started = Instant::now();
        self.cancel.set_doing(Doing::Running);
        let verdict = self.call(&mut store, &artefact);
        let elapsed = started.elapsed();
        if verdict.is_err() {
            // A guest that succeeds has coped with it. First what may have been a
            // probe: the last refusal counts as the cause.
            let files = store.data().refused.told(&self.spec.grant().dirs);
            self.outcome.diagnostics.extend(files);
        }
        let in_graphs = self.report_nn(&store);
        if store.data().network_refused {
            self.outcome.diagnostics.push(NO_NETWORK.into());
        }
        self.outcome.diagnostics.extend(store.data().outgoing.refusal());
        if verdict.is_err() {
            self.outcome.diagnostics.extend(store.data().memory_refused());
        }
        self.outcome.timings.ran = elapsed.saturating_sub(in_graphs);
        // Native code may crash in it, which has to be this task's doing.
        drop(store.data_mut().nn.take());
        self.remains = Remains(Some(store));
        verdict
    }

    fn go_on(&self) -> Result<(), Failure> {
        self.cancel.reason().map_or(Ok(()), |reason| Err(reason.into()))
    }

    fn artefact(&mut self) -> Result<Arc<Artefact>, Failure> {
        let started = Instant::now();
        let compiled = self.cancel.during(Doing::Compiling, || self.compiled());
        let compiled = compiled.and_then(|(compiled, reused)| {
            self.outcome.reuse.module = reused;
            compiled.map_err(|e| Failure::Module(e.to_string()))
        });
        let timings = &mut self.outcome.timings;
        timings.compiled = started.elapsed().saturating_sub(timings.loaded);
        self.go_on()?;
        compiled
    }

    /// The artefact, and whether this task found it.
    fn compiled(&mut self) -> Result<(Compilation, bool), Failure> {
        let (artefacts, cancel) = (&self.runtime.artefacts, self.cancel);
        let binary = match self.spec.code() {
            Code::Bytes(bytes) => Ok(bytes.clone()),
            Code::Held(digest) if let Some(compiled) = artefacts.find(digest, cancel)? => {
                return Ok((compiled, true));
            }
            Code::Held(_) | Code::Url(_) => (self.runtime.fetch)(self.spec, cancel),
        };
        let binary = binary.map_err(Failure::Module)?;
        // The graphs that the task names may take as long as the code. Without
        // any, what it imports decides, which is known only then.
        let meanwhile = || self.nn = self.make_nn(false).transpose();
        Ok(artefacts.get(&binary, cancel, meanwhile)?)
    }

    fn make_nn(&mut self, imports_nn: bool) -> Result<Option<NnCtx>, Failure> {
        let started = Instant::now();
        let nn = self.runtime.stores.nn(self.spec.grant(), imports_nn, self.cancel);
        self.outcome.timings.loaded = started.elapsed();
        nn
    }

    fn store(&mut self, artefact: &Artefact) -> Result<Store<TaskState>, Failure> {
        let nn = match self.nn.take().transpose()? {
            None => self.make_nn(artefact.imports_nn)?,
            made => made,
        };
        let grant = self.spec.grant();
        let stores = &self.runtime.stores;
        let output = (&self.stdout, &self.stderr);
        stores.store(artefact.code.engine(), grant, nn, output, None, self.cancel)
    }

    /// Serves, if the task came with a door; else says that it needs one.
    fn serve(
        &mut self,
        artefact: &Arc<Artefact>,
        pre: &wasmtime::component::InstancePre<TaskState>,
    ) -> Result<(), Failure> {
        let grant = self.spec.grant();
        let not_served = |why: &str| {
            Err(Failure::Module(format!("the component is an HTTP server, which {why}")))
        };
        if self.spec.life() == Life::Latent {
            return not_served("is not invoked: start it without `latent`");
        }
        let Some(serving) = &grant.serving else {
            return not_served("this worker does not serve: PROPLET_HTTP_ENABLED=true lets it");
        };
        let Some(door) = self.door.take() else { return Err(Failure::Serves) };
        // Each request has its own: this one would keep its graphs as long as it serves.
        self.nn = None;
        let parts = http::Parts {
            spec: self.spec,
            stores: &self.runtime.stores,
            artefact,
            crews: &self.runtime.crews,
            stdout: &self.stdout,
            stderr: &self.stderr,
            faults: match self.runtime.stores.stdio {
                Stdio::Captured => Some(Capture::logged(0, Lines::new(self.spec.id(), "requests"))),
                Stdio::Inherited => None,
            },
            cancel: self.cancel,
        };
        http::serve(parts, pre, serving, door)
    }

    /// All that an invocation needs is there; whether it can be called is found
    /// out as far as that needs no instance.
    fn prepared(&mut self, store: &Store<TaskState>, artefact: &Artefact) -> Result<(), Failure> {
        self.report_nn(store);
        match &artefact.pre {
            Pre::Module(_) => Ok(()),
            Pre::Component(pre) => component::check(pre, &self.spec.grant().entry),
        }
    }

    fn call(&mut self, store: &mut Store<TaskState>, artefact: &Artefact) -> Result<(), Failure> {
        let grant = self.spec.grant();
        let inputs = grant.args.get(1..).unwrap_or_default();
        let result = match &artefact.pre {
            Pre::Module(pre) => {
                pre.instantiate(&mut *store).map_err(CallError::Guest).and_then(|instance| {
                    if let Some(memory) = instance.get_memory(&mut *store, "memory")
                        && let Some(huge_pages) = &self.runtime.huge_pages
                    {
                        let asked = huge_pages.advise(&memory, &*store);
                        store.data().has_huge_pages(asked);
                    }
                    let results = core::call(store, instance, &grant.entry, inputs)?;
                    for line in results {
                        self.print(line.as_bytes());
                        self.print(b"\n");
                    }
                    Ok(())
                })
            }
            Pre::Component(pre) => {
                let (target, note) = component::target(pre.component(), &grant.entry)?;
                self.outcome.diagnostics.extend(note);
                component::call(store, pre, &target, inputs, &mut |text| self.print(text))
            }
        };
        match result {
            Ok(()) => {
                self.outcome.exit_code = Some(0);
                Ok(())
            }
            Err(CallError::Refused(failure)) => Err(failure),
            Err(CallError::Guest(error)) => self.guest_ended(&error),
        }
    }

    /// A result of an invoked function goes where the guest's output goes.
    fn print(&self, text: &[u8]) {
        match self.runtime.stores.stdio {
            Stdio::Captured => self.stdout.write(text),
            // As with the guest's own writes, who closed the pipe knows it.
            Stdio::Inherited => {
                std::io::stdout().write_all(text).ok();
            }
        }
    }

    fn guest_ended(&mut self, error: &wasmtime::Error) -> Result<(), Failure> {
        if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
            self.outcome.exit_code = Some(*code);
            return if *code == 0 { Ok(()) } else { Err(Failure::Exit(*code)) };
        }
        // Also where a native call noticed it in words of its own.
        self.go_on()?;
        if let Some(ResourceTableError::Full) = error.downcast_ref()
            && self.runtime.stores.stdio == Stdio::Captured
        {
            return Err(Failure::Fault(format!(
                "the guest holds more than {MAX_HANDLES} files, directories and streams open \
                 at the same time, its limit"
            )));
        }
        let text = describe(error);
        Err(if error.is::<Trap>() { Failure::Trap(text) } else { Failure::Fault(text) })
    }

    /// Takes over what wasi-nn did. Returns the time in loading graphs that
    /// passed within the call.
    fn report_nn(&mut self, store: &Store<TaskState>) -> Duration {
        let Some(nn) = &store.data().nn else { return Duration::ZERO };
        let report = nn.report();
        let preloaded = self.outcome.timings.loaded;
        self.outcome.timings.loaded = preloaded.max(report.loaded);
        self.outcome.timings.inferred = report.inferred;
        self.outcome.timings.inferences = report.inferences;
        self.outcome.reuse.graphs_loaded = report.graphs_loaded;
        self.outcome.reuse.graphs_reused = report.graphs_reused;
        self.outcome.backends = report.backends.iter().map(|&name| name.to_owned()).collect();
        let refused = report.diagnostics.iter().map(|sentence| format!("wasi-nn: {sentence}"));
        self.outcome.diagnostics.extend(refused);
        report.loaded.saturating_sub(preloaded)
    }
}

/// The cause first, then where it happened.
pub(super) fn describe(error: &wasmtime::Error) -> String {
    const FRAMES: usize = 5;
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error
            .chain()
            .map(ToString::to_string)
            .filter(|cause| !cause.starts_with("error while executing at wasm backtrace"))
            .collect::<Vec<_>>()
            .join(": "),
    };
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return text };
    let at = |text: &mut String, name: &dyn fmt::Display, frame: &FrameInfo| {
        text.push_str(&format!("\n  at {name:#}"));
        if let Some(offset) = frame.module_offset() {
            text.push_str(&format!(" (offset {offset:#x})"));
        }
    };
    let frames = backtrace.frames();
    // A function's number tells little: only where none has a name.
    let named = frames.iter().filter_map(|frame| Some((frame.func_name()?, frame)));
    for (name, frame) in named.clone().take(FRAMES) {
        at(&mut text, &rustc_demangle::demangle(name), frame);
    }
    if let (Some(frame), None) = (frames.first(), named.clone().next()) {
        at(&mut text, &format!("function {}", frame.func_index()), frame);
    }
    if let Some(more) = named.count().checked_sub(FRAMES).filter(|more| *more > 0) {
        text.push_str(&format!("\n  … and {more} more"));
    }
    text
}
