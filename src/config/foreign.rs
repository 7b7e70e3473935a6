//! Settings that deployments of Propeller carry and that this worker does not
//! have: what to say about each.

/// What a setting of another worker means here.
pub(super) enum ForeignSetting {
    /// Nothing yet; named together with its like in one line.
    NoEffect,
    /// This, if it is switched on or set at all.
    Say(&'static str),
    /// It is what a compose file makes an image or a mount of, from a `.env` that
    /// the worker's container is given, too.
    Compose,
}

use ForeignSetting::{Compose, NoEffect, Say};

/// By the name behind `PROPLET_`; TOML keys are the same in lower case.
const KNOWN: &[(&str, ForeignSetting)] = &[
    (
        "EXTERNAL_WASM_RUNTIME",
        Say("this worker runs tasks itself and starts no other program: the setting can go"),
    ),
    (
        "MQTT_TLS_INSECURE_SKIP_VERIFY",
        Say("this worker always checks the broker's certificate: name its authority with \
             PROPLET_MQTT_TLS_CA_CERT"),
    ),
    ("THING_ID", Say("the setting was renamed: use PROPLET_CLIENT_ID")),
    ("THING_KEY", Say("the setting was renamed: use PROPLET_CLIENT_KEY")),
    ("CONTAINER_MEMORY", Compose),
    ("IMAGE", Compose),
    ("IMAGE_TAG", Compose),
    ("MODEL_DIR", Compose),
    ("MODELS_DIR", Compose),
    ("FIXTURE_DIR", Compose),
    ("DATA_DIR", Compose),
    ("AA_CONFIG_PATH", NoEffect),
    ("HAL_ENABLED", NoEffect),
    ("INSTANCE_ID", NoEffect),
    ("KBS_URI", NoEffect),
    ("LAYER_STORE_PATH", NoEffect),
    ("MQTT_INFLIGHT", NoEffect),
    ("OTEL_URL", NoEffect),
    ("TRACE_RATIO", NoEffect),
    ("USB_ENABLED", NoEffect),
];

/// What is known of a setting, by its name behind `PROPLET_`.
pub(super) fn find(name: &str) -> Option<&'static ForeignSetting> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, what)| what)
}

/// Whether a value switches off what is not there anyway.
pub(super) fn is_off(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "" | "false" | "no" | "n" | "off" | "0")
}
