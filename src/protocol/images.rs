//! What workers and Propeller's registry proxy say to each other: which image is
//! wanted, and its parts, which every worker of the channel sees.

use super::control::{BASE64, to_json};
use base64::Engine as _;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The most bytes of a part, as the proxy cuts images.
const IMAGE_PART: usize = 512_000;

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePart {
    /// The image, as it was asked for.
    pub name: String,
    /// Which part, from 0.
    pub index: u64,
    /// How many there are.
    pub total: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    app_name: Cow<'a, str>,
    chunk_idx: u64,
    total_chunks: u64,
    #[serde(borrow, default)]
    data: Option<Cow<'a, str>>,
}

/// Asks the proxy for an image.
pub fn encode_image_request(name: &str) -> Vec<u8> {
    to_json(&BTreeMap::from([("app_name", name)]))
}

/// Reads a part; `None` if its image is not `wanted`, of which nothing is decoded.
///
/// # Errors
///
/// What is wrong with it.
pub fn decode_image_part(
    payload: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<ImagePart>, String> {
    let wire: Wire<'_> =
        serde_json::from_slice(payload).map_err(|e| format!("the message does not fit: {e}"))?;
    if !wanted(&wire.app_name) {
        return Ok(None);
    }
    let data = wire.data.unwrap_or_default();
    // Before anything is allocated for it.
    if data.len() / 4 * 3 > IMAGE_PART + 3 {
        return Err(format!(
            "part {} of {} has about {} bytes, more than the {IMAGE_PART} of a part",
            wire.chunk_idx,
            wire.app_name,
            data.len() / 4 * 3
        ));
    }
    let bytes = BASE64.decode(data.as_bytes()).map_err(|e| {
        format!("part {} of {} is not valid base64: {e}", wire.chunk_idx, wire.app_name)
    })?;
    Ok(Some(ImagePart {
        name: wire.app_name.into_owned(),
        index: wire.chunk_idx,
        total: wire.total_chunks,
        bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_if_somebody_wants_it() {
        let message =
            br#"{"app_name":"r/a:1","chunk_idx":1,"total_chunks":3,"data":"AGFzbQ==","new":[]}"#;
        let part = ImagePart { name: "r/a:1".into(), index: 1, total: 3, bytes: b"\0asm".to_vec() };
        assert_eq!(decode_image_part(message, |name| name == "r/a:1"), Ok(Some(part)));
        assert_eq!(decode_image_part(message, |_| false), Ok(None));
        assert_eq!(encode_image_request("r/a:1"), br#"{"app_name":"r/a:1"}"#);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_so() {
        let large = "A".repeat(IMAGE_PART * 4 / 3 + 12);
        let large =
            format!(r#"{{"app_name":"a","chunk_idx":7,"total_chunks":9,"data":"{large}"}}"#);
        for (message, expected) in [
            ("[]", "does not fit"),
            (r#"{"app_name":"a","chunk_idx":-1,"total_chunks":1,"data":""}"#, "does not fit"),
            (r#"{"app_name":"a","chunk_idx":0,"total_chunks":1,"data":"?"}"#, "base64"),
            (large.as_str(), "part 7 of a has about 512007 bytes"),
        ] {
            let error = decode_image_part(message.as_bytes(), |_| true).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        // The manager's own kind of empty list of bytes.
        let empty = br#"{"app_name":"a","chunk_idx":0,"total_chunks":1,"data":null,"x":1}"#;
        let read = decode_image_part(empty, |_| true).expect("read").expect("wanted");
        assert!(read.bytes.is_empty());
    }
}
