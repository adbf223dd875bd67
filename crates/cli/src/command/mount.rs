//! `gavel mount`: mounts a volume through the node that runs on this machine.

use crate::output::hinted;
use anyhow::Context;
use clap::Args;
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{Reply, Request, ask};
use gavel_types::VolumeRef;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a mount may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Mounts a volume at a directory, through the running node whose configuration is given.
#[derive(Args)]
#[command(after_help = "Example:\n  gavel mount --config /etc/gavel/gavel.toml /srv/shared -o nosuid,noexec\n  \
gavel mount --config /etc/gavel/gavel.toml --volume builds /srv/builds\n  \
gavel mount --config /etc/gavel/gavel.toml --at 2h /mnt/two-hours-ago\n  \
gavel mount --client --config /etc/gavel-client/client.toml /srv/shared")]
pub struct Mount {
    /// The node's configuration; with --client, the client's
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Be a client without a replica (`gavel client add` makes its configuration). Runs until it is stopped or unmounted
    #[arg(long, conflicts_with = "at")]
    client: bool,
    /// The volume: its name, or its number
    #[arg(long, default_value = "1")]
    volume: VolumeRef,
    /// Options: ro, sync, local_locks, local_opens, allow_other, nosuid, nodev, noexec
    #[arg(short = 'o', value_delimiter = ',', value_name = "OPTION,...")]
    options: Vec<String>,
    /// Which state of it: a transaction (0x...), a time (RFC 3339), an age (2h), or a snapshot's name; read-only
    #[arg(long, value_name = "AT")]
    at: Option<String>,
    /// The directory to mount at
    path: PathBuf,
}

impl Mount {
    /// # Errors
    /// Why nothing was mounted.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.client {
            let Mount { config, volume, options, path, .. } = self;
            return super::client::mount(&config, volume, &options, &path);
        }
        let config = Config::load(&self.config)?;
        let path = std::path::absolute(&self.path).with_context(|| self.path.display().to_string())?;
        let request = Request::Mount { path, volume: self.volume, options: self.options, at: self.at };
        match ask(&config.control_socket, &request, PATIENCE) {
            Ok(Reply::Error(error)) => Err(anyhow::anyhow!("{error}")),
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(error) => Err(hinted(
                error.to_string(),
                format!("start the node: gavel serve --config {}", self.config.display()),
            )),
        }
    }
}
