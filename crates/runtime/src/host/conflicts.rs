//! Changes that this node answered and could not commit: kept until somebody has looked at them. `docs/formats/conflicts.md` has the form of the files.
//!
//! Each is a file of the directory `conflicts` of the data directory, named by its number, and durable before anybody is told of it.
//!
//! - [`keeper`]: the task that writes them, and prepares lost plans to be offered again
//! - [`words`]: what a conflict was about, for people
//! - [`ask`]: what the control socket is asked about them

pub mod ask;
pub mod keeper;
pub mod words;

use gavel_client::{Collision, LostPlan};
use gavel_fs::{Caller, Operation};
use gavel_types::{BlobId, Tid, VolumeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The directory of the conflicts, within the data directory.
pub const CONFLICTS_DIR: &str = "conflicts";
/// Most conflicts that are kept; beyond, they are counted and written to the daemon's log. With [`CONFLICT_BYTES_MAX`] each, 256 MiB at most.
pub const CONFLICTS_MAX: usize = 8 * 1024;
/// The largest file of a conflict that is read: an operation carries little more than one inline write.
pub const CONFLICT_BYTES_MAX: u64 = 256 * 1024;
/// The first byte of a file.
const VERSION: u8 = 1;

/// Names a conflict on its node.
pub type ConflictId = u64;

/// Why a change could not be committed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Why {
    /// Another node has changed what lies between these keys.
    Changed {
        /// The first key's bytes.
        start: Vec<u8>,
        /// The bytes behind the last key.
        end: Vec<u8>,
    },
    /// It stands on a change that is a conflict itself.
    Depends,
    /// It was on its way, and nobody can say whether it was committed.
    Unknown,
    /// The log refused it.
    Refused,
    /// There were too many.
    TooMany,
}

/// A change that was answered and not committed, or perhaps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// When it was answered, by the cluster's clock.
    pub time: Tid,
    /// Where.
    pub volume: VolumeId,
    /// On whose behalf.
    pub caller: Caller,
    /// What.
    pub operation: Operation,
    /// Why it was not committed.
    pub why: Why,
}

impl Conflict {
    /// A lost plan that is a conflict.
    pub fn new(lost: LostPlan, why: Collision) -> Conflict {
        let why = match why {
            Collision::Changed(range) => Why::Changed { start: range.start.into(), end: range.end.into() },
            Collision::Depends => Why::Depends,
            Collision::Unknown => Why::Unknown,
            Collision::Refused => Why::Refused,
            Collision::TooMany => Why::TooMany,
        };
        let asked = lost.asked;
        Conflict { time: lost.time, volume: asked.volume, caller: asked.caller, operation: asked.operation, why }
    }

    /// The blob that it needs.
    pub fn blob(&self) -> Option<BlobId> {
        match &self.operation {
            Operation::Write { content: gavel_wire::Content::Blob { id, .. }, .. } => Some(*id),
            _ => None,
        }
    }

    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a vector grows, and the type can be encoded")
    }

    /// A conflict from the bytes of its file.
    ///
    /// # Errors
    /// In words, if it is none.
    pub fn decode(bytes: &[u8]) -> Result<Conflict, String> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((conflict, [])) => Ok(conflict),
                Ok(_) => Err("there is more behind the conflict".into()),
                Err(error) => Err(error.to_string()),
            },
            Some((version, _)) => Err(format!("it is of version {version}, which this program does not know")),
            None => Err("it is empty".into()),
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    ids: BTreeSet<ConflictId>,
    /// The last number that was given out, or found: none is used twice while the daemon runs.
    last: ConflictId,
}

/// The conflicts of a node. See the module's documentation.
#[derive(Debug)]
pub struct Conflicts {
    dir: PathBuf,
    kept: Mutex<Kept>,
    /// Those that there was no room for.
    beyond: AtomicU64,
}

impl Conflicts {
    /// Opens the conflicts below `data_dir`.
    ///
    /// # Errors
    /// If the directory can't be made or listed.
    pub fn open(data_dir: &Path) -> std::io::Result<Conflicts> {
        let dir = data_dir.join(CONFLICTS_DIR);
        std::fs::create_dir_all(&dir)?;
        std::fs::File::open(data_dir)?.sync_all()?;
        let mut kept = Kept::default();
        for entry in std::fs::read_dir(&dir)? {
            // What has another name is half written, or somebody else's.
            kept.ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ConflictId>().ok()));
        }
        kept.last = kept.ids.last().copied().unwrap_or(0);
        Ok(Conflicts { dir, kept: Mutex::new(kept), beyond: AtomicU64::new(0) })
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.lock().ids.len()
    }

    /// Is none kept?
    pub fn is_empty(&self) -> bool {
        self.kept.lock().ids.is_empty()
    }

    /// How many could not be kept since the node was started.
    pub fn beyond(&self) -> u64 {
        self.beyond.load(Ordering::Relaxed)
    }

    /// The numbers, oldest first.
    pub fn ids(&self) -> Vec<ConflictId> {
        self.kept.lock().ids.iter().copied().collect()
    }

    /// Keeps a conflict, durably. Gives its number.
    ///
    /// # Errors
    /// If there is no room; it is counted then.
    pub fn keep(&self, conflict: &Conflict) -> std::io::Result<ConflictId> {
        let written = self.write(conflict);
        if written.is_err() {
            self.beyond.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn write(&self, conflict: &Conflict) -> std::io::Result<ConflictId> {
        let mut kept = self.kept.lock();
        if kept.ids.len() >= CONFLICTS_MAX {
            return Err(Error::new(ErrorKind::StorageFull, format!("{CONFLICTS_MAX} conflicts are kept already")));
        }
        let id = kept.last + 1;
        let (file, new) = (self.file(id), self.dir.join("new"));
        let mut written = std::fs::File::create(&new)?;
        written.write_all(&conflict.encode())?;
        written.sync_all()?;
        std::fs::rename(&new, &file)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        kept.last = id;
        kept.ids.insert(id);
        Ok(id)
    }

    /// The conflict of this number; none if there is none.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn get(&self, id: ConflictId) -> std::io::Result<Option<Conflict>> {
        if !self.kept.lock().ids.contains(&id) {
            return Ok(None);
        }
        let file = self.file(id);
        let damaged = |cause: String| Error::new(ErrorKind::InvalidData, format!("{}: {cause}", file.display()));
        if std::fs::metadata(&file)?.len() > CONFLICT_BYTES_MAX {
            return Err(damaged("it is too large".into()));
        }
        Conflict::decode(&std::fs::read(&file)?).map(Some).map_err(damaged)
    }

    /// Forgets a conflict. False if there is none of this number.
    ///
    /// # Errors
    /// If its file can't be removed.
    pub fn forget(&self, id: ConflictId) -> std::io::Result<bool> {
        let mut kept = self.kept.lock();
        if !kept.ids.contains(&id) {
            return Ok(false);
        }
        std::fs::remove_file(self.file(id))?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        Ok(kept.ids.remove(&id))
    }

    fn file(&self, id: ConflictId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

#[cfg(test)]
mod tests;
