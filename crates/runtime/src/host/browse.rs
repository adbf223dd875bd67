//! Looking around in any state of a volume, for the console: directories, objects and bytes as of a Tid.
//!
//! Nothing here is kept from one question to the next: each names its state, and the answer says which transaction that is, so that the next question can
//! name the same one.

use crate::host::daemon::Daemon;
use crate::host::node::NodeHandle;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use gavel_client::{NoState, TreeRequest};
use gavel_history::walk::{self, Place, walk};
use gavel_types::{Key, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Kind, Record, View, ViewError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most names of one answer.
pub const ENTRIES_MAX: usize = 1_000;
/// Most bytes of one answer: as base64, with what is around them, they fit into an answer of the control socket.
pub const PIECE_BYTES_MAX: u32 = 1024 * 1024;

/// What is to be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrowseAsk {
    /// In which volume.
    pub volume: u32,
    /// The path within it, as bytes; nothing is the root.
    pub path: Vec<u8>,
    /// Which state; none: the present.
    pub at: Option<String>,
    /// Of a directory, the names behind this one, in the directory's own order.
    pub after: Option<Vec<u8>>,
    /// So many names at most; never more than [`ENTRIES_MAX`].
    pub limit: usize,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Browsed {
    /// The state, as a transaction.
    pub at: String,
    /// The same as a time, to the second.
    pub time: String,
    /// The first state that can be read, in nanoseconds since the epoch: the beginning of the volume, unless that was pruned.
    pub first_ns: u64,
    /// The present, by the cluster's clock, in nanoseconds since the epoch.
    pub now_ns: u64,
    /// The state, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// The object itself.
    pub here: Entry,
    /// Of a directory, its names.
    pub entries: Vec<Entry>,
    /// There are more names.
    pub more: bool,
}

/// One object with its name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The name; what of it is not UTF-8 is replaced.
    pub name: String,
    /// The name as it is, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<Vec<u8>>,
    /// The object.
    pub object: u64,
    /// Its kind: `file`, `directory`, `symlink`, `fifo`, `socket`, `device`.
    pub kind: String,
    /// Its length in bytes; of a directory the number of its names.
    pub size: u64,
    /// Its permissions, as `chmod` takes them.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content was changed last, to the second.
    pub mtime: String,
    /// Where a symlink leads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// What has become of the name since; none if the state is the present.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Since>,
}

/// What has become of a name of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Since {
    /// It names the same object, which is as it was.
    Same,
    /// It names the same object, which was changed.
    Changed,
    /// It names another object.
    Replaced,
    /// It names nothing there.
    Gone,
}

/// Which bytes are to be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadAsk {
    /// In which volume.
    pub volume: u32,
    /// The file's path within it, as bytes.
    pub path: Vec<u8>,
    /// Which state; none: the present.
    pub at: Option<String>,
    /// The first byte.
    pub offset: u64,
    /// So many at most; never more than [`PIECE_BYTES_MAX`].
    pub len: u32,
}

/// Bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// The state, as a transaction.
    pub at: String,
    /// The file's length in bytes.
    pub size: u64,
    /// The bytes, in base64.
    pub base64: String,
}

impl Piece {
    /// The bytes.
    ///
    /// # Errors
    /// If they are not base64.
    pub fn bytes(&self) -> Result<Vec<u8>, base64::DecodeError> {
        BASE64_STANDARD.decode(&self.base64)
    }
}

