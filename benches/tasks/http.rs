//! Whoever sends requests over HTTP, on connections that stay open: as little as
//! can be, since it shares the processors with what is measured.

use crate::stats::Samples;
use anyhow::{Context as _, bail};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// No answer takes longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request, and where it goes.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    request: Vec<u8>,
}

/// What came of many.
pub struct Load {
    /// How long each took.
    pub times: Samples,
    pub per_second: f64,
    /// Those without an answer of 200.
    pub failed: u32,
}

impl Client {
    /// Sends this body; none: a plain question.
    pub fn new(address: SocketAddr, body: &[u8]) -> Client {
        let head = match body {
            [] => format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n"),
            _ => format!(
                "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ),
        };
        Client { address, request: [head.as_bytes(), body].concat() }
    }

    /// Requests one after the other on each of so many connections, for this long.
    pub fn load(&self, connections: usize, lasting: Duration) -> anyhow::Result<Load> {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        tokio.block_on(async {
            let began = Instant::now();
            let all: Vec<_> = (0..connections)
                .map(|_| tokio::spawn(self.clone().go_on(began + lasting)))
                .collect();
            let mut load = Load { times: Samples::new(), per_second: 0.0, failed: 0 };
            let mut answered = 0u32;
            for one in all {
                let (times, failed) = one.await?;
                load.failed += failed;
                for took in times {
                    answered += 1;
                    load.times.add(took);
                }
            }
            load.per_second = f64::from(answered) / began.elapsed().as_secs_f64();
            Ok(load)
        })
    }

    /// A connection, on which one request follows the other.
    pub fn connect(&self) -> anyhow::Result<Connection<'_>> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Connection { client: self, tokio, kept: None })
    }

    /// One connection; a new one after each request that fails.
    async fn go_on(self, until: Instant) -> (Vec<Duration>, u32) {
        let (mut times, mut failed) = (Vec::new(), 0);
        let mut kept = None;
        while Instant::now() < until {
            let began = Instant::now();
            let answered = tokio::time::timeout(PATIENCE, self.once(kept.take())).await;
            match answered {
                Ok(Ok(stream)) => {
                    times.push(began.elapsed());
                    kept = Some(stream);
                }
                Ok(Err(_)) | Err(_) => failed += 1,
            }
        }
        (times, failed)
    }

    async fn once(&self, kept: Option<TcpStream>) -> anyhow::Result<TcpStream> {
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(&self.request).await?;
        let mut answer = Vec::with_capacity(1024);
        loop {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the connection ended");
            }
            if is_whole(&answer)? {
                return Ok(stream);
            }
        }
    }
}

/// See [`Client::connect`].
pub struct Connection<'a> {
    client: &'a Client,
    tokio: tokio::runtime::Runtime,
    kept: Option<TcpStream>,
}

impl Connection<'_> {
    /// From a request to its answer.
    pub fn ask(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let kept = self.kept.take();
        self.kept = Some(self.tokio.block_on(self.client.once(kept))?);
        Ok(began.elapsed())
    }
}

/// Whether an answer has come whole; it is an error if it is none of 200.
fn is_whole(answer: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(false);
    };
    let head = std::str::from_utf8(&answer[..end])?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{head}");
    }
    let body = &answer[end + 4..];
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    Ok(match length {
        Some(length) => body.len() >= length.parse::<usize>().context("a length")?,
        // In chunks.
        None => body.ends_with(b"0\r\n\r\n"),
    })
}
