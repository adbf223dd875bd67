//! `gavel mirror list`, `status` and `promote`.

use super::{Node, unexpected};
use crate::output::{print_json, table};
use clap::Args;
use gavel_runtime::host::mirror::{FollowLine, FollowerLine, Lag, MirrorAnswer, MirrorAsk, MirrorLine};
use gavel_types::VolumeRef;

/// Says which mirrors there are, and how far each is.
#[derive(Args)]
pub struct List {
    #[command(flatten)]
    node: Node,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Says how far a mirror is.
#[derive(Args)]
pub struct Status {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Makes a mirror a volume as any other: it can be written from then on, and takes nothing more of its source. Its mounts have to be made again.
#[derive(Args)]
pub struct Promote {
    /// The mirror: its name or number
    volume: VolumeRef,
    #[command(flatten)]
    node: Node,
}

impl List {
    /// # Errors
    /// Why it could not be said.
    pub fn run(self) -> anyhow::Result<()> {
        let MirrorAnswer::Listed { mirrors, followers } = self.node.ask(MirrorAsk::List { volume: None })? else {
            return Err(unexpected());
        };
        if self.json {
            return print_json(&Listed { mirrors, followers });
        }
        if mirrors.is_empty() && followers.is_empty() {
            println!("There are no mirrors, and no volume is followed.");
        }
        if !mirrors.is_empty() {
            println!("{}", table(&["NUMBER", "NAME", "SOURCE", "SHOWS", "BEHIND", "STATE"], rows(&mirrors)));
        }
        if !mirrors.is_empty() && !followers.is_empty() {
            println!();
        }
        if !followers.is_empty() {
            let header = ["VOLUME", "FOLLOWED BY", "HAS COME TO", "BEHIND", "HELD", "KEEP FOR", "STATE"];
            println!("{}", table(&header, followers.iter().map(follower).collect()));
        }
        Ok(())
    }
}

/// Part of the machine-readable output: fields are only added.
#[derive(serde::Serialize)]
struct Listed {
    mirrors: Vec<MirrorLine>,
    followers: Vec<FollowerLine>,
}

fn rows(mirrors: &[MirrorLine]) -> Vec<Vec<String>> {
    let row = |line: &MirrorLine| {
        let source = format!("{} of {:.8}", line.source_volume, line.source_cluster);
        vec![line.number.to_string(), line.name.clone(), source, shown(line), behind(line), state(line)]
    };
    mirrors.iter().map(row).collect()
}

/// How far it is behind: what its source says, or how old what it shows is.
fn behind(line: &MirrorLine) -> String {
    match (&line.follow, line.age_s) {
        (Some(FollowLine { lag: Some(lag), .. }), _) => lagging(lag),
        (_, Some(age)) => format!("{age} s old"),
        (_, None) => "-".into(),
    }
}

fn lagging(lag: &Lag) -> String {
    let more = if lag.more { "+" } else { "" };
    match lag.transactions {
        Some(transactions) => format!("{:.1} s, {transactions}{more} transactions", lag.seconds),
        None => format!("{:.0} s", lag.seconds),
    }
}

fn follower(line: &FollowerLine) -> Vec<String> {
    let more = if line.more { "+" } else { "" };
    let behind = line.age_s.map_or("-".into(), |age| format!("{age} s, {}{more} transactions", line.transactions));
    let keep = line.keep_for_s.map_or("forever".into(), |secs| format!("{secs} s"));
    let part = if line.selection.is_all() { String::new() } else { format!(", has {}", line.selection) };
    let state = match (line.connected, line.is_waited_for, &line.state) {
        (true, _, _) => "follows through this node",
        (false, true, _) => "waited for",
        (false, false, Some(_)) => "not waited for any more",
        (false, false, None) => "has not come yet",
    };
    let come = line.state_time.as_ref().zip(line.state.as_ref());
    let come = come.map_or("nothing yet".into(), |(time, state)| format!("{state} ({time})"));
    vec![
        line.volume_name.clone(),
        line.name.clone(),
        come,
        behind,
        format!("{} s", line.held_s),
        keep,
        format!("{state}{part}"),
    ]
}

fn shown(line: &MirrorLine) -> String {
    line.state_time.as_ref().map_or("nothing yet".into(), |time| format!("{} ({time})", line.state))
}

fn state(line: &MirrorLine) -> String {
    let step = if line.step_to.is_some() { "within a step" } else { "at a boundary" };
    match (&line.promoted, &line.follow) {
        (Some(_), _) => "promoted".into(),
        (None, None) => step.into(),
        (None, Some(FollowLine { paused: true, .. })) => format!("paused, {step}"),
        (None, Some(FollowLine { peer: Some(peer), .. })) => format!("follows node {peer}"),
        (None, Some(_)) => format!("its source does not answer, {step}"),
    }
}

impl Status {
    /// # Errors
    /// Why it could not be said.
    pub fn run(self) -> anyhow::Result<()> {
        let lines = self.node.mirrors(MirrorAsk::List { volume: Some(self.volume) })?;
        for line in &lines {
            if self.json {
                print_json(line)?;
                continue;
            }
            println!("mirror:    {} (volume {})", line.name, line.number);
            println!("source:    volume {} of cluster {}", line.source_volume, line.source_cluster);
            if !line.selection.is_all() {
                println!("part:      {}", line.selection);
            }
            println!("shows:     {}", shown(line));
            if let Some(demoted) = &line.demoted {
                println!("demoted:   {demoted}; before that it was a volume as any other");
            }
            if let Some(age) = line.age_s {
                println!("age:       {age} s");
            }
            if let Some(follow) = &line.follow {
                following(follow);
            }
            match (&line.promoted, &line.step_to) {
                (Some(promoted), _) => println!("promoted:  {promoted}; it is a volume as any other"),
                (None, Some(to)) => println!("step:      to {to} of the source, not complete"),
                (None, None) => {}
            }
        }
        Ok(())
    }
}

fn following(follow: &FollowLine) {
    let peers = follow.peers.join(", ");
    match (follow.paused, follow.peer) {
        (true, _) => println!("follows:   paused: gavel mirror resume lets it go on"),
        (false, Some(peer)) => println!("follows:   node {peer} of the source, of {peers}; as {} there", follow.name),
        (false, None) => println!("follows:   none of {peers} answers; as {} there", follow.name),
    }
    if let Some(carrier) = follow.carrier {
        println!("carried:   by node {carrier}: {} connections, {} bytes", follow.connections, follow.bytes);
    }
    if let Some(lag) = &follow.lag {
        println!("behind:    {}, {} bytes", lagging(lag), lag.bytes.map_or("-".into(), |bytes| bytes.to_string()));
    }
    if let Some(error) = &follow.error {
        println!("error:     {error}");
    }
}

impl Promote {
    /// # Errors
    /// Why it was not promoted.
    pub fn run(self) -> anyhow::Result<()> {
        for line in self.node.mirrors(MirrorAsk::Promote { volume: self.volume })? {
            println!("{} is a volume as any other, and departs from its source at {}", line.name, shown(&line));
        }
        Ok(())
    }
}
