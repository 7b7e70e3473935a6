//! One end of a socket pair that carries messages: plain data, as postcard
//! writes it, bounded, one packet each.
//!
//! ```text
//! small:  0, the message                      one packet
//! large:  1, its length (8 bytes, LE)         one packet, with a sealed memfd that holds it
//! ```
//!
//! Descriptors that belong to a message go with its packet. The other end may
//! be hostile: nothing is taken from it beyond the limit, whatever it says of
//! the length.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// The most bytes of a packet: one that a socket's buffer always has room for.
const PACKET: usize = 32 << 10;
/// The most descriptors that go with a packet, the message's own included.
const DESCRIPTORS: usize = 2;
/// The first byte of a packet.
const SMALL: u8 = 0;
const LARGE: u8 = 1;

/// The sending half. Clones send on the same socket.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<OwnedFd>);

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: Arc<OwnedFd>,
    /// The most bytes of a message.
    limit: u64,
    packet: Vec<u8>,
}

/// Two connected sockets.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Both halves of an end that takes messages of up to `limit` bytes.
pub(super) fn end(socket: OwnedFd, limit: u64) -> (Sender, Receiver) {
    let socket = Arc::new(socket);
    (Sender(socket.clone()), Receiver { socket, limit, packet: vec![0; PACKET] })
}

/// Whether a send waits for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// As long as it takes.
    Yes,
    /// Not at all: the other end is not reading.
    No,
}

