//! One rule a test. Messages are acknowledged by their receipt.

use super::*;

/// A worker of which the test does each step.
struct Worker {
    ledger: Ledger<Receipt>,
    effects: Effects<Receipt>,
    now: Now,
    last: Receipt,
}

/// What a start got.
#[derive(Debug, PartialEq)]
enum Got {
    /// A run, which is being admitted.
    Run(Run),
    /// A result again.
    Again(Bytes),
    /// Nothing of its own.
    Ignored,
    /// A result: it was refused.
    Refused(String),
}

impl Worker {
    fn new(journaled: bool) -> Worker {
        let now = Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        let now = Now { wall: now.wall + Duration::from_secs(1_000_000), ..now };
        let last = Receipt { connection: 1, number: 0 };
        Worker { ledger: Ledger::new("w", 1 << 26, journaled), effects: Effects::new(), now, last }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
    }

    fn on(&mut self, event: Event<Receipt>) -> Vec<Effect<Receipt>> {
        self.ledger.on(event, self.now, &mut self.effects);
        self.effects.drain(..).collect()
    }

    /// A start comes, and all that is recorded is on the disk at once.
    fn start(&mut self, arrival: Arrival, content: &str, duplicate: bool) -> Got {
        self.last.number += 1;
        let content = Ok(request(arrival.id.as_str(), content));
        let (receipt, ack) = (Some(self.last), self.last);
        let effects = self.on(Event::Start(Start { arrival, content, duplicate, receipt, ack }));
        self.got(effects, ack)
    }

    fn got(&mut self, effects: Vec<Effect<Receipt>>, ack: Receipt) -> Got {
        for effect in effects {
            match effect {
                Effect::Admit { run, .. } => return Got::Run(run),
                Effect::Record { then, .. } => {
                    let after = self.on(Event::Durable(then));
                    assert_eq!(after[0], Effect::Acknowledge(ack));
                    return match after.into_iter().nth(1) {
                        Some(Effect::Publish(publication)) if publication.replay => {
                            self.on(Event::Delivered { run: publication.run, id: publication.id });
                            Got::Again(publication.result)
                        }
                        Some(Effect::Publish(publication)) => {
                            let result = TaskResult::decode(&publication.result);
                            Got::Refused(result.expect("a result").error.expect("an error"))
                        }
                        _ => Got::Ignored,
                    };
                }
                _ => {}
            }
        }
        panic!("a start without any consequence");
    }

    /// The run is admitted, accepted and released.
    fn accept(&mut self, run: Run, name: &str) {
        let verdict = Ok((request(name, ""), spec(&id(name))));
        let admitted = self.on(Event::Admitted { run, id: id(name), verdict });
        let [Effect::Submit { .. }] = &admitted[..] else { panic!("{admitted:?}") };
        self.submitted(run, name);
    }

    fn submitted(&mut self, run: Run, name: &str) {
        let request = Some(request(name, ""));
        let submitted = Event::Submitted { run, id: id(name), request, verdict: Ok(()) };
        let mut effects = self.on(submitted);
        let Some(Effect::Record { step: Step::Accepted { .. }, then }) = effects.pop() else {
            panic!("{effects:?}")
        };
        let effects = self.on(Event::Durable(then));
        assert!(effects.contains(&Effect::Release(id(name))), "{effects:?}");
    }

    /// The run ends, and the broker gets its result.
    fn end(&mut self, name: &str, outcome: Outcome) -> Bytes {
        let publication = self.ended(name, outcome);
        self.on(Event::Delivered { run: publication.run, id: id(name) });
        publication.result
    }

    fn ended(&mut self, name: &str, outcome: Outcome) -> Publication {
        let effects = self.on(Event::Ended { id: id(name), outcome });
        self.publication(effects)
    }

    /// The result that is recorded and then published.
    fn publication(&mut self, effects: Vec<Effect<Receipt>>) -> Publication {
        let mut records = effects.into_iter().filter_map(|effect| match effect {
            Effect::Record { step: Step::Finished { .. }, then } => Some(then),
            _ => None,
        });
        let then = records.next().expect("a result is recorded");
        match self.on(Event::Durable(then)).pop() {
            Some(Effect::Publish(publication)) => publication,
            other => panic!("{other:?}"),
        }
    }

