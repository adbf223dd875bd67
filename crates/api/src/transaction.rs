//! A transaction that is open.

use crate::connection::Connection;
use crate::wire::{Answer, End, Started};
use crate::{Conflict, Error, Tid};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use std::path::{Path, PathBuf};

/// Many changes that become one transaction of the log, or none. If it is dropped, or its process ends, nothing of it was written.
pub struct Transaction {
    connection: Connection,
    started: Started,
    start: Tid,
    dir: Dir,
}

impl Transaction {
    pub(crate) fn new(connection: Connection, started: Started) -> Result<Transaction, Error> {
        let start = started.start.parse().map_err(|_| Error::Refused(format!("{:?} is no Tid", started.start)))?;
        let dir = Dir::open_ambient_dir(&started.place, ambient_authority())?;
        Ok(Transaction { connection, started, start, dir })
    }

    /// Its name, which `gavel txn list` and the note of its commit have, too.
    pub fn id(&self) -> &str {
        &self.started.id
    }

    /// The state that it has begun at.
    pub fn start(&self) -> Tid {
        self.start
    }

    /// The volume's root, as the transaction has it. Paths and symlinks that lead out of it are refused.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The same as a path, for other programs. An absolute `path` is taken as one from the volume's root. Absolute symlinks in the volume lead out of the transaction here;
    /// `gavel txn run` has no such hole.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.started.place.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Makes all that was changed visible at once. Files of it that are still open can't be used any more. Gives the Tid; none if nothing was changed.
    ///
    /// # Errors
    /// [`Error::Collided`], [`Error::Refused`], [`Error::NoDaemon`] before it was asked: nothing was written. [`Error::Unknown`].
    pub fn commit(self) -> Result<Option<Tid>, Error> {
        let Transaction { mut connection, started, dir, .. } = self;
        // What was changed in mappings of files becomes a part of it.
        rustix::fs::syncfs(std::fs::File::open(&started.place)?).map_err(std::io::Error::from)?;
        drop(dir);
        let unknown = |cause: String| Error::Unknown { id: started.id.clone(), cause };
        match connection.say("commit") {
            Ok(Answer::Ended(End::Committed { tid: None, .. })) => Ok(None),
            Ok(Answer::Ended(End::Committed { tid: Some(tid), .. })) => {
                tid.parse().map(Some).map_err(|_| unknown(format!("it was, and {tid:?} is no Tid")))
            }
            Ok(Answer::Ended(End::Collided { collisions, more })) => {
                Err(Error::Collided(Conflict { id: started.id, collisions, more }))
            }
            Ok(Answer::Ended(End::Unknown { cause })) => Err(unknown(cause)),
            Ok(_) => Err(unknown("the daemon did not say how it ended".into())),
            Err(Error::NoDaemon { cause, .. }) => Err(unknown(cause.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Gives it up: nothing was written. Unlike a drop, it returns when nothing of it is left.
    ///
    /// # Errors
    /// [`Error::NoDaemon`]: the daemon is gone, and the transaction with it.
    pub fn abort(self) -> Result<(), Error> {
        let Transaction { mut connection, dir, .. } = self;
        drop(dir);
        connection.say("abort").map(drop)
    }
}
