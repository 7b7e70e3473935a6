//! The hands of the [`manager`](crate::manager) module: results leave when it
//! says, and the manager is asked what it wants to know.

use super::{Worker, manager_place};
use crate::config::Config;
use crate::journal::{self, JournalReader, Run, Step};
use crate::ledger::Publication;
use crate::manager::{
    self, Action, Ask, Asker, Change, Complaint, Concluded, Confirmations, Decision, Departure,
    Heard, Hearing, ManagerReply, Results, Timing,
};
use crate::task::{TaskId, humantime};
use bytes::Bytes;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// What is under way to the manager.
pub(super) struct ManagerTraffic {
    results: Results,
    /// Repeats that the connection has not written; whether it did.
    repeats: JoinSet<bool>,
    questions: Option<Questions>,
}

/// Where the manager can be asked.
struct Questions {
    url: String,
    asker: Asker,
    told: UnboundedReceiver<ManagerReply>,
    confirmations: Confirmations,
    hearing: Hearing,
    complaint: Complaint,
    /// Where the results are read back from; none: they are held.
    reader: Option<JournalReader>,
    reads: JoinSet<ReadResult>,
}

/// A result that was read back to be published again.
pub(super) struct ReadResult {
    id: TaskId,
    found: Result<Bytes, journal::ReadError>,
    /// It is over after that.
    last: Option<Concluded>,
}

/// Something that the worker has to see to.
pub(super) enum ResultsEvent {
    /// It is time.
    Due,
    /// A repeat was written, or was not.
    Written(bool),
    /// The manager has answered, or has not.
    Told(ManagerReply),
    /// A result is there again.
    Read(ReadResult),
}

impl ManagerTraffic {
    /// By the configuration; `reader`: of the journal, if there is one.
    ///
    /// # Errors
    ///
    /// Settings of the way to the manager that can't work.
    pub(super) fn start(
        config: &Config,
        reader: Option<JournalReader>,
    ) -> anyhow::Result<ManagerTraffic> {
        let questions = manager_place(config).map(|place| {
            let (asker, told) = Asker::start(&place, &config.credentials.client_id)?;
            anyhow::Ok(Questions {
                url: place.url,
                asker,
                told,
                confirmations: Confirmations::default(),
                hearing: Hearing::new(Instant::now()),
                complaint: Complaint::default(),
                reader,
                reads: JoinSet::new(),
            })
        });
        let timing = Timing {
            hold: config.manager.result_hold,
            repeat: config.manager.result_repeat.clone(),
        };
        let questions = questions.transpose()?;
        Ok(ManagerTraffic { results: Results::new(timing), repeats: JoinSet::new(), questions })
    }

    /// What happens next. Cancelling the wait loses nothing.
    pub(super) async fn happened(&mut self) -> ResultsEvent {
        let questions = self.questions.as_ref();
        let due = [
            self.results.due(),
            questions.and_then(|questions| questions.confirmations.due()),
            questions.and_then(|questions| questions.hearing.due()),
        ];
        let due = due.into_iter().flatten().min();
        let time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match &mut self.questions {
                Some(questions) => questions.answer().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = time => ResultsEvent::Due,
            Some(written) = self.repeats.join_next() => ResultsEvent::Written(written.unwrap_or(false)),
            happened = answer => happened,
        }
    }

    /// A result is to be published; [`Worker::depart`] is to follow.
    pub(super) fn publish(&mut self, publication: Publication) {
        self.results.publish(publication, Instant::now());
    }

    /// The broker has a result, or will never have it. Whether it is there and
    /// the last word on its task.
    pub(super) fn delivered(&mut self, departure: Departure, delivered: bool) -> bool {
        if !delivered {
            self.results.undelivered(&departure);
            return false;
        }
        self.results.delivered(departure, Instant::now())
    }

    /// Whether the journal has to keep the record of this run for now.
    pub(super) fn keeps(&mut self, run: Run) -> bool {
        self.questions.as_mut().is_some_and(|questions| questions.confirmations.keep(run))
    }

