//! `gavel mirror admit` and `dismiss`: who may follow a volume.

use super::{Node, SelectionArgs, unexpected};
use anyhow::Context;
use clap::Args;
use gavel_runtime::host::mirror::{MirrorAnswer, MirrorAsk};
use gavel_types::{At, VolumeRef};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Admits a mirror in another cluster to a volume, and writes the invitation that the other cluster is to be given.
#[derive(Args)]
#[command(
    after_help = "Whoever has the invitation can read all of the volume, or with --only and --exclude that part: give it only to the mirror's cluster.\n\n\
Examples:\n  gavel mirror admit main --name backup --out backup.invitation --config a.toml\n  \
gavel mirror admit main --name backup --keep-for 30d --config a.toml | ssh backup gavel mirror follow - --into copy --config b.toml\n  \
gavel mirror admit main --name atlas --only projects/atlas --exclude '*.o' --out atlas.invitation --config a.toml"
)]
pub struct Admit {
    /// The volume: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
    /// What the mirror is called here
    #[arg(long)]
    name: String,
    /// How long the volume's history waits for the mirror while it is away: an age such as 12h or 7d, or forever
    #[arg(long, value_name = "AGE", default_value = "7d", value_parser = keep_for)]
    keep_for: KeepFor,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Write the invitation to this file, which must not be there; by default to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Takes a mirror's right away. Nothing is kept for it any more; its connections end.
#[derive(Args)]
pub struct Dismiss {
    /// The volume: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
    /// What the mirror is called here
    #[arg(long)]
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct KeepFor(Option<u64>);

fn keep_for(text: &str) -> Result<KeepFor, String> {
    match text.parse::<At>() {
        _ if text == "forever" => Ok(KeepFor(None)),
        Ok(At::Age(ns)) if ns > 0 => Ok(KeepFor(Some(ns))),
        _ => Err("not an age, such as 90s, 15m, 12h, 7d or 4w, nor `forever`".into()),
    }
}

impl Admit {
    /// # Errors
    /// Why it was not admitted.
    pub fn run(self) -> anyhow::Result<()> {
        let selection = self.selection.selection()?;
        // A mirror that is admitted, and whose invitation can't be written, would be in the way of the next try.
        let file = self.out.as_ref().map(|path| {
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            file.with_context(|| path.display().to_string())
        });
        let mut file = file.transpose()?;
        let KeepFor(keep_for_ns) = self.keep_for;
        let name = self.name.clone();
        let asked = self.node.ask(MirrorAsk::Admit { volume: self.volume, name, keep_for_ns, selection });
        let text = match asked {
            Ok(MirrorAnswer::Invitation(text)) => text,
            other => {
                if let Some(path) = &self.out {
                    std::fs::remove_file(path).with_context(|| path.display().to_string())?;
                }
                return Err(other.err().unwrap_or_else(unexpected));
            }
        };
        match (&mut file, &self.out) {
            (Some(file), Some(path)) => {
                let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
                written.with_context(|| path.display().to_string())?;
                println!("{} may follow; its invitation is in {}", self.name, path.display());
            }
            _ => std::io::stdout().write_all(text.as_bytes()).context("standard output")?,
        }
        Ok(())
    }
}

impl Dismiss {
    /// # Errors
    /// Why it still may follow.
    pub fn run(self) -> anyhow::Result<()> {
        self.node.ask(MirrorAsk::Dismiss { volume: self.volume, name: self.name.clone() })?;
        println!("{} may not follow any more", self.name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_history_waits_is_an_age_or_forever() {
        assert_eq!(keep_for("forever"), Ok(KeepFor(None)));
        assert_eq!(keep_for("90s"), Ok(KeepFor(Some(90_000_000_000))));
        for text in ["", "7", "0s", "2026-01-01", "0x5", "name"] {
            assert!(keep_for(text).is_err(), "{text}");
        }
    }
}
