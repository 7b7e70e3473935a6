//! The way of a pull to its registry: the client for registries looks at no
//! address itself, so it is told of a proxy (SOCKS 5, RFC 1928), which does before it
//! connects. That is in this process, on this machine's own address, and lives as
//! long as the pull. So hosts that a registry refers to, for its tokens or by a
//! redirect, are looked at, too.

use crate::network::{ConnectError, Connector};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
/// How an address is written.
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// See the module's documentation.
pub(super) struct Tunnel {
    at: SocketAddr,
    refused: Refused,
}

/// Why the last connection was refused, by the rules.
type Refused = Arc<Mutex<Option<String>>>;

impl Tunnel {
    /// To be called on the runtime of a pull, with which it ends.
    pub(super) async fn open(connector: Arc<Connector>) -> Result<Tunnel, String> {
        let no_tunnel = |e: io::Error| format!("no way to a registry could be opened: {e}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(no_tunnel)?;
        let at = listener.local_addr().map_err(no_tunnel)?;
        let refused = Refused::default();
        let why = refused.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (connector, why) = (connector.clone(), why.clone());
                tokio::spawn(async move {
                    // The client sees its connection end.
                    pass(stream, &connector, &why).await.ok();
                });
            }
        });
        Ok(Tunnel { at, refused })
    }

    /// Where it is, for the client, which leaves names to it.
    pub(super) fn address(&self) -> String {
        format!("socks5h://{}", self.at)
    }

    /// Why a connection was refused, if one was.
    pub(super) fn refusal(&self) -> Option<String> {
        // A text, which is set in one step.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads where a client wants to go, and connects it there.
async fn pass(mut client: TcpStream, connector: &Connector, refused: &Refused) -> io::Result<()> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let [version, methods] = read(&mut client).await?;
    if version != VERSION {
        return Err(wrong());
    }
    client.read_exact(&mut vec![0; methods.into()]).await?;
    // Nobody is asked who he is.
    client.write_all(&[VERSION, 0]).await?;
    let [VERSION, CONNECT, _, kind] = read(&mut client).await? else { return Err(wrong()) };
    let host = match kind {
        V4 => IpAddr::from(Ipv4Addr::from(read::<4>(&mut client).await?)).to_string(),
        V6 => IpAddr::from(Ipv6Addr::from(read::<16>(&mut client).await?)).to_string(),
        NAME => {
            let [length] = read(&mut client).await?;
            let mut name = vec![0; length.into()];
            client.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    let port = u16::from_be_bytes(read(&mut client).await?);
    let (code, stream) = match connector.connect(&host, port).await {
        Ok(stream) => (0, Some(stream)),
        Err(error) => {
            let why = format!("{host}: {error}");
            let (code, by_rule) = match error {
                ConnectError::NotAllowed | ConnectError::Prohibited(_) => (2, true),
                ConnectError::Name(_) | ConnectError::Timeout => (4, false),
                ConnectError::Refused(_) => (5, false),
                ConnectError::Busy => (1, false),
            };
            if by_rule {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
            (code, None)
        }
    };
    client.write_all(&[VERSION, code, 0, V4, 0, 0, 0, 0, 0, 0]).await?;
    if let Some(stream) = stream {
        copy_bidirectional(&mut client, &mut TcpStream::from_std(stream)?).await?;
    }
    Ok(())
}

async fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}
