//! The settings' table against the program's flags and variables.

use crate::support::{program, proplet};
use proplet::config::{SETTINGS, worker_args};

/// A value that the setting takes and that is not its default.
fn other_value(name: &str) -> &'static str {
    match name {
        "domain-id" | "channel-id" | "client-id" | "client-key" => "another",
        "mqtt-address" => "tls://broker.example:8884",
        "mqtt-timeout" | "mqtt-keep-alive" => "45s",
        "mqtt-qos" => "0",
        "mqtt-max-packet-size" => "1MiB",
        "mqtt-clean-session" => "false",
        "liveliness-interval" => "2s",
        "executors" | "queue" | "task-graphs" | "task-contexts" | "daemons" | "deployments" => "3",
        "result-hold" => "20ms",
        "result-repeat" => "3s",
        "manager-url" => "https://manager.example:7070",
        "manager-token" => "another",
        "manager-ca-cert" => "file.pem",
        "registry" => "registry.example:5000",
        "registry-user" | "registry-password" | "registry-token" => "another",
        "image-timeout" => "7s",
        "image-cache" => "64MiB",
        "coordinator-url" | "model-registry-url" | "data-store-url" => "http://fl.example:8081",
        "registry-ca-cert" | "round-ca-cert" => "file.pem",
        "round-hosts" => "fl.example:8082",
        "round-data-size" => "1MiB",
        "round-missing-data" => "run",
        "drain-timeout" | "task-timeout" => "7s",
        "isolation" => "none",
        "runtime-memory" => "300MiB",
        "task-memory" | "task-graph-memory" | "task-tensor-memory" | "module-size"
        | "model-size" | "module-cache" | "file-cache" | "graph-cache" | "disk-cache" => "64MiB",
        "queue-bytes" | "deployment-bytes" => "64MiB",
        "invoke-timeout" => "7s",
        "queue-memory" => "16MiB",
        "http-enabled" | "http-access-log" => "true",
        "allow-hosts" => "example.org,*.example.org:443",
        "http-tls-ca-cert" => "file.pem",
        "image-hosts" => "registry.example",
        "http-bind" => "127.0.0.1",
        "http-proxy-port" => "8300",
        "http-timeout" => "7s",
        "http-requests" => "7",
        "http-body" => "1MiB",
        "state-dir" => "state",
        "stateless" => "true",
        "task-output" | "result-size" => "64KiB",
        "nn-backend" if cfg!(feature = "onnx") => "rten",
        "nn-backend" if cfg!(feature = "openvino") => "openvino",
        "nn-backend" => "auto",
        "nn-hint" => "latency",
        "nn-precision" => "auto",
        "nn-operators" => "all",
        "nn-devices" => "cpu=AUTO:CPU,tpu=NPU",
        "nn-graphs" => "openvino::models/tiny",
        "log-level" => "debug",
        "log-format" => "json",
        "collect-system-info" | "nn-load-bytes" | "metrics-enabled" | "enable-monitoring" => {
            "false"
        }
        "metrics-port" => "9099",
        "metrics-bind" => "127.0.0.2",
        "metrics-interval" => "20s",
        "mqtt-tls-ca-cert" | "mqtt-tls-client-cert" | "mqtt-tls-client-key" => "file.pem",
        "dirs" => "files:models:rw",
        "openvino-lib" => "/opt/openvino",
        "torch-lib" => "/opt/proplet",
        "description" | "tags" | "location" | "namespace" => "words",
        "config-file" | "config-section" => "unused",
        new => panic!("the setting `{new}` is not tested: give it a value here"),
    }
}

