//! A broker, a disk, an executor and an outbox around the ledger, and whatever
//! may happen between them, in any order.

use super::*;
use std::collections::VecDeque;

/// A message as the broker keeps it until it is acknowledged.
#[derive(Clone, Debug)]
struct Message {
    number: usize,
    id: TaskId,
    /// None is a stop.
    start: Option<(u8, Option<ManagerState>)>,
    sent: bool,
}

/// What the journal holds of a run.
#[derive(Clone, Debug)]
struct Record {
    arrival: Arrival,
    result: Option<(Ending, Bytes)>,
    delivered: bool,
    stopped: bool,
    acknowledged: bool,
    replayed: bool,
}

/// The right to acknowledge: where the message came, and which one it is.
type Ack = (Receipt, usize);

struct World {
    ledger: Ledger<Ack>,
    effects: Effects<Ack>,
    journaled: bool,
    /// Tasks run while their records are on the way to the disk.
    early: bool,
    now: Now,
    /// Messages that are sent so far.
    sent: usize,
    broker: VecDeque<Message>,
    connection: u64,
    received: u64,
    /// Of this connection, in the order of arrival: acknowledged or not.
    inbox: VecDeque<(Receipt, usize, bool)>,
    /// Acknowledgements that have left: the broker may not have them.
    acks: VecDeque<(Receipt, Message)>,
    disk: BTreeMap<Run, Record>,
    next: Run,
    /// Records that are not on the disk.
    waiting: VecDeque<(Step, Option<After<Ack>>)>,
    admission: VecDeque<(Run, TaskRequest)>,
    executor: Vec<(TaskId, Run, bool, bool)>,
    outbox: VecDeque<Publication>,
    outputs: u32,
    /// What the broker got, in order: which run's, and the result.
    results: Vec<(usize, TaskId, Run, Bytes, bool)>,
    /// When a start was acknowledged for good, as far as the worker is concerned.
    owed: Vec<(usize, TaskId)>,
    stopped: HashSet<Run>,
    clock: usize,
}

#[derive(Clone, Debug)]
enum Deed {
    Start {
        id: u8,
        content: u8,
        state: u8,
    },
    Stop(u8),
    Receive,
    Admit(bool),
    Sync(usize),
    End(usize, bool),
    Deliver(bool),
    /// The broker answers something.
    Known,
    /// The connection is lost, and with it some acknowledgements.
    Cut(usize),
    Pass(u64),
    Crash,
    Shutdown,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..3_u8, 0..2_u8, 0..8_u8).prop_map(|(id, content, state)| {
            Deed::Start { id, content, state }
        }),
        2 => (0..3_u8).prop_map(Deed::Stop),
        8 => Just(Deed::Receive),
        6 => any::<bool>().prop_map(Deed::Admit),
        6 => (0..4_usize).prop_map(Deed::Sync),
        6 => (0..4_usize, any::<bool>()).prop_map(|(n, success)| Deed::End(n, success)),
        6 => prop::bool::weighted(0.9).prop_map(Deed::Deliver),
        3 => Just(Deed::Known),
        2 => (0..4_usize).prop_map(Deed::Cut),
        2 => (0..90_u64).prop_map(Deed::Pass),
        1 => Just(Deed::Crash),
        1 => Just(Deed::Shutdown),
    ]
}

impl World {
    fn new(journaled: bool, early: bool) -> World {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        World {
            ledger: Ledger::new("w", 1 << 20, journaled),
            effects: Effects::new(),
            journaled,
            early,
            now: Now { instant: Instant::now(), wall },
            sent: 0,
            broker: VecDeque::new(),
            connection: 1,
            received: 0,
            inbox: VecDeque::new(),
            acks: VecDeque::new(),
            disk: BTreeMap::new(),
            next: Run(0),
            waiting: VecDeque::new(),
            admission: VecDeque::new(),
            executor: Vec::new(),
            outbox: VecDeque::new(),
            outputs: 0,
            results: Vec::new(),
            owed: Vec::new(),
            stopped: HashSet::new(),
            clock: 0,
        }
    }

    fn on(&mut self, event: LedgerEvent<Ack>) {
        self.ledger.on(event, self.now, &mut self.effects);
        while let Some(effect) = self.effects.pop_front() {
            if let Some(answer) = self.carry_out(effect) {
                self.ledger.on(answer, self.now, &mut self.effects);
            }
        }
    }

