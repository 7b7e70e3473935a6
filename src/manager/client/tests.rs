//! The client against servers that answer well, badly, slowly or not at all.

use super::*;
use crate::manager::{Decision, Resolution, decide};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

const TASK: &str = r#"{"id":"a","state":2,"proplet_id":"wrk","start_time":"2026-11-24T23:52:15Z"}"#;
const DATE: &str = "Date: Tue, 24 Nov 2026 23:52:30 GMT\r\n";

/// A server that serves each connection once with `serve`. Gives its address
/// and the heads of the requests. Its thread ends with the process.
fn serve<S: Read + Write>(
    accept: impl Fn(TcpStream) -> S + Send + 'static,
    serve: impl Fn(&mut S) -> std::io::Result<()> + Send + 'static,
) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (heads, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = accept(stream);
            let mut head = String::new();
            for line in BufReader::new(&mut stream).lines().map_while(Result::ok) {
                if line.is_empty() {
                    break;
                }
                head.push_str(&line);
                head.push('\n');
            }
            // Who has seen enough closes the connection.
            serve(&mut stream).ok();
            heads.send(head).ok();
        }
    });
    (address, seen)
}

fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, Receiver<String>) {
    let answer = answer.into();
    serve(|stream| stream, move |stream| stream.write_all(&answer))
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{DATE}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn client(address: SocketAddr) -> ManagerClient {
    let place =
        ManagerPlace { url: format!("http://{address}"), token: Some("t0k".into()), ca: None };
    ManagerClient::patient(&place, Duration::from_secs(5)).expect("a client")
}

fn decision(client: &ManagerClient) -> Decision {
    decide(&client.task("a"), "wrk", Duration::from_secs(15))
}

fn reason(client: &ManagerClient) -> String {
    match decision(client) {
        Decision::AskAgain(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_names_the_task_and_carries_the_token() {
    let (address, seen) = answering(ok(TASK));
    let place =
        ManagerPlace { url: format!("http://{address}/base"), token: Some("t0k".into()), ca: None };
    let client = ManagerClient::new(&place).expect("a client");
    client.task("a/b ?#%ü..-_~");
    let head = seen.recv().expect("a request").to_lowercase();
    assert!(head.starts_with("get /base/tasks/a%2fb%20%3f%23%25%c3%bc..-_~ http/1.1\n"), "{head}");
    assert!(head.contains("authorization: bearer t0k\n"), "{head}");
    assert!(!format!("{client:?}{place:?}").contains("t0k"), "{client:?}");
    let without = ManagerPlace { token: None, ..place };
    ManagerClient::new(&without).expect("a client").task("a");
    assert!(!seen.recv().expect("a request").to_lowercase().contains("authorization"));
}

#[test]
fn each_answer_has_its_decision() {
    for (answer, expected) in [
        (ok(TASK), Decision::PublishAgain),
        (ok(r#"{"id":"a","state":4}"#), Decision::Over(Resolution::Ended)),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(),
            Decision::Over(Resolution::Unknown),
        ),
    ] {
        assert_eq!(decision(&client(answering(answer).0)), expected);
    }
    for (answer, words) in [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "PROPLET_MANAGER_TOKEN"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "PROPLET_MANAGER_TOKEN"),
        ("HTTP/1.1 500 Oh\r\nContent-Length: 6\r\n\r\nlocked", "locked"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no answer"),
        ("", "no answer"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"state\":", "no `Date`"),
    ] {
        let reason = reason(&client(answering(answer).0));
        assert!(reason.contains(words), "{answer:?}: {reason}");
        assert!(!reason.contains("t0k"), "{reason}");
    }
    let nobody =
        TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    assert!(reason(&client(nobody)).contains("no answer"));
}

#[test]
fn a_redirect_is_not_followed() {
    let (elsewhere, seen) = answering(ok(TASK));
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
    let (address, asked) = answering(redirect);
    assert!(reason(&client(address)).contains("PROPLET_MANAGER_URL"));
    asked.recv().expect("a request");
    assert!(seen.try_recv().is_err(), "the token went elsewhere");
}

/// Writes as long as it is read, and tells when that has ended.
fn endless(stream: &mut TcpStream, chunk: &[u8], pause: Duration) -> std::io::Result<()> {
    stream.write_all(
        format!("HTTP/1.1 200 OK\r\n{DATE}Content-Length: 100000000\r\n\r\n").as_bytes(),
    )?;
    stream.write_all(b"{\"state\":2,\"results\":\"")?;
    loop {
        stream.write_all(chunk)?;
        std::thread::sleep(pause);
    }
}

#[test]
fn an_answer_that_is_too_large_or_too_slow_is_given_up() {
    let (address, ended) =
        serve(|stream| stream, |stream| endless(stream, &[b'x'; 64 << 10], Duration::ZERO));
    assert!(reason(&client(address)).contains("can't be read"));
    ended.recv().expect("the connection ends before all was written");
    let (address, ended) =
        serve(|stream| stream, |stream| endless(stream, b"x", Duration::from_millis(20)));
    let place = ManagerPlace { url: format!("http://{address}"), token: None, ca: None };
    let client = ManagerClient::patient(&place, Duration::from_millis(300)).expect("a client");
    assert!(reason(&client).contains("can't be read"));
    ended.recv().expect("the connection ends");
    let (address, _asked) = serve(|stream| stream, |stream| stream.read(&mut [0]).map(drop));
    let place = ManagerPlace { url: format!("http://{address}"), ..place };
    let client = ManagerClient::patient(&place, Duration::from_millis(300)).expect("a client");
    assert!(reason(&client).contains("no answer"));
}

#[test]
fn heartbeats_are_dated_by_the_managers_own_clock() {
    let heard = |answer: String| client(answering(answer).0).heard("wrk");
    let seconds = |n| Ok(Heard::Ago(Duration::from_secs(n)));
    let history =
        |list: &str| ok(&format!(r#"{{"offset":0,"limit":100,"total":2,"history":{list}}}"#));
    let recorded = r#"["2026-11-24T23:52:02.100770014Z", "2026-11-24T23:52:12.100858309Z"]"#;
    assert_eq!(heard(history(recorded)), seconds(18));
    assert_eq!(heard(history(r#"["2026-11-24T23:52:30.9Z"]"#)), seconds(0));
    assert_eq!(heard(history(r#"["2026-11-24T23:53:30Z"]"#)), seconds(0));
    assert_eq!(heard(history("[]")), Ok(Heard::Never));
    assert_eq!(heard(history("null")), Ok(Heard::Never));
    let unknown = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(heard(unknown.into()), Ok(Heard::Never));
    for answer in [ok("<html>"), "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".into()] {
        assert!(heard(answer).is_err());
    }
    assert!(heard(ok(&format!("{{\"history\":[\"{}", "x".repeat(1 << 20)))).is_err());
}

#[test]
fn the_version_is_that_of_the_health_page() {
    let recorded = ok(r#"{"status": "pass", "version": "dev", "commit": "none"}"#);
    assert_eq!(client(answering(recorded).0).version().as_deref(), Ok("dev"));
    assert!(client(answering(ok("[]")).0).version().is_err());
}

#[test]
fn https_takes_the_authority_that_was_named_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut authority = CertificateParams::new(vec![]).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.self_signed(&key).expect("signed").pem()).expect("written");
    let authority = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("signed");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("the key of the certificate");
    let config = Arc::new(config);
    let accept = move |stream| {
        let session = rustls::ServerConnection::new(config.clone()).expect("a session");
        rustls::StreamOwned::new(session, stream)
    };
    let (address, _seen) = serve(accept, |stream| {
        stream.write_all(ok(TASK).as_bytes())?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    let place = ManagerPlace { url: format!("https://{address}"), token: None, ca: Some(ca) };
    let trusting = ManagerClient::new(&place).expect("a client");
    assert_eq!(decision(&trusting), Decision::PublishAgain);
    let other = ManagerClient::new(&ManagerPlace { ca: None, ..place.clone() });
    // A system without any certificate can't be asked to trust.
    if let Ok(other) = other {
        assert!(reason(&other).contains("no answer"));
    }
    let none =
        ManagerClient::new(&ManagerPlace { ca: Some(folder.path().join("none.pem")), ..place });
    assert!(format!("{:#}", none.expect_err("no file")).contains("none.pem"));
}

#[tokio::test]
async fn the_thread_answers_in_order_and_ends_with_its_asker() {
    let (address, _seen) = answering(ok(TASK));
    let place = ManagerPlace { url: format!("http://{address}"), token: None, ca: None };
    let (asker, mut told) = Asker::start(&place, "wrk").expect("a thread");
    let id = crate::task::TaskId::new("a").expect("an id");
    asker.ask(Ask::Task(Question { run: Run(7), id, age: Duration::from_secs(15) }));
    asker.ask(Ask::Heard);
    assert!(matches!(told.recv().await, Some(ManagerReply::Task(Run(7), Decision::PublishAgain))));
    assert!(matches!(told.recv().await, Some(ManagerReply::Heard(Ok(Heard::Never)))));
    drop(asker);
    assert!(told.recv().await.is_none());
}
