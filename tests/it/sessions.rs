//! Which session the worker gets from which broker, and what waits in it.

use crate::support::{FluxMq, Habits, On, Stage, Task, over_both_brokers};
use std::path::Path;

over_both_brokers!(
    a_broker_that_drops_persistent_sessions_gives_a_clean_one,
    a_proxy_whose_broker_is_down_does_not_cost_the_session,
    a_session_that_the_setting_orders_is_the_only_one_asked_for,
);

const NO_SESSIONS: Habits = Habits { no_sessions: true, packet: usize::MAX, down: false };

fn kept_in(state: &Path) -> [(&str, &str); 3] {
    let state = state.to_str().expect("text");
    [("executors", "1"), ("stateless", "false"), ("state-dir", state)]
}

/// ARCHITECTURE.md, case 80, its first half.
fn a_broker_that_drops_persistent_sessions_gives_a_clean_one(on: On) {
    let stage = Stage::new(on);
    let state = tempfile::tempdir().expect("a folder");
    let broker = FluxMq::before(stage.address, NO_SESSIONS);
    let mut worker = stage.process_at(broker.address, &kept_in(state.path()));
    stage.settle();
    assert_eq!(broker.connects(), [false, false, true], "{:#?}", worker.log());
    let said = worker.logs("grants a clean session only");
    assert!(said.contains("while this worker is away"), "{said}");
    let blamed = worker.logs("closed the connection without an answer");
    assert!(blamed.contains("it may keep no sessions"), "{blamed}");
    // What served is tried first.
    broker.cut();
    stage.wait("another introduction", |seen| {
        (seen.iter().filter(|seen| seen.topic == "create").count() == 2).then_some(())
    });
    stage.settle();
    assert_eq!(broker.connects()[3..], [true]);
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
    // Each process asks once.
    let mut worker = stage.process_at(broker.address, &kept_in(state.path()));
    stage.settle();
    assert_eq!(broker.connects()[4..], [false, true], "{:#?}", worker.log());
    worker.signal("TERM");
    worker.ended();
    // And so hears of a broker that keeps sessions by now.
    broker.behave(Habits::default());
    let worker = stage.process_at(broker.address, &kept_in(state.path()));
    worker.logs("keeps a session for this client");
    stage.settle();
    assert_eq!(broker.connects()[6..], [false], "{:#?}", worker.log());
}

/// ARCHITECTURE.md, case 80, its second half.
fn a_proxy_whose_broker_is_down_does_not_cost_the_session(on: On) {
    let stage = Stage::new(on);
    let state = tempfile::tempdir().expect("a folder");
    let proxy = FluxMq::before(stage.address, Habits::default());
    let end = |mut worker: crate::support::Process| {
        worker.signal("TERM");
        assert_eq!(worker.ended().code(), Some(0), "{:#?}", worker.log());
    };
    let worker = stage.process_at(proxy.address, &kept_in(state.path()));
    worker.logs("keeps a session for this client");
    stage.settle();
    end(worker);
    // By the memory, then by a journal from before there was one.
    for forget in [false, true] {
        if forget {
            let memory = state.path().join(&stage.worker_id).join("sessions.json");
            std::fs::remove_file(memory).expect("there is a memory");
        }
        let waiting = stage.start(Task::wat("hello"));
        proxy.behave(Habits { down: true, ..Habits::default() });
        let before = proxy.connects().len();
        let worker = stage.process_unheard(proxy.address, &kept_in(state.path()));
        // A third try would be the clean one.
        stage.until("the worker tries again", || proxy.connects().len() >= before + 4);
        worker.logs("has kept a session for this client before");
        proxy.behave(Habits::default());
        stage.result(&waiting).succeeded("hello\n");
        assert!(!proxy.connects().contains(&true), "{:#?}", worker.log());
        end(worker);
    }
}

fn a_session_that_the_setting_orders_is_the_only_one_asked_for(on: On) {
    let stage = Stage::new(on);
    let state = tempfile::tempdir().expect("a folder");
    let broker = FluxMq::before(stage.address, NO_SESSIONS);
    let ordered = |order| [&kept_in(state.path())[..], &[("mqtt-clean-session", order)]].concat();
    let worker = stage.process_at(broker.address, &ordered("true"));
    stage.settle();
    assert_eq!(broker.connects(), [true], "{:#?}", worker.log());
    drop(worker);
    let worker = stage.process_unheard(broker.address, &ordered("false"));
    stage.until("the worker tries again", || broker.connects().len() >= 5);
    assert!(!broker.connects()[1..].contains(&true), "{:#?}", worker.log());
    drop(worker);
    // Without a journal nothing may wait at the broker.
    let stateless = [("executors", "1"), ("mqtt-clean-session", "false")];
    let before = broker.connects().len();
    let worker = stage.process_at(broker.address, &stateless);
    worker.logs("its session is a clean one all the same");
    assert_eq!(broker.connects()[before..], [true]);
}
