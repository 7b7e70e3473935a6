//! A worker and its manager: registration, start, stop, refusals, results.

use crate::manager::{Habits, Manager, Store};
use crate::support::{On, Proxy, Stage, Task, in_one_process_too, over_both_brokers, wat};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

over_both_brokers!(
    a_worker_introduces_itself_before_its_first_heartbeat,
    a_worker_introduces_itself_again_after_a_reconnect,
    every_heartbeat_tells_what_the_worker_is,
    a_manager_that_restarts_with_an_empty_store_knows_the_worker_again,
    a_worker_tells_the_manager_what_it_is,
    a_task_runs_and_its_result_tells_all_of_it,
    the_manager_is_told_what_a_failed_task_wrote,
    tasks_for_another_worker_are_ignored,
    a_task_without_an_address_is_for_every_worker,
    a_start_of_a_task_that_runs_is_ignored,
    a_start_of_a_task_that_waits_is_ignored,
    a_task_that_has_ended_may_be_started_again,
    a_malformed_start_is_answered_if_its_id_can_be_read,
    a_message_that_can_not_be_read_is_dropped_and_the_next_task_runs,
    a_running_task_is_stopped,
    a_waiting_task_is_stopped_while_another_one_runs,
    stopping_what_is_not_there_changes_nothing,
    a_full_queue_is_answered_with_its_numbers,
    what_is_not_built_yet_gets_one_error_each,
    an_invoke_is_answered_so_that_the_manager_deploys_the_task_again,
    a_task_that_sleeps_does_not_hold_up_messages,
    a_result_larger_than_a_packet_is_cut,
    output_that_is_no_text_comes_whole,
    a_large_module_comes_through,
);

in_one_process_too!(
    a_task_runs_and_its_result_tells_all_of_it,
    a_running_task_is_stopped,
    a_waiting_task_is_stopped_while_another_one_runs,
);

const ONE: &[(&str, &str)] = &[("executors", "1")];
const FULL_WITH_ONE: &[(&str, &str)] = &[("executors", "1"), ("queue", "1")];

fn a_worker_introduces_itself_before_its_first_heartbeat(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("liveliness-interval", "100ms")]);
    stage.wait("three heartbeats", |seen| {
        (seen.iter().filter(|seen| seen.topic == "alive").count() >= 3).then_some(())
    });
    let seen = stage.seen();
    assert_eq!(seen[0].topic, "create");
    assert!(seen[1..].iter().all(|seen| seen.topic == "alive"), "{seen:?}");
    assert_eq!(seen[1].json["proplet_id"], stage.worker_id);
    assert_eq!(seen[1].json["status"], "alive");
}

fn a_worker_introduces_itself_again_after_a_reconnect(on: On) {
    let stage = Stage::new(on);
    let proxy = Proxy::to(stage.address);
    let _worker = stage.worker_at(proxy.address, &[("liveliness-interval", "100ms")]);
    for times in 2..=3 {
        proxy.cut();
        proxy.open();
        stage.wait("another introduction and a heartbeat", |seen| {
            let created = seen.iter().enumerate().filter(|(_, seen)| seen.topic == "create");
            let (again, _) = created.clone().nth(times - 1)?;
            seen[again..].iter().any(|seen| seen.topic == "alive").then_some(())
        });
    }
    // It has subscribed again, too.
    stage.settle();
}

/// ARCHITECTURE.md, case 84: it hears heartbeats alone, since the worker is connected
/// all the time.
fn a_manager_that_restarts_with_an_empty_store_knows_the_worker_again(on: On) {
    let stage = Stage::new(on);
    let mut manager = stage.manager(Habits { store: Store::Memory, ..Habits::default() });
    let _worker = stage.worker(&[("liveliness-interval", "100ms"), ("location", "here")]);
    let known = |manager: &Manager| {
        manager.worker_alive(&stage.worker_id);
        manager.json("GET", "/proplets", None).ok(200)["proplets"][0]["metadata"].clone()
    };
    let before = known(&manager);
    assert_eq!(before["location"], "here");
    manager.kill();
    manager.run();
    assert_eq!(known(&manager), before);
    assert_eq!(stage.count("create"), 1);
}

