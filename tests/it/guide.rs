//! The guide's task as the manager sends it, which keeps neither `cli_args` nor
//! `env` of what its phase 5 types.

use crate::support::{On, Stage, Task, assets, over_both_brokers};
use std::path::Path;

over_both_brokers!(
    the_guides_task_runs_although_the_manager_loses_its_arguments,
    a_fixture_beside_the_working_directory_is_found_by_its_name,
);

/// A folder with what the guide's task reads.
fn fixture(dir: &Path) {
    std::fs::create_dir_all(dir).expect("made");
    for name in ["model.xml", "model.bin", "tensor.bgr"] {
        let from = assets().join("fixtures/mobilenet").join(name);
        std::fs::copy(&from, dir.join(name)).unwrap_or_else(|e| panic!("copying {name}: {e}"));
    }
}

/// HAZARDS.md case 76, with the layout of Propeller's compose file: the working
/// directory holds config.toml with the worker's key, and the fixture.
fn the_guides_task_runs_although_the_manager_loses_its_arguments(on: On) {
    let stage = Stage::new(on);
    let home = tempfile::tempdir().expect("a directory");
    fixture(&home.path().join("fixture"));
    std::fs::write(home.path().join("config.toml"), stage.provisioned()).expect("written");
    let _worker = stage.worker_in(home.path(), &[("config-file", "config.toml")]);
    let result = stage.run(Task::guest("classification"));
    assert!(result.stdout().contains("Found results, sorted top 5: [InferenceResult("));
    assert_eq!(result.diagnostics(), [] as [&str; 0]);
    // The first directory that the guest has is the fixture's.
    let key = Task::wat("cat").inputs(&["../config.toml"]);
    stage.run(key).failed(&["errno"]);
}

fn a_fixture_beside_the_working_directory_is_found_by_its_name(on: On) {
    let stage = Stage::new(on);
    let (home, elsewhere) = (tempfile::tempdir(), tempfile::tempdir());
    let (home, elsewhere) = (home.expect("a directory"), elsewhere.expect("a directory"));
    let dir = elsewhere.path().join("fixture");
    fixture(&dir);
    let dirs = format!("/missing/fixture:{}", dir.display());
    let _worker = stage.worker_in(home.path(), &[("dirs", &dirs)]);
    let result = stage.run(Task::guest("classification"));
    assert!(result.stdout().contains("sorted top 5"));
}
