//! What `tests/probe` saw of each operator, against the list; and the probe's
//! hostile models as they are after the check, which the library must survive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
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
const NEVER_MENDED: [&str; 13] = [
    "EmbeddingBagOffsetsSum",
    "EmbeddingBagPackedSum",
    "EmbeddingSegmentsSum",
    "Eye",
    "GatherND",
    "IRDFT",
    "LRN",
    "LSTMCell",
    "PSROIPooling",
    "RandomUniform",
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
        // What is in no opset has its set's name before it, and is refused. Those that
        // the library makes of others are not named by models.
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
    let listed = run(&["operators"]);
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
    for case in cases(&["cases", "--honest"]) {
        // The library makes one operator of these in one of the two alone, and the last
        // bit of the answer is another one.
        let apart = ["fused/cache_by_parts", "fused/rope", "fused/rope_by_place"];
        if apart.iter().any(|name| case["op"] == *name) {
            continue;
        }
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
    let results = results(dir.path(), &pairs, None);
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
    let sums = run_checked(cases(&args), None);
    assert!(sums.ran > 10, "{sums:?}");
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
    let names: Vec<_> = operators::names().filter(|name| needs(name)).collect();
    let args = ["cases"].into_iter().chain(names.iter().flat_map(|name| ["--op", name]));
    let mut cases = cases(&args.collect::<Vec<_>>());
    cases.retain(|case| case["case"].as_str().is_some_and(|name| name.ends_with("=0 alone open")));
    assert!(cases.len() > 50, "{} cases", cases.len());
    run_checked(cases, None);
}

/// By hand, see CONTRIBUTING.md. `PROBE_EACH=10` takes so many of each honest layer,
/// `PROBE_CHECKED` names a file for the models as the check leaves them, which are not
/// run then, and `PROBE_KNOWN` one with what `probe.py run` found of some or all of them.
#[test]
#[ignore = "half an hour"]
fn all_models_of_the_probe_are_harmless_once_they_are_checked() {
    let set = |name| std::env::var(name).ok();
    let each = set("PROBE_EACH").unwrap_or_else(|| "0".into());
    let cases = cases(&["cases", "--each", &each]);
    let sums = match set("PROBE_CHECKED") {
        Some(path) => {
            let (left, sums) = check(cases);
            write(Path::new(&path), &left);
            sums
        }
        None => run_checked(cases, set("PROBE_KNOWN").as_deref()),
    };
    println!("{sums:?}");
}

/// The probe's models.
fn cases(args: &[&str]) -> Vec<Value> {
    run(args).lines().map(|line| serde_json::from_str(line).expect("a case")).collect()
}

/// How many models the check refused and mended, and what came of the others.
#[derive(Debug, Default)]
struct Sums {
    refused: usize,
    mended: usize,
    ran: usize,
    refused_by_the_library: usize,
    stuck: usize,
}

/// The models as the check leaves them: without those that it refuses.
fn check(cases: Vec<Value>) -> (Vec<Value>, Sums) {
    let (mut left, mut sums) = (Vec::new(), Sums::default());
    for mut case in cases {
        let xml = case["xml"].as_str().expect("an XML").to_owned();
        let weights = BASE64.decode(case["weights"].as_str().expect("weights")).expect("base64");
        let Ok(scan) = builders::check(&[xml.as_bytes(), &weights], Bounds::default()) else {
            sums.refused += 1;
            continue;
        };
        if let Some(mended) = scan.mended {
            sums.mended += 1;
            case["xml"] = String::from_utf8(mended).expect("text").into();
        }
        left.push(case);
    }
    (left, sums)
}

/// Runs what is left of the models after the check. None may crash or show a foreign byte.
fn run_checked(cases: Vec<Value>, known: Option<&str>) -> Sums {
    let dir = tempfile::tempdir().expect("a folder");
    let (left, mut sums) = check(cases);
    let mut wrong = Vec::new();
    for result in results(dir.path(), &left, known) {
        match result["verdict"].as_str() {
            Some("ran") => sums.ran += 1,
            Some("refused") => sums.refused_by_the_library += 1,
            Some("stuck") => sums.stuck += 1,
            _ => wrong.push(result.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{sums:?}\n{}", wrong.join("\n"));
    sums
}

fn write(path: &Path, cases: &[Value]) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a file"));
    for case in cases {
        writeln!(file, "{case}").expect("written");
    }
    file.into_inner().expect("written");
}

/// What the probe says of each of these models, or of the same one in `known`.
fn results(dir: &Path, cases: &[Value], known: Option<&str>) -> Vec<Value> {
    let path = dir.join("cases");
    write(&path, cases);
    let mut args = vec!["run", path.to_str().expect("text")];
    args.extend(known.iter().flat_map(|known| ["--known", known]));
    let results = run(&args);
    // The first line is the version.
    let results = results.lines().skip(1);
    let results: Vec<Value> =
        results.map(|line| serde_json::from_str(line).expect("a result")).collect();
    assert_eq!(results.len(), cases.len());
    results
}

/// What `tests/probe/probe.py` prints. It needs a C compiler, `cc`.
fn run(args: &[&str]) -> String {
    let target = assets();
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe/probe.py");
    let mut command = Command::new("python3");
    command.arg(probe).args(args);
    command.env("PROBE_TARGET", target).env("PYTHONPATH", target.join("python"));
    let output = command.stderr(Stdio::inherit()).output().expect("python3");
    assert!(output.status.success(), "probe.py {args:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}
