//! A worker of federated rounds that dies by SIGKILL: never two updates of one run,
//! and never none without a word.

use crate::support::{
    Answered, Habit, On, Process, Proxy, RoundServices, Route, Stage, Task, fixtures, until,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A stage, the services, and a worker with a journal that comes to them by a way
/// that can be cut.
struct Scene {
    stage: Stage,
    services: RoundServices,
    proxy: Proxy,
    state: tempfile::TempDir,
    shared: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
    worker: Process,
}

impl Scene {
    fn new(isolation: &str) -> Scene {
        let stage = Stage::new(On::Embedded);
        let services = RoundServices::start(usize::MAX);
        services.data(&stage.worker_id, json!([{ "x": [1, 0, 1], "y": 1 }]));
        let proxy = Proxy::to(stage.address);
        let folder = || tempfile::tempdir().expect("a folder");
        let (state, shared) = (folder(), folder());
        let text = |path: &Path| path.to_str().expect("text").to_owned();
        let mut settings = services.settings();
        settings.extend([
            ("executors", "1".to_owned()),
            ("stateless", "false".to_owned()),
            ("state-dir", text(state.path())),
            ("dirs", format!("{}:rw", text(shared.path()))),
            ("isolation", isolation.to_owned()),
            // Then the broker passes a result on before it is acknowledged.
            ("mqtt-qos", "1".to_owned()),
        ]);
        let worker = start(&stage, &proxy, &settings);
        Scene { stage, services, proxy, state, shared, settings, worker }
    }

    /// With a task whose update is sent and has no answer.
    fn at_the_update(isolation: &str) -> (Scene, String) {
        let scene = Scene::new(isolation);
        scene.services.answers(Route::Update, &[Habit::Hold]);
        let id = scene.stage.start(scene.client());
        scene.stage.until("the update is sent", || scene.services.posts() == 1);
        (scene, id)
    }

    /// Kills the worker, and starts another one in its place.
    fn kill(&mut self) {
        self.worker.signal("KILL");
        self.worker.ended();
        self.proxy.open();
        self.worker = start(&self.stage, &self.proxy, &self.settings);
    }

    /// A client that prints an update.
    fn client(&self) -> Task {
        Task::wat("update").env("ROUND_ID", "r").set("name", "fl-round-r-w")
    }

    /// How many updates were sent, and how many the coordinator has counted.
    fn counts(&self) -> (usize, usize) {
        (self.services.posts(), self.services.updates().len())
    }

    /// The result, which is one and the same however often it came.
    fn result(&self, id: &str) -> Answered {
        let result = self.stage.result(id);
        assert_eq!(self.stage.different_results_in_the_end(id), 1, "{result:?}");
        result
    }
}

fn start(stage: &Stage, proxy: &Proxy, settings: &[(&'static str, String)]) -> Process {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    stage.process_at(proxy.address, &settings)
}

fn fate(result: &Answered) -> &str {
    result.0["results"]["update"].as_str().unwrap_or_else(|| panic!("no fate: {result:?}"))
}

/// Each test with guests in the worker's process, and in one of their own.
macro_rules! in_each_isolation {
    ($($name:ident),* $(,)?) => {
        mod one_process {
            $(#[test]
            fn $name() {
                super::$name("none");
            })*
        }
        #[cfg(target_os = "linux")]
        mod two_processes {
            $(#[test]
            fn $name() {
                super::$name("process");
            })*
        }
    };
}

in_each_isolation!(
    a_run_that_had_not_begun_posts_once,
    a_run_that_was_fetching_posts_once,
    a_run_whose_guest_ran_runs_again_and_posts_once,
    an_update_that_was_under_way_is_not_sent_again,
    an_answer_that_nobody_read_is_not_known,
    an_update_that_was_taken_is_told_as_such,
    a_result_that_was_not_acknowledged_comes_again_and_no_update,
);

/// Before the fetch.
fn a_run_that_had_not_begun_posts_once(isolation: &str) {
    let mut scene = Scene::new(isolation);
    let blocker = scene.stage.start(Task::wat("sleep-forever"));
    let id = scene.stage.start(scene.client());
    scene.worker.logs(&id);
    assert_eq!(scene.services.requests(), Vec::<String>::new());
    scene.kill();
    scene.stage.stop(&blocker);
    assert_eq!(fate(&scene.result(&id)), "accepted");
    assert_eq!(scene.counts(), (1, 1));
}

fn a_run_that_was_fetching_posts_once(isolation: &str) {
    let mut scene = Scene::new(isolation);
    scene.services.answers(Route::Data, &[Habit::Hold]);
    let id = scene.stage.start(scene.client());
    scene.stage.until("the data set is asked for", || !scene.services.requests().is_empty());
    scene.kill();
    assert_eq!(fate(&scene.result(&id)), "accepted");
    assert_eq!(scene.counts(), (1, 1));
}

fn a_run_whose_guest_ran_runs_again_and_posts_once(isolation: &str) {
    let mut scene = Scene::new(isolation);
    let update = json!({ "round_id": "r", "proplet_id": "w", "update": { "w": [1] } });
    let shared = scene.shared.path().to_str().expect("text").to_owned();
    let task = Task::wat("write-then-wait")
        .env("ROUND_ID", "r")
        .args(&[&format!("--dir={shared}::data")])
        .inputs(&["runs", "go", "0", &update.to_string()]);
    let id = scene.stage.start(task);
    let runs = scene.shared.path().join("runs");
    scene.stage.until("the guest runs", || runs.exists());
    std::fs::remove_file(&runs).expect("removed");
    scene.kill();
    scene.stage.until("it runs again", || runs.exists());
    assert_eq!(scene.counts(), (0, 0));
    std::fs::write(scene.shared.path().join("go"), "").expect("written");
    assert_eq!(fate(&scene.result(&id)), "accepted");
    assert_eq!(scene.services.updates(), [update]);
    assert_eq!(scene.counts(), (1, 1));
}

fn an_update_that_was_under_way_is_not_sent_again(isolation: &str) {
    let (mut scene, id) = Scene::at_the_update(isolation);
    scene.kill();
    let result = scene.result(&id);
    assert_eq!(fate(&result), "unknown");
    result.failed(&[
        "whether the coordinator has counted the update is not known",
        "the worker died before it had an answer",
        "the task did not run again",
    ]);
    scene.services.release();
    scene.stage.settle();
    assert_eq!(scene.counts(), (1, 1));
}

/// The coordinator has answered, and the worker stood still.
fn an_answer_that_nobody_read_is_not_known(isolation: &str) {
    let (mut scene, id) = Scene::at_the_update(isolation);
    let answered = scene.services.answered();
    scene.worker.signal("STOP");
    scene.services.release();
    scene.stage.until("it is answered", || scene.services.answered() > answered);
    scene.kill();
    let result = scene.result(&id);
    assert_eq!(fate(&result), "unknown");
    result.failed(&["is not sent again", "the task did not run again"]);
    assert_eq!(scene.counts(), (1, 1));
}

/// The worker has the answer, and there is no broker for the result.
fn an_update_that_was_taken_is_told_as_such(isolation: &str) {
    let (mut scene, id) = Scene::at_the_update(isolation);
    scene.proxy.cut();
    scene.services.release();
    let marks = scene.state.path().join(&scene.stage.worker_id).join("updates");
    until("the answer is noted", || is_accepted(&marks).then_some(()));
    assert_eq!(scene.stage.count("results"), 0, "it waits for the update");
    scene.kill();
    let result = scene.result(&id);
    assert_eq!(fate(&result), "accepted");
    assert!(result.0["error"].is_null(), "{result:?}");
    assert_eq!(scene.counts(), (1, 1));
}

/// Whether the file of marks says of an update that it was taken. A slot ends with
/// its mark; the first one has the only update.
fn is_accepted(marks: &Path) -> bool {
    const SLOT: usize = 25;
    std::fs::read(marks).is_ok_and(|bytes| bytes.get(SLOT - 1) == Some(&2))
}

/// Everybody has the result, but for the worker's word from the broker.
fn a_result_that_was_not_acknowledged_comes_again_and_no_update(isolation: &str) {
    let (mut scene, id) = Scene::at_the_update(isolation);
    scene.proxy.deafen();
    scene.services.release();
    assert_eq!(fate(&scene.stage.result(&id)), "accepted");
    scene.kill();
    scene.stage.nth_result(&id, 2);
    assert_eq!(fate(&scene.result(&id)), "accepted");
    assert_eq!(scene.counts(), (1, 1));
}

/// What came of the updates of some runs.
#[derive(Debug, Default)]
struct Sweep {
    runs: u32,
    fates: BTreeMap<String, u32>,
    /// Counted by the coordinator, of those whose fate is not known.
    counted_and_unknown: u32,
}

/// Kills the worker at moments that nobody chooses, while clients come one after the
/// other. Each update tells by its `proplet_id` of which run it is.
fn kills(kills: u32) -> Sweep {
    let mut scene = Scene::new("process");
    let module = std::fs::read(fixtures().join("guests/bin/logistic.wasm")).expect("a guest");
    let client = |run: &str| {
        Task::module(&module)
            .env("ROUND_ID", "r")
            .env("MODEL_URI", "fl/models/global_model_v0")
            .env("PROPLET_ID", run)
    };
    let mut sweep = Sweep::default();
    let mut ids = BTreeMap::new();
    let mut start = |scene: &Scene| {
        let run = format!("run-{}", ids.len());
        let id = scene.stage.start(client(&run));
        ids.insert(run, id.clone());
        id
    };
    for _ in 0..kills {
        let both = [(); 2].map(|()| start(&scene));
        // A round takes some tens of milliseconds. What must hold, holds at each.
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..120)));
        scene.kill();
        both.iter().for_each(|id| drop(scene.stage.result(id)));
    }
    scene.stage.settle();
    let updates = scene.services.updates();
    for (run, id) in &ids {
        let result = scene.stage.result(id);
        let of_run = |update: &&Value| update["proplet_id"] == **run;
        let counted = updates.iter().filter(of_run).count();
        assert_eq!(scene.stage.different_results_in_the_end(id), 1, "{run}");
        let fate = fate(&result).to_owned();
        let failed = result.0["error"].is_string();
        match fate.as_str() {
            "accepted" => assert_eq!((counted, failed), (1, false), "{result:?}"),
            "unknown" => assert!(counted <= 1 && failed, "{counted}: {result:?}"),
            other => panic!("{other} of {run}, counted {counted}: {result:?}"),
        }
        sweep.counted_and_unknown += u32::from(fate == "unknown" && counted == 1);
        *sweep.fates.entry(fate).or_default() += 1;
        sweep.runs += 1;
    }
    sweep
}

#[test]
fn no_run_has_two_updates_or_none_without_a_word_whenever_the_worker_dies() {
    let sweep = kills(6);
    assert_eq!(sweep.runs, 12);
}

#[test]
#[ignore = "prints figures; takes minutes"]
fn figures_of_rounds_over_100_kills() {
    println!("100 kills: {:#?}", kills(100));
}