/// They come although they are set to be rare.
fn every_heartbeat_tells_what_the_worker_is(on: On) {
    let stage = Stage::new(on);
    let proxy = Proxy::to(stage.address);
    let settings = [("liveliness-interval", "1h"), ("description", "a test")];
    let _worker = stage.worker_at(proxy.address, &settings);
    let beats = |n| {
        stage.wait("heartbeats", |seen| {
            (seen.iter().filter(|seen| seen.topic == "alive").count() >= n).then_some(())
        });
    };
    // That of the introduction, the interval's first and its next one.
    beats(3);
    proxy.cut();
    proxy.open();
    stage.wait("another introduction and a heartbeat", |seen| {
        let again = seen.iter().rposition(|seen| seen.topic == "create").filter(|at| *at > 0)?;
        seen[again..].iter().any(|seen| seen.topic == "alive").then_some(())
    });
    let seen = stage.seen();
    let create = &seen[0].json;
    assert_eq!(create["metadata"]["description"], "a test");
    for seen in &seen {
        assert_eq!(seen.json["metadata"], create["metadata"], "{seen:?}");
    }
}

/// The manager's part is over by then: it hears nothing of a broker that
/// started without it, so the worker comes back after it.
#[test]
fn a_worker_comes_back_to_a_broker_that_has_forgotten_everything() {
    let stage = Stage::new(On::Embedded);
    let proxy = Proxy::to(stage.address);
    let _worker = stage.worker_at(proxy.address, ONE);
    stage.settle();
    proxy.cut();
    stage.restart_broker();
    proxy.open();
    stage.wait("another introduction", |seen| {
        (seen.iter().filter(|seen| seen.topic == "create").count() == 2).then_some(())
    });
    stage.settle();
}

/// ARCHITECTURE.md, case 41.
#[test]
fn a_task_that_ends_without_a_broker_reports_to_the_next_one() {
    let stage = Stage::new(On::Embedded);
    let proxy = Proxy::to(stage.address);
    let worker = stage.process_at(proxy.address, ONE);
    let id = stage.start(Task::wat("sleep").inputs(&["500"]));
    worker.logs("task accepted");
    proxy.cut();
    worker.logs("task completed");
    stage.restart_broker();
    proxy.open();
    stage.result(&id).succeeded("slept\n");
    assert_eq!(stage.results_in_the_end(&id), 1);
}

