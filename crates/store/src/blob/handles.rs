//! Open files, in bounded number: a store has more segments than a process may have files open.

use super::FILES_OPEN_MAX;
use crate::disk::{Disk, DiskError, DiskFile};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// A file that is opened when it is needed.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) name: String,
    file: RwLock<Option<Arc<dyn DiskFile>>>,
}

impl Handle {
    pub(super) fn closed(name: String) -> Arc<Handle> {
        Arc::new(Handle { name, file: RwLock::new(None) })
    }

    pub(super) fn opened(name: String, file: Arc<dyn DiskFile>) -> Arc<Handle> {
        Arc::new(Handle { name, file: RwLock::new(Some(file)) })
    }
}

/// Which handles hold open files, the longest open first.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<VecDeque<Weak<Handle>>>);

impl Handles {
    /// The handle's file. A reader of an open one shares nothing with readers of other files.
    pub(super) fn file(&self, disk: &Arc<dyn Disk>, handle: &Arc<Handle>) -> Result<Arc<dyn DiskFile>, DiskError> {
        if let Some(file) = handle.file.read().as_ref() {
            return Ok(Arc::clone(file));
        }
        let file = disk.open(&handle.name)?;
        *handle.file.write() = Some(Arc::clone(&file));
        self.adopt(handle);
        Ok(file)
    }

    /// Counts an open handle, and closes the longest open ones past the bound. Whoever reads from one goes on.
    pub(super) fn adopt(&self, handle: &Arc<Handle>) {
        let mut open = self.0.lock();
        open.push_back(Arc::downgrade(handle));
        while open.len() > FILES_OPEN_MAX {
            if let Some(oldest) = open.pop_front().and_then(|handle| handle.upgrade()) {
                *oldest.file.write() = None;
            }
        }
    }
}
