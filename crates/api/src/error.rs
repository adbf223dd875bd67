//! What can go wrong.

use crate::wire::Collision;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is in no mount of Gavel.
    #[error("{}: not in a mount of Gavel; name a path where a volume is mounted (`gavel status` says where)", .0.display())]
    NotInVolume(PathBuf),
    /// The path is in a transaction already.
    #[error("{}: in transaction {id} already; there is none within another", .path.display())]
    InTransaction {
        /// The path.
        path: PathBuf,
        /// The transaction.
        id: String,
    },
    /// The daemon could not be asked. Its owner, or root, may ask it.
    #[error("{}: cannot ask the daemon: {cause}; its owner, or root, may", .socket.display())]
    NoDaemon {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The daemon could not do it: why, and what to do. Nothing was written.
    #[error("{0}")]
    Refused(String),
    /// Others have changed what the transaction depends on. Nothing was written.
    #[error("{0}")]
    Collided(Conflict),
    /// Nobody can say whether it was committed. `gavel log` shows it, with its id in the note, if it was.
    #[error("transaction {id}: nobody can say whether it was committed: {cause}")]
    Unknown {
        /// The transaction.
        id: String,
        /// Why.
        cause: String,
    },
    /// What was to be done in the transaction has failed. Nothing was written.
    #[error("{0}")]
    Work(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An operation on files has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a transaction collided with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The transaction.
    pub id: String,
    /// The paths, what was done there in the transaction, and what others did.
    pub collisions: Vec<Collision>,
    /// How many more there are.
    pub more: u64,
}

/// How many paths are told in one line.
const SHOWN: usize = 3;

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transaction {} collides with others", self.id)?;
        for (number, collision) in self.collisions.iter().take(SHOWN).enumerate() {
            let before = if number == 0 { ": " } else { ", " };
            write!(f, "{before}{} ({} here)", collision.path, collision.here)?;
            if let Some(there) = collision.there.last() {
                write!(f, " at {} by user {} on node {}", there.tid, there.uid, there.node)?;
            }
        }
        match self.collisions.len().saturating_sub(SHOWN) as u64 + self.more {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}
