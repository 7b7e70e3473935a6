//! Requests that guests send: to whom they may lead, whom they trust, and what a flood of them
//! comes to.

use crate::http::{ask, free_port, hello, isolations, port, server};
use crate::support::{Certified, On, Process, Stage, Worker, fixtures, program};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Somebody whom guests ask.
struct Asked {
    port: u16,
    /// Connections that there were, and that are open.
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

/// What he does.
#[derive(Clone)]
enum Habit {
    /// Says `fine` to whatever is asked.
    Fine,
    /// The same over TLS.
    Tls(Arc<rustls::ServerConfig>),
    /// Says nothing, until whoever asks has gone.
    Silent,
    /// Sends a head without an end.
    EndlessHead,
}

impl Asked {
    fn start(habit: Habit) -> Asked {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (connections, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (all, now) = (connections.clone(), open.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                all.fetch_add(1, Ordering::SeqCst);
                now.fetch_add(1, Ordering::SeqCst);
                let (habit, now) = (habit.clone(), now.clone());
                std::thread::spawn(move || {
                    answer(&habit, stream);
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Asked { port, connections, open }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/x", self.port)
    }
}

fn answer(habit: &Habit, mut stream: TcpStream) {
    use std::io::{Read as _, Write as _};
    match habit {
        Habit::Fine => fine(stream),
        Habit::Tls(config) => {
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            fine(rustls::StreamOwned::new(session, stream));
        }
        Habit::Silent => {
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        Habit::EndlessHead => {
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while sent.is_ok() {
                sent = stream.write_all(b"x-more: and more, and more, and more\r\n");
            }
        }
    }
}

fn fine(mut stream: impl std::io::Read + std::io::Write) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        // A client that does not trust us leaves.
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").ok();
    stream.flush().ok();
}

/// The server of the fixtures, where guests may reach these hosts.
struct Scene {
    port: u16,
    stage: Stage,
    _worker: Worker,
}

impl Scene {
    fn new(settings: &[(&str, &str)], hosts: &str, own: &[(&str, &str)]) -> Scene {
        let stage = Stage::new(On::Embedded);
        let worker = stage.worker(&[settings, &[("allow-hosts", hosts)], own].concat());
        let port = port(&stage, &stage.start(server()));
        Scene { port, stage, _worker: worker }
    }

    /// What the guest got from there, or why it got nothing.
    fn fetched(&self, url: &str) -> (u16, String) {
        let answer = ask(self.port, "/fetch", url.as_bytes());
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }
}

/// ARCHITECTURE.md, case 113.
#[test]
fn guests_reach_the_hosts_that_are_named_and_no_private_address_by_another_name() {
    for settings in isolations() {
        let asked = Asked::start(Habit::Fine);
        let public = Scene::new(&settings, "*", &[]);
        let refused = |scene: &Scene, url: &str, says: &str| {
            let (status, text) = scene.fetched(url);
            assert_eq!(status, 502, "{url}: {text}");
            assert!(text.contains(says), "{url}: {text}");
        };
        // As they are, by names, and as other programs read numbers.
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "me@127.0.0.1"] {
            refused(&public, &asked.url(host), "HttpRequestDenied");
        }
        for host in ["localhost", "LOCALHOST"] {
            refused(&public, &asked.url(host), "DestinationIpProhibited");
        }
        for host in ["2130706433", "0x7f000001", "127.1"] {
            let (status, text) = public.fetched(&asked.url(host));
            assert!(
                status == 502 && (text.contains("Prohibited") || text.contains("Dns")),
                "{text}"
            );
        }
        for url in [
            "http://169.254.169.254/latest/meta-data/",
            "http://[fd00:ec2::254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://10.0.0.1/",
            "http://example.org:0/",
        ] {
            refused(&public, url, "HttpRequestDenied");
        }
        // Another port of that address, or its name alone.
        let others = Scene::new(&settings, &format!("localhost,127.0.0.1:{}", free_port()), &[]);
        refused(&others, &asked.url("127.0.0.1"), "HttpRequestDenied");
        refused(&others, &asked.url("localhost"), "DestinationIpProhibited");
        refused(&others, &asked.url("other.localhost"), "HttpRequestDenied");
        assert_eq!(asked.connections(), 0, "not even a connection");
        let named = Scene::new(&settings, &format!("localhost,127.0.0.1:{}", asked.port), &[]);
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            assert_eq!(named.fetched(&asked.url(host)), (200, "fine".into()), "{host}");
        }
        refused(&named, &format!("http://127.0.0.1:{}/", free_port()), "HttpRequestDenied");
    }
}

#[test]
fn guests_trust_the_certificates_that_are_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let certified = Certified::new(&["localhost", "127.0.0.1"]);
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &certified.authority).expect("written");
    let asked = Asked::start(Habit::Tls(certified.server()));
    let hosts = format!("localhost,127.0.0.1:{}", asked.port);
    for settings in isolations() {
        let ca = ca.to_str().expect("a path");
        let trusting = Scene::new(&settings, &hosts, &[("http-tls-ca-cert", ca)]);
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("https://{host}:{}/", asked.port);
            assert_eq!(trusting.fetched(&url), (200, "fine".into()), "{host}");
        }
        let wary = Scene::new(&settings, &hosts, &[]);
        let (status, text) = wary.fetched(&format!("https://localhost:{}/", asked.port));
        assert!(status == 502 && text.contains("Tls"), "nobody vouches for it: {text}");
    }
}

