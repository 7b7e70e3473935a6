//! A way to a broker that behaves as FluxMQ without a cluster does, or as a
//! proxy whose broker is down.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What it does with packets of clients.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// A CONNECT that asks for a persistent session is dropped without an
    /// answer.
    pub no_sessions: bool,
    /// A larger packet ends the connection, in bytes.
    pub packet: usize,
    /// Every CONNECT is dropped without an answer.
    pub down: bool,
}

impl Default for Habits {
    /// A broker like any other.
    fn default() -> Habits {
        Habits { no_sessions: false, packet: usize::MAX, down: false }
    }
}

#[derive(Default)]
struct Shared {
    habits: Habits,
    /// Of each CONNECT, whether it asked for a clean session.
    connects: Vec<bool>,
    /// Sizes of the packets that ended a connection.
    refused: Vec<usize>,
    streams: Vec<TcpStream>,
}

/// See the module's documentation. Its threads end with the process.
pub struct FluxMq {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl FluxMq {
    pub fn before(broker: SocketAddr, habits: Habits) -> FluxMq {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(Shared { habits, ..Shared::default() }));
        let flux = FluxMq { address, shared: shared.clone() };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || {
                    // Who goes away ends its thread.
                    relay(&client, broker, &shared).ok();
                    client.shutdown(Shutdown::Both).ok();
                });
            }
        });
        flux
    }

    /// Changes what it does with the packets that come from now on.
    pub fn behave(&self, habits: Habits) {
        lock(&self.shared).habits = habits;
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for stream in lock(&self.shared).streams.drain(..) {
            // It may have ended by itself.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// Of each CONNECT so far, whether it asked for a clean session.
    pub fn connects(&self) -> Vec<bool> {
        lock(&self.shared).connects.clone()
    }

    /// The sizes of the packets that ended a connection so far.
    pub fn refused(&self) -> Vec<usize> {
        lock(&self.shared).refused.clone()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn relay(
    mut client: &TcpStream,
    broker: SocketAddr,
    shared: &Mutex<Shared>,
) -> std::io::Result<()> {
    let mut broker = TcpStream::connect(broker)?;
    for stream in [client, &broker] {
        stream.set_nodelay(true)?;
        lock(shared).streams.push(stream.try_clone()?);
    }
    let (mut from, mut to) = (broker.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        // Either side may go away.
        std::io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Both).ok();
    });
    let relayed = upstream(&mut client, &mut broker, shared);
    broker.shutdown(Shutdown::Both)?;
    relayed
}

/// Passes packets on until one of them ends the connection.
fn upstream(
    client: &mut &TcpStream,
    broker: &mut TcpStream,
    shared: &Mutex<Shared>,
) -> std::io::Result<()> {
    loop {
        let mut header = vec![0; 2];
        client.read_exact(&mut header)?;
        while header.last().is_some_and(|byte| byte & 0x80 != 0) {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            header.extend(byte);
        }
        let lengths = header[1..].iter().enumerate();
        let length: usize = lengths.map(|(n, byte)| usize::from(byte & 0x7f) << (7 * n)).sum();
        let size = header.len() + length;
        let habits = lock(shared).habits;
        if size > habits.packet {
            lock(shared).refused.push(size);
            return Ok(());
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        if header[0] >> 4 == 1 {
            // Behind the protocol's name and level (MQTT 3.1.1, section 3.1.2.3).
            let clean = body[7] & 2 != 0;
            lock(shared).connects.push(clean);
            if habits.down || (habits.no_sessions && !clean) {
                return Ok(());
            }
        }
        broker.write_all(&[header, body].concat())?;
    }
}
