//! A small MQTT broker inside the process, for `proplet demo` and the tests.
//!
//! The router (topics, subscriptions, sessions) is rumqttd's; the listener and
//! the connections are our own, because rumqttd's can't be stopped, can't
//! listen on a port of the system's choice, leave Nagle's algorithm on (40 ms
//! a message), don't read while they write (two large publishes in opposite
//! directions then wait for each other), and close the connection without a
//! word when they refuse credentials.
//!
//! It is not a broker for production. A subscriber that falls more than
//! [`RETAINED`] bytes behind on a topic loses the oldest messages, which is
//! also what the broker keeps of each topic in memory; nothing is kept on disk;
//! last wills are not published; acknowledgements must come in the order of
//! the messages.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Error, Login, Packet,
    Protocol,
};
use rumqttd::{Router, RouterConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What is kept of a topic: enough for a subscriber that is this much slower
/// than the publisher.
pub const RETAINED: usize = SEGMENT * SEGMENTS;
const SEGMENT: usize = 4 << 20;
/// A message larger than a segment has one to itself, so at least this many
/// messages are kept.
const SEGMENTS: usize = 64;

/// How long a connection may take for its first packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How a broker listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address; port 0 is any free one.
    pub listen: SocketAddr,
    /// Username and password of those who may connect; anyone if it is empty.
    pub credentials: HashMap<String, String>,
    /// The largest packet taken, in bytes.
    pub max_packet_size: usize,
}

impl Default for Settings {
    /// A free loopback port, open to everyone, packets up to 256 MiB (the
    /// protocol's own limit).
    fn default() -> Settings {
        Settings {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            credentials: HashMap::new(),
            max_packet_size: 256 << 20,
        }
    }
}

/// A running broker. Dropping it closes the listener and every connection;
/// rumqttd's router then keeps one sleeping thread, and what it retained, until
/// the process ends (it holds a sender of the very channel whose closing would
/// end it).
///
/// rumqttd logs each packet: filter the target `rumqttd` to `off`, or to
/// `error` at most.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker on a free loopback port. It takes connections when this
    /// returns.
    pub fn start() -> anyhow::Result<Broker> {
        Broker::start_with(Settings::default())
    }

    /// Starts a broker.
    pub fn start_with(settings: Settings) -> anyhow::Result<Broker> {
        // Bound here, so that the address is known and an error is the
        // caller's; the kernel takes connections from now on.
        let listener = std::net::TcpListener::bind(settings.listen).with_context(|| {
            format!("the embedded broker could not listen on {}", settings.listen)
        })?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the embedded broker could not start its event loop")?;
        let thread = std::thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || {
                // Dropping the runtime ends all connections.
                runtime.block_on(async {
                    tokio::select! {
                        served = serve(listener, settings) => {
                            if let Err(error) = served {
                                tracing::error!("the embedded broker ended: {error:#}");
                            }
                        }
                        _ = stopped => {}
                    }
                });
            })
            .context("the embedded broker could not start its thread")?;
        Ok(Broker { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded broker's thread panicked");
        }
    }
}

async fn serve(listener: std::net::TcpListener, settings: Settings) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let router = Router::new(
        0,
        RouterConfig {
            max_connections: 1024,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
    )
    .spawn();
    let settings = Arc::new(settings);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: it passes.
                tracing::warn!("the embedded broker could not take a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let router = router.clone();
        let settings = Arc::clone(&settings);
        tokio::spawn(async move {
            let served = async {
                let mut connection = BrokerConnection::new(stream, settings.max_packet_size)?;
                let Some(connect) = connection.greet(&settings).await? else {
                    return Ok(());
                };
                let (tx, rx, connack) = LinkBuilder::new(&connect.client_id, router)
                    .clean_session(connect.clean_session)
                    .build()
                    .context("the router refused the client id")?;
                if let Some(connack) = connack.into() {
                    connection.writer.write(connack).await?;
                }
                connection.run(tx, rx, connect.keep_alive).await
            };
            let served: anyhow::Result<()> = served.await;
            if let Err(error) = served {
                tracing::debug!("the embedded broker's connection from {peer} ended: {error:#}");
            }
        });
    }
}