    /// A start that runs and ends.
    fn run(&mut self, arrival: Arrival, outcome: Outcome) -> Bytes {
        let name = arrival.id.as_str().to_owned();
        let Got::Run(run) = self.start(arrival, "same", false) else { panic!("not run") };
        self.accept(run, &name);
        self.end(&name, outcome)
    }

    fn stop(&mut self, name: &str) -> Vec<Effect<Receipt>> {
        self.last.number += 1;
        let ack = self.last;
        self.on(Event::Stop { id: id(name), ack })
    }

    fn known(&mut self) -> Vec<Effect<Receipt>> {
        self.on(Event::Acknowledged(self.last))
    }
}

fn same(number: u8) -> Arrival {
    arrival("a", "same", state(number))
}

/// That the task `a` is admitted.
fn granted(run: Run) -> Event<Receipt> {
    Event::Admitted { run, id: id("a"), verdict: Ok((request("a", "same"), spec(&id("a")))) }
}

/// That the queue has taken it.
fn submitted(run: Run) -> Event<Receipt> {
    let request = Some(request("a", "same"));
    Event::Submitted { run, id: id("a"), request, verdict: Ok(()) }
}

fn failed() -> Outcome {
    Outcome::failed(Failure::Exit(1))
}

#[test]
fn a_start_of_a_task_that_is_queued_or_running_is_ignored() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    for number in 0..=7 {
        assert_eq!(worker.start(same(number), "same", false), Got::Ignored);
        let other = arrival("a", "other", state(number));
        assert_eq!(worker.start(other, "other", true), Got::Ignored);
    }
}

#[test]
fn a_start_of_a_task_that_is_being_admitted_is_not_acknowledged_before_that() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    let (content, duplicate) = (Ok(request("a", "same")), true);
    let ack = Receipt { connection: 2, number: 0 };
    let start = Start { arrival: same(0), content, duplicate, receipt: Some(ack), ack };
    let effects = worker.on(Event::Start(start));
    assert_eq!(effects, [Effect::Notice(Notice::Underway { id: id("a"), same: true })]);
    worker.on(granted(run));
    let submitted = submitted(run);
    let [
        Effect::Record { step: Step::Accepted { .. }, .. },
        Effect::Record { step: Step::Nothing, then: After::Acknowledge(copy) },
    ] = &worker.on(submitted)[..]
    else {
        panic!("not recorded first")
    };
    assert_eq!(*copy, ack);
}

#[test]
fn a_start_of_a_task_whose_end_the_manager_has_is_a_new_run() {
    for number in 3..=6 {
        for outcome in [printed("x"), failed()] {
            let mut worker = Worker::new(true);
            worker.run(same(0), outcome);
            assert!(matches!(worker.start(same(number), "same", false), Got::Run(_)), "{number}");
        }
    }
}

/// HAZARDS.md case 82.
#[test]
fn a_schedule_for_each_minute_is_a_run_each_minute() {
    let mut worker = Worker::new(true);
    worker.run(same(0), printed("0"));
    for minute in 1..5 {
        worker.pass(59);
        worker.run(same(3), printed(&minute.to_string()));
    }
}

/// HAZARDS.md case 83.
#[test]
fn a_task_that_shows_running_gets_its_success_once_and_then_runs_again() {
    let mut worker = Worker::new(true);
    let result = worker.run(same(0), printed("x"));
    worker.pass(3600);
    let Got::Again(again) = worker.start(same(2), "same", false) else { panic!("not again") };
    assert!(is_replay_of(&again, &result));
    assert_eq!(worker.start(same(2), "same", true), Got::Again(again), "that start once more");
    worker.known();
    assert!(matches!(worker.start(same(2), "same", true), Got::Run(_)));
    let mut worker = Worker::new(true);
    worker.run(same(0), failed());
    assert!(matches!(worker.start(same(2), "same", false), Got::Run(_)), "a failure");
    let mut worker = Worker::new(true);
    worker.run(same(0), printed("x"));
    let other = arrival("a", "other", state(2));
    assert!(matches!(worker.start(other, "other", false), Got::Run(_)), "other content");
}

