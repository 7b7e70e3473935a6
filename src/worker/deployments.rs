//! The hands of [`deploy`](crate::deploy): what it decides is carried out here,
//! and what happens is told to it.

use super::Worker;
use super::admission::Loaded;
use crate::cancel::{Cancel, Reason};
use crate::config::Config;
use crate::deploy::{DeployBounds, DeployEffect, DeployEvent, Deployments};
use crate::executor::{Submission, TaskEnd};
use crate::journal::{Arrival, Deployed, InvocationKey, InvocationMarks, Waiting};
use crate::mqtt::PublishError;
use crate::policy;
use crate::protocol::{InvokeResult, decode_invoke};
use crate::queue::Admission;
use crate::task::{Life, Rejection, TaskId, TaskSpec, milliseconds};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

/// An answer, and whether the broker has it.
type Delivered = (TaskId, Bytes, Result<(), PublishError>);

/// The deployments, and what their effects need.
pub(super) struct DeployedTasks {
    deployments: Deployments,
    /// What is still to be done; empty between two events.
    effects: VecDeque<DeployEffect>,
    /// None without a state directory.
    marks: Option<InvocationMarks>,
    answers: JoinSet<Delivered>,
    preparing: Preparing,
}

/// What is prepared again when tasks run in another process.
struct Preparing {
    /// Changes when they do, where that may be.
    renewed: Option<watch::Receiver<u64>>,
    /// Ends the last one.
    last: Option<Arc<Cancel>>,
    ended: (UnboundedSender<Prepared>, UnboundedReceiver<Prepared>),
}

/// A preparation by its number, its task, and whether it has ended well.
type Prepared = (u64, TaskId, bool);

impl Drop for Preparing {
    fn drop(&mut self) {
        if let Some(last) = &self.last {
            last.cancel(Reason::ShuttingDown);
        }
    }
}

