use super::*;
use crate::task::{Binary, Preopen, TaskId};
use proptest::prelude::*;
use std::time::Duration;

/// `/models`, `/data` and `/work/fixture` exist; `/models/out` is a link
/// to `/etc`.
const THERE: [&str; 9] = [
    "/",
    "/etc",
    "/models",
    "/models/a",
    "/data",
    "/data/in",
    "/data/out",
    "/work",
    "/work/fixture",
];

fn disk(path: &Path) -> io::Result<PathBuf> {
    let mut canonical = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                canonical.pop();
            }
            std::path::Component::CurDir => {}
            part => canonical.push(part),
        }
        if canonical == Path::new("/models/out") {
            canonical = "/etc".into();
        }
    }
    match canonical.to_str() {
        Some(path) if THERE.contains(&path) => Ok(canonical),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn subdirectories(dir: &Path) -> io::Result<Vec<String>> {
    let below = THERE.iter().map(Path::new).filter(|path| path.parent() == Some(dir));
    Ok(below.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
}

fn worker() -> Policy {
    let root = |path: &str, writable| Root { path: path.into(), writable };
    Policy {
        trust: Trust::Remote {
            roots: vec![root("/models", false), root("/data", true), root(".", false)],
        },
        proplet_id: None,
        limits: Limits {
            timeout: Some(Duration::from_secs(300)),
            run: None,
            memory: Some(1 << 29),
            output: 1 << 20,
        },
        serving: None,
        private: vec!["/work/config.toml".into()],
        kernel: vec!["/proc".into(), "/sys".into(), "/dev".into()],
        module_size: 100,
        working_dir: "/work".into(),
        max_wasm_stack: 1 << 20,
        resolve: disk,
        subdirectories,
    }
}

fn request(cli_args: &[&str]) -> TaskRequest {
    TaskRequest {
        name: "demo".into(),
        module: Some(ModuleSource::Bytes(Binary::new(*b"\0asm"))),
        inputs: vec!["a".into()],
        cli_args: cli_args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::from([("MODEL_DIR".into(), "/models".into())]),
        ..TaskRequest::new(TaskId::new("t1").expect("an id"))
    }
}

fn granted(cli_args: &[&str]) -> Grant {
    worker().admit(request(cli_args)).expect("admitted").grant().clone()
}

fn refused(cli_args: &[&str]) -> String {
    worker().admit(request(cli_args)).expect_err("refused").to_string()
}

#[test]
fn the_guides_task_is_admitted() {
    let grant = granted(&["-S", "nn", "--dir=fixture"]);
    let host = "/work/fixture".into();
    assert_eq!(grant.dirs, [Preopen { host, guest: "fixture".into(), writable: false }]);
    assert_eq!(grant.nn, Some(vec![]));
    assert_eq!(grant.args, ["t1.wasm", "a"]);
    assert_eq!(grant.entry, EntryPoint::Label("demo".into()));
}

#[test]
fn writing_follows_the_root() {
    assert!(granted(&["--dir", "/data/in::/in"]).dirs[0].writable);
    assert!(!granted(&["--dir", "/models/a"]).dirs[0].writable);
}

#[test]
fn directories_outside_the_roots_are_refused_by_whatever_way() {
    for dir in ["/etc", "/", "..", "/models/..", "/models/out", "/models/../etc", "/missing"] {
        let error = refused(&["--dir", dir]);
        assert!(error.contains("outside the allowed directories"), "{dir}: {error}");
    }
    let error = refused(&["-S", "nn", "-S", "nn-graph=openvino::/models/out"]);
    assert!(error.contains("outside the allowed directories"), "{error}");
}

#[test]
fn a_directory_that_is_missing_inside_a_root_is_said_to_be_missing() {
    assert!(refused(&["--dir", "/models/none"]).contains("does not exist"));
    assert!(refused(&["--dir", "fixtures"]).contains("does not exist"));
}

/// What a task without `--dir` gets: paths of the guest and of the host, writable ones with `+`.
fn unasked(policy: &Policy) -> Vec<String> {
    let spec = policy.admit(request(&[])).expect("admitted");
    let shown = |dir: &Preopen| {
        format!("{} {}{}", dir.guest, dir.host.display(), if dir.writable { "+" } else { "" })
    };
    spec.grant().dirs.iter().map(shown).collect()
}

fn with_roots(roots: &[(&str, bool)]) -> Policy {
    let root = |(path, writable): &(&str, bool)| Root { path: path.into(), writable: *writable };
    let roots = roots.iter().map(root).collect();
    Policy { trust: Trust::Remote { roots }, private: vec![], ..worker() }
}

#[test]
fn without_dir_a_task_gets_each_root_under_its_path_and_its_last_component() {
    let policy = with_roots(&[("/models/", false), ("/data/in", true), ("/missing", false)]);
    let expected = ["/models /models", "/data/in /data/in+", "models /models", "in /data/in+"];
    assert_eq!(unasked(&policy), expected);
    let spec = policy.admit(request(&["--dir", "/models/a"])).expect("admitted");
    assert_eq!(spec.grant().dirs.len(), 1, "one that names a directory gets that alone");
}

#[test]
fn the_working_directory_is_given_as_a_dot_too_where_it_is_allowed() {
    let expected = ["/work /work+", "work /work+", ". /work+"];
    assert_eq!(unasked(&with_roots(&[(".", true)])), expected);
    assert_eq!(unasked(&with_roots(&[("/work", true)])), expected);
    let below = Policy { working_dir: "/work/fixture".into(), ..with_roots(&[("/work", false)]) };
    assert_eq!(unasked(&below), ["/work /work", "work /work", ". /work/fixture"]);
    // As it was written, which guests may have been built for.
    let expected = ["/work/fixture /work/fixture", "fixture /work/fixture"];
    assert_eq!(unasked(&with_roots(&[("./fixture", false)])), expected);
    assert_eq!(unasked(&with_roots(&[("../work/fixture", false)])), expected);
    let deep = Policy { working_dir: "/".into(), ..with_roots(&[("work/fixture", false)]) };
    let mut expected = expected.to_vec();
    expected.insert(1, "work/fixture /work/fixture");
    assert_eq!(unasked(&deep), expected);
}

#[test]
fn of_two_directories_with_one_name_the_first_listed_has_it() {
    let mut policy =
        with_roots(&[("/missing/in", false), ("/data/in", false), ("/other/in", false)]);
    policy.resolve = |path| match path.to_str() {
        Some("/other/in") => Ok("/other/in".into()),
        _ => disk(path),
    };
    let spec = policy.admit(request(&[])).expect("admitted");
    let grant = spec.grant();
    let named: Vec<_> = grant.dirs.iter().filter(|dir| dir.guest == "in").collect();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].host, Path::new("/data/in"));
    let note = "the directory `in` is /data/in; /other/in has no other name than its path";
    assert_eq!(grant.notes, [note]);
}

