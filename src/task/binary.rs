//! The code of a task: its bytes, or where they are.

use crate::digest::Digest;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Weak};

/// A module's binary with its digest, which is taken once: the journal, the
/// cache of compiled modules and equality go by it. Clones share the bytes.
#[derive(Clone)]
pub struct Binary(Arc<Contents>);

struct Contents {
    bytes: Box<[u8]>,
    digest: Digest,
}

/// A [`Binary`] that may be gone.
#[derive(Clone)]
pub struct WeakBinary(Weak<Contents>);

impl Binary {
    /// Takes the digest.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Binary {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        Binary(Arc::new(Contents { bytes, digest }))
    }

    /// Of the bytes.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// A reference that does not keep it.
    pub fn downgrade(&self) -> WeakBinary {
        WeakBinary(Arc::downgrade(&self.0))
    }
}

impl WeakBinary {
    /// The binary, if anyone still holds it.
    pub fn upgrade(&self) -> Option<Binary> {
        self.0.upgrade().map(Binary)
    }
}

impl Deref for Binary {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl PartialEq for Binary {
    fn eq(&self, other: &Binary) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Binary {}

impl Hash for Binary {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

/// Where a task's WebAssembly module comes from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum ModuleSource {
    /// The binary itself, as it came with the message or from a local file.
    Bytes(Binary),
    /// Where it is: an address of http or https, or the name of an image.
    Url(String),
}

/// Whether `image_url` is an address of http or https. What is none names an image
/// in a registry.
pub fn is_web_address(text: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| text.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))
}

impl fmt::Debug for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModuleSource::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            ModuleSource::Url(url) => write!(f, "Url({url})"),
        }
    }
}
