//! What a start gets: one rule a test.

use super::worker::{Got, Worker, failed, granted, same, submitted};
use super::*;

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
    let effects = worker.on(LedgerEvent::Start(start));
    assert_eq!(effects, [LedgerEffect::Notice(LedgerNotice::Underway { id: id("a"), same: true })]);
    worker.on(granted(run));
    let submitted = submitted(run);
    let [
        LedgerEffect::Record { step: Step::Accepted { .. }, .. },
        LedgerEffect::Record { step: Step::Nothing, then: After::Acknowledge(copy) },
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

/// ARCHITECTURE.md, case 82.
#[test]
fn a_schedule_for_each_minute_is_a_run_each_minute() {
    let mut worker = Worker::new(true);
    worker.run(same(0), printed("0"));
    for minute in 1..5 {
        worker.pass(59);
        worker.run(same(3), printed(&minute.to_string()));
    }
}

/// ARCHITECTURE.md, case 83.
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

/// ARCHITECTURE.md, case 44.
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

/// ARCHITECTURE.md, case 85.
#[test]
fn a_message_that_was_never_taken_runs_although_it_is_marked_as_sent_before() {
    for number in [3, 4] {
        let mut worker = Worker::new(true);
        worker.run(same(number), printed("x"));
        let noted = worker.known();
        assert_eq!(noted, [LedgerEffect::Note(Step::Acknowledged(Run(0)))]);
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
        assert!(stopped.contains(&LedgerEffect::Superseded(id("a"))), "{stopped:?}");
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
        assert_eq!(worker.on(LedgerEvent::Recovered(recovered)), []);
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
    let mut effects =
        worker.on(LedgerEvent::Start(Start { arrival, content, duplicate, receipt, ack }));
    let Some(LedgerEffect::Record { step: Step::Undelivered(Run(0)), then }) = effects.pop() else {
        panic!("{effects:?}")
    };
    assert!(
        effects
            .contains(&LedgerEffect::Notice(LedgerNotice::Replayed { id: id("a"), run: Run(0) }))
    );
    worker.on(LedgerEvent::Durable(then));
    let delivered = worker.on(LedgerEvent::Delivered { run: Run(0), id: id("a") });
    assert_eq!(delivered, [LedgerEffect::Note(Step::Delivered(Run(0)))]);
}

#[test]
fn a_task_that_ends_before_its_record_is_on_the_disk_was_accepted_all_the_same() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(arrival("a", "x", None), "x", false) else {
        panic!("not run")
    };
    let verdict = Ok((request("a", ""), spec(&id("a"))));
    worker.on(LedgerEvent::Admitted { run, id: id("a"), verdict });
    let request = Some(request("a", ""));
    let submitted = LedgerEvent::Submitted { run, id: id("a"), request, verdict: Ok(()) };
    let Some(LedgerEffect::Record { then, .. }) = worker.on(submitted).pop() else {
        panic!("no record")
    };
    worker.on(LedgerEvent::Ended { id: id("a"), outcome: printed("early") });
    let effects = worker.on(LedgerEvent::Durable(then));
    assert!(
        effects.contains(&LedgerEffect::Notice(LedgerNotice::Accepted(id("a")))),
        "{effects:?}"
    );
    assert!(!effects.contains(&LedgerEffect::Release(id("a"))), "{effects:?}");
}
