//! A folder in memory, for tests.

use crate::error::BackupError;
use crate::folder::{Each, Folder};
use crate::name::{Kind, Name};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// A folder in memory. What was written and not settled is told apart, so that a crash can be played.
#[derive(Clone, Debug, Default)]
pub struct MemoryFolder {
    durable: RefCell<BTreeMap<Name, Vec<u8>>>,
    /// Written or removed since.
    unsettled: RefCell<Vec<(Name, Option<Vec<u8>>)>>,
    /// So many changes are made, and none after them.
    left: Cell<Option<u64>>,
}

impl MemoryFolder {
    /// What is there behind a crash: what is durable, and of what is not the changes for which `survives` says so.
    pub fn crashed(&self, mut survives: impl FnMut() -> bool) -> MemoryFolder {
        let folder = MemoryFolder { durable: self.durable.clone(), ..MemoryFolder::default() };
        for (name, bytes) in self.unsettled.borrow().iter() {
            if survives() {
                folder.put(*name, bytes.clone());
            }
        }
        folder
    }

    /// Whoever works with it dies after so many changes: all that comes then fails.
    pub fn die_after(&self, changes: u64) {
        self.left.set(Some(changes));
    }

    fn live(&self) -> Result<(), BackupError> {
        let dead = || std::io::Error::other("killed");
        match self.left.get() {
            Some(0) => Err(BackupError::Io { path: "memory".into(), cause: dead() }),
            left => {
                self.left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }

    /// All files and their bytes.
    pub fn files(&self) -> BTreeMap<Name, Vec<u8>> {
        let mut files = self.durable.borrow().clone();
        for (name, bytes) in self.unsettled.borrow().iter() {
            match bytes {
                Some(bytes) => files.insert(*name, bytes.clone()),
                None => files.remove(name),
            };
        }
        files
    }

    /// Changes a file as somebody else might: to these bytes, or to nothing.
    pub fn put(&self, name: Name, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => self.durable.borrow_mut().insert(name, bytes),
            None => self.durable.borrow_mut().remove(&name),
        };
    }
}

impl Folder for MemoryFolder {
    fn read(&self, name: Name) -> Result<Option<Vec<u8>>, BackupError> {
        if let Some((_, bytes)) = self.unsettled.borrow().iter().rev().find(|(changed, _)| *changed == name) {
            return Ok(bytes.clone());
        }
        Ok(self.durable.borrow().get(&name).cloned())
    }

    fn has(&self, name: Name) -> Result<bool, BackupError> {
        Ok(self.read(name)?.is_some())
    }

    fn write(&self, name: Name, bytes: &[u8]) -> Result<(), BackupError> {
        self.live()?;
        self.unsettled.borrow_mut().push((name, Some(bytes.to_vec())));
        Ok(())
    }

    fn settle(&self) -> Result<(), BackupError> {
        self.live()?;
        let files = self.files();
        self.unsettled.borrow_mut().clear();
        *self.durable.borrow_mut() = files;
        Ok(())
    }

    fn remove(&self, name: Name) -> Result<(), BackupError> {
        self.live()?;
        self.unsettled.borrow_mut().push((name, None));
        Ok(())
    }

    fn list(&self, kind: Kind, each: Each<'_>) -> Result<(), BackupError> {
        let files = self.files();
        files
            .iter()
            .filter(|(name, _)| name.kind() == kind)
            .try_for_each(|(name, bytes)| each(*name, bytes.len() as u64))
    }
}
