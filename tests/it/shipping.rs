//! What lies in `docker/`, held against the program: a name that is wrong
//! there is found by nobody but an operator.

use proplet::config::{Config, DefaultValue, Environment, SETTINGS};
use proplet::journal::JournalLevels;
use proplet::metrics::{Metrics, RuntimeLevels};
use proplet::nn::{Nn, NnConfig};
use proplet::runtime::Served;
use proplet::task::TaskId;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use yaml_rust2::{Yaml, YamlLoader};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()))
}

fn yaml(name: &str) -> Yaml {
    let documents =
        YamlLoader::load_from_str(&read(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(documents.len(), 1, "{name} is one document");
    documents.into_iter().next().expect("one")
}

/// The words of a text that begin so and go on with letters of one case.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    words.filter(|word| word.starts_with(prefix) && word.len() > prefix.len()).collect()
}

fn list<'a>(yaml: &'a Yaml, what: &str) -> &'a [Yaml] {
    yaml.as_vec().unwrap_or_else(|| panic!("{what} is no list: {yaml:?}"))
}

fn text<'a>(yaml: &'a Yaml, what: &str) -> &'a str {
    yaml.as_str().unwrap_or_else(|| panic!("{what} is no text: {yaml:?}"))
}

#[test]
fn every_variable_that_is_named_there_is_one_of_the_programs() {
    // Not settings of a worker: what an image is stamped with when it is
    // built, the container's own memory, what old deployments set, which the
    // text says does nothing, and what Propeller's compose file takes for the image's name.
    let others = [
        "PROPLET_BUILD_COMMIT",
        "PROPLET_CONTAINER_MEMORY",
        "PROPLET_EXTERNAL_WASM_RUNTIME",
        "PROPLET_IMAGE",
        "PROPLET_IMAGE_TAG",
    ];
    let known: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.variable()).collect();
    for name in [
        ".env.example",
        "Dockerfile",
        "Dockerfile.static",
        "README.md",
        "compose.yaml",
        "k8s/daemonset.yaml",
        "proplet.service",
    ] {
        for variable in words(&read(name), "PROPLET_") {
            assert!(
                known.contains(variable) || others.contains(&variable),
                "docker/{name} names {variable}, which is no setting"
            );
        }
    }
}

/// The worker's variables in the compose file, filled in with `dotenv` as
/// compose does it: `${NAME:-otherwise}`, or `${NAME:?what to do}`.
fn compose_environment(dotenv: &[(&str, &str)]) -> Environment {
    let compose = yaml("compose.yaml");
    let variables = compose["services"]["proplet"]["environment"].as_hash().expect("variables");
    let in_the_image = Environment::new("/").with("PROPLET_STATE_DIR", "/var/lib/proplet");
    variables.iter().fold(in_the_image, |env, (name, value)| {
        let (name, value) = (text(name, "a name"), text(value, "a value"));
        let asked = value.strip_prefix("${").and_then(|value| value.strip_suffix('}'));
        let (asked, otherwise) = asked.and_then(|value| value.split_once(':')).expect("${NAME:…}");
        assert_eq!(asked, name, "a variable gets its own value");
        let set = dotenv.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        env.with(name, set.or(otherwise.strip_prefix('-')).expect("what must be set"))
    })
}

#[test]
fn the_guides_variables_work_in_the_compose_file() {
    let provisioned = [
        ("PROPLET_DOMAIN_ID", "016fd903-9dda-4f14-b12c-566cfa685698"),
        ("PROPLET_CHANNEL_ID", "6ed13fba-bd73-4a12-9e92-6251763374c4"),
        ("PROPLET_CLIENT_ID", "38a244df-6081-4b11-9437-847a825c7cec"),
        ("PROPLET_CLIENT_KEY", "6c1d3f6c-267d-4b1c-8407-7882ae9577c3"),
    ];
    let load = |dotenv: &[(&str, &str)]| {
        let config = Config::from_environment(&compose_environment(dotenv));
        config.unwrap_or_else(|e| panic!("{dotenv:?}: {e}"))
    };
    let config = load(&provisioned);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.connection.address.host, "mqtt");
    let more = [
        ("PROPLET_LOG_LEVEL", "info"),
        ("PROPLET_MQTT_ADDRESS", "tcp://mqtt-adapter:1883"),
        ("PROPLET_MQTT_QOS", "2"),
        ("PROPLET_MQTT_TIMEOUT", "30"),
        ("PROPLET_LIVELINESS_INTERVAL", "10"),
        ("PROPLET_EXTERNAL_WASM_RUNTIME", "wasmtime"),
    ];
    let config = load(&[&provisioned[..], &more].concat());
    assert_eq!(config.connection.address.host, "mqtt-adapter");
    assert_eq!(config.liveliness_interval, Duration::from_secs(5));
}