#[test]
fn a_directory_with_the_workers_secrets_is_given_in_parts() {
    // As in Propeller's compose file: config.toml in the working directory, and
    // the fixture below it.
    assert_eq!(
        unasked(&worker()),
        [
            "/models /models",
            "/data /data+",
            "/work/fixture /work/fixture",
            "models /models",
            "data /data+",
            "fixture /work/fixture",
        ]
    );
    let mut policy = with_roots(&[("/data", true)]);
    policy.private.push("/data/in/key.pem".into());
    assert_eq!(unasked(&policy), ["/data/out /data/out+", "out /data/out+"]);
    policy.private = vec!["/data".into()];
    assert_eq!(unasked(&policy), [""; 0], "it is the worker's own as a whole");
}

#[test]
fn the_parts_of_a_directory_are_bounded_and_said_to_be() {
    let mut policy = with_roots(&[("/work", false), ("/models", false)]);
    policy.private.push("/work/config.toml".into());
    policy.subdirectories = |_| Ok((0..1000).map(|n| format!("d{n:03}")).collect());
    let spec = policy.admit(request(&[])).expect("admitted");
    let hosts: Vec<_> = spec.grant().dirs.iter().map(|dir| dir.host.as_path()).collect();
    assert_eq!(hosts.iter().filter(|host| host.starts_with("/work")).count(), 2 * 32);
    assert!(hosts.contains(&Path::new("/work/d031")) && hosts.contains(&Path::new("/models")));
    assert!(spec.grant().notes[0].contains("more than 32"), "{:?}", spec.grant().notes);
}