    /// The broker has acknowledged a message of this connection.
    pub(super) fn connected(&mut self) {
        if let Some(questions) = &mut self.questions {
            questions.hearing.connected(Instant::now());
        }
    }

    /// There is no connection.
    pub(super) fn disconnected(&mut self) {
        if let Some(questions) = &mut self.questions {
            questions.hearing.disconnected();
        }
    }
}

impl Questions {
    async fn answer(&mut self) -> ResultsEvent {
        loop {
            tokio::select! {
                Some(told) = self.told.recv() => return ResultsEvent::Told(told),
                Some(read) = self.reads.join_next() => match read {
                    Ok(read) => return ResultsEvent::Read(read),
                    // What panicked in it has been reported by the panic hook.
                    Err(_) => continue,
                },
                else => std::future::pending().await,
            }
        }
    }
}

impl Worker {
    /// Does what is due: sends results, asks questions.
    pub(super) fn depart(&mut self) {
        let now = Instant::now();
        while let Some(action) = self.manager.results.next(now) {
            match action {
                Action::Publish(departure) => self.publish(departure),
                Action::Repeat(departure) => {
                    let Publication { id, result, .. } = departure.publication;
                    debug!(task = %id, "publishing a quick result once more");
                    let delivery = self.link.once(&self.topics.results(), result);
                    self.manager.repeats.spawn(async move { delivery.await.is_ok() });
                }
            }
        }
        self.status.metrics.manager.let_go(self.manager.results.take_let_go());
        let Some(questions) = &mut self.manager.questions else { return };
        while let Some(question) = questions.confirmations.question(now) {
            questions.asker.ask(Ask::Task(question));
        }
        if questions.hearing.ask(now) {
            questions.asker.ask(Ask::Heard);
        }
    }

    /// The worker ends: what is held leaves, and nothing is repeated.
    pub(super) fn depart_all(&mut self) {
        self.manager.results.close();
        self.depart();
    }

    pub(super) fn on_manager(&mut self, happened: ResultsEvent) {
        match happened {
            ResultsEvent::Due => {}
            ResultsEvent::Written(written) => {
                self.manager.results.written();
                match written {
                    true => self.status.metrics.manager.repeated(),
                    false => self.status.metrics.manager.let_go(1),
                }
            }
            ResultsEvent::Told(ManagerReply::Task(run, decision)) => {
                self.on_decision(run, &decision)
            }
            ResultsEvent::Told(ManagerReply::Heard(heard)) => self.on_heard(heard),
            ResultsEvent::Read(ReadResult { id, found, last }) => {
                match found {
                    Ok(result) => self.publish_again(&id, result),
                    Err(e) => warn!(task = %id, "the result can't be published again: {e}"),
                }
                self.settle(last);
            }
        }
        self.depart();
    }

    /// The manager must not hear an older result of this task any more.
    pub(super) fn supersede(&mut self, id: &TaskId) {
        self.manager.results.supersede(id);
        if let Some(questions) = &mut self.manager.questions {
            let over = questions.confirmations.replaced(id);
            self.settle(over);
        }
    }

    /// The broker has a result: whether the manager has it is another matter.
    pub(super) fn confirm(&mut self, publication: &Publication) {
        if self.manager.questions.is_none() {
            return;
        }
        let (run, id) = (publication.run, publication.id.clone());
        self.note(Step::Unconfirmed { run, left: SystemTime::now() });
        self.await_confirmation(run, id, publication.result.clone(), Duration::ZERO);
    }

    /// Takes over the results that the last process waited for.
    pub(super) fn take_over(&mut self, finished: &[journal::Finished]) {
        for finished in finished.iter().filter(|finished| finished.delivered) {
            let Some(left) = finished.unconfirmed else { continue };
            // In the future: the clock was set back meanwhile.
            let age = SystemTime::now().duration_since(left).unwrap_or_default();
            let (id, result) = (finished.arrival.id.clone(), finished.result.clone());
            self.await_confirmation(finished.run, id, result, age);
        }
    }