/// What `docker/check.sh` does with a container, as far as it goes without one.
#[test]
fn the_image_and_the_program_are_what_propellers_compose_file_expects() {
    let list = read("propeller-compose.env");
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let facts: Vec<_> = lines.filter_map(|line| line.split_once('=')).collect();
    let fact = |name: &str| facts.iter().find(|fact| fact.0 == name).expect(name).1;
    let image = read("Dockerfile");
    let working_dir = format!("\nWORKDIR {}\n", fact("WORKING_DIR"));
    assert!(image.contains(&working_dir) && image.contains(fact("FIXTURE")));
    assert!(image.contains("\nENTRYPOINT [\"proplet\"]\nCMD [\"worker\"]\n"));
    let tool = fact("HEALTH_CHECK").split(' ').next().expect("a command");
    let (_, worker) = image.rsplit_once("\nFROM ").expect("the last stage");
    let mut installed = worker.lines().filter(|line| line.contains("apt-get install"));
    assert!(installed.any(|line| line.split(' ').any(|package| package == tool)), "{tool}");

    let home = tempfile::tempdir().expect("a directory");
    let provisioned = "[proplet]\ndomain_id = \"d\"\nchannel_id = \"c\"\nclient_id = \"w\"\n\
                       client_key = \"k\"\n";
    let file = Path::new(fact("CONFIG")).strip_prefix(fact("WORKING_DIR")).expect("below it");
    std::fs::write(home.path().join(file), provisioned).expect("written");
    let variables = facts.iter().filter(|fact| fact.0.starts_with("PROPLET_"));
    let environment =
        variables.fold(Environment::new(home.path()), |env, (name, value)| env.with(name, *value));
    let config = Config::from_environment(&environment).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.credentials.client_id, "w");
    assert_eq!(config.liveliness_interval, Duration::from_secs(5));
    let port = config.monitoring.listen.expect("served").port();
    assert!(fact("HEALTH_CHECK").contains(&format!("http://localhost:{port}/health")));
}

#[test]
fn the_compose_file_mounts_what_the_image_expects() {
    let compose = yaml("compose.yaml");
    let proplet = &compose["services"]["proplet"];
    let mounts: Vec<_> = list(&proplet["volumes"], "volumes")
        .iter()
        .filter_map(|volume| text(volume, "a volume").rsplit(":/").next())
        .collect();
    assert_eq!(mounts, ["models:ro", "fixture:ro", "var/lib/proplet"]);
    let image = read("Dockerfile");
    assert!(image.contains("PROPLET_DIRS=/fixture:/models"));
    assert!(image.contains("VOLUME /var/lib/proplet"));
}

#[test]
fn each_line_of_the_compose_file_that_an_operator_changes_is_marked() {
    let compose = read("compose.yaml");
    let lines: Vec<_> = compose.lines().collect();
    for part in ["image: proplet", "- mqtt ", "PROPLET_MQTT_ADDRESS:", "/models:ro", "/fixture:ro"]
    {
        let line = lines.iter().find(|line| line.contains(part)).expect(part);
        assert!(line.contains("# CHANGE"), "{line}");
    }
    let credentials = lines.iter().position(|line| line.contains("PROPLET_DOMAIN_ID:"));
    let above = &lines[..credentials.expect("a line")];
    let remark = above.iter().rev().find(|line| line.contains("# CHANGE in .env"));
    assert!(remark.is_some_and(|line| line.contains("these four")), "{remark:?}");
}

