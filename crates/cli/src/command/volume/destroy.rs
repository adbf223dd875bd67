//! `gavel volume destroy`: stops using a volume.

use super::Node;
use crate::output::hinted;
use clap::Args;
use gavel_runtime::host::volumes::{VolumeAsk, VolumeLine};
use gavel_types::VolumeRef;
use std::io::{BufRead, IsTerminal, Write};

/// Stops using a volume: its mounts answer `Stale file handle`, and new ones are refused. Until its retention has passed, `gavel volume restore`
/// brings it back with all its history; then everything of it goes.
#[derive(Args)]
#[command(after_help = "It asks for the volume's name, unless --yes says that it need not.\n\n\
Example:\n  gavel volume destroy try-it --config /etc/gavel/gavel.toml\n  \
gavel volume destroy try-it --now --yes --config /etc/gavel/gavel.toml")]
pub struct Destroy {
    /// The volume: its name or number
    volume: VolumeRef,
    /// It cannot be restored: everything of it goes at once. Also of one that was destroyed already
    #[arg(long)]
    now: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    node: Node,
}

impl Destroy {
    /// # Errors
    /// Why nothing was destroyed.
    pub fn run(self) -> anyhow::Result<()> {
        let line = self.find()?;
        if !self.yes {
            self.confirm(&line)?;
        }
        // By its number: another one may be called so by now.
        let volume = gavel_types::VolumeId(line.number).into();
        let said = |line: &VolumeLine| match (&*line.state, &line.restorable_until) {
            ("destroyed", until) => {
                let until =
                    until.as_ref().map_or("until it is destroyed with --now".into(), |at| format!("until {at}"));
                format!("{0} is destroyed; `gavel volume restore {0}` brings it back, {until}", line.name)
            }
            ("ended", _) => format!("{} is destroyed; what its {} clones need of it stays", line.name, line.clones),
            _ => format!("{} is destroyed, and all of it goes", line.name),
        };
        self.node.change(VolumeAsk::Destroy { volume, now: self.now }, said)
    }

    fn find(&self) -> anyhow::Result<VolumeLine> {
        let is_meant = |line: &VolumeLine| match &self.volume {
            VolumeRef::Name(name) => *line.name == **name,
            VolumeRef::Number(number) => line.number == number.0,
        };
        let living = self.node.ask(VolumeAsk::List { destroyed: false })?;
        let mut meant: Vec<VolumeLine> = living.into_iter().filter(is_meant).collect();
        if meant.is_empty() && self.now {
            let others = self.node.ask(VolumeAsk::List { destroyed: true })?;
            meant = others.into_iter().filter(|line| is_meant(line) && line.state == "destroyed").collect();
        }
        match meant.len() {
            0 => Err(hinted(
                format!("there is no volume {} that could be destroyed", self.volume),
                "`gavel volume list` says which there are, `gavel volume list --destroyed` which were destroyed already",
            )),
            1 => Ok(meant.remove(0)),
            many => Err(hinted(
                format!("{many} volumes called {} were destroyed", self.volume),
                "name one by its number: `gavel volume list --destroyed`",
            )),
        }
    }

    fn confirm(&self, line: &VolumeLine) -> anyhow::Result<()> {
        let refused = |what: &str| {
            let hint = format!("repeat the name, {}, when it is asked for; or say --yes", line.name);
            Err(hinted(format!("{what}; nothing was destroyed"), hint))
        };
        if !std::io::stdin().is_terminal() {
            return refused("nobody is there to be asked");
        }
        let much =
            |count: Option<u64>, what: &str| count.map_or(format!("some {what}"), |count| format!("{count} {what}"));
        let held = [much(line.objects, "objects"), much(line.bytes, "bytes"), format!("{} snapshots", line.snapshots)];
        let then =
            if self.now { "It cannot be restored." } else { "It can be restored until its retention has passed." };
        eprint!("Destroy volume {} ({})? {then}\nRepeat its name: ", line.name, held.join(", "));
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if answer.trim() == line.name { Ok(()) } else { refused("that is not its name") }
    }
}
