//! The flags and checks that `load` and `tune` share: the choice of the configuration's endpoints.

use crate::config::{Config, Problems, Source};
use crate::database::Database;
use crate::sizing::load::Origin;
use crate::sizing::{Selection, Traffic, TrafficError, traffic};

use super::Loaded;

#[derive(clap::Args)]
pub(crate) struct EndpointFlags {
    /// Send requests to this endpoint of the configuration; may be repeated [default: all endpoints with a weight]
    #[arg(long, value_name = "NAME")]
    endpoint: Vec<String>,
    /// Send requests also to endpoints that write, that is, with a method other than GET
    #[arg(long)]
    allow_writes: bool,
}

impl EndpointFlags {
    /// Whether one of these flags was given.
    pub(super) fn is_given(&self) -> bool {
        self.allow_writes || !self.endpoint.is_empty()
    }

    /// The requests for this server. Prints which endpoints are left out.
    pub(super) fn traffic(
        &self,
        config: &Config,
        database: Option<&Database>,
        origin: impl Into<Origin>,
        seed: u64,
    ) -> Result<Traffic, TrafficError> {
        let selection = Selection {
            names: self.endpoint.clone(),
            allow_writes: self.allow_writes,
            seed,
            origin: origin.into(),
        };
        let traffic = traffic(config, database, &selection)?;
        if !traffic.left_out.is_empty() {
            let names = traffic.left_out.join(", ");
            super::complain(&format!("left out, because they write: {names} (--allow-writes includes them)"));
        }
        Ok(traffic)
    }
}

/// The configuration, or its problems as an error.
pub(super) fn sound(loaded: Loaded) -> anyhow::Result<(Source, Config)> {
    let Loaded { source, config, problems } = loaded;
    anyhow::ensure!(problems.list().is_empty(), "{problems}");
    Ok((source, config))
}

/// The error, with the places in the file that it concerns.
pub(super) fn explained(error: TrafficError, source: &Source) -> anyhow::Error {
    match error {
        TrafficError::Problems(list) => anyhow::anyhow!("{}", Problems::new(source.clone(), list)),
        error => error.into(),
    }
}
