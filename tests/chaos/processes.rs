//! The processes that are started, killed and started again.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// mosquitto, with a store.
pub struct Broker {
    pub port: u16,
    program: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Broker {
    pub fn start(dir: &Path) -> Broker {
        let program = mosquitto();
        let port = free_port();
        let dir = dir.join("mosquitto");
        std::fs::create_dir(&dir).expect("a folder");
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             persistence true\npersistence_location {}/\nmax_queued_messages 0\nuser root\n",
            dir.display()
        );
        std::fs::write(dir.join("mosquitto.conf"), config).expect("a configuration");
        let mut broker = Broker { port, program, dir, child: None };
        broker.run();
        broker
    }

    pub fn run(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.dir.join("mosquitto.conf"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("mosquitto starts"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen on {}", self.port);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it in good order, so that it keeps what it has acknowledged.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(&child);
            child.wait().expect("mosquitto ends");
        }
    }

    /// Ends it and starts it again, with its store or without.
    pub fn restart(&mut self, with_store: bool) {
        self.stop();
        if !with_store {
            std::fs::remove_file(self.dir.join("mosquitto.db")).ok();
        }
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..500)));
        self.run();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The worker.
pub struct Worker {
    dir: PathBuf,
    port: u16,
    flags: Vec<String>,
    child: Option<Child>,
}

impl Worker {
    pub fn start(dir: &Path, port: u16, flags: &[&str]) -> Worker {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut worker = Worker { dir: dir.to_owned(), port, flags, child: None };
        worker.run();
        worker
    }

    pub fn run(&mut self) {
        let log = File::options().append(true).create(true).open(self.dir.join("worker.log"));
        let log = log.expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_proplet"));
        command
            .arg("worker")
            .args(&self.flags)
            .current_dir(&self.dir)
            .env_remove("PROPLET_CHAOS_SECONDS")
            .env_remove("PROPLET_CHAOS_SEED")
            // Several at a time have one port.
            .env("PROPLET_METRICS_ENABLED", "false")
            .env("PROPLET_DOMAIN_ID", "domain")
            .env("PROPLET_CHANNEL_ID", "channel")
            .env("PROPLET_CLIENT_ID", "worker")
            .env("PROPLET_CLIENT_KEY", "key")
            .env("PROPLET_MQTT_ADDRESS", format!("127.0.0.1:{}", self.port))
            .env("PROPLET_STATE_DIR", self.dir.join("state"))
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("the worker starts"));
    }

    /// SIGKILL, and a new process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
        self.run();
    }

    /// SIGTERM, which must end with code 0, and a new process.
    pub fn restart(&mut self) {
        self.end();
        self.run();
    }

    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            assert_eq!(child.try_wait().expect("asked"), None, "the worker ended by itself");
            terminate(&child);
            let status = child.wait().expect("ended");
            // So early that it had no handler for the signal yet.
            let unhandled = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
            assert!(status.success() || unhandled, "the worker ended with {status}");
        }
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.unwrap_or_default();
        let line =
            line.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB").to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn terminate(child: &Child) {
    let status = Command::new("kill").arg(child.id().to_string()).status();
    assert!(status.is_ok_and(|status| status.success()), "`kill` is needed to end processes");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn mosquitto() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/usr/local/sbin".into(), "/opt/homebrew/sbin".into()]);
    let found = places.iter().map(|dir| dir.join("mosquitto")).find(|program| program.is_file());
    found.expect(
        "the chaos test needs mosquitto: `apt install mosquitto` or `brew install mosquitto`",
    )
}
