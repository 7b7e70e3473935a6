//! Guests and arguments that mean harm, as far as the other modules do not
//! have them: what they reach, and that others notice nothing.

mod components;
mod memory;
mod stop;

use crate::support::{Bench, fixtures, stdout, wat};
use proplet::task::{Failure, Outcome};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn mount(host: &Path, guest: &str) -> String {
    format!("--dir={}::{guest}", host.display())
}

/// The guest printed the errno of the call under test and left with 1.
#[track_caller]
fn denied(outcome: &Outcome) {
    let said = String::from_utf8_lossy(&outcome.stderr.bytes).into_owned();
    assert_eq!(outcome.verdict, Err(Failure::Exit(1)), "{said}");
    assert!(said.starts_with("errno "), "{said}");
}

/// A function so large that compiling it takes seconds.
pub(crate) fn compile_bomb() -> Vec<u8> {
    const LOCALS: usize = 1000;
    let mut body = String::new();
    for i in 0..8_000 {
        let (a, b, c) = (i * 7 % LOCALS, i * 13 % LOCALS, i * 29 % LOCALS);
        body.push_str(&format!(
            "(if (local.get {a}) (then (local.set {b} (i32.add (local.get {b}) (local.get {c})))))\n"
        ));
    }
    let locals = "i32 ".repeat(LOCALS);
    let text = format!(r#"(module (func (export "_start") (local {locals}) {body}))"#);
    wat::parse_str(&text).expect("a module")
}

/// Case 7.
#[test]
fn a_module_that_compiles_for_long_holds_up_nobody_and_ends_at_its_limit() {
    let bench = Bench::new();
    let bomb = compile_bomb();
    let limit = Duration::from_millis(200);
    let runtime = bench.runtime.clone();
    let hurried = Bench { runtime, ..Bench::new().timeout(limit) };
    std::thread::scope(|scope| {
        let mut bombs = vec![];
        for _ in 0..3 {
            let task = hurried.guest(bomb.clone());
            bombs.push(scope.spawn(move || task.run().verdict));
        }
        stdout(&bench.wat("hello").run());
        for bomb in bombs {
            assert_eq!(bomb.join().expect("no panic"), Err(Failure::Timeout(limit)));
        }
    });
    // The bomb's one compile may still go on.
    stdout(&bench.wat("exit").inputs(&["0"]).run());
    assert_eq!(bench.runtime.modules_compiled(), 3, "the bomb was compiled once");
}

/// Case 22: links of all kinds, made by the guest or there before.
#[test]
fn no_link_leads_out_of_a_writable_directory() {
    let (inside, outside) = (dir(), dir());
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").expect("written");
    fs::write(inside.path().join("own"), "own").expect("written");
    let bench = Bench::new().root(inside.path(), true);
    let mounted = mount(inside.path(), "d");
    let run =
        |guest: &str, inputs: &[&str]| bench.wat(guest).cli_args(&[&mounted]).inputs(inputs).run();
    let up = format!("../{}/secret", outside.path().file_name().expect("a name").display());
    let absolute = secret.to_str().expect("text");
    for target in [up.as_str(), absolute] {
        // It may make the link, but not go through it.
        let name = format!("made-{}", target.len());
        run("symlink", &[target, &name]);
        denied(&run("cat", &[&name]));
        if inside.path().join(&name).is_symlink() {
            denied(&run("write-file", &[&name]));
        }
        for guest in ["link", "rename"] {
            denied(&run(guest, &[target, "stolen"]));
            denied(&run(guest, &["own", target]));
        }
    }
    symlink(&secret, inside.path().join("there")).expect("linked");
    symlink(outside.path(), inside.path().join("folder")).expect("linked");
    for path in ["there", "folder/secret", "folder/../own", &up, absolute] {
        denied(&run("cat", &[path]));
        denied(&run("write-file", &[path]));
    }
    denied(&run("rename", &["own", "folder/own"]));
    denied(&run("link", &["own", "folder/own"]));
    assert_eq!(fs::read_to_string(&secret).expect("it is there"), "secret");
    assert_eq!(fs::read_dir(outside.path()).expect("it is there").count(), 1);
    assert_eq!(stdout(&run("cat", &["own"])), "own");
}

/// Case 24: a read-only directory stays as it is, whatever is beside it.
#[test]
fn nothing_moves_or_links_between_a_read_only_and_a_writable_directory() {
    let (locked, open) = (dir(), dir());
    fs::write(locked.path().join("a"), "a").expect("written");
    let bench = Bench::new().root(locked.path(), false).root(open.path(), true);
    let calls = [
        ("path_link", "(i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 4)"),
        ("path_rename", "(i32.const 3) (i32.const 64) (i32.const 1) (i32.const 4)"),
    ];
    for (call, first) in calls {
        let params = "i32 ".repeat(if call == "path_link" { 7 } else { 6 });
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "{call}" (func $call (param {params}) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (data (i32.const 64) "a")
                (func (export "_start")
                  (call $exit (call $call {first} (i32.const 64) (i32.const 1)))))"#
        );
        let module = wat::parse_str(&text).expect("a module");
        let args = [mount(locked.path(), "locked"), mount(open.path(), "open")];
        let outcome = bench.guest(module).cli_args(&[&args[0], &args[1]]).run();
        assert!(matches!(outcome.verdict, Err(Failure::Exit(_))), "{call}: {:?}", outcome.verdict);
    }
    let mounted = mount(locked.path(), "d");
    for (guest, inputs) in [
        ("write-file", &["new"][..]),
        ("write-file", &["a"]),
        ("symlink", &["a", "new"]),
        ("link", &["a", "new"]),
        ("rename", &["a", "new"]),
    ] {
        denied(&bench.wat(guest).cli_args(&[&mounted]).inputs(inputs).run());
    }
    assert_eq!(fs::read_dir(open.path()).expect("it is there").count(), 0);
    assert_eq!(fs::read_to_string(locked.path().join("a")).expect("it is there"), "a");
    assert_eq!(fs::read_dir(locked.path()).expect("it is there").count(), 1);
}

