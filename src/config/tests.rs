use super::*;
use proptest::prelude::*;
use std::path::Path;

/// The guide's `.env` after Method A.
const GUIDE: [(&str, &str); 5] = [
    ("PROPLET_DOMAIN_ID", "016fd903-9dda-4f14-b12c-566cfa685698"),
    ("PROPLET_CHANNEL_ID", "6ed13fba-bd73-4a12-9e92-6251763374c4"),
    ("PROPLET_CLIENT_ID", "38a244df-6081-4b11-9437-847a825c7cec"),
    ("PROPLET_CLIENT_KEY", "6c1d3f6c-267d-4b1c-8407-7882ae9577c3"),
    ("PROPLET_EXTERNAL_WASM_RUNTIME", "wasmtime"),
];

/// The file that provisioning writes, for Method B.
const PROVISIONED: &str = r#"
[manager]
domain_id = "016fd903-9dda-4f14-b12c-566cfa685698"
channel_id = "6ed13fba-bd73-4a12-9e92-6251763374c4"
client_id = "5c02f237-c252-435e-b75c-4132a9cf885a"
client_key = "51d62814-21e3-4857-8f4d-5e41e26eadd9"

[proplet]
domain_id = "016fd903-9dda-4f14-b12c-566cfa685698"
channel_id = "6ed13fba-bd73-4a12-9e92-6251763374c4"
client_id = "38a244df-6081-4b11-9437-847a825c7cec"
client_key = "6c1d3f6c-267d-4b1c-8407-7882ae9577c3"

[proxy]
domain_id = "016fd903-9dda-4f14-b12c-566cfa685698"
"#;

const KEY: &str = "6c1d3f6c-267d-4b1c-8407-7882ae9577c3";

/// A place to start a worker in.
struct Setup {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
    flags: Vec<String>,
}

impl Setup {
    fn empty() -> Setup {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Setup { dir, variables: Vec::new(), flags: Vec::new() }
    }

    fn guide() -> Setup {
        GUIDE[..4].iter().fold(Setup::empty(), |setup, (name, value)| setup.with(name, value))
    }

