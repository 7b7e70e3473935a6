//! Where a broker is: the forms that Propeller's deployments write.

use crate::mqtt::Address;

/// Reads `tcp://`, `mqtt://`, `ssl://`, `tls://` and `mqtts://` addresses, and
/// `HOST[:PORT]` alone, which is unencrypted: the address, and whether the
/// connection is encrypted. The port is 1883 or, with TLS, 8883 unless it is
/// given; an IPv6 address is without its brackets.
///
/// # Errors
///
/// A sentence that names no setting and holds no password.
pub(super) fn parse(text: &str) -> Result<(Address, bool), String> {
    let (tls, rest) = match text.split_once("://") {
        None => (false, text),
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "tcp" | "mqtt" => (false, rest),
            "ssl" | "tls" | "mqtts" => (true, rest),
            "ws" | "wss" => {
                return Err("MQTT over WebSocket is not supported: give the broker's MQTT port, \
                            such as tcp://localhost:1883"
                    .into());
            }
            other => {
                return Err(format!(
                    "`{other}://` is not a scheme of MQTT: use tcp:// or mqtt://, or with TLS \
                     ssl://, tls:// or mqtts://"
                ));
            }
        },
    };
    if rest.contains('@') {
        return Err("the user name and password do not belong into the address: they are the \
                    client id and the client key"
            .into());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, behind) =
                bracketed.split_once(']').ok_or("the bracket of the IPv6 address is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("`{host}` in brackets is not an IPv6 address"));
            }
            match behind {
                "" => (host, None),
                _ => {
                    (host, Some(behind.strip_prefix(':').ok_or("`:PORT` is expected behind `]`")?))
                }
            }
        }
        None if rest.matches(':').count() > 1 => {
            return Err(format!("an IPv6 address is written in brackets: [{rest}]:1883"));
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    if host.is_empty() {
        return Err("the host is missing: write it like tcp://localhost:1883".into());
    }
    if let Some(wrong) =
        host.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':')))
    {
        return Err(format!("`{host}` is not a host name: it contains {wrong:?}"));
    }
    let port = match port {
        None if tls => 8883,
        None => 1883,
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("`{text}` is not a port: it is a number from 1 to 65535")),
        },
    };
    Ok((Address { host: host.to_owned(), port }, tls))
}

/// The address as [`parse`] reads it.
pub(super) fn url(address: &Address, tls: bool) -> String {
    format!("{}://{address}", if tls { "ssl" } else { "tcp" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_a_broker_address_is_read() {
        for (text, host, port, tls) in [
            ("tcp://localhost:1883", "localhost", 1883, false),
            ("mqtt://broker", "broker", 1883, false),
            ("broker.example:1884", "broker.example", 1884, false),
            ("messaging.magistrala.absmach.eu", "messaging.magistrala.absmach.eu", 1883, false),
            ("mqtt-adapter_1:1883", "mqtt-adapter_1", 1883, false),
            ("ssl://broker", "broker", 8883, true),
            ("TLS://broker/", "broker", 8883, true),
            ("mqtts://10.0.0.7:443", "10.0.0.7", 443, true),
            ("tcp://[::1]:1883", "::1", 1883, false),
            ("[fe80::1]", "fe80::1", 1883, false),
            ("ssl://[::1]", "::1", 8883, true),
        ] {
            let wanted = (Address { host: host.into(), port }, tls);
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_why_and_keeps_passwords() {
        for (text, wanted) in [
            ("", "host is missing"),
            ("tcp://:1883", "host is missing"),
            ("http://broker", "`http://`"),
            ("wss://broker", "WebSocket"),
            ("broker:0", "`0`"),
            ("broker:99999", "`99999`"),
            ("broker:", "``"),
            ("::1", "[::1]"),
            ("[::1", "bracket"),
            ("[broker]:1883", "IPv6"),
            ("[::1]1883", ":PORT"),
            ("tcp://broker/topic", "'/'"),
            ("bro ker", "' '"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let error = parse("tcp://me:secret@broker").expect_err("a password");
        assert!(error.contains("client key") && !error.contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn an_address_is_read_back(text in "(tcp://|ssl://|)([a-z0-9.-]{1,12}|\\[::[0-9a-f]{1,4}\\])(:[1-9][0-9]{0,3}|)") {
            let (address, tls) = parse(&text).expect("well-formed");
            prop_assert_eq!(parse(&url(&address, tls)), Ok((address, tls)));
        }

        #[test]
        fn no_address_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
