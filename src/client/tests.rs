use super::*;
use crate::broker::{Broker, Settings};
use crate::config::{Config, Environment};
use crate::task::{Binary, ModuleSource};
use std::net::SocketAddr;

fn config(address: SocketAddr) -> Config {
    let env = Environment::new("/")
        .with("PROPLET_DOMAIN_ID", "d")
        .with("PROPLET_CHANNEL_ID", "c")
        .with("PROPLET_CLIENT_ID", "manager")
        .with("PROPLET_CLIENT_KEY", "secret")
        .with("PROPLET_MQTT_ADDRESS", format!("tcp://{address}"));
    Config::from_environment(&env).expect("a configuration")
}

async fn client(address: SocketAddr, id: &str) -> anyhow::Result<Client> {
    let config = config(address);
    Client::connect(&config.connection, &config.credentials, id).await
}

fn task(id: &str) -> TaskRequest {
    TaskRequest {
        name: "test".into(),
        module: Some(ModuleSource::Bytes(Binary::new(*b"\0asm"))),
        ..TaskRequest::new(TaskId::new(id).expect("an id"))
    }
}

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn without_a_worker_the_error_says_that_none_is_alive() {
    let broker = Broker::start().expect("a broker");
    let client = client(broker.address(), "a").await.expect("connected");
    for (to, words) in [
        (None, "no worker is alive on channel c of domain d"),
        (Some("w"), "worker w is not alive on channel c of domain d"),
    ] {
        let error = client.submit(&task("1"), to, SHORT).await.expect_err("silence").to_string();
        assert!(error.contains(words), "{error}");
        assert!(error.contains("within 300ms") && error.contains("PROPLET_CHANNEL_ID"), "{error}");
    }
    assert!(client.shared.waiting().is_empty());
}

#[tokio::test]
async fn a_worker_that_beats_but_does_not_answer_is_told_apart() {
    let broker = Broker::start().expect("a broker");
    let client = client(broker.address(), "a").await.expect("connected");
    let worker = other(&broker).await;
    let alive = protocol::Alive::new("w", "", protocol::WorkerMetadata::default()).encode();
    worker.publish(&client.topics.alive(), alive).await.expect("published");
    client.hear("w", LONG).await.expect("heard");
    let error = client.submit(&task("1"), None, SHORT).await.expect_err("silence").to_string();
    assert!(error.contains("alive: w") && error.contains("--timeout"), "{error}");
    let error = client.submit(&task("2"), Some("v"), SHORT).await.expect_err("silence").to_string();
    assert!(error.contains("worker v is not alive") && error.contains("unlike w"), "{error}");
}

#[tokio::test]
async fn a_result_goes_to_the_task_of_its_id_and_the_first_one_counts() {
    let broker = Broker::start().expect("a broker");
    let client = client(broker.address(), "a").await.expect("connected");
    let worker = other(&broker).await;
    let answer = |id: &str, reason: &str| {
        let id = TaskId::new(id).expect("an id");
        TaskResult::refused(&id, "w", reason).encode()
    };
    let answers = async {
        // Not before both wait.
        while client.shared.waiting().len() < 2 {
            tokio::task::yield_now().await;
        }
        for (id, reason) in [("9", "nobody's"), ("2", "second"), ("1", "first"), ("1", "late")] {
            worker.publish(&client.topics.results(), answer(id, reason)).await.expect("published");
        }
    };
    let (one, two) = (task("1"), task("2"));
    let (one, two, ()) =
        tokio::join!(client.submit(&one, None, LONG), client.submit(&two, None, LONG), answers);
    assert_eq!(one.expect("a result").failure(), Some("first"));
    assert_eq!(two.expect("a result").failure(), Some("second"));
    assert!(client.has_heard(Some("w")));
}

#[tokio::test]
async fn a_worker_that_comes_later_is_sent_the_task_once_more() {
    let broker = Broker::start().expect("a broker");
    let client = client(broker.address(), "a").await.expect("connected");
    let worker = async {
        while client.shared.waiting().is_empty() {
            tokio::task::yield_now().await;
        }
        // The broker has the start, which nobody has subscribed to.
        let topics = &client.topics;
        let probe = client.link.publish("after-the-start", "x".as_bytes());
        probe.await.expect("published");
        let (link, mut events) = connected(&broker, "w", vec![topics.start()]).await;
        let metadata = protocol::WorkerMetadata::default();
        let (proplet_id, namespace) = ("w".into(), String::new());
        let create = protocol::Discovery { proplet_id, namespace, metadata }.encode();
        for _ in 0..2 {
            link.publish(&topics.create(), create.clone()).await.expect("published");
        }
        let id = TaskId::new("1").expect("an id");
        let answer = TaskResult::refused(&id, "w", "seen").encode();
        let mut starts = 0;
        while let Some(event) = events.next().await {
            if let Event::Message(message) = event {
                starts += 1;
                link.ack(message.ack);
                link.publish(&topics.results(), answer.clone()).await.expect("published");
                break;
            }
        }
        starts
    };
    let task = task("1");
    let (result, starts) = tokio::join!(client.submit(&task, Some("w"), LONG), worker);
    assert_eq!(result.expect("a result").failure(), Some("seen"));
    assert_eq!(starts, 1);
}

/// Who has these subscriptions.
async fn connected(broker: &Broker, id: &str, subscriptions: Vec<String>) -> (Link, Events) {
    let address =
        mqtt::Address { host: broker.address().ip().to_string(), port: broker.address().port() };
    let options = mqtt::Options { subscriptions, ..mqtt::Options::new(address, id) };
    let (link, mut events) = mqtt::connect(options).expect("options");
    let first = events.next().await;
    assert!(matches!(first, Some(Event::Connected { .. })), "{first:?}");
    (link, events)
}

#[tokio::test]
async fn a_broker_that_is_not_there_or_refuses_is_a_final_failure() {
    let gone = Broker::start().expect("a broker").address();
    let error = client(gone, "a").await.expect_err("nobody listens");
    assert!(
        error.downcast_ref::<ConnectionFailure>().is_some()
            && error.to_string().contains("nothing listens")
    );
    let settings = Settings {
        credentials: [("manager".to_owned(), "another".to_owned())].into(),
        ..Settings::default()
    };
    let broker = Broker::start_with(settings).expect("a broker");
    let error = client(broker.address(), "a").await.expect_err("refused");
    let kind = error.downcast_ref::<ConnectionFailure>().map(|failure| failure.kind);
    assert_eq!(kind, Some(mqtt::FailureKind::Credentials), "{error}");
}

#[tokio::test]
async fn a_task_that_is_too_large_is_not_sent() {
    let broker = Broker::start().expect("a broker");
    let mut config = config(broker.address());
    config.connection.max_packet_size = 1024;
    let client =
        Client::connect(&config.connection, &config.credentials, "a").await.expect("connected");
    let task = TaskRequest { name: "x".repeat(2048), ..task("1") };
    let error = client.submit(&task, None, LONG).await.expect_err("too large");
    assert!(matches!(error, NoResult::Unsent(PublishError::TooLarge { .. })), "{error}");
}

/// Somebody else on the broker, who only publishes.
async fn other(broker: &Broker) -> Link {
    let address =
        mqtt::Address { host: broker.address().ip().to_string(), port: broker.address().port() };
    let (link, mut events) = mqtt::connect(mqtt::Options::new(address, "w")).expect("options");
    tokio::spawn(async move { while events.next().await.is_some() {} });
    link
}