/// Case 23, on a real disk: the policy's own tests have one of their own.
#[test]
fn a_directory_that_is_a_link_out_of_the_roots_is_not_granted() {
    let (root, outside) = (dir(), dir());
    symlink(outside.path(), root.path().join("out")).expect("linked");
    fs::create_dir(root.path().join("in")).expect("made");
    symlink(root.path().join("in"), root.path().join("alias")).expect("linked");
    let bench = Bench::new().root(root.path(), true);
    let admit = |path: &Path| {
        let task = bench.wat("hello").cli_args(&[&mount(path, "d")]);
        bench.policy.admit(task.request).map_err(|e| e.to_string())
    };
    for path in ["out", "in/../..", "out/.."] {
        let refused = admit(&root.path().join(path)).expect_err("it leads out");
        assert!(refused.contains("outside the allowed directories"), "{path}: {refused}");
    }
    assert!(admit(outside.path()).is_err());
    let granted = admit(&root.path().join("alias")).expect("it stays inside");
    let canonical = root.path().canonicalize().expect("it is there").join("in");
    assert_eq!(granted.grant().dirs[0].host, canonical);
}

/// Case 22 once more: another guest puts a link in the place of a directory
/// that was granted, before the task that it was granted to begins.
#[test]
fn a_directory_that_became_a_link_while_its_task_waited_is_not_opened() {
    let (root, outside) = (dir(), dir());
    fs::write(outside.path().join("secret"), "secret").expect("written");
    fs::create_dir_all(root.path().join("shared/mine")).expect("made");
    fs::write(root.path().join("shared/mine/secret"), "mine").expect("written");
    let bench = Bench::new().root(root.path(), true);
    let mine = root.path().join("shared/mine");
    let admitted = || {
        let task = bench.wat("cat").cli_args(&[&mount(&mine, "d")]).inputs(&["secret"]);
        bench.policy.admit(task.request).expect("admitted")
    };
    let run = |spec: &_| bench.runtime.run(spec, &std::sync::Arc::default());
    assert_eq!(stdout(&run(&admitted())), "mine");
    let waiting = admitted();
    for swapped in [mine.clone(), root.path().join("shared")] {
        let kept = swapped.with_file_name("kept");
        fs::rename(&swapped, &kept).expect("renamed");
        if swapped == mine {
            symlink(outside.path(), &swapped).expect("linked");
        } else {
            // The same, one level higher.
            fs::create_dir(outside.path().join("mine")).expect("made");
            fs::write(outside.path().join("mine/secret"), "secret").expect("written");
            symlink(outside.path(), &swapped).expect("linked");
        }
        let outcome = run(&waiting);
        assert!(
            matches!(&outcome.verdict, Err(Failure::Directory(text)) if text.contains("opening")),
            "{:?} {:?}",
            outcome.verdict,
            String::from_utf8_lossy(&outcome.stdout.bytes)
        );
        fs::remove_file(&swapped).expect("removed");
        fs::rename(&kept, &swapped).expect("renamed");
    }
    assert_eq!(stdout(&run(&waiting)), "mine");
}

