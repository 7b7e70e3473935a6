//! Latent tasks: deployed, invoked, replaced, stopped, and kept over the end of
//! the worker.

use crate::manager::Habits;
use crate::support::{
    Answer, Answered, Call, On, Process, Stage, Task, Web, cached, fixtures, over_both_brokers, wat,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

over_both_brokers!(
    a_latent_task_is_deployed_without_a_word_and_answers_its_invocations,
    a_start_with_the_same_content_changes_nothing_and_another_one_replaces_it,
    a_stop_ends_the_invocations_and_the_deployment,
    what_can_not_be_prepared_is_a_failed_task_and_no_deployment,
    an_invocation_that_takes_too_long_is_told_so,
    an_invocation_that_comes_twice_has_one_answer,
);

const ONE: &[(&str, &str)] = &[("executors", "1"), ("queue", "8")];

/// Settings with guests in the worker's process, and in one of their own.
fn isolations() -> Vec<Vec<(&'static str, &'static str)>> {
    let with = |isolation| [ONE, &[("isolation", isolation)]].concat();
    let all = if cfg!(target_os = "linux") { &["none", "process"][..] } else { &["none"] };
    all.iter().map(|isolation| with(*isolation)).collect()
}

fn latent(guest: &str) -> Task {
    Task::wat(guest).set("latent", true)
}

fn typed() -> Task {
    let module = std::fs::read(fixtures().join("guests/bin/typed.wasm")).expect("a guest");
    Task::module(&module).set("latent", true)
}

/// The results of tasks so far, but for those that settle the stage.
fn results(stage: &Stage, id: &str) -> usize {
    let seen = stage.seen();
    seen.iter().filter(|seen| seen.topic == "results" && seen.json["task_id"] == id).count()
}

fn a_latent_task_is_deployed_without_a_word_and_answers_its_invocations(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let _worker = stage.worker(&settings);
        let echo = stage.start(latent("echo-args").inputs(&["of the start"]));
        // It may still be being prepared.
        let answer = stage.call(Call::of(&echo));
        answer.succeeded(&format!("{echo}.wasm\nof the start\n"));
        assert_eq!(answer.0["task_id"], echo);
        assert_eq!(answer.0["proplet_id"], stage.worker_id);
        stage.call(Call::of(&echo).inputs(&["a", "b"])).succeeded(&format!("{echo}.wasm\na\nb\n"));
        let env = stage.start(latent("echo-env").env("A", "start").env("B", "start"));
        let call = Call::of(&env).env("B", "call").env("C", "call");
        let answer = stage.call(call);
        for line in ["A=start\n", "B=call\n", "C=call\n"] {
            assert!(answer.stdout().contains(line), "{line}: {answer:?}");
        }
        let component = stage.start(latent("component-hello"));
        stage.call(Call::of(&component)).succeeded("hello\n");
        let typed = stage.start(typed().set("name", "divide"));
        stage.call(Call::of(&typed).inputs(&["7", "2"])).succeeded("ok(3)\n");
        let wrong = stage.call(Call::of(&typed).inputs(&["7"]));
        wrong.failed(&["takes 2 values, and the task has 1 inputs"]);
        assert!(wrong.0["results"].is_string(), "{wrong:?}");
        stage.call(Call::of(&typed).env("=", "x")).failed(&["can't be passed on"]);
        stage.settle();
        for id in [echo, env, component, typed] {
            assert_eq!(results(&stage, &id), 0, "{id}");
        }
    }
}

