//! What the README and the other pages say, held against the program.

use proplet::nn::{BackendName, LoadBytes};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
}

fn readme() -> String {
    read(&source("README.md"))
}

/// The names of all functions below a folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path);
            let name = |rest: &str| {
                rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .map(str::to_owned)
            };
            names.extend(text.split("fn ").skip(1).filter_map(name));
        }
    }
}

#[test]
fn the_settings_in_the_readme_are_those_of_the_program() {
    let readme = readme();
    let (_, rest) = readme.split_once("<!-- settings -->").expect("a marker before the settings");
    let (table, _) = rest.split_once("<!-- /settings -->").expect("a marker after the settings");
    assert_eq!(
        table.trim(),
        proplet::config::markdown_table().trim(),
        "the table in README.md is not that of src/config/settings.rs: put this one there"
    );
}

#[test]
fn the_readme_has_the_command_that_runs_the_tests() {
    let readme = readme();
    let mut commands = readme.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    assert!(commands.any(|command| command == "cargo test --features openvino"));
}

/// A hazard says which test has it, or that none does.
#[test]
fn each_hazard_has_its_tests_or_is_open() {
    let architecture = read(&source("ARCHITECTURE.md"));
    let (_, table) = architecture.split_once("## The hazards").expect("the table of hazards");
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        functions(&source(folder), &mut names);
    }
    let mut cases = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [numbers, _, _, tests] = cells[..] else { panic!("four cells: {row}") };
        for number in numbers.trim_start_matches("| ").split(", ") {
            let number: u32 = number.parse().unwrap_or_else(|_| panic!("a number: {row}"));
            assert!(cases.insert(number), "case {number} is there twice");
        }
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || row.contains("**open**"), "no test, and not open: {row}");
        for test in tests {
            assert!(names.contains(test), "there is no test `{test}`: {row}");
        }
    }
    assert_eq!(cases, (1..=*cases.last().expect("a case")).collect(), "a case is missing");
}

/// Each message and field of the protocol has its tests, and so has each way in which
/// a part of an image, a round's service or a worker of a round can fail.
#[test]
fn each_message_field_and_failure_of_the_tables_has_its_tests() {
    let architecture = read(&source("ARCHITECTURE.md"));
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        functions(&source(folder), &mut names);
    }
    let sections =
        ["## The wire", "## Hazards of components", "## Parts of an image", "## Federated rounds"];
    for section in sections {
        let (_, text) = architecture.split_once(section).expect(section);
        let (text, _) = text.split_once("\n## ").expect("what follows it");
        each_row_has_its_tests(text, &names);
    }
}

fn each_row_has_its_tests(text: &str, names: &BTreeSet<String>) {
    let lines: Vec<&str> = text.lines().collect();
    let is_head = |line: &str| line.starts_with("|---");
    let rows = lines.windows(2).filter(|two| two[0].starts_with("| ") && !is_head(two[1]));
    let rows: Vec<&str> = rows.map(|two| two[0]).collect();
    assert!(rows.len() > 3, "{text}");
    for row in rows {
        let (_, tests) = row.trim_end_matches(" |").rsplit_once(" | ").expect("cells");
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(names.contains(test), "there is no test `{test}`: {row}");
        }
    }
}

/// Each encoding has a test for each backend that takes it, by bytes and by name.
#[test]
fn each_encoding_has_its_tests_by_bytes_and_by_name() {
    let architecture = read(&source("ARCHITECTURE.md"));
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        functions(&source(folder), &mut names);
    }
    let (_, table) =
        architecture.split_once("| encoding | backend | by bytes |").expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let (mut encoding, mut served) = (String::new(), BTreeSet::new());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [own, backend, bytes, name] = cells[..] else { panic!("four cells: {row}") };
        if let Some(first) = own.split('`').nth(1) {
            first.clone_into(&mut encoding);
        }
        served.insert((encoding.clone(), backend.to_owned()));
        for cell in [bytes, name] {
            let tests: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty() || cell == "the same", "no test: {row}");
            for test in tests {
                assert!(names.contains(test), "there is no test `{test}`: {row}");
            }
        }
    }
    for encoding in LoadBytes::ENCODINGS {
        assert!(
            served.iter().any(|(known, _)| known == encoding),
            "{encoding} is not in the table"
        );
    }
    for backend in BackendName::ALL {
        let known = served.iter().any(|(_, known)| *known == backend.name());
        assert!(known, "{} is not in the table", backend.name());
    }
}

/// Files move; the pages for contributors must follow.
#[test]
fn each_file_that_the_pages_for_contributors_name_is_there() {
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(&source(page));
        let names = text.split('`').skip(1).step_by(2);
        let files = names.filter(|name| name.ends_with(".rs") || name.ends_with(".json"));
        let mut seen = 0;
        for file in files {
            seen += 1;
            let there = ["", "src"].iter().any(|folder| source(folder).join(file).exists());
            assert!(there, "{page} names `{file}`, which is not there");
        }
        assert!(seen > 5, "{page} names {seen} files");
    }
}
