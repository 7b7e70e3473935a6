//! Components as the manager starts them, from the message to the result.

use crate::support::{On, Stage, Task, fixtures, over_both_brokers};

over_both_brokers!(
    a_tasks_name_calls_a_function_and_its_value_is_the_result,
    a_call_that_fits_nothing_is_told_what_there_is,
    what_runs_after_the_call_runs_once_and_its_trap_is_its_tasks_error,
    a_component_that_waits_is_stopped_and_runs_into_its_timeout,
);

fn typed() -> Task {
    let path = fixtures().join("guests/bin/typed.wasm");
    Task::module(&std::fs::read(path).expect("a guest"))
}

fn one_executor(on: On) -> (Stage, crate::support::Worker) {
    let stage = Stage::new(on);
    let worker = stage.worker(&[("executors", "1"), ("queue", "1")]);
    (stage, worker)
}

fn a_tasks_name_calls_a_function_and_its_value_is_the_result(on: On) {
    let (stage, _worker) = one_executor(on);
    let named = |name: &str, inputs: &[&str]| stage.run(typed().set("name", name).inputs(inputs));
    named("greet", &[r#""world""#]).succeeded("\"Hello, world!\"\n");
    named("divide", &["7", "2"]).succeeded("ok(3)\n");
    named("sum", &["[1, 2]"]).succeeded("3\n");
    named("move-by", &["[{x: 1, y: 2}]", "{x: 1, y: 1}"]).succeeded("[{x: 2, y: 3}]\n");
    named("proplet:typed/clocks#label", &["2", "minute"]).succeeded("\"2 Unit::Minute\"\n");
    // The forms of `wasmtime run`, whatever the task is called.
    let invoked = |args: &[&str], inputs: &[&str]| stage.run(typed().args(args).inputs(inputs));
    invoked(&["--invoke", "greet(\"you\")"], &[]).succeeded("\"Hello, you!\"\n");
    invoked(&["--invoke=greet"], &["\"you\""]).succeeded("\"Hello, you!\"\n");
    // A value that says that it failed is a value.
    named("divide", &["7", "0"]).succeeded("err(\"7 can\\'t be divided by 0\")\n");
}

fn a_call_that_fits_nothing_is_told_what_there_is(on: On) {
    let (stage, _worker) = one_executor(on);
    let greet = "`greet: func(name: string) -> string`";
    stage.run(typed().args(&["--invoke", "nope"])).failed(&["exports no such function", greet]);
    let wrong = stage.run(typed().set("name", "greet").inputs(&["5"]));
    wrong.failed(&["input 1 (`name`): expected string", "found `5`", greet]);
    let count = stage.run(typed().set("name", "greet"));
    count.failed(&["takes 1 values, and the task has 0 inputs", greet]);
    // A name that is no function's is a label, and this is said.
    stage.run(typed().set("name", "my task")).failed(&["the component is not a command", greet]);
    let labelled = stage.run(Task::wat("component-hello").set("name", "my-task"));
    labelled.succeeded("hello\n");
    assert!(labelled.diagnostics()[0].contains("`my-task` is not a function"), "{labelled:?}");
}

fn what_runs_after_the_call_runs_once_and_its_trap_is_its_tasks_error(on: On) {
    let (stage, _worker) = one_executor(on);
    let run = |name: &str| stage.run(Task::wat("component-post-return").set("name", name));
    for _ in 0..3 {
        run("checked").succeeded("\"done\"\n");
        run("traps").failed(&["unreachable"]);
    }
}

/// Cases 12 and 92, and what they leave: the next task runs.
fn a_component_that_waits_is_stopped_and_runs_into_its_timeout(on: On) {
    let (stage, _worker) = one_executor(on);
    let waits = |guest: &str| Task::wat(guest).inputs(&["forever"]).set("name", "");
    for guest in ["component-sleep-forever", "component-poll", "component-loop-forever"] {
        let id = stage.running(waits(guest));
        stage.stop(&id);
        stage.result(&id).failed(&["stopped"]);
        assert_eq!(stage.results_in_the_end(&id), 1, "{guest}");
        stage.run(waits(guest).args(&["-W", "timeout=100ms"])).failed(&["timeout", "100ms"]);
        stage.run(Task::wat("component-hello").set("name", "")).succeeded("hello\n");
    }
}

#[cfg(feature = "openvino")]
mod nn {
    use super::*;
    use crate::support::{Answered, assets};

    over_both_brokers!(
        a_component_infers_and_the_graph_is_that_of_modules,
        a_components_inference_is_stopped_and_runs_into_its_timeout,
        loops_of_components_meet_their_quotas,
    );

    /// A component whose exported function `run` has this body, of the words of
    /// `guest.wat`; `name` is in its memory.
    fn guest(name: &str, body: &str) -> Task {
        let length = format!("\\{:02x}", name.len());
        let text = include_str!("../../src/nn/abi/wit/guest.wat");
        let text = text.replace("XML", name).replace("\\LENGTH", &length).replace("BODY", body);
        Task::module(&wat::parse_str(text).expect("a component")).set("name", "run")
    }

    /// Loads the graph by its name, and makes a context of it.
    fn ready(name: &str) -> String {
        format!(
            "(call $load-by-name (i32.const 1024) (i32.const {}) (i32.const 2000))
             (local.set $g (call $ok)) (local.set $c (call $context (local.get $g)))",
            name.len()
        )
    }

    /// Computes `[[1, -5, 3, 0]]` by the index of the input.
    const INFER: &str = "
        (i32.store (i32.const 1300) (i32.const 1)) (i32.store (i32.const 1304) (i32.const 4))
        (f32.store (i32.const 1500) (f32.const 1)) (f32.store (i32.const 1504) (f32.const -5))
        (f32.store (i32.const 1508) (f32.const 3)) (f32.store (i32.const 1512) (f32.const 0))
        (i32.store (i32.const 1404) (i32.const 1)) (i32.store8 (i32.const 1450) (i32.const 48))
        (call $infer (local.get $c) (call $tensor.new
          (i32.const 1300) (i32.const 2) (i32.const 1) (i32.const 1500) (i32.const 16)))";

    /// The output is `[[2, 0, 6, 4]]`.
    const READ: &str = "
        (call $tensor.data (i32.load (i32.add (call $ok) (i32.const 8))) (i32.const 2100))
        (call $want (i32.const 16) (i32.load (i32.const 2104)))
        (local.set $t (i32.load (i32.const 2100)))
        (call $want (i32.reinterpret_f32 (f32.const 2)) (i32.load (local.get $t)))
        (call $want (i32.const 0) (i32.load offset=4 (local.get $t)))
        (call $want (i32.reinterpret_f32 (f32.const 6)) (i32.load offset=8 (local.get $t)))
        (call $want (i32.reinterpret_f32 (f32.const 4)) (i32.load offset=12 (local.get $t)))";

    fn with_worker(on: On, tensors: &str) -> (Stage, crate::support::Worker, String) {
        let models = assets().join("fixtures");
        let dirs = format!("{}:{}", fixtures().display(), models.display());
        let stage = Stage::new(on);
        let settings =
            [("executors", "1"), ("queue", "1"), ("dirs", &dirs), ("task-tensor-memory", tensors)];
        let worker = stage.worker(&settings);
        let slow = models.join("slow").to_str().expect("text").to_owned();
        (stage, worker, slow)
    }

    fn tiny(body: &str) -> Task {
        let graph = ["-S", "nn-graph=openvino::models/tiny"];
        guest("tiny", &format!("{} {body}", ready("tiny"))).args(&graph)
    }

    fn reused(result: &Answered) -> (u64, u64) {
        let count = |of: &str| result.0["reused"][of].as_u64().expect("a number");
        (count("graphs_loaded"), count("graphs_reused"))
    }

    fn a_component_infers_and_the_graph_is_that_of_modules(on: On) {
        let (stage, _worker, _) = with_worker(on, "512MiB");
        let module = Task::wat("nn-tiny").args(&["-S", "nn-graph=openvino::models/tiny"]);
        let module = stage.run(module);
        module.succeeded("2\n0\n6\n4\n");
        assert_eq!(reused(&module), (1, 0));
        for _ in 0..3 {
            let component = stage.run(tiny(&format!("{INFER} {READ} {INFER} {READ}")));
            component.succeeded("");
            assert_eq!(reused(&component), (0, 1));
        }
    }

    /// Case 38.
    fn a_components_inference_is_stopped_and_runs_into_its_timeout(on: On) {
        let (stage, _worker, slow) = with_worker(on, "512MiB");
        let graph = format!("nn-graph=openvino::{slow}");
        let task = |body: &str| guest("slow", &format!("{} {body}", ready("slow")));
        // From here on the graph is there, and what takes long is the inference.
        stage.run(task("").args(&["-S", &graph])).succeeded("");
        // What a guest would do with an error, if it got one.
        let infers = task(&format!("(loop $again {INFER} (br $again))"));
        let id = stage.running(infers.clone().args(&["-S", &graph]));
        stage.stop(&id);
        stage.result(&id).failed(&["stopped"]);
        assert_eq!(stage.results_in_the_end(&id), 1);
        let late = infers.args(&["-S", &graph, "-W", "timeout=100ms"]);
        stage.run(late).failed(&["timeout", "100ms"]);
        stage.run(tiny(&format!("{INFER} {READ}"))).succeeded("");
    }

    /// Case 36.
    fn loops_of_components_meet_their_quotas(on: On) {
        let (stage, _worker, _) = with_worker(on, "4MiB");
        // Until it is refused, which is error 5: too large.
        let until_refused = |call: &str| {
            format!(
                "(loop $again {call} (br_if $again (i32.eqz (i32.load8_u (i32.const 2000)))))
                 (call $refused (i32.const 5))"
            )
        };
        let load = "(call $load-by-name (i32.const 1024) (i32.const 4) (i32.const 2000))";
        let context = "(call $init (local.get $g) (i32.const 2000))";
        let quotas = [
            (load, "the task has loaded 64 graphs, its limit"),
            (context, "the task has 1024 execution contexts, its limit"),
        ];
        for (call, expected) in quotas {
            let result = stage.run(tiny(&until_refused(call)));
            result.succeeded("");
            let told = result.diagnostics();
            assert!(told.iter().any(|line| line.contains(expected)), "{told:?}");
        }
        // A tensor has no error: more of them than a task may hold ends it.
        let tensors = "(loop $again (drop (call $tensor.new (i32.const 1300) (i32.const 1)
            (i32.const 4) (i32.const 0) (i32.const 262144))) (br $again))";
        stage.run(tiny(tensors)).failed(&["the task's tensors would take", "its limit of"]);
        stage.run(tiny(&format!("{INFER} {READ}"))).succeeded("");
    }
}
