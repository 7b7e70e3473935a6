//! What is made of the table of settings: the flags of each verb, and the table
//! in the README.

use std::fmt::Write as _;

use clap::Arg;

use super::setting::{DefaultValue, Group, Setting};
use super::settings::SETTINGS;

/// The flags of `proplet worker`: every setting has one.
pub fn worker_args() -> Vec<Arg> {
    SETTINGS.iter().map(Setting::arg).collect()
}

/// The flags of a verb that only connects, as `proplet submit` does.
pub fn submit_args() -> Vec<Arg> {
    SETTINGS.iter().filter(|setting| for_submit(setting)).map(Setting::arg).collect()
}

/// The flags of `proplet run`: what concerns inference, images, requests and federated
/// rounds, and where it is read.
pub fn run_args() -> Vec<Arg> {
    let asked = |setting: &&Setting| {
        (matches!(setting.group, Group::Inference | Group::Images | Group::Rounds | Group::File)
            && !matches!(setting.name, "image-cache" | "image-hosts"))
            || matches!(setting.name, "allow-hosts" | "http-tls-ca-cert")
    };
    SETTINGS.iter().filter(asked).map(Setting::arg).collect()
}

/// The flags of `proplet health`: what tells it where the worker listens.
pub fn health_args() -> Vec<Arg> {
    let asked = |setting: &&Setting| {
        setting.group == Group::File
            || setting.name == "client-id"
            || matches!(setting.name, "metrics-enabled" | "metrics-port" | "metrics-bind")
    };
    SETTINGS.iter().filter(asked).map(Setting::arg).collect()
}

fn for_submit(setting: &Setting) -> bool {
    match setting.group {
        Group::Credentials | Group::Logging | Group::File => true,
        Group::Connection => !matches!(setting.name, "liveliness-interval" | "mqtt-clean-session"),
        _ => false,
    }
}

/// The settings as the README's table.
pub fn markdown_table() -> String {
    let mut text = String::from("| Flag | Variable | Default | What it is |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let variables: Vec<_> =
            setting.variables("PROPLET_").map(|name| format!("`{name}`")).collect();
        let default = match setting.default {
            DefaultValue::Absent => String::new(),
            DefaultValue::Text(text) => format!("`{text}`"),
            DefaultValue::Computed(text) => text.to_owned(),
        };
        // Writing to a string never fails.
        let _ = writeln!(
            text,
            "| `--{}` | {} | {default} | {} |",
            setting.name,
            variables.join(", "),
            setting.help.replace('|', "\\|"),
        );
    }
    text
}
