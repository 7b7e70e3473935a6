//! `proplet demo`, the program itself, with OpenVINO and the real models.

use super::support::{assets, fixtures};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn demo(arguments: &[&str]) -> Command {
    // Otherwise the demo would have it fetched itself, and tell so.
    assets();
    let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
    command.current_dir(fixtures().parent().expect("the repository"));
    // What a shell in some deployment's folder may have set.
    command.env("PROPLET_CLIENT_ID", "somebody").env("PROPLET_CONFIG_FILE", "/missing.toml");
    command.arg("demo").args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn output(arguments: &[&str]) -> String {
    let output = demo(arguments).output().expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(output.stdout).expect("text")
}

/// What the demo says about each file, in the task with this title.
fn answers(demo: &Value, title: &str) -> Vec<(String, String)> {
    let tasks = demo["tasks"].as_array().expect("tasks");
    let task = tasks.iter().find(|task| task["task"] == title);
    let task = task.unwrap_or_else(|| panic!("no task {title}: {demo:#}"));
    assert!(task["error"].is_null(), "{task:#}");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let answers = task["answers"].as_array().expect("answers").iter();
    answers.map(|answer| (text(&answer["path"]), text(&answer["says"]))).collect()
}

/// The first words about a file.
#[track_caller]
fn is(answers: &[(String, String)], path: &str, start: &str) {
    let answer = answers.iter().find(|(of, _)| of == path);
    let (_, says) = answer.unwrap_or_else(|| panic!("{path} is not in {answers:?}"));
    assert!(says.starts_with(start), "{path}: {says}");
}

#[test]
fn the_demo_says_what_a_person_sees_and_hears() {
    let output = output(&["--json"]);
    let demo: Value = serde_json::from_str(&output).expect("JSON alone");
    let photos = answers(&demo, "photos");
    is(&photos, "cat.png", "tiger cat ");
    is(&photos, "coffee.png", "espresso 0.95");
    is(&photos, "rocket.jpg", "missile ");
    let speech = answers(&demo, "speech");
    is(&speech, "speech.wav", "somebody speaks from 0.8 to 2.1 s, ");
    let read = answers(&demo, "line of text");
    is(&read, "line.png", "\u{201c}A line of text, read inside a sandbox: 6 x 7 = 42\u{201d} 0.9");
    let faces = answers(&demo, "faces");
    is(&faces, "astronaut.png", "a face 105x105 at 174, 70 0.9");
    is(&faces, "cat.png", "no face");
    let types = answers(&demo, "file types");
    for (path, label) in [
        ("Cargo.toml", "toml "),
        ("src/main.rs", "rust "),
        ("fixtures/files/waves.png", "png "),
        ("fixtures/files/club.sqlite", "sqlite "),
    ] {
        is(&types, path, label);
    }
    assert!(answers(&demo, "the guide's task")[0].1.contains("not trained"));
    for task in demo["tasks"].as_array().expect("tasks") {
        assert_eq!((&task["backend"], &task["repeated"]), (&"openvino".into(), &10.into()));
        for times in ["first_ms", "next_ms"] {
            for name in ["queued", "compiled", "loaded", "ran", "total"] {
                assert!(task[times][name].is_number(), "{task:#}");
            }
        }
    }
}

#[test]
fn the_table_fits_a_terminal_and_says_how_to_go_on() {
    let output = output(&[]);
    let (_, table) = output.split_once("task, model").expect("a table");
    let (table, rest) = table.split_once("\n\n").expect("its end");
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        // The first column ends before the second one begins.
        assert!(matches!(line.chars().nth(18), None | Some(' ' | '\u{2500}')), "{line}");
    }
    let row = |start: &str| table.lines().find(|line| line.starts_with(start));
    for (title, says) in [("photos", "tiger cat"), ("file types", "toml")] {
        let line = row(title).unwrap_or_else(|| panic!("no row `{title}`: {table}"));
        let numbers = line.split_whitespace().rev().take(2);
        assert!(line.contains(says) && numbers.flat_map(str::parse::<f64>).count() == 2, "{line}");
    }
    assert!(rest.contains("proplet run --dir="), "{output}");
}

