//! Sequences of events: by hand, and at random against a world in one thread.

use super::*;
use crate::digest::Digest;
use crate::journal::{Arrival, Deployed};
use crate::task::{
    Binary, Captured, EntryPoint, Grant, Life, Limits, ModuleSource, Outcome, TaskSpec,
};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

mod world;

const LIMIT: Duration = Duration::from_secs(29);

fn id(name: &str) -> TaskId {
    TaskId::new(name).expect("an id")
}

fn fingerprint(content: u8) -> Fingerprint {
    Digest::of(&[content])
}

/// A latent task whose only argument is its content.
fn spec(name: &str, content: u8) -> TaskSpec {
    let limits = Limits { timeout: None, run: None, memory: None, output: 0 };
    let grant = Grant {
        args: vec![format!("{name}.wasm"), content.to_string()],
        env: vec![("A".into(), "start".into()), ("B".into(), "start".into())],
        dirs: vec![],
        entry: EntryPoint::Label(String::new()),
        nn: None,
        serving: None,
        notes: vec![],
        limits,
    };
    let module = ModuleSource::Bytes(Binary::new(vec![content; 100]));
    TaskSpec::new(id(name), module, grant).living(Life::Latent)
}

fn weight(own: usize, module: u8) -> Weight {
    Weight { own, module: Some((Digest::of(&[module]), 100)) }
}

fn bounds() -> DeployBounds {
    DeployBounds {
        deployments: 3,
        bytes: 1000,
        memory: Some(250),
        waiting: 4,
        waiting_bytes: 1 << 20,
        answer_within: LIMIT,
        answer_size: 1 << 20,
    }
}

fn call(name: &str, invocation_id: &str) -> Invoke {
    Invoke {
        id: id(name),
        invocation_id: invocation_id.into(),
        inputs: vec![],
        env: BTreeMap::new(),
    }
}

fn printed(text: &str) -> Outcome {
    let stdout = Captured { bytes: text.into(), dropped: 0 };
    Outcome { verdict: Ok(()), stdout, ..Outcome::failed(Failure::Stopped) }
}

/// A worker of which the test does each step.
struct Worker {
    deployments: Deployments,
    now: Instant,
}

impl Worker {
    fn new(bounds: DeployBounds) -> Worker {
        Worker { deployments: Deployments::new("w", bounds), now: Instant::now() }
    }

    fn on(&mut self, event: DeployEvent) -> Vec<DeployEffect> {
        let mut effects = VecDeque::new();
        self.deployments.on(event, self.now, &mut effects);
        effects.into()
    }

    fn deploy(&mut self, run: u64, name: &str, content: u8) -> Vec<DeployEffect> {
        self.deployments.reserve(&id(name), weight(10, content), None).expect("room");
        let fingerprint = fingerprint(content);
        self.on(DeployEvent::Deployed { run: Run(run), id: id(name), fingerprint })
    }

    fn invoke(&mut self, name: &str, invocation_id: &str) -> Vec<DeployEffect> {
        self.on(DeployEvent::Invoke { invoke: call(name, invocation_id), preparing: false })
    }

    fn load(&mut self, run: u64, name: &str, content: u8) -> Vec<DeployEffect> {
        let verdict = Ok(spec(name, content));
        self.on(DeployEvent::Loaded { run: Run(run), id: id(name), verdict })
    }
}

fn submitted(effects: &[DeployEffect]) -> Vec<(NonZeroU64, &TaskSpec)> {
    let submitted = effects.iter().filter_map(|effect| match effect {
        DeployEffect::Submit { number, spec, .. } => Some((*number, spec)),
        _ => None,
    });
    submitted.collect()
}

/// What is published: the invocation, its results and its error.
fn answers(effects: &[DeployEffect]) -> Vec<(String, String, Option<String>)> {
    let answers = effects.iter().filter_map(|effect| match effect {
        DeployEffect::Answer { answer, .. } => Some(serde_json::from_slice::<Value>(answer)),
        _ => None,
    });
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let read = |json: Value| {
        let results = text(&json["results"]).expect("a string always");
        (text(&json["invocation_id"]).expect("an id"), results, text(&json["error"]))
    };
    answers.map(|json| read(json.expect("JSON"))).collect()
}

