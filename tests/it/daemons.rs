//! Daemons: a result at once, another when they end by themselves, and as many
//! starts as it takes.

use crate::support::{On, Process, Stage, Task, over_both_brokers};
use serde_json::json;
use std::path::PathBuf;

over_both_brokers!(
    a_daemon_has_a_result_at_once_and_another_one_when_it_ends,
    a_daemon_holds_no_executor_and_a_stop_ends_it_without_a_word,
    no_more_daemons_run_than_may,
);

const ONE: &[(&str, &str)] = &[("executors", "1"), ("queue", "8")];

/// Settings with guests in the worker's process, and in one of their own.
fn isolations() -> Vec<Vec<(&'static str, &'static str)>> {
    let with = |isolation| [ONE, &[("isolation", isolation)]].concat();
    let all = if cfg!(target_os = "linux") { &["none", "process"][..] } else { &["none"] };
    all.iter().map(|isolation| with(*isolation)).collect()
}

fn daemon(guest: &str) -> Task {
    Task::wat(guest).set("daemon", true)
}

fn a_daemon_has_a_result_at_once_and_another_one_when_it_ends(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let _worker = stage.worker(&settings);
        let fails = stage.start(daemon("exit").inputs(&["7"]));
        let first = stage.result(&fails);
        first.succeeded("");
        assert_eq!(first.0["exit_code"], json!(null));
        let last = stage.nth_result(&fails, 2);
        last.failed(&["the guest exited with code 7"]);
        let ends = stage.start(daemon("sleep").inputs(&["10"]));
        stage.result(&ends).succeeded("");
        stage.nth_result(&ends, 2).succeeded("slept\n");
        // What it wrote last tells why.
        let traps = stage.start(daemon("stderr-then-trap"));
        stage.nth_result(&traps, 2).failed(&["stderr of the guest"]);
        let broken = stage.start(daemon("missing-import"));
        stage.result(&broken).succeeded("");
        stage.nth_result(&broken, 2).failed(&["can't be linked"]);
        let limited = stage.start(daemon("loop-forever").args(&["-W", "timeout=50ms"]));
        stage.nth_result(&limited, 2).failed(&["timeout", "50ms"]);
        assert_eq!(stage.results_in_the_end(&ends), 2);
    }
}

fn a_daemon_holds_no_executor_and_a_stop_ends_it_without_a_word(on: On) {
    for settings in isolations() {
        let stage = Stage::new(on);
        let _worker = stage.worker(&[&settings[..], &[("task-timeout", "20s")]].concat());
        let daemons = ["loop-forever", "sleep-forever"];
        let ids: Vec<_> = daemons.iter().map(|guest| stage.start(daemon(guest))).collect();
        for id in &ids {
            stage.result(id).succeeded("");
        }
        // The only executor is free, and a start of what runs is not another run.
        stage.run(Task::wat("hello")).succeeded("hello\n");
        stage.start(daemon("loop-forever").id(&ids[0]).set("state", 3));
        for id in &ids {
            stage.stop(id);
        }
        // Once it is gone it may be started again.
        let again = || stage.start(daemon("sleep").id(&ids[0]).inputs(&["0"]).set("state", 3));
        stage.until("it has ended", || {
            again();
            let seen = stage.seen();
            let of_it = seen.iter().filter(|seen| seen.json["task_id"] == ids[0].as_str());
            of_it
                .filter(|seen| seen.topic == "results")
                .any(|seen| seen.json["results"] == "slept\n")
        });
        assert_eq!(stage.results_in_the_end(&ids[1]), 1, "no word of its end");
    }
}

fn no_more_daemons_run_than_may(on: On) {
    let stage = Stage::new(on);
    let _worker = stage.worker(&[ONE, &[("daemons", "2")]].concat());
    let ids: Vec<_> = (0..2).map(|_| stage.start(daemon("sleep-forever"))).collect();
    for id in &ids {
        stage.result(id).succeeded("");
    }
    stage.run(daemon("sleep-forever")).failed(&["busy: 2 daemons run (limit 2)", "--daemons"]);
    stage.run(daemon("sleep-forever").set("latent", true)).failed(&["set one of them"]);
}

/// A worker with a journal, as a process, and a directory that its daemons
/// write to.
struct Scene {
    stage: Stage,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("work")).expect("a folder");
        Scene { stage: Stage::new(On::Embedded), dir }
    }

    fn worker(&self, settings: &[(&str, &str)]) -> Process {
        let state = self.dir.path().join("state");
        let work = format!("{}:rw", self.work("").display());
        let own = [
            ("stateless", "false"),
            ("state-dir", state.to_str().expect("a path")),
            ("dirs", &work),
        ];
        self.stage.process(&[&own[..], settings].concat())
    }

    fn work(&self, file: &str) -> PathBuf {
        self.dir.path().join("work").join(file)
    }

    /// Waits until the daemon has made its file, and takes that away.
    fn runs(&self, file: &str) {
        self.stage.until("the daemon runs", || self.work(file).exists());
        std::fs::remove_file(self.work(file)).expect("it is there");
    }
}

#[test]
fn a_daemon_runs_again_after_its_worker_was_killed_and_after_it_ended_in_order() {
    for settings in isolations() {
        let scene = Scene::new();
        let stage = &scene.stage;
        let mut worker = scene.worker(&settings);
        let id = stage.start(daemon("write-then-wait").inputs(&["made", "never", "0"]));
        stage.result(&id).succeeded("");
        scene.runs("made");
        worker.signal("KILL");
        worker.ended();
        let mut worker = scene.worker(&settings);
        scene.runs("made");
        worker.signal("TERM");
        worker.ended();
        let mut worker = scene.worker(&settings);
        worker.logs("starting the daemon of an earlier process again");
        scene.runs("made");
        // One that was stopped does not.
        stage.stop(&id);
        worker.logs("the daemon has stopped");
        worker.signal("KILL");
        worker.ended();
        let _worker = scene.worker(&settings);
        assert_eq!(stage.different_results_in_the_end(&id), 1, "no other word of it");
        assert!(!scene.work("made").exists());
    }
}

#[test]
fn what_a_daemon_writes_goes_on_into_the_log() {
    let stage = Stage::new(On::Embedded);
    for isolation in isolations() {
        let worker = stage.process(&isolation);
        let id = stage.start(daemon("hello"));
        stage.nth_result(&id, 2).succeeded("hello\n");
        let line = worker.logs("hello");
        assert!(line.contains("stdout") && line.contains(&id), "{line}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_daemon_is_started_again_when_the_runtimes_process_crashes() {
    let scene = Scene::new();
    let stage = &scene.stage;
    let worker = scene.worker(&[ONE, &[("isolation", "process")]].concat());
    let id = stage.start(daemon("write-then-wait").inputs(&["made", "never", "0"]));
    stage.result(&id).succeeded("");
    for _ in 0..2 {
        scene.runs("made");
        for runtime in crate::isolation::runtimes(&worker) {
            crate::isolation::crash(runtime);
        }
    }
    scene.runs("made");
    worker.logs("the daemon is started again");
    stage.stop(&id);
    worker.logs("the daemon has stopped");
    assert_eq!(stage.results_in_the_end(&id), 1);
}
