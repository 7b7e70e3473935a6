//! The broker: whether it can be reached, takes the credentials, confirms the
//! subscriptions, and whether a manager speaks there.

use super::Finding;
use crate::config::Config;
use crate::mqtt::{self, Event, FailureKind};
use crate::protocol::Topics;
use crate::task::humantime;
use crate::worker;
use std::time::Duration;

/// Longest wait for the broker's first answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For taking leave.
const LEAVE: Duration = Duration::from_secs(1);

pub(super) async fn check(config: &Config, watch: Duration) -> Vec<Finding> {
    let address = &config.connection.address;
    let topics = Topics::new(&config.credentials.domain, &config.credentials.channel);
    let username = &config.credentials.client_id;
    let client_id = format!("{username}-doctor-{:08x}", fastrand::u32(..));
    let mut options = worker::connection_options(&config.connection, &client_id);
    options.credentials = Some(mqtt::Credentials {
        username: username.clone(),
        password: config.credentials.client_key.expose().to_owned(),
    });
    options.subscriptions = vec![topics.start(), topics.stop(), topics.invoke()];
    options.connect_timeout = options.connect_timeout.min(PATIENCE);
    let (link, mut events) = match mqtt::connect(options) {
        Ok(connection) => connection,
        Err(e) => return vec![Finding::failed("broker", format!("{e:#}"))],
    };
    let tls = if address.tls { " over TLS" } else { "" };
    let reached = || Finding::ok("broker", format!("{address} was reached{tls}"));
    let accepted = || {
        let text =
            format!("client {username} was accepted (asked under the client id {client_id})");
        Finding::ok("credentials", text)
    };
    let failure = match tokio::time::timeout(PATIENCE * 3, events.next()).await {
        Ok(Some(Event::Connected { .. })) => {
            let mut findings = vec![
                reached(),
                accepted(),
                Finding::ok("topics", format!("subscribed to {}, stop and invoke", topics.start())),
            ];
            findings.push(manager(&link, &mut events, &topics, watch).await);
            link.disconnect(LEAVE).await.ok();
            return findings;
        }
        Ok(Some(Event::Disconnected { failure, .. })) => failure,
        // The first event is one of these two, and comes in time.
        Ok(_) | Err(_) => {
            return vec![Finding::failed("broker", format!("{address} did not answer in time"))];
        }
    };
    // What the operator has set is the name without our addition.
    let text = failure.to_string().replace(&client_id, username);
    match failure.kind {
        FailureKind::Credentials => vec![reached(), Finding::failed("credentials", text)],
        FailureKind::Subscription => vec![reached(), accepted(), Finding::failed("topics", text)],
        _ => vec![Finding::failed("broker", text)],
    }
}

/// Listens for a manager. That none is heard proves nothing: it speaks when it
/// has something to do.
async fn manager(
    link: &mqtt::Link,
    events: &mut mqtt::Events,
    topics: &Topics,
    watch: Duration,
) -> Finding {
    let heard = async {
        loop {
            match events.next().await {
                Some(Event::Message(message)) => {
                    link.ack(message.ack);
                    return message.topic;
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    match tokio::time::timeout(watch, heard).await {
        Ok(topic) => Finding::ok("manager", format!("a manager sent a message to {topic}")),
        Err(_) => Finding::warning(
            "manager",
            format!(
                "none was heard on the channel within {}, which is no proof: it speaks only when it has \
                 something to do; start a task while `proplet doctor --watch 1m` runs, or look for \
                 `successfully created proplet` in the manager's log (it must have the domain and \
                 the channel of {})",
                humantime(watch),
                topics.start()
            ),
        ),
    }
}
