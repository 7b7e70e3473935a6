//! Federated rounds: what a task of one is given before it runs, and where its
//! update goes afterwards.
//!
//! ```text
//! fetch model and data set, beside the compile ─▶ run ─▶ mark ─▶ POST ─┬─ 2xx ──────────────▶ accepted
//!    │                                                    ▲            ├─ not sent, 429, 5xx ┐
//!    └─ can't be had ─▶ failed                            │            ├─ 4xx ─▶ refused     │
//!                                                         │            └─ no answer ─▶ unknown
//!                                                         └── twice more, unmarked ─────────┤
//!                                                                 the round's topic ◀───────┘
//! ```
//!
//! The coordinator counts each POST. So what was sent without an answer is never
//! sent again: not by this process, and not by the next one, which finds the mark.

mod client;
mod services;

use crate::cancel::{Cancel, Reason};
use crate::journal::{Run, UpdateMark, UpdateMarks};
use crate::task::{Failure, Life, Outcome, Round, RoundEnd, TaskSpec, UpdateFate};
use client::{Reply, RoundClient};
use percent_encoding::utf8_percent_encode;
use services::version;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

pub use services::{HostPort, MissingData, RoundServices, RoundTimes, Service, place};

/// See the module's documentation.
pub struct Rounds {
    services: RoundServices,
    client: RoundClient,
    /// This worker, by its client id.
    worker: String,
    /// None without a state directory.
    marks: Option<UpdateMarks>,
}

/// What a guest is given, and what it has to be told of that.
#[derive(Debug, Default)]
struct Given {
    variables: Vec<(String, String)>,
    notes: Vec<String>,
    bytes: u64,
}

impl Rounds {
    /// For this worker.
    ///
    /// # Errors
    ///
    /// A certificate file that can't be read.
    pub fn new(
        services: RoundServices,
        worker: &str,
        marks: Option<UpdateMarks>,
    ) -> anyhow::Result<Rounds> {
        let client = RoundClient::new(&services)?;
        Ok(Rounds { services, client, worker: worker.to_owned(), marks })
    }

