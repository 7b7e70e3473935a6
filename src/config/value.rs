//! Values of settings, from text to types: numbers, paths, lists. The errors
//! name no setting: who reads one puts its name, its value and where it came
//! from in front.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::flags::{GraphFlag, parse_duration, parse_integer};
use crate::task::humantime;

use super::AllowedDir;

/// Units of a size. A bare `M` is left out: it is 10⁶ to some and 2²⁰ to
/// others.
const SIZES: [(&[&str], u64); 9] = [
    (&["", "b"], 1),
    (&["kb"], 1_000),
    (&["mb"], 1_000_000),
    (&["gb"], 1_000_000_000),
    (&["tb"], 1_000_000_000_000),
    (&["kib", "ki"], 1 << 10),
    (&["mib", "mi"], 1 << 20),
    (&["gib", "gi"], 1 << 30),
    (&["tib", "ti"], 1 << 40),
];

/// Reads bytes: `1048576`, `512MiB`, `64MB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || {
        "not a size: write bytes as a whole number, or with a unit such as 64KiB, 512MiB, 1GiB \
         (powers of 1024) or 64MB (powers of 1000)"
            .to_owned()
    };
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, factor) = SIZES.iter().find(|(names, _)| names.contains(&&*unit)).ok_or_else(wrong)?;
    if !number.contains(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: Option<u64> = number.replace('_', "").parse().ok();
    number.and_then(|n| n.checked_mul(*factor)).ok_or_else(|| "the size is too large".to_owned())
}

/// Reads bytes between two bounds.
pub(super) fn size_within(min: u64, max: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| within(size(text)?, min, max, |bytes| bytes_text(*bytes))
}

/// Reads bytes that must fit this machine's address space.
pub(super) fn length_within(min: u64, max: u64) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let bytes = size_within(min, max)(text)?;
        usize::try_from(bytes).map_err(|_| "the size is too large for this machine".to_owned())
    }
}

/// Bytes as a person writes them: `512MiB`, `1000`.
pub(super) fn bytes_text(bytes: u64) -> String {
    for (unit, name) in [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
    {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// Reads a whole number between two bounds.
pub(super) fn count_within(min: usize, max: usize) -> impl Fn(&str) -> Result<usize, String> {
    move |text| {
        let number =
            parse_integer(text).map_err(|_| format!("not a whole number from {min} to {max}"))?;
        within(usize::try_from(number).unwrap_or(usize::MAX), min, max, usize::to_string)
    }
}

/// Reads a duration between two bounds.
pub(super) fn duration_within(
    min: Duration,
    max: Duration,
) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let duration = parse_duration(text).map_err(|_| {
            "not a duration: write seconds as a number, or with a unit such as 500ms, 30s, 5m, 1h"
                .to_owned()
        })?;
        within(duration, min, max, |duration| humantime(*duration))
    }
}

/// Reads a time limit, or `none`. Zero is refused: to some it means no limit,
/// to others no time.
pub(super) fn limit(text: &str) -> Result<Option<Duration>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let day = Duration::from_secs(86_400);
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("no time at all; for no limit, write `none`".into()),
        _ => duration_within(Duration::from_millis(1), 365 * day)(text)
            .map(Some)
            .map_err(|error| format!("{error}; for no limit, write `none`")),
    }
}

fn within<T: PartialOrd>(
    value: T,
    min: T,
    max: T,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if value < min {
        Err(format!("too small: the least is {}", show(&min)))
    } else if value > max {
        Err(format!("too large: the most is {}", show(&max)))
    } else {
        Ok(value)
    }
}

/// Reads a boolean.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("neither true (yes, y, on, 1) nor false (no, n, off, 0)".into()),
    }
}

/// Takes any text.
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Takes any path.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// Reads the id of a domain, a channel or a client: a level of a topic.
pub(super) fn topic_level(text: &str) -> Result<String, String> {
    match text.chars().find(|c| matches!(c, '/' | '+' | '#') || c.is_whitespace() || c.is_control())
    {
        Some(wrong) => Err(format!(
            "{wrong:?} can't be in an id: it is a level of an MQTT topic, usually a UUID"
        )),
        None if text.len() > 1024 => Err("longer than 1024 bytes".into()),
        None => Ok(text.to_owned()),
    }
}

/// Reads an IP address; IPv6 may stand in brackets.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "not an IP address, such as 127.0.0.1, 0.0.0.0 or [::]".to_owned())
}

/// Reads text between commas; spaces around it do not count.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    Ok(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect())
}

/// Reads directories between colons, each with an optional `:rw` behind it.
pub(super) fn dirs(text: &str) -> Result<Vec<AllowedDir>, String> {
    let mut dirs: Vec<AllowedDir> = Vec::new();
    for part in text.split(':').filter(|part| !part.is_empty()) {
        match (part, dirs.last_mut()) {
            ("rw", Some(last)) => last.writable = true,
            ("ro", Some(last)) => last.writable = false,
            ("rw" | "ro", None) => {
                return Err(format!(
                    "`{part}` stands behind a directory, as in /data:rw; a directory of that name is \
                     written ./{part}"
                ));
            }
            (path, _) => dirs.push(AllowedDir { path: path.into(), writable: false }),
        }
    }
    Ok(dirs)
}

