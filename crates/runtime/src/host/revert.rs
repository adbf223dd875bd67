//! Undo and restore: a path becomes what it was, or its past gets a name of its own.
//!
//! - `build`: what takes several plans to come back
//! - `ids`: ids for what is made anew

mod build;
mod ids;

use crate::host::asked;
use crate::host::daemon::Daemon;
use build::Site;
use gavel_client::TreeError;
use gavel_fs::{Revert, Reverted, Reverting, Stop};
use gavel_history::history::kind_name;
use gavel_history::undo::before_last_version;
use gavel_history::walk::{self, Place, walk};
use gavel_store::records::{AheadView, ReadAhead};
use gavel_types::limits::NAME_BYTES_MAX;
use gavel_types::{At, Key, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{AttrDelta, Author, Dirent, Guard, Kind, Mutation, Plan, Record, View};
use ids::Ids;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the quorum may take for one plan.
const PATIENCE: Duration = Duration::from_secs(20);
/// So often one plan may collide with what others do.
const COLLISIONS_MAX: u32 = 100;
/// What the name begins with under which a path comes back that takes several plans.
pub const STAGING_PREFIX: &str = ".undo-";

/// What is to be made what it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevertAsk {
    /// In which volume.
    pub volume: u32,
    /// The path within it, as bytes.
    pub path: Vec<u8>,
    /// Which state; none: before the last version of the path.
    pub at: Option<String>,
    /// Where it is to come; none: to where it was. There must be nothing yet.
    pub to: Option<Vec<u8>>,
    /// Say what would be done, and do not do it.
    pub dry_run: bool,
    /// The user.
    pub uid: u32,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevertDone {
    /// The state that the path is of now.
    pub at: String,
    /// The same as a time, to the second.
    pub time: String,
    /// What it was: a kind of object, or nothing.
    pub was: String,
    /// What it was before this.
    pub is: String,
    /// The state before this, with which this can be undone.
    pub before: String,
    /// Objects and names made anew.
    pub made: u64,
    /// Objects changed back.
    pub changed: u64,
    /// Objects and names removed.
    pub removed: u64,
    /// Objects left as they are: what they were is not kept, though their names are.
    pub not_kept: u64,
    /// Transactions that it took.
    pub commits: u64,
}

/// Where something is to come.
struct Goal {
    parent: ObjectId,
    name: Vec<u8>,
    is: Option<Dirent>,
    was: Option<Dirent>,
}

/// Makes a path what it was.
///
/// # Errors
/// What went wrong and what to do, in words. What was done until then is done: whole plans.
pub async fn revert(daemon: &Daemon, ask: RevertAsk) -> Result<RevertDone, String> {
    let volume = VolumeId(ask.volume);
    let tree = daemon.tree(volume, false);
    let words = |error: TreeError| error.to_string();
    // The present: what all nodes have done so far. (Not the state of this moment: what was answered is committed behind it.)
    let before = tree.landed().await.map_err(words)?;
    let at = match &ask.at {
        Some(text) => tree.state_named(text).await?,
        None => {
            let at = last_version(daemon, volume, before, &ask.path)?;
            tree.state_at(&At::Tid(at)).await.map_err(|error| format!("{at}: {error}"))?
        }
    };
    let goal = find(daemon, volume, before, at, &ask)?;
    let mut done = RevertDone {
        at: at.to_string(),
        time: Timestamp::of_tid(at).to_string(),
        was: kind(goal.was),
        is: kind(goal.is),
        before: before.to_string(),
        made: 0,
        changed: 0,
        removed: 0,
        not_kept: 0,
        commits: 0,
    };
    if ask.dry_run {
        return Ok(done);
    }
    let (author, read) = (Author::user(ask.uid), ReadAhead::default());
    let mut going = Going { daemon, volume, at, author, read, ids: Ids::default(), commits: 0 };
    let Reverted { made, changed, removed, not_kept } = going.go(&goal).await?;
    (done.made, done.changed, done.removed) = (made, changed, removed);
    (done.not_kept, done.commits) = (not_kept, going.commits);
    Ok(done)
}

fn kind(dirent: Option<Dirent>) -> String {
    dirent.map_or("nothing", |dirent| kind_name(dirent.kind)).into()
}

/// The last name of a path, and what is before it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let path = &path[..end];
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn last_version(daemon: &Daemon, volume: VolumeId, now: Tid, path: &[u8]) -> Result<Tid, String> {
    let past = daemon.node.records.past(now);
    let (above, name) = split(path);
    if name.is_empty() {
        return Err("the whole volume has no last version: say which state, with --at".into());
    }
    let parent = directory(&daemon.node.records.at(now), volume, above)?;
    before_last_version(&past, volume, parent, name).map_err(|error| format!("{}: {error}", walk::shown(path)))
}

/// The directory at a path.
fn directory(view: &dyn View, volume: VolumeId, path: &[u8]) -> Result<ObjectId, String> {
    let place = walk(view, volume, path).map_err(|error| error.to_string())?;
    let gone = || format!("{}: this directory is not there (any more): undo its removal first", walk::shown(path));
    place.object.ok_or_else(gone)
}

/// Where the path is to come, and what it was.
fn find(daemon: &Daemon, volume: VolumeId, now: Tid, at: Tid, ask: &RevertAsk) -> Result<Goal, String> {
    let (present, then) = (daemon.node.records.at(now), daemon.node.records.at(at));
    let failed = |error: gavel_wire::ViewError| error.to_string();
    let (above, name) = split(&ask.path);
    if name.is_empty() {
        let root = Some(Dirent { object: ObjectId::ROOT, kind: Kind::Directory });
        return match ask.to {
            None => Ok(Goal { parent: ObjectId::ROOT, name: Vec::new(), is: root, was: root }),
            Some(_) => Err("a copy of the whole volume: mount it as of that state, with gavel mount --at".into()),
        };
    }
    // As of then the path may have led elsewhere; a directory that is still the same is what is meant first.
    let here = walk(&present, volume, above).ok().and_then(|place| place.object);
    let same = here.map(|parent| walk::named(&then, volume, parent, name)).transpose().map_err(failed)?.flatten();
    let was = match same {
        Some(was) => Some(was),
        None => match walk(&then, volume, &ask.path) {
            Ok(Place { parent, object: Some(_) }) => walk::named(&then, volume, parent, name).map_err(failed)?,
            _ => None,
        },
    };
    let target = ask.to.as_deref().unwrap_or(&ask.path);
    let (above, name) = split(target);
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("{}: not a name", walk::shown(target)));
    }
    let parent = directory(&present, volume, above)?;
    let is = walk::named(&present, volume, parent, name).map_err(failed)?;
    if ask.to.is_some() && is.is_some() {
        return Err(format!("{}: there is something already", walk::shown(target)));
    }
    if was.is_none() && (is.is_none() || ask.to.is_some()) {
        return Err(format!("{}: was not there as of {at} ({})", walk::shown(&ask.path), Timestamp::of_tid(at)));
    }
    Ok(Goal { parent, name: name.to_vec(), is, was })
}

