//! The states that there were, and what the mounts show of them.

use super::model::Model;
use super::{look, model::Sight};
use crate::cluster::Cluster;
use crate::command;
use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long a command may take, also just behind the death of a leader.
const PATIENCE: Duration = Duration::from_secs(90);

/// A state that had a name at least for a moment.
#[derive(Clone, Debug)]
pub struct State {
    /// Its transaction.
    pub tid: u64,
    /// The snapshot that it is, if that is still there.
    pub name: Option<String>,
    /// Until when (the machine's clock, in nanoseconds) nothing has changed it; none: it is the last one.
    pub until: Option<u64>,
    model: Model,
}

/// What the policy of a volume leaves of its states.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Every state from this transaction on is whole.
    pub horizon: u64,
    /// Of what is older, the last state of each period (nanoseconds) stays; none: nothing was pruned.
    pub every_ns: Option<u64>,
}

/// All states.
#[derive(Debug)]
pub struct Keeper<'a> {
    cluster: &'a Cluster,
    /// The directory's name.
    dir: String,
    /// The oldest first.
    pub states: Vec<State>,
    /// Node and transaction of what was looked at: kernels keep the past for as long as they like.
    looked_at: BTreeSet<(u64, u64)>,
    /// How often a state was compared.
    pub compared: u64,
    /// How often one was refused that was pruned.
    pub refused: u64,
    kept: Kept,
}

/// Nanoseconds since the epoch.
///
/// # Errors
/// If the clock is before that.
pub fn now_ns() -> Result<u64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(since.as_nanos())?)
}

/// A transaction as commands print it.
pub fn as_tid(tid: u64) -> String {
    format!("{tid:#018x}")
}

/// A transaction that a command has printed.
///
/// # Errors
/// If it is none.
pub fn tid_of(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").with_context(|| format!("{text:?} is no transaction"))?;
    u64::from_str_radix(digits, 16).with_context(|| format!("{text:?} is no transaction"))
}

impl<'a> Keeper<'a> {
    /// Of what happens in the directory `dir` of the cluster's volume.
    pub fn new(cluster: &'a Cluster, dir: &str) -> Keeper<'a> {
        let kept = Kept { horizon: 0, every_ns: None };
        let (states, looked_at) = (Vec::new(), BTreeSet::new());
        Keeper { cluster, dir: dir.into(), states, looked_at, compared: 0, refused: 0, kept }
    }

    fn volume(&self, node: u64) -> Result<String> {
        let mount = self.cluster.mount(node);
        Ok(mount.to_str().context("a path of text")?.to_owned())
    }

    fn gavel(&self, words: &[&str]) -> Result<String> {
        command::run(self.cluster.gavel().command(words), PATIENCE)?.ok()
    }

    /// The present state gets a name, through this node; it is `model`.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn name(&mut self, node: u64, model: &Model) -> Result<&State> {
        let name = format!("s{}", self.states.len());
        let said = self.gavel(&["snapshot", "create", &self.volume(node)?, &name])?;
        let tid = said.split_whitespace().nth(2).with_context(|| said.clone()).and_then(tid_of)?;
        ensure!(self.states.last().is_none_or(|last| last.tid < tid), "{said}: not later than the one before");
        self.states.push(State { tid, name: Some(name), until: None, model: model.clone() });
        self.states.last().context("it was just put there")
    }

    /// From now on there are changes again.
    ///
    /// # Errors
    /// If there is no time.
    pub fn changes_begin(&mut self) -> Result<()> {
        let now = now_ns()?;
        if let Some(last) = self.states.last_mut()
            && last.until.is_none()
        {
            last.until = Some(now);
        }
        Ok(())
    }

    /// A state's name goes; the state stays as long as the policy keeps it.
    ///
    /// # Errors
    /// If it can't be taken away.
    pub fn drop_name(&mut self, node: u64, number: usize) -> Result<()> {
        let volume = self.volume(node)?;
        if let Some(name) = self.states[number].name.take() {
            self.gavel(&["snapshot", "delete", &volume, &name])?;
        }
        Ok(())
    }

    /// The kernel of this node has forgotten everything: its mount is another one.
    pub fn remounted(&mut self, node: u64) {
        self.looked_at.retain(|(on, _)| *on != node);
    }

    /// Prunes by a policy that keeps `whole` and the last state of each `every`; returns when all is gone that goes.
    ///
    /// # Errors
    /// If that fails.
    pub fn prune(&mut self, node: u64, whole: Duration, every: Duration) -> Result<()> {
        let volume = self.volume(node)?;
        let policy = format!("keep everything {}s; {}s 1h", whole.as_secs(), every.as_secs());
        self.gavel(&["retention", "set", &volume, &policy])?;
        self.gavel(&["retention", "prune", &volume])?;
        // So that nothing more goes than is known.
        let said = self.gavel(&["retention", "set", &volume, "keep everything", "--json"])?;
        let said: Value = serde_json::from_str(&said)?;
        let horizon = tid_of(said["horizon"].as_str().context("no horizon")?)?;
        self.kept = Kept { horizon, every_ns: Some(u64::try_from(every.as_nanos())?) };
        self.swept(node)
    }

