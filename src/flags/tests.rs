use super::*;
use proptest::prelude::*;

fn args(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

fn parsed(parts: &[&str]) -> RunFlags {
    parse(&args(parts)).unwrap_or_else(|error| panic!("{parts:?}: {error}"))
}

fn error(parts: &[&str]) -> String {
    match parse(&args(parts)) {
        Ok(flags) => panic!("{parts:?} became {flags:?}"),
        Err(error) => error.to_string(),
    }
}

fn graph(encoding: &str, dir: &str) -> GraphFlag {
    GraphFlag { encoding: encoding.into(), dir: dir.into() }
}

fn dir(host: &str, guest: &str) -> DirFlag {
    DirFlag { host: host.into(), guest: guest.into() }
}

#[test]
fn the_guides_arguments_are_read() {
    let flags = parsed(&["-S", "nn", "--dir=fixture"]);
    assert_eq!(flags.nn, Some(true));
    assert_eq!(flags.dirs, [dir("fixture", "fixture")]);
    assert_eq!(parsed(&[]), RunFlags::default());
}

#[test]
fn every_spelling_of_a_switch_is_read() {
    for on in [
        &["-S", "nn"][..],
        &["-Snn"],
        &["-S=nn"],
        &["-S", "nn=y"],
        &["-Snn=yes"],
        &["-S", "nn=true"],
        &["--wasi", "nn"],
        &["--wasi=nn"],
        &["-S", "cli,nn"],
        &["-S", "nn=n,nn"],
        &["-S", "nn=n", "-S", "nn=y"],
        &["--wasi-modules=experimental-wasi-nn"],
        &["--wasi-modules", "experimental-wasi-nn"],
        &["--wasi-modules=wasi-common,experimental-wasi-nn"],
    ] {
        assert_eq!(parsed(on).nn, Some(true), "{on:?}");
    }
    for off in [
        &["-S", "nn=n"][..],
        &["-Snn=no"],
        &["-S", "nn=false"],
        &["-S", "nn,nn=n"],
        &["-Snn", "-Snn=n"],
        &["--wasi-modules=-experimental-wasi-nn"],
    ] {
        assert_eq!(parsed(off).nn, Some(false), "{off:?}");
    }
    assert_eq!(parsed(&["--wasi-modules=default"]).nn, None);
}

#[test]
fn graphs_append_and_ask_for_nn() {
    let flags = parsed(&["-S", "nn,nn-graph=openvino::/m/a", "-Snn-graph=onnx::b"]);
    assert_eq!(flags.graphs, [graph("openvino", "/m/a"), graph("onnx", "b")]);
    assert_eq!(parsed(&["-S", "nn-graph=openvino::/m/a"]).nn, Some(true));
    for order in [["-Snn-graph=openvino::a", "-Snn=n"], ["-Snn=n", "-Snn-graph=openvino::a"]] {
        let text = error(&order);
        assert!(text.contains("nn-graph=openvino::a") && text.contains("`-S nn=n`"), "{text}");
    }
    for wrong in ["nn,nn-graph=openvino", "nn,nn-graph=::a", "nn,nn-graph=a::", "nn,nn-graph"] {
        let text = error(&["-S", wrong]);
        assert!(text.contains("nn-graph") && text.contains("::"), "{text}");
    }
}

#[test]
fn directories_have_two_forms_and_an_old_one() {
    assert_eq!(
        parsed(&["--dir", "a", "--dir=/b::c", "--mapdir", "g::/h", "--mapdir=x::y"]).dirs,
        [dir("a", "a"), dir("/b", "c"), dir("/h", "g"), dir("y", "x")]
    );
    for wrong in [&["--dir="][..], &["--dir=::x"], &["--dir=a::b::c"], &["--mapdir=a"]] {
        let flag = wrong[0].split('=').next().unwrap_or_default();
        assert!(error(wrong).contains(flag), "{wrong:?}");
    }
}

#[test]
fn variables_are_set_or_inherited() {
    let flags = parsed(&["--env", "A=1", "--env=B=x=y", "--env", "C", "--env=D="]);
    let expected: Vec<(String, Option<String>)> = vec![
        ("A".into(), Some("1".into())),
        ("B".into(), Some("x=y".into())),
        ("C".into(), None),
        ("D".into(), Some(String::new())),
    ];
    assert_eq!(flags.env, expected);
    assert!(error(&["--env", "=x"]).contains("--env =x"));
}

#[test]
fn one_export_is_invoked() {
    assert_eq!(parsed(&["--invoke", "add"]).invoke.as_deref(), Some("add"));
    assert_eq!(parsed(&["--invoke=add"]).invoke.as_deref(), Some("add"));
    let text = error(&["--invoke=add", "--invoke=sub"]);
    assert!(text.contains("add") && text.contains("sub"), "{text}");
}

#[test]
fn limits_are_read_and_the_last_one_wins() {
    let flags =
        parsed(&["-W", "timeout=10", "-Wtimeout=250ms,max-memory-size=0x1_0000", "--wasm=simd"]);
    assert_eq!(flags.timeout, Some(Duration::from_millis(250)));
    assert_eq!(flags.max_memory, Some(65_536));
    assert_eq!(parsed(&["-W", "max-wasm-stack=1_000_000"]).max_wasm_stack, Some(1_000_000));
    assert!(error(&["-W", "timeout=soon"]).contains("`soon`"));
    assert!(error(&["-W", "timeout"]).contains("timeout=N"));
    assert!(error(&["-W", "max-memory-size=64MiB"]).contains("`64MiB`"));
}

#[test]
fn settings_of_the_engine_are_accepted_and_listed() {
    let flags = parsed(&[
        "-O",
        "opt-level=2",
        "-Oopt-level=s",
        "--optimize=pooling-allocator",
        "-C",
        "cache=n,parallel-compilation",
        "--codegen",
        "compiler=winch",
        "-D",
        "debug-info",
        "--debug=logging=n",
        "-W",
        "simd=y,all-proposals",
        "-S",
        "preview2=n,common",
    ]);
    assert_eq!(
        flags.ignored,
        [
            "-O opt-level=2",
            "-O opt-level=s",
            "-O pooling-allocator",
            "-C cache=n",
            "-C parallel-compilation",
            "-C compiler=winch",
            "-D debug-info",
            "-D logging=n",
            "-W simd=y",
            "-W all-proposals",
            "-S preview2=n",
            "-S common",
        ]
    );
    assert_eq!(RunFlags { ignored: Vec::new(), ..flags }, RunFlags::default());
}

#[test]
fn options_that_reach_the_host_are_listed_while_they_are_on() {
    let flags = parsed(&[
        "-S",
        "inherit-env,tcp,udp=n,inherit-network=y,tcplisten=127.0.0.1:80",
        "-S",
        "tcp=n,http,http",
    ]);
    assert_eq!(flags.host_access, ["inherit-env", "inherit-network", "tcplisten"]);
    assert_eq!(parsed(&["-S", "listenfd,allow-ip-name-lookup,tls"]).host_access.len(), 3);
}

#[test]
fn what_is_refused_names_the_argument_and_the_way_out() {
    for (parts, wanted) in [
        (&["-W", "fuel=100"][..], &["-W fuel=100", "-W timeout"][..]),
        (&["-W", "max-tables=1"], &["-W max-tables=1", "max-memory-size"]),
        (&["-W", "unknown-imports-trap"], &["-W unknown-imports-trap"]),
        (&["-S", "threads"], &["-S threads", "single thread"]),
        (&["-S", "keyvalue"], &["-S keyvalue", "wasi:filesystem"]),
        (&["-S", "config"], &["-S config", "--env"]),
        (&["-S", "p3"], &["-S p3", "for 0.2"]),
        (&["-S", "inherit-stdout=n"], &["-S inherit-stdout=n", "kept"]),
        (&["-S", "cwd=/a"], &["-S cwd=/a", "--dir"]),
        (&["--wasi-modules=experimental-wasi-threads"], &["-S threads"]),
        (&["--wasi-modules=experimental-wasi-crypto"], &["experimental-wasi-crypto", "-S nn"]),
        (&["--preload", "a=b.wasm"], &["--preload"]),
        (&["--argv0=x"], &["--argv0"]),
        (&["--profile=perfmap"], &["--profile"]),
        (&["-g"], &["`-g`"]),
        (&["--wasm-timeout=3"], &["--wasm-timeout", "-W timeout"]),
        (&["-S", "nm"], &["-S nm", "did you mean `-S nn`"]),
        (&["-S", "inherit_env"], &["did you mean `-S inherit-env`"]),
        (&["-S", "zebra"], &["-S zebra", "-S help"]),
        (&["-W", "timeot=3"], &["-W timeot", "did you mean `-W timeout`"]),
        (&["-S", ""], &["-S"]),
        (&["-O", ""], &["-O"]),
        (&["--dri=x"], &["`--dri`", "did you mean `--dir`"]),
        (&["--frobnicate"], &["--frobnicate", "--help"]),
        (&["-x"], &["`-x`"]),
        (&["-é"], &["`-é`"]),
        (&["-S"], &["`-S` needs a value", "last argument"]),
        (&["--dir", "--env=A"], &["`--dir` needs a value", "`--env=A`", "--dir=--env=A"]),
        (&["-S", "nn=maybe"], &["-S nn=maybe", "y, yes, true"]),
        (&["guest.wasm"], &["`guest.wasm`", "inputs"]),
        (&["-Snn", "--", "x"], &["`x`", "inputs"]),
        (&[""], &["empty"]),
    ] {
        let text = error(parts);
        for part in wanted {
            assert!(text.contains(part), "{parts:?}: {part:?} is not in: {text}");
        }
        assert!(!text.ends_with('.'), "{text}");
    }
    assert_eq!(parsed(&["-S", "threads=n,keyvalue=n"]).host_access, Vec::<String>::new());
}

#[test]
fn flags_in_one_string_are_taken_apart_in_the_error() {
    for (parts, wanted) in [
        (&["-S nn --dir=fixture"][..], r#"["-S", "nn", "--dir=fixture"]"#),
        (&["-S", "nn --dir=fixture"], r#"["-S", "nn", "--dir=fixture"]"#),
        (&["--dir fixture"], r#"["--dir", "fixture"]"#),
        (&["--invoke add -S nn"], r#"["--invoke", "add", "-S", "nn"]"#),
        (&["nn -S x"], r#"["nn", "-S", "x"]"#),
    ] {
        let text = error(parts);
        assert!(text.contains("one argument an element") && text.contains(wanted), "{text}");
    }
}

#[test]
fn a_command_line_ends_its_flags_at_the_module() {
    for (parts, rest) in [
        (&["-Snn", "guest.wasm", "--dir=x", "a"][..], &["guest.wasm", "--dir=x", "a"][..]),
        (&["-Snn", "--", "-guest.wasm", "--", "a"], &["-guest.wasm", "--", "a"]),
        (&["-S", "nn", "-", "a"], &["-", "a"]),
        (&["-S", "nn"], &[]),
    ] {
        let (flags, behind) =
            parse_command(&args(parts)).unwrap_or_else(|e| panic!("{parts:?}: {e}"));
        assert_eq!(flags.nn, Some(true));
        assert_eq!(behind, rest);
    }
}

#[test]
fn help_is_asked_for_and_lists_what_the_parser_takes() {
    for (parts, letter) in [
        (&["-S", "help"][..], 'S'),
        (&["-Whelp"], 'W'),
        (&["--optimize=help-long"], 'O'),
        (&["-h"], 'h'),
        (&["--help"], 'h'),
    ] {
        assert_eq!(parse(&args(parts)), Err(FlagError::Help(letter)));
        assert!(help(letter).is_some_and(|text| text.lines().all(|l| l.contains(" -- "))));
    }
    let wasi = help('S').unwrap_or_default();
    assert!(wasi.contains("-S nn[=y|n] -- Enable support for WASI neural network imports"));
    // The guide looks for it with `grep nn`.
    assert!(wasi.lines().filter(|l| l.contains("nn")).all(|l| l.contains("-S nn")), "{wasi}");
    assert_eq!(help('X'), None);
}

/// Writes flags as arguments that mean the same.
fn rendered(flags: &RunFlags) -> Vec<String> {
    let mut args = Vec::new();
    let mut pair = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    if let Some(on) = flags.nn {
        pair("-S", format!("nn={on}"));
    }
    for graph in &flags.graphs {
        pair("-S", format!("nn-graph={}::{}", graph.encoding, graph.dir));
    }
    for name in &flags.host_access {
        let value = if name == "tcplisten" { "=x" } else { "" };
        pair("-S", format!("{name}{value}"));
    }
    if let Some(timeout) = flags.timeout {
        pair("-W", format!("timeout={}s {}ns", timeout.as_secs(), timeout.subsec_nanos()));
    }
    if let Some(bytes) = flags.max_memory {
        pair("-W", format!("max-memory-size={bytes}"));
    }
    if let Some(bytes) = flags.max_wasm_stack {
        pair("-W", format!("max-wasm-stack=0x{bytes:x}"));
    }
    for item in &flags.ignored {
        // In one argument: what follows may start with a dash.
        args.push(item.replacen(' ', "", 1));
    }
    args.extend(flags.dirs.iter().map(|dir| format!("--dir={}::{}", dir.host, dir.guest)));
    args.extend(flags.env.iter().map(|(name, value)| match value {
        Some(value) => format!("--env={name}={value}"),
        None => format!("--env={name}"),
    }));
    args.extend(flags.invoke.iter().map(|name| format!("--invoke={name}")));
    args
}

/// Arguments as a manager might send them: mostly well-formed ones.
fn an_argument() -> impl Strategy<Value = String> {
    let word = "[a-z]{1,6}";
    prop_oneof![
        3 => prop::sample::select(vec![
            "-S", "-W", "-O", "--wasi", "--dir", "--env", "--invoke", "--mapdir", "nn", "nn=n",
            "-Snn", "nn,tcp", "inherit-env", "tcp=n", "timeout=5s", "fuel=1", "--", "-",
            "--wasi-modules=experimental-wasi-nn", "-S nn", "-Ssimd", "-Wsimd=y", "-Oopt-level=2",
        ]).prop_map(str::to_owned),
        1 => (word, word).prop_map(|(a, b)| format!("--dir={a}::{b}")),
        1 => (word, word).prop_map(|(a, b)| format!("-Snn,nn-graph={a}::{b}")),
        1 => (word, "\\PC{0,8}").prop_map(|(a, b)| format!("--env={a}={b}")),
        1 => any::<u64>().prop_map(|n| format!("-Wmax-memory-size={n},timeout={n}ns")),
        1 => "\\PC{0,16}",
        1 => "-{1,2}[A-Za-z-]{0,12}=?[a-z,=:]{0,12}",
    ]
}

proptest! {
    #[test]
    fn what_is_accepted_means_the_same_when_written_again(
        args in prop::collection::vec(an_argument(), 0..8)
    ) {
        if let Ok(flags) = parse(&args) {
            // `a:` and `b` make `a:::b`, which is `a` and `:b`: only `--mapdir`
            // can say the former.
            prop_assume!(flags.dirs.iter().all(|dir| !dir.host.ends_with(':') && !dir.guest.contains("::")));
            prop_assert_eq!(parse(&rendered(&flags)), Ok(flags));
        }
    }

    #[test]
    fn a_command_line_gives_back_its_tail(
        flags in prop::collection::vec(an_argument(), 0..4),
        tail in prop::collection::vec("\\PC{0,12}", 0..4),
    ) {
        if let Ok(wanted) = parse(&flags) {
            let ended = flags.contains(&"--".to_owned());
            let end = if ended { vec![] } else { vec!["--".to_owned()] };
            let line: Vec<String> = [flags, end, tail.clone()].concat();
            prop_assert_eq!(parse_command(&line), Ok((wanted, tail)));
        }
    }
}
