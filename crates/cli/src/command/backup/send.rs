//! `gavel backup send`: writes a backup to standard output, as a stream for a new mirror.

use super::folder::Purpose;
use super::key::KeyArgs;
use super::{chosen, open, told};
use crate::output::hinted;
use clap::Args;
use gavel_backup::BackupError;
use gavel_backup::send::send;
use gavel_mirror::Encoder;
use gavel_types::At;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes a backup to standard output, as a stream that makes a new mirror. Promoted, that is a volume as any other.
#[derive(Args)]
#[command(
    after_help = "Example:\n  gavel backup send /backups/main | gavel mirror receive main-again --create --config gavel.toml\n  \
gavel mirror promote main-again --config gavel.toml"
)]
pub struct Send {
    /// The folder
    dir: PathBuf,
    /// Which backup: its state (0x...), a time (RFC 3339) or an age (2h), which mean the last one before; by default the newest
    #[arg(long, value_name = "BACKUP")]
    backup: Option<At>,
    #[command(flatten)]
    key: KeyArgs,
}

enum Failed {
    Backup(BackupError),
    Output(std::io::Error),
}

impl From<BackupError> for Failed {
    fn from(error: BackupError) -> Failed {
        Failed::Backup(error)
    }
}

impl Send {
    /// # Errors
    /// Why nothing, or not all, was written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if std::io::stdout().is_terminal() {
            return Err(hinted("a stream is not for a terminal", "gavel backup send ... | gavel mirror receive ..."));
        }
        let repository = open(&self.dir, Purpose::Read, &self.key)?;
        let backup = chosen(&repository, self.backup.as_ref())?;
        let (mut encoder, mut out) = (Encoder::new(), std::io::stdout().lock());
        let sent = send(&repository, &backup, |frame| out.write_all(&encoder.write(&frame)).map_err(Failed::Output));
        match sent {
            Ok(_) => out.flush().map_err(|error| anyhow::anyhow!("standard output: {error}"))?,
            Err(Failed::Output(error)) => return Err(anyhow::anyhow!("standard output: {error}")),
            Err(Failed::Backup(error)) => return Err(told(error)),
        }
        Ok(ExitCode::SUCCESS)
    }
}