#[test]
fn the_daemon_set_probes_what_is_served_and_mounts_what_it_declares() {
    let pod = &yaml("k8s/daemonset.yaml")["spec"]["template"]["spec"];
    let volumes: BTreeSet<_> = list(&pod["volumes"], "volumes")
        .iter()
        .map(|volume| text(&volume["name"], "name"))
        .collect();
    let containers = list(&pod["containers"], "containers");
    let first = list(&pod["initContainers"], "initContainers");
    for container in containers.iter().chain(first) {
        for mount in list(&container["volumeMounts"], "volumeMounts") {
            let name = text(&mount["name"], "name");
            assert!(volumes.contains(name), "{name} is no volume");
        }
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], Yaml::Boolean(true));
    }
    let worker = &containers[0];
    for (probe, path) in
        [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]
    {
        let asked = &worker[probe]["httpGet"];
        assert_eq!(text(&asked["path"], probe), path);
        assert_eq!(asked["port"], worker["ports"][0]["name"], "{probe}");
    }
    let port = SETTINGS.iter().find(|setting| setting.name == "metrics-port").expect("a setting");
    let declared = worker["ports"][0]["containerPort"].as_i64().expect("a number");
    assert!(
        matches!(port.default, DefaultValue::Text(text) if text == declared.to_string()),
        "{declared}"
    );
    for limit in ["cpu", "memory"] {
        assert!(!worker["resources"]["limits"][limit].is_badvalue(), "no limit of {limit}");
    }
    assert_eq!(pod["nodeSelector"]["propeller/openvino"].as_str(), Some("true"));
}

/// What Propeller's own dashboards show.
const PROPELLERS: [&str; 11] = [
    "proplet_cpu_system_seconds",
    "proplet_cpu_usage_ratio",
    "proplet_cpu_user_seconds",
    "proplet_memory_container_limit_bytes",
    "proplet_memory_container_usage_bytes",
    "proplet_memory_rss_bytes",
    "proplet_mqtt_reconnects_total",
    "proplet_tasks_completed_total",
    "proplet_tasks_failed_total",
    "proplet_tasks_started_total",
    "proplet_wasm_fetch_bytes_total",
];

/// Every metric that the dashboard or an alert asks for, and every label, is
/// one that a worker tells; and the dashboard shows all of them.
#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let metrics = Metrics::new(|| RuntimeLevels {
        inferences: Nn::new(NnConfig::default()).inference_times(),
        servers: vec![(TaskId::new("a").expect("an id"), Served::default())],
        ..RuntimeLevels::default()
    });
    let metrics = metrics.with_journal(JournalLevels::default);
    let told = metrics.encode().expect("text");
    let samples: BTreeSet<&str> = told
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboard.json")).expect("JSON");
    let expressions: Vec<&str> = dashboard["panels"]
        .as_array()
        .expect("panels")
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
        .map(|target| target["expr"].as_str().expect("an expression"))
        .collect();
    assert!(expressions.len() > 10);
    let expressions = expressions.join("\n");
    let alerts = read("README.md");
    for (file, text) in [("grafana/dashboard.json", &expressions), ("README.md", &alerts)] {
        for metric in words(text, "proplet_").union(&words(text, "process_")) {
            assert!(samples.contains(metric), "docker/{file} asks for {metric}: {samples:?}");
        }
    }
    for sample in samples {
        // Sums belong to histograms; the others are for a human to look at.
        let aside = ["proplet_build_info", "proplet_graph_cache_graphs"].contains(&sample)
            || PROPELLERS.contains(&sample)
            || sample.ends_with("_sum");
        let shown = aside
            || expressions.contains(sample)
            || sample.strip_suffix("_count").is_some_and(|name| expressions.contains(name));
        assert!(shown, "no panel shows {sample}");
    }
    for label in
        ["outcome=", "reason=", "phase=", "kind=", "graph=", "how=", "fate=", "server=", "status="]
    {
        assert!(told.contains(label), "{label}");
        let label = label.trim_end_matches('=');
        assert!(expressions.contains(label), "no panel tells one {label} from another");
    }
}