struct BrokerConnection {
    reader: BrokerReader,
    writer: BrokerWriter,
}

struct BrokerReader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    max_packet_size: usize,
}

struct BrokerWriter {
    half: OwnedWriteHalf,
    buffer: BytesMut,
}

impl BrokerConnection {
    fn new(stream: TcpStream, max_packet_size: usize) -> anyhow::Result<BrokerConnection> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(BrokerConnection {
            reader: BrokerReader { half: reader, buffer: BytesMut::new(), max_packet_size },
            writer: BrokerWriter { half: writer, buffer: BytesMut::new() },
        })
    }

    /// Reads CONNECT; `None` if the client was turned away.
    async fn greet(&mut self, settings: &Settings) -> anyhow::Result<Option<Connect>> {
        let first = timeout(CONNECT_TIMEOUT, self.reader.read())
            .await
            .context("no CONNECT packet came in time")??;
        let Packet::Connect(mut connect, _, _, _, login) = first else {
            anyhow::bail!("the first packet is not CONNECT");
        };
        let code = if !admits(settings, login.as_ref()) {
            ConnectReturnCode::NotAuthorized
        } else if connect.client_id.is_empty() && !connect.clean_session {
            ConnectReturnCode::ClientIdentifierNotValid
        } else {
            if connect.client_id.is_empty() {
                connect.client_id = uuid::Uuid::new_v4().to_string();
            }
            return Ok(Some(connect));
        };
        self.writer.write(Packet::ConnAck(ConnAck { session_present: false, code }, None)).await?;
        Ok(None)
    }

    async fn run(mut self, mut tx: LinkTx, mut rx: LinkRx, keep_alive: u16) -> anyhow::Result<()> {
        let silence = match keep_alive {
            0 => Duration::MAX,
            seconds => Duration::from_secs(u64::from(seconds)) * 3 / 2,
        };
        let read = async {
            loop {
                let packet = timeout(silence, self.reader.read())
                    .await
                    .context("nothing came within one and a half keep-alives")??;
                let last = matches!(packet, Packet::Disconnect(..));
                tx.send(packet).await?;
                if last {
                    return anyhow::Ok(());
                }
            }
        };
        let write = async {
            loop {
                match rx.next().await {
                    Ok(Some(notification)) => match notification.into() {
                        Some(packet) => self.writer.write(packet).await?,
                        // The router paused this connection until it has
                        // written all that is queued.
                        None => rx.wake().await?,
                    },
                    Ok(None) => {}
                    // The router let go of the connection: DISCONNECT, an
                    // error, or another client with the same id.
                    Err(_) => return anyhow::Ok(()),
                }
            }
        };
        // Both go on side by side, also in the middle of a packet.
        let ended = tokio::select! {
            ended = write => return ended,
            ended = read => ended,
        };
        if ended.is_err() {
            // A packet and not an event, because the router finds the packet
            // only in this connection's own buffer; an event carries a number
            // that by now may be another connection's.
            let disconnect = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
            tx.send(Packet::Disconnect(disconnect, None)).await?;
        }
        ended
    }
}

fn admits(settings: &Settings, login: Option<&Login>) -> bool {
    settings.credentials.is_empty()
        || login
            .is_some_and(|login| settings.credentials.get(&login.username) == Some(&login.password))
}

impl BrokerReader {
    async fn read(&mut self) -> anyhow::Result<Packet> {
        loop {
            match V4.read_mut(&mut self.buffer, self.max_packet_size) {
                Ok(packet) => return Ok(packet),
                Err(Error::InsufficientBytes(missing)) => self.buffer.reserve(missing),
                Err(error) => return Err(error.into()),
            }
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                anyhow::bail!("the client closed the connection");
            }
        }
    }
}

impl BrokerWriter {
    async fn write(&mut self, packet: Packet) -> anyhow::Result<()> {
        V4.write(packet, &mut self.buffer)?;
        self.half.write_all(&self.buffer).await?;
        self.buffer.clear();
        if self.buffer.capacity() > 1 << 20 {
            // One large message must not cost its size for ever.
            self.buffer = BytesMut::new();
        }
        Ok(())
    }
}