#[test]
fn a_start_that_tells_no_end_gets_a_success_of_the_last_minute() {
    for number in [state(0), state(1), state(9), None] {
        let mut worker = Worker::new(true);
        let start = || arrival("a", "same", number);
        let result = worker.run(start(), printed("x"));
        worker.pass(59);
        for _ in 0..3 {
            let got = worker.start(start(), "same", false);
            assert!(matches!(got, Got::Again(again) if is_replay_of(&again, &result)));
        }
        let other = arrival("a", "other", number);
        worker.known();
        worker.pass(1);
        assert!(matches!(worker.start(start(), "same", true), Got::Run(_)), "{number:?}");
        let mut worker = Worker::new(true);
        worker.run(start(), printed("x"));
        assert!(matches!(worker.start(other, "other", false), Got::Run(_)), "{number:?}");
    }
}

/// Issue 10, point 16: whoever has mended the model starts the task again.
#[test]
fn a_failure_is_not_repeated_for_whoever_starts_the_task_again() {
    for number in 0..=6 {
        let mut worker = Worker::new(true);
        worker.run(same(number), failed());
        assert!(matches!(worker.start(same(number), "same", false), Got::Run(_)), "{number}");
    }
}

/// HAZARDS.md case 44.
#[test]
fn the_very_message_gets_its_result_again_a_failure_too() {
    for number in 0..=6 {
        for outcome in [printed("x"), failed()] {
            let mut worker = Worker::new(true);
            let result = worker.run(same(number), outcome);
            worker.pass(3600);
            for _ in 0..2 {
                worker.last.connection += 1;
                let got = worker.start(same(number), "same", true);
                assert!(matches!(got, Got::Again(again) if is_replay_of(&again, &result)));
            }
            let other = same((number + 3) % 7);
            let shows_running = other.state == Some(ManagerState::Running);
            let got = worker.start(other, "same", true);
            assert!(matches!(got, Got::Run(_)) || shows_running, "{number}: another message");
        }
    }
}

/// HAZARDS.md case 85.
#[test]
fn a_message_that_was_never_taken_runs_although_it_is_marked_as_sent_before() {
    for number in [3, 4] {
        let mut worker = Worker::new(true);
        worker.run(same(number), printed("x"));
        let noted = worker.known();
        assert_eq!(noted, [Effect::Note(Step::Acknowledged(Run(0)))]);
        worker.last.connection += 1;
        assert!(matches!(worker.start(same(number), "same", true), Got::Run(_)));
    }
}

#[test]
fn what_another_connection_acknowledges_says_nothing() {
    let mut worker = Worker::new(true);
    let result = worker.run(same(4), failed());
    worker.last.connection += 1;
    assert_eq!(worker.known(), []);
    let got = worker.start(same(4), "same", true);
    assert!(matches!(got, Got::Again(again) if is_replay_of(&again, &result)));
    // The copy's acknowledgement is the message's.
    worker.known();
    assert!(matches!(worker.start(same(4), "same", true), Got::Run(_)));
}

#[test]
fn an_acknowledgement_that_arrives_while_the_task_runs_counts() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(3), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    worker.known();
    worker.end("a", printed("x"));
    assert!(matches!(worker.start(same(3), "same", true), Got::Run(_)));
}

#[test]
fn a_stop_forgets_a_result_for_later_starts_but_not_for_the_very_message() {
    for number in [0, 2] {
        let mut worker = Worker::new(true);
        let result = worker.run(same(number), printed("x"));
        let stopped = worker.stop("a");
        assert!(stopped.contains(&Effect::Superseded(id("a"))), "{stopped:?}");
        let got = worker.start(same(number), "same", true);
        assert!(matches!(got, Got::Again(again) if is_replay_of(&again, &result)));
        assert!(matches!(worker.start(same(number), "same", false), Got::Run(_)));
    }
}