/// Case 25. A limit on the size of files stands for a disk without room.
#[test]
fn a_full_disk_is_the_guests_own_error() {
    let root = dir();
    let guest = root.path().join("fill-disk.wasm");
    fs::write(&guest, wat("fill-disk")).expect("written");
    let ran = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_proplet"), "run", &mount(root.path(), "d")])
        .arg(&guest)
        .arg("full")
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&ran.stdout);
    // EFBIG; the unit of the limit is the shell's.
    assert!(said == "wrote 65536\nerrno 22\n" || said == "wrote 131072\nerrno 22\n", "{ran:?}");
}

/// Case 26.
#[test]
fn a_guest_that_opens_files_without_end_uses_up_its_own_share() {
    let root = dir();
    fs::write(root.path().join("a"), "a").expect("written");
    let bench = Bench::new().root(root.path(), false);
    let mounted = mount(root.path(), "d");
    let begun = descriptors();
    let greedy = |n: &str| bench.wat("open-many").cli_args(&[&mounted]).inputs(&["a", n]).run();
    let outcome = greedy("100000");
    let Err(Failure::Fault(text)) = &outcome.verdict else { panic!("{:?}", outcome.verdict) };
    assert!(text.contains("more than 256 files"), "{text}");
    assert_eq!(stdout(&greedy("200")), "opened 200\n");
    assert_eq!(stdout(&bench.wat("cat").cli_args(&[&mounted]).inputs(&["a"]).run()), "a");
    // Other tests of this process open files as well, but not thousands.
    assert!(descriptors() < begun + 150, "{} before, {} after", begun, descriptors());
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Case 14: what one task may hold is summed, and the next one has it again.
#[test]
fn tables_and_memories_are_given_back() {
    let bench = Bench::new();
    for _ in 0..40 {
        for guest in ["many-memories", "many-tables", "memory-bomb", "table-bomb"] {
            bench.wat(guest).run();
        }
    }
    stdout(&bench.wat("hello").run());
}

/// Case 53: nothing that ends a task looks at the wall clock, so setting it
/// changes nothing. Who needs it, and why, is listed here.
#[test]
fn deadlines_are_of_the_monotonic_clock() {
    let allowed = [
        // Sleeps until a time of day: turned into a duration at once.
        "runtime/sleep.rs",
        // Ages of model files, compared with the time stamps of the disk.
        "nn/directories.rs",
        // The same of files that guests read again.
        "runtime/files/contents.rs",
        "runtime/files/reading_tests.rs",
    ];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let ending = ["cancel.rs", "executor.rs", "queue.rs", "runtime", "nn"];
    let mut files = vec![];
    for name in ending {
        collect(&src.join(name), &mut files);
    }
    assert!(files.len() > 20);
    for file in files {
        let name = file.strip_prefix(&src).expect("a source").display().to_string();
        let text = fs::read_to_string(&file).expect("a source");
        let used = text.contains("SystemTime") || text.contains("UNIX_EPOCH");
        assert!(!used || allowed.contains(&name.as_str()), "{name} reads the wall clock");
    }
}

fn collect(path: &Path, files: &mut Vec<std::path::PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            collect(&entry.expect("an entry").path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.to_owned());
    }
}

/// A panic on a guest's behalf must unwind to its task's frame.
#[test]
fn every_profile_unwinds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml::Table =
        toml::from_str(&fs::read_to_string(path).expect("a manifest")).expect("TOML");
    let profiles = manifest["profile"].as_table().expect("profiles");
    assert_eq!(profiles["release"]["panic"].as_str(), Some("unwind"));
    for (name, profile) in profiles {
        let panic = profile.get("panic").and_then(toml::Value::as_str);
        assert!(
            panic.is_none_or(|panic| panic == "unwind"),
            "profile.{name} has panic = {panic:?}"
        );
    }
    const { assert!(cfg!(panic = "unwind"), "this build aborts") };
}

