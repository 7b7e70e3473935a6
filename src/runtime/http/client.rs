//! A client's connection that must be read: one that takes next to nothing of
//! what is sent to it is given up.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that a client has to take in each stretch of time.
const LEAST: usize = 64 << 10;

/// See the module's documentation.
pub(super) struct ClientStream<S> {
    stream: S,
    within: Duration,
    /// While something is to be sent that the client has no room for.
    waits: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> ClientStream<S> {
    /// One that has this long for each [`LEAST`] bytes.
    pub(super) fn new(stream: S, within: Duration) -> ClientStream<S> {
        ClientStream { stream, within, waits: None }
    }

    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                if let Some((_, taken)) = &mut self.waits {
                    *taken += bytes;
                    if *taken >= LEAST {
                        self.waits = None;
                    }
                }
                wrote
            }
            Poll::Ready(Err(_)) => wrote,
            Poll::Pending => {
                let within = self.within;
                let wait = || (Box::pin(tokio::time::sleep(within)), 0);
                let (over, _) = self.waits.get_or_insert_with(wait);
                ready!(over.as_mut().poll(context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Everything is with the system.
        self.waits = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let (here, _there) = tokio::io::duplex(64);
        let mut client = ClientStream::new(here, Duration::from_millis(20));
        let error = client.write_all(&[0; 1000]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_that_reads_gets_all_of_it() {
        let (here, mut there) = tokio::io::duplex(64);
        let mut client = ClientStream::new(here, Duration::from_secs(90));
        let reads = tokio::spawn(async move {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.map(|_| all)
        });
        client.write_all(&[7; 3 * LEAST]).await.expect("it is read");
        client.shutdown().await.expect("an end");
        assert_eq!(reads.await.expect("no panic").expect("read"), [7; 3 * LEAST]);
    }
}