/// ARCHITECTURE.md, case 70.
#[test]
fn no_root_reaches_a_file_system_of_the_kernel() {
    let everything: fn(&Path) -> io::Result<PathBuf> = |path| Ok(path.to_owned());
    let policy = |root| Policy {
        resolve: everything,
        kernel: ["/proc", "/sys", "/dev", "/srv/jail/proc"].map(PathBuf::from).into(),
        ..with_roots(&[(root, true)])
    };
    for root in ["/", "/proc", "/proc/self", "/sys/class", "/dev", "/dev/shm", "/srv", "/srv/jail"]
    {
        let policy = policy(root);
        assert_eq!(unasked(&policy), [""; 0], "{root}");
        for dir in [root, "/proc/self", "/srv/jail/proc/1"] {
            for args in
                [[&format!("--dir={dir}"), "-Snn"], ["-S", &format!("nn-graph=openvino::{dir}")]]
            {
                let error = policy.admit(request(&args)).expect_err(dir).to_string();
                assert!(error.contains("outside the allowed directories"), "{dir}: {error}");
            }
        }
    }
    assert_eq!(unasked(&policy("/srv/jail/data")).len(), 2);
    assert_eq!(unasked(&policy("/processed")).len(), 2);
}

#[test]
fn the_users_own_hand_is_told_what_it_gives_with_the_kernels_file_systems() {
    let policy = Policy {
        trust: Trust::Local { env: BTreeMap::new() },
        resolve: |path| Ok(path.to_owned()),
        ..worker()
    };
    let notes = |dir: &str| {
        let spec = policy.admit(request(&["--dir", dir])).expect("admitted");
        assert_eq!(spec.grant().dirs.len(), 1);
        spec.grant().notes.join("\n")
    };
    assert!(notes("/proc/self").contains("`--dir /proc/self` reaches /proc"));
    assert!(notes("/").contains("`--dir /` reaches /proc"));
    assert_eq!(notes("/models"), "");
}

#[test]
fn importing_wasi_nn_is_asking_for_it() {
    assert_eq!(granted(&[]).nn, Some(vec![]));
    assert_eq!(granted(&["-S", "nn=n"]).nn, None);
    let graphs = granted(&["-S", "nn-graph=openvino::/models/a"]).nn.expect("wasi-nn");
    assert_eq!(graphs[0].name, "a");
}

#[test]
fn a_directory_with_the_workers_own_secrets_is_not_granted() {
    for dir in [".", "/work", "fixture/.."] {
        let error = refused(&["--dir", dir]);
        assert!(error.contains("own (config.toml)"), "{dir}: {error}");
    }
    assert_eq!(granted(&["--dir", "fixture"]).dirs.len(), 1);
    let mut policy = worker();
    policy.private.push("/data/key.pem".into());
    let error = policy.admit(request(&["--dir=/data"])).expect_err("refused").to_string();
    assert!(error.contains("own (key.pem)"), "{error}");
    assert!(policy.admit(request(&["--dir=/data/in"])).is_ok());
}

#[test]
fn a_read_only_root_is_not_written_through_a_writable_one_above_it() {
    let mut policy = worker();
    let Trust::Remote { roots, .. } = &mut policy.trust else { unreachable!() };
    roots.push(Root { path: "/data/in".into(), writable: false });
    let writable = |dir: &str| {
        let spec = policy.admit(request(&["--dir", dir])).expect("admitted");
        spec.grant().dirs[0].writable
    };
    assert!(!writable("/data/in"));
    assert!(!writable("/data"));
    assert!(writable("/data/out"));
}

#[test]
fn limits_tighten_and_never_loosen() {
    let limits = granted(&["-W", "timeout=10,max-memory-size=1000"]).limits;
    assert_eq!(limits.timeout, Some(Duration::from_secs(300)));
    assert_eq!(limits.run, Some(Duration::from_secs(10)));
    assert_eq!(limits.memory, Some(1000));
    let limits = granted(&["-W", "timeout=1000", "-W", "max-memory-size=0xffffffffff"]).limits;
    assert_eq!(limits.timeout, Some(Duration::from_secs(300)));
    assert_eq!(limits.memory, Some(1 << 29));
    granted(&["-W", "max-wasm-stack=1048576"]);
    assert!(refused(&["-W", "max-wasm-stack=1000"]).contains("max-wasm-stack"));
}

