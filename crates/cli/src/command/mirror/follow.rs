//! `gavel mirror follow`, `pause`, `resume` and `remove`: mirrors that follow their source by themselves.

use super::Node;
use crate::output::hinted;
use anyhow::Context;
use clap::Args;
use gavel_runtime::host::mirror::MirrorAsk;
use gavel_types::VolumeRef;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest invitation, in bytes.
const INVITATION_BYTES_MAX: u64 = 64 * 1024;

/// Makes a mirror follow its source by itself: whatever is committed there comes here a moment later, through any node of the source, carried by any node here.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  gavel mirror admit main --name backup --out backup.invitation --config a.toml   (at the source)\n  \
gavel mirror follow backup.invitation --into copy --config b.toml"
)]
pub struct Follow {
    /// The invitation that `gavel mirror admit` has made at the source; - for standard input
    invitation: PathBuf,
    /// The mirror: its name or number. It is made, if there is no volume of that name
    #[arg(long, value_name = "VOLUME")]
    into: VolumeRef,
    #[command(flatten)]
    node: Node,
}

/// Lets a mirror that follows stand still. Its source keeps for it what it needs to go on, for as long as was said when it was admitted.
#[derive(Args)]
pub struct Pause {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
}

/// Lets a mirror that was paused follow again.
#[derive(Args)]
pub struct Resume {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
}

/// Ends that a mirror follows, and forgets the invitation. It stays a mirror, and shows what it shows.
#[derive(Args)]
#[command(
    after_help = "The source still keeps history for it, until `gavel mirror dismiss` is run there, or its time is over."
)]
pub struct Remove {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
}

impl Follow {
    /// # Errors
    /// Why it does not follow.
    pub fn run(self) -> anyhow::Result<()> {
        let invitation = read(&self.invitation)?;
        for line in self.node.mirrors(MirrorAsk::Follow { invitation, into: self.into })? {
            println!("{} follows volume {} of cluster {}", line.name, line.source_volume, line.source_cluster);
        }
        Ok(())
    }
}

/// The text of an invitation.
///
/// # Errors
/// That there is none.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let shown = || path.display().to_string();
    let read = if path == Path::new("-") {
        std::io::stdin().take(INVITATION_BYTES_MAX).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(shown)?;
        file.take(INVITATION_BYTES_MAX).read_to_string(&mut text)
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(hinted(
            format!("{}: not an invitation: {error}", path.display()),
            "gavel mirror admit, at the source, makes one",
        )),
    }
}

impl Pause {
    /// # Errors
    /// Why it does not stand still.
    pub fn run(self) -> anyhow::Result<()> {
        for line in self.node.mirrors(MirrorAsk::Pause { volume: self.volume, paused: true })? {
            println!("{} stands still, at {}", line.name, line.state);
        }
        Ok(())
    }
}

impl Resume {
    /// # Errors
    /// Why it does not go on.
    pub fn run(self) -> anyhow::Result<()> {
        for line in self.node.mirrors(MirrorAsk::Pause { volume: self.volume, paused: false })? {
            println!("{} follows again, from {}", line.name, line.state);
        }
        Ok(())
    }
}

impl Remove {
    /// # Errors
    /// Why it still follows.
    pub fn run(self) -> anyhow::Result<()> {
        for line in self.node.mirrors(MirrorAsk::Remove { volume: self.volume })? {
            println!("{} follows nobody any more, and shows {}", line.name, line.state);
        }
        Ok(())
    }
}
