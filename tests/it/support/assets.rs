//! OpenVINO and the models: fetched by the first test that needs them.
//!
//! Also part of the library's own tests (`src/nn/backends/openvino/tests.rs`), so that
//! whichever of the two test programs runs first does the set-up.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// What cargo leaves in its build folder.
const MARKS: [&str; 2] = ["CACHEDIR.TAG", ".rustc_info.json"];

/// The build folder, with OpenVINO in `openvino` and the larger models in
/// `fixtures`. The first call runs `fixtures/setup.py`, which keeps what is
/// there already; its progress goes past the test's captured output.
pub(crate) fn assets() -> &'static Path {
    static ASSETS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match ASSETS.get_or_init(set_up) {
        Ok(target) => target,
        Err(reason) => panic!("{reason}"),
    }
}

fn set_up() -> Result<PathBuf, String> {
    // Test programs lie in `target/{profile}/deps`, or one folder deeper.
    let program = std::env::current_exe().expect("the system tells where this program is");
    let target = program
        .ancestors()
        // Cargo tags a folder only if it made it: setup.py may have been first.
        .find(|dir| MARKS.iter().any(|mark| dir.join(mark).exists()))
        .ok_or_else(|| format!("{} lies in no build folder of cargo's", program.display()))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/setup.py");
    let run = Command::new("python3")
        .arg(&script)
        .env("CARGO_TARGET_DIR", target)
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .map_err(|e| {
            format!(
                "python3 does not start ({e}): the models and OpenVINO come from fixtures/setup.py, \
                 so install Python 3.9 or newer with pip (Debian: apt-get install python3-pip)"
            )
        })?;
    let said = String::from_utf8_lossy(&run.stderr);
    match run.status.success() {
        true => Ok(target.to_owned()),
        false => Err(format!("{} failed: {}", script.display(), said.trim())),
    }
}