/// The guests of `fixtures/guests/wat`, for whoever runs all of them.
pub(crate) fn guests() -> Vec<String> {
    let files = fs::read_dir(fixtures().join("guests/wat")).expect("a folder");
    let mut guests: Vec<_> = files
        .filter_map(|file| file.ok()?.file_name().to_str()?.strip_suffix(".wat").map(str::to_owned))
        .collect();
    guests.sort();
    guests
}

#[cfg(feature = "openvino")]
mod nn {
    use super::*;
    use proplet::nn::{LoadBytes, Nn, NnConfig, OpenVinoConfig, SearchEnv};

    /// OpenVINO of the build folder.
    pub fn config() -> NnConfig {
        let program = crate::support::assets().join("debug/proplet");
        let search = SearchEnv::from_lookup(Some(program), |_| None);
        let openvino = OpenVinoConfig { search, ..OpenVinoConfig::default() };
        NnConfig { openvino, cache_bytes: 64 << 20, model_bytes: 64 << 20, ..NnConfig::default() }
    }

    #[test]
    fn a_worker_may_take_models_from_its_own_directories_alone() {
        let bench = Bench::with_nn(Nn::new(NnConfig { load_bytes: LoadBytes::none(), ..config() }));
        let bench = bench.root(fixtures().join("models"), false);
        let args = ["-S", "nn,nn-graph=openvino::models/tiny"];
        assert_eq!(stdout(&bench.wat("nn-tiny").cli_args(&args).run()), "2\n0\n6\n4\n");
        let own = bench.wat("nn-load-bytes").cli_args(&args).run();
        assert!(stdout(&own).starts_with("errno 6\n"), "{}", stdout(&own));
        assert!(own.diagnostics[0].contains("--nn-load-bytes is false"), "{:?}", own.diagnostics);
        assert_eq!(bench.runtime.nn().stats().graphs_compiled, 1);
    }
}

/// The effective limits, as an operator sees them.
#[test]
fn the_policy_is_printed_with_its_sources() {
    let (root, open) = (dir(), dir());
    fs::write(root.path().join("config.toml"), "[proplet]\nqueue = 7\n").expect("written");
    fs::create_dir(root.path().join("models")).expect("made");
    let print = |more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_proplet"))
            .args(["worker", "--print-policy", "--domain-id=d", "--channel-id=c"])
            .args(["--client-id=i", "--client-key=k", "--task-timeout=10s"])
            .arg(format!("--dirs=models:.:missing:{}:rw", open.path().display()))
            .args(more)
            .env_clear()
            .env("PROPLET_TASK_MEMORY", "64MiB")
            .current_dir(root.path())
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = print(&[]);
    for expected in ["task-timeout", "a flag", "PROPLET_TASK_MEMORY", "config.toml", "not there"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&print(&["--json"])).expect("JSON");
    let limit = |name: &str| {
        let mut limits = json["limits"].as_array().expect("a list").iter();
        limits.find(|limit| limit["setting"] == name).expect("the limit").clone()
    };
    assert_eq!(limit("task-timeout")["value"], "10s");
    assert_eq!(limit("task-memory")["source"], "the variable PROPLET_TASK_MEMORY");
    assert_eq!(limit("queue")["value"], "7");
    assert_eq!(limit("nn-load-bytes")["value"], "openvino,onnx,tensorflow,tensorflowlite");
    let dirs = json["directories"].as_array().expect("a list");
    let seen: Vec<_> = dirs
        .iter()
        .map(|dir| (dir["path"].as_str().expect("a path"), dir["writable"] == true))
        .collect();
    let expected = [
        ("models", false),
        (".", false),
        ("missing", false),
        (open.path().to_str().expect("text"), true),
    ];
    assert_eq!(seen, expected);
    let unasked = json["unasked"].as_array().expect("a list");
    let given = |guest: &str| unasked.iter().find(|dir| dir["guest"] == guest);
    assert_eq!(given("models").expect("given")["writable"], false);
    assert_eq!(given(open.path().to_str().expect("text")).expect("given")["writable"], true);
    assert!(given(".").is_none(), "it holds config.toml: {unasked:?}");
    assert!(dirs[1]["problem"].as_str().is_some_and(|text| text.contains("config.toml")));
    assert!(!print(&["--json"]).contains("client-key"));
}