fn a_start_with_the_same_content_changes_nothing_and_another_one_replaces_it(on: On) {
    let stage = Stage::new(on);
    let worker = stage.process(&[("executors", "1"), ("queue", "64")]);
    let start = |guest: &str| stage.start(latent(guest).id("same"));
    start("hello");
    stage.call(Call::of("same")).succeeded("hello\n");
    start("hello");
    stage.start(latent("hello").id("same").set("state", 3));
    stage.settle();
    // Lines come in their order.
    worker.logs("task completed");
    assert_eq!(worker.log().iter().filter(|line| line.contains("task deployed")).count(), 1);
    // The old one answers until the new one is there, and each call is answered.
    let before = stage.invoke(Call::of("same"));
    start("default-export");
    let meanwhile: Vec<_> = (0..20).map(|_| stage.invoke(Call::of("same"))).collect();
    stage.answer(&before).succeeded("hello\n");
    for call in &meanwhile {
        let answer = stage.answer(call);
        assert!(answer.0["error"].is_null(), "{answer:?}");
    }
    worker.logs("task deployed in place of the one before it");
    assert_ne!(stage.call(Call::of("same")).stdout(), "hello\n");
    // One that can't be prepared leaves the one before it.
    start("missing-import");
    stage.result("same").failed(&["can't be linked"]);
    assert!(stage.call(Call::of("same")).0["error"].is_null());
    // A task that is not latent has its id for itself.
    stage.start(Task::wat("hello").id("same").set("state", 3));
    stage.nth_result("same", 2).succeeded("hello\n");
    stage.call(Call::of("same")).failed(&["has not been precompiled"]);
}

fn a_stop_ends_the_invocations_and_the_deployment(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let _worker = stage.worker(&settings);
        let id = stage.start(latent("loop-forever"));
        let runs: Vec<_> = (0..4).map(|_| stage.invoke(Call::of(&id))).collect();
        stage.stop(&id);
        for call in &runs {
            stage.answer(call).failed(&["stopped"]);
        }
        stage.call(Call::of(&id)).failed(&["has not been precompiled"]);
        stage.settle();
        assert!(runs.iter().all(|call| stage.answers(call) == 1));
    }
}

fn what_can_not_be_prepared_is_a_failed_task_and_no_deployment(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1"), ("deployments", "1")]);
    let cases = [
        (latent("missing-import"), "can't be linked"),
        (latent("hello").set("file", "bm8gd2FzbQ=="), "not a WebAssembly binary"),
        (latent("hello").args(&["--dir=/etc"]), "outside the allowed directories"),
        (latent("hello").args(&["-S", "nn-graph=openvino::models/none"]), "models/none"),
        (typed().args(&["--invoke", "nope"]), "exports no such function"),
        (typed().set("name", ""), "is not a command"),
    ];
    for (task, expected) in cases {
        let id = stage.start(task);
        // An invocation that comes meanwhile does not wait for ever.
        let call = stage.invoke(Call::of(&id));
        stage.result(&id).failed(&[expected]);
        stage.answer(&call).failed(&["has not been precompiled"]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{id}");
    }
    let first = stage.start(latent("hello"));
    stage.call(Call::of(&first)).succeeded("hello\n");
    stage
        .run(latent("default-export"))
        .failed(&["busy: 1 latent tasks are deployed", "--deployments"]);
}

fn an_invocation_that_takes_too_long_is_told_so(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let _worker = stage.worker(&[&settings[..], &[("invoke-timeout", "300ms")]].concat());
        for guest in ["loop-forever", "sleep-forever", "component-loop-forever"] {
            let id = stage.start(latent(guest));
            stage.call(Call::of(&id)).failed(&["timeout: the invocation", "300ms"]);
            stage.stop(&id);
        }
        stage.settle();
    }
}

fn an_invocation_that_comes_twice_has_one_answer(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let id = stage.start(latent("hello"));
    let call = Call::of(&id).id("the-call");
    stage.invoke(call.clone());
    stage.invoke(call.clone());
    stage.answer("the-call").succeeded("hello\n");
    stage.invoke(call);
    stage.call(Call::of(&id)).succeeded("hello\n");
    assert_eq!(stage.answers("the-call"), 1);
    let long = "x".repeat(1025);
    stage.invoke(Call::of(&id).id(&long));
    stage.call(Call::of(&id)).succeeded("hello\n");
    assert_eq!(stage.answers(&long), 0, "it can't be answered");
}

