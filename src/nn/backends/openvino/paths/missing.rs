//! Where files in memory have no path: models whose frontends want one are refused.

use std::path::{Path, PathBuf};

const MISSING: &str = "models of TensorFlow and TensorFlow Lite need files in memory that have \
    a path, which only Linux has: convert them to OpenVINO's own encoding or to ONNX";

/// There is none.
pub(super) fn usual_folder() -> PathBuf {
    PathBuf::new()
}

/// Says why there are no links.
///
/// # Errors
///
/// Always.
pub(super) fn make(_folder: &Path) -> Result<(), String> {
    Err(MISSING.to_owned())
}

/// Says why there is no path.
///
/// # Errors
///
/// Always.
pub(super) fn with<T>(
    _folder: &Path,
    _bytes: &[u8],
    _suffix: &str,
    _read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    Err(MISSING.to_owned())
}