fn error(effects: &[DeployEffect]) -> String {
    let [(_, _, Some(error))] = &answers(effects)[..] else { panic!("{effects:?}") };
    error.clone()
}

#[test]
fn the_first_invocation_reads_the_task_back_and_the_next_one_finds_it() {
    let mut worker = Worker::new(bounds());
    assert!(submitted(&worker.deploy(7, "a", 1)).is_empty());
    let effects = worker.invoke("a", "call-1");
    assert!(effects.contains(&DeployEffect::Load { run: Run(7), id: id("a") }), "{effects:?}");
    assert!(effects.contains(&DeployEffect::Mark(InvocationKey::of("call-1"))), "{effects:?}");
    // It is read back once for all that wait.
    let second = worker.invoke("a", "call-2");
    assert!(!second.iter().any(|effect| matches!(effect, DeployEffect::Load { .. })), "{second:?}");
    let effects = worker.load(7, "a", 1);
    let both = submitted(&effects);
    assert_eq!(both.len(), 2, "{effects:?}");
    assert_eq!(both[0].1.life(), Life::Once);
    assert_eq!(both[0].1.id().invocation(), Some(both[0].0));
    assert_eq!(submitted(&worker.invoke("a", "call-3")).len(), 1);
    let ended = worker.on(DeployEvent::Ended { number: both[1].0, outcome: printed("hello\n") });
    assert_eq!(answers(&ended), [("call-2".into(), "hello\n".into(), None)]);
}

#[test]
fn an_invocation_has_the_inputs_of_the_start_and_lays_its_variables_over_it() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.invoke("a", "first");
    worker.load(1, "a", 1);
    let args = |effects: Vec<DeployEffect>| {
        let [(_, spec)] = submitted(&effects)[..] else { panic!("{effects:?}") };
        (spec.grant().args.clone(), spec.grant().env.clone())
    };
    let (inputs, env) = args(worker.invoke("a", "plain"));
    assert_eq!(inputs, ["a.wasm", "1"]);
    assert_eq!(env, spec("a", 1).grant().env);
    let invoke = Invoke {
        inputs: vec!["x".into(), "y".into()],
        env: [("B".into(), "call".into()), ("C".into(), "call".into())].into(),
        ..call("a", "other")
    };
    let (inputs, env) = args(worker.on(DeployEvent::Invoke { invoke, preparing: false }));
    assert_eq!(inputs, ["a.wasm", "x", "y"]);
    let expected = [("A", "start"), ("B", "call"), ("C", "call")];
    assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn an_unknown_task_is_one_that_has_not_been_precompiled_and_may_be_invoked_again() {
    let mut worker = Worker::new(bounds());
    let effects = worker.invoke("a", "call");
    assert!(error(&effects).contains("the task a has not been precompiled"), "{effects:?}");
    // The manager deploys it, and asks again.
    worker.deploy(1, "a", 1);
    worker.invoke("a", "call");
    assert_eq!(submitted(&worker.load(1, "a", 1)).len(), 1);
}

#[test]
fn what_comes_while_the_task_is_being_prepared_waits_for_it() {
    let mut worker = Worker::new(bounds());
    worker.deployments.reserve(&id("a"), weight(10, 1), None).expect("room");
    let invoke = |call| DeployEvent::Invoke { invoke: call, preparing: true };
    assert!(answers(&worker.on(invoke(call("a", "1")))).is_empty());
    let fingerprint = fingerprint(1);
    let effects = worker.on(DeployEvent::Deployed { run: Run(1), id: id("a"), fingerprint });
    assert!(effects.contains(&DeployEffect::Load { run: Run(1), id: id("a") }));
    assert_eq!(submitted(&worker.load(1, "a", 1)).len(), 1);
    // Another one is never prepared.
    worker.deployments.reserve(&id("b"), weight(10, 1), None).expect("room");
    worker.on(invoke(call("b", "2")));
    let effects = worker.on(DeployEvent::NotDeployed(id("b")));
    assert!(error(&effects).contains("has not been precompiled"), "{effects:?}");
}

