//! Runs the guest, as often as asked for, and tells what came of it.

use super::serve::serve;
use super::{InRound, Job};
use crate::cancel::Cancel;
use crate::manager::Rounds;
use crate::nn::Nn;
use crate::protocol::TaskResult;
use crate::runtime::{Runtime, Stdio, THREAD_STACK};
use crate::task::{Failure, Outcome, TaskId, TaskSpec, Timings, UpdateFate};
use anyhow::{Context as _, anyhow};
use clap::ArgMatches;
use std::convert::Infallible;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// What a shell reports of a program that aborted, which `wasmtime run` makes
/// of a trap.
const TRAPPED: u8 = 134;

/// What is told of a run, and how many there are.
pub(super) struct RunReport {
    pub(super) json: bool,
    timings: bool,
    repeat: u64,
}

impl RunReport {
    pub(super) fn from_matches(matches: &ArgMatches) -> RunReport {
        RunReport {
            json: matches.get_flag("json"),
            timings: matches.get_flag("timings"),
            repeat: matches.get_one("repeat").copied().unwrap_or(1),
        }
    }

    /// Runs it to the last time, or the first failure. The exit code is that of
    /// the guest's last run.
    pub(super) fn run(&self, guest: &str, job: Job) -> anyhow::Result<ExitCode> {
        let Job { spec, nn, runtime: config, proplet_id, round } = job;
        let captured = config.stdio == Stdio::Captured;
        let runtime = Arc::new(Runtime::new(&config, Nn::new(nn))?);
        let (spec, round) = (Arc::new(spec), round.map(Arc::new));
        let mut all = Vec::new();
        let mut code = ExitCode::SUCCESS;
        for _ in 0..self.repeat {
            let (runtime, task, round) = (runtime.clone(), spec.clone(), round.clone());
            let mut outcome = std::thread::Builder::new()
                .name("guest".into())
                .stack_size(THREAD_STACK)
                .spawn(move || match round {
                    None => run(&runtime, &task),
                    Some(round) => in_round(&runtime, &task, &round),
                })
                .context("starting the guest's thread")?
                .join()
                .map_err(|_| anyhow!("the worker's own code panicked; see above"))??;
            end_round(&mut outcome);
            code = exit_code(&outcome);
            if self.timings {
                eprintln!("proplet: {}", told(&outcome.timings));
            }
            all.push(outcome.timings);
            let failed = outcome.verdict.is_err();
            if self.json {
                print_json(spec.id(), &proplet_id, outcome)?;
            } else {
                if captured {
                    pass_on(&outcome)?;
                }
                report(guest, &outcome);
            }
            if failed {
                break;
            }
        }
        if self.timings && all.len() > 1 {
            eprintln!("proplet: {}", summary(&all));
        }
        Ok(code)
    }
}

fn run(runtime: &Runtime, spec: &TaskSpec) -> anyhow::Result<Outcome> {
    let outcome = runtime.run(spec, &Arc::<Cancel>::default());
    match outcome.verdict {
        Err(Failure::Serves) => serve(runtime, &spec.serving()),
        _ => Ok(outcome),
    }
}

/// As a worker does for a task of a federated round.
fn in_round(runtime: &Runtime, spec: &TaskSpec, of: &InRound) -> anyhow::Result<Outcome> {
    let cancel = Arc::<Cancel>::default();
    let code = of.fetcher.code(spec, &cancel).map_err(|e| anyhow!(e))?;
    let worker = spec.variable("PROPLET_ID").unwrap_or("proplet");
    let rounds = Rounds::new(of.services.clone(), worker, None)?;
    let spec = spec.clone().with_code(code);
    let run = |spec: &TaskSpec| Ok::<_, Infallible>(runtime.run(spec, &cancel));
    let Ok(outcome) = rounds.part(&spec, &of.round, None, &cancel, run);
    Ok(outcome)
}

