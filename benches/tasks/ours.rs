//! The worker's executor with everything behind it and nothing before it: no
//! broker, no journal.

use crate::place::Place;
use anyhow::Context as _;
use proplet::cancel::Cancel;
use proplet::config::Isolation;
use proplet::executor::{Executor, PoolThreads, RunTask, Submission, TaskEnd, TurnEnd};
use proplet::journal::Run;
use proplet::nn::Nn;
use proplet::policy::Policy;
use proplet::queue::{Admission, QueueBounds};
use proplet::runtime::{Runtime, THREAD_STACK};
use proplet::sources::Fetcher;
use proplet::task::{TaskId, TaskRequest, Timings};
use proplet::worker::{self, Tasker};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// An executor, with the limits and caches that a worker of these settings has.
pub struct Ours {
    policy: Policy,
    executor: Executor,
    /// Its process ends with it.
    tasker: Option<Tasker>,
    ended: UnboundedReceiver<TaskEnd>,
    _tokio: tokio::runtime::Runtime,
    tasks: u64,
}

impl Ours {
    pub fn start(place: &Place, settings: &[(&str, &str)]) -> anyhow::Result<Ours> {
        let config = place.config(settings)?;
        let policy = worker::policy(&config);
        let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let entered = tokio.enter();
        let tasker = match config.isolation {
            Isolation::Process => {
                let fetcher = Arc::new(Fetcher::new(config.module_size, None, None));
                Some(Tasker::start(&config, &policy, fetcher)?)
            }
            Isolation::None => None,
        };
        let apart = tasker.is_some();
        let run: Box<RunTask> = match &tasker {
            Some(tasker) => tasker.run(),
            None => {
                let nn = Nn::new(worker::nn_config(&config, &policy));
                let runtime = Runtime::new(&worker::runtime_config(&config), nn)?;
                Box::new(move |turn| {
                    let (outcome, remains) = runtime.answer(turn.spec, None, turn.cancel);
                    TurnEnd { remains: Some(Box::new(remains)), ..outcome.into() }
                })
            }
        };
        let threads = PoolThreads {
            executors: config.executors.get(),
            stack: THREAD_STACK,
            large: 1,
            apart,
            invocations: false,
        };
        let bounds = QueueBounds { memory: None, ..worker::bounds(&config) };
        let recall = Box::new(|_: Run, _: &Cancel| unreachable!("all is in memory"));
        let (executor, ended) = Executor::start(threads, bounds, recall, run)?;
        drop(entered);
        Ok(Ours { policy, executor, tasker, ended, _tokio: tokio, tasks: 0 })
    }

    /// Ends in order, so that what was compiled is kept.
    pub fn end(self) {
        if let Some(tasker) = &self.tasker {
            tasker.close();
        }
    }

    /// From the request to its outcome.
    pub fn run(&mut self, request: &TaskRequest) -> anyhow::Result<Duration> {
        self.run_in_steps(request).map(|(all, _)| all)
    }

    /// The same, and what the task's outcome tells of it.
    pub fn run_in_steps(&mut self, request: &TaskRequest) -> anyhow::Result<(Duration, Timings)> {
        let request = self.next(request)?;
        let began = Instant::now();
        self.submit(request)?;
        let timings = self.take()?;
        Ok((began.elapsed(), timings))
    }

    /// Tasks a second, with this many in flight for this long; and how long
    /// each took.
    pub fn flow(
        &mut self,
        request: &TaskRequest,
        in_flight: usize,
        lasting: Duration,
    ) -> anyhow::Result<f64> {
        for _ in 0..in_flight {
            let request = self.next(request)?;
            self.submit(request)?;
        }
        let began = Instant::now();
        let mut done = 0u32;
        while began.elapsed() < lasting {
            self.take()?;
            done += 1;
            let request = self.next(request)?;
            self.submit(request)?;
        }
        let took = began.elapsed();
        for _ in 0..in_flight {
            self.take()?;
        }
        Ok(f64::from(done) / took.as_secs_f64())
    }

    /// The request under an id of its own.
    fn next(&mut self, request: &TaskRequest) -> anyhow::Result<TaskRequest> {
        self.tasks += 1;
        let id = TaskId::new(&format!("task-{:010}", self.tasks))?;
        Ok(TaskRequest { id, ..request.clone() })
    }

    fn submit(&self, request: TaskRequest) -> anyhow::Result<()> {
        let spec = self.policy.admit(request)?;
        Ok(self.executor.submit(Submission::whole(Run(self.tasks), spec), Admission::Ready)?)
    }

    fn take(&mut self) -> anyhow::Result<Timings> {
        let TaskEnd { id, outcome, .. } =
            self.ended.blocking_recv().context("the executor has ended")?;
        outcome
            .verdict
            .with_context(|| format!("{id}: {}", String::from_utf8_lossy(&outcome.stderr.bytes)))?;
        Ok(outcome.timings)
    }
}
