//! `proplet run`: exit codes, streams, arguments.

use crate::support::{Ran, fixtures, proplet, wat};
use std::path::{Path, PathBuf};

/// Guests, translated into files.
struct Guests(tempfile::TempDir);

impl Guests {
    fn new() -> Guests {
        Guests(tempfile::tempdir().expect("a directory"))
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wat(name)).expect("written");
        path
    }

    /// `proplet run FLAGS… GUEST ARGS…`
    fn run(&self, flags: &[&str], guest: &str, args: &[&str]) -> Ran {
        let guest = self.file(guest);
        let guest = guest.to_str().expect("text");
        proplet(&[&["run"], flags, &[guest], args].concat(), b"", &[])
    }
}

#[test]
fn a_guest_that_succeeds_exits_with_0_and_its_output_passes_through() {
    let guests = Guests::new();
    let ran = guests.run(&[], "hello", &[]);
    assert_eq!((ran.code, ran.text(), ran.stderr.as_str()), (Some(0), "hello\n", ""));
    let ran = guests.run(&[], "echo-args", &["a", "-b", "--dir=x", "--"]);
    assert_eq!(ran.text(), "echo-args.wasm\na\n-b\n--dir=x\n--\n");
    let ran = guests.run(&[], "stdout-binary", &[]);
    assert_eq!(ran.stdout, b"a\0\x1b[31m\xff\xfe\xc3\r\n");
}

#[test]
fn a_command_component_runs_like_a_module() {
    let guests = Guests::new();
    let ran = guests.run(&[], "component-hello", &[]);
    assert_eq!((ran.code, ran.text(), ran.stderr.as_str()), (Some(0), "hello\n", ""));
    assert_eq!(guests.run(&[], "component-exit", &["error"]).code, Some(1));
}