#[test]
fn an_invocation_that_was_taken_is_passed_over_when_it_comes_again() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.invoke("a", "call");
    let effects = worker.load(1, "a", 1);
    let number = submitted(&effects)[0].0;
    let again = |worker: &mut Worker| {
        let effects = worker.invoke("a", "call");
        assert_eq!(effects, [DeployEffect::Notice(DeployNotice::SameInvocation(id("a")))]);
    };
    again(&mut worker);
    worker.on(DeployEvent::Ended { number, outcome: printed("x") });
    again(&mut worker);
    // The next process knows it by its mark.
    let mut next = Worker::new(bounds());
    let arrival = Arrival { id: id("a"), fingerprint: fingerprint(1), state: None };
    let deployed = vec![Deployed { run: Run(1), arrival, weight: weight(10, 1) }];
    let invoked = vec![InvocationKey::of("call")];
    next.on(DeployEvent::Recovered { deployed, preparing: vec![], invoked });
    again(&mut next);
    next.invoke("a", "another");
    assert_eq!(submitted(&next.load(1, "a", 1)).len(), 1);
}

#[test]
fn its_time_is_over_whether_it_waits_or_runs() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.deploy(2, "b", 2);
    worker.invoke("a", "runs");
    let effects = worker.load(1, "a", 1);
    let number = submitted(&effects)[0].0;
    worker.now += Duration::from_secs(1);
    worker.invoke("b", "waits");
    assert_eq!(worker.deployments.due(), Some(worker.now - Duration::from_secs(1) + LIMIT));
    worker.now += LIMIT - Duration::from_secs(1);
    let effects = worker.on(DeployEvent::Due);
    assert!(
        effects.contains(&DeployEffect::Cancel(id("a").with_invocation(number))),
        "{effects:?}"
    );
    assert!(error(&effects).starts_with("timeout: the invocation"), "{effects:?}");
    assert!(error(&effects).contains("29s"), "{effects:?}");
    // What comes of it then is nobody's.
    assert!(worker.on(DeployEvent::Ended { number, outcome: printed("late") }).is_empty());
    worker.now += Duration::from_secs(1);
    assert!(error(&worker.on(DeployEvent::Due)).starts_with("timeout"));
    assert_eq!(worker.deployments.due(), None);
    assert!(submitted(&worker.load(2, "b", 2)).is_empty(), "it was answered");
}

#[test]
fn a_stop_removes_the_deployment_and_ends_its_invocations() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.invoke("a", "runs");
    let effects = worker.load(1, "a", 1);
    let number = submitted(&effects)[0].0;
    let effects = worker.on(DeployEvent::Stop(id("a")));
    assert_eq!(effects[0], DeployEffect::Note(Step::Forgotten(Run(1))));
    assert!(
        effects.contains(&DeployEffect::Cancel(id("a").with_invocation(number))),
        "{effects:?}"
    );
    assert_eq!(error(&effects), "stopped");
    assert!(error(&worker.invoke("a", "next")).contains("has not been precompiled"));
    assert_eq!(worker.on(DeployEvent::Stop(id("a"))), []);
}

