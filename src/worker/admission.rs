//! Admission beside the event loop: what a task may have depends on the file
//! system, and a network mount that hangs must hang nothing else. Deployed tasks
//! are read back and admitted anew here, too.
//!
//! One thread, so that tasks are admitted in the order of their arrival. It is
//! never waited for: what it is in the middle of may not end.

use super::reload::SharedPolicy;
use crate::deploy::LoadError;
use crate::digest::Digest;
use crate::journal::{JournalReader, ReadError, Run};
use crate::policy::Policy;
use crate::task::{ModuleSource, Rejection, TaskId, TaskRequest, TaskSpec, WeakBinary};
use anyhow::Context as _;
use std::collections::HashMap;
use std::sync::mpsc;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A task that is to be admitted or refused.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) run: Run,
    pub(super) id: TaskId,
    pub(super) verdict: Result<(TaskRequest, TaskSpec), Rejection>,
}

/// A deployed task that was read back, and is admitted or refused.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) run: Run,
    pub(super) id: TaskId,
    pub(super) verdict: Result<TaskSpec, LoadError>,
}

/// What comes of a question.
#[derive(Debug)]
pub(super) enum AdmissionAnswer {
    Admitted(Admitted),
    Loaded(Loaded),
}

enum AdmissionQuestion {
    Admit(Run, TaskRequest),
    Load(Run, TaskId),
}

/// The thread. It ends after this.
pub(super) struct AdmissionThread(mpsc::Sender<AdmissionQuestion>);

impl AdmissionThread {
    /// `reader`: of the journal, which has the deployed tasks.
    pub(super) fn start(
        policy: SharedPolicy,
        reader: Option<JournalReader>,
    ) -> anyhow::Result<(AdmissionThread, UnboundedReceiver<AdmissionAnswer>)> {
        let (questions, incoming) = mpsc::channel::<AdmissionQuestion>();
        let (answers, answered) = unbounded_channel();
        let admit = move || {
            let mut modules = SharedModules::default();
            for question in incoming {
                let policy = policy.now();
                let answer = match question {
                    AdmissionQuestion::Admit(run, mut request) => {
                        modules.share(&mut request);
                        let id = request.id.clone();
                        let verdict = policy.admit(request.clone()).map(|spec| (request, spec));
                        AdmissionAnswer::Admitted(Admitted { run, id, verdict })
                    }
                    AdmissionQuestion::Load(run, id) => {
                        let verdict = load(&policy, reader.as_ref(), run, &mut modules);
                        AdmissionAnswer::Loaded(Loaded { run, id, verdict })
                    }
                };
                if answers.send(answer).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("admission".into()).spawn(admit);
        thread.context("starting the thread that admits tasks")?;
        Ok((AdmissionThread(questions), answered))
    }

    pub(super) fn admit(&self, run: Run, request: TaskRequest) {
        // Its thread ends after this end of the channel only.
        self.0.send(AdmissionQuestion::Admit(run, request)).ok();
    }

    /// Reads a deployed task back.
    pub(super) fn load(&self, run: Run, id: TaskId) {
        self.0.send(AdmissionQuestion::Load(run, id)).ok();
    }
}

fn load(
    policy: &Policy,
    reader: Option<&JournalReader>,
    run: Run,
    modules: &mut SharedModules,
) -> Result<TaskSpec, LoadError> {
    let reader = reader.ok_or_else(|| LoadError::Lost("it is in no journal".into()))?;
    let mut request = reader.request(run).map_err(|e| match e {
        ReadError::Disk(_) => LoadError::Failed(e.to_string()),
        ReadError::Absent | ReadError::Record | ReadError::Module => LoadError::Lost(e.to_string()),
    })?;
    modules.share(&mut request);
    // A directory that is gone may come again.
    policy.admit(request).map_err(|rejection| LoadError::Failed(rejection.to_string()))
}

/// The modules of tasks that are there: equal ones are held once.
#[derive(Default)]
struct SharedModules {
    held: HashMap<Digest, WeakBinary>,
    sweep_at: usize,
}

impl SharedModules {
    /// Gives a task the module that another one already holds.
    fn share(&mut self, request: &mut TaskRequest) {
        let Some(ModuleSource::Bytes(binary)) = &mut request.module else { return };
        match self.held.get(&binary.digest()).and_then(WeakBinary::upgrade) {
            Some(held) => *binary = held,
            None => {
                self.held.insert(binary.digest(), binary.downgrade());
            }
        }
        if self.held.len() > self.sweep_at {
            self.held.retain(|_, held| held.upgrade().is_some());
            self.sweep_at = 2 * self.held.len() + 16;
        }
    }
}