#[test]
fn a_guest_run_by_hand_has_no_network_and_the_user_is_told() {
    let guests = Guests::new();
    let ran = guests.run(&["-S", "tcp,inherit-network"], "component-socket", &[]);
    assert_eq!(ran.code, Some(2), "access denied, and one: {}", ran.stderr);
    for expected in ["`-S tcp`, `-S inherit-network`: without effect", "which was refused"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
}

#[test]
fn the_guests_exit_code_is_the_programs() {
    let guests = Guests::new();
    for code in [0, 1, 7, 125] {
        let ran = guests.run(&[], "exit", &[&code.to_string()]);
        assert_eq!((ran.code, ran.text()), (Some(code), "exiting\n"), "{}", ran.stderr);
    }
}

#[test]
fn a_trap_exits_with_134_and_is_named() {
    let guests = Guests::new();
    let cases = [
        ("trap-unreachable", "unreachable"),
        ("trap-div-zero", "divide by zero"),
        ("trap-oob", "out of bounds"),
        ("recursion", "call stack exhausted"),
        ("start-traps", "unreachable"),
    ];
    for (guest, expected) in cases {
        let ran = guests.run(&[], guest, &[]);
        assert_eq!(ran.code, Some(134), "{guest}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{guest}: {}", ran.stderr);
    }
    let ran = guests.run(&[], "stderr-then-trap", &[]);
    assert_eq!((ran.code, ran.text()), (Some(134), "partial result\n"));
    assert!(ran.stderr.starts_with("about to fail\n"), "{}", ran.stderr);
}

#[test]
fn a_guest_in_text_format_runs_too() {
    let guests = Guests::new();
    let text = guests.0.path().join("text.wat");
    std::fs::write(&text, r#"(module (func (export "_start")))"#).expect("written");
    let text = text.to_str().expect("text");
    let ran = proplet(&["run", text], b"", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    std::fs::write(text, "(module (func (export").expect("written");
    let ran = proplet(&["run", text], b"", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("text.wat:1:"), "{}", ran.stderr);
}

#[test]
fn an_option_behind_a_guest_that_fails_is_told() {
    let guests = Guests::new();
    let told = "`--dir=.` stands behind the guest";
    let ran = guests.run(&[], "trap-unreachable", &["--dir=."]);
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    // Its own affair as long as it copes, or if it is no option of ours.
    let ran = guests.run(&[], "echo-args", &["--dir=."]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let ran = guests.run(&[], "trap-unreachable", &["--verbose", "-"]);
    assert!(!ran.stderr.contains("stands behind"), "{}", ran.stderr);
}

#[test]
fn a_guest_runs_as_a_task_of_the_worker_that_is_configured_here() {
    let guests = Guests::new();
    let dir = tempfile::tempdir().expect("a directory");
    let allowed = dir.path().join("allowed");
    std::fs::create_dir(&allowed).expect("made");
    std::fs::write(allowed.join("a"), "inside").expect("written");
    let hello = guests.file("cat");
    let flag = format!("--dir={}::d", allowed.display());
    let run = |flags: &[&str], set: &[(&str, &str)]| {
        let guest = [hello.to_str().expect("text"), "a"];
        proplet(&[&["run", "--as-worker"], flags, &guest].concat(), b"", set)
    };
    let allowed = allowed.to_str().expect("text");
    let ran = run(&[&flag], &[("PROPLET_DIRS", allowed)]);
    assert_eq!((ran.code, ran.text()), (Some(0), "inside"), "{}", ran.stderr);
    let ran = run(&[&flag], &[("PROPLET_DIRS", "files")]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("outside the allowed directories"), "{}", ran.stderr);
    let ran = run(&["-S", "inherit-env"], &[]);
    assert!(ran.stderr.contains("would let the guest reach the host"), "{}", ran.stderr);
}

#[test]
fn the_workers_limits_hold_for_a_guest_that_runs_as_its_task() {
    let guests = Guests::new();
    let guest = guests.file("loop-forever");
    let args = ["run", "--as-worker", guest.to_str().expect("text")];
    let ran = proplet(&args, b"", &[("PROPLET_TASK_TIMEOUT", "300ms")]);
    assert_eq!(ran.code, Some(134), "{}", ran.stderr);
    assert!(ran.stderr.contains("timeout: the task ran longer than 300ms"), "{}", ran.stderr);
    let ran = proplet(&args, b"", &[("PROPLET_TASK_TIMEOUT", "soon")]);
    assert!(ran.stderr.contains("`PROPLET_TASK_TIMEOUT=soon`"), "{}", ran.stderr);
    // Without --as-worker only what concerns inference is read.
    let guest = guests.file("hello");
    let run = ["run", guest.to_str().expect("text")];
    let ran = proplet(&run, b"", &[("PROPLET_TASK_TIMEOUT", "soon")]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = proplet(&run, b"", &[("PROPLET_NN_PRECISION", "f7")]);
    assert!(ran.stderr.contains("`PROPLET_NN_PRECISION=f7`"), "{}", ran.stderr);
}

#[test]
fn a_result_is_printed_as_the_manager_gets_it_once_for_each_run() {
    let guests = Guests::new();
    let ran = guests.run(&["--json", "--repeat", "3"], "hello", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let results: Vec<serde_json::Value> =
        ran.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(results.len(), 3);
    for result in &results {
        assert_eq!(result["results"], "hello\n", "{result}");
        assert_eq!(result["error"], serde_json::Value::Null, "{result}");
        assert_eq!(result["timings"]["inferences"], 0, "{result}");
    }
    assert_eq!(results[0]["reused"]["module"], false);
    assert_eq!(results[2]["reused"]["module"], true);
    let ran = guests.run(&["--json", "--repeat", "3"], "trap-unreachable", &[]);
    assert_eq!((ran.code, ran.text().lines().count()), (Some(134), 1), "{}", ran.text());
    assert!(ran.text().contains("unreachable"), "{}", ran.text());
}

#[test]
fn timings_go_to_standard_error_and_change_nothing_else() {
    let ran = Guests::new().run(&["--timings", "--repeat", "2"], "hello", &[]);
    assert_eq!((ran.code, ran.text()), (Some(0), "hello\nhello\n"));
    assert_eq!(ran.stderr.matches("proplet: compiled in ").count(), 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("2 runs, least / median / most: "), "{}", ran.stderr);
    let ran = Guests::new().run(&["--repeat", "0"], "hello", &[]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

#[test]
fn a_shell_and_man_are_told_of_the_command_line() {
    for (shell, expected) in [("bash", "complete -F"), ("zsh", "#compdef proplet"), ("fish", "-c")]
    {
        let ran = proplet(&["completions", shell], b"", &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.text().contains(expected) && ran.text().contains("submit"), "{shell}");
    }
    let page = proplet(&["man"], b"", &[]);
    assert!(
        page.text().contains(".TH proplet 1") && page.text().contains("worker"),
        "{}",
        page.text()
    );
    let dir = tempfile::tempdir().expect("a directory");
    let man = dir.path().join("man1");
    let ran = proplet(&["man", man.to_str().expect("text")], b"", &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let worker = std::fs::read_to_string(man.join("proplet-worker.1")).expect("its page");
    assert!(worker.contains("PROPLET_TASK_MEMORY"), "{worker}");
    // The verbs of its own processes are for nobody to call.
    assert!(!man.join("proplet-runtime.1").exists());
}

#[test]
fn what_can_not_run_exits_with_1_and_one_message() {
    let guests = Guests::new();
    let text = guests.0.path().join("text.wasm");
    std::fs::write(&text, "(module)").expect("written");
    let text = text.to_str().expect("text");
    let hello = guests.file("hello");
    let hello = hello.to_str().expect("text");
    let cases: &[(&[&str], &str)] = &[
        (&["run", "/no/such/guest.wasm"], "/no/such/guest.wasm"),
        (&["run", text], "it is text"),
        (&["run", "--dirs=x", hello], "--dirs"),
        (&["run", "--dir", "/no/such/dir", hello], "/no/such/dir"),
        (&["run", "-S", "nn"], "no guest"),
        (&["run", "--invoke", "nope", hello], "nope"),
    ];
    for (args, expected) in cases {
        let ran = proplet(args, b"", &[]);
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.text(), "", "{args:?}");
    }
    let ran = guests.run(&[], "missing-import", &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("no_such_function"), "{}", ran.stderr);
}

#[test]
fn a_time_limit_ends_a_guest() {
    let guests = Guests::new();
    for guest in ["loop-forever", "start-loops"] {
        let ran = guests.run(&["-W", "timeout=200ms"], guest, &[]);
        assert_eq!(ran.code, Some(134), "{guest}: {}", ran.stderr);
        assert!(ran.stderr.contains("timeout"), "{guest}: {}", ran.stderr);
    }
}

#[test]
fn help_of_a_group_is_a_list() {
    for (group, option) in [("-S", "nn-graph=<format>::<dir>"), ("-W", "timeout=N|Ns|Nms|..")] {
        let ran = proplet(&["run", group, "help"], b"", &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.text().lines().any(|line| line.contains(option)), "{}", ran.text());
    }
    for args in [["run", "--help"], ["run", "-h"]] {
        let ran = proplet(&args, b"", &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.text().contains("proplet run [OPTIONS] [WASMTIME-RUN ARGUMENTS] GUEST"));
    }
}

#[test]
fn standard_input_passes_through() {
    let guests = Guests::new();
    let guest = guests.file("echo-stdin");
    let input = b"a line\nand no end\xff".as_slice();
    let ran = proplet(&["run".as_ref(), guest.as_os_str()], input, &[]);
    assert_eq!((ran.code, ran.stdout.as_slice()), (Some(0), input), "{}", ran.stderr);
    // The guest itself may come that way.
    let ran = proplet(&["run", "-"], &wat("hello"), &[]);
    assert_eq!((ran.code, ran.text()), (Some(0), "hello\n"), "{}", ran.stderr);
}

#[test]
fn variables_are_set_and_inherited_when_asked() {
    let guests = Guests::new();
    let guest = guests.file("echo-env");
    let guest = guest.to_str().expect("text");
    let run = |flags: &[&str]| {
        let args = [&["run"], flags, &[guest]].concat();
        let ran = proplet(&args, b"", &[("FROM_OUTSIDE", "yes"), ("OTHER", "no")]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.text().to_owned()
    };
    assert_eq!(run(&[]), "");
    assert_eq!(run(&["--env", "A=1", "--env", "FROM_OUTSIDE"]), "A=1\nFROM_OUTSIDE=yes\n");
    assert_eq!(run(&["--env", "NOT_SET_ANYWHERE"]), "");
    let all = run(&["-S", "inherit-env"]);
    assert!(all.contains("FROM_OUTSIDE=yes\n") && all.contains("OTHER=no\n"), "{all}");
}

#[test]
fn any_directory_may_be_given_and_written_to() {
    let guests = Guests::new();
    let dir = tempfile::tempdir().expect("a directory");
    let flag = format!("--dir={}::d", dir.path().display());
    let ran = guests.run(&[&flag], "write-file", &["new"]);
    assert_eq!((ran.code, ran.text()), (Some(0), "ok\n"), "{}", ran.stderr);
    assert_eq!(std::fs::read(dir.path().join("new")).expect("there"), b"written\n");
    // A relative one is below the working directory.
    let ran = guests.run(&["--dir=files"], "cat", &["rain.csv"]);
    let expected = std::fs::read(fixtures().join("files/rain.csv")).expect("a file");
    assert_eq!((ran.code, ran.stdout), (Some(0), expected), "{}", ran.stderr);
}

#[test]
fn a_function_is_invoked_and_its_results_printed() {
    let guests = Guests::new();
    let ran = guests.run(&["--invoke", "divmod"], "reactor", &["7", "2"]);
    assert_eq!((ran.code, ran.text()), (Some(0), "3\n1\n"), "{}", ran.stderr);
    let ran = guests.run(&["--invoke", "quit"], "reactor", &[]);
    assert_eq!(ran.code, Some(7), "{}", ran.stderr);
    // Here a name is no function, as for `wasmtime run`.
    let ran = guests.run(&[], "named-export", &[]);
    assert_eq!(ran.text(), "_start\n");
}

#[test]
fn a_large_output_comes_whole() {
    let ran = Guests::new().run(&[], "stdout-large-write", &["8388608"]);
    assert_eq!((ran.code, ran.stdout.len()), (Some(0), 8 << 20), "{}", ran.stderr);
}

#[test]
fn there_is_no_memory_limit_but_the_one_that_is_asked_for() {
    let guests = Guests::new();
    let ran = guests.run(&[], "memory-large", &[]);
    assert_eq!((ran.code, ran.text()), (Some(0), "started\n"), "{}", ran.stderr);
    let ran = guests.run(&["-W", "max-memory-size=1000000"], "memory-large", &[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let refused = "growth to 1024.0 MiB refused: the task may have 1.0 MiB";
    assert!(ran.stderr.contains(refused), "{}", ran.stderr);
}

/// Nothing is kept: no cache folder, no state.
#[test]
fn a_run_leaves_no_file_behind() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().to_str().expect("text");
    let guests = Guests::new();
    let guest = guests.file("hello");
    let set =
        [("HOME", path), ("XDG_CACHE_HOME", path), ("XDG_STATE_HOME", path), ("TMPDIR", path)];
    let ran = proplet(&["run".as_ref(), guest.as_os_str()], b"", &set);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(entries(home.path()), 0);
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("a directory").count()
}

#[cfg(not(any(feature = "openvino", feature = "onnx")))]
#[test]
fn a_build_without_a_backend_says_which_one_has_it() {
    let ran = Guests::new().run(&["-S", "nn"], "nn-unknown-graph-name", &[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("cargo build --features openvino"), "{}", ran.stderr);
}