#[test]
fn a_replacement_leaves_no_gap() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.invoke("a", "1");
    worker.load(1, "a", 1);
    assert!(worker.deployments.has(&id("a"), &fingerprint(1)));
    worker.deployments.reserve(&id("a"), weight(10, 2), None).expect("room");
    let old = worker.invoke("a", "2");
    assert_eq!(submitted(&old)[0].1.grant().args[1], "1", "until the new one is there");
    let fingerprint_2 = fingerprint(2);
    let deployed = DeployEvent::Deployed { run: Run(2), id: id("a"), fingerprint: fingerprint_2 };
    let effects = worker.on(deployed);
    assert_eq!(effects[0], DeployEffect::Note(Step::Forgotten(Run(1))));
    worker.invoke("a", "3");
    // What the old one was is of no use any more.
    assert!(worker.load(1, "a", 1).is_empty());
    let new = worker.load(2, "a", 2);
    assert_eq!(submitted(&new)[0].1.grant().args[1], "2");
    // One that can't be prepared replaces nothing.
    worker.deployments.reserve(&id("a"), weight(10, 3), None).expect("room");
    worker.on(DeployEvent::NotDeployed(id("a")));
    assert_eq!(submitted(&worker.invoke("a", "4"))[0].1.grant().args[1], "2");
}

#[test]
fn deployments_are_bounded_in_number_and_bytes_and_one_may_replace_itself() {
    let mut worker = Worker::new(bounds());
    for (run, name) in [(1, "a"), (2, "b"), (3, "c")] {
        worker.deploy(run, name, 1);
    }
    let deployments = &mut worker.deployments;
    let full = deployments.reserve(&id("d"), weight(10, 1), None);
    assert_eq!(full, Err(Rejection::Deployments { deployed: 3, limit: 3 }));
    deployments.reserve(&id("a"), weight(10, 2), None).expect("it replaces one");
    let heavy = deployments.reserve(&id("b"), weight(800, 3), None);
    let bytes = Rejection::DeploymentBytes { deployed: 3, bytes: 240, limit: 1000 };
    assert_eq!(heavy, Err(bytes), "the shared module counts once");
    worker.on(DeployEvent::Stop(id("c")));
    worker.deployments.reserve(&id("d"), weight(10, 1), None).expect("a place is free");
    worker.on(DeployEvent::NotDeployed(id("d")));
    worker.deployments.reserve(&id("e"), weight(10, 1), None).expect("it is free again");
}

#[test]
fn memory_keeps_what_was_used_last() {
    let mut worker = Worker::new(bounds());
    for (run, name, content) in [(1, "a", 1), (2, "b", 2), (3, "c", 3)] {
        worker.deploy(run, name, content);
        worker.invoke(name, &format!("first of {name}"));
        worker.load(run, name, content);
    }
    // Two of 110 bytes fit into 250.
    let loads = |effects: Vec<DeployEffect>| {
        effects.iter().any(|effect| matches!(effect, DeployEffect::Load { .. }))
    };
    assert!(!loads(worker.invoke("c", "1")) && !loads(worker.invoke("b", "2")));
    assert!(loads(worker.invoke("a", "3")));
    worker.load(1, "a", 1);
    assert!(!loads(worker.invoke("b", "4")), "it was used after c");
    assert!(loads(worker.invoke("c", "5")));
}

#[test]
fn what_is_in_no_journal_stays_in_memory() {
    let mut worker = Worker::new(DeployBounds { memory: None, bytes: 1 << 20, ..bounds() });
    for (name, content) in [("a", 1), ("b", 2), ("c", 3)] {
        let spec = spec(name, content);
        worker.deployments.reserve(&id(name), spec.weight(), Some(spec)).expect("room");
        let fingerprint = fingerprint(content);
        worker.on(DeployEvent::Deployed { run: Run(content.into()), id: id(name), fingerprint });
    }
    for name in ["a", "b", "c"] {
        assert_eq!(submitted(&worker.invoke(name, name)).len(), 1);
    }
}

#[test]
fn a_deployment_whose_record_is_lost_may_be_deployed_again_and_any_other_is_kept() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.invoke("a", "1");
    let failed = Err(LoadError::Failed("the directory is gone".into()));
    let effects = worker.on(DeployEvent::Loaded { run: Run(1), id: id("a"), verdict: failed });
    assert_eq!(error(&effects), "the directory is gone");
    assert!(!effects.iter().any(|effect| matches!(effect, DeployEffect::Note(_))), "{effects:?}");
    let again = worker.invoke("a", "2");
    assert!(again.contains(&DeployEffect::Load { run: Run(1), id: id("a") }), "{again:?}");
    let lost = Err(LoadError::Lost("its record is damaged".into()));
    let effects = worker.on(DeployEvent::Loaded { run: Run(1), id: id("a"), verdict: lost });
    assert!(error(&effects).contains("has not been precompiled: its record is damaged"));
    assert!(effects.contains(&DeployEffect::Note(Step::Forgotten(Run(1)))));
}