    fn with(mut self, name: &str, value: &str) -> Setup {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn file(self, name: &str, text: &str) -> Setup {
        std::fs::write(self.dir.path().join(name), text).expect("written");
        self
    }

    fn flags(mut self, flags: &[&str]) -> Setup {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    fn env(&self) -> Environment {
        let env = Environment::new(self.dir.path()).with("HOME", "/home/me");
        self.variables.iter().fold(env, |env, (name, value)| env.with(name, value))
    }

    fn matches(&self, args: Vec<clap::Arg>) -> ArgMatches {
        let line = std::iter::once("worker".to_owned()).chain(self.flags.iter().cloned());
        clap::Command::new("worker").args(args).try_get_matches_from(line).expect("known flags")
    }

    fn load(&self) -> Config {
        Config::load(&self.matches(worker_args()), &self.env()).expect("a configuration")
    }

    fn error(&self) -> String {
        let loaded = Config::load(&self.matches(worker_args()), &self.env());
        let text = loaded.expect_err("an error").to_string();
        assert!(!text.contains(KEY), "the key is shown: {text}");
        text
    }

    fn submit(&self) -> Result<SubmitConfig, String> {
        SubmitConfig::load(&self.matches(submit_args()), &self.env()).map_err(|e| e.to_string())
    }
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn the_guides_method_a_is_read() {
    let config = GUIDE
        .iter()
        .fold(Setup::empty(), |setup, (name, value)| setup.with(name, value))
        .with("PROPLET_CONFIG_FILE", "")
        .with("PROPLET_LOG_LEVEL", "info")
        .with("PROPLET_MQTT_ADDRESS", "tcp://mqtt-adapter:1883")
        .with("PROPLET_MQTT_QOS", "2")
        .with("PROPLET_MQTT_TIMEOUT", "30")
        .with("PROPLET_LIVELINESS_INTERVAL", "10")
        .load();
    assert_eq!(config.credentials.domain, GUIDE[0].1);
    assert_eq!(config.credentials.channel, GUIDE[1].1);
    assert_eq!(config.credentials.client_id, GUIDE[2].1);
    assert_eq!(config.credentials.client_key.expose(), KEY);
    assert_eq!(config.connection.url(), "tcp://mqtt-adapter:1883");
    assert_eq!(config.connection.timeout, Duration::from_secs(30));
    assert_eq!(config.connection.qos, Qos::AtLeastOnce);
    assert_eq!(config.liveliness_interval, Duration::from_secs(5));
    let warnings = config.warnings.join("\n");
    assert_eq!(config.warnings.len(), 3, "{warnings}");
    assert_contains(
        &warnings,
        &[
            "PROPLET_EXTERNAL_WASM_RUNTIME is set: this worker runs tasks itself",
            "mqtt-qos is 2",
            "liveliness-interval is 10s, and 5s is used",
        ],
    );
    assert!(!format!("{config:?}").contains(KEY), "the key is shown");
}

#[test]
fn the_guides_method_b_is_read() {
    let named = Setup::empty()
        .file("mine.toml", PROVISIONED)
        .with("PROPLET_CONFIG_FILE", "mine.toml")
        .with("PROPLET_CONFIG_SECTION", "proplet");
    let unnamed = Setup::empty().file("config.toml", PROVISIONED);
    let flagged = Setup::empty().file("a.toml", PROVISIONED).flags(&["--config-file=a.toml"]);
    for setup in [named, unnamed, flagged] {
        let config = setup.load();
        assert_eq!(config.credentials.client_id, GUIDE[2].1);
        assert_eq!(config.credentials.client_key.expose(), KEY);
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let config = Setup::guide().load();
    assert_eq!(config.connection.url(), "tcp://localhost:1883");
    assert_eq!(config.connection.max_packet_size, 144 << 20);
    assert_eq!(config.connection.keep_alive, Duration::from_secs(30));
    assert_eq!(config.liveliness_interval, Duration::from_secs(5));
    assert_eq!(config.queue, 100_000);
    assert_eq!(config.limits.timeout, Some(Duration::from_secs(300)));
    assert_eq!(config.limits.memory, 512 << 20);
    assert_eq!(config.limits.output, 256 << 10);
    assert_eq!((config.module_size, config.model_size), (100 << 20, 512 << 20));
    assert_eq!((config.module_cache, config.graph_cache), (512 << 20, 1 << 30));
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!((config.dirs, config.openvino_lib), (None, None));
    assert_eq!(config.description.namespace, "default");
    assert!(config.description.collect_system_info);
    let listen = config.monitoring.listen.map(|address| address.to_string());
    assert_eq!(listen.as_deref(), Some("127.0.0.1:9092"));
    assert_eq!(config.monitoring.report_every, Some(Duration::from_secs(10)));
    assert_eq!(config.log, LogConfig { directives: "info".into(), format: LogFormat::Text });
    assert_eq!(config.warnings, Vec::<String>::new());
    let reported: Vec<_> = config.report.iter().map(|resolved| resolved.setting.name).collect();
    for setting in SETTINGS {
        assert_eq!(
            reported.iter().filter(|name| **name == setting.name).count(),
            1,
            "{}",
            setting.name
        );
    }
}

#[test]
fn executors_follow_the_cores_and_the_hint_follows_them() {
    let setup = Setup::guide();
    let four = NonZeroUsize::new(4).expect("not zero");
    let config = Config::from_environment(&setup.env().with_cores(four)).expect("a configuration");
    assert_eq!((config.executors.get(), config.nn_hint), (8, Hint::Throughput));
    let config = Setup::guide().with("PROPLET_EXECUTORS", "1").load();
    assert_eq!((config.executors.get(), config.nn_hint), (1, Hint::Latency));
    let config = Setup::guide().flags(&["--executors=1", "--nn-hint=throughput"]).load();
    assert_eq!(config.nn_hint, Hint::Throughput);
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let toml = "[proplet]\nqueue = 3\nexecutors = \"3\"\ntask_timeout = 3\nlocation = \"file\"\n";
    let config = Setup::guide()
        .file("config.toml", toml)
        .with("PROPLET_QUEUE", "2")
        .with("PROPLET_EXECUTORS", "2")
        .with("PROPLET_LOCATION", "")
        .flags(&["--queue=1"])
        .load();
    assert_eq!((config.queue, config.executors.get()), (1, 2));
    assert_eq!(config.limits.timeout, Some(Duration::from_secs(3)));
    assert_eq!(config.description.location.as_deref(), Some("file"), "an empty variable is unset");
    let source = |name: &str| {
        let found = config.report.iter().find(|resolved| resolved.setting.name == name);
        found.map(|resolved| resolved.source.to_string()).unwrap_or_default()
    };
    assert_eq!(source("queue"), "a flag");
    assert_eq!(source("executors"), "the variable PROPLET_EXECUTORS");
    assert_eq!(source("task-timeout"), "`task_timeout` in section [proplet] of config.toml");
    assert_eq!(source("task-memory"), "the default");
}

#[test]
fn both_generations_of_names_are_read_and_must_agree() {
    let renamed = Setup::empty()
        .with("PROPLET_TENANT_ID", "d")
        .with("PROPLET_CHANNEL_ID", "c")
        .with("PROPLET_ENTITY_ID", "e")
        .with("PROPLET_API_KEY", KEY);
    assert_eq!(renamed.load().credentials.client_id, "e");
    let toml =
        "[proplet]\ntenant_id = \"d\"\nchannel_id = \"c\"\nentity_id = \"e\"\napi_key = \"k\"\n";
    assert_eq!(Setup::empty().file("config.toml", toml).load().credentials.domain, "d");

    let same = renamed.with("PROPLET_CLIENT_ID", "e");
    assert_eq!(same.load().credentials.client_id, "e");
    let different = same.with("PROPLET_CLIENT_KEY", "other").with("PROPLET_DOMAIN_ID", "x");
    assert_contains(
        &different.error(),
        &["PROPLET_CLIENT_KEY", "PROPLET_API_KEY", "PROPLET_DOMAIN_ID", "PROPLET_TENANT_ID"],
    );
    let toml = "[proplet]\nclient_id = \"a\"\nentity_id = \"b\"\n";
    assert_contains(
        &Setup::empty().file("config.toml", toml).error(),
        &["`client_id`", "`entity_id`", "[proplet]"],
    );
}

#[test]
fn credentials_of_two_places_must_agree() {
    assert_eq!(Setup::guide().file("config.toml", PROVISIONED).load().warnings.len(), 0);
    let mixed =
        Setup::guide().file("config.toml", &PROVISIONED.replace(KEY, "11111111-rotated")).error();
    assert_contains(
        &mixed,
        &["client key", "PROPLET_CLIENT_KEY", "[proplet] of config.toml", "mixes"],
    );
    assert!(!mixed.contains("rotated"), "{mixed}");
    let flagged = Setup::guide()
        .file("config.toml", &PROVISIONED.replace(KEY, "11111111-rotated"))
        .flags(&["--client-key=third"]);
    assert_eq!(flagged.load().credentials.client_key.expose(), "third", "a flag settles it");
}

#[test]
fn missing_credentials_are_listed_together() {
    let text = Setup::empty().with("PROPLET_DOMAIN_ID", "d").error();
    assert_contains(
        &text,
        &[
            "PROPLET_CHANNEL_ID, PROPLET_CLIENT_ID, PROPLET_CLIENT_KEY are not set",
            "propeller-cli provision",
        ],
    );
    assert!(!text.contains("PROPLET_DOMAIN_ID"), "{text}");
    let numbered = PROVISIONED.replace("[proplet]", "[proplet1]");
    let text = Setup::empty().file("config.toml", &numbered).error();
    assert_contains(&text, &["[proplet1]", "PROPLET_CONFIG_SECTION", "PROPLET_CLIENT_KEY"]);
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let text = Setup::guide().with("PROPLET_CONFIG_FILE", "/no/where.toml").error();
    assert_contains(&text, &["/no/where.toml", "PROPLET_CONFIG_FILE"]);
    let text = Setup::guide().flags(&["--config-file=absent.toml"]).error();
    assert_contains(&text, &["absent.toml", "a flag"]);
    let text = Setup::guide()
        .file("config.toml", PROVISIONED)
        .with("PROPLET_CONFIG_SECTION", "proplet7")
        .error();
    assert_contains(&text, &["[proplet7]", "[manager], [proplet], [proxy]"]);
    assert_contains(
        &Setup::guide().file("config.toml", "proplet = 1\n").error(),
        &["`proplet`", "not a section"],
    );
    // A file that lies there for another program is no reason to stop.
    let config = Setup::guide().file("config.toml", "[server]\nport = 1\n").load();
    assert_contains(&config.warnings.join("\n"), &["[proplet]", "[server]"]);
    assert_eq!(Setup::guide().with("PROPLET_CONFIG_SECTION", "proplet2").load().warnings.len(), 1);
}

#[test]
fn a_broken_file_is_named_with_its_line_but_not_its_text() {
    let toml = format!("[proplet]\ndomain_id = \"d\"\nclient_key = \"{KEY}\nqueue = 1\n");
    let text = Setup::empty().file("config.toml", &toml).error();
    assert_contains(&text, &["config.toml", "line 3"]);
}

#[test]
fn all_problems_are_reported_at_once_with_their_sources() {
    let text = Setup::guide()
        .file("config.toml", "[proplet]\ntask_memory = 1\nqos = 1\nmqtt_qos = [[1]]\n")
        .with("PROPLET_QUEUE", "abc")
        .with("PROPLET_EXECUTORS", "0")
        .with("PROPLET_MQTT_ADDRESS", "http://broker")
        .with("PROPLET_MQTT_TLS_CLIENT_CERT", "a.pem")
        .flags(&["--task-timeout=soon", "--liveliness-interval=0"])
        .error();
    assert_contains(
        &text,
        &[
            "`PROPLET_QUEUE=abc` (from the environment)",
            "`PROPLET_EXECUTORS=0` (from the environment): too small: the least is 1",
            "`PROPLET_MQTT_ADDRESS=http://broker`",
            "mqtt-tls-client-key is not",
            "`--task-timeout soon`",
            "`--liveliness-interval 0`",
            "`task_memory = 1` (in section [proplet] of config.toml): too small: the least is 64KiB",
            "`mqtt_qos` in section [proplet] of config.toml is neither text",
        ],
    );
    assert_eq!(text.lines().count(), 8, "{text}");
}

#[test]
fn a_password_in_the_address_is_not_shown() {
    let address = format!("tcp://me:{KEY}@broker");
    let text = Setup::guide().with("PROPLET_MQTT_ADDRESS", &address).error();
    assert_contains(&text, &["…@broker", "client key"]);
}

#[test]
fn every_value_has_its_forms() {
    let config = Setup::guide()
        .with("PROPLET_MQTT_TIMEOUT", "1m30s")
        .with("PROPLET_TASK_TIMEOUT", "none")
        .with("PROPLET_DRAIN_TIMEOUT", "500ms")
        .with("PROPLET_TASK_MEMORY", "64MB")
        .with("PROPLET_GRAPH_CACHE", "0")
        .with("PROPLET_DIRS", "/fixture:/data:rw:/models")
        .with("PROPLET_NN_GRAPHS", "openvino::/models/a, openvino::/m:b")
        .with("PROPLET_TAGS", "gpu, edge,,")
        .with("PROPLET_COLLECT_SYSTEM_INFO", "no")
        .with("PROPLET_MANAGER_K8S_NAMESPACE", "edge")
        .with("PROPLET_MQTT_ADDRESS", "ssl://broker")
        .with("PROPLET_MQTT_TLS_CLIENT_CERT", "c.pem")
        .with("PROPLET_MQTT_TLS_CLIENT_KEY", "k.pem")
        .with("PROPLET_LOG_FORMAT", "JSON")
        .with("PROPLET_METRICS_BIND", "[::]")
        .with("PROPLET_METRICS_PORT", "0")
        .with("PROPLET_ENABLE_MONITORING", "false")
        .load();
    let listen = config.monitoring.listen.map(|address| address.to_string());
    assert_eq!(listen.as_deref(), Some("[::]:0"));
    assert_eq!(config.monitoring.report_every, None);
    assert_eq!(config.connection.timeout, Duration::from_secs(90));
    assert_eq!(config.limits.timeout, None);
    assert_eq!(config.drain_timeout, Duration::from_millis(500));
    assert_eq!((config.limits.memory, config.graph_cache), (64_000_000, 0));
    let dirs = config.dirs.unwrap_or_default();
    assert_eq!(dirs.iter().map(|dir| dir.writable).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(config.nn_graphs[1], GraphFlag { encoding: "openvino".into(), dir: "/m:b".into() });
    assert_eq!(config.description.tags, ["gpu", "edge"]);
    assert!(!config.description.collect_system_info);
    assert_eq!(config.description.namespace, "edge");
    assert_eq!(config.connection.address.port, 8883);
    assert!(config.connection.client_cert.is_some());
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);

    let toml = "[proplet]\ndirs = [\"/a\", \"/b:rw\"]\ntags = [\"x\", \"y\"]\ncollect_system_info = false\n";
    let config = Setup::guide().file("config.toml", toml).load();
    assert_eq!(config.dirs.map(|dirs| dirs.len()), Some(2));
    assert_eq!(config.description.tags, ["x", "y"]);
    assert!(!config.description.collect_system_info);
    assert!(
        Setup::guide().flags(&["--collect-system-info"]).load().description.collect_system_info
    );
}

#[test]
fn unknown_names_are_warned_about_and_not_refused() {
    let config = Setup::guide()
        .file("config.toml", "[proplet]\nquue = 1\nusb_enabled = true\nclient_kye = \"s3cret\"\n")
        .with("PROPLET_EXECUTOR", "4")
        .with("PROPLET_MQTT_INFLIGHT", "10")
        .with("PROPLET_OTEL_URL", "http://otel")
        .with("PROPLET_HAL_ENABLED", "false")
        .with("PROPLET_EMPTY", "")
        .with("PROPLET_MQTT_TLS_INSECURE_SKIP_VERIFY", "true")
        .load();
    let warnings = config.warnings.join("\n");
    assert_contains(
        &warnings,
        &[
            "PROPLET_EXECUTOR is not a setting; did you mean PROPLET_EXECUTORS?",
            "`quue` in section [proplet] of config.toml is not a setting",
            "PROPLET_MQTT_INFLIGHT, PROPLET_OTEL_URL, `usb_enabled` in section [proplet] of config.toml have no effect",
            "PROPLET_MQTT_TLS_CA_CERT",
        ],
    );
    assert!(!warnings.contains("HAL") && !warnings.contains("EMPTY"), "{warnings}");
    assert!(!warnings.contains("s3cret"), "{warnings}");
    assert_eq!(config.warnings.len(), 5, "{warnings}");
}

#[test]
fn quotation_marks_that_docker_leaves_are_taken_off() {
    let config = Setup::guide().with("PROPLET_LOCATION", "\"cellar\"").load();
    assert_eq!(config.description.location.as_deref(), Some("cellar"));
    assert_contains(&config.warnings.join("\n"), &["PROPLET_LOCATION", "--env-file"]);
}

#[test]
fn settings_without_effect_are_said() {
    let config = Setup::guide()
        .with("PROPLET_MQTT_TLS_CA_CERT", "ca.pem")
        .with("PROPLET_MQTT_KEEP_ALIVE", "5s")
        .load();
    assert_contains(&config.warnings.join("\n"), &["not encrypted", "mqtt-keep-alive is 5s"]);
}

#[test]
fn submit_connects_as_the_manager_if_it_can() {
    let manager = |setup: Setup| {
        setup
            .with("MANAGER_DOMAIN_ID", GUIDE[0].1)
            .with("MANAGER_CHANNEL_ID", GUIDE[1].1)
            .with("MANAGER_CLIENT_ID", "boss")
            .with("MANAGER_CLIENT_KEY", "boss-key")
    };
    let config = manager(Setup::guide()).submit().expect("a configuration");
    assert_eq!((config.username.as_str(), config.password.expose()), ("boss", "boss-key"));
    assert!(config.client_id.starts_with("boss-submit-") && config.client_id.len() == 20);
    assert_eq!(config.source, Source::Environment("MANAGER_CLIENT_ID".into()));
    let again = manager(Setup::guide()).submit().expect("a configuration");
    assert_ne!(config.client_id, again.client_id);

    let from_file =
        Setup::empty().file("config.toml", PROVISIONED).submit().expect("a configuration");
    assert_eq!(from_file.username, "5c02f237-c252-435e-b75c-4132a9cf885a");
    assert_contains(&from_file.source.to_string(), &["[manager] of config.toml"]);

    let worker = Setup::guide().flags(&["--mqtt-address=broker:1999"]).submit();
    let worker = worker.expect("a configuration");
    assert_eq!((worker.username.as_str(), worker.connection.address.port), (GUIDE[2].1, 1999));

    let shared = Setup::guide().with("MANAGER_CLIENT_ID", "boss").with("MANAGER_CLIENT_KEY", "k");
    let shared = shared.submit().expect("the worker's domain and channel");
    assert_eq!((shared.username.as_str(), shared.domain.as_str()), ("boss", GUIDE[0].1));
}

#[test]
fn submit_says_what_is_missing() {
    let text = Setup::guide().with("MANAGER_CLIENT_ID", "boss").submit().expect_err("no key");
    assert_contains(&text, &["MANAGER_CLIENT_KEY is not set"]);
    let text = Setup::empty().submit().expect_err("nothing");
    assert_contains(&text, &["PROPLET_CLIENT_ID", "MANAGER_"]);
    let rotated = Setup::empty().file("config.toml", PROVISIONED).with("MANAGER_CLIENT_KEY", "new");
    let text = rotated.submit().expect_err("two keys");
    assert_contains(&text, &["MANAGER_CLIENT_KEY", "[manager] of config.toml"]);
    let only_manager = PROVISIONED.replace("[proplet]", "[proplet1]");
    let setup = Setup::empty().file("m.toml", &only_manager).with("PROPLET_CONFIG_FILE", "m.toml");
    assert!(setup.submit().is_ok(), "a worker's section is not needed");
}

#[test]
fn flags_variables_and_table_agree() {
    let mut command = clap::Command::new("worker").args(worker_args());
    command.clone().debug_assert();
    clap::Command::new("submit").args(submit_args()).debug_assert();
    let help = command.render_long_help().to_string();
    let table = markdown_table();
    for setting in SETTINGS {
        let flag = format!("--{}", setting.name);
        let variable = format!("PROPLET_{}", setting.name.to_uppercase().replace('-', "_"));
        assert_eq!(setting.variable(), variable);
        assert_contains(&help, &[&flag, &variable, setting.group.heading()]);
        assert_contains(&table, &[&format!("`{flag}`"), &format!("`{variable}`")]);
        assert!(!setting.help.ends_with('.'), "{}", setting.name);
    }
    assert_eq!(table.lines().count(), SETTINGS.len() + 2);
    assert!(table.lines().all(|line| line.replace("\\|", "").matches('|').count() == 5), "{table}");
}

proptest! {
    #[test]
    fn no_environment_panics(
        values in prop::collection::vec((0..SETTINGS.len(), "\\PC{0,12}|[0-9]{0,6}(s|MiB|)"), 0..8)
    ) {
        let env = values.iter().fold(Environment::new("/nowhere"), |env, (at, value)| {
            env.with(&SETTINGS[*at].variable(), value)
        });
        if let Err(error) = Config::from_environment(&env) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(error.problems.iter().all(|problem| !problem.is_empty()));
        }
    }
}

#[test]
fn running_by_hand_reads_what_concerns_inference_as_a_worker_would() {
    let folder = tempfile::tempdir().expect("a directory");
    let load = |flags: &[&str], env: &Environment| {
        let command = clap::Command::new("run").args(run_args());
        let flags = [&["run"], flags].concat();
        Inference::load(&command.try_get_matches_from(flags).expect("flags"), env)
    };
    let env = Environment::new(folder.path());
    let plain = load(&[], &env).expect("the defaults");
    assert_eq!(
        (plain.precision, plain.hint, plain.load_bytes.clone()),
        (Precision::F32, None, LoadBytes::default())
    );
    let file = "[proplet]\nnn_precision = \"auto\"\nnn_hint = \"latency\"\n";
    std::fs::write(folder.path().join("config.toml"), file).expect("written");
    let env = env.with("PROPLET_NN_HINT", "throughput").with("PROPLET_OPENVINO_LIB", "/lib");
    assert_eq!(plain.operators, Operators::Checked);
    let flags = ["--nn-load-bytes=false", "--nn-graphs=openvino::/m/a", "--nn-operators=all"];
    let set = load(&flags, &env).expect("read");
    assert_eq!(set.operators, Operators::All);
    assert_eq!(plain.devices, Devices::default());
    let named = load(&["--nn-devices=gpu=AUTO:GPU,CPU, tpu=NPU"], &env).expect("read").devices;
    let device = |name: &str| Some(name.to_owned());
    let expected = Devices { cpu: device("CPU"), gpu: device("AUTO:GPU,CPU"), tpu: device("NPU") };
    assert_eq!(named, expected);
    for wrong in ["CPU", "npu=NPU", "cpu=", "cpu=CPU,cpu=CPU", "cpu=C P U", "cpu=CPU,"] {
        let flag = format!("--nn-devices={wrong}");
        let error = load(&[&flag], &env).expect_err(wrong);
        assert!(error.problems[0].contains("nn-devices"), "{error:?}");
    }
    assert_eq!((set.precision, set.hint), (Precision::Auto, Some(Hint::Throughput)));
    assert_eq!((set.load_bytes, set.graphs.len()), (LoadBytes::none(), 1));
    let loads = |value: &str| {
        let flag = format!("--nn-load-bytes={value}");
        load(&[&flag], &Environment::new(folder.path())).map(|set| set.load_bytes)
    };
    assert_eq!(loads("true").expect("read"), LoadBytes::All);
    let named = loads("onnx, PyTorch").expect("read");
    assert!(named.takes("pytorch") && named.takes("onnx") && !named.takes("openvino"));
    assert!(!plain.load_bytes.takes("pytorch"));
    assert!(loads("torch").expect_err("no encoding").problems[0].contains("not one of openvino"));
    assert_eq!(set.openvino_lib.as_deref(), Some(Path::new("/lib")));
    let wrong = load(&[], &env.with("PROPLET_NN_PRECISION", "f17")).expect_err("no precision");
    assert!(wrong.problems[0].contains("PROPLET_NN_PRECISION"), "{wrong:?}");
}
