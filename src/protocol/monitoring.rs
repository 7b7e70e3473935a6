//! A task's `monitoring_profile`: nothing in it is a reason to refuse the task.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

use crate::task::Monitoring;

/// The manager's own, where the profile names none that can be read.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is read of the profile. A switch that is missing is on but for the
/// first two, which ask for it all.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Profile<'a> {
    #[serde(borrow)]
    enabled: Option<&'a RawValue>,
    #[serde(borrow)]
    export_to_mqtt: Option<&'a RawValue>,
    /// In nanoseconds.
    #[serde(borrow)]
    interval: Option<&'a RawValue>,
    #[serde(borrow)]
    collect_cpu: Option<&'a RawValue>,
    #[serde(borrow)]
    collect_memory: Option<&'a RawValue>,
    #[serde(borrow)]
    collect_disk_io: Option<&'a RawValue>,
    #[serde(borrow)]
    collect_threads: Option<&'a RawValue>,
    #[serde(borrow)]
    collect_file_descriptors: Option<&'a RawValue>,
}

/// What the profile asks for, if it is enabled and exports. One that can't be
/// read asks for nothing.
pub(super) fn read(profile: &RawValue) -> Option<Monitoring> {
    let profile: Profile<'_> = serde_json::from_str(profile.get()).ok()?;
    let is = |switch: Option<&RawValue>, text| switch.is_some_and(|value| value.get() == text);
    if !is(profile.enabled, "true") || !is(profile.export_to_mqtt, "true") {
        return None;
    }
    let nanoseconds = profile.interval.and_then(|interval| interval.get().parse().ok());
    Some(Monitoring {
        interval: nanoseconds.map_or(INTERVAL, Duration::from_nanos).max(Monitoring::SHORTEST),
        cpu: !is(profile.collect_cpu, "false"),
        memory: !is(profile.collect_memory, "false"),
        disk: !is(profile.collect_disk_io, "false"),
        threads: !is(profile.collect_threads, "false"),
        files: !is(profile.collect_file_descriptors, "false"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(profile: &str) -> Option<Monitoring> {
        read(serde_json::from_str(profile).expect("JSON"))
    }

    #[test]
    fn a_profile_that_is_enabled_and_exports_says_what_and_how_often() {
        let profile = r#"{"enabled": true, "export_to_mqtt": true, "interval": 2500000000,
            "collect_cpu": true, "collect_memory": false, "collect_disk_io": false,
            "collect_threads": true, "collect_file_descriptors": false, "history_size": 10}"#;
        let expected = Monitoring {
            interval: Duration::from_millis(2500),
            cpu: true,
            memory: false,
            disk: false,
            threads: true,
            files: false,
        };
        assert_eq!(asked(profile), Some(expected));
    }

    #[test]
    fn an_interval_is_never_below_a_second_and_ten_where_it_can_not_be_read() {
        for (interval, seconds) in
            [("1", 1), ("0", 1), ("60000000000", 60), ("null", 10), ("\"5s\"", 10), ("-1", 10)]
        {
            let profile =
                format!(r#"{{"enabled":true,"export_to_mqtt":true,"interval":{interval}}}"#);
            let asked = asked(&profile).expect("asked for");
            assert_eq!(asked.interval, Duration::from_secs(seconds), "{interval}");
        }
    }

    #[test]
    fn any_other_profile_asks_for_nothing() {
        for profile in [
            "null",
            "7",
            "[]",
            "{}",
            r#"{"enabled": true}"#,
            r#"{"enabled": true, "export_to_mqtt": false}"#,
            r#"{"enabled": false, "export_to_mqtt": true}"#,
            r#"{"enabled": "true", "export_to_mqtt": {"a": [true]}}"#,
        ] {
            assert_eq!(asked(profile), None, "{profile}");
        }
    }
}