#[test]
fn the_workers_environment_stays_its_own() {
    let error = refused(&["--env", "PROPLET_CLIENT_KEY"]);
    assert!(error.contains("PROPLET_CLIENT_KEY"), "{error}");
    assert!(refused(&["-S", "inherit-env"]).contains("inherit-env"));
    let grant = granted(&["--env", "MODEL_DIR", "--env", "K=V"]);
    let env = [("K", "V"), ("MODEL_DIR", "/models")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(grant.env, env);
}

#[test]
fn what_is_not_built_yet_is_said() {
    let policy = worker();
    type Change = fn(&mut TaskRequest);
    let change: [(Change, &str); 4] = [
        (|r| (r.daemon, r.latent) = (true, true), "set one of them"),
        (|r| r.encrypted = true, "encrypted"),
        (|r| r.module = None, "neither `file` nor `image_url`"),
        (|r| r.module = Some(ModuleSource::Url("ftp://x/y".into())), "name of an image"),
    ];
    for (change, expected) in change {
        let mut request = request(&[]);
        change(&mut request);
        let error = policy.admit(request).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_users_own_hand_opens_anything_and_inherits() {
    let policy = Policy {
        trust: Trust::Local { env: BTreeMap::from([("HOME".into(), "/h".into())]) },
        limits: Limits { timeout: None, run: None, memory: None, output: 0 },
        ..worker()
    };
    let spec = policy
        .admit(request(&["--dir", "/etc", "--env", "HOME", "--env", "UNSET", "-W", "timeout=1"]))
        .expect("admitted");
    let grant = spec.grant();
    assert!(grant.dirs[0].writable);
    assert!(grant.env.contains(&("HOME".into(), "/h".into())));
    assert_eq!(grant.env.len(), 2);
    assert_eq!((grant.limits.timeout, grant.limits.run), (None, Some(Duration::from_secs(1))));
}

/// A path of parts that lead down, up, out and nowhere.
fn path() -> impl Strategy<Value = String> {
    let parts = ["models", "a", "out", "data", "in", "fixture", "etc", "work", "..", ".", "none"];
    let parts = prop::collection::vec(prop::sample::select(parts.to_vec()), 0..5);
    (any::<bool>(), parts)
        .prop_map(|(absolute, parts)| if absolute { "/" } else { "" }.to_owned() + &parts.join("/"))
}

proptest! {
    /// Whatever a task names, it gets directories below a root, writable ones
    /// only where the root is, and none with the worker's own files.
    #[test]
    fn no_argument_leads_out_of_the_roots(
        dirs in prop::collection::vec(path(), 1..4),
        graph in path(),
    ) {
        let mut args: Vec<String> = dirs.iter().map(|dir| format!("--dir={dir}::d")).collect();
        args.extend(["-S".to_owned(), format!("nn,nn-graph=openvino::{graph}")]);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        if let Ok(spec) = worker().admit(request(&args)) {
            let grant = spec.grant();
            let graphs = grant.nn.iter().flatten().map(|graph| (&graph.dir, false));
            let dirs = grant.dirs.iter().map(|dir| (&dir.host, dir.writable));
            for (host, writable) in dirs.chain(graphs) {
                let below = |root: &str| host.starts_with(root);
                prop_assert!(below("/models") || below("/data") || below("/work"), "{host:?}");
                prop_assert!(!writable || below("/data"), "{host:?}");
                prop_assert!(!Path::new("/work/config.toml").starts_with(host), "{host:?}");
            }
        }
    }

    /// Nor do the directories that a task gets unasked.
    #[test]
    fn nothing_unasked_leads_out_of_the_roots(
        roots in prop::collection::vec((path(), any::<bool>()), 0..5),
        private in prop::collection::vec(prop::sample::select(THERE.to_vec()), 0..3),
    ) {
        let listed: Vec<_> = roots.iter().map(|(path, writable)| (path.as_str(), *writable)).collect();
        let private: Vec<PathBuf> = private.iter().map(|dir| Path::new(dir).join("key")).collect();
        let policy = Policy { private: private.clone(), ..with_roots(&listed) };
        let canonical = |path: &str| disk(&Path::new("/work").join(path)).ok();
        for Preopen { host, writable, .. } in policy.unasked().dirs {
            let above = listed.iter().filter_map(|(path, writable)| Some((canonical(path)?, writable)));
            let above: Vec<_> = above.collect();
            prop_assert!(above.iter().any(|(root, _)| host.starts_with(root)), "{host:?}");
            prop_assert!(!private.iter().any(|file| file.starts_with(&host)), "{host:?}");
            prop_assert!(
                !writable || !above.iter().any(|(root, rw)| !**rw && root != &host && root.starts_with(&host)),
                "{host:?}"
            );
        }
    }

    /// A task's own limits only ever tighten the worker's.
    #[test]
    fn no_argument_loosens_a_limit(seconds in 1u64.., bytes in 1u64..) {
        let limits = granted(&["-W", &format!("timeout={seconds}s,max-memory-size={bytes}")]).limits;
        prop_assert_eq!(limits.timeout, Some(Duration::from_secs(300)));
        prop_assert_eq!(limits.run, Some(Duration::from_secs(seconds)));
        prop_assert!(limits.memory <= Some((1 << 29).min(bytes)));
        prop_assert!(limits.memory.is_some());
    }
}

#[test]
fn the_journals_folder_is_the_workers_own() {
    let mut policy = worker();
    policy.private.push("/data/in".into());
    for dir in ["/data", "/data/in"] {
        let error = policy.admit(request(&["--dir", dir])).expect_err("refused").to_string();
        assert!(error.contains("this worker's own"), "{error}");
    }
}

#[test]
fn a_guest_is_told_its_worker_and_the_results_of_the_tasks_before_it() {
    let policy = Policy { proplet_id: Some("worker-1".into()), ..worker() };
    let env = |request: TaskRequest| {
        let spec = policy.admit(request).expect("admitted");
        let told = |(name, _): &&(String, String)| name.starts_with('P');
        let env: Vec<_> = spec.grant().env.iter().filter(told).cloned().collect();
        (env, spec.grant().notes.clone())
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let parents = r#"{"task-1": "4.1"}"#;
    let dependent = || TaskRequest { parent_results: Some(parents.into()), ..request(&[]) };
    let (given, _) = env(dependent());
    assert_eq!(given, [pair("PARENT_RESULTS", parents), pair("PROPLET_ID", "worker-1")]);
    // What a task sets itself stays, by either way.
    let own = BTreeMap::from([pair("PROPLET_ID", "own"), pair("PARENT_RESULTS", "own")]);
    let (given, _) = env(TaskRequest { env: own, ..dependent() });
    assert_eq!(given, [pair("PARENT_RESULTS", "own"), pair("PROPLET_ID", "own")]);
    let (given, _) = env(request(&["--env", "PROPLET_ID=own"]));
    assert_eq!(given, [pair("PROPLET_ID", "own")]);
    let large = TaskRequest { parent_results: Some("x".repeat(1_048_577)), ..request(&[]) };
    let (given, notes) = env(large);
    assert_eq!(given, [pair("PROPLET_ID", "worker-1")]);
    assert!(notes[0].contains("have 1048577 bytes, more than 1048576"), "{notes:?}");
}

#[test]
fn a_daemon_has_no_time_limit_unless_its_task_sets_one() {
    let policy = worker();
    let daemon = |args| policy.admit(TaskRequest { daemon: true, ..request(args) });
    let spec = daemon(&[]).expect("admitted");
    assert_eq!(spec.life(), Life::Daemon);
    assert_eq!((spec.grant().limits.timeout, spec.grant().limits.run), (None, None));
    let limited = daemon(&["-W", "timeout=5s"]).expect("admitted");
    assert_eq!(limited.grant().limits.run, Some(Duration::from_secs(5)));
    assert_eq!(limited.grant().limits.memory, Some(1 << 29));
}
