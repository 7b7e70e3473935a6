//! `proplet demo`, the program itself, with OpenVINO and the real models.

use super::support::fixtures;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn demo(arguments: &[&str]) -> Command {
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

/// The type that stands behind a path.
fn type_of<'a>(output: &'a str, path: &str) -> &'a str {
    let line = output.lines().find(|line| line.trim_start().starts_with(&format!("{path}:")));
    line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default()
}

#[test]
fn the_demo_shows_types_classes_and_where_the_time_went() {
    let output = output(&[]);
    for (path, label) in [
        ("Cargo.toml", "toml"),
        ("src/main.rs", "rust"),
        ("fixtures/files/waves.png", "png"),
        ("fixtures/files/club.sqlite", "sqlite"),
    ] {
        assert_eq!(type_of(&output, path), label, "{output}");
    }
    let top = output.lines().find(|line| line.contains("sorted top 5")).expect("the classes");
    assert_eq!(top.matches("InferenceResult(").count(), 5, "{top}");
    let row = |start: &str| {
        let line = output.lines().find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_else(|| panic!("no row `{start}`: {output}"))
    };
    for task in ["file types", "classification"] {
        assert!(row(&format!("{task}, first")).ends_with("nothing"), "{output}");
        assert!(row(&format!("{task}, next 20")).ends_with("program, model"), "{output}");
    }
    assert!(output.contains("proplet run --dir="), "{output}");
}

#[test]
fn the_demo_looks_at_the_files_that_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let picture = dir.path().join("it's a picture");
    std::fs::copy(fixtures().join("files/waves.jpg"), &picture).expect("copied");
    let picture = picture.to_str().expect("text");
    let output = output(&[picture, "fixtures/files/../files/ring.c"]);
    let line = output.lines().find(|line| line.contains("it's a picture:")).expect("its line");
    assert!(line.contains(": ") && line.contains(" jpeg "), "{line}");
    assert_eq!(type_of(&output, "fixtures/files/../files/ring.c"), "c", "{output}");
    assert!(!output.contains("Cargo.toml:"), "{output}");
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
    assert!(output.contains("[1/1] all of it: done"), "{output}");
    assert_eq!(type_of(&output, "Cargo.toml"), "toml", "{output}");
    assert!(output.contains("sorted top 5"), "{output}");
}