#[test]
fn a_start_whose_result_is_on_its_way_is_answered_by_that() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    worker.ended("a", printed("x"));
    assert_eq!(worker.start(same(2), "same", false), Got::Ignored);
    assert!(matches!(worker.start(same(3), "same", false), Got::Run(_)));
}

/// README, 'What survives'.
#[test]
fn what_is_known_of_an_end_is_known_to_the_next_process() {
    let result = Bytes::from_static(b"{\"task_id\":\"a\"}");
    let recover = |finished: Finished| {
        let mut worker = Worker::new(true);
        let recovered = Recovered { finished: vec![finished], next: Run(1), ..Default::default() };
        assert_eq!(worker.on(Event::Recovered(recovered)), []);
        worker
    };
    let now = Worker::new(true).now.wall;
    let finished = |number, success, at| Finished {
        run: Run(0),
        arrival: same(number),
        ending: Ending { at: Some(at), success },
        result: result.clone(),
        delivered: true,
        unconfirmed: None,
        stopped: false,
        acknowledged: false,
        replayed: false,
    };
    let ago = |seconds| now - Duration::from_secs(seconds);
    let again = |got| matches!(got, Got::Again(again) if is_replay_of(&again, &result));
    let runs = |got| matches!(got, Got::Run(Run(1)));
    // After a crash nothing is known of the acknowledgement that was not written.
    let failure = finished(4, false, ago(3600));
    assert!(again(recover(failure.clone()).start(same(4), "same", true)));
    let acknowledged = Finished { acknowledged: true, ..failure };
    assert!(runs(recover(acknowledged).start(same(4), "same", true)));
    assert!(again(recover(finished(0, true, ago(59))).start(same(0), "same", false)));
    assert!(runs(recover(finished(0, true, ago(60))).start(same(0), "same", false)));
    assert!(again(recover(finished(0, true, ago(3600))).start(same(2), "same", false)));
    let replayed = Finished { replayed: true, ..finished(0, true, ago(3600)) };
    assert!(runs(recover(replayed).start(same(2), "same", false)));
    let stopped = Finished { stopped: true, ..finished(0, true, ago(1)) };
    assert!(runs(recover(stopped).start(same(2), "same", false)));
    // Set back by a year meanwhile.
    let later = finished(0, true, now + Duration::from_secs(31_536_000));
    assert!(again(recover(later).start(same(0), "same", false)));
}

#[test]
fn a_replay_is_owed_until_it_is_delivered() {
    let mut worker = Worker::new(true);
    worker.run(same(0), printed("x"));
    let arrival = same(2);
    let (content, duplicate) = (Ok(request("a", "same")), false);
    let (receipt, ack) = (None, worker.last);
    let mut effects = worker.on(Event::Start(Start { arrival, content, duplicate, receipt, ack }));
    let Some(Effect::Record { step: Step::Undelivered(Run(0)), then }) = effects.pop() else {
        panic!("{effects:?}")
    };
    assert!(effects.contains(&Effect::Notice(Notice::Replayed { id: id("a"), run: Run(0) })));
    worker.on(Event::Durable(then));
    let delivered = worker.on(Event::Delivered { run: Run(0), id: id("a") });
    assert_eq!(delivered, [Effect::Note(Step::Delivered(Run(0)))]);
}

/// HAZARDS.md case 46.
#[test]
fn a_stop_of_what_runs_is_recorded_before_it_is_acknowledged() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    let stopped = worker.stop("a");
    let then = After::Acknowledge(worker.last);
    let record = Effect::Record { step: Step::Stopped(run), then };
    assert!(stopped.contains(&record) && stopped.contains(&Effect::Stop(id("a"))), "{stopped:?}");
    worker.end("a", Outcome::failed(Failure::Stopped));
    let nothing = worker.stop("nothing");
    let then = After::Acknowledge(worker.last);
    assert!(nothing.contains(&Effect::Record { step: Step::Nothing, then }), "{nothing:?}");
}

