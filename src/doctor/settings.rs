//! The configuration and this build.

use super::{Finding, Verdict};
use crate::config::{Config, ConfigError, Resolved, Source};
use crate::version;

pub(super) fn check(config: &Result<Config, ConfigError>, missing: Option<&str>) -> Vec<Finding> {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let problems = error.problems.iter();
            return problems.map(|text| Finding::failed("configuration", text)).collect();
        }
    };
    let set: Vec<&Resolved> =
        config.report.iter().filter(|resolved| resolved.source != Source::Default).collect();
    let credentials = &config.credentials;
    let who = match missing {
        None => format!(
            "this is worker {} on channel {} of domain {}",
            credentials.client_id, credentials.channel, credentials.domain
        ),
        Some(_) => "there are no credentials".to_owned(),
    };
    let message = format!(
        "{} settings are set, the other {} are at their defaults; {who}",
        set.len(),
        config.report.len() - set.len()
    );
    let mut findings = vec![
        Finding::ok("configuration", message).with(
            set.into_iter()
                .map(|Resolved { setting, value, source }| {
                    format!(
                        "{} = {} from {source}",
                        setting.name,
                        value.as_deref().unwrap_or_default()
                    )
                })
                .collect(),
        ),
    ];
    findings.extend(missing.map(|missing| Finding::failed("credentials", missing)));
    findings.extend(config.warnings.iter().map(|text| Finding::warning("configuration", text)));
    findings
}

pub(super) fn build() -> Vec<Finding> {
    let mut finding = Finding::ok("build", format!("proplet {}", version::LONG));
    if version::BACKENDS == "none" {
        finding.verdict = Verdict::Warning;
        finding.message.push_str(
            ": tasks with `-S nn` will fail on it; the build with OpenVINO and ONNX is the container \
             image or `cargo build --features openvino,onnx`",
        );
    }
    vec![finding]
}