    fn await_confirmation(&mut self, run: Run, id: TaskId, result: Bytes, age: Duration) {
        let Some(questions) = &mut self.manager.questions else { return };
        let (size, held) = (result.len(), questions.reader.is_none().then_some(result));
        let over = questions.confirmations.left(run, id, age, size, held, Instant::now());
        self.settle(over);
    }

    /// These need no confirmation any more.
    fn settle(&mut self, over: impl IntoIterator<Item = Concluded>) {
        for Concluded { run, why, forget } in over {
            self.status.metrics.manager.over(why);
            self.note(if forget { Step::Forgotten(run) } else { Step::Confirmed(run) });
        }
        if let Some(questions) = &self.manager.questions {
            self.status.metrics.manager.waiting(questions.confirmations.len());
        }
    }

    fn on_decision(&mut self, run: Run, decision: &Decision) {
        let now = Instant::now();
        let Some(questions) = &mut self.manager.questions else { return };
        if let Decision::AskAgain(reason) = decision {
            self.status.metrics.manager.unanswered();
            if questions.complaint.failed(now) {
                warn!(
                    "{reason}; until the manager answers nobody knows whether results have \
                     arrived there: it is asked again later"
                );
            }
        } else {
            questions.complaint.worked();
        }
        match questions.confirmations.answered(run, decision, now) {
            manager::NextStep::PublishAgain { id, payload: Some(result), last } => {
                self.publish_again(&id, result);
                self.settle(last);
            }
            manager::NextStep::PublishAgain { id, payload: None, last } => {
                let Some(reader) = questions.reader.clone() else { return };
                questions.reads.spawn_blocking(move || ReadResult {
                    id,
                    found: reader.result(run),
                    last,
                });
            }
            manager::NextStep::Over(finished) => self.settle([finished]),
            manager::NextStep::Wait => {}
        }
    }

    fn publish_again(&mut self, id: &TaskId, result: Bytes) {
        warn!(task = %id, "the manager has missed the task's result: publishing it again");
        self.status.metrics.manager.missed();
        // One that gets lost is asked about again.
        drop(self.link.once(&self.topics.results(), result));
    }

    fn on_heard(&mut self, heard: Result<Heard, String>) {
        let now = Instant::now();
        let Some(questions) = &mut self.manager.questions else { return };
        match &heard {
            Ok(_) => questions.complaint.worked(),
            Err(reason) => {
                self.status.metrics.manager.unanswered();
                if questions.complaint.failed(now) {
                    warn!(
                        "{reason}; until the manager answers nobody knows whether it hears this worker"
                    );
                }
            }
        }
        let Some(change) = questions.hearing.answered(heard.ok(), now) else { return };
        self.status.metrics.manager.deaf(matches!(change, Change::Deaf(_)));
        // Whoever acts on the line in the log finds it in `/ready`, too.
        match change {
            Change::Deaf(heard) => {
                let deaf = deaf(&questions.url, heard);
                self.status.health.set_note(Some(deaf.clone()));
                warn!(
                    "{deaf} Why: it lost its subscriptions when the broker restarted; or it stands \
                     still, as with jobs whose tasks depend on each other (MANAGER_MQTT_QOS=0 helps); \
                     or --manager-url is another manager's; or the broker's access rules keep this \
                     worker's messages from it; or it sends a message over the broker's limit again \
                     and again. What helps: kill it and start it again (`docker kill`, then `docker \
                     start`); a graceful stop would fail all that it shows as Running. Results are \
                     published again once it hears them"
                );
            }
            Change::Hears => {
                self.status.health.set_note(None);
                info!("the manager at {} hears this worker again", questions.url);
            }
        }
    }
}

fn deaf(url: &str, heard: Heard) -> String {
    let since = match heard {
        Heard::Never => "never heard this worker".to_owned(),
        Heard::Ago(ago) => format!("not heard this worker for {}", humantime(ago)),
    };
    format!("the manager at {url} has {since}, although the broker takes its messages.")
}
