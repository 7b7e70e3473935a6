//! What `proplet run` reads of the worker's settings for a guest with its user's rights.

use super::reader;
use super::sources::Environment;
use super::{ConfigError, ImagesConfig, Inference, OutboundConfig, RoundsConfig};
use super::{http, images, inference, rounds};
use clap::ArgMatches;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Models.
    pub inference: Inference,
    /// Where images come from.
    pub images: ImagesConfig,
    /// The services of federated rounds.
    pub rounds: RoundsConfig,
    /// Requests that the guest sends.
    pub outbound: OutboundConfig,
}

impl RunConfig {
    /// Reads them from where a worker that was started here would have them;
    /// `flags` include [`super::run_args`].
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub fn load(flags: &ArgMatches, env: &Environment) -> Result<RunConfig, ConfigError> {
        reader::load(flags, env, |reader| {
            let inference = inference::read(reader, env);
            let images = images::read(reader);
            let rounds = rounds::read(reader);
            let outbound = http::outbound(reader);
            Some(RunConfig { inference: inference?, images: images?, rounds: rounds?, outbound })
        })
    }
}
