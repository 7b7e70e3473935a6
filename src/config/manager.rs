//! When results leave for the manager, and where it can be asked about them.

use std::path::PathBuf;
use std::time::Duration;

use crate::flags::parse_duration;

use super::reader::Reader;
use super::{HOUR, MILLI, SECOND, Secret, value};

/// Repeats of a result at most.
const REPEATS: usize = 8;

/// What makes results arrive at the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerConfig {
    /// No result leaves sooner after its start came. The manager stores the
    /// task as Running after it has published the start, with badger within
    /// 5 ms.
    pub result_hold: Duration,
    /// When a quick result is published again, after its delivery; empty for
    /// never. With SQLite the manager's write can be seconds late.
    pub result_repeat: Vec<Duration>,
    /// Where its HTTP side is, if it is to be asked.
    pub http: Option<ManagerHttp>,
}

/// The way to the manager's HTTP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerHttp {
    /// `http://` or `https://`, a host, and perhaps a port and a path; no slash
    /// at its end.
    pub url: String,
    /// What a proxy before it asks for.
    pub token: Option<Secret>,
    /// PEM file with the authorities to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<ManagerConfig> {
    let result_hold =
        reader.read("result-hold", value::duration_within(Duration::ZERO, SECOND * 10));
    let result_repeat = reader.read("result-repeat", repeat);
    let url = reader.read_optional("manager-url", url);
    let token = reader.read_optional("manager-token", token).map(Secret::new);
    let ca_cert = reader.read_optional("manager-ca-cert", value::path);
    match &url {
        None if token.is_some() || ca_cert.is_some() => reader.warn(
            "manager-token and manager-ca-cert have no effect without manager-url, such as \
             http://manager:7070"
                .into(),
        ),
        Some(url) if url.starts_with("http://") && token.is_some() => reader.warn(format!(
            "manager-token goes to {url} unencrypted, where anyone on the way can read it; use \
             https:// if there is one"
        )),
        _ => {}
    }
    Some(ManagerConfig {
        result_hold: result_hold?,
        result_repeat: result_repeat?,
        http: url.map(|url| ManagerHttp { url, token, ca_cert }),
    })
}

/// Reads growing durations between commas, or 0.
fn repeat(text: &str) -> Result<Vec<Duration>, String> {
    if parse_duration(text).is_ok_and(|duration| duration.is_zero()) {
        return Ok(Vec::new());
    }
    let times = value::list(text)?;
    let times: Vec<_> = times
        .iter()
        .map(|time| {
            value::duration_within(MILLI * 10, HOUR)(time).map_err(|e| format!("`{time}`: {e}"))
        })
        .collect::<Result<_, _>>()?;
    if times.is_empty() || times.len() > REPEATS || !times.is_sorted_by(|a, b| a < b) {
        return Err(format!(
            "not 1 to {REPEATS} growing times after the delivery, such as 2s,10s; 0 is never"
        ));
    }
    Ok(times)
}

/// Reads the place of a web server.
pub(super) fn url(text: &str) -> Result<String, String> {
    let form = "write it like http://host:7070 or https://host.example/path";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("the scheme is missing: {form}"));
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Err(format!("`{scheme}://` is not supported: {form}"));
    }
    if rest.contains('@') {
        return Err(
            "a user name and a password do not belong into the URL: what a proxy asks for \
                    is the manager-token"
                .into(),
        );
    }
    let url = format!("{scheme}://{}", rest.trim_end_matches('/'));
    let parsed: ureq::http::Uri = url.parse().map_err(|e| format!("not a URL ({e}): {form}"))?;
    let (host, port) = (parsed.host().unwrap_or_default(), parsed.port_u16());
    let bare = parsed.authority().is_some_and(|authority| authority.as_str() == host);
    if host.is_empty()
        || port.is_none_or(|port| port == 0) && !bare
        || parsed.query().is_some()
        || rest.contains('#')
    {
        return Err(format!("not a host with an optional port and path: {form}"));
    }
    Ok(url)
}

/// Reads a bearer token, as RFC 6750 has them and a little more.
fn token(text: &str) -> Result<String, String> {
    match text.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("a token has visible ASCII characters only".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_named_by_its_url_alone() {
        for (text, read) in [
            ("http://manager:7070", "http://manager:7070"),
            ("HTTP://manager:7070/", "http://manager:7070"),
            ("https://[::1]:7070", "https://[::1]:7070"),
            ("https://example.org/propeller/", "https://example.org/propeller"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(read));
        }
        for text in [
            "manager:7070",
            "tcp://manager:1883",
            "http://",
            "http:///tasks",
            "http://a b",
            "http://manager?x=1",
            "http://manager#x",
            "http://manager:port",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
        let error = url("http://me:secret@manager").expect_err("a password");
        assert!(error.contains("manager-token") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn repeats_grow_and_are_few() {
        assert_eq!(repeat("0"), Ok(vec![]));
        assert_eq!(repeat("0s"), Ok(vec![]));
        assert_eq!(repeat("2s, 10s"), Ok(vec![SECOND * 2, SECOND * 10]));
        for text in ["10s,2s", "2s,2s", "1s,0", ",", "soon", "1,2,3,4,5,6,7,8,9"] {
            assert!(repeat(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_one_word() {
        assert!(token("eyJhbGciOi.J9-_~+/=").is_ok());
        assert!(token("two words").is_err() && token("line\nbreak").is_err());
    }
}
