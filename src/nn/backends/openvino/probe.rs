//! What `tests/probe` saw of each operator, against the list; and the probe's
//! hostile models as they are after the check, which the library must survive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::builders;
use super::operators::{self, Condition, PROBED, Rule};
use super::xml::Bounds;
use crate::nn::assets::assets;

/// What the probe saw of the supported version.
const TABLE: &str = include_str!("../../../../tests/probe/table.txt");

/// Operators whose hostile models are run in each round of the tests.
const SAMPLE: [&str; 14] = [
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
    "Convolution",
    "SnippetsOpset/Buffer",
];

/// Operators that may be mended, but whose honest models need no mend or, of open
/// shapes, are refused by the list or by the library.
const NEVER_MENDED: [&str; 11] = [
    "EmbeddingBagOffsetsSum",
    "EmbeddingBagPackedSum",
    "EmbeddingSegmentsSum",
    "Eye",
    "GatherND",
    "IRDFT",
    "LRN",
    "PSROIPooling",
    "RDFT",
    "ROIAlign",
    "ROIPooling",
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
fn the_table_is_of_the_version_that_the_list_was_made_for() {
    let first = TABLE.lines().next().expect("a line");
    assert!(first.starts_with(&format!("OpenVINO {PROBED}-")), "{first}");
}

#[test]
fn what_crashed_or_gave_foreign_bytes_is_not_called_safe() {
    let rows = rows();
    for (name, [ran, refused, crashed, foreign, _]) in &rows {
        assert!(ran + refused + crashed + foreign > 0, "{name} was not tried");
        // What is in no opset has its set's name before it, and is refused.
        if let Some((set, _)) = name.split_once('/') {
            assert!(operators::in_an_opset(set).is_err(), "{name}");
            continue;
        }
        let rule = operators::rule(name).unwrap_or_else(|| panic!("{name} is not in the list"));
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
    assert!(unknown.is_empty(), "not in src/nn/backends/openvino/operators/list.rs: {unknown:?}");
}

/// What a mend may bring about.
fn is_mended(condition: &Condition) -> bool {
    matches!(
        condition,
        Condition::NotEmpty { .. } | Condition::Within { .. } | Condition::Index { .. }
    )
}

/// Each operator that may be mended has an honest model of the probe that is, and
/// it gives the same bytes as the one that was not.
#[test]
fn answers_for_inputs_in_range_stay_what_they_were() {
    let mut pairs = Vec::new();
    for line in run(&["cases", "--honest"], None).lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let xml = case["xml"].as_str().expect("an XML");
        let weights = BASE64.decode(case["weights"].as_str().expect("weights")).expect("base64");
        let Ok(scan) = builders::check(&[xml.as_bytes(), &weights], Bounds::default()) else {
            continue;
        };
        if let Some(mended) = scan.mended {
            let mut other = case.clone();
            other["xml"] = String::from_utf8(mended).expect("text").into();
            pairs.extend([case, other]);
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let results = results(dir.path(), &pairs);
    let (mut same, mut wrong) = (BTreeSet::new(), Vec::new());
    for pair in results.as_chunks().0 {
        let [before, after]: &[Value; 2] = pair;
        // What the library itself refuses has no answer.
        if before["verdict"] != "ran" {
            continue;
        }
        match (&after["verdict"] == "ran", after["gave"] == before["gave"]) {
            (true, true) => drop(same.insert(before["op"].as_str().expect("text").to_owned())),
            _ => wrong.push(format!("{before} {after}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mended = operators::names().filter(|name| match operators::rule(name) {
        Some(Rule::When(conditions)) => conditions.iter().any(is_mended),
        _ => false,
    });
    let missing: Vec<_> = mended.filter(|name| !same.contains(*name)).collect();
    assert_eq!(missing, NEVER_MENDED, "of these no answer was compared");
}

#[test]
fn hostile_models_are_harmless_once_they_are_checked() {
    let mut args = vec!["cases", "--each", "3"];
    args.extend(SAMPLE.iter().flat_map(|name| ["--op", name]));
    let ran = checked(&args);
    assert!(ran > 10, "{ran} of them ran");
}

/// Operators that need elements, of inputs that have none along one dimension, which
/// alone is open: the library then works out more than where all are.
#[test]
fn what_has_no_elements_along_one_open_dimension_is_harmless() {
    let needs = |name: &str| match operators::rule(name) {
        Some(Rule::When(conditions)) => {
            conditions.iter().any(|condition| matches!(condition, Condition::NotEmpty { .. }))
        }
        _ => false,
    };
    let mut cases = Vec::new();
    for line in run(&["cases", "--honest"], None).lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        // Not the same again with all dimensions open, or with constants.
        let plain = case["case"].as_str().is_some_and(|name| name.ends_with(" honest"));
        if plain && needs(case["op"].as_str().expect("text")) {
            cases.extend(emptied(&case));
        }
    }
    assert!(cases.len() > 50, "{} cases", cases.len());
    run_checked(cases);
}

/// The same model with one dimension of one input open, and nothing along it.
fn emptied(case: &Value) -> Vec<Value> {
    let xml = case["xml"].as_str().expect("an XML");
    // Each input in its order: where its layer's shape stands.
    let places = xml.match_indices("type=\"Parameter\"").map(|(at, _)| {
        let from = at + xml[at..].find("shape=\"").expect("a shape") + "shape=\"".len();
        from..from + xml[from..].find('"').expect("its end")
    });
    let mut emptied = Vec::new();
    let fed = case["feed"].as_array().map_or(0, Vec::len);
    for (input, place) in places.enumerate().take(fed) {
        let dims: Vec<&str> = xml[place.clone()].split(',').filter(|dim| !dim.is_empty()).collect();
        for axis in [0, dims.len().saturating_sub(1)].into_iter().take(dims.len().min(2)) {
            let mut open = dims.clone();
            open[axis] = "?";
            let mut case = case.clone();
            case["xml"] =
                format!("{}{}{}", &xml[..place.start], open.join(","), &xml[place.end..]).into();
            case["feed"][input]["shape"][axis] = 0.into();
            case["feed"][input]["data"] = "".into();
            emptied.push(case);
        }
    }
    emptied
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
    let lines = run(args, None);
    run_checked(lines.lines().map(|line| serde_json::from_str(line).expect("a case")).collect())
}

fn run_checked(cases: Vec<Value>) -> usize {
    let dir = tempfile::tempdir().expect("a folder");
    let mut left = Vec::new();
    for mut case in cases {
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
            left.push(case);
        }
    }
    let (mut ran, mut wrong) = (0, Vec::new());
    for result in results(dir.path(), &left) {
        match result["verdict"].as_str() {
            Some("ran") => ran += 1,
            Some("refused" | "stuck") => {}
            _ => wrong.push(result.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    ran
}

/// What the probe says of each of these models.
fn results(dir: &Path, cases: &[Value]) -> Vec<Value> {
    let path = dir.join("cases");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a file"));
    for case in cases {
        writeln!(file, "{case}").expect("written");
    }
    file.into_inner().expect("written");
    let results = run(&["run", path.to_str().expect("text")], Some(&guard(dir)));
    // The first line is the version.
    let results = results.lines().skip(1);
    results.map(|line| serde_json::from_str(line).expect("a result")).collect()
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
