//! A tiny web server for modules, and a way to the broker that can be cut.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What a web server answers with.
#[derive(Clone)]
pub enum Answer {
    /// 200 with this body and its length.
    Whole(Vec<u8>),
    /// 200 with this body, whose length is not told.
    Unmeasured(Vec<u8>),
    /// 200 and a length that the body does not come to.
    CutOff(Vec<u8>),
    NotFound,
    /// Elsewhere.
    Moved(String),
}

/// A web server with one answer for each path. Its thread ends with the process.
pub struct Web {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Web {
    pub fn serve(answers: &[(&str, Answer)]) -> Web {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let answers: HashMap<String, Answer> =
            answers.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())).collect();
        let requests = Arc::<AtomicUsize>::default();
        let counted = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                // A client that has seen enough closes the connection.
                answer(stream, &answers).ok();
            }
        });
        Web { address, requests }
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn answer(mut stream: TcpStream, answers: &HashMap<String, Answer>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let (status, length, body) = match answers.get(path) {
        Some(Answer::Whole(body)) => ("200 OK", Some(body.len()), body.as_slice()),
        Some(Answer::Unmeasured(body)) => ("200 OK", None, body.as_slice()),
        Some(Answer::CutOff(body)) => ("200 OK", Some(body.len() + 1), body.as_slice()),
        Some(Answer::Moved(to)) => {
            let head = "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0";
            write!(stream, "{head}\r\nConnection: close\r\nLocation: {to}\r\n\r\n")?;
            return stream.shutdown(Shutdown::Write);
        }
        Some(Answer::NotFound) | None => ("404 Not Found", Some(0), [].as_slice()),
    };
    let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
    write!(stream, "HTTP/1.1 {status}\r\n{length}Connection: close\r\n\r\n")?;
    stream.write_all(body)?;
    stream.shutdown(Shutdown::Write)
}

/// A way to the broker that can be cut and opened again.
pub struct Proxy {
    pub address: SocketAddr,
    open: Arc<AtomicBool>,
    /// Whether what the broker says is passed on.
    heard: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn to(broker: SocketAddr) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let open = Arc::new(AtomicBool::new(true));
        let heard = Arc::new(AtomicBool::new(true));
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let proxy =
            Proxy { address, open: open.clone(), heard: heard.clone(), streams: streams.clone() };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if open.load(Ordering::SeqCst) {
                    // Without a broker the client's connection just ends.
                    relay(client, broker, &streams, &heard).ok();
                }
            }
        });
        proxy
    }

    /// Ends all connections and takes no more.
    pub fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may have ended by itself.
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// Takes connections again, and passes on what the broker says.
    pub fn open(&self) {
        self.heard.store(true, Ordering::SeqCst);
        self.open.store(true, Ordering::SeqCst);
    }

    /// What the broker says from now on is lost; what it is told still comes.
    pub fn deafen(&self) {
        self.heard.store(false, Ordering::SeqCst);
    }
}

fn relay(
    client: TcpStream,
    broker: SocketAddr,
    streams: &Mutex<Vec<TcpStream>>,
    heard: &Arc<AtomicBool>,
) -> std::io::Result<()> {
    let broker = TcpStream::connect(broker)?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
        streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
    }
    let always = Arc::new(AtomicBool::new(true));
    let there = (client.try_clone()?, broker.try_clone()?, always);
    for (mut from, mut to, passes) in [there, (broker, client, heard.clone())] {
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if !passes.load(Ordering::SeqCst) {
                    continue;
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            // The other direction may have done it.
            to.shutdown(Shutdown::Both).ok();
        });
    }
    Ok(())
}
