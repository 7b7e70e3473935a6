//! What may be reached over the network on behalf of guests: which hosts, by the
//! operator's list, at which addresses, and the connections themselves. The
//! list is text and numbers; only a [`Connector`] asks the system.
//!
//! An address that is not public (private, loopback, link-local, a cloud's
//! metadata, multicast, …) is reached only where the list has that very address:
//! a name that resolves to one leads nowhere, whoever made it resolve so.

mod address;
mod connect;

pub use address::is_public;
pub use connect::{ConnectError, Connector};

use std::net::IpAddr;
use std::str::FromStr;

/// The hosts that may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<HostEntry>);

/// One of the list: a host, and its port; without, any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostEntry {
    host: Pattern,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// Any host with a public address.
    Any,
    /// This name.
    Name(String),
    /// The names that end so, with a dot in front.
    Below(String),
    Address(IpAddr),
    /// This name, at whatever address.
    Trusted(String),
}

impl Hosts {
    /// Reads one of a list: `name`, `*.suffix`, an address, or `*`, each with
    /// `:port` or without.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        self.0.push(text.parse()?);
        Ok(())
    }

    /// A host that the operator has named for another purpose, at whatever address
    /// it is.
    pub fn trust(&mut self, host: &str, port: Option<u16>) {
        let host = match literal(host) {
            Some(address) => Pattern::Address(canonical(address)),
            None => Pattern::Trusted(bare(host)),
        };
        self.0.push(HostEntry { host, port });
    }

    /// Any public host.
    pub fn any() -> Hosts {
        Hosts(vec![HostEntry { host: Pattern::Any, port: None }])
    }

    /// Whether nothing may be reached.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a host may be asked for by this name, or address as it stands in
    /// a URL.
    pub fn allow(&self, host: &str, port: u16) -> bool {
        // No host listens there.
        if port == 0 {
            return false;
        }
        if let Some(address) = literal(host) {
            return self.allow_address(address, port);
        }
        let host = bare(host);
        self.of(port).any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Name(name) | Pattern::Trusted(name) => *name == host,
            Pattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Pattern::Address(_) => false,
        })
    }

    /// Whether this address of a host that may be asked for may be reached: it is a
    /// public one, or in the list as it is, or its host is trusted.
    pub fn allow_resolved(&self, host: &str, address: IpAddr, port: u16) -> bool {
        let (host, address) = (bare(host), canonical(address));
        let named = |pattern: &Pattern| match pattern {
            Pattern::Address(named) => *named == address,
            Pattern::Trusted(name) => *name == host,
            Pattern::Any | Pattern::Name(_) | Pattern::Below(_) => false,
        };
        is_public(address) || self.of(port).any(named)
    }

    fn allow_address(&self, address: IpAddr, port: u16) -> bool {
        let address = canonical(address);
        self.of(port).any(|pattern| match pattern {
            Pattern::Any => is_public(address),
            Pattern::Address(allowed) => *allowed == address,
            Pattern::Name(_) | Pattern::Below(_) | Pattern::Trusted(_) => false,
        })
    }

    fn of(&self, port: u16) -> impl Iterator<Item = &Pattern> {
        let fits = move |entry: &&HostEntry| entry.port.is_none_or(|of| of == port);
        self.0.iter().filter(fits).map(|entry| &entry.host)
    }
}

impl FromStr for HostEntry {
    type Err = String;

    fn from_str(text: &str) -> Result<HostEntry, String> {
        let wrong = || {
            format!(
                "`{text}` is not a host: write a name (`api.example.org`), names below one \
                 (`*.example.org`), an address (`10.0.0.5`, `[fd00::5]`) or `*` for any public one, \
                 with `:port` or without"
            )
        };
        if let Some(address) = literal(text) {
            return Ok(HostEntry { host: Pattern::Address(canonical(address)), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, Some(port.ok_or_else(wrong)?))
            }
            None => (text, None),
        };
        let name = |name: &str| {
            let label = |label: &str| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            };
            name.split('.').all(label).then(|| name.to_ascii_lowercase()).ok_or_else(wrong)
        };
        let host = match (host, host.strip_prefix("*.")) {
            ("*", _) => Pattern::Any,
            (_, Some(suffix)) => Pattern::Below(format!(".{}", name(suffix)?)),
            _ => match literal(host) {
                Some(address) => Pattern::Address(canonical(address)),
                None => Pattern::Name(name(host)?),
            },
        };
        Ok(HostEntry { host, port })
    }
}

