//! Models that ask for what is not theirs, and libraries that will not do.

use std::process::Command;
use std::sync::Barrier;

use super::tests::{context, floats, layer, load, net, nn};
use super::*;

/// `x` through an operator that keeps its shape; `""` is a scalar's.
fn through(operator: &str, data: &str, shape: &str) -> (Vec<u8>, Vec<u8>) {
    let input = format!("<data element_type=\"f32\" shape=\"{shape}\"/>");
    let layers = [
        layer(0, "Parameter", &input, &[], Some(shape)),
        layer(1, operator, data, &[shape], Some(shape)),
        layer(2, "Result", "", &[shape], None),
    ];
    (net(&layers, &[(0, 0, 1, 0), (1, 1, 2, 0)]), vec![])
}

/// HAZARDS.md case 67.
#[test]
fn a_scalar_is_taken_and_given() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &through("Negative", "", "")).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, 1, &[], &floats(&[2.5])).expect("set");
    task.compute(context).expect("computed");
    let mut output = [0; 8];
    assert_eq!(task.get_output(context, 0, &mut output), Ok(4));
    assert_eq!(output[..4], floats(&[-2.5]));
    assert_eq!(task.report().diagnostics, Vec::<String>::new());
}

/// HAZARDS.md case 67.
#[test]
fn no_text_is_that_of_another_task() {
    let nn = nn();
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        for (mine, others) in [("Mine1", "Other2"), ("Other2", "Mine1")] {
            let (nn, together) = (&nn, &together);
            scope.spawn(move || {
                let model = through(mine, "", "4");
                for _ in 0..300 {
                    let mut task = context(nn);
                    together.wait();
                    let error = load(&mut task, &model).expect_err("no such operator");
                    assert!(!error.contains(others), "{mine} was told: {error}");
                }
            });
        }
    });
}

/// A library with all the functions that are called, of a version that says it
/// is too old.
fn too_old(dir: &Path) -> PathBuf {
    let empty = native::FUNCTIONS
        .iter()
        .filter(|name| **name != "ov_get_openvino_version")
        .map(|name| format!("void *{name}(void) {{ return 0; }}\n"));
    let version = "struct version { const char *number, *description; };\n\
        int ov_get_openvino_version(struct version *v) {\n\
        v->number = \"2023.1.0-12185-old\"; v->description = \"old\"; return 0; }\n";
    let source = dir.join("old.c");
    std::fs::write(&source, empty.collect::<String>() + version).expect("written");
    let library = dir.join("libopenvino_c.so");
    let compiled = Command::new("cc")
        .args(["-w", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .expect("a C compiler, `cc`: this test compiles a library");
    assert!(compiled.success());
    library
}

#[test]
fn a_library_that_is_too_old_leaves_room_for_the_next() {
    let beside = nn().shared.config.search.executable.clone();
    let dir = tempfile::tempdir().expect("a folder");
    let old = too_old(dir.path());
    let error = native::load(&old).expect_err("too old");
    assert_eq!(error, "it is version 2023.1.0-12185-old, and 2025.1 or newer is needed");
    let path = dir.path().as_os_str();
    let search =
        SearchEnv::from_lookup(beside, |name| (name == "LD_LIBRARY_PATH").then(|| path.to_owned()));
    let backend = OpenVino::new(&NnConfig { search, ..NnConfig::default() });
    let library = backend.open().expect("the next one");
    assert_ne!(library.path, old);
    assert!(!library.version.starts_with("2023"), "{library:?}");
    assert!(backend.devices().expect("it works").contains(&"CPU".to_owned()));
}