    fn carry_out(&mut self, effect: LedgerEffect<Ack>) -> Option<LedgerEvent<Ack>> {
        match effect {
            LedgerEffect::Record { then, .. } if !self.journaled => {
                return Some(LedgerEvent::Durable(then));
            }
            LedgerEffect::Record { step, then } => self.waiting.push_back((step, Some(then))),
            LedgerEffect::Note(step) if self.journaled => self.waiting.push_back((step, None)),
            LedgerEffect::Acknowledge((receipt, _)) => self.acknowledge(receipt),
            LedgerEffect::Admit { run, request } => self.admission.push_back((run, request)),
            LedgerEffect::Submit { run, request, .. } => {
                let id = request.id.clone();
                let verdict = if self.executor.len() > 3 {
                    Err(Rejection::Busy { running: 0, queued: 4, limit: 4 })
                } else {
                    self.submit(run, &id, !self.early);
                    Ok(())
                };
                return Some(LedgerEvent::Submitted { run, id, request: Some(request), verdict });
            }
            LedgerEffect::Resubmit { run, id, .. } => {
                self.submit(run, &id, false);
                return Some(LedgerEvent::Submitted { run, id, request: None, verdict: Ok(()) });
            }
            LedgerEffect::Release(id) => {
                for (known, run, held, _) in &mut self.executor {
                    if *known == id {
                        let recorded = self.disk.contains_key(run) || !self.journaled;
                        assert!(recorded, "{run:?} runs without being recorded");
                        *held = false;
                    }
                }
            }
            LedgerEffect::Stop(id) => {
                for (known, _, _, stopped) in &mut self.executor {
                    *stopped |= *known == id;
                }
            }
            LedgerEffect::Publish(publication) => {
                let recorded = !self.journaled || self.disk.contains_key(&publication.run);
                assert!(recorded, "{publication:?} goes out without being recorded");
                self.outbox.push_back(publication);
            }
            LedgerEffect::Notice(LedgerNotice::NeverBegun(id)) => panic!("{id} had not begun"),
            LedgerEffect::Deploy { .. }
            | LedgerEffect::NotDeployed(_)
            | LedgerEffect::StartAgain { .. }
            | LedgerEffect::Serve { .. } => {
                panic!("each task runs once here")
            }
            LedgerEffect::Note(_) | LedgerEffect::Superseded(_) | LedgerEffect::Notice(_) => {}
        }
        None
    }

    fn submit(&mut self, run: Run, id: &TaskId, held: bool) {
        assert!(!self.stopped.contains(&run), "{run:?} was stopped for good");
        assert!(self.executor.iter().all(|(other, ..)| other != id), "{id} runs twice");
        self.executor.push((id.clone(), run, held, false));
    }

    fn acknowledge(&mut self, receipt: Receipt) {
        if receipt.connection != self.connection {
            // The broker hears nothing of it, and sends the message again.
            return;
        }
        for (waiting, .., done) in &mut self.inbox {
            *done |= *waiting == receipt;
        }
        while self.inbox.front().is_some_and(|(.., done)| *done)
            && let Some((receipt, number, _)) = self.inbox.pop_front()
        {
            let at = self.broker.iter().position(|message| message.number == number);
            let message = self.broker.remove(at.expect("the broker has it")).expect("there");
            self.acks.push_back((receipt, message));
        }
    }

    fn receive(&mut self) {
        let inflight = |message: &Message| self.inbox.iter().any(|(_, n, _)| *n == message.number);
        let Some(at) = self.broker.iter().position(|message| !inflight(message)) else { return };
        let message = &mut self.broker[at];
        let duplicate = std::mem::replace(&mut message.sent, true);
        let Message { number, id, start, .. } = message.clone();
        let receipt = Receipt { connection: self.connection, number: self.received };
        self.received += 1;
        self.inbox.push_back((receipt, number, false));
        let ack = (receipt, number);
        match start {
            Some((content, state)) => {
                let content = format!("content {content}");
                let arrival = arrival(id.as_str(), &content, state);
                let content = Ok(request(id.as_str(), &content));
                let receipt = Some(receipt);
                self.owed.push((self.clock, id));
                self.on(LedgerEvent::Start(Start { arrival, content, duplicate, receipt, ack }));
            }
            None => self.on(LedgerEvent::Stop { id, ack }),
        }
    }

