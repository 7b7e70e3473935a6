//! What an image is called: `[registry/]repository[:tag][@digest]`, with or without
//! `oci://` before it.

use oci_client::Reference;

/// The scheme that tools write before names of images.
const SCHEME: &str = "oci://";

/// The name itself.
pub(super) fn without_scheme(text: &str) -> &str {
    match text.get(..SCHEME.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => &text[SCHEME.len()..],
        _ => text,
    }
}

/// Whether it says which content is meant. Propeller's proxy looks at no digest.
pub(super) fn has_digest(name: &str) -> bool {
    name.contains('@')
}

/// Reads a name; one without a registry is one of `registry`, else of Docker's, as
/// other tools take it.
///
/// # Errors
///
/// A sentence on what is wrong with it.
pub(super) fn parse(name: &str, registry: Option<&str>) -> Result<Reference, String> {
    let of_registry = |registry: &str| format!("{registry}/{name}");
    let whole = match registry {
        Some(registry) if !names_registry(name) => of_registry(registry),
        _ => name.to_owned(),
    };
    whole.parse::<Reference>().map_err(|e| {
        format!(
            "it is not the name of an image ({e}): write it like registry.example/team/guest:v1"
        )
    })
}

/// Whether the first part is a host: it has a dot or a port, or is this machine.
fn names_registry(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_other_tools_read_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, registry, whole) in [
            ("registry.example/team/guest:v1", None, "registry.example/team/guest:v1".to_owned()),
            ("localhost:5000/guest", None, "localhost:5000/guest:latest".to_owned()),
            ("team/guest", None, "docker.io/team/guest:latest".to_owned()),
            ("team/guest:v1", Some("r:5000"), "r:5000/team/guest:v1".to_owned()),
            ("guest", Some("r:5000"), "r:5000/guest:latest".to_owned()),
            ("other.example/guest:v1", Some("r:5000"), "other.example/guest:v1".to_owned()),
            (&format!("r.example/guest:v1@{digest}"), None, format!("r.example/guest:v1@{digest}")),
        ] {
            assert_eq!(parse(name, registry).map(|read| read.whole()), Ok(whole), "{name}");
        }
        for name in ["", "r.example/UPPER", "r.example/", "r.example/a b", "r.example/a@sha256:12"]
        {
            assert!(parse(name, None).is_err(), "{name}");
        }
    }

    #[test]
    fn a_scheme_may_stand_before_it() {
        assert_eq!(without_scheme("OCI://r.example/guest"), "r.example/guest");
        assert_eq!(without_scheme("r.example/guest"), "r.example/guest");
        assert!(has_digest("r.example/guest@sha256:ab") && !has_digest("r.example:5000/guest"));
    }
}
