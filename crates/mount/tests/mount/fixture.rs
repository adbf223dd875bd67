//! A mount that is gone when a test ends, however it ends.

use crate::ram::RamTree;
use gavel_client::tree::Tree;
use gavel_mount::{MountOptions, Mounted, Unmounted, table};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The kernel has its caches for all mounts: whoever drops them holds this to write, and whoever counts on them to read.
static CACHES: RwLock<()> = RwLock::new(());

const PATIENCE: Duration = Duration::from_secs(10);

/// A mounted tree. Fields are dropped in order: the mount goes before its directory.
pub struct Fixture {
    pub mounted: Option<Mounted>,
    pub tree: Arc<RamTree>,
    pub dir: TempDir,
}

impl Fixture {
    /// None, with the reason on stderr, if this machine has no FUSE.
    pub fn new() -> Option<Fixture> {
        Fixture::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut MountOptions)) -> Option<Fixture> {
        let tree = RamTree::with_thread();
        Fixture::of(tree.clone(), tree, change)
    }

    /// Mounts `front`, which has `tree` inside.
    pub fn of(tree: Arc<RamTree>, front: Arc<dyn Tree>, change: impl FnOnce(&mut MountOptions)) -> Option<Fixture> {
        if !has_fuse() {
            return None;
        }
        let dir = TempDir::new().expect("a directory");
        let mut options = MountOptions::at(dir.path());
        change(&mut options);
        let mounted = Mounted::new(front, options).unwrap_or_else(|error| panic!("{error}"));
        Some(Fixture { mounted: Some(mounted), tree, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Unmounts; nothing may be left open by then.
    pub fn finish(mut self) {
        eventually("every open was closed", || self.tree.open_objects() == 0);
        eventually("nothing uses the mount", || !is_busy(self.dir.path()));
        let mounted = self.mounted.take().expect("mounted until here");
        assert_eq!(mounted.unmount().expect("unmounts"), Unmounted::Clean);
        assert_eq!(table::mount_at(self.dir.path()).expect("a table"), None);
    }
}

/// Is something open at `mount`? A process that another test is just starting has copies of all that is open here until
/// it executes its program, also of directories, whose closing no tree is told.
pub fn is_busy(mount: &Path) -> bool {
    // The first attempt to let a mount expire only marks it, and only if nothing uses it.
    unmount(mount, UnmountFlags::EXPIRE | UnmountFlags::NOFOLLOW) == Err(Errno::BUSY)
}

/// To be held by a test that drops the kernel's caches.
pub fn drops_caches() -> RwLockWriteGuard<'static, ()> {
    CACHES.write().unwrap_or_else(PoisonError::into_inner)
}

/// To be held by a test that asks the kernel for what it keeps.
pub fn needs_caches() -> RwLockReadGuard<'static, ()> {
    CACHES.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn has_fuse() -> bool {
    let found = Path::new("/dev/fuse").exists();
    if !found {
        eprintln!("skipped: /dev/fuse is missing");
    }
    found
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped in part: needs root");
    }
    root
}

/// Waits for a condition.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// Runs a shell script in `dir`; gives what it printed.
pub fn shell(dir: &Path, script: &str) -> String {
    let Output { status, stdout, stderr } =
        Command::new("sh").args(["-euc", script]).current_dir(dir).output().expect("a shell");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{script}: {status}\n{stderr}");
    String::from_utf8(stdout).expect("text")
}

/// Is there such a program?
pub fn has_program(name: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {name} >/dev/null")]).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {name} is not installed");
    }
    found
}
