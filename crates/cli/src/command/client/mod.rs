//! `gavel client`, and `gavel mount --client`: machines that mount without a replica.

mod add;
mod status;

use super::reaper;
use crate::mounter::Mounts;
use anyhow::Context;
use clap::Subcommand;
use gavel_runtime::config::ClientConfig;
use gavel_runtime::host::client::{Client as Running, ClientError};
use gavel_runtime::host::control::{Reply, Request, ask, mount_config};
use gavel_types::VolumeRef;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The name of a client's configuration file.
pub const CONFIG_FILE: &str = "client.toml";
/// How long a mount may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clients: machines that mount volumes and store nothing of them but a cache. They have no vote.
#[derive(Subcommand)]
#[command(
    after_help = "Example:\n  gavel client add --authority cluster --node cluster/node/1/gavel.toml --dir desk\n  \
gavel mount --client --config desk/client.toml /srv/shared\n  gavel client status --config desk/client.toml"
)]
pub enum Client {
    /// Make a client: its certificate, and its configuration
    Add(add::Add),
    /// Say how a running client is
    Status(status::Status),
}

impl Client {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Client::Add(add) => add.run(),
            Client::Status(status) => status.run(),
        }
    }
}

/// Mounts a volume as a client, and runs until that is stopped or unmounted. If the client runs already, it mounts one more.
///
/// # Errors
/// Why nothing was mounted.
pub fn mount(config: &Path, volume: VolumeRef, options: &[String], path: &Path) -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("GAVEL_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let config = ClientConfig::load(config)?;
    let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
    let mount =
        mount_config(path.clone(), volume.clone(), options, None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let socket = config.control_socket();
    let ended = runtime.block_on(async {
        let client = match Running::start(config, Arc::new(Mounts::default())) {
            Ok(client) => client,
            Err(ClientError::Running(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        reaper::start();
        let mounted = client.mount(mount).await.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()));
        if mounted.is_ok() {
            tracing::info!(path = %path.display(), "mounted");
            until_told(&client).await?;
        }
        client.shut_down().await;
        mounted.map(|()| true)
    });
    // Whatever still waits on a peer is of no use any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if ended? {
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request::Mount { path, volume, options: options.to_vec(), at: None };
    match ask(&socket, &request, PATIENCE)? {
        Reply::Error(error) => Err(anyhow::anyhow!("{error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn until_told(client: &Running) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate()).context("watching for signals")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("watching for signals")?;
    tokio::select! {
        () = client.stopped() => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(())
}