#[test]
fn no_more_wait_for_their_task_than_may_and_a_full_queue_is_said() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    for n in 0..4 {
        assert!(answers(&worker.invoke("a", &n.to_string())).is_empty());
    }
    assert!(error(&worker.invoke("a", "4")).starts_with("busy: 4 invocations wait"));
    let effects = worker.load(1, "a", 1);
    let number = submitted(&effects)[0].0;
    let busy = Rejection::Busy { running: 1, queued: 2, limit: 2 };
    let effects = worker.on(DeployEvent::Submitted { number, verdict: Err(busy) });
    assert!(error(&effects).starts_with("busy: 1 tasks running"), "{effects:?}");
    // Which was not taken, so it may come again.
    assert_eq!(submitted(&worker.invoke("a", "0")).len(), 1);
}

#[test]
fn a_worker_that_ends_answers_what_waits_and_takes_nothing() {
    let mut worker = Worker::new(bounds());
    worker.deploy(1, "a", 1);
    worker.deploy(2, "b", 2);
    worker.invoke("a", "runs");
    let effects = worker.load(1, "a", 1);
    let number = submitted(&effects)[0].0;
    worker.invoke("b", "waits");
    let effects = worker.on(DeployEvent::Draining);
    assert!(error(&effects).starts_with("shutting down"), "{effects:?}");
    let effects = worker.invoke("a", "new");
    assert!(error(&effects).starts_with("shutting down"));
    let marked = DeployEffect::Mark(InvocationKey::of("new"));
    assert!(effects.contains(&marked), "the next process gives it no other answer");
    let ended = worker.on(DeployEvent::Ended { number, outcome: printed("in time") });
    assert_eq!(answers(&ended), [("runs".into(), "in time".into(), None)]);
}