impl Sender {
    /// Sends a message, and with it at most one descriptor.
    ///
    /// # Errors
    ///
    /// The other end is closed; there is no room and the send does not wait; no
    /// memory.
    pub(super) fn send(
        &self,
        message: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
        wait: Wait,
    ) -> io::Result<()> {
        let invalid = |e| io::Error::new(ErrorKind::InvalidData, e);
        let mut packet = postcard::to_extend(message, vec![SMALL]).map_err(invalid)?;
        let mut memory = None;
        if packet.len() > PACKET {
            let message = &packet[1..];
            let length = message.len() as u64;
            memory = Some(sealed(message)?);
            packet.truncate(1);
            packet[0] = LARGE;
            packet.extend_from_slice(&length.to_le_bytes());
        }
        let own = memory.as_ref().map(File::as_fd);
        let descriptors: Vec<_> = own.into_iter().chain(descriptor).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
            debug_assert!(fits, "there is room for {DESCRIPTORS}");
        }
        let flags = match wait {
            Wait::Yes => SendFlags::NOSIGNAL,
            Wait::No => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        };
        loop {
            match sendmsg(&*self.0, &[IoSlice::new(&packet)], &mut control, flags) {
                Err(Errno::INTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }
}

impl Receiver {
    /// Waits for the next message; none once the other end is closed.
    ///
    /// # Errors
    ///
    /// What came is no such message, or larger than the limit.
    pub(super) fn receive<M: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<(M, Option<OwnedFd>)>> {
        let invalid = |reason: &str| io::Error::new(ErrorKind::InvalidData, reason.to_owned());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut self.packet)];
            match recvmsg(&*self.socket, &mut parts, &mut control, flags) {
                Err(Errno::INTR) => {}
                // It ended with messages unread.
                Err(Errno::CONNRESET) => return Ok(None),
                received => break received?,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let mut descriptors = descriptors.into_iter();
        // Descriptors that found no room here are missing, as whoever needs them sees.
        if received.flags.intersects(ReturnFlags::TRUNC) {
            return Err(invalid("a packet over the limit"));
        }
        let (kind, rest) = match self.packet[..received.bytes].split_first() {
            Some((kind, rest)) => (*kind, rest),
            None => return Ok(None),
        };
        let message = match kind {
            SMALL => postcard::from_bytes(rest),
            LARGE => {
                let length = rest.try_into().map_err(|_| invalid("a length of 8 bytes is missing"));
                let length = u64::from_le_bytes(length?);
                if length > self.limit {
                    return Err(invalid("a message over the limit"));
                }
                let memory = descriptors.next().ok_or_else(|| invalid("no memory with it"))?;
                postcard::from_bytes(&contents(memory, length)?)
            }
            _ => return Err(invalid("a packet of no known kind")),
        };
        let message = message.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        Ok(Some((message, descriptors.next())))
    }
}

/// What may not change any more once it is with the other process.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

fn sealed(message: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(memfd_create("proplet-message", flags)?);
    memory.write_all(message)?;
    fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

fn contents(memory: OwnedFd, length: u64) -> io::Result<Vec<u8>> {
    // So it is memory, which no read waits for.
    if !fcntl_get_seals(&memory)?.contains(SEALS) {
        return Err(io::Error::new(ErrorKind::InvalidData, "memory that is not sealed"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    File::from(memory).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn ends(limit: u64) -> (Sender, Receiver) {
        let (here, there) = pair().expect("a socket pair");
        // The other half of each end goes: the sockets stay with those that are left.
        (end(here, 0).0, end(there, limit).1)
    }

    #[test]
    fn messages_arrive_as_they_were_small_or_large() {
        let (sender, mut receiver) = ends(1 << 20);
        for length in [0, 1, PACKET - 4, PACKET, PACKET + 1, (1 << 20) - 8] {
            let message: String = "x".repeat(length);
            sender.send(&message, None, Wait::Yes).expect("sent");
            let (received, with_it) = receiver.receive::<String>().expect("read").expect("one");
            assert!(received == message && with_it.is_none(), "{length}");
        }
        drop(sender);
        assert!(receiver.receive::<String>().expect("an end").is_none());
    }

    #[test]
    fn a_descriptor_arrives_with_its_message_beside_that_ones_own() {
        let (sender, mut receiver) = ends(1 << 20);
        for length in [1, 2 * PACKET] {
            let file = sealed(b"abc").expect("memory");
            sender.send(&"x".repeat(length), Some(file.as_fd()), Wait::Yes).expect("sent");
            let received = receiver.receive::<String>().expect("read").expect("one");
            let mut file = File::from(received.1.expect("a descriptor"));
            let mut bytes = Vec::new();
            std::io::Seek::rewind(&mut file).expect("a file");
            file.read_to_end(&mut bytes).expect("read");
            assert_eq!((received.0.len(), &*bytes), (length, &b"abc"[..]));
        }
    }

    #[test]
    fn what_a_hostile_end_sends_is_an_error_and_no_memory_is_taken() {
        let raw = |packet: &[u8], memory: Option<&File>| {
            let (here, there) = pair().expect("a socket pair");
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors: Vec<_> = memory.iter().map(|memory| memory.as_fd()).collect();
            if !descriptors.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
            }
            sendmsg(&here, &[IoSlice::new(packet)], &mut control, SendFlags::empty())
                .expect("sent");
            let received = end(there, 1 << 16).1.receive::<String>();
            received.map(drop).expect_err("no message").to_string()
        };
        let large = |length: u64| [&[LARGE][..], &length.to_le_bytes()].concat();
        assert!(raw(&large(1 << 40), None).contains("over the limit"));
        assert!(raw(&large(8), None).contains("no memory"));
        assert!(raw(&[LARGE, 1], None).contains("8 bytes"));
        assert!(raw(&[7], None).contains("no known kind"));
        assert!(raw(&vec![SMALL; 2 * PACKET], None).contains("over the limit"));
        // A text that is said to be longer than the packet.
        raw(&[SMALL, 0xff, 0xff, 0xff, 0xff, 0x0f], None);
        // Less than it says, and what another process can still change.
        raw(&large(8), Some(&sealed(b"abc").expect("memory")));
        let open = memfd_create("open", MemfdFlags::CLOEXEC).expect("memory");
        assert!(raw(&large(0), Some(&File::from(open))).contains("not sealed"));
    }
}
