//! The broker: whether it can be reached, takes the credentials, confirms the
//! subscriptions and serves them, and whether a manager speaks there.

use super::Finding;
use crate::config::Config;
use crate::journal;
use crate::mqtt::{self, CleanSession, Event, FailureKind, SessionKind, SessionMemory};
use crate::protocol::Topics;
use crate::task::humantime;
use std::time::{Duration, Instant};

/// Longest wait for the broker's first answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a message of our own to come back.
const ECHO: Duration = Duration::from_secs(3);
/// Messages of our own, one after the other.
const TRIES: usize = 9;
/// For taking leave.
const LEAVE: Duration = Duration::from_secs(1);

pub(super) async fn check(config: &Config, watch: Duration) -> Vec<Finding> {
    let connection = &config.connection;
    let url = connection.url();
    let topics = Topics::new(&config.credentials.domain, &config.credentials.channel);
    let username = &config.credentials.client_id;
    let options = options(config, vec![topics.start(), topics.stop(), topics.invoke()]);
    let client_id = options.client_id.clone();
    let (link, mut events) = match mqtt::connect(options) {
        Ok(connection) => connection,
        Err(e) => return vec![Finding::failed("broker", format!("{e:#}"))],
    };
    let tls = if connection.tls { " over TLS" } else { "" };
    let reached = || Finding::ok("broker", format!("{url} was reached{tls}"));
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
            let (arrives, took) = channel(config, &topics).await;
            findings
                .extend([Some(arrives), took, Some(session(config).await)].into_iter().flatten());
            // One that can be asked over HTTP need not be waited for.
            if config.manager.http.is_none() {
                findings.push(manager(&link, &mut events, &topics, watch).await);
            }
            link.disconnect(LEAVE).await.ok();
            return findings;
        }
        Ok(Some(Event::Disconnected { failure, .. })) => failure,
        // The first event is one of these two, and comes in time.
        Ok(_) | Err(_) => {
            return vec![Finding::failed("broker", format!("{url} did not answer in time"))];
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

/// Whether anything takes connections there, which needs no credentials.
pub(super) async fn reach(config: &Config) -> Vec<Finding> {
    let url = config.connection.url();
    vec![match mqtt::network_round_trip(&config.connection.address, PATIENCE).await {
        Ok(took) => Finding::ok(
            "broker",
            format!(
                "something takes connections at {url}, after {:.1} ms; whether it takes this \
                 worker was not asked",
                milliseconds(took)
            ),
        ),
        Err(e) => Finding::failed(
            "broker",
            format!("{url} can't be reached: {e}; is the broker running?"),
        ),
    }]
}

/// How long a message takes to the broker and back, and whether that is the
/// network's doing.
fn round_trip(times: &mut [Duration], network: Option<Duration>) -> Option<Finding> {
    times.sort_unstable();
    let median = *times.get(times.len() / 2)?;
    let message = format!(
        "a message took {:.1} ms to the broker and back ({} tries)",
        milliseconds(median),
        times.len()
    );
    Some(match network {
        Some(network) if mqtt::is_delayed(median, network) => Finding::warning(
            "round trip",
            format!(
                "{message}, and a connection {:.1} ms: some 40 ms of it are a broker's without \
                 TCP_NODELAY, which waits for acknowledgements (mosquitto: `set_tcp_nodelay true`)",
                milliseconds(network)
            ),
        ),
        _ => Finding::ok("round trip", message),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A client of its own with the worker's credentials.
fn options(config: &Config, subscriptions: Vec<String>) -> mqtt::Options {
    let username = &config.credentials.client_id;
    let client_id = format!("{username}-doctor-{:08x}", fastrand::u32(..));
    let mut options = config.connection.options(&client_id, &config.credentials);
    options.subscriptions = subscriptions;
    options.connect_timeout = options.connect_timeout.min(PATIENCE);
    options
}

/// Whether a message on the channel arrives. That the broker confirms a
/// subscription is no proof: mosquitto 2.0 confirms also what its access list
/// then keeps from the client, which is how a wrong channel looks there. So a
/// message is sent to a topic that nobody but a doctor reads, and that a
/// manager that reads everything ignores; over a connection of its own, which
/// a broker may end for it.
async fn channel(config: &Config, topics: &Topics) -> (Finding, Option<Finding>) {
    let topic = topics.doctor();
    let options = options(config, vec![topic.clone()]);
    let probe = serde_json::json!({ "doctor": options.client_id }).to_string();
    let rights = format!(
        "compare domain and channel with those of the manager, and see that the client may read \
         {} and write {}",
        topics.from_managers(),
        topics.from_workers()
    );
    let (link, mut events) = match mqtt::connect(options) {
        Ok(connection) => connection,
        Err(e) => return (Finding::failed("channel", format!("{e:#}")), None),
    };
    let mut times = Vec::new();
    let echo = async {
        let mut sent = Instant::now();
        loop {
            match events.next().await {
                Some(Event::Connected { .. }) => {
                    sent = Instant::now();
                    drop(link.publish(&topic, probe.clone()));
                }
                Some(Event::Message(message)) if message.payload == probe => {
                    times.push(sent.elapsed());
                    link.ack(message.ack);
                    if times.len() == TRIES {
                        return Ok(());
                    }
                    sent = Instant::now();
                    drop(link.publish(&topic, probe.clone()));
                }
                Some(Event::Message(message)) => link.ack(message.ack),
                Some(Event::Acknowledged(_)) => {}
                Some(Event::Disconnected { failure, .. }) => return Err(failure),
                None => std::future::pending().await,
            }
        }
    };
    let echoed = tokio::time::timeout(ECHO, echo).await;
    // One that came is enough, if the others are slow.
    let echoed = if times.is_empty() { echoed } else { Ok(Ok(())) };
    let finding = match echoed {
        Ok(Ok(())) => Finding::ok("channel", format!("a message to {topic} came back")),
        Ok(Err(failure)) if failure.kind == FailureKind::Subscription => Finding::ok(
            "channel",
            format!(
                "the broker refuses what the client may not read ({topic}), so it will serve what it \
                 has confirmed"
            ),
        ),
        Ok(Err(failure)) => Finding::warning(
            "channel",
            format!("the broker did not let a message to {topic} through ({failure}); {rights}"),
        ),
        Err(_) => Finding::warning(
            "channel",
            format!(
                "a message to {topic} did not come back within {}: either the client may not use \
                 the channel, although the broker confirms its subscriptions (mosquitto does), or just \
                 not this topic, so whether tasks will arrive can't be known; {rights}",
                humantime(ECHO)
            ),
        ),
    };
    link.disconnect(LEAVE).await.ok();
    let address = &config.connection.address;
    let network = mqtt::network_round_trip(address, PATIENCE).await.ok();
    (finding, round_trip(&mut times, network))
}

/// Which session the worker gets. Whether the broker grants a persistent one
/// can only be tried; what it then keeps is removed again.
async fn session(config: &Config) -> Finding {
    const LOST: &str = "tasks that are started while the worker is away are lost";
    const SETTING: &str = "PROPLET_MQTT_CLEAN_SESSION";
    let clean = |why: &str| Finding::warning("session", format!("a clean one, {why}: {LOST}"));
    let Some(directory) = &config.state_dir else {
        return clean("because nothing is kept on disk");
    };
    if config.clean_session == CleanSession::Always {
        return clean(&format!("as {SETTING} says"));
    }
    let asked = mqtt::Options { clean_session: CleanSession::Never, ..options(config, vec![]) };
    let failure = match first_event(asked.clone()).await {
        Ok(()) => {
            let removal = mqtt::Options { clean_session: CleanSession::Always, ..asked };
            // A broker that is gone again has other worries.
            first_event(removal).await.ok();
            return Finding::ok(
                "session",
                "the broker keeps one: tasks that are started while the worker is away come later",
            );
        }
        Err(failure) => failure,
    };
    if failure.kind != FailureKind::Dropped {
        let text = format!("a persistent one was refused, for no known reason ({failure})");
        return Finding::warning("session", text);
    }
    let earlier = journal::exists(directory).then_some(SessionKind::Persistent);
    let known = SessionMemory::read(directory, &config.connection.address, earlier).known();
    let bound = match (config.clean_session, known) {
        (CleanSession::Never, _) => format!("{SETTING} forbids a clean one"),
        (_, Some(SessionKind::Persistent)) => {
            "because it has kept a session for this worker before, the worker never asks for a \
             clean one"
                .to_owned()
        }
        _ => {
            return clean(
                "because the broker drops clients that ask for a persistent one (as FluxMQ does without \
                 a cluster)",
            );
        }
    };
    Finding::failed(
        "session",
        format!(
            "the broker drops clients that ask for a persistent one, and {bound}, so it will not connect; \
             if this broker keeps none (FluxMQ without a cluster does not), set {SETTING}=true: {LOST}"
        ),
    )
}

/// Connects and leaves again.
async fn first_event(options: mqtt::Options) -> Result<(), mqtt::ConnectionFailure> {
    let timeout = mqtt::ConnectionFailure::no_answer(&options);
    let Ok((link, mut events)) = mqtt::connect(options) else { return Err(timeout) };
    let first = tokio::time::timeout(PATIENCE * 3, events.next()).await;
    match first {
        Ok(Some(Event::Disconnected { failure, .. })) => return Err(failure),
        Ok(Some(_)) => {}
        Ok(None) | Err(_) => return Err(timeout),
    }
    link.disconnect(LEAVE).await.ok();
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_broker_that_waits_for_acknowledgements_is_told_from_a_slow_line() {
        let ms = Duration::from_millis;
        let finding = |times: &[u64], network: u64| {
            let mut times: Vec<_> = times.iter().map(|time| ms(*time)).collect();
            round_trip(&mut times, Some(ms(network))).expect("a finding")
        };
        let delayed = finding(&[44, 41, 1, 42, 43], 1);
        assert_eq!(delayed.verdict, Verdict::Warning, "{}", delayed.message);
        for part in ["42.0 ms", "TCP_NODELAY", "set_tcp_nodelay true"] {
            assert!(delayed.message.contains(part), "{part}: {}", delayed.message);
        }
        assert_eq!(finding(&[1, 2, 3], 1).verdict, Verdict::Ok);
        assert_eq!(finding(&[81, 82, 83], 80).verdict, Verdict::Ok, "the network itself is slow");
        assert!(round_trip(&mut [], None).is_none());
    }
}
