//! Which services a round uses: those of the settings, or of the task, as far as it
//! may name them.

use std::path::PathBuf;
use std::time::Duration;
use ureq::http::Uri;

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// In lower case.
    pub host: String,
    /// With the scheme's own where none is named.
    pub port: u16,
}

/// Whether a task goes on without what it was to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingData {
    /// It fails, with the cause.
    Fail,
    /// It runs, and its `diagnostics` tell.
    Run,
}

/// How long a service has for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTimes {
    /// For a model, or a data set.
    pub fetch: Duration,
    /// For taking an update.
    pub update: Duration,
    /// A request that was not taken is tried again after each of these.
    pub waits: [Duration; 2],
}

impl Default for RoundTimes {
    /// Three updates and the waits between them take 30 s at most.
    fn default() -> RoundTimes {
        RoundTimes {
            fetch: Duration::from_secs(10),
            update: Duration::from_secs(9),
            waits: [Duration::from_millis(250), Duration::from_secs(2)],
        }
    }
}

/// The services of federated rounds. URLs have no slash at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundServices {
    /// Takes updates.
    pub coordinator: Option<String>,
    /// Has the models.
    pub registry: Option<String>,
    /// Has a data set for each worker.
    pub store: Option<String>,
    /// What tasks may name beside these.
    pub hosts: Vec<HostPort>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Bytes of a model, and of a data set.
    pub data_size: u64,
    /// Whether a task goes on without them.
    pub missing: MissingData,
    /// How long they have for their answers.
    pub times: RoundTimes,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// See [`RoundServices::coordinator`].
    Coordinator,
    /// See [`RoundServices::registry`].
    Registry,
    /// See [`RoundServices::store`].
    Store,
}

impl Service {
    /// The variable by which a task names it.
    pub fn variable(self) -> &'static str {
        match self {
            Service::Coordinator => "MANAGER_COORDINATOR_URL",
            Service::Registry => "MODEL_REGISTRY_URL",
            Service::Store => "DATA_STORE_URL",
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Service::Coordinator => "coordinator",
            Service::Registry => "model registry",
            Service::Store => "data store",
        }
    }
}

impl RoundServices {
    fn configured(&self, service: Service) -> Option<&String> {
        match service {
            Service::Coordinator => self.coordinator.as_ref(),
            Service::Registry => self.registry.as_ref(),
            Service::Store => self.store.as_ref(),
        }
    }

    /// The URL of a service for a task that says `named` of it; none if nobody does.
    ///
    /// # Errors
    ///
    /// A sentence on why the task may not name it.
    pub fn choose(&self, service: Service, named: Option<&str>) -> Result<Option<String>, String> {
        let Some(named) = named.filter(|named| !named.is_empty()) else {
            return Ok(self.configured(service).cloned());
        };
        let variable = service.variable();
        let place = place(named)
            .ok_or_else(|| format!("`{variable}` of the task is not an http(s) URL"))?;
        let all = [Service::Coordinator, Service::Registry, Service::Store];
        let configured = all.into_iter().filter_map(|service| self.configured(service));
        let mut places = configured.filter_map(|url| self::place(url));
        if places.any(|known| known == place) || self.hosts.contains(&place) {
            return Ok(Some(named.trim_end_matches('/').to_owned()));
        }
        Err(format!(
            "`{variable}` of the task names {}:{}, which is not one of this worker's services of \
             federated rounds: add it to --round-hosts if tasks may have the worker speak to it",
            place.host, place.port
        ))
    }
}

/// Host and port of a URL; none if it is none of http(s), or holds a user.
pub fn place(url: &str) -> Option<HostPort> {
    let uri: Uri = url.parse().ok()?;
    let port = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let host = authority.host().to_ascii_lowercase();
    let plain = uri.query().is_none() && !url.contains('#') && !host.is_empty();
    plain.then(|| HostPort { host, port: authority.port_u16().unwrap_or(port) })
}

/// The version of a model that a URI names: the digits at the end of its last part.
pub(super) fn version(uri: &str) -> String {
    let last = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let digits = last.len() - last.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let version = last[last.len() - digits..].trim_start_matches('0');
    if version.is_empty() { "0".to_owned() } else { version.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> RoundServices {
        RoundServices {
            coordinator: Some("http://coordinator:8080/fl".into()),
            registry: Some("https://models.example".into()),
            store: None,
            hosts: vec![HostPort { host: "other".into(), port: 81 }],
            ca: None,
            data_size: 100,
            missing: MissingData::Fail,
            times: RoundTimes::default(),
        }
    }

    #[test]
    fn a_task_names_only_what_the_worker_speaks_to_anyway() {
        let services = services();
        let choose = |service, named| services.choose(service, named);
        let text = |url: &str| Ok(Some(url.to_owned()));
        assert_eq!(choose(Service::Coordinator, None), text("http://coordinator:8080/fl"));
        assert_eq!(choose(Service::Coordinator, Some("")), text("http://coordinator:8080/fl"));
        assert_eq!(choose(Service::Store, None), Ok(None));
        for named in [
            "http://coordinator:8080/data",
            "HTTP://Coordinator:8080/data",
            "https://models.example:443/data",
            "http://other:81",
        ] {
            assert_eq!(choose(Service::Store, Some(named)), text(named), "{named}");
        }
        for named in [
            "http://coordinator",
            "http://coordinator:8081",
            "http://models.example",
            "http://169.254.169.254/latest",
            "http://other",
            "http://coordinator:8080@evil/",
            "http://me@coordinator:8080",
            "file:///etc/passwd",
            "coordinator:8080",
        ] {
            let error = choose(Service::Store, Some(named)).expect_err(named);
            assert!(error.contains("DATA_STORE_URL"), "{error}");
        }
    }

    #[test]
    fn a_version_is_the_number_at_the_end() {
        for (uri, expected) in [
            ("fl/models/global_model_v0", "0"),
            ("fl/models/global_model_v12", "12"),
            ("fl/models/007/", "7"),
            ("fl/models/2/latest", "0"),
            ("", "0"),
            ("v123456789012345678901234567890", "123456789012345678901234567890"),
        ] {
            assert_eq!(version(uri), expected, "{uri}");
        }
    }
}