/// Ready when tasks run in another process; never, if they don't.
async fn renewed(changes: &mut Option<watch::Receiver<u64>>) {
    let changed = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

/// Something that the worker has to see to.
pub(super) enum DeploymentsEvent {
    /// The time of an invocation is over.
    Due,
    /// An answer has reached the broker, or never will.
    Answered(Box<Delivered>),
    /// Tasks run in another process from now on.
    Renewed,
    /// A deployed task is prepared there, or is not.
    Prepared(Prepared),
}

/// How many deployments there may be, and how much of them, by the
/// configuration. `answer_size`: the most bytes of an answer.
pub(super) fn bounds(config: &Config, answer_size: usize) -> DeployBounds {
    let (bytes, memory) = match config.state_dir {
        Some(_) => (config.deployment_bytes, Some(config.queue_memory / 4)),
        // They are nowhere else.
        None => (config.deployment_bytes.min(config.queue_memory), None),
    };
    DeployBounds {
        deployments: config.deployments,
        bytes,
        memory,
        waiting: config.queue,
        waiting_bytes: config.queue_memory / 4,
        answer_within: config.invoke_timeout,
        answer_size,
    }
}

impl DeployedTasks {
    /// How many tasks are deployed, some of them, and how many invocations have
    /// no answer so far.
    pub(super) fn listed(&self, most: usize) -> (usize, Vec<(TaskId, bool)>, usize) {
        let deployments = &self.deployments;
        (deployments.len(), deployments.listed(most), deployments.invocations())
    }

    /// `renewed`: changes when tasks run in another process.
    pub(super) fn new(
        proplet_id: &str,
        bounds: DeployBounds,
        marks: Option<InvocationMarks>,
        renewed: Option<watch::Receiver<u64>>,
    ) -> DeployedTasks {
        DeployedTasks {
            deployments: Deployments::new(proplet_id, bounds),
            effects: VecDeque::new(),
            marks,
            answers: JoinSet::new(),
            preparing: Preparing { renewed, last: None, ended: unbounded_channel() },
        }
    }

    /// What happens next. Cancelling the wait loses nothing.
    pub(super) async fn happened(&mut self) -> DeploymentsEvent {
        let due = self.deployments.due();
        let time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let Preparing { renewed: changes, ended: (_, ended), .. } = &mut self.preparing;
        tokio::select! {
            biased;
            Some(Ok(delivered)) = self.answers.join_next() => DeploymentsEvent::Answered(Box::new(delivered)),
            () = time => DeploymentsEvent::Due,
            () = renewed(changes) => DeploymentsEvent::Renewed,
            Some(prepared) = ended.recv() => DeploymentsEvent::Prepared(prepared),
        }
    }
}

impl Worker {
    /// Tells the deployments, and does what they say.
    pub(super) fn on_deploy(&mut self, event: DeployEvent) {
        let now = Instant::now();
        self.deployed.deployments.on(event, now, &mut self.deployed.effects);
        while let Some(effect) = self.deployed.effects.pop_front() {
            if let Some(answer) = self.carry_out_deploy(effect) {
                self.deployed.deployments.on(answer, now, &mut self.deployed.effects);
            }
        }
        self.status.metrics.deployments.deployed(self.deployed.deployments.len());
    }

    /// Carries an effect out; gives what happens at once because of it.
    fn carry_out_deploy(&mut self, effect: DeployEffect) -> Option<DeployEvent> {
        match effect {
            DeployEffect::Note(step) => self.note(step),
            DeployEffect::Mark(key) => {
                if let Some(marks) = &mut self.deployed.marks {
                    marks.mark(key);
                }
            }
            DeployEffect::Load { run, id } => self.tasks.load(run, id),
            DeployEffect::Submit { number, run, spec } => {
                let verdict = self.executor.submit(Submission::whole(run, spec), Admission::Ready);
                return Some(DeployEvent::Submitted { number, verdict });
            }
            DeployEffect::Prepare { number, spec } => return self.prepare_again(number, spec),
            // One that has ended meanwhile is about to say so.
            DeployEffect::Cancel(id) => drop(self.executor.stop(&id)),
            DeployEffect::Answer { task, answer, success } => {
                self.status.metrics.deployments.answered(success);
                self.answer(task, answer);
            }
            DeployEffect::Notice(notice) => notice.log(),
        }
        None
    }

    /// Has a deployed task prepared in the process that there is now, on a thread of
    /// its own: it may take as long as its task may. Gives its end if there is none.
    fn prepare_again(&mut self, number: u64, spec: Arc<TaskSpec>) -> Option<DeployEvent> {
        let cancel = Arc::<Cancel>::default();
        if let Some(before) = self.deployed.preparing.last.replace(cancel.clone()) {
            // Of a process that has gone, if it has not ended.
            before.cancel(Reason::Stopped);
        }
        let limit = spec.grant().limits.timeout;
        let ends = limit.map(|limit| {
            let cancel = cancel.clone();
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                cancel.cancel(Reason::Timeout(limit));
            })
        });
        let (tasker, told) = (self.tasker.clone(), self.deployed.preparing.ended.0.clone());
        let id = spec.id().clone();
        let of = id.clone();
        let prepare = move || {
            let ended = tasker.prepare(&spec, &cancel);
            if let Some(ends) = ends {
                ends.abort();
            }
            // A worker that is gone does not listen.
            told.send((number, of, ended)).ok();
        };
        let started = std::thread::Builder::new().name("prepare".into()).spawn(prepare);
        started.err().map(|e| {
            warn!(task = %id, "no thread to prepare it in the runtime's new process: {e}");
            DeployEvent::Prepared { number, id, ended: true }
        })
    }

    fn answer(&mut self, task: TaskId, answer: Bytes) {
        let delivery = self.link.publish(&self.topics.invoke_results(), answer.clone());
        let outgoing = self.status.metrics.outgoing();
        self.deployed.answers.spawn(async move {
            let _outgoing = outgoing;
            (task, answer, delivery.await)
        });
    }

    pub(super) fn on_deployments_event(&mut self, happened: DeploymentsEvent) {
        match happened {
            DeploymentsEvent::Due => self.on_deploy(DeployEvent::Due),
            DeploymentsEvent::Renewed => self.on_deploy(DeployEvent::Renewed),
            DeploymentsEvent::Prepared((number, id, ended)) => {
                self.on_deploy(DeployEvent::Prepared { number, id, ended });
            }
            DeploymentsEvent::Answered(delivered) => {
                let (task, answer, delivered) = *delivered;
                match delivered {
                    Ok(()) => {}
                    Err(e @ (PublishError::TooLarge { .. } | PublishError::Rejected { .. })) => {
                        error!(task = %task, "{e}");
                        let reason = format!("the answer can't be sent: {e}");
                        let instead = InvokeResult::without_output(&answer, &reason);
                        if let Some(instead) = instead.filter(|new| new.len() < answer.len()) {
                            self.answer(task, instead.into());
                        }
                    }
                    Err(e) => debug!(task = %task, "an answer was not delivered: {e}"),
                }
            }
        }
    }

    /// Takes over what the last process has deployed, before the ledger takes
    /// over what waits.
    pub(super) fn take_over_deployments(
        &mut self,
        deployed: Vec<Deployed>,
        waiting: &[Waiting],
        invoked: Vec<InvocationKey>,
    ) {
        let latent = waiting.iter().filter(|waiting| waiting.life == Life::Latent);
        let preparing = latent.map(|waiting| (waiting.arrival.id.clone(), waiting.weight));
        let preparing = preparing.collect();
        self.on_deploy(DeployEvent::Recovered { deployed, preparing, invoked });
    }

    pub(super) fn on_loaded(&mut self, Loaded { run, id, verdict }: Loaded) {
        self.on_deploy(DeployEvent::Loaded { run, id, verdict });
    }

    /// An invocation has ended.
    pub(super) fn on_invocation_ended(&mut self, TaskEnd { id, outcome, spent }: TaskEnd) {
        self.report_end(&id, spent);
        let Some(number) = id.invocation() else { return };
        let took = outcome.timings;
        match &outcome.verdict {
            Ok(()) => {
                let (queued_ms, ran_ms) = (milliseconds(took.queued), milliseconds(took.ran));
                debug!(task = %id, queued_ms, ran_ms, "invocation completed");
            }
            Err(_) if !self.quota.may_write("invocation failed") => {}
            Err(_) => {
                let error = outcome.error().unwrap_or_default();
                warn!(task = %id, ran_ms = milliseconds(took.ran), "invocation failed: {error}");
            }
        }
        self.record.ended(&id, &outcome);
        self.on_deploy(DeployEvent::Ended { number, outcome });
    }

    pub(super) fn invoke(&mut self, payload: &[u8]) {
        let (invocation_id, task, reason) = match decode_invoke(payload, &self.id) {
            Ok(None) => return,
            Ok(Some(invoke)) => match policy::check_environment(&invoke.env) {
                Ok(()) => {
                    let preparing = self.tasks.prepares(&invoke.id);
                    return self.on_deploy(DeployEvent::Invoke { invoke, preparing });
                }
                Err(rejection) => (invoke.invocation_id, Some(invoke.id), rejection.to_string()),
            },
            Err(malformed) => match malformed.invocation_id {
                Some(invocation_id) => {
                    let reason = format!("malformed invoke message: {}", malformed.reason);
                    (invocation_id, malformed.id, reason)
                }
                None => {
                    return warn!("an invoke message was dropped: {}", malformed.reason);
                }
            },
        };
        warn!(invocation_id, "invocation refused: {reason}");
        let answer = InvokeResult::refused(&invocation_id, task.as_ref(), &self.id, &reason);
        drop(self.link.publish(&self.topics.invoke_results(), answer.encode()));
    }

    /// Takes a place for a latent task that is to be prepared.
    pub(super) fn reserve(&mut self, id: &TaskId, spec: &TaskSpec) -> Result<(), Rejection> {
        // What is in the journal is read back when it is invoked.
        let held = (!self.tasks.survive()).then(|| spec.clone());
        self.deployed.deployments.reserve(id, spec.weight(), held)
    }

    /// A start of a latent task that is deployed just so. It is acknowledged,
    /// and changes nothing.
    pub(super) fn is_deployed(&self, arrival: &Arrival) -> bool {
        let same = self.deployed.deployments.has(&arrival.id, &arrival.fingerprint);
        if same {
            info!(task = %arrival.id, "a start of a task that is deployed just so");
        }
        same
    }
}