/// ARCHITECTURE.md, case 114.
#[test]
fn a_flood_of_requests_from_a_guest_is_bounded_and_ends_with_it() {
    /// Requests of one guest at the same time.
    const MOST: usize = 32;
    for settings in isolations() {
        let (silent, fine) = (Asked::start(Habit::Silent), Asked::start(Habit::Fine));
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", silent.port, fine.port);
        let scene = Scene::new(&settings, &hosts, &[]);
        ask(scene.port, "/fetches", silent.url("127.0.0.1").as_bytes());
        scene.stage.until("they end with their guest", || silent.open() == 0);
        assert!(silent.connections() <= MOST, "{}", silent.connections());
        hello(scene.port);
        assert_eq!(scene.fetched(&fine.url("127.0.0.1")), (200, "fine".into()));
    }
}

#[test]
fn whoever_is_asked_and_does_not_answer_in_order_costs_that_request() {
    for settings in isolations() {
        let (silent, endless) = (Asked::start(Habit::Silent), Asked::start(Habit::EndlessHead));
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", silent.port, endless.port);
        let scene = Scene::new(&settings, &hosts, &[("http-timeout", "10s")]);
        // It ends with the time of the request that it was sent in.
        assert_eq!(scene.fetched(&silent.url("127.0.0.1")).0, 504);
        scene.stage.until("its connection ends", || silent.open() == 0);
        let (status, text) = scene.fetched(&endless.url("127.0.0.1"));
        assert_eq!(status, 502, "{text}");
        scene.stage.until("its connection ends", || endless.open() == 0);
        hello(scene.port);
    }
}

#[test]
fn a_guest_of_proplet_run_reaches_the_hosts_that_are_named_by_no_proxy() {
    let asked = Asked::start(Habit::Fine);
    let guest = fixtures().join("guests/bin/http.wasm");
    for (hosts, status) in [(None, 502), (Some(format!("127.0.0.1:{}", asked.port)), 200)] {
        let mut command = program();
        command.arg("run");
        // Nobody is there, and nobody is asked: a proxy would decide on addresses.
        for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(variable, format!("http://127.0.0.1:{}", free_port()));
        }
        if let Some(hosts) = hosts {
            command.args(["--allow-hosts", &hosts]);
        }
        command.args(["--addr", "127.0.0.1:0"]).arg(&guest);
        let served = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let line = served.logs("Serving HTTP on http://127.0.0.1:");
        let port = line.trim_end_matches('/').rsplit(':').next().expect("a port");
        let port = port.parse().expect("a number");
        let answer = ask(port, "/fetch", asked.url("127.0.0.1").as_bytes());
        assert_eq!(answer.status, status, "{answer:?}");
    }
}