/// There is no broker for an update that no coordinator took.
fn end_round(outcome: &mut Outcome) {
    let Some(end) = &mut outcome.round else { return };
    if end.unsent.take().is_some() {
        end.update = UpdateFate::None;
        let note = end.note.clone().unwrap_or_default();
        let failure = format!("the update was not sent: {note}, and there is no broker here");
        outcome.verdict = Err(Failure::Round(failure));
        outcome.diagnostics.clear();
    }
}

fn print_json(id: &TaskId, proplet_id: &str, outcome: Outcome) -> anyhow::Result<()> {
    let mut line = TaskResult::new(id, proplet_id, outcome).encode();
    line.push(b'\n');
    std::io::stdout().lock().write_all(&line).context("writing to stdout")
}

/// What the guest wrote goes where the guest would have written it.
fn pass_on(outcome: &Outcome) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&outcome.stdout.bytes).context("writing to stdout")?;
    stdout.flush().context("writing to stdout")?;
    std::io::stderr().write_all(&outcome.stderr.bytes).context("writing to stderr")
}

/// Says on standard error what went wrong beyond what the guest said itself.
fn report(guest: &str, outcome: &Outcome) {
    for diagnostic in &outcome.diagnostics {
        eprintln!("proplet: {diagnostic}");
    }
    match &outcome.verdict {
        // Its exit code says so.
        Ok(()) | Err(Failure::Exit(_)) => {}
        Err(failure) => eprintln!("proplet: {guest}: {failure}"),
    }
}

fn exit_code(outcome: &Outcome) -> ExitCode {
    match &outcome.verdict {
        Ok(()) => ExitCode::SUCCESS,
        // The system keeps the lowest byte, too.
        Err(Failure::Exit(code)) => ExitCode::from(code.to_le_bytes()[0]),
        Err(Failure::Trap(_) | Failure::Timeout(_)) => ExitCode::from(TRAPPED),
        Err(_) => ExitCode::FAILURE,
    }
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

/// One run, in a line.
fn told(timings: &Timings) -> String {
    let Timings { compiled, loaded, ran, inferred, inferences, .. } = *timings;
    let inferred = match inferences {
        0 => String::new(),
        1 => format!(", {} of it in an inference", ms(inferred)),
        many => format!(", {} of it in {many} inferences", ms(inferred)),
    };
    format!("compiled in {}, loaded in {}, ran {}{inferred}", ms(compiled), ms(loaded), ms(ran))
}

/// Several of them: the fastest, the one in the middle, the slowest.
fn summary(all: &[Timings]) -> String {
    let spread = |part: fn(&Timings) -> Duration| {
        let mut times: Vec<Duration> = all.iter().map(part).collect();
        times.sort_unstable();
        let median = times[times.len() / 2];
        format!("{} / {} / {}", ms(times[0]), ms(median), ms(times[times.len() - 1]))
    };
    let whole = spread(|t| t.compiled + t.loaded + t.ran);
    let inferred = match all.iter().any(|t| t.inferences > 0) {
        true => format!(", inferences {}", spread(|t| t.inferred)),
        false => String::new(),
    };
    format!("{} runs, least / median / most: {whole}{inferred}", all.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timings(ran: u64, inferences: u32) -> Timings {
        Timings {
            compiled: Duration::from_millis(1),
            ran: Duration::from_millis(ran),
            inferred: Duration::from_millis(2),
            inferences,
            ..Timings::default()
        }
    }

    #[test]
    fn a_line_tells_the_phases_and_the_inferences() {
        assert_eq!(told(&timings(5, 0)), "compiled in 1.000 ms, loaded in 0.000 ms, ran 5.000 ms");
        assert!(told(&timings(5, 3)).ends_with("ran 5.000 ms, 2.000 ms of it in 3 inferences"));
    }

    #[test]
    fn several_runs_are_told_by_their_spread() {
        let all = [timings(9, 0), timings(3, 0), timings(4, 0)];
        assert_eq!(summary(&all), "3 runs, least / median / most: 4.000 ms / 5.000 ms / 10.000 ms");
    }
}
