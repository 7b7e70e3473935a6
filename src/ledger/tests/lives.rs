//! Stops, ends, restarts: one rule a test.

use super::worker::{Got, Worker, failed, granted, same, submitted};
use super::*;

/// ARCHITECTURE.md, case 46.
#[test]
fn a_stop_of_what_runs_is_recorded_before_it_is_acknowledged() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    let stopped = worker.stop("a");
    let then = After::Acknowledge(worker.last);
    let record = LedgerEffect::Record { step: Step::Stopped(run), then };
    assert!(
        stopped.contains(&record) && stopped.contains(&LedgerEffect::Stop(id("a"))),
        "{stopped:?}"
    );
    worker.end("a", Outcome::failed(Failure::Stopped));
    let nothing = worker.stop("nothing");
    let then = After::Acknowledge(worker.last);
    assert!(nothing.contains(&LedgerEffect::Record { step: Step::Nothing, then }), "{nothing:?}");
}

/// ARCHITECTURE.md, case 47.
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
        worker.on(LedgerEvent::Ended { id: id("a"), outcome: failed() }),
        [LedgerEffect::Notice(LedgerNotice::NeverBegun(id("a")))]
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
            LedgerEffect::Record {
                step: Step::Finished { .. },
                then: After::Publish { ack, publication },
            },
            LedgerEffect::Notice(LedgerNotice::Withdrawn(_)),
            LedgerEffect::Record { step: Step::Nothing, then: After::Acknowledge(stop) },
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
    let Some(LedgerEffect::Record { then, .. }) = accepted.pop() else { panic!("{accepted:?}") };
    worker.stop("a");
    worker.on(LedgerEvent::Ended { id: id("a"), outcome: Outcome::failed(Failure::Stopped) });
    let Got::Run(_) = worker.start(same(6), "same", false) else { panic!("not run") };
    let effects = worker.on(LedgerEvent::Durable(then));
    assert!(matches!(effects[..], [LedgerEffect::Acknowledge(_)]), "{effects:?}");
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

/// ARCHITECTURE.md, case 48.
#[test]
fn an_end_leaves_the_unaccepted_to_the_broker_or_answers_them() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    let left = worker.on(LedgerEvent::Draining);
    assert_eq!(left, [LedgerEffect::Notice(LedgerNotice::LeftToNext(id("a")))]);
    let late = worker.on(granted(run));
    assert_eq!(late, []);
    let (receipt, ack) = (None, worker.last);
    let content = Ok(request("b", "same"));
    let arrival = arrival("b", "same", state(0));
    let start = Start { arrival, content, duplicate: false, receipt, ack };
    let left = worker.on(LedgerEvent::Start(start));
    assert_eq!(left, [LedgerEffect::Notice(LedgerNotice::LeftToNext(id("b")))]);

    let mut worker = Worker::new(false);
    let Got::Run(_) = worker.start(same(0), "same", false) else { panic!("not run") };
    let effects = worker.on(LedgerEvent::Draining);
    let error = |publication: &Publication| {
        TaskResult::decode(&publication.result).expect("a result").error.expect("an error")
    };
    assert!(error(&worker.publication(effects)).starts_with("shutting down"));
    let got = worker.start(super::arrival("b", "same", state(0)), "same", false);
    assert!(matches!(got, Got::Refused(error) if error.starts_with("shutting down")));
}

fn waiting(name: &str, run: u64, suspect: bool, deaths: u32) -> Waiting {
    Waiting {
        port: None,
        run: Run(run),
        arrival: arrival(name, "same", state(0)),
        life: Life::Once,
        stopped: false,
        acknowledged: false,
        suspect,
        deaths,
        weight: Weight::default(),
    }
}

