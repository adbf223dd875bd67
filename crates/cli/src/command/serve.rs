//! `gavel serve`: runs a node.

use crate::mounter::Mounts;
use anyhow::Context;
use clap::Args;
use gavel_runtime::config::Config;
use gavel_runtime::host::Daemon;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The status of a process whose node has failed while it ran.
const NODE_FAILED: u8 = 3;

/// Runs a node in the foreground until SIGTERM, SIGINT or a failure. Logs go to standard error; GAVEL_LOG sets how much
/// (such as `info`, `debug`, `gavel_runtime=debug`).
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel serve --config /etc/gavel/gavel.toml\n\nExit status: 0 stopped as told; 1 could not start; 3 the node failed (the reason is the last line)."
)]
pub struct Serve {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Serve {
    /// # Errors
    /// Why the node could not be started.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let filter = tracing_subscriber::EnvFilter::try_from_env("GAVEL_LOG");
        let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
        let config = Config::load(&self.config)?;
        config.prepare(&self.config)?;
        super::reaper::start();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
        let code = runtime.block_on(serve(config));
        // Whatever still waits on a peer or a disk is of no use any more.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        code
    }
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminated = signal(SignalKind::terminate()).context("watching for signals")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("watching for signals")?;
    let node = config.node;
    let daemon = Daemon::start(config, Arc::new(Mounts::default())).await?;
    tracing::info!(%node, "serving");
    let failure = tokio::select! {
        failure = daemon.stopped() => failure,
        _ = terminated.recv() => None,
        _ = interrupted.recv() => None,
    };
    daemon.shut_down().await;
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(cause) => {
            tracing::error!(%node, "the node has failed: {cause}");
            Ok(ExitCode::from(NODE_FAILED))
        }
    }
}
