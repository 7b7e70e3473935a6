//! What the README says, held against the program.

use std::path::Path;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
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