/// ARCHITECTURE.md, case 58.
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
    let effects = worker.on(LedgerEvent::Recovered(recovered));
    let mut admitted = Vec::new();
    for effect in effects {
        let LedgerEffect::Resubmit { run, id, admission, .. } = effect else { continue };
        admitted.push((id.as_str().to_owned(), admission));
        let submitted = LedgerEvent::Submitted { run, id, request: None, verdict: Ok(()) };
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
    let mut effects = worker.on(LedgerEvent::Recovered(recovered));
    let verdict = Err(Rejection::ShuttingDown);
    let submitted = LedgerEvent::Submitted { run: Run(2), id: id("a"), request: None, verdict };
    effects.extend(worker.on(submitted));
    let whys: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            LedgerEffect::Notice(LedgerNotice::NotRunAgain { why, .. }) => Some(why.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(whys, ["stopped", "shutting down: the worker takes no new tasks"]);
    let results = effects.iter().filter(|effect| {
        matches!(effect, LedgerEffect::Record { step: Step::Finished { .. }, .. })
    });
    assert_eq!(results.count(), 2);
}

#[test]
fn a_result_that_can_not_be_delivered_is_replaced_under_the_same_run() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    worker.ended("a", printed("too long"));
    let instead = TaskResult::refused(&id("a"), "w", "too long");
    let effects =
        worker.on(LedgerEvent::Undeliverable { run, id: id("a"), instead: instead.clone() });
    let publication = worker.publication(effects);
    let result = TaskResult::decode(&publication.result);
    assert_eq!((publication.run, result.expect("a result")), (run, instead));
    worker.on(LedgerEvent::Delivered { run, id: id("a") });
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
                worker.on(LedgerEvent::Delivered { run, id: id(&name) }).into_iter().filter_map(
                    |effect| match effect {
                        LedgerEffect::Note(Step::Forgotten(run)) => Some(run),
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

/// A start of a latent task, which is accepted.
fn prepare(worker: &mut Worker, name: &str) -> Run {
    worker.last.number += 1;
    let arrival = arrival(name, "same", state(0));
    let content = Ok(TaskRequest { latent: true, ..request(name, "same") });
    let (receipt, ack) = (Some(worker.last), worker.last);
    let start = Start { arrival, content, duplicate: false, receipt, ack };
    let effects = worker.on(LedgerEvent::Start(start));
    let Got::Run(run) = worker.got(effects, ack) else { panic!("not run") };
    assert!(worker.ledger.prepares(&id(name)));
    worker.accept(run, name);
    run
}

#[test]
fn a_latent_task_that_is_prepared_is_deployed_and_has_no_result() {
    let mut worker = Worker::new(true);
    let run = prepare(&mut worker, "a");
    let effects = worker.on(LedgerEvent::Ended { id: id("a"), outcome: printed("") });
    let fingerprint = same(0).fingerprint;
    let deployed = [
        LedgerEffect::Note(Step::Deployed(run)),
        LedgerEffect::Deploy { run, id: id("a"), fingerprint },
    ];
    assert_eq!(effects, deployed);
    assert!(!worker.ledger.prepares(&id("a")) && !worker.ledger.is_active(&id("a")));
}

#[test]
fn a_latent_task_that_can_not_be_prepared_has_a_result_and_is_not_deployed() {
    let mut worker = Worker::new(true);
    prepare(&mut worker, "a");
    let effects = worker.on(LedgerEvent::Ended { id: id("a"), outcome: failed() });
    assert_eq!(effects[0], LedgerEffect::NotDeployed(id("a")));
    let publication = worker.publication(effects);
    let result = TaskResult::decode(&publication.result).expect("a result");
    assert!(result.error.is_some_and(|error| error.contains("code 1")));
}

/// ARCHITECTURE.md, case 47.
#[test]
fn a_stop_that_comes_before_the_end_of_its_preparation_keeps_a_task_from_being_deployed() {
    let mut worker = Worker::new(true);
    prepare(&mut worker, "a");
    let effects = worker.stop("a");
    assert!(effects.contains(&LedgerEffect::Stop(id("a"))), "{effects:?}");
    let effects = worker.on(LedgerEvent::Ended { id: id("a"), outcome: printed("") });
    assert_eq!(effects[0], LedgerEffect::NotDeployed(id("a")));
    let publication = worker.publication(effects);
    let result = TaskResult::decode(&publication.result).expect("a result");
    assert_eq!(result.error.as_deref(), Some("stopped"));
}

#[test]
fn a_preparation_goes_on_in_the_next_process() {
    let mut worker = Worker::new(true);
    let latent = Waiting { life: Life::Latent, ..waiting("a", 1, false, 0) };
    let recovered = Recovered { waiting: vec![latent], next: Run(2), ..Recovered::default() };
    worker.on(LedgerEvent::Recovered(recovered));
    assert!(worker.ledger.prepares(&id("a")));
    let effects = worker.on(LedgerEvent::Ended { id: id("a"), outcome: printed("") });
    assert!(effects.contains(&LedgerEffect::Note(Step::Deployed(Run(1)))), "{effects:?}");
}

/// A start of a daemon, which is accepted; gives its run and the result that it
/// runs.
fn daemon(worker: &mut Worker, name: &str) -> (Run, Publication) {
    worker.last.number += 1;
    let arrival = arrival(name, "same", state(0));
    let content = Ok(TaskRequest { daemon: true, ..request(name, "same") });
    let (receipt, ack) = (Some(worker.last), worker.last);
    let start = Start { arrival, content, duplicate: false, receipt, ack };
    let effects = worker.on(LedgerEvent::Start(start));
    let Got::Run(run) = worker.got(effects, ack) else { panic!("not run") };
    let verdict = Ok((request(name, ""), spec(&id(name))));
    worker.on(LedgerEvent::Admitted { run, id: id(name), verdict });
    let submitted = LedgerEvent::Submitted {
        run,
        id: id(name),
        request: Some(request(name, "")),
        verdict: Ok(()),
    };
    let mut effects = worker.on(submitted);
    let Some(LedgerEffect::Record { then, .. }) = effects.pop() else { panic!("{effects:?}") };
    let effects = worker.on(LedgerEvent::Durable(then));
    assert!(effects.contains(&LedgerEffect::Release(id(name))), "{effects:?}");
    (run, worker.publication(effects))
}

#[test]
fn a_daemon_has_a_result_when_it_is_accepted_and_another_when_it_ends_by_itself() {
    let mut worker = Worker::new(true);
    let (run, first) = daemon(&mut worker, "a");
    let result = TaskResult::decode(&first.result).expect("a result");
    assert_eq!((result.error, result.results.into_bytes()), (None, vec![]));
    assert_ne!(first.run, run);
    worker.on(LedgerEvent::Delivered { run: first.run, id: id("a") });
    // It runs: a start of it is not a new run.
    assert_eq!(worker.start(same(3), "same", false), Got::Ignored);
    let second = worker.ended("a", failed());
    assert_eq!(second.run, run);
    let result = TaskResult::decode(&second.result).expect("a result");
    assert!(result.error.is_some_and(|error| error.contains("code 1")));
}

#[test]
fn a_daemon_that_was_stopped_ends_without_a_word() {
    let mut worker = Worker::new(true);
    let (run, _) = daemon(&mut worker, "a");
    let effects = worker.stop("a");
    assert!(effects.contains(&LedgerEffect::Stop(id("a"))), "{effects:?}");
    let effects =
        worker.on(LedgerEvent::Ended { id: id("a"), outcome: Outcome::failed(Failure::Stopped) });
    let expected = [
        LedgerEffect::Note(Step::Forgotten(run)),
        LedgerEffect::Notice(LedgerNotice::DaemonStopped(id("a"))),
    ];
    assert_eq!(effects, expected);
    // The next process does not start it either.
    let mut worker = Worker::new(true);
    let stopped = Waiting { life: Life::Daemon, stopped: true, ..waiting("a", 1, false, 0) };
    let recovered = Recovered { waiting: vec![stopped], next: Run(2), ..Recovered::default() };
    let effects = worker.on(LedgerEvent::Recovered(recovered));
    assert_eq!(effects.last(), Some(&LedgerEffect::Note(Step::Forgotten(Run(1)))));
}

#[test]
fn a_daemon_is_started_again_with_longer_and_longer_waits_and_given_up_in_the_end() {
    let wait = |deaths| {
        let mut worker = Worker::new(true);
        let daemon = Waiting { life: Life::Daemon, ..waiting("a", 1, true, deaths) };
        let recovered = Recovered { waiting: vec![daemon], next: Run(2), ..Recovered::default() };
        let effects = worker.on(LedgerEvent::Recovered(recovered));
        let again = effects.iter().find_map(|effect| match effect {
            LedgerEffect::StartAgain { wait, .. } => Some(wait.as_secs()),
            _ => None,
        });
        if again.is_some() {
            let counted = LedgerEffect::Note(Step::Died { run: Run(1), times: deaths + 1 });
            assert!(effects.contains(&counted), "{effects:?}");
            // After a while it is trusted again, which is said once.
            let trusted = [LedgerEffect::Note(Step::Died { run: Run(1), times: 0 })];
            assert_eq!(worker.on(LedgerEvent::Lasted(id("a"))), trusted);
            assert_eq!(worker.on(LedgerEvent::Lasted(id("a"))), []);
        } else {
            let result = TaskResult::decode(&worker.publication(effects).result);
            let error = result.expect("a result").error.expect("an error");
            assert!(error.contains("started 10 times in a row"), "{error}");
        }
        again
    };
    let waits: Vec<_> = (0..11).map(wait).collect();
    let expected = [0, 1, 2, 4, 8, 16, 32, 60, 60, 60].map(Some);
    assert_eq!(waits, [&expected[..], &[None]].concat());
}

#[test]
fn a_server_says_its_port_once_it_listens_and_ends_like_a_daemon() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    let mut effects = worker.on(LedgerEvent::Serves { id: id("a"), port: 8222 });
    assert_eq!(effects.first(), Some(&LedgerEffect::Note(Step::Serves { run, port: 8222 })));
    assert_eq!(effects.pop(), Some(LedgerEffect::Serve { run, id: id("a") }));
    let first = worker.publication(effects);
    let result = TaskResult::decode(&first.result).expect("a result");
    assert_eq!((result.error, result.results.into_bytes()), (None, b"started at port 8222".into()));
    assert_ne!(first.run, run);
    worker.on(LedgerEvent::Delivered { run: first.run, id: id("a") });
    assert_eq!(worker.start(same(3), "same", false), Got::Ignored);
    worker.stop("a");
    let effects =
        worker.on(LedgerEvent::Ended { id: id("a"), outcome: Outcome::failed(Failure::Stopped) });
    let expected = [
        LedgerEffect::Note(Step::Forgotten(run)),
        LedgerEffect::Notice(LedgerNotice::DaemonStopped(id("a"))),
    ];
    assert_eq!(effects, expected);
}

#[test]
fn a_server_that_was_stopped_before_it_listens_ends_as_stopped() {
    let mut worker = Worker::new(true);
    let Got::Run(run) = worker.start(same(0), "same", false) else { panic!("not run") };
    worker.accept(run, "a");
    worker.stop("a");
    let effects = worker.on(LedgerEvent::Serves { id: id("a"), port: 8222 });
    let serves = |effect: &LedgerEffect<_>| matches!(effect, LedgerEffect::Serve { .. });
    assert!(!effects.iter().any(serves), "{effects:?}");
    let result = TaskResult::decode(&worker.publication(effects).result).expect("a result");
    assert_eq!(result.error.as_deref(), Some("stopped"));
}

#[test]
fn a_server_of_an_earlier_process_listens_at_its_port_again() {
    let mut worker = Worker::new(true);
    let server = Waiting { life: Life::Server, port: Some(8222), ..waiting("a", 1, false, 0) };
    let recovered = Recovered { waiting: vec![server], next: Run(2), ..Recovered::default() };
    let effects = worker.on(LedgerEvent::Recovered(recovered));
    let again = |effect: &LedgerEffect<_>| {
        matches!(effect, LedgerEffect::StartAgain { port: Some(8222), .. })
    };
    assert!(effects.iter().any(again), "{effects:?}");
}
