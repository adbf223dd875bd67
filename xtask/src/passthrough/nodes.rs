//! Which inode number is which file behind: the table of what the kernel knows.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use fuser::BackingId;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

/// The number by which FUSE calls the root.
pub(super) const ROOT: u64 = 1;

/// Requests on different files rarely meet in one of so many shards.
const SHARDS: usize = 64;

/// One file that the kernel knows.
pub(super) struct Node {
    /// An `O_PATH` descriptor, which pins the inode.
    path: OwnedFd,
    /// The descriptor for bytes, opened when first needed.
    bytes: OnceLock<File>,
    /// The kernel's name for the file behind; `Some(None)` once it refused to give one.
    backing: OnceLock<Option<BackingId>>,
}

/// The node and how many lookups the kernel has not forgotten.
struct Known {
    node: Arc<Node>,
    lookups: u64,
}

/// All that the kernel knows.
pub(super) struct Nodes {
    shards: Vec<RwLock<HashMap<u64, Known>>>,
    root_inode: u64,
    device: u64,
}

impl Node {
    fn new(path: OwnedFd) -> Self {
        Self { path, bytes: OnceLock::new(), backing: OnceLock::new() }
    }

    /// Where the file can be opened again, or changed by calls that take no `O_PATH` descriptor.
    pub(super) fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.path.as_raw_fd())
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.path, c"", AtFlags::EMPTY_PATH)
    }

    /// The descriptor to read and write bytes through: for both where the file allows it, else for reading.
    pub(super) fn bytes(&self) -> Result<&File, Errno> {
        if let Some(file) = self.bytes.get() {
            return Ok(file);
        }
        let path = self.proc_path();
        let both = rustix::fs::open(path.as_str(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let opened =
            both.or_else(|_| rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?;
        Ok(self.bytes.get_or_init(|| File::from(opened)))
    }

    /// The kernel's name for the file behind, asked for once; `None` where the kernel cannot pass through.
    pub(super) fn backing(&self, ask: impl FnOnce(&OwnedFd) -> std::io::Result<BackingId>) -> Option<&BackingId> {
        self.backing.get_or_init(|| ask(&self.path).ok()).as_ref()
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.path.as_fd()
    }
}

impl Nodes {
    /// The table for the tree below `source`.
    pub(super) fn open(source: &Path) -> Result<Self, Errno> {
        let path = rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let root = Node::new(path);
        let stat = root.stat()?;
        let nodes = Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            root_inode: stat.st_ino,
            device: stat.st_dev,
        };
        // The root is never forgotten: its count starts where no sequence of FORGETs comes down to.
        nodes.remember(ROOT, root, u64::MAX / 2);
        Ok(nodes)
    }

    /// The number that the kernel shall know an inode behind by.
    pub(super) fn number(&self, inode: u64) -> u64 {
        if inode == self.root_inode { ROOT } else { inode }
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<Node>, Errno> {
        let shard = self.shard(number).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&number).map(|known| Arc::clone(&known.node)).ok_or(Errno::STALE)
    }

    /// Looks a name up and counts the lookup.
    ///
    /// # Errors
    /// What the directory behind says; `EXDEV` for what is mounted below the source.
    pub(super) fn look_up(&self, parent: &Node, name: &OsStr) -> Result<(Arc<Node>, Stat), Errno> {
        let path = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let found = Node::new(path);
        let stat = found.stat()?;
        if stat.st_dev != self.device {
            return Err(Errno::XDEV);
        }
        Ok((self.remember(self.number(stat.st_ino), found, 1), stat))
    }

    fn remember(&self, number: u64, found: Node, lookups: u64) -> Arc<Node> {
        let mut shard = self.shard(number).write().unwrap_or_else(PoisonError::into_inner);
        let known = shard.entry(number).or_insert_with(|| Known { node: Arc::new(found), lookups: 0 });
        known.lookups += lookups;
        Arc::clone(&known.node)
    }

    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut shard = self.shard(number).write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = shard.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        let forgotten = if known.lookups == 0 { shard.remove(&number) } else { None };
        // Closing may take a while: not under the lock.
        drop(shard);
        drop(forgotten);
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Known>> {
        &self.shards[number as usize % SHARDS]
    }
}
