//! The worker's configuration: flags, environment and TOML section, read once.