/// Says what is at a path as of a state.
///
/// # Errors
/// What went wrong, in words.
pub async fn browse(daemon: &Arc<Daemon>, ask: BrowseAsk) -> Result<Browsed, String> {
    let volume = VolumeId(ask.volume);
    let at = state(daemon, volume, ask.at.as_deref()).await?;
    let past = |past: &gavel_txn::VolumePast| past.kept.first().copied().unwrap_or(past.horizon).max(past.made);
    let first = daemon.node.past.read().of(volume).map(past);
    let first = first.ok_or_else(|| format!("there is no volume {volume}"))?;
    let node = daemon.node.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let then = node.records.kept_at(at);
        let now = ask.at.is_some().then(|| node.records.at(node.tid()));
        let looking = Looking { volume, then: &then, now: now.as_ref().map(|now| now as &dyn View) };
        let seen = looking.look(&ask);
        whole(&node, volume, at).and(seen)
    });
    let (here, entries, more) = looked.await.map_err(|error| error.to_string())??;
    Ok(Browsed {
        at: at.to_string(),
        time: Timestamp::of_tid(at).to_string(),
        first_ns: first.0,
        now_ns: daemon.node.cluster_ns().max(at.0),
        at_ns: at.0,
        here,
        entries,
        more,
    })
}

/// Reads bytes of a file as of a state.
///
/// # Errors
/// What went wrong, in words.
pub async fn read(daemon: &Arc<Daemon>, ask: ReadAsk) -> Result<Piece, String> {
    let volume = VolumeId(ask.volume);
    let at = state(daemon, volume, ask.at.as_deref()).await?;
    let node = daemon.node.clone();
    let path = ask.path.clone();
    let found = tokio::task::spawn_blocking(move || {
        let found = file(&node.records.kept_at(at), volume, &path);
        whole(&node, volume, at).and(found)
    });
    let (object, size) = found.await.map_err(|error| error.to_string())??;
    let request = TreeRequest::Read { object, offset: ask.offset, len: ask.len.min(PIECE_BYTES_MAX) };
    let answer = daemon.tree(volume, false).read_past(at, request).await.map_err(|error| error.to_string())?;
    Ok(Piece { at: at.to_string(), size, base64: BASE64_STANDARD.encode(answer.data) })
}

/// The state that is asked for.
async fn state(daemon: &Daemon, volume: VolumeId, at: Option<&str>) -> Result<Tid, String> {
    let tree = daemon.tree(volume, false);
    match at {
        Some(text) => tree.state_named(text).await,
        None => tree.present().await.map_err(|error| error.to_string()),
    }
}

fn no_attributes(object: ObjectId) -> String {
    format!("object {object} has no attributes; please report this")
}

/// What was pruned while it was read may have been read in part: asked for when it has been read.
fn whole(node: &NodeHandle, volume: VolumeId, at: Tid) -> Result<(), String> {
    match node.records.is_whole(volume, at) {
        true => Ok(()),
        false => Err(NoState::Pruned.to_string()),
    }
}

/// The file at a path, and its length.
fn file(view: &dyn View, volume: VolumeId, path: &[u8]) -> Result<(ObjectId, u64), String> {
    let place = walk(view, volume, path).map_err(|error| error.to_string())?;
    let object = place.object.ok_or_else(|| not_there(view, path))?;
    let attr = walk::attr(view, volume, object).map_err(|error| error.to_string())?;
    let attr = attr.ok_or_else(|| no_attributes(object))?;
    match attr.firm.kind {
        Kind::File => Ok((object, attr.size)),
        _ => Err(format!("{}: only files have bytes to read", walk::shown(path))),
    }
}

fn not_there(view: &dyn View, path: &[u8]) -> String {
    format!("{}: was not there as of {}", walk::shown(path), Timestamp::of_tid(view.tid()))
}

/// The name at the end of a path.
fn last_name(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty()).unwrap_or_default()
}

struct Looking<'v> {
    volume: VolumeId,
    then: &'v dyn View,
    /// What it is compared with, if it is the past.
    now: Option<&'v dyn View>,
}