/// HAZARDS.md case 47.
#[test]
fn a_stop_that_races_the_end_changes_nothing_about_it() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    // The executor has ended it; its word is still under way.
    worker.stop("a");
    let result = worker.end("a", printed("done"));
    assert_eq!(TaskResult::decode(&result).expect("a result").error, None);
    assert_eq!(
        worker.on(Event::Ended { id: id("a"), outcome: failed() }),
        [Effect::Notice(Notice::NeverBegun(id("a")))]
    );
}

#[test]
fn a_stop_reaches_a_task_that_is_being_admitted() {
    for journaled in [false, true] {
        let mut worker = Worker::new(journaled);
        let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
        let start = worker.last;
        let stopped = worker.stop("a");
        let [
            Effect::Record {
                step: Step::Finished { .. },
                then: After::Publish { ack, publication },
            },
            Effect::Notice(Notice::Withdrawn(_)),
            Effect::Record { step: Step::Nothing, then: After::Acknowledge(stop) },
        ] = &stopped[..]
        else {
            panic!("{stopped:?}")
        };
        assert_eq!((*ack, *stop), (Some(start), worker.last), "in the order of arrival");
        let result = TaskResult::decode(&publication.result).expect("a result");
        assert_eq!(result.error.as_deref(), Some("stopped"));
        // Its admission ends later, while another run of it is admitted.
        let Got::Run(again) = worker.start(same(6), "same", false) else { panic!("not run") };
        let late = worker.on(granted(run));
        assert_eq!(late, []);
        worker.accept(again, "a");
    }
}

#[test]
fn the_record_of_an_earlier_run_does_not_release_a_later_one() {
    let mut worker = Worker::new(true);
    let Got::Run(first) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.on(granted(first));
    let mut accepted = worker.on(submitted(first));
    let Some(Effect::Record { then, .. }) = accepted.pop() else { panic!("{accepted:?}") };
    worker.stop("a");
    worker.on(Event::Ended { id: id("a"), outcome: Outcome::failed(Failure::Stopped) });
    let Got::Run(_) = worker.start(same(6), "same", false) else { panic!("not run") };
    let effects = worker.on(Event::Durable(then));
    assert!(matches!(effects[..], [Effect::Acknowledge(_)]), "{effects:?}");
}

#[test]
fn too_many_that_wait_for_their_admission_are_refused() {
    let mut worker = Worker::new(true);
    let mut start =
        |n: usize| worker.start(arrival(&format!("task-{n}"), "same", state(0)), "same", false);
    for n in 0..1024 {
        assert!(matches!(start(n), Got::Run(_)));
    }
    assert!(matches!(start(1024), Got::Refused(error) if error.starts_with("busy: 1024")));
    worker.stop("task-0");
    let got = worker.start(arrival("task-1025", "same", state(0)), "same", false);
    assert!(matches!(got, Got::Run(_)));
}

/// HAZARDS.md case 48.
#[test]
fn an_end_leaves_the_unaccepted_to_the_broker_or_answers_them() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    let left = worker.on(Event::Draining);
    assert_eq!(left, [Effect::Notice(Notice::LeftToNext(id("a")))]);
    let late = worker.on(granted(run));
    assert_eq!(late, []);
    let (receipt, ack) = (None, worker.last);
    let content = Ok(request("b", "same"));
    let arrival = arrival("b", "same", state(0));
    let start = Start { arrival, content, duplicate: false, receipt, ack };
    let left = worker.on(Event::Start(start));
    assert_eq!(left, [Effect::Notice(Notice::LeftToNext(id("b")))]);

    let mut worker = Worker::new(false);
    let Got::Run(_) = worker.start(same(0), "same", false) else { panic!("not run") };
    let effects = worker.on(Event::Draining);
    let error = |publication: &Publication| {
        TaskResult::decode(&publication.result).expect("a result").error.expect("an error")
    };
    assert!(error(&worker.publication(effects)).starts_with("shutting down"));
    let got = worker.start(super::arrival("b", "same", state(0)), "same", false);
    assert!(matches!(got, Got::Refused(error) if error.starts_with("shutting down")));
}

fn waiting(name: &str, run: u64, suspect: bool, deaths: u32) -> Waiting {
    Waiting {
        run: Run(run),
        arrival: arrival(name, "same", state(0)),
        stopped: false,
        acknowledged: false,
        suspect,
        deaths,
        weight: Weight::default(),
    }
}