/// Reads `ENCODING::DIR` between commas. A path may hold a colon, so that does
/// not separate.
pub(super) fn graphs(text: &str) -> Result<Vec<GraphFlag>, String> {
    list(text)?
        .iter()
        .map(|item| GraphFlag::parse(item).map_err(|error| format!("`{item}`: {error}")))
        .collect()
}

/// Reads a level, or directives of `tracing`. A single word must be a level: as
/// a directive, a misspelt one would be the name of a module and silence the
/// log.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    const FORMS: &str =
        "off, error, warn, info, debug, trace, or directives such as info,proplet::mqtt=debug";
    let level = |word: &str| match word.to_ascii_lowercase().as_str() {
        "warning" => Some("warn".to_owned()),
        level @ ("off" | "error" | "warn" | "info" | "debug" | "trace") => Some(level.to_owned()),
        _ => None,
    };
    let mut directives = Vec::new();
    for part in text.split(',').map(str::trim) {
        match level(part) {
            Some(level) => directives.push(level),
            None if part.contains('=') => directives.push(part.to_owned()),
            None => return Err(format!("`{part}` is not a log level: it is {FORMS}")),
        }
    }
    let directives = directives.join(",");
    match tracing_subscriber::EnvFilter::try_new(&directives) {
        Ok(_) => Ok(directives),
        Err(error) => Err(format!("not a log level: {}; it is {FORMS}", plain(&error))),
    }
}

/// An error of another library's, as part of a sentence of ours.
fn plain(error: &impl Display) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("1_000", 1000),
            ("10b", 10),
            ("512MiB", 512 << 20),
            ("512mib", 512 << 20),
            ("4 KiB", 4096),
            ("4Ki", 4096),
            ("64MB", 64_000_000),
            ("1GiB", 1 << 30),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "_", "64M", "1.5GiB", "-1", "64 apples", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_range_says_the_bound() {
        assert!(count_within(1, 64)("0").is_err_and(|e| e.contains("least is 1")));
        assert!(count_within(1, 64)("65").is_err_and(|e| e.contains("most is 64")));
        assert!(count_within(1, 64)("four").is_err_and(|e| e.contains("from 1 to 64")));
        assert!(size_within(1024, 1 << 20)("2MiB").is_err_and(|e| e.contains("1MiB")));
        let second = Duration::from_secs(1);
        assert!(duration_within(second, 60 * second)("2m").is_err_and(|e| e.contains("60s")));
    }

    #[test]
    fn a_time_limit_may_be_none_but_not_zero() {
        assert_eq!(limit("none"), Ok(None));
        assert_eq!(limit("5m"), Ok(Some(Duration::from_secs(300))));
        assert!(limit("0").is_err_and(|e| e.contains("`none`")));
        assert!(limit("never").is_err_and(|e| e.contains("`none`")));
    }

    #[test]
    fn directories_may_be_writable() {
        let dir = |path: &str, writable| AllowedDir { path: path.into(), writable };
        assert_eq!(
            dirs("/fixture:/data:rw:models"),
            Ok(vec![dir("/fixture", false), dir("/data", true), dir("models", false)])
        );
        assert_eq!(dirs("::/a::ro:"), Ok(vec![dir("/a", false)]));
        assert_eq!(dirs("./rw"), Ok(vec![dir("./rw", false)]));
        assert!(dirs("rw:/a").is_err_and(|e| e.contains("./rw")));
    }

    #[test]
    fn log_levels_are_levels_or_directives() {
        for (text, wanted) in [
            ("INFO", "info"),
            ("warning", "warn"),
            ("info, proplet::mqtt=debug", "info,proplet::mqtt=debug"),
            ("off", "off"),
        ] {
            assert_eq!(log_level(text), Ok(wanted.to_owned()), "{text}");
        }
        for text in ["inof", "info,proplet", "proplet=loud"] {
            assert!(log_level(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_levels_of_a_topic() {
        assert!(topic_level("6ed13fba-bd73-4a12-9e92-6251763374c4").is_ok());
        for text in ["a/b", "a+", "#", "a b", "a\u{7}"] {
            assert!(topic_level(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_is_read_back(bytes in any::<u64>()) {
            prop_assert_eq!(size(&bytes_text(bytes)), Ok(bytes));
        }

        #[test]
        fn no_value_panics(text in "\\PC{0,24}|[0-9_.a-zA-Z:=,]{0,24}") {
            let _ = (size(&text), limit(&text), dirs(&text), graphs(&text));
            let _ = (log_level(&text), boolean(&text), topic_level(&text), list(&text));
        }
    }
}