/// An address as a URL has it.
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// A name as it is compared.
fn bare(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// One of the older kind that is written as the newer is that one.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Hosts {
        let mut hosts = Hosts::default();
        for entry in list {
            hosts.add(entry).expect("an entry");
        }
        hosts
    }

    #[test]
    fn names_are_exact_suffixes_are_below_and_ports_count() {
        let hosts = hosts(&["API.example.org", "*.data.example.org", "one.example.org:8443"]);
        for (host, port, allowed) in [
            ("api.example.org", 80, true),
            ("Api.Example.org.", 443, true),
            ("example.org", 80, false),
            ("x.api.example.org", 80, false),
            ("notapi.example.org", 80, false),
            ("a.data.example.org", 80, true),
            ("a.b.data.example.org", 80, true),
            ("data.example.org", 80, false),
            ("evildata.example.org", 80, false),
            ("one.example.org", 8443, true),
            ("one.example.org", 443, false),
            ("93.184.216.34", 80, false),
        ] {
            assert_eq!(hosts.allow(host, port), allowed, "{host}:{port}");
        }
        assert!(!Hosts::default().allow("api.example.org", 80));
        assert!(!Hosts::any().allow("api.example.org", 0));
    }

    #[test]
    fn addresses_that_are_not_public_are_reached_where_they_are_named() {
        let named = hosts(&["127.0.0.1:8080", "[fd00::5]", "api.example.org"]);
        let at = |address: &str| address.parse::<IpAddr>().expect("an address");
        for (address, port, allowed) in [
            ("127.0.0.1", 8080, true),
            ("::ffff:127.0.0.1", 8080, true),
            ("127.0.0.1", 80, false),
            ("fd00::5", 80, true),
            ("169.254.169.254", 80, false),
            ("10.0.0.1", 80, false),
            // Of a name that may be asked for.
            ("93.184.216.34", 80, true),
        ] {
            let found = named.allow_resolved("api.example.org", at(address), port);
            assert_eq!(found, allowed, "{address}:{port}");
        }
        assert!(named.allow("127.0.0.1", 8080) && named.allow("[fd00::5]", 1));
        assert!(!named.allow("127.0.0.1", 80) && !named.allow("93.184.216.34", 80));
        let any = Hosts::any();
        assert!(any.allow("93.184.216.34", 80) && any.allow("example.org", 80));
        for private in ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]"] {
            assert!(!any.allow(private, 80), "{private}");
        }
    }

    #[test]
    fn a_host_that_is_trusted_may_be_anywhere_and_no_other_is() {
        let mut hosts = hosts(&["*"]);
        hosts.trust("registry.internal", Some(5000));
        hosts.trust("127.0.0.1", Some(5001));
        let private = "10.0.0.9".parse().expect("an address");
        for (host, port, allowed) in [
            ("Registry.internal", 5000, true),
            ("registry.internal", 80, false),
            ("other.internal", 5000, false),
        ] {
            assert_eq!(hosts.allow_resolved(host, private, port), allowed, "{host}:{port}");
        }
        assert!(hosts.allow("127.0.0.1", 5001) && !hosts.allow("127.0.0.1", 5000));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "", "a b", "http://a", "a/b", "*.", "a.*", "a:b", "a:0", "a:70000", "**", "[::1",
            "a..b",
        ] {
            assert!(Hosts::default().add(text).is_err(), "{text}");
        }
        for text in ["a", "a:1", "*", "*:443", "*.a", "10.0.0.1:5", "[::1]:5", "::1"] {
            Hosts::default().add(text).expect(text);
        }
    }
}
