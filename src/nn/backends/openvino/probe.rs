//! What `tests/probe` saw of each operator, against the list; and the probe's
//! hostile models as they are after the check, which the library must survive.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::builders;
use super::xml::Bounds;
use crate::nn::assets::assets;
use crate::nn::operators::{self, Rule};

/// What the probe saw of the supported version.
const TABLE: &str = include_str!("../../../../tests/probe/table.txt");

/// Operators whose hostile models are run in each round of the tests.
const SAMPLE: [&str; 12] = [
    "Gather",
    "GatherND",
    "StridedSlice",
    "Range",
    "CTCLoss",
    "DFT",
    "Col2Im",
    "Tile",
    "PRelu",
    "TensorIterator",
    "If",
    "ScatterUpdate",
];

/// The rows of the table: an operator, and how many of its models ran, were
/// refused, crashed, showed foreign bytes, and did not end.
fn rows() -> BTreeMap<&'static str, [u32; 5]> {
    let row = |line: &'static str| {
        let (name, counts) = line.split_once(' ').expect("a name and numbers");
        let counts: Vec<u32> =
            counts.split_whitespace().map(|count| count.parse().expect("a number")).collect();
        (name, counts.try_into().expect("five numbers"))
    };
    TABLE.lines().skip(2).map(row).collect()
}

#[test]
fn what_crashed_or_gave_foreign_bytes_is_not_called_safe() {
    let rows = rows();
    for (name, [ran, refused, crashed, foreign, _]) in &rows {
        let rule = operators::rule(name).unwrap_or_else(|| panic!("{name} is not in the list"));
        assert!(ran + refused + crashed + foreign > 0, "{name} was not tried");
        if crashed + foreign > 0 {
            assert_ne!(rule, Rule::Safe, "{name}: {crashed} crashed, {foreign} gave foreign bytes");
        }
    }
    let tried = |name: &&str| !rows.contains_key(*name);
    let missing: Vec<_> = operators::names().filter(tried).collect();
    assert!(missing.is_empty(), "the probe does not try {missing:?}");
}

#[test]
fn every_operator_of_the_installed_version_is_in_the_list() {
    let listed = run(&["operators"], None);
    let unknown: Vec<_> = listed.lines().filter(|name| operators::rule(name).is_none()).collect();
    assert!(listed.lines().count() > 200, "{listed}");
    assert!(unknown.is_empty(), "not in src/nn/operators/list.rs: {unknown:?}");
}

#[test]
fn hostile_models_are_harmless_once_they_are_checked() {
    let mut args = vec!["cases", "--each", "3"];
    args.extend(SAMPLE.iter().flat_map(|name| ["--op", name]));
    let ran = checked(&args);
    assert!(ran > 10, "{ran} of them ran");
}

/// By hand: `cargo test --features openvino --lib -- --ignored all_models_of_the_probe`,
/// half an hour. `PROBE_EACH=10` takes so many of each honest layer.
#[test]
#[ignore = "half an hour"]
fn all_models_of_the_probe_are_harmless_once_they_are_checked() {
    let each = std::env::var("PROBE_EACH").unwrap_or_else(|_| "0".into());
    checked(&["cases", "--each", &each]);
}

/// Runs what is left of the probe's models after the check, and says how many
/// of them ran. None may crash or show a foreign byte.
fn checked(args: &[&str]) -> usize {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cases");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
    for line in run(args, None).lines() {
        let mut case: Value = serde_json::from_str(line).expect("a case");
        let xml = case["xml"].as_str().expect("an XML").to_owned();
        let weights = BASE64.decode(case["weights"].as_str().expect("weights")).expect("base64");
        match builders::check(&[xml.as_bytes(), &weights], Bounds::default()) {
            Err(refusal) => case["refused"] = refusal.text.into(),
            Ok(scan) => {
                if let Some(mended) = scan.mended {
                    case["xml"] = String::from_utf8(mended).expect("text").into();
                }
            }
        }
        // What is refused is not run.
        if case.get("refused").is_none() {
            writeln!(file, "{case}").expect("written");
        }
    }
    file.into_inner().expect("written");
    let guard = guard(dir.path());
    let results = run(&["run", path.to_str().expect("text")], Some(&guard));
    let (mut ran, mut wrong) = (0, Vec::new());
    for line in results.lines().skip(1) {
        let result: Value = serde_json::from_str(line).expect("a result");
        match result["verdict"].as_str() {
            Some("ran") => ran += 1,
            Some("refused" | "stuck") => {}
            _ => wrong.push(line.to_owned()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ran
}

/// The library that the probe has preloaded.
fn guard(dir: &Path) -> PathBuf {
    let library = dir.join("guard.so");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(folder().join("guard.c"))
        .status()
        .expect("a C compiler, `cc`: this test compiles a library");
    assert!(compiled.success());
    library
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe")
}

fn run(args: &[&str], preloaded: Option<&Path>) -> String {
    let target = assets();
    let mut command = Command::new("python3");
    command.arg(folder().join("probe.py")).args(args);
    command.env("PROBE_TARGET", target).env("PYTHONPATH", target.join("python"));
    if let Some(library) = preloaded {
        command.env("LD_PRELOAD", library);
    }
    let output = command.stderr(Stdio::inherit()).output().expect("python3");
    assert!(output.status.success(), "probe.py {args:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
