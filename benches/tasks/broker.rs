//! Mosquitto, or the embedded broker where there is none, and a relay that
//! sees what goes by.

use crate::place::Place;
use anyhow::{Context as _, bail};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A broker of our own. It ends with this.
pub struct Broker {
    pub address: SocketAddr,
    /// What it is.
    pub name: &'static str,
    running: Running,
}

enum Running {
    Mosquitto(Child),
    Embedded { _broker: proplet::broker::Broker },
}

impl Broker {
    pub fn start(place: &Place) -> anyhow::Result<Broker> {
        let Some(program) = program("PROPLET_BENCH_MOSQUITTO", "mosquitto") else {
            let broker = proplet::broker::Broker::start()?;
            let address = broker.address();
            let running = Running::Embedded { _broker: broker };
            return Ok(Broker { address, name: "the embedded broker", running });
        };
        let address = free_address()?;
        let config = place.scratch.path().join("mosquitto.conf");
        // Without the second line mosquitto takes messages that another line
        // of its settings would turn away; the third spares 40 ms a message.
        fs::write(
            &config,
            format!(
                "listener {} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
                 max_queued_messages 0\n",
                address.port()
            ),
        )?;
        let child = Command::new(&program)
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let broker = Broker { address, name: "mosquitto", running: Running::Mosquitto(child) };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            if began.elapsed() > Duration::from_secs(20) {
                bail!("{} does not listen on {address}", program.display());
            }
            thread::yield_now();
        }
        Ok(broker)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Running::Mosquitto(child) = &mut self.running {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A program that this variable or the PATH names. Debian puts mosquitto
/// where only root's PATH looks.
pub fn program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A way to the broker that tells when the first SUBACK comes by.
pub struct Relay {
    pub address: SocketAddr,
    subscribed: Receiver<Instant>,
}

impl Relay {
    /// For one connection.
    pub fn to(broker: SocketAddr) -> anyhow::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (sender, subscribed) = channel();
        thread::spawn(move || relay(&listener, broker, &sender));
        Ok(Relay { address, subscribed })
    }

    /// When the client's subscriptions were confirmed.
    pub fn subscribed(&self) -> anyhow::Result<Instant> {
        self.subscribed.recv_timeout(Duration::from_secs(30)).context("no SUBACK came by")
    }
}

fn relay(
    listener: &TcpListener,
    broker: SocketAddr,
    subscribed: &Sender<Instant>,
) -> anyhow::Result<()> {
    let (mut client, _) = listener.accept()?;
    let mut broker = TcpStream::connect(broker)?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (mut from_client, mut to_broker) = (client.try_clone()?, broker.try_clone()?);
    thread::spawn(move || {
        // Either end may close.
        std::io::copy(&mut from_client, &mut to_broker).ok();
        to_broker.shutdown(Shutdown::Both).ok();
    });
    // CONNACK has four bytes, and what follows it is the SUBACK (MQTT 3.1.1,
    // sections 3.2 and 3.9).
    const CONNACK: usize = 4;
    const SUBACK: u8 = 0x90;
    let mut seen = 0;
    let mut buffer = vec![0; 64 << 10];
    while let n @ 1.. = broker.read(&mut buffer)? {
        let at = CONNACK.checked_sub(seen).and_then(|at| buffer[..n].get(at));
        if at == Some(&SUBACK) {
            subscribed.send(Instant::now())?;
        }
        seen += n;
        client.write_all(&buffer[..n])?;
    }
    client.shutdown(Shutdown::Both)?;
    Ok(())
}