#[test]
fn tasks_that_hold_all_executors_hold_up_no_invocation_and_a_flood_of_those_no_task() {
    let stage = Stage::new(On::Embedded);
    let _worker = stage.worker(&[("executors", "1"), ("queue", "4")]);
    let id = stage.start(latent("hello"));
    stage.call(Call::of(&id)).succeeded("hello\n");
    let long: Vec<_> = (0..6).map(|_| stage.start(Task::wat("sleep-forever"))).collect();
    // One runs at most, so the queue is full of others.
    stage.run(Task::wat("hello")).failed(&["busy"]);
    stage.call(Call::of(&id)).succeeded("hello\n");
    for id in &long {
        stage.stop(id);
        let result = stage.result(id);
        let error = result.error();
        assert!(error.starts_with("stopped") || error.starts_with("busy"), "{error}");
    }
    // Two run and four wait. Which of them depends on when the threads take what waits.
    let sleeps = stage.start(latent("sleep").inputs(&["60000"]));
    let calls: Vec<_> = (0..12).map(|_| stage.invoke(Call::of(&sleeps))).collect();
    let refused = || calls.iter().filter(|call| stage.answers(call) == 1).collect::<Vec<_>>();
    stage.until("six invocations are refused", || refused().len() >= 6);
    for call in refused() {
        stage.answer(call).failed(&["busy"]);
    }
    let task = stage.start(Task::wat("hello"));
    stage.stop(&sleeps);
    stage.result(&task).succeeded("hello\n");
}

/// A worker with a journal, as a process.
struct Scene {
    stage: Stage,
    state: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        Scene { stage: Stage::new(On::Embedded), state: tempfile::tempdir().expect("a folder") }
    }

    fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let state = self.state.path().to_str().expect("a path");
        let own = [("stateless", "false"), ("state-dir", state)];
        self.stage.process(&[&own[..], settings].concat())
    }
}

#[test]
fn deployments_outlive_the_worker_and_what_was_stopped_does_not() {
    for settings in isolations() {
        let scene = Scene::new();
        let stage = &scene.stage;
        let mut worker = scene.worker(&settings);
        let kept = stage.start(latent("echo-args").inputs(&["kept"]).env("A", "b"));
        let typed = stage.start(typed().set("name", "greet"));
        let stopped = stage.start(latent("hello"));
        for id in [&kept, &stopped] {
            assert!(stage.call(Call::of(id)).0["error"].is_null());
        }
        stage.stop(&stopped);
        stage.settle();
        worker.signal("KILL");
        worker.ended();
        let mut worker = scene.worker(&settings);
        let greeting = stage.call(Call::of(&typed).inputs(&["\"you\""]));
        greeting.succeeded("\"Hello, you!\"\n");
        stage.call(Call::of(&kept)).succeeded(&format!("{kept}.wasm\nkept\n"));
        stage.call(Call::of(&stopped)).failed(&["has not been precompiled"]);
        // The same once more, after an end in good order.
        worker.signal("TERM");
        worker.ended();
        let _worker = scene.worker(&settings);
        stage.call(Call::of(&kept)).succeeded(&format!("{kept}.wasm\nkept\n"));
        assert_eq!(results(stage, &kept) + results(stage, &typed), 0);
    }
}

/// Deploys so many beside a first one. Gives the last one, and the bytes that they take.
#[cfg(target_os = "linux")]
fn deploy(stage: &Stage, worker: &Process, count: u64) -> (String, u64) {
    let first = stage.start(latent("hello"));
    stage.call(Call::of(&first)).succeeded("hello\n");
    let before = worker.memory("VmRSS");
    let last = (0..count).map(|_| stage.start(latent("hello"))).last().expect("one at least");
    // The last one is prepared after the others.
    stage.call(Call::of(&last)).succeeded("hello\n");
    (last, worker.memory("VmRSS").saturating_sub(before))
}

