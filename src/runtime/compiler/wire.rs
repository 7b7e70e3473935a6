//! What is said between the one who has code compiled and the process that does
//! it: requests and answers, each a head of fixed size and bytes.

use super::super::code::Kind;
use std::io::{self, Read, Write};
use std::time::Duration;

/// What the first byte of what is sent says.
const COMPILE: u8 = 1;
/// The compile that is under way is of no use any more. Where there is none, it
/// has come too late and means nothing.
const END: u8 = 2;

/// Nobody sends more: the largest module that a setting allows, and its code.
const MOST: u64 = 4 << 30;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CompileRequest {
    /// To compile.
    Compile {
        /// What the binary is.
        kind: Kind,
        /// For so long at most.
        within: Duration,
        /// Whether others come first on the processors.
        patient: bool,
        binary: Vec<u8>,
    },
    /// To end what is under way.
    End,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CompileAnswer {
    /// Code, as `Code::serialize` gives it.
    Code(Vec<u8>),
    /// It does not compile: a sentence.
    Refused(String),
    /// [`CompileRequest::End`] came first.
    Ended,
    /// It took too long.
    Late,
    /// The compiler itself ended: by this signal, or with 0 in another way.
    Died(i32),
}

pub(super) fn request(
    to: &mut impl Write,
    kind: Kind,
    within: Duration,
    patient: bool,
    binary: &[u8],
) -> io::Result<()> {
    let mut head = vec![COMPILE, u8::from(kind == Kind::Component), u8::from(patient)];
    head.extend(u64::try_from(within.as_millis()).unwrap_or(u64::MAX).to_le_bytes());
    head.extend((binary.len() as u64).to_le_bytes());
    to.write_all(&head)?;
    to.write_all(binary)
}

pub(super) fn end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[END])
}

/// The next request; none at the end.
pub(super) fn next(from: &mut impl Read) -> io::Result<Option<CompileRequest>> {
    let mut what = [0];
    match from.read(&mut what)? {
        0 => return Ok(None),
        _ if what[0] == END => return Ok(Some(CompileRequest::End)),
        _ => {}
    }
    let [component, patient] = array(from)?;
    let within = Duration::from_millis(u64::from_le_bytes(array(from)?));
    let binary = bytes(from)?;
    let kind = if component == 1 { Kind::Component } else { Kind::Module };
    Ok(Some(CompileRequest::Compile { kind, within, patient: patient == 1, binary }))
}

impl CompileAnswer {
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        let (what, signal, bytes): (u8, i32, &[u8]) = match self {
            CompileAnswer::Code(code) => (0, 0, code),
            CompileAnswer::Refused(sentence) => (1, 0, sentence.as_bytes()),
            CompileAnswer::Ended => (2, 0, &[]),
            CompileAnswer::Late => (3, 0, &[]),
            CompileAnswer::Died(signal) => (4, *signal, &[]),
        };
        let mut head = vec![what];
        head.extend(signal.to_le_bytes());
        head.extend((bytes.len() as u64).to_le_bytes());
        to.write_all(&head)?;
        to.write_all(bytes)
    }

    pub(super) fn receive(from: &mut impl Read) -> io::Result<CompileAnswer> {
        let [what] = array(from)?;
        let signal = i32::from_le_bytes(array(from)?);
        let bytes = bytes(from)?;
        Ok(match what {
            0 => CompileAnswer::Code(bytes),
            1 => CompileAnswer::Refused(String::from_utf8_lossy(&bytes).into_owned()),
            2 => CompileAnswer::Ended,
            3 => CompileAnswer::Late,
            _ => CompileAnswer::Died(signal),
        })
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn bytes(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(array(from)?);
    if length > MOST {
        return Err(io::Error::other(format!("{length} bytes are announced")));
    }
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let mut line = Vec::new();
        let within = Duration::from_millis(1500);
        request(&mut line, Kind::Component, within, true, b"code").expect("written");
        end(&mut line).expect("written");
        let mut line = line.as_slice();
        let binary = b"code".to_vec();
        let compile =
            CompileRequest::Compile { kind: Kind::Component, within, patient: true, binary };
        assert_eq!(next(&mut line).expect("heard"), Some(compile));
        assert_eq!(next(&mut line).expect("heard"), Some(CompileRequest::End));
        assert_eq!(next(&mut line).expect("heard"), None);
        for answer in [
            CompileAnswer::Code(vec![1, 2, 3]),
            CompileAnswer::Refused("no".into()),
            CompileAnswer::Ended,
            CompileAnswer::Late,
            CompileAnswer::Died(6),
        ] {
            let mut line = Vec::new();
            answer.send(&mut line).expect("written");
            assert_eq!(CompileAnswer::receive(&mut line.as_slice()).expect("heard"), answer);
            line.pop();
            CompileAnswer::receive(&mut line.as_slice()).expect_err("cut off");
        }
    }
}
