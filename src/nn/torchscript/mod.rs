//! TorchScript archives, proven before libtorch reads them.
//!
//! An archive is a ZIP file with code, pickles and the numbers of tensors.
//! libtorch trusts all three: it runs what the code says while it loads, reads
//! tensors wherever their sizes lead, and its operators open files. So each
//! entry is read here, within bounds ([`archive`]); pickles make only what a
//! module is made of, tensors only within their numbers ([`pickle`]); and code
//! calls only operators of a list, and computes nothing before it is run
//! ([`code`], [`operators`]). What passes is written anew, so that libtorch reads
//! the entries that were proven and no others.
//!
//! What only libtorch can tell (which operator a call comes to, whether an
//! attribute is of its type) its shim looks at before anything runs.

#![cfg_attr(
    not(feature = "pytorch"),
    allow(dead_code, reason = "what only the backend calls is tested without it too")
)]

mod archive;
mod code;
pub(super) mod operators;
mod pickle;

use super::refusal::{Errno, Refusal};

pub(super) use archive::{MAX_ENTRIES, prove};
pub(super) use code::{MAX_DEPTH, MAX_LINE};

/// A refusal of an archive, which is what `what` says.
fn refused(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Errno::UnsupportedOperation, format!("the TorchScript archive is refused: {what}"))
}

/// The start of a name, as far as a message repeats it.
fn short(name: &str) -> String {
    const MAX: usize = 120;
    name[..name.floor_char_boundary(MAX)].escape_debug().to_string()
}

#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the tests use all of it"))]
pub(super) mod write;
