//! `gavel volume`: the volumes of a cluster.

mod destroy;
mod list;

use crate::output::{hinted, print_json};
use clap::{Args, Subcommand};
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{Reply, Request, ask};
use gavel_runtime::host::volumes::{VolumeAsk, VolumeLine};
use gavel_types::VolumeRef;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long a daemon may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Volumes: trees with their own root, history, retention and snapshots. A cluster starts with one, called `main`.
#[derive(Subcommand)]
#[command(
    after_help = "A clone takes no time and no space, however much it begins with: both go their ways from there.\n\n\
Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel volume create builds --config /etc/gavel/gavel.toml\n  \
gavel mount --volume builds --config /etc/gavel/gavel.toml /srv/builds\n  \
gavel volume clone main try-it --at 2h --config /etc/gavel/gavel.toml\n  \
gavel volume destroy try-it --config /etc/gavel/gavel.toml"
)]
pub enum Volume {
    /// Make an empty one
    Create(Create),
    /// Say which there are
    List(list::List),
    /// Make one that begins as another is, or was
    Clone(MakeClone),
    /// Give one another name
    Rename(Rename),
    /// Stop using one; it can be restored until its retention has passed
    Destroy(destroy::Destroy),
    /// Bring back one that was destroyed, with all its history
    Restore(Restore),
}

/// The node that is asked.
#[derive(Args)]
struct Node {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

impl Node {
    fn ask(&self, asked: VolumeAsk) -> anyhow::Result<Vec<VolumeLine>> {
        let config = Config::load(&self.config)?;
        match ask(&config.control_socket, &Request::Volume(asked), PATIENCE) {
            Ok(Reply::Volumes(lines)) => Ok(lines),
            Ok(Reply::Error(error)) => Err(anyhow::anyhow!("{error}")),
            Ok(_) => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
            Err(error) => {
                let hint = format!("start the node: gavel serve --config {}", self.config.display());
                Err(hinted(error.to_string(), hint))
            }
        }
    }

    /// Asks for a change, and says what has come of it.
    fn change(&self, asked: VolumeAsk, said: impl Fn(&VolumeLine) -> String) -> anyhow::Result<()> {
        let lines = self.ask(asked)?;
        if self.json {
            return print_json(&lines.first());
        }
        lines.iter().for_each(|line| println!("{}", said(line)));
        Ok(())
    }
}

/// Makes an empty volume.
#[derive(Args)]
pub struct Create {
    /// The name: letters, digits, `-`, `_` and `.`, beginning with a letter or `_`
    name: String,
    /// Permissions of its root, in octal
    #[arg(long, default_value = "755", value_parser = octal)]
    mode: u16,
    /// Owner of its root
    #[arg(long, default_value_t = 0)]
    uid: u32,
    /// Group of its root
    #[arg(long, default_value_t = 0)]
    gid: u32,
    #[command(flatten)]
    node: Node,
}

/// Makes a volume that begins as another one is, or was. It takes no time and no space, and neither sees what is done in the other from then on.
#[derive(Args)]
pub struct MakeClone {
    /// The other volume: its name or number
    from: VolumeRef,
    /// The name of the new one
    name: String,
    /// Which state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot of it; by default the present
    #[arg(long, value_name = "AT")]
    at: Option<String>,
    #[command(flatten)]
    node: Node,
}

/// Gives a volume another name. Mounts of it go on.
#[derive(Args)]
pub struct Rename {
    /// The volume: its name or number
    volume: VolumeRef,
    /// The other name
    name: String,
    #[command(flatten)]
    node: Node,
}

/// Brings back a volume that was destroyed, with all its history and snapshots.
#[derive(Args)]
pub struct Restore {
    /// The volume: its name or number
    volume: VolumeRef,
    /// Another name for it
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    node: Node,
}

fn octal(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("not permissions in octal, such as 755 or 1777".into()),
    }
}

impl Volume {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Volume::Create(Create { name, mode, uid, gid, node }) => {
                let made = |line: &VolumeLine| format!("{} is volume {}", line.name, line.number);
                node.change(VolumeAsk::Create { name, mode, uid, gid }, made)?;
            }
            Volume::List(list) => list.run()?,
            Volume::Clone(MakeClone { from, name, at, node }) => {
                let made = |line: &VolumeLine| {
                    let origin = line.origin.as_ref();
                    let of = origin.map_or(String::new(), |origin| {
                        let name = origin.name.clone().unwrap_or_else(|| origin.number.to_string());
                        format!(", a clone of {name} as of {} ({})", origin.at, origin.time)
                    });
                    format!("{} is volume {}{of}", line.name, line.number)
                };
                node.change(VolumeAsk::Clone { from, name, at }, made)?;
            }
            Volume::Rename(Rename { volume, name, node }) => {
                let renamed = |line: &VolumeLine| format!("volume {} is called {}", line.number, line.name);
                node.change(VolumeAsk::Rename { volume, name }, renamed)?;
            }
            Volume::Destroy(destroy) => destroy.run()?,
            Volume::Restore(Restore { volume, name, node }) => {
                let restored = |line: &VolumeLine| format!("{} is there again, volume {}", line.name, line.number);
                node.change(VolumeAsk::Restore { volume, name }, restored)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