/// The way back.
struct Going<'a> {
    daemon: &'a Daemon,
    volume: VolumeId,
    at: Tid,
    author: Author,
    /// What was read of the past so far.
    read: ReadAhead,
    ids: Ids,
    commits: u64,
}

/// A plan that was made, and what is left to do behind it.
struct Made {
    rest: Revert,
    guards: Vec<Guard>,
    plan: Plan,
    taken: usize,
    /// What this node had applied when it was made: what the past names is named as of then, if it can be read.
    read_at: Tid,
}

impl Made {
    /// The same, but that the name of `from` is that of `to`.
    fn under(mut self, from: &Key, to: &Key) -> Made {
        for mutation in &mut self.plan.mutations {
            if let Mutation::Put { key, .. } = mutation
                && key == from
            {
                *key = to.clone();
            }
        }
        for guard in &mut self.guards {
            if let Guard::Empty { range } = guard
                && *range == KeyRange::one(from)
            {
                *range = KeyRange::one(to);
            }
        }
        self
    }
}

impl Going<'_> {
    async fn go(&mut self, goal: &Goal) -> Result<Reverted, String> {
        let Goal { parent, name, is, was } = goal;
        if name.is_empty() {
            return self.run(Revert::contents(self.volume, ObjectId::ROOT, ObjectId::ROOT), None).await;
        }
        let revert = Revert::new(self.volume, *parent, name, *was);
        if is.is_some() {
            // What is there changes as it goes.
            return self.run(revert, None).await;
        }
        let mut ahead = revert.clone().ahead();
        match self.plan(&mut ahead).await? {
            None => Ok(ahead.reverted()),
            Some(first) if first.rest.is_last() => self.run(revert, Some(first)).await,
            // What comes back in several plans is not to be seen before it is whole.
            Some(first) => {
                let staging = staging_name(self.daemon.node.tid(), name);
                let (key, hidden) =
                    (Key::dirent(self.volume, *parent, name), Key::dirent(self.volume, *parent, &staging));
                let site = Site { volume: self.volume, parent: *parent, name: &staging, was: *was };
                let told = |error| {
                    format!(
                        "{error}; what has come back by now is called {}: remove it, and try again",
                        walk::shown(&staging)
                    )
                };
                let reverted = self.build(&site, first.under(&key, &hidden)).await.map_err(told)?;
                self.rename(*parent, &staging, name).await?;
                Ok(reverted)
            }
        }
    }

    /// Goes all the way. `first` is the first plan, if it was made already.
    async fn run(&mut self, mut revert: Revert, mut first: Option<Made>) -> Result<Reverted, String> {
        let mut collisions = 0;
        loop {
            let made = match first.take() {
                Some(made) => Some(made),
                None => self.plan(&mut revert).await?,
            };
            let Some(Made { rest, guards, plan, taken, read_at }) = made else { return Ok(revert.reverted()) };
            let rewritten: Vec<ObjectId> = plan.mutations.iter().filter_map(rewritten).collect();
            if !self.commit(guards, plan, read_at).await? {
                collisions += 1;
                if collisions > COLLISIONS_MAX {
                    return Err("others change the same files all the time: nothing more was done".into());
                }
                continue;
            }
            collisions = 0;
            self.ids.take(taken);
            revert = rest;
            for object in rewritten {
                // Bytes that this node's mounts keep of it are not what they were.
                self.daemon.node.fronts.forget_object(self.volume, object);
            }
        }
    }

    /// The next plan; none if nothing is left to do: then `revert` has gone all the way.
    async fn plan(&mut self, revert: &mut Revert) -> Result<Option<Made>, String> {
        loop {
            let mut rest = revert.clone();
            let read_at = self.daemon.node.tid();
            let now = self.daemon.node.latest();
            let then = AheadView::new(self.daemon.node.records.at(self.at), std::mem::take(&mut self.read));
            let step = rest.step(&now, &then, self.ids.had());
            self.read = then.into_read();
            // Asked behind the read: what is removed is announced before.
            if !self.daemon.node.records.is_whole(self.volume, self.at) {
                return Err("this state was pruned meanwhile; what was done so far stays".into());
            }
            match step {
                Ok(Reverting::Done) => {
                    *revert = rest;
                    return Ok(None);
                }
                Ok(Reverting::Commit { guards, plan, taken }) => {
                    return Ok(Some(Made { rest, guards, plan, taken, read_at }));
                }
                Ok(Reverting::NeedObjectIds) => self.ids.more(&self.daemon.node).await?,
                Err(Stop::Error(error)) => return Err(format!("where it is to come: {error}")),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Commits a plan. False if it collided.
    async fn commit(&mut self, guards: Vec<Guard>, plan: Plan, stored_as_of: Tid) -> Result<bool, String> {
        let author = self.author.clone();
        let committed = asked::commit(&self.daemon.node, guards, plan, author, stored_as_of, PATIENCE).await?;
        self.commits += u64::from(committed);
        Ok(committed)
    }

    /// What is whole now takes its name, which must still be free.
    async fn rename(&mut self, directory: ObjectId, from: &[u8], to: &[u8]) -> Result<(), String> {
        for _ in 0..COLLISIONS_MAX {
            let view = self.daemon.node.latest();
            let found = walk::named(&view, self.volume, directory, from).map_err(|error| error.to_string())?;
            let lost = || format!("{} is gone: somebody has removed it meanwhile", walk::shown(from));
            let dirent = found.ok_or_else(lost)?;
            if walk::named(&view, self.volume, directory, to).map_err(|error| error.to_string())?.is_some() {
                let (to, from) = (walk::shown(to), walk::shown(from));
                return Err(format!(
                    "somebody has made {to} meanwhile; what was to come back is whole, and is called {from}"
                ));
            }
            let (old, new) = (Key::dirent(self.volume, directory, from), Key::dirent(self.volume, directory, to));
            let guards = vec![
                Guard::Unchanged { key: old.clone(), at: view.tid() },
                Guard::Empty { range: KeyRange::one(&new) },
                Guard::Firm { key: Key::attr(self.volume, directory), at: view.tid() },
            ];
            let put = Mutation::Put { key: new, record: Record::Dirent(dirent) };
            // Nothing of an object changes without its attributes: who has listed the directory is to notice.
            let now = Some(Timestamp::COMMIT);
            let delta = AttrDelta { mtime: now, ctime: now, ..AttrDelta::default() };
            let adjust = Mutation::Adjust { volume: self.volume, object: directory, delta };
            let plan = Plan { mutations: vec![Mutation::Delete { key: old }, put, adjust] };
            let stored_as_of = view.tid();
            if self.commit(guards, plan, stored_as_of).await? {
                return Ok(());
            }
        }
        Err(format!(
            "others change the directory all the time; what was to come back is whole, and is called {}",
            walk::shown(from)
        ))
    }
}

/// The file whose bytes a mutation replaces.
fn rewritten(mutation: &Mutation) -> Option<ObjectId> {
    match mutation {
        Mutation::Carve { object, .. } => Some(*object),
        _ => None,
    }
}

/// The name under which what was called `name` is built: as much of that as a name has room for.
fn staging_name(tid: Tid, name: &[u8]) -> Vec<u8> {
    let staging = format!("{STAGING_PREFIX}{:x}-{}", tid.0, walk::shown(name));
    let mut end = staging.len().min(NAME_BYTES_MAX);
    while !staging.is_char_boundary(end) {
        end -= 1;
    }
    staging.as_bytes()[..end].to_vec()
}
