//! Connections that guests ask for, as the runtime's process has them made: by the
//! worker, which knows where one may lead. This process can make none.

use super::channel::{Sender, Wait};
use super::messages::Report;
use crate::network::ConnectError;
use crate::runtime::{Connect, Connecting};
use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Made = Result<TcpStream, ConnectError>;

/// Those that are being made.
pub(super) struct Connections {
    line: Sender,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Made>>,
    next: u64,
}

impl Connections {
    /// They are asked for on this line.
    pub(super) fn new(line: Sender) -> Connections {
        Connections { line, waiting: Mutex::default() }
    }

    /// How they are asked for.
    pub(super) fn connect(self: &Arc<Connections>) -> Arc<Connect> {
        let connections = self.clone();
        Arc::new(move |host, port| -> Connecting { Box::pin(connections.clone().ask(host, port)) })
    }

    async fn ask(self: Arc<Connections>, host: String, port: u16) -> Made {
        let (told, answer) = oneshot::channel();
        let number = {
            let mut waiting = self.lock();
            let number = waiting.next;
            waiting.next += 1;
            waiting.answers.insert(number, told);
            number
        };
        // Where the line is full, too many are asked for.
        if self.line.send(&Report::Connect(number, host, port), None, Wait::No).is_err() {
            self.lock().answers.remove(&number);
            return Err(ConnectError::Busy);
        }
        answer.await.unwrap_or(Err(ConnectError::Busy))
    }

    /// The worker's answer.
    pub(super) fn made(
        &self,
        number: u64,
        made: Result<(), ConnectError>,
        descriptor: Option<OwnedFd>,
    ) {
        let Some(told) = self.lock().answers.remove(&number) else { return };
        let missing = || ConnectError::Refused("no descriptor came with it".into());
        let made = made.and_then(|()| descriptor.map(TcpStream::from).ok_or_else(missing));
        // Whoever has gone closes it.
        told.send(made).ok();
    }

    // Entries come and go whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
