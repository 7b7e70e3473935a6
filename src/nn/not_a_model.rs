//! What stands in a model's place, where that can be told by how it begins: a
//! page of a web server, a pointer of git-lfs, a model of another encoding.

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What is said of bytes that can be anything, if a pointer of git-lfs stands in
/// their place.
pub(super) fn pointer(bytes: &[u8]) -> Option<&'static str> {
    instead(bytes).filter(|_| bytes.starts_with(LFS))
}

/// What these bytes are instead of a model of the encoding that they were given
/// as, and what to do; nothing if that is not known.
pub(super) fn instead(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let begins =
        |with: &[u8]| start.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    Some(if bytes.is_empty() {
        "it is empty"
    } else if begins(LFS) {
        "it is a git-lfs pointer in place of the file: `git lfs pull` fetches that one"
    } else if begins(b"<!doctype html") || begins(b"<html") {
        "it is an HTML page: was a link to a web page downloaded?"
    } else if begins(b"<?xml") || begins(b"<net") {
        "it is XML, as OpenVINO's: its encoding is `openvino`, with the weights beside it"
    } else if bytes.get(4..8) == Some(b"TFL3") {
        "it is a TensorFlow Lite model: its encoding is `tensorflowlite`"
    } else if bytes.starts_with(b"PK\x03\x04") {
        "it is a zip archive, as PyTorch writes its models: the encoding of TorchScript is \
         `pytorch`; export others to ONNX"
    } else if bytes.starts_with(b"\x89HDF") {
        "it is an HDF5 file, as Keras writes its models: convert it to ONNX"
    } else if bytes.starts_with(b"\x1f\x8b") {
        "it is compressed with gzip: unpack it"
    } else if bytes.starts_with(b"\0asm") {
        "it is WebAssembly, not a model"
    } else if is_onnx(bytes) {
        "it is an ONNX model: its encoding is `onnx`"
    } else {
        return None;
    })
}

/// The version of the format, a small number, and then its producer, its graph or
/// its operators: a file's first fields.
fn is_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=20, 0x12 | 0x1a | 0x22 | 0x2a | 0x3a | 0x42, ..])
}

/// The same for a sentence that ends here.
pub(super) fn told(bytes: &[u8]) -> String {
    instead(bytes).map(|what| format!("; {what}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_models_place_is_recognised() {
        let cases: [(&[u8], &str); 9] = [
            (b"", "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
            (b"\n <!DOCTYPE html><html>", "HTML page"),
            (b"<?xml version=\"1.0\"?><net>", "`openvino`"),
            (b"\x08\x07\x12\nonnx-wally", "`onnx`"),
            (b"\x1c\0\0\0TFL3", "`tensorflowlite`"),
            (b"PK\x03\x04....", "PyTorch"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\0asm\x01\0\0\0", "WebAssembly"),
        ];
        for (bytes, expected) in cases {
            let what = instead(bytes).unwrap_or_default();
            assert!(what.contains(expected), "{expected}: {what}");
        }
        assert_eq!(instead(b"\x00\x01\x02\x03"), None);
    }
}
