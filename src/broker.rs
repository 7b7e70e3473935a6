//! A small MQTT broker inside the process, for `proplet demo` and the tests.