/// HAZARDS.md case 58.
#[test]
fn suspects_run_alone_and_only_the_third_death_alone_is_fatal() {
    let mut worker = Worker::new(true);
    let recovered = Recovered {
        waiting: vec![
            waiting("honest", 1, true, 0),
            waiting("crashes", 2, true, 2),
            waiting("fatal", 3, true, 3),
            waiting("later", 0, false, 0),
        ],
        next: Run(4),
        ..Recovered::default()
    };
    let effects = worker.on(Event::Recovered(recovered));
    let mut admitted = Vec::new();
    for effect in effects {
        let Effect::Resubmit { run, id, admission, .. } = effect else { continue };
        admitted.push((id.as_str().to_owned(), admission));
        let submitted = Event::Submitted { run, id, request: None, verdict: Ok(()) };
        assert_eq!(worker.on(submitted), []);
    }
    let expected = [
        ("honest".to_owned(), Admission::Alone),
        ("crashes".to_owned(), Admission::Alone),
        ("later".to_owned(), Admission::Again),
    ];
    assert_eq!(admitted, expected);
    // What is fatal has its result: a start that repeats it is answered.
    let got = worker.start(arrival("fatal", "same", state(0)), "same", true);
    assert_eq!(got, Got::Ignored, "it is on its way");
}

#[test]
fn what_was_stopped_stays_stopped_and_what_does_not_run_again_is_answered() {
    let mut worker = Worker::new(true);
    let stopped = Waiting { stopped: true, ..waiting("stopped", 1, false, 0) };
    let waiting = vec![stopped, waiting("a", 2, false, 0)];
    let recovered = Recovered { waiting, next: Run(3), ..Recovered::default() };
    let mut effects = worker.on(Event::Recovered(recovered));
    let verdict = Err(Rejection::ShuttingDown);
    let submitted = Event::Submitted { run: Run(2), id: id("a"), request: None, verdict };
    effects.extend(worker.on(submitted));
    let whys: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notice(Notice::NotRunAgain { why, .. }) => Some(why.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(whys, ["stopped", "shutting down: the worker takes no new tasks"]);
    let results = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Record { step: Step::Finished { .. }, .. }));
    assert_eq!(results.count(), 2);
}

#[test]
fn a_result_that_can_not_be_delivered_is_replaced_under_the_same_run() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    worker.ended("a", printed("too long"));
    let instead = TaskResult::refused(&id("a"), "w", "too long");
    let effects = worker.on(Event::Undeliverable { run, id: id("a"), instead: instead.clone() });
    let publication = worker.publication(effects);
    let result = TaskResult::decode(&publication.result);
    assert_eq!((publication.run, result.expect("a result")), (run, instead));
    worker.on(Event::Delivered { run, id: id("a") });
    assert!(matches!(worker.start(same(0), "same", false), Got::Run(_)), "it is a failure now");
}

#[test]
fn what_is_remembered_is_bounded_and_what_is_unsent_stays() {
    let mut worker = Worker::new(true);
    let mut forgotten = Vec::new();
    let mut end = |n: usize, size: usize, deliver: bool| {
        let name = n.to_string();
        let arrival = arrival(&name, "same", state(0));
        let Got::Run(run) = worker.start(arrival, "same", false) else { panic!("not run") };
        worker.accept(run, &name);
        worker.ended(&name, printed(&"x".repeat(size)));
        if deliver {
            forgotten.extend(
                worker.on(Event::Delivered { run, id: id(&name) }).into_iter().filter_map(
                    |effect| match effect {
                        Effect::Note(Step::Forgotten(run)) => Some(run),
                        _ => None,
                    },
                ),
            );
        }
        forgotten.len()
    };
    end(0, 40 << 20, false);
    for n in 1..=4096 {
        assert_eq!(end(n, 1, true), 0);
    }
    assert_eq!(end(4097, 1, true), 1);
    assert_eq!(end(4098, 33 << 20, true), 1 + 4097, "it is larger than all there may be");
}
