//! Values as `wasmtime run` writes them, and the nearest of some names.

use std::time::Duration;

/// Units of a duration and their nanoseconds: those of Wasmtime's `humantime`
/// up to the day. Its months and years serve no time limit, and its `M` next to
/// `m` invites mistakes.
const UNITS: [(&[&str], u64); 7] = [
    (&["ns", "nsec", "nanos"], 1),
    (&["us", "µs", "usec", "micros"], 1_000),
    (&["ms", "msec", "millis"], 1_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000_000_000),
    (&["d", "day", "days"], 86_400_000_000_000),
];

/// Reads a duration: `10` (seconds), `10s`, `500ms`, `1m30s`, `1.5s`. A number
/// without a unit is seconds only if it stands alone. The error names no
/// setting.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration: write seconds as a number, or a number with a unit such as \
             `500ms`, `30s`, `5m`, `1h30m`"
        )
    };
    let too_long = || format!("the duration `{text}` is too long");
    let text = text.trim();
    if let Ok(seconds) = parse_integer(text) {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(unit_at);
        let behind = behind.trim_start();
        let next_at =
            behind.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(behind.len());
        let (unit, next) = behind.split_at(next_at);
        let (_, nanos) = UNITS.iter().find(|(names, _)| names.contains(&unit)).ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || (fraction.is_empty() && number != whole) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| too_long())?;
        let part = part_of(fraction, *nanos).ok_or_else(wrong)?;
        let step = u128::from(whole) * u128::from(*nanos) + u128::from(part);
        let seconds = u64::try_from(step / 1_000_000_000).map_err(|_| too_long())?;
        let nanos = u32::try_from(step % 1_000_000_000).map_err(|_| too_long())?;
        total = total.checked_add(Duration::new(seconds, nanos)).ok_or_else(too_long)?;
        rest = next.trim_start();
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// The nanoseconds of `0.{digits}` units, rounded down, without the rounding of
/// a floating-point number.
fn part_of(digits: &str, unit: u64) -> Option<u64> {
    let (mut sum, mut scale) = (0u128, 1u128);
    // Past eighteen digits there is nothing left of the largest unit.
    for digit in digits.chars().take(18) {
        sum = sum * 10 + u128::from(digit.to_digit(10)?);
        scale *= 10;
    }
    u64::try_from(sum * u128::from(unit) / scale).ok()
}

/// Reads a whole number, with `_` anywhere and `0x` in front if it is
/// hexadecimal. The error names no option.
pub(crate) fn parse_integer(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    number.map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => format!("the number `{text}` is too large"),
        _ => {
            format!("`{text}` is not a whole number: write it like 1000000, 1_000_000 or 0x10_0000")
        }
    })
}

/// Reads the value of a switch; none at all is on. The error names no option.
pub(super) fn parse_switch(text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("y" | "yes" | "true") => Ok(true),
        Some("n" | "no" | "false") => Ok(false),
        Some(other) => {
            Err(format!("`{other}` is neither on (y, yes, true) nor off (n, no, false)"))
        }
    }
}

/// The candidate that `name` was most likely meant to be: at most two fifths of
/// its characters differ, or a single one.
pub(crate) fn closest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    closest_within(name, candidates, |length| length * 2 / 5)
}

/// The same with another bound: how many changes a name of this length may need.
pub(crate) fn closest_within<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    most: impl Fn(usize) -> usize,
) -> Option<&'a str> {
    // What is longer was not a slip of the hand, and comparing costs its square.
    let length = name.chars().count();
    if length > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= most(length).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The edit distance after Levenshtein, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_wasmtime_reads_them() {
        for (text, nanos) in [
            ("10", 10_000_000_000),
            ("0", 0),
            ("2s", 2_000_000_000),
            ("100ms", 100_000_000),
            ("7us", 7_000),
            ("7ns", 7),
            ("1m30s", 90_000_000_000),
            ("1m 30s", 90_000_000_000),
            ("2 min", 120_000_000_000),
            ("1h0m0s", 3_600_000_000_000),
            ("1.5s", 1_500_000_000),
            ("0.25ms", 250_000),
            ("1_000", 1_000_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_named() {
        for text in ["", "s", "abc", "-1", "-1s", "1x", "1.s", ".5s", "1.2.3s", "1.5", "10s5"] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        assert!(parse_duration("99999999999999999999h").is_err_and(|e| e.contains("too long")));
        assert!(parse_duration("18446744073709551615h").is_err_and(|e| e.contains("too long")));
    }

    #[test]
    fn integers_hold_underscores_and_hexadecimal_digits() {
        assert_eq!(parse_integer("1_000_000"), Ok(1_000_000));
        assert_eq!(parse_integer("0x1_0000"), Ok(65_536));
        assert!(parse_integer("64MB").is_err_and(|e| e.contains("`64MB`")));
        assert!(parse_integer("18446744073709551616").is_err_and(|e| e.contains("too large")));
    }

    #[test]
    fn the_closest_name_is_near() {
        assert_eq!(closest("inherit_env", ["nn", "inherit-env"]), Some("inherit-env"));
        assert_eq!(closest("timeot", ["timeout", "fuel"]), Some("timeout"));
        assert_eq!(closest("zebra", ["timeout", "fuel"]), None);
    }

    proptest! {
        #[test]
        fn a_duration_is_read_back(seconds in 0..u64::MAX, nanos in 0u32..1_000_000_000) {
            let text = format!("{seconds}s {nanos}ns");
            prop_assert_eq!(parse_duration(&text), Ok(Duration::new(seconds, nanos)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}|[0-9.smhdnu_x ]{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_integer(&text);
            let _ = closest(&text, ["nn", "timeout"]);
        }
    }
}
