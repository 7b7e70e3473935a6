//! Where the state of a worker is.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

use super::reader::Reader;
use super::sources::Environment;
use super::{Credentials, value};

/// The folder for this worker's state, `Some(None)` if it keeps none. Each
/// client id has its own, so that workers can share a machine or a volume, and
/// one that changes its name does not answer for the old one.
pub(super) fn directory(
    reader: &mut Reader<'_>,
    env: &Environment,
    who: &Credentials,
) -> Option<Option<PathBuf>> {
    let chosen = reader.read_optional("state-dir", value::path);
    let stateless = reader.read("stateless", value::boolean)?;
    if stateless {
        return Some(None);
    }
    let base = chosen.map(|dir| env.working_dir().join(dir)).or_else(|| platform(env));
    if base.is_none() {
        reader.warn(
            "no directory for the worker's state could be found (neither XDG_STATE_HOME nor HOME is \
             set), so tasks and results that are not sent are lost when it ends: name one with \
             PROPLET_STATE_DIR, or set PROPLET_STATELESS=true"
                .into(),
        );
    }
    Some(base.map(|base| base.join(folder(&who.client_id))))
}

/// Where the platform has such things.
fn platform(env: &Environment) -> Option<PathBuf> {
    let absolute = |name: &str| {
        env.variable(name).map(Path::new).filter(|path| path.is_absolute()).map(Path::to_owned)
    };
    // Set by systemd for `StateDirectory=`; with several, they are separated by colons.
    let systemd = env.variable("STATE_DIRECTORY").and_then(OsStr::to_str);
    if let Some(first) = systemd.and_then(|dirs| dirs.split(':').next()) {
        return Some(first.into());
    }
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Some(state.join("proplet"));
    }
    let home = absolute("HOME")?;
    // Whose home is root's is root.
    if std::fs::metadata(&home).is_ok_and(|home| home.uid() == 0) && home.ends_with("root") {
        return Some("/var/lib/proplet".into());
    }
    Some(home.join(".local/state/proplet"))
}

/// A client id as the name of a folder: itself if that is safe, else its
/// digest.
fn folder(client_id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if client_id.len() <= 100 && client_id.chars().all(plain) && !client_id.starts_with('.') {
        client_id.to_owned()
    } else {
        Digest::of(client_id.as_bytes()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_says_where_state_is() {
        let env = Environment::new("/work");
        assert_eq!(platform(&env), None);
        let home = env.with("HOME", "/home/me");
        assert_eq!(platform(&home), Some("/home/me/.local/state/proplet".into()));
        let relative = home.clone().with("XDG_STATE_HOME", "state");
        assert_eq!(platform(&relative), platform(&home));
        let xdg = home.with("XDG_STATE_HOME", "/state");
        assert_eq!(platform(&xdg), Some("/state/proplet".into()));
        let systemd = xdg.with("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
        assert_eq!(platform(&systemd), Some("/var/lib/a".into()));
    }

    #[test]
    fn a_client_id_can_not_leave_the_state_directory() {
        assert_eq!(folder("5f1c-a_b.c"), "5f1c-a_b.c");
        for id in ["..", ".hidden", "a\\b", "å", &"x".repeat(101)] {
            assert_eq!(folder(id).len(), 64, "{id}");
        }
    }
}
