//! The builders of an OpenVINO model, proven before the library parses them.

use std::fmt::Write as _;

use super::xml::{self, Bounds, Scan};
use crate::nn::not_a_model;
use crate::nn::refusal::{Errno, Refusal};

/// Proves the builders of an OpenVINO model: the XML, then its weights.
pub(in crate::nn) fn check(parts: &[&[u8]], bounds: Bounds) -> Result<Scan, Refusal> {
    let &[xml, weights] = parts else {
        return Err(Refusal::argument(format!(
            "an OpenVINO model takes two builders, the XML and the weights, not {}",
            parts.len()
        )));
    };
    if !xml::is_start(xml) {
        if xml::is_start(weights) {
            return Err(Refusal::argument(
                "the builders are in the wrong order: the XML comes first, then the weights",
            ));
        }
        let mut start = String::new();
        for byte in xml.iter().take(8) {
            let _ = write!(start, " {byte:02x}");
        }
        return Err(Refusal::new(
            Errno::InvalidEncoding,
            format!(
                "the first builder ({} bytes, beginning with{start}) is not OpenVINO's XML, \
                 which begins with `<?xml` or `<net`{}",
                xml.len(),
                not_a_model::told(xml)
            ),
        ));
    }
    if let Some(what) = not_a_model::pointer(weights) {
        return Err(Refusal::new(
            Errno::InvalidEncoding,
            format!("the second builder ({} bytes) is not weights; {what}", weights.len()),
        ));
    }
    xml::scan(xml, weights, bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builders_are_two_and_in_order() {
        let xml: &[u8] = b"<?xml version=\"1.0\"?><net></net>";
        assert!(check(&[xml, &[]], Bounds::default()).is_ok());
        let count = check(&[xml], Bounds::default()).expect_err("one builder");
        assert!(count.text.ends_with("not 1"), "{count}");
        let swapped = check(&[&[1, 2], xml], Bounds::default()).expect_err("swapped");
        assert!(swapped.text.contains("wrong order"), "{swapped}");
        let onnx = check(&[b"\x08\x07\x12\nonnx-wally", &[]], Bounds::default()).expect_err("ONNX");
        assert_eq!(onnx.errno, Errno::InvalidEncoding);
        assert!(onnx.text.contains("(14 bytes, beginning with 08 07 12 0a"), "{onnx}");
        assert!(onnx.text.ends_with("its encoding is `onnx`"), "{onnx}");
        let page = check(&[b"<!DOCTYPE html>", &[]], Bounds::default()).expect_err("a page");
        assert!(page.text.contains("HTML page"), "{page}");
        let pointer = b"version https://git-lfs.github.com/spec/v1\n";
        let pointer = check(&[xml, pointer], Bounds::default()).expect_err("a pointer");
        assert!(pointer.text.contains("weights") && pointer.text.contains("git lfs"), "{pointer}");
    }
}
