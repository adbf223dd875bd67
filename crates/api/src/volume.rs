//! A volume, found by a path in it.

use crate::connection::Connection;
use crate::wire::{Answer, Begin, CONTROL_PREFIX};
use crate::{Error, Tid, Transaction};
use gavel_types::{CONTROL_XATTR, VolumeId, VolumeRef};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A volume that is mounted on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    id: VolumeId,
    socket: PathBuf,
}

impl Volume {
    /// The volume that a path is in.
    ///
    /// # Errors
    /// [`Error::NotInVolume`], [`Error::InTransaction`]; [`Error::Io`] if there is no such path.
    pub fn of(path: impl AsRef<Path>) -> Result<Volume, Error> {
        let path = path.as_ref();
        path.metadata()?;
        let not_ours = || Error::NotInVolume(path.into());
        let mut value = [0; 4096];
        let len = rustix::fs::getxattr(path, CONTROL_XATTR, &mut value).map_err(|_| not_ours())?;
        let said = value.get(..len).ok_or_else(not_ours)?;
        let (said, in_transaction) = match said.strip_prefix(CONTROL_PREFIX.as_bytes()) {
            Some(rest) => (rest, true),
            None => (said, false),
        };
        let space = said.iter().position(|byte| *byte == b' ').ok_or_else(not_ours)?;
        let name = std::str::from_utf8(&said[..space]).map_err(|_| not_ours())?;
        if in_transaction {
            return Err(Error::InTransaction { path: path.into(), id: name.into() });
        }
        let id = VolumeId(name.parse().map_err(|_| not_ours())?);
        Ok(Volume { id, socket: PathBuf::from(OsStr::from_bytes(&said[space + 1..])) })
    }

    /// Its number.
    pub fn id(&self) -> VolumeId {
        self.id
    }

    /// Begins a transaction: the volume as it is now, with what is changed in it from now on. `message` becomes the note of the commit, which `gavel log` shows; at most 960 bytes.
    ///
    /// # Errors
    /// [`Error::NoDaemon`], [`Error::Refused`].
    pub fn begin(&self, message: &str) -> Result<Transaction, Error> {
        let uid = rustix::process::geteuid().as_raw();
        let volume = VolumeRef::from(self.id);
        let begin = Begin { volume, uid, message: message.into(), dir: None };
        match Connection::begin(&self.socket, &begin)? {
            (connection, Answer::Started(started)) => Transaction::new(connection, started),
            _ => Err(Error::Refused("the daemon answered something else than it was asked".into())),
        }
    }

    /// Does `work` in a transaction and commits it. If it collides with others, does it again on the new state, `retries` times at most; so it must not depend on what an earlier
    /// attempt has done outside of the volume. Gives what the work gave, and the Tid; none if nothing was changed.
    ///
    /// ```no_run
    /// # use gavel_api::{Error, Volume};
    /// # fn count(volume: &Volume) -> Result<(), Error> {
    /// let (count, tid) = volume.transact("count", 5, |transaction| {
    ///     let dir = transaction.dir();
    ///     let count: u64 = dir.read_to_string("count")?.trim().parse().unwrap_or(0) + 1;
    ///     dir.write("count", count.to_string())?;
    ///     Ok::<u64, std::io::Error>(count)
    /// })?;
    /// # let _ = (count, tid);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Work`] with the error of the work, after which nothing was written; what [`begin`](Volume::begin) and [`Transaction::commit`] give.
    pub fn transact<T, E>(
        &self,
        message: &str,
        retries: u32,
        mut work: impl FnMut(&Transaction) -> Result<T, E>,
    ) -> Result<(T, Option<Tid>), Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut left = retries;
        loop {
            let transaction = self.begin(message)?;
            let done = work(&transaction).map_err(|error| Error::Work(error.into()))?;
            match transaction.commit() {
                Ok(tid) => return Ok((done, tid)),
                Err(Error::Collided(_)) if left > 0 => left -= 1,
                Err(error) => return Err(error),
            }
        }
    }
}