/// The figures for 10,000 of them are the benchmark's.
#[cfg(target_os = "linux")]
#[test]
fn a_deployment_takes_20_kib_of_memory_besides_its_code() {
    const TASKS: u64 = 2000;
    let scene = Scene::new();
    let stage = &scene.stage;
    let worker = scene.worker(&[("executors", "1")]);
    let (_, more) = deploy(stage, &worker, TASKS);
    assert!(more <= TASKS * (20 << 10), "{TASKS} deployments take {more} bytes");
}

/// What the issue asks of many deployments, for a note.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "prints figures; give PROPLET_TEST_BROKER a mosquitto and build with --release"]
fn figures_of_10_000_deployments() {
    const TASKS: u64 = 10_000;
    let scene = Scene { stage: Stage::new(On::Mosquitto), ..Scene::new() };
    let stage = &scene.stage;
    // Room for what nobody answers: starts of latent tasks have no result.
    let settings = [("executors", "1"), ("deployments", "20000")];
    let mut worker = scene.worker(&settings);
    let (last, more) = deploy(stage, &worker, TASKS);
    println!("{TASKS} deployments: {:.1} KiB each", more as f64 / 1024.0 / TASKS as f64);
    worker.signal("KILL");
    worker.ended();
    for _ in 0..3 {
        let began = std::time::Instant::now();
        worker = scene.worker(&settings);
        // It introduces itself once its subscriptions are there.
        let (subscribed, log) = (began.elapsed(), worker.log().join("\n"));
        assert!(log.contains("taking over deployed tasks"), "{log}");
        stage.call(Call::of(&last)).succeeded("hello\n");
        let memory = worker.memory("VmRSS") >> 20;
        println!("start to the introduction: {subscribed:?}; resident then: {memory} MiB");
        worker.signal("KILL");
        worker.ended();
    }
}

/// The manager has given up on it by then.
#[test]
fn an_invocation_that_ran_when_the_worker_died_is_not_run_again() {
    let scene = Scene::new();
    let stage = &scene.stage;
    let mut worker = scene.worker(ONE);
    let id = stage.start(latent("sleep").inputs(&["1000000"]));
    let call = Call::of(&id).id("the-call");
    stage.invoke(call.clone());
    stage.call(Call::of(&id).inputs(&["0"])).succeeded("slept\n");
    worker.signal("KILL");
    worker.ended();
    let _worker = scene.worker(ONE);
    // A broker may send it again, too.
    stage.invoke(call.inputs(&["0"]));
    stage.call(Call::of(&id).inputs(&["0"])).succeeded("slept\n");
    assert_eq!(stage.answers("the-call"), 0);
}

/// As long as its time allows.
#[cfg(target_os = "linux")]
#[test]
fn an_invocation_runs_again_when_the_runtimes_process_crashes() {
    let scene = Scene::new();
    let stage = &scene.stage;
    let work = tempfile::tempdir().expect("a folder");
    let dirs = format!("{}:rw", work.path().display());
    let settings = [("executors", "1"), ("isolation", "process"), ("dirs", dirs.as_str())];
    let worker = scene.worker(&settings);
    let id = stage.start(latent("write-then-wait").inputs(&["runs", "go"]));
    let (runs, go) = (work.path().join("runs"), work.path().join("go"));
    let crash_while_it_runs = || {
        stage.until("the guest runs", || runs.exists());
        std::fs::remove_file(&runs).expect("removed");
        for runtime in crate::isolation::runtimes(&worker) {
            crate::isolation::crash(runtime);
        }
    };
    let call = stage.invoke(Call::of(&id));
    crash_while_it_runs();
    stage.until("it runs again", || runs.exists());
    std::fs::write(&go, "").expect("written");
    stage.answer(&call).succeeded("done\n");
    // Alone, too, it crashes.
    std::fs::remove_file(&go).expect("removed");
    std::fs::remove_file(&runs).expect("removed");
    let call = stage.invoke(Call::of(&id));
    crash_while_it_runs();
    crash_while_it_runs();
    stage.answer(&call).failed(&["SIGSEGV"]);
    std::fs::write(&go, "").expect("written");
    stage.call(Call::of(&id)).succeeded("done\n");
    assert_eq!(stage.answers(&call), 1);
}