    /// Waits until all is gone that goes.
    ///
    /// # Errors
    /// If it does not go.
    pub fn swept(&self, node: u64) -> Result<()> {
        let volume = self.volume(node)?;
        crate::wait::until("what was pruned is gone", PATIENCE, || {
            let said = self.gavel(&["retention", "show", &volume, "--json"]).unwrap_or_default();
            serde_json::from_str::<Value>(&said).is_ok_and(|said| said["sweeping"] == false)
        })
    }

    /// Does this state stay?
    pub fn stays(&self, state: &State) -> bool {
        let ends = self.kept.every_ns.is_some_and(|every| (state.tid + 1).is_multiple_of(every));
        state.name.is_some() || state.tid >= self.kept.horizon || ends
    }

    /// Compares one state on one mount.
    ///
    /// # Errors
    /// If it is not what it must be.
    pub fn check(&mut self, node: u64, number: usize) -> Result<()> {
        let state = self.states[number].clone();
        let (tid, mount) = (as_tid(state.tid), self.cluster.mount(node));
        let first = self.looked_at.insert((node, state.tid));
        let what = || format!("state {number} ({tid}, {:?}) on node {node}", state.name);
        let sight = state.model.sight();
        if self.stays(&state) {
            let entrance = match (number + node as usize) % 3 {
                0 => mount.join(format!("@@{tid}")).join(&self.dir),
                1 if state.name.is_some() => {
                    mount.join(format!("{}@@{}", self.dir, state.name.as_deref().unwrap_or_default()))
                }
                _ => mount.join(format!("{}@@{tid}", self.dir)),
            };
            self.compared += 1;
            return self.same(&sight, &entrance).with_context(what);
        }
        match look::at(&mount.join(format!("{}@@{tid}", self.dir))) {
            Err(error) if look::errno(&error) == Some(Errno::STALE) => {
                self.refused += 1;
                Ok(())
            }
            Err(error) => Err(error.context(what())),
            // A kernel may go on showing what it has seen, as it was.
            Ok(found) if !first => look::same(&sight, &found).with_context(what),
            Ok(_) => bail!("{}: it was pruned, and is shown", what()),
        }
    }

    fn same(&self, expected: &Sight, entrance: &Path) -> Result<()> {
        let found = look::at(entrance)?;
        look::same(expected, &found).with_context(|| entrance.display().to_string())
    }

    /// Compares all states, on these mounts, and what the policy has kept between them.
    ///
    /// # Errors
    /// If one is not what it must be.
    pub fn check_all(&mut self, nodes: &[u64]) -> Result<()> {
        for node in nodes {
            for number in 0..self.states.len() {
                self.check(*node, number)?;
            }
            self.check_ends(*node)?;
        }
        Ok(())
    }

    /// The last states of periods that have stayed, of those that are known.
    fn check_ends(&mut self, node: u64) -> Result<()> {
        let Kept { horizon, every_ns: Some(every) } = self.kept else { return Ok(()) };
        let mount = self.cluster.mount(node);
        for state in self.states.clone() {
            let until = state.until.unwrap_or(horizon).min(horizon);
            let end = (state.tid + 1).div_ceil(every) * every - 1;
            if end >= until {
                continue;
            }
            let entrance = mount.join(format!("{}@@{}", self.dir, as_tid(end)));
            self.same(&state.model.sight(), &entrance).with_context(|| format!("kept {}", as_tid(end)))?;
            // The one before it is gone, unless it has a name.
            if end > state.tid + 1 && !self.states.iter().any(|state| state.tid == end - 1) {
                let path = mount.join(format!("{}@@{}", self.dir, as_tid(end - 1)));
                let found = look::at(&path).err().as_ref().and_then(look::errno);
                ensure!(found == Some(Errno::STALE), "{}: {found:?} and not ESTALE", path.display());
                self.refused += 1;
            }
            self.compared += 1;
        }
        Ok(())
    }

    /// The digest of an archive of a state, as `tar` makes it on this node.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn tar(&self, node: u64, number: usize) -> Result<String> {
        let script = format!("tar cf - --xattrs '{}@@{}' | sha256sum", self.dir, as_tid(self.states[number].tid));
        command::shell(&self.cluster.mount(node), &script, PATIENCE)
    }
}