#[test]
fn an_answer_fits_its_message_and_is_text_whatever_was_written() {
    let mut worker = Worker::new(DeployBounds { answer_size: 20_000, ..bounds() });
    worker.deploy(1, "a", 1);
    worker.invoke("a", "large");
    worker.invoke("a", "bytes");
    let effects = worker.load(1, "a", 1);
    let numbers: Vec<_> = submitted(&effects).iter().map(|(number, _)| *number).collect();
    let outcome = printed(&"\"line\"\n".repeat(10_000));
    let effects = worker.on(DeployEvent::Ended { number: numbers[0], outcome });
    let [DeployEffect::Answer { answer, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert!(answer.len() <= 20_000 && answer.len() > 18_000, "{}", answer.len());
    assert!(answers(&effects)[0].1.contains("bytes not kept"));
    let stdout = Captured { bytes: vec![0xff; 100_000], dropped: 0 };
    let outcome = Outcome { stdout, ..printed("") };
    let effects = worker.on(DeployEvent::Ended { number: numbers[1], outcome });
    let [DeployEffect::Answer { answer, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert!(answer.len() <= 20_000, "{}", answer.len());
    assert!(answers(&effects)[0].1.starts_with("{\"base64\":\"/"), "{effects:?}");
}

/// What is to be prepared, with the number.
fn prepared(effects: &[DeployEffect]) -> Vec<(u64, &str)> {
    let prepared = effects.iter().filter_map(|effect| match effect {
        DeployEffect::Prepare { number, spec } => Some((*number, spec.id().as_str())),
        _ => None,
    });
    prepared.collect()
}

/// A worker whose deployments have been invoked, in this order.
fn used(names: &[&str]) -> Worker {
    let mut worker = Worker::new(DeployBounds { memory: Some(1000), ..bounds() });
    for (run, name) in (1..).zip(names) {
        worker.deploy(run, name, 1);
        worker.invoke(name, &format!("first of {name}"));
        worker.load(run, name, 1);
    }
    worker
}

#[test]
fn what_was_in_use_is_prepared_in_a_new_process_one_after_the_other() {
    let mut worker = used(&["a", "b", "c"]);
    worker.invoke("a", "last");
    assert_eq!(prepared(&worker.on(DeployEvent::Renewed)), [(1, "a")]);
    let ended = |number, name| DeployEvent::Prepared { number, id: id(name), ended: true };
    assert_eq!(prepared(&worker.on(ended(1, "a"))), [(2, "c")]);
    // Meanwhile there is another one; what was under way was in the one before.
    worker.on(DeployEvent::Stop(id("b")));
    assert_eq!(prepared(&worker.on(DeployEvent::Renewed)), [(3, "a")]);
    assert_eq!(worker.on(ended(2, "c")), []);
    assert_eq!(prepared(&worker.on(ended(3, "a"))), [(4, "c")]);
    assert_eq!(worker.on(ended(4, "c")), []);
    // A worker that ends prepares nothing more.
    worker.on(DeployEvent::Renewed);
    worker.on(DeployEvent::Draining);
    assert_eq!(worker.on(ended(5, "a")), []);
}

#[test]
fn what_a_process_was_lost_with_is_prepared_again_once_it_was_invoked() {
    let mut worker = used(&["a", "b"]);
    assert_eq!(prepared(&worker.on(DeployEvent::Renewed)), [(1, "b")]);
    let lost = |number, name| DeployEvent::Prepared { number, id: id(name), ended: false };
    assert_eq!(prepared(&worker.on(lost(1, "b"))), [(2, "a")]);
    assert_eq!(prepared(&worker.on(DeployEvent::Renewed)), [(3, "a")]);
    // It may be told late.
    worker.on(DeployEvent::Renewed);
    assert_eq!(prepared(&worker.on(lost(3, "a"))), []);
    assert_eq!(prepared(&worker.on(DeployEvent::Renewed)), []);
    worker.invoke("b", "once more");
    assert_eq!(prepared(&worker.on(DeployEvent::Renewed)), [(5, "b")]);
}

#[test]
fn what_is_on_the_disk_alone_is_read_back_to_be_prepared_where_there_is_room() {
    let mut worker = Worker::new(bounds());
    for (run, name, content) in [(1, "a", 1), (2, "b", 2), (3, "c", 3)] {
        worker.deploy(run, name, content);
    }
    let loads = |effects: &[DeployEffect]| {
        let loads = effects.iter().filter_map(|effect| match effect {
            DeployEffect::Load { id, .. } => Some(id.as_str().to_owned()),
            _ => None,
        });
        loads.collect::<Vec<_>>()
    };
    // Two of 110 bytes fit into 250.
    assert_eq!(loads(&worker.on(DeployEvent::Renewed)), ["c"]);
    let effects = worker.load(3, "c", 3);
    let [(number, "c")] = prepared(&effects)[..] else { panic!("{effects:?}") };
    let effects = worker.on(DeployEvent::Prepared { number, id: id("c"), ended: true });
    assert_eq!(loads(&effects), ["b"]);
    let effects = worker.load(2, "b", 2);
    let [(number, "b")] = prepared(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(worker.on(DeployEvent::Prepared { number, id: id("b"), ended: true }), []);
    // What was left by an earlier worker is loaded when it is invoked.
    let mut next = Worker::new(bounds());
    let arrival = Arrival { id: id("a"), fingerprint: fingerprint(1), state: None };
    let deployed = vec![Deployed { run: Run(1), arrival, weight: weight(10, 1) }];
    next.on(DeployEvent::Recovered { deployed, preparing: vec![], invoked: vec![] });
    assert_eq!(next.on(DeployEvent::Renewed), []);
}