    /// Runs a task of a round by `run`, which also prepares it when its life is
    /// latent. What else than an outcome comes of that is passed on.
    pub fn part<E>(
        &self,
        spec: &TaskSpec,
        round: &Round,
        number: Option<Run>,
        cancel: &Arc<Cancel>,
        run: impl Fn(&TaskSpec) -> Result<Outcome, E>,
    ) -> Result<Outcome, E> {
        let of_round = |outcome: Outcome, end: RoundEnd| Outcome { round: Some(end), ..outcome };
        let fails = |failure| Outcome::failed(failure);
        if let Some(mark) = number.and_then(|number| self.mark_of(number)) {
            return Ok(self.found(mark, round));
        }
        if round.id.contains(['/', '+', '#']) || round.id.chars().any(char::is_control) {
            let failure = Failure::Round(format!(
                "the round's id {:?} can't be a part of a topic: it holds `/`, `+`, `#` or a control \
                 character",
                round.id
            ));
            return Ok(of_round(fails(failure), round.end()));
        }
        // The guest is compiled while its data come.
        let fetching = std::thread::scope(|scope| {
            let fetched = std::thread::Builder::new()
                .name("round-data".into())
                .spawn_scoped(scope, || self.given(spec, cancel));
            let prepared = run(&spec.clone().living(Life::Latent));
            let fetched = match fetched {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    Err(Failure::Internal("panic while a round's data came; see the log".into()))
                }),
                Err(e) => Err(Failure::Round(format!("no thread for the round's data: {e}"))),
            };
            (prepared, fetched)
        });
        let (prepared, given) = fetching;
        let prepared = prepared?;
        if prepared.verdict.is_err() {
            return Ok(of_round(prepared, round.end()));
        }
        let given = match given {
            Ok(given) => given,
            Err(failure) => {
                return Ok(of_round(Outcome { verdict: Err(failure), ..prepared }, round.end()));
            }
        };
        let mut outcome = run(&spec.with_variables(given.variables))?;
        outcome.timings.compiled += prepared.timings.compiled;
        outcome.reuse.module = prepared.reuse.module;
        outcome.diagnostics.extend(given.notes);
        let mut end = RoundEnd { fetched: given.bytes, ..round.end() };
        if outcome.verdict.is_ok()
            && let Err(failure) = self.send(spec, number, &outcome, &mut end, cancel)
        {
            outcome.verdict = Err(failure);
        }
        outcome.diagnostics.extend(end.note.clone());
        Ok(of_round(outcome, end))
    }

    /// Asks each service that is set, for the doctor.
    pub fn ask(&self) -> Vec<(Service, String, Result<(), String>)> {
        let cancel = Cancel::default();
        let worker = utf8_percent_encode(&self.worker, super::PATH).to_string();
        let paths = [
            (Service::Coordinator, "/rounds/doctor/complete".to_owned()),
            (Service::Registry, "/models/0".to_owned()),
            (Service::Store, format!("/datasets/{worker}")),
        ];
        let asked = paths.into_iter().filter_map(|(service, path)| {
            let url = self.services.choose(service, None).ok()??;
            let answer = match self.client.get(&format!("{url}{path}"), &cancel) {
                Ok(Reply::Ok(_)) => Ok(()),
                // It may know no such round, which tells that it is there.
                Ok(Reply::No(_)) if service == Service::Coordinator => Ok(()),
                Ok(Reply::No(reason) | Reply::Later(reason) | Reply::Unknown(reason)) => {
                    Err(reason)
                }
                // Nobody cancels it.
                Err(_) => return None,
            };
            Some((service, url, answer))
        });
        asked.collect()
    }

    /// What the guest is to be given.
    fn given(&self, spec: &TaskSpec, cancel: &Cancel) -> Result<Given, Failure> {
        let mut given = Given::default();
        let model = spec.variable("MODEL_URI").filter(|uri| !uri.is_empty());
        let model = model.map(|uri| (Service::Registry, format!("/models/{}", version(uri))));
        let worker = utf8_percent_encode(&self.worker, super::PATH);
        let data = Some((Service::Store, format!("/datasets/{worker}")));
        for (variable, wanted) in [("MODEL_DATA", model), ("DATASET_DATA", data)] {
            let Some((service, path)) = wanted else { continue };
            // The task brings its own.
            if spec.variable(variable).is_some() {
                continue;
            }
            match self.fetch(service, &path, spec, cancel)? {
                Ok(Some(text)) => {
                    given.bytes += text.len() as u64;
                    given.variables.push((variable.to_owned(), text));
                }
                Ok(None) => {}
                Err(reason) => {
                    let name = service.name();
                    let reason = format!("{variable} can't be fetched from the {name}: {reason}");
                    match self.services.missing {
                        MissingData::Fail => return Err(Failure::Round(reason)),
                        MissingData::Run => given.notes.push(reason),
                    }
                }
            }
        }
        Ok(given)
    }

    /// A JSON text; none of a store that nobody names. The inner error is a sentence
    /// on why it can't be had.
    fn fetch(
        &self,
        service: Service,
        path: &str,
        spec: &TaskSpec,
        cancel: &Cancel,
    ) -> Result<Result<Option<String>, String>, Reason> {
        let url = match self.services.choose(service, spec.variable(service.variable())) {
            Ok(Some(url)) => format!("{url}{path}"),
            Ok(None) if service == Service::Store => return Ok(Ok(None)),
            Ok(None) => {
                return Ok(Err(format!(
                    "nobody says where it is: --model-registry-url, or {} of the task",
                    service.variable()
                )));
            }
            Err(reason) => return Ok(Err(reason)),
        };
        let reply = self.again(cancel, || self.client.get(&url, cancel))?;
        Ok(match reply {
            Reply::Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() => {
                    Ok(Some(text))
                }
                _ => Err(format!("{url} answers with something that is no JSON")),
            },
            Reply::Later(reason) | Reply::No(reason) | Reply::Unknown(reason) => Err(reason),
        })
    }

    /// Sends the update.
    fn send(
        &self,
        spec: &TaskSpec,
        number: Option<Run>,
        outcome: &Outcome,
        end: &mut RoundEnd,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let update = &outcome.stdout;
        if update.dropped > 0 {
            end.note = Some(
                "the guest's output is longer than --task-output, so it is not a whole update: \
                 nothing was sent"
                    .into(),
            );
            return Ok(());
        }
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>;
        if let Err(e) = object(&update.bytes) {
            end.note = Some(format!(
                "the guest's output is not a JSON object, so it is not an update: nothing was sent ({e})"
            ));
            return Ok(());
        }
        let named = spec.variable(Service::Coordinator.variable());
        let chosen = self.services.choose(Service::Coordinator, named);
        let url = match chosen.map_err(Failure::Round)? {
            Some(url) => format!("{url}/update"),
            None => {
                return self.publish(number, outcome, end, "no coordinator is known");
            }
        };
        let under_way = Cell::new(false);
        let reply = self.again(cancel, || {
            self.mark(number, Some(UpdateMark::Sending));
            under_way.set(true);
            let reply = self.client.post(&url, update.bytes.clone(), cancel)?;
            if let Reply::Later(_) = reply {
                self.mark(number, None);
                under_way.set(false);
            }
            Ok(reply)
        });
        let reply = match reply {
            Ok(reply) => reply,
            Err(reason) => {
                if under_way.get() {
                    end.update = UpdateFate::Unknown;
                    end.note = Some(unknown(&url, "the task was ended meanwhile"));
                }
                return Err(reason.into());
            }
        };
        match reply {
            Reply::Ok(_) => {
                self.mark(number, Some(UpdateMark::Accepted));
                end.update = UpdateFate::Accepted;
                Ok(())
            }
            Reply::Later(reason) => self.publish(number, outcome, end, &reason),
            Reply::No(reason) => {
                end.update = UpdateFate::Refused;
                let reason = format!("the coordinator refuses the update: {reason}");
                end.note = Some(reason.clone());
                Err(Failure::Round(reason))
            }
            Reply::Unknown(reason) => {
                end.update = UpdateFate::Unknown;
                let reason = unknown(&url, &reason);
                end.note = Some(reason.clone());
                Err(Failure::Round(reason))
            }
        }
    }

    /// Has the update go out on the round's topic.
    fn publish(
        &self,
        number: Option<Run>,
        outcome: &Outcome,
        end: &mut RoundEnd,
        why: &str,
    ) -> Result<(), Failure> {
        self.mark(number, Some(UpdateMark::Sending));
        end.update = UpdateFate::Published;
        end.note = Some(format!("the update is for the round's topic, since {why}"));
        end.unsent = Some(outcome.stdout.bytes.clone());
        Ok(())
    }

    /// An earlier process has died after it began to send the update of this run.
    fn found(&self, mark: UpdateMark, round: &Round) -> Outcome {
        let (update, note) = match mark {
            UpdateMark::Accepted => (
                UpdateFate::Accepted,
                "the coordinator had the update when the worker died before its result was \
                 recorded: the task did not run again, and the update is not in this result"
                    .to_owned(),
            ),
            UpdateMark::Sending => (
                UpdateFate::Unknown,
                unknown("the coordinator", "the worker died before it had an answer")
                    + ", and the task did not run again",
            ),
        };
        let verdict = match update {
            UpdateFate::Accepted => Ok(()),
            _ => Err(Failure::Round(note.clone())),
        };
        let end = RoundEnd { update, note: Some(note.clone()), ..round.end() };
        Outcome {
            verdict,
            diagnostics: vec![note],
            round: Some(end),
            ..Outcome::failed(Failure::Stopped)
        }
    }

    /// Tries a request that was not taken a few times.
    fn again(
        &self,
        cancel: &Cancel,
        mut attempt: impl FnMut() -> Result<Reply, Reason>,
    ) -> Result<Reply, Reason> {
        for wait in self.services.times.waits {
            match attempt()? {
                Reply::Later(_) => cancel.wait_until(Instant::now() + wait)?,
                reply => return Ok(reply),
            }
        }
        attempt()
    }

    fn mark_of(&self, number: Run) -> Option<UpdateMark> {
        self.marks.as_ref()?.get(number)
    }

    fn mark(&self, number: Option<Run>, mark: Option<UpdateMark>) {
        if let (Some(marks), Some(number)) = (&self.marks, number) {
            marks.set(number, mark);
        }
    }
}

fn unknown(url: &str, reason: &str) -> String {
    format!(
        "whether {url} has counted the update is not known ({reason}), so that it is not sent again"
    )
}
