//! What is asked of a daemon about transactions, and what it answers: JSON on its socket. Fields are only added. The daemon has types of its own for it
//! (`runtime/src/host/txn`), so that programs do not bring its libraries in; `conformance/tests/library.rs` holds the two together.

use gavel_types::VolumeRef;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What [`gavel_types::CONTROL_XATTR`] begins with in a transaction's mount; its id and the daemon's socket follow.
pub const CONTROL_PREFIX: &str = "txn ";

/// What to begin with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// In which volume.
    pub volume: VolumeRef,
    /// For which user.
    pub uid: u32,
    /// What for.
    pub message: String,
    /// Where to mount it; none: at a place of the daemon's.
    pub dir: Option<PathBuf>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It has begun.
    Started(Started),
    /// How it ended.
    Ended(End),
}

/// A transaction that has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// The state that it begins at.
    pub start: String,
    /// Where it is mounted.
    pub place: PathBuf,
    /// Where this node has the volume mounted for reading and writing.
    pub over: Vec<PathBuf>,
}

/// How a transaction ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is committed.
    Committed {
        /// At which transaction; none if it had changed nothing.
        tid: Option<String>,
        /// The same as a time.
        time: Option<String>,
    },
    /// Nothing was written: others have changed what it depends on.
    Collided {
        /// What.
        collisions: Vec<Collision>,
        /// How many more.
        more: u64,
    },
    /// Nothing was written.
    Aborted {},
    /// Nobody can say whether it was committed.
    Unknown {
        /// Why.
        cause: String,
    },
}

/// A path that a transaction depends on and others have changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Collision {
    /// The path within the volume.
    pub path: String,
    /// What the transaction did there: `made`, `removed`, `changed`, `renamed`, `listed`, or `read`.
    pub here: String,
    /// What others did, the latest last; nothing if that was pruned.
    pub there: Vec<There>,
}

/// A commit of somebody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct There {
    /// The transaction.
    pub tid: String,
    /// The same as a time.
    pub time: String,
    /// Through which node.
    pub node: u64,
    /// For which user.
    pub uid: u32,
    /// What for, if somebody said so.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
    /// What it did there, in words.
    pub what: Vec<String>,
}