#[test]
fn every_flag_of_worker_has_the_variable_of_its_name_and_wins_over_it() {
    use clap::Command;
    use proplet::config::{Config, Environment, Source};
    let folder = tempfile::tempdir().expect("a directory");
    let base = [
        ("PROPLET_DOMAIN_ID", "d"),
        ("PROPLET_CHANNEL_ID", "c"),
        ("PROPLET_CLIENT_ID", "w"),
        ("PROPLET_CLIENT_KEY", "k"),
        ("PROPLET_MQTT_TLS_CLIENT_CERT", "c.pem"),
        ("PROPLET_MQTT_TLS_CLIENT_KEY", "k.pem"),
        ("PROPLET_REGISTRY_USER", "u"),
        ("PROPLET_REGISTRY_PASSWORD", "p"),
    ];
    let environment = || {
        let empty = Environment::new(folder.path());
        base.iter().fold(empty, |env, (name, value)| env.with(name, *value))
    };
    let load = |flags: &[&str], env: &Environment| {
        let command = Command::new("worker").args(worker_args());
        let matches = command.get_matches_from([&["worker"], flags].concat());
        Config::load(&matches, env).unwrap_or_else(|e| panic!("{flags:?}: {e}"))
    };
    for setting in SETTINGS.iter().filter(|setting| !setting.name.starts_with("config-")) {
        let variable = format!("PROPLET_{}", setting.name.replace('-', "_").to_uppercase());
        assert_eq!(setting.variable(), variable);
        let value = other_value(setting.name);
        let resolved = |config: &Config| {
            let found = config.report.iter().find(|found| found.setting.name == setting.name);
            let found = found.unwrap_or_else(|| panic!("`{}` was not read", setting.name));
            (found.value.clone(), found.source.clone())
        };
        let shown = Some(if setting.secret { "…" } else { value }.to_owned());
        let by_variable = load(&[], &environment().with(&variable, value));
        assert_eq!(resolved(&by_variable), (shown.clone(), Source::Environment(variable.clone())));
        let flag = format!("--{}={value}", setting.name);
        assert_eq!(resolved(&load(&[&flag], &environment())), (shown.clone(), Source::Flag));
        let both = environment().with(&variable, value);
        assert_eq!(resolved(&load(&[&flag], &both)), (shown, Source::Flag));
    }
}

#[test]
fn help_shows_every_setting_with_its_variable_and_its_default() {
    use proplet::config::DefaultValue;
    let ran = proplet(&["worker", "--help"], b"", &[]);
    assert_eq!(ran.code, Some(0));
    // The width of the terminal decides on the line breaks.
    let help = ran.text().split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in SETTINGS {
        let default = match setting.default {
            DefaultValue::Absent => String::new(),
            DefaultValue::Text(text) | DefaultValue::Computed(text) => format!("default: {text}, "),
        };
        // Of a switch the value may be left out.
        let value = if setting.value == "BOOL" { "[=<" } else { " <" };
        for part in [
            format!("--{}{value}", setting.name),
            format!("[{default}variable: {}]", setting.variable()),
        ] {
            assert!(help.contains(&part), "`{part}` is not in: {help}");
        }
    }
}

#[test]
fn the_version_names_the_commit_and_the_backends() {
    let ran = proplet(&["--version"], b"", &[]);
    assert_eq!(ran.code, Some(0));
    let backend = match (cfg!(feature = "openvino"), cfg!(feature = "onnx")) {
        (true, true) => "openvino, rten",
        (true, false) => "openvino",
        (false, true) => "rten",
        (false, false) => "none",
    };
    for part in ["proplet 0.", "wasmtime 48.", backend] {
        assert!(ran.text().contains(part), "{part}: {}", ran.text());
    }
}

#[test]
fn a_configuration_with_many_faults_names_them_all() {
    let output = program()
        .args(["worker", "--executors=none", "--mqtt-qos=3"])
        .env("PROPLET_TASK_TIMEOUT", "soon")
        .current_dir(crate::support::fixtures())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    for part in
        ["--executors none", "--mqtt-qos 3", "PROPLET_TASK_TIMEOUT=soon", "PROPLET_DOMAIN_ID"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
}