impl Looking<'_> {
    fn look(&self, ask: &BrowseAsk) -> Result<(Entry, Vec<Entry>, bool), String> {
        let Place { parent, object } = walk(self.then, self.volume, &ask.path).map_err(|error| error.to_string())?;
        let object = object.ok_or_else(|| not_there(self.then, &ask.path))?;
        let failed = |error: ViewError| error.to_string();
        let here = self.entry(parent, last_name(&ask.path), object).map_err(failed)?;
        let here = here.ok_or_else(|| no_attributes(object))?;
        if here.kind != kind_name(Kind::Directory) {
            return Ok((here, Vec::new(), false));
        }
        let (entries, more) = self.names(object, ask.after.as_deref(), ask.limit).map_err(failed)?;
        Ok((here, entries, more))
    }

    fn names(&self, directory: ObjectId, after: Option<&[u8]>, limit: usize) -> Result<(Vec<Entry>, bool), ViewError> {
        let mut range = KeyRange::dirents(self.volume, directory);
        if let Some(after) = after {
            range.start = KeyRange::one(&Key::dirent(self.volume, directory, after)).end;
        }
        let limit = limit.clamp(1, ENTRIES_MAX);
        let mut found = self.then.scan(&range, limit + 1)?;
        let more = found.len() > limit;
        found.truncate(limit);
        let mut entries = Vec::with_capacity(found.len());
        for (key, version) in found {
            let (gavel_types::KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) = (key.parts(), version.record)
            else {
                continue;
            };
            entries.extend(self.entry(directory, name, dirent.object)?);
        }
        Ok((entries, more))
    }

    fn entry(&self, directory: ObjectId, name: &[u8], object: ObjectId) -> Result<Option<Entry>, ViewError> {
        let Some(attr) = walk::attr(self.then, self.volume, object)? else { return Ok(None) };
        let target = match attr.firm.kind {
            Kind::Symlink => self.target(object)?,
            _ => None,
        };
        Ok(Some(Entry {
            name: walk::shown(name),
            bytes: std::str::from_utf8(name).is_err().then(|| name.to_vec()),
            object: object.0,
            kind: kind_name(attr.firm.kind).into(),
            size: attr.size,
            mode: u32::from(attr.firm.mode),
            uid: attr.firm.uid,
            gid: attr.firm.gid,
            mtime: attr.mtime.to_string(),
            target,
            since: self.now.map(|now| self.since(now, directory, name, object, &attr)).transpose()?,
        }))
    }

    fn target(&self, object: ObjectId) -> Result<Option<String>, ViewError> {
        let found = self.then.get(&Key::target(self.volume, object))?;
        Ok(found.and_then(|version| match version.record {
            Record::Target(target) => Some(walk::shown(&target)),
            _ => None,
        }))
    }

    fn since(
        &self,
        now: &dyn View,
        directory: ObjectId,
        name: &[u8],
        object: ObjectId,
        then: &Attr,
    ) -> Result<Since, ViewError> {
        // The root has no name that it could lose.
        let is = match name {
            [] => Some(object),
            name => walk::named(now, self.volume, directory, name)?.map(|dirent| dirent.object),
        };
        Ok(match is {
            None => Since::Gone,
            Some(is) if is != object => Since::Replaced,
            // Whatever changes an object changes its attributes, if only ctime.
            Some(_) if walk::attr(now, self.volume, object)?.as_ref() == Some(then) => Since::Same,
            Some(_) => Since::Changed,
        })
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::CharDevice | Kind::BlockDevice => "device",
        kind => gavel_history::history::kind_name(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_of_a_path_is_found() {
        for (path, name) in [("", ""), ("a", "a"), ("a/b", "b"), ("/a/b/", "b")] {
            assert_eq!(last_name(path.as_bytes()), name.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_piece_gives_back_its_bytes_or_refuses() {
        let piece = |text: &str| Piece { at: String::new(), size: 0, base64: text.into() };
        assert_eq!(piece(&BASE64_STANDARD.encode([0, 255, 7])).bytes(), Ok(vec![0, 255, 7]));
        assert!(piece("!").bytes().is_err());
    }

    #[test]
    fn the_largest_piece_fits_into_an_answer() {
        let base64 = BASE64_STANDARD.encode(vec![0xff; PIECE_BYTES_MAX as usize]);
        assert!((base64.len() as u64) < crate::host::control::ANSWER_BYTES_MAX / 2);
    }
}
