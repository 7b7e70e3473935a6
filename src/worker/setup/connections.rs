//! Whom the worker talks to by the configuration, and what it says of itself: the
//! broker, the manager, registries.

use super::kept_on_disk;
use crate::config::{Config, ImagesConfig};
use crate::journal;
use crate::machine;
use crate::manager::ManagerPlace;
use crate::mqtt::{self, CleanSession, SessionKind, SessionMemory};
use crate::protocol::{Topics, WorkerMetadata};
use crate::sources::{Fetcher, ImageSettings, Images, RegistryLogin, RegistryPlace};
use crate::version;
use std::path::Path;
use tokio::sync::mpsc::UnboundedReceiver;

/// The registry that images are pulled from, if they are.
pub(crate) fn registry_place(images: &ImagesConfig, working_dir: &Path) -> Option<RegistryPlace> {
    let registry = images.registry.as_ref()?;
    let login = match (&registry.token, &registry.user) {
        (Some(token), _) => RegistryLogin::Token(token.expose().to_owned()),
        (None, Some((user, password))) => {
            RegistryLogin::User(user.clone(), password.expose().to_owned())
        }
        (None, None) => RegistryLogin::Anonymous,
    };
    Some(RegistryPlace {
        host: registry.host.clone(),
        plain: registry.plain,
        login,
        ca: registry.ca_cert.as_ref().map(|ca| working_dir.join(ca)),
    })
}

/// How code is fetched, and what Propeller's registry proxy is to be asked for.
pub(in crate::worker) fn fetcher(config: &Config) -> (Fetcher, Option<UnboundedReceiver<String>>) {
    let (images, asked) = Images::new(ImageSettings {
        registry: registry_place(&config.images, &config.working_dir),
        channel: true,
        timeout: config.images.timeout,
        limit: config.module_size,
        kept: kept_on_disk(config, "images", config.images.cache),
        hosts: Some(config.images.hosts.clone()),
    });
    (Fetcher::new(config.module_size, Some(images), Some(config.images.hosts.clone())), asked)
}

/// What the broker has granted to this worker before; none without a journal.
/// To be asked for before that is opened, which may be one from before there
/// was such a memory: its worker had a persistent session.
pub(in crate::worker) fn sessions(config: &Config) -> Option<SessionMemory> {
    let directory = config.state_dir.as_ref()?;
    let earlier = journal::exists(directory).then_some(SessionKind::Persistent);
    Some(SessionMemory::open(directory, &config.connection.address, earlier))
}

pub(in crate::worker) fn options(
    config: &Config,
    topics: &Topics,
    sessions: Option<SessionMemory>,
) -> mqtt::Options {
    let credentials = &config.credentials;
    let mut options = config.connection.options(&credentials.client_id, credentials);
    // What is not acknowledged when the worker dies is for its next process.
    options.clean_session = match sessions {
        Some(_) => config.clean_session,
        None => CleanSession::Always,
    };
    options.sessions = sessions;
    options.subscriptions = vec![topics.start(), topics.stop(), topics.invoke()];
    if config.images.registry.is_none() {
        options.subscriptions.push(topics.image_parts());
    }
    options
}

/// The most bytes of a result: no more than a packet to the results' topic
/// holds (a fixed header of 5 bytes, two lengths of 2).
pub(in crate::worker) fn result_limit(config: &Config, topics: &Topics) -> usize {
    let around = 5 + 2 + topics.results().len() + 2;
    config.limits.result.min(config.connection.max_packet_size.saturating_sub(around))
}

/// The manager's HTTP side, if it is to be asked.
pub(crate) fn manager_place(config: &Config) -> Option<ManagerPlace> {
    config.manager.http.as_ref().map(|http| ManagerPlace {
        url: http.url.clone(),
        token: http.token.as_ref().map(|token| token.expose().to_owned()),
        ca: http.ca_cert.as_ref().map(|ca| config.working_dir.join(ca)),
    })
}

pub(in crate::worker) fn about(config: &Config) -> WorkerMetadata {
    let description = &config.description;
    let address = &config.connection.address;
    let machine = machine::describe(description.collect_system_info, (&address.host, address.port));
    WorkerMetadata {
        description: description.text.clone(),
        tags: description.tags.clone(),
        location: description.location.clone(),
        ip: machine.ip.map(|ip| ip.to_string()),
        environment: machine.environment.to_owned(),
        os: machine.os.to_owned(),
        hostname: machine.hostname,
        cpu_arch: machine.cpu_arch.to_owned(),
        total_memory_bytes: machine.memory_bytes,
        proplet_version: version::VERSION.to_owned(),
        wasm_runtime: version::WASMTIME.to_owned(),
    }
}