#[test]
fn the_demo_looks_at_the_files_that_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let picture = dir.path().join("it's a picture.png");
    let photo = assets().join("fixtures/real/photos/coffee.png");
    std::fs::copy(photo, &picture).expect("copied");
    let picture = picture.to_str().expect("text");
    let source = "fixtures/files/../files/ring.c";
    let demo: Value = serde_json::from_str(&output(&["--json", picture, source])).expect("JSON");
    is(&answers(&demo, "photos"), picture, "espresso ");
    let types = answers(&demo, "file types");
    is(&types, picture, "png ");
    is(&types, source, "c ");
    assert_eq!(types.len(), 2);
    is(&answers(&demo, "faces"), picture, "no face");
    assert_eq!(demo["tasks"].as_array().map(Vec::len), Some(3), "{demo:#}");
}

#[test]
fn a_task_that_fails_tells_its_error_and_the_others_run() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("cat.png"), "no picture").expect("written");
    let picture = dir.path().join("cat.png");
    let picture = picture.to_str().expect("text");
    let output = demo(&["--json", picture]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let demo: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(demo["tasks"][0]["task"], "photos");
    let error = demo["tasks"][0]["error"].as_str().expect("an error");
    assert!(error.contains("it is neither PNG nor JPEG"), "{error}");
    // The other tasks run all the same.
    is(&answers(&demo, "file types"), picture, "txt ");
}

#[test]
fn a_file_that_is_not_there_is_told_before_anything_starts() {
    let output = demo(&["no-such-file"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("no-such-file") && output.stdout.is_empty(), "{error}");
}

#[test]
fn the_line_that_the_kept_demo_prints_works_in_another_shell() {
    let mut child = demo(&["--keep"]).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut script = String::new();
    for line in lines.by_ref().map_while(Result::ok) {
        if script.is_empty() && !line.contains(" submit ") {
            continue;
        }
        if line.is_empty() {
            break;
        }
        script.push_str(&line);
        script.push('\n');
    }
    assert!(script.contains("--mqtt-address") && script.contains("--proplet"), "{script}");
    let mut shell = Command::new("sh");
    shell.env_clear().current_dir(Path::new("/")).arg("-c").arg(&script).stdin(Stdio::null());
    let answer = shell.output().expect("the shell runs");
    let stdout = String::from_utf8_lossy(&answer.stdout);
    let stderr = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{script}\n{stderr}");
    assert!(stdout.contains("Cargo.toml: toml "), "{stdout}");

    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let mut rest = String::new();
    for line in lines.map_while(Result::ok) {
        rest.push_str(&line);
    }
    assert!(rest.contains("--count"), "{rest}");
}

#[test]
fn in_sources_without_models_the_demo_has_them_fetched() {
    // A checkout whose setup.py only says where they are.
    let checkout = tempfile::tempdir().expect("a folder");
    let at = |below: &str| checkout.path().join(below);
    for folder in ["fixtures", "target/debug"] {
        std::fs::create_dir_all(at(folder)).expect("made");
    }
    let program = at("target/debug/proplet");
    std::fs::copy(env!("CARGO_BIN_EXE_proplet"), &program).expect("copied");
    std::fs::write(at("target/CACHEDIR.TAG"), "").expect("written");
    std::fs::write(at("Cargo.toml"), "[package]\nname = \"proplet\"\n").expect("written");
    let real = Path::new(env!("CARGO_BIN_EXE_proplet")).ancestors().nth(2).expect("target");
    let run = |script: &str| {
        std::fs::write(at("fixtures/setup.py"), script).expect("written");
        let mut command = Command::new(&program);
        command.current_dir(at("fixtures")).arg("demo").stdin(Stdio::null());
        command.output().expect("the program runs")
    };

    let failed = run("import sys; sys.exit('setup.py: no network')");
    assert_eq!(failed.status.code(), Some(1));
    let error = String::from_utf8_lossy(&failed.stderr);
    assert!(
        error.contains("setup.py: no network") && error.contains("run the demo again"),
        "{error}"
    );

    let links = format!(
        "import os\n\
         target = os.environ['CARGO_TARGET_DIR']\n\
         for name in ['fixtures', 'openvino']:\n    \
             os.symlink(os.path.join({real:?}, name), os.path.join(target, name))\n\
         print('[1/1] all of it: done')\n"
    );
    let fetched = run(&links);
    let output = String::from_utf8_lossy(&fetched.stdout);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let progress = String::from_utf8_lossy(&fetched.stderr);
    assert!(progress.contains("[1/1] all of it: done"), "{progress}");
    assert!(output.contains("Cargo.toml") && output.contains("espresso 0.95"), "{output}");
}