    fn sync(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some((step, then)) = self.waiting.pop_front() else { return };
            self.write(step);
            if let Some(then) = then {
                self.on(LedgerEvent::Durable(then));
            }
        }
    }

    fn write(&mut self, step: Step) {
        let disk = &mut self.disk;
        match step {
            Step::Accepted { run, arrival, .. } => {
                let record = Record {
                    arrival,
                    result: None,
                    delivered: false,
                    stopped: false,
                    acknowledged: false,
                    replayed: false,
                };
                self.next = self.next.max(Run(run.0 + 1));
                disk.insert(run, record);
            }
            Step::Finished { run, arrival, ending, result } => {
                let before = disk.get(&run);
                let acknowledged = before.is_some_and(|before| before.acknowledged);
                let record = Record {
                    arrival,
                    result: Some((ending, result)),
                    delivered: false,
                    stopped: false,
                    acknowledged,
                    replayed: false,
                };
                self.next = self.next.max(Run(run.0 + 1));
                disk.insert(run, record);
            }
            Step::Stopped(run) => {
                let Some(record) = disk.get_mut(&run) else { return };
                record.stopped = true;
                if record.result.is_none() {
                    self.stopped.insert(run);
                }
            }
            Step::Acknowledged(run) => drop(disk.get_mut(&run).map(|run| run.acknowledged = true)),
            Step::Delivered(run) => drop(disk.get_mut(&run).map(|run| run.delivered = true)),
            Step::Undelivered(run) => drop(disk.get_mut(&run).map(|run| run.delivered = false)),
            Step::Replayed(run) => drop(disk.get_mut(&run).map(|run| run.replayed = true)),
            Step::Forgotten(run) => drop(disk.remove(&run)),
            Step::Deployed(_)
            | Step::Serves { .. }
            | Step::Died { .. }
            | Step::Unconfirmed { .. }
            | Step::Confirmed(_)
            | Step::Nothing => {}
        }
    }

    fn end(&mut self, n: usize, success: bool) {
        let ready = |(_, _, held, stopped): &(TaskId, Run, bool, bool)| !held || *stopped;
        let ready: Vec<usize> =
            (0..self.executor.len()).filter(|at| ready(&self.executor[*at])).collect();
        if ready.is_empty() {
            return;
        }
        let (id, _, held, stopped) = self.executor.remove(ready[n % ready.len()]);
        self.outputs += 1;
        // A stop may come too late for one that runs.
        let outcome = match (stopped && (held || !success), success) {
            (true, _) => Outcome::failed(Failure::Stopped),
            (false, true) => printed(&format!("output {}", self.outputs)),
            (false, false) => Outcome::failed(Failure::Trap(format!("trap {}", self.outputs))),
        };
        self.on(LedgerEvent::Ended { id, outcome });
    }

    fn deliver(&mut self, fits: bool) {
        let Some(publication) = self.outbox.pop_front() else { return };
        let Publication { run, id, result, replay, .. } = publication;
        // What the broker has taken once it takes again.
        let taken = self.results.iter().any(|(.., before, _)| *before == result);
        if fits || replay || taken {
            self.results.push((self.clock, id.clone(), run, result, replay));
            return self.on(LedgerEvent::Delivered { run, id });
        }
        let full = TaskResult::decode(&result).expect("a result");
        let instead = full.without_output("too large".into());
        self.on(LedgerEvent::Undeliverable { run, id, instead });
    }

    fn cut(&mut self, lost: usize) {
        for _ in 0..lost {
            // The worker knew of none of these that the broker has them.
            let Some((_, message)) = self.acks.pop_back() else { break };
            self.broker.push_front(message);
        }
        self.acks.clear();
        self.inbox.clear();
        self.connection += 1;
        self.received = 0;
    }

    /// The process dies with all that was not on the disk.
    fn crash(&mut self) {
        self.waiting.clear();
        self.admission.clear();
        self.executor.clear();
        self.outbox.clear();
        self.cut(0);
        self.ledger = Ledger::new("w", 1 << 20, true);
        let mut recovered = Recovered { next: self.next, ..Recovered::default() };
        for (run, record) in self.disk.clone() {
            let Record { arrival, result, delivered, .. } = record;
            let (stopped, acknowledged) = (record.stopped, record.acknowledged);
            match result {
                Some((ending, result)) => recovered.finished.push(Finished {
                    run,
                    arrival,
                    ending,
                    result,
                    delivered,
                    unconfirmed: None,
                    stopped,
                    acknowledged,
                    replayed: record.replayed,
                }),
                None => recovered.waiting.push(Waiting {
                    run,
                    arrival,
                    life: Life::Once,
                    port: None,
                    stopped,
                    acknowledged,
                    suspect: false,
                    deaths: 0,
                    weight: Weight::default(),
                }),
            }
        }
        self.on(LedgerEvent::Recovered(recovered));
    }

    /// The process ends in good order, and with a journal another one follows.
    fn shutdown(&mut self) {
        self.on(LedgerEvent::Draining);
        for (id, _, held, _) in std::mem::take(&mut self.executor) {
            if !self.journaled {
                let outcome = Outcome::failed(Failure::ShuttingDown);
                self.on(LedgerEvent::Ended { id, outcome });
            } else if !held {
                self.on(LedgerEvent::CutShort(id));
            }
        }
        self.sync(usize::MAX);
        while !self.outbox.is_empty() {
            self.deliver(true);
        }
        self.sync(usize::MAX);
        if self.journaled {
            self.crash();
        }
    }

    fn has_work(&self) -> bool {
        let inbox = self.inbox.len();
        self.broker.len() > inbox
            || !(self.waiting.is_empty() && self.admission.is_empty())
            || !(self.executor.is_empty() && self.outbox.is_empty())
    }

    fn one(&mut self, deed: &Deed) {
        self.clock += 1;
        match deed {
            Deed::Start { id: n, content, state } => {
                // The number after the last stands for no state.
                let state = (*state < 7).then(|| ManagerState::from(*state));
                let (number, id) = (self.sent, id(&n.to_string()));
                self.sent += 1;
                let start = Some((*content, state));
                self.broker.push_back(Message { number, id, start, sent: false });
            }
            Deed::Stop(n) => {
                let (number, id) = (self.sent, id(&n.to_string()));
                self.sent += 1;
                self.broker.push_back(Message { number, id, start: None, sent: false });
            }
            Deed::Receive => self.receive(),
            Deed::Admit(granted) => {
                let Some((run, request)) = self.admission.pop_front() else { return };
                let id = request.id.clone();
                let verdict = match granted {
                    true => Ok((request, spec(&id))),
                    false => Err(Rejection::Directory("not there".into())),
                };
                self.on(LedgerEvent::Admitted { run, id, verdict });
            }
            Deed::Sync(steps) => self.sync(*steps),
            Deed::End(n, success) => self.end(*n, *success),
            Deed::Deliver(fits) => self.deliver(*fits),
            Deed::Known => {
                if let Some((receipt, _)) = self.acks.back() {
                    let receipt = *receipt;
                    self.acks.clear();
                    self.on(LedgerEvent::Acknowledged(receipt));
                }
            }
            Deed::Cut(lost) => self.cut(*lost),
            Deed::Pass(seconds) => {
                self.now.instant += Duration::from_secs(*seconds);
                self.now.wall += Duration::from_secs(*seconds);
            }
            Deed::Crash if self.journaled => self.crash(),
            // Whoever keeps no journal loses what a crash takes.
            Deed::Crash => {}
            Deed::Shutdown if self.journaled => self.shutdown(),
            Deed::Shutdown => {}
        }
    }

    /// Everything comes to its end.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.has_work() {
                return;
            }
            self.clock += 1;
            self.receive();
            self.one(&Deed::Admit(true));
            self.sync(usize::MAX);
            self.end(0, true);
            self.deliver(true);
        }
        panic!("it never comes to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Whatever happens in whatever order: each start that was taken is
    /// followed by a result of its task, the results of a run are the same byte
    /// for byte, but for the mark of a replay, none of them goes out before its run is
    /// recorded, no task runs beside itself, none before it is recorded unless it
    /// may, and what was stopped does not begin again.
    #[test]
    fn each_start_has_a_result_and_no_run_has_two(
        deeds in prop::collection::vec(deed(), 1..120),
        journaled in any::<bool>(),
        early in any::<bool>(),
    ) {
        let mut world = World::new(journaled, early);
        deeds.iter().for_each(|deed| world.one(deed));
        world.settle();
        prop_assert!(world.inbox.iter().all(|(.., done)| *done), "a message stays unacknowledged");
        let mut first: BTreeMap<Run, &Bytes> = BTreeMap::new();
        for (_, _, run, result, replay) in &world.results {
            let before = first.entry(*run).or_insert(result);
            let same = if *replay { is_replay_of(result, before) } else { result == *before };
            prop_assert!(same, "{run:?}: {before:?} and {result:?}");
        }
        for (when, id) in &world.owed {
            let answered = world.results.iter().any(|(at, of, ..)| at >= when && of == id);
            prop_assert!(answered, "a start of {id} at {when} has no result: {:?}", world.results);
        }
        // A worker that ends leaves nothing behind.
        world.shutdown();
        prop_assert!(!world.has_work());
    }
}