fn a_worker_tells_the_manager_what_it_is(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[
        ("description", "a test"),
        ("tags", "a, b"),
        ("location", "here"),
        ("namespace", "ns"),
    ]);
    let create = &stage.seen()[0].json;
    assert_eq!(create["proplet_id"], stage.worker_id);
    assert_eq!(create["namespace"], "ns");
    let about = &create["metadata"];
    assert_eq!(about["description"], "a test");
    assert_eq!(about["tags"], json!(["a", "b"]));
    assert_eq!(about["location"], "here");
    assert_eq!(about["os"], std::env::consts::OS);
    assert_eq!(about["cpu_arch"], std::env::consts::ARCH);
    assert_eq!(about["proplet_version"], proplet::version::VERSION);
    assert!(about["wasm_runtime"].as_str().is_some_and(|name| name.starts_with("wasmtime 48.")));
    assert!(about["total_memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    assert!(about["environment"].is_string() && about["hostname"].is_string());
}

fn a_task_runs_and_its_result_tells_all_of_it(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let task = || Task::wat("echo-args").inputs(&["a", "b c"]);
    let first = stage.run(task().id("first"));
    first.succeeded("first.wasm\na\nb c\n");
    assert_eq!(first.0["task_id"], "first");
    assert_eq!(first.0["proplet_id"], stage.worker_id);
    assert_eq!(first.0["exit_code"], 0);
    assert_eq!(first.0["stderr"], "");
    assert_eq!(first.0["diagnostics"], json!([]));
    assert_eq!(first.0["reused"]["module"], false);
    for phase in ["queued", "compiled", "loaded", "ran"] {
        assert!(first.0["timings"][phase].as_f64().is_some_and(|ms| ms >= 0.0), "{:#}", first.0);
    }
    assert!(first.0["timings"]["compiled"].as_f64() > Some(0.0));
    assert_eq!(stage.run(task()).0["reused"]["module"], true);
}

fn the_manager_is_told_what_a_failed_task_wrote(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let trapped = stage.run(Task::wat("stderr-then-trap"));
    trapped.failed(&["unreachable", "stderr of the guest", "about to fail"]);
    assert!(trapped.error().starts_with("guest: about to fail\n"), "{}", trapped.error());
    assert_eq!(trapped.0["results"], "partial result\nerror: guest: about to fail\n");
    assert_eq!(trapped.0["stderr"], "about to fail\n");
    assert_eq!(trapped.0["exit_code"], json!(null));
    let exited = stage.run(Task::wat("exit").inputs(&["7"]));
    exited.failed(&["exited with code 7"]);
    assert_eq!(exited.0["exit_code"], 7);
    assert_eq!(exited.0["results"], "exiting\nerror: the guest exited with code 7\n");
    let silent = stage.run(Task::wat("missing-export"));
    silent.failed(&["_start", "--invoke"]);
    assert_eq!(silent.0["results"], silent.error());
    stage.run(Task::wat("loop-forever").args(&["-W", "timeout=50ms"])).failed(&["timeout", "50ms"]);
}

fn tasks_for_another_worker_are_ignored(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let other = stage.start(Task::wat("hello").set("proplet_id", "worker-2"));
    let broken = "{\"id\":\"broken\",\"proplet_id\":\"worker-2\",\"name\":7}";
    stage.publish("start", broken);
    let running = stage.start(Task::wat("sleep").inputs(&["200"]));
    let stop = json!({ "id": running, "proplet_id": "worker-2" });
    stage.publish("stop", stop.to_string());
    let invoke =
        json!({ "id": "x", "invocation_id": "i", "proplet_id": "worker-2", "inputs": null });
    stage.publish("invoke", invoke.to_string());
    stage.result(&running).succeeded("slept\n");
    assert_eq!(stage.results_in_the_end(&other), 0);
    assert_eq!(stage.results_in_the_end("broken"), 0);
    assert_eq!(stage.count("invoke_results"), 0);
}

fn a_task_without_an_address_is_for_every_worker(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    stage.run(Task::wat("hello").for_anyone()).succeeded("hello\n");
    stage.run(Task::wat("hello").set("proplet_id", "")).succeeded("hello\n");
    stage.run(Task::wat("hello").set("proplet_id", json!(null))).succeeded("hello\n");
}

fn a_start_of_a_task_that_runs_is_ignored(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let task = || Task::wat("sleep").id("same").inputs(&["1000"]);
    stage.start(task());
    stage.start(task());
    stage.start(Task::wat("hello").id("same"));
    stage.start(task().set("inputs", 7));
    stage.result("same").succeeded("slept\n");
    assert_eq!(stage.results_in_the_end("same"), 1);
}

fn a_start_of_a_task_that_waits_is_ignored(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let first = stage.start(Task::wat("loop-forever"));
    stage.start(Task::wat("hello").id("same"));
    stage.start(Task::wat("hello").id("same"));
    stage.start(Task::wat("exit").id("same").inputs(&["3"]));
    stage.stop(&first);
    stage.result("same").succeeded("hello\n");
    assert_eq!(stage.results_in_the_end("same"), 1);
}

fn a_task_that_has_ended_may_be_started_again(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    stage.run(Task::wat("hello").id("same")).succeeded("hello\n");
    // The guide updates a task and starts the same id again.
    stage.start(Task::wat("echo-args").id("same"));
    stage.nth_result("same", 2).succeeded("same.wasm\n");
    stage.start(Task::wat("exit").id("same").inputs(&["1"]));
    stage.nth_result("same", 3).failed(&["exited with code 1"]);
    stage.start(Task::wat("hello").id("same"));
    stage.nth_result("same", 4).succeeded("hello\n");
    assert_eq!(stage.results_in_the_end("same"), 4);
}

fn a_malformed_start_is_answered_if_its_id_can_be_read(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let mine = |id: &str| Task::wat("hello").id(id);
    let bad_base64 = mine("base64").set("file", "AGFzbQ!AAAA=");
    let cases = [
        (mine("name").set("name", 7), "`name`"),
        (mine("inputs").set("inputs", "a"), "`inputs`"),
        (mine("args").set("cli_args", json!(["-S", 1])), "`cli_args`"),
        (mine("env").set("env", json!({ "A": [1] })), "`env`"),
        (mine("daemon").set("daemon", "yes"), "`daemon`"),
        (bad_base64, "not valid base64"),
        (mine("empty").set("file", ""), "`file` is empty"),
    ];
    for (task, expected) in cases {
        let (id, message) = task.message("unused", &stage.worker_id);
        stage.publish("start", message);
        stage.result(&id).failed(&["malformed start message", expected]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{id}");
    }
}

fn a_message_that_can_not_be_read_is_dropped_and_the_next_task_runs(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let long_id = "x".repeat(300);
    let id_too_long = Task::wat("hello").id(&long_id).message("unused", "").1;
    let messages: &[&[u8]] = &[
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"\"id\"",
        b"{}",
        b"{\"id\":7}",
        b"{\"id\":\"\"}",
        b"{\"id\":\"cut off",
        deep.as_bytes(),
        &id_too_long,
    ];
    for topic in ["start", "stop", "invoke"] {
        for message in messages {
            stage.publish(topic, message.to_vec());
        }
        stage.settle();
    }
    let kinds: Vec<_> = stage.seen().into_iter().map(|seen| seen.topic).collect();
    let answers = kinds.iter().filter(|kind| !["create", "alive"].contains(&kind.as_str()));
    assert_eq!(answers.count(), 3, "only the tasks that settle were answered: {kinds:?}");
}

fn a_running_task_is_stopped(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(FULL_WITH_ONE);
    for guest in ["loop-forever", "start-loops", "sleep-forever", "host-call-loop"] {
        let id = stage.running(Task::wat(guest));
        stage.stop(&id);
        // Without it none of them would ever end.
        stage.result(&id).failed(&["stopped"]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{guest}");
    }
}

fn a_waiting_task_is_stopped_while_another_one_runs(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let first = stage.start(Task::wat("loop-forever"));
    let waiting = stage.start(Task::wat("hello"));
    stage.stop(&waiting);
    // The first one still runs: it never ends by itself.
    stage.result(&waiting).failed(&["stopped"]);
    stage.stop(&waiting);
    stage.stop(&first);
    stage.result(&first).failed(&["stopped"]);
    assert_eq!(stage.results_in_the_end(&waiting), 1);
}

fn stopping_what_is_not_there_changes_nothing(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    stage.stop("unknown");
    let ended = stage.start(Task::wat("hello"));
    stage.result(&ended).succeeded("hello\n");
    stage.stop(&ended);
    assert_eq!(stage.results_in_the_end("unknown"), 0);
    assert_eq!(stage.results_in_the_end(&ended), 1);
}

fn a_full_queue_is_answered_with_its_numbers(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(FULL_WITH_ONE);
    let running = stage.running(Task::wat("loop-forever"));
    let waiting = stage.start(Task::wat("hello"));
    let refused = stage.start(Task::wat("hello"));
    stage.result(&refused).failed(&["busy", "1 tasks running", "1 queued", "limit 1", "--queue"]);
    stage.stop(&running);
    stage.result(&waiting).succeeded("hello\n");
    assert_eq!(stage.results_in_the_end(&refused), 1);
}

fn what_is_not_built_yet_gets_one_error_each(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let cases = [
        (Task::wat("hello").id("encrypted").set("encrypted", true), "encrypted"),
        (Task::bare().id("ftp").set("image_url", "ftp://example/guest"), "name of an image"),
        (Task::bare().id("neither"), "neither `file` nor `image_url`"),
    ];
    for (task, expected) in cases {
        let id = stage.start(task);
        stage.result(&id).failed(&[expected]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{id}");
    }
}

fn an_invoke_is_answered_so_that_the_manager_deploys_the_task_again(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let invoke = json!({
        "id": "latent-task", "invocation_id": "call-1", "broadcast": false,
        "proplet_id": stage.worker_id, "inputs": null,
    });
    stage.publish("invoke", invoke.to_string());
    let find = |id: &'static str| {
        stage.wait("the answer to the call", move |seen| {
            let mut answers = seen.iter().filter(|seen| seen.topic == "invoke_results");
            answers.find(|seen| seen.json["invocation_id"] == id).map(|seen| seen.json.clone())
        })
    };
    let answer = find("call-1");
    assert_eq!(
        (&answer["task_id"], &answer["proplet_id"]),
        (&json!("latent-task"), &json!(stage.worker_id))
    );
    // The manager refuses null here.
    assert_eq!(answer["results"], "");
    let error = answer["error"].as_str().expect("an error");
    assert!(error.contains("has not been precompiled"), "{error}");
    let malformed = json!({ "id": "x", "invocation_id": "call-2", "inputs": 7 });
    stage.publish("invoke", malformed.to_string());
    assert!(find("call-2")["error"].as_str().is_some_and(|error| error.contains("`inputs`")));
    stage.settle();
    assert_eq!(stage.count("invoke_results"), 2);
}

fn a_task_that_sleeps_does_not_hold_up_messages(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "2"), ("liveliness-interval", "100ms")]);
    let id = stage.start(Task::wat("sleep-forever"));
    let loops = stage.start(Task::wat("loop-forever"));
    let beats = stage.count("alive");
    stage.wait("heartbeats meanwhile", |seen| {
        (seen.iter().filter(|seen| seen.topic == "alive").count() >= beats + 3).then_some(())
    });
    stage.run(Task::bare()).failed(&["neither"]);
    for id in [id, loops] {
        stage.stop(&id);
        stage.result(&id).failed(&["stopped"]);
    }
}

