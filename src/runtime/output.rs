//! Bounded capture of a guest's output: the first and the last bytes are kept
//! and the rest is counted, so a guest that writes without end neither fails
//! nor fills the worker's memory.

use super::daemon_log::Lines;
use crate::task::{Captured, gap};
use bytes::Bytes;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// What a stream accepts in one write: any amount, since it never blocks.
const PERMIT: usize = 1 << 20;

#[derive(Default)]
struct Buffer {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
    /// Of a daemon: what goes on into the log.
    lines: Option<Lines>,
}

/// One output stream of one task. Clones write to the same place.
#[derive(Clone)]
pub(super) struct Capture {
    buffer: Arc<Mutex<Buffer>>,
    half: usize,
}

impl Capture {
    /// Keeps at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Capture {
        Capture { buffer: Arc::default(), half: limit / 2 }
    }

    /// The same, and what is written goes to these lines of the log, too.
    pub(super) fn logged(limit: usize, lines: Lines) -> Capture {
        let capture = Capture::new(limit);
        capture.lock().lines = Some(lines);
        capture
    }

    /// Appends what a guest wrote.
    pub(super) fn write(&self, mut bytes: &[u8]) {
        let mut buffer = self.lock();
        if let Some(lines) = &mut buffer.lines {
            lines.write(bytes);
        }
        let room = self.half - buffer.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        buffer.head.extend_from_slice(head);
        bytes = rest;
        // Of a write that is larger than the tail only its end can stay.
        let skipped = bytes.len().saturating_sub(self.half);
        bytes = &bytes[skipped..];
        let pushed_out = (buffer.tail.len() + bytes.len()).saturating_sub(self.half);
        buffer.tail.drain(..pushed_out);
        buffer.tail.extend(bytes);
        buffer.dropped += (skipped + pushed_out) as u64;
    }

    /// Takes what was kept, and leaves nothing.
    pub(super) fn take(&self) -> Captured {
        let Buffer { head: mut bytes, mut tail, mut dropped, .. } =
            std::mem::take(&mut *self.lock());
        if dropped > 0 {
            // Half a character would make bytes of a text.
            let (end, start) = (begun(&bytes), continued(tail.make_contiguous()));
            bytes.truncate(bytes.len() - end);
            tail.drain(..start);
            dropped += (end + start) as u64;
            bytes.extend_from_slice(gap(dropped).as_bytes());
        }
        let (front, back) = tail.as_slices();
        bytes.extend_from_slice(front);
        bytes.extend_from_slice(back);
        Captured { bytes, dropped }
    }

    // A panic while it was held leaves bytes, and bytes are never wrong.
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes at the end that begin a character of UTF-8 and do not end it.
fn begun(bytes: &[u8]) -> usize {
    let continuations = bytes.iter().rev().take(3).take_while(|byte| is_continuation(**byte));
    let have = continuations.count() + 1;
    let Some(first) = bytes.len().checked_sub(have).map(|at| bytes[at]) else { return 0 };
    let wanted = match first {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..=0xff => 4,
        _ => 1,
    };
    if have < wanted { have } else { 0 }
}

/// Bytes at the start that go on with a character of UTF-8.
fn continued(bytes: &[u8]) -> usize {
    bytes.iter().take(3).take_while(|byte| is_continuation(**byte)).count()
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

impl IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Capture {
    async fn ready(&mut self) {}
}

impl OutputStream for Capture {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        Capture::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

impl AsyncWrite for Capture {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Capture::write(&self, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_is_kept_as_it_was() {
        let capture = Capture::new(10);
        capture.write(b"01234");
        capture.write(b"56789");
        assert_eq!(capture.take(), Captured { bytes: b"0123456789".to_vec(), dropped: 0 });
    }

    #[test]
    fn of_a_flood_both_ends_are_kept_and_the_rest_counted() {
        let capture = Capture::new(8);
        for _ in 0..100 {
            capture.write(b"abc");
        }
        let taken = capture.take();
        assert_eq!(taken.dropped, 292);
        assert_eq!(
            String::from_utf8(taken.bytes).expect("text"),
            "abca\n[… 292 bytes not kept …]\ncabc"
        );
    }

    #[test]
    fn text_that_is_cut_stays_text() {
        for text in ["é", "€", "🙂", "a€é🙂"] {
            for limit in 20..40 {
                let (all, capture) = (text.repeat(100), Capture::new(limit));
                capture.write(all.as_bytes());
                let taken = capture.take();
                let kept = String::from_utf8(taken.bytes).expect("text");
                let kept = kept.replace(&gap(taken.dropped), "").len();
                assert_eq!(kept + taken.dropped as usize, all.len());
                assert!(kept + 6 + 1 >= limit, "no more than half a character at each end");
            }
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_kept_or_counted(
            limit in 0usize..64,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let capture = Capture::new(limit);
            for write in &writes {
                capture.write(write);
            }
            let all = writes.concat();
            let taken = capture.take();
            let half = limit / 2;
            if taken.dropped == 0 {
                prop_assert_eq!(taken.bytes, all);
            } else {
                let gap = gap(taken.dropped);
                let kept = taken.bytes.len() - gap.len();
                prop_assert_eq!(taken.dropped as usize + kept, all.len());
                prop_assert!(kept <= 2 * half && kept + 6 >= 2 * half);
                let whole = |head: usize| {
                    let tail = &all[all.len() - (kept - head)..];
                    taken.bytes == [&all[..head], gap.as_bytes(), tail].concat()
                };
                prop_assert!((half.saturating_sub(3)..=half.min(kept)).any(whole));
            }
        }
    }
}