#[test]
fn a_worker_that_ends_answers_its_invocations() {
    let scene = Scene::new();
    let stage = &scene.stage;
    let settings = [ONE, &[("drain-timeout", "0s")]].concat();
    let mut worker = scene.worker(&settings);
    let id = stage.start(latent("sleep").inputs(&["1000000"]));
    let calls: Vec<_> = (0..4).map(|_| stage.invoke(Call::of(&id))).collect();
    // By then the worker has them all.
    stage.call(Call::of("unknown")).failed(&["has not been precompiled"]);
    worker.signal("TERM");
    let ends: Vec<Answered> = calls.iter().map(|call| stage.answer(call)).collect();
    ends.iter().for_each(|end| end.failed(&["shutting down"]));
    worker.ended();
}

#[test]
fn code_that_is_fetched_is_kept_for_the_invocations() {
    let web = Web::serve(&[("/hello.wasm", Answer::Whole(wat("hello")))]);
    let scene = Scene::new();
    let stage = &scene.stage;
    let mut worker = scene.worker(ONE);
    let url = web.url("/hello.wasm");
    let id = stage.start(Task::bare().set("image_url", url).set("latent", true));
    for _ in 0..3 {
        stage.call(Call::of(&id)).succeeded("hello\n");
    }
    let images = scene.state.path().join(&stage.worker_id).join("cache/images");
    let kept = || cached(&images).len() == 2;
    stage.until("the code is on the disk, and what its address came to", kept);
    // So is that it is deployed, once what comes later is recorded.
    stage.settle();
    worker.signal("KILL");
    worker.ended();
    let _worker = scene.worker(ONE);
    stage.call(Call::of(&id)).succeeded("hello\n");
    assert_eq!(web.requests(), 1, "the next process runs what was deployed");
}

/// As a user does it, over HTTP.
#[test]
fn a_user_deploys_invokes_and_stops_through_the_manager() {
    let stage = Stage::new(On::Embedded);
    let manager = stage.manager(Habits::default());
    let _worker = stage.worker(&[ONE, &[("liveliness-interval", "100ms")]].concat());
    manager.worker_alive(&stage.worker_id);
    let file = STANDARD.encode(wat("echo-args"));
    let task = json!({ "name": "echo", "file": file, "latent": true, "inputs": ["start"] });
    let id = manager.create(&task);
    manager.start_task(&id);
    let path = format!("/tasks/{id}/invoke");
    let invoke = |inputs| manager.json("POST", &path, Some(&json!({ "inputs": inputs })));
    assert_eq!(invoke(json!(null)).ok(200)["results"], format!("{id}.wasm\nstart\n"));
    assert_eq!(invoke(json!(["a", 1])).ok(200)["results"], format!("{id}.wasm\na\n1\n"));
    assert_eq!(manager.task(&id)["state"], 2, "it shows Running");
    manager.json("POST", &format!("/tasks/{id}/stop"), None).ok(200);
    let gone = invoke(json!(null)).ok(500);
    let error = gone["error"].as_str().expect("an error");
    assert!(error.contains("has not been precompiled"), "{error}");
    // A daemon shows as Completed while it goes on, and as Failed once it has failed.
    let daemon = |guest: &str| {
        let file = STANDARD.encode(wat(guest));
        let id = manager.create(&json!({ "name": "daemon", "file": file, "daemon": true }));
        manager.start_task(&id);
        id
    };
    let goes_on = daemon("sleep-forever");
    manager.task_until(&goes_on, |task| task["state"] == 3);
    let fails = daemon("trap-unreachable");
    manager.task_until(&fails, |task| {
        task["state"] == 4
            && task["error"].as_str().is_some_and(|error| error.contains("unreachable"))
    });
}