fn a_result_larger_than_a_packet_is_cut(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1"), ("mqtt-max-packet-size", "64KiB")]);
    let id = stage.start(Task::wat("stdout-flood").inputs(&["100000"]));
    let result = stage.result(&id);
    let text = result.stdout();
    assert!(text.starts_with("begin\n") && text.ends_with("end\n"), "{text}");
    assert!(text.contains("bytes not kept"), "{text}");
    assert_eq!(stage.results_in_the_end(&id), 1);
}

fn output_that_is_no_text_comes_whole(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(ONE);
    let result = stage.run(Task::wat("stdout-binary"));
    assert_eq!(result.0["error"], json!(null));
    let bytes = b"a\0\x1b[31m\xff\xfe\xc3\r\n";
    assert_eq!(result.0["results"], json!({ "base64": STANDARD.encode(bytes) }));
}

fn a_large_module_comes_through(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[("executors", "1"), ("module-size", "12MiB")]);
    // A custom section is part of the module and nothing to compile.
    let mut module = wat("hello");
    let padding = 9 << 20;
    module.push(0);
    let length = padding + 2;
    module.extend([(length & 127 | 128) as u8, (length >> 7 & 127 | 128) as u8]);
    module.extend([(length >> 14 & 127 | 128) as u8, (length >> 21) as u8, 1, b'x']);
    module.resize(module.len() + padding, 0);
    stage.run(Task::module(&module)).succeeded("hello\n");
    module.resize(13 << 20, 0);
    stage.run(Task::module(&module)).failed(&["more than this worker's limit"]);
}
