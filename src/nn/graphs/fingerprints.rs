//! Numbers by which a model's bytes are looked up: of their lengths and of some
//! words at secret places. They find candidates, which are then compared.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding};

use crate::nn::source::Origin;

/// Fingerprints of parts with a known origin, before they are forgotten.
const MAX_KNOWN: usize = 1024;
/// Bytes around those whose origin is known, up to which it is used.
const MAX_AROUND: usize = 64 << 10;

/// Makes fingerprints with a secret of this process.
#[derive(Default)]
pub(super) struct Fingerprints {
    secret: RandomState,
    /// Those of parts whose origin is known.
    known: Mutex<HashMap<u64, u64>>,
}

impl Fingerprints {
    /// A number for these bytes that a guest can't choose: of the lengths and
    /// of some words at secret places. It only finds candidates.
    pub(super) fn of(
        &self,
        encoding: GraphEncoding,
        target: ExecutionTarget,
        parts: &[&[u8]],
        origins: &[Option<Origin>],
    ) -> u64 {
        let mut hasher = self.secret.build_hasher();
        hasher.write_u8(encoding as u8);
        hasher.write_u8(target as u8);
        for (number, part) in parts.iter().enumerate() {
            let origin = origins.get(number).and_then(Option::as_ref);
            hasher.write_u64(match origin {
                Some(origin) => self.of_known(part, origin),
                None => self.of_part(part),
            });
        }
        hasher.finish()
    }

    /// The same without a look at the bytes within the origin, each of which
    /// would be a page that the guest has not touched.
    fn of_known(&self, part: &[u8], origin: &Origin) -> u64 {
        let (before, after) = (&part[..origin.within.start], &part[origin.within.end..]);
        if before.len() + after.len() > MAX_AROUND {
            return self.of_part(part);
        }
        let key = self.secret.hash_one((origin, before, after));
        // Whole entries: a panic elsewhere does not matter.
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fingerprint) = known().get(&key) {
            return *fingerprint;
        }
        let fingerprint = self.of_part(part);
        let mut known = known();
        if known.len() == MAX_KNOWN {
            known.clear();
        }
        known.insert(key, fingerprint);
        fingerprint
    }

    fn of_part(&self, part: &[u8]) -> u64 {
        const WORD: usize = 8;
        const WORDS: usize = 256;
        let mut hasher = self.secret.build_hasher();
        hasher.write_usize(part.len());
        let Some(last) = part.len().checked_sub(WORD) else {
            hasher.write(part);
            return hasher.finish();
        };
        hasher.write(&part[last..]);
        let mut place = self.secret.hash_one(part.len());
        for _ in 0..WORDS {
            place = splitmix(place);
            let at = (place % (last as u64 + 1)) as usize;
            hasher.write(&part[at..at + WORD]);
        }
        hasher.finish()
    }
}

/// The next number of Vigna's SplitMix64.
fn splitmix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
