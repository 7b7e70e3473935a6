//! Admission beside the event loop: what a task may have depends on the file
//! system, and a network mount that hangs must hang nothing else.
//!
//! One thread, so that tasks are admitted in the order of their arrival. It is
//! never waited for: what it is in the middle of may not end.

use crate::digest::Digest;
use crate::journal::Run;
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

/// The thread. It ends after this.
#[derive(Debug)]
pub(super) struct Admission(mpsc::Sender<(Run, TaskRequest)>);

impl Admission {
    pub(super) fn start(
        policy: Policy,
    ) -> anyhow::Result<(Admission, UnboundedReceiver<Admitted>)> {
        let (requests, incoming) = mpsc::channel::<(Run, TaskRequest)>();
        let (verdicts, admitted) = unbounded_channel();
        let admit = move || {
            let mut modules = SharedModules::default();
            for (run, mut request) in incoming {
                modules.share(&mut request);
                let id = request.id.clone();
                let verdict = policy.admit(request.clone()).map(|spec| (request, spec));
                if verdicts.send(Admitted { run, id, verdict }).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("admission".into()).spawn(admit);
        thread.context("starting the thread that admits tasks")?;
        Ok((Admission(requests), admitted))
    }

    pub(super) fn admit(&self, run: Run, request: TaskRequest) {
        // Its thread ends after this end of the channel only.
        self.0.send((run, request)).ok();
    }
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
