//! A mount from beginning to end, and what can go wrong with it.
//!
//! ```text
//!   new ──> mounted ──unmount/drop──> gone            (no user is left: the threads end)
//!              │  └───unmount/drop──> detached ──> gone   (files are still open: they end with the last close)
//!              └──────`umount`, by somebody else──> gone  (`wait` says so)
//! ```

use crate::device;
use crate::front::{Forgetter, Front, PastNodes};
use crate::table::{self, MountEntry, UnmountError, Unmounted};
use fuser::{Config, Session, SessionACL};
use gavel_client::tree::{Forget, Tree};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most threads that read the kernel's requests.
const THREADS_MAX: usize = 16;
const THREADS_MIN: usize = 2;
/// Longest name of what is mounted, as `mount` and `df` show it.
pub const FSNAME_BYTES_MAX: usize = 255;
/// How many dead mounts on one directory are taken off before a new one: each start of a daemon that is killed
/// leaves one at most.
const STALE_MOUNTS_MAX: usize = 16;
pub use gavel_types::CONTROL_XATTR;
/// How long an unmount waits for the requests under way: the kernel has given all of them up by then.
const END_WAIT: Duration = Duration::from_secs(5);

/// How to mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// The directory to cover.
    pub path: PathBuf,
    /// What `mount` and `df` show as the source, such as `gavel:home`. At most [`FSNAME_BYTES_MAX`] bytes, without
    /// commas, whitespace, backslashes and control characters.
    pub fsname: String,
    /// Other users than the one who mounts may use it. `fusermount3` allows that to root only, unless
    /// `/etc/fuse.conf` has `user_allow_other`.
    pub allow_other: bool,
    /// Nothing can be written through this mount.
    pub read_only: bool,
    /// Set-user-id bits and devices on it have their meaning (root only).
    pub suid_and_devices: bool,
    /// Programs on it can be run.
    pub programs: bool,
    /// Covers a directory that has names in it.
    pub allow_non_empty: bool,
    /// Listings bring attributes, which the kernel may keep as the tree says.
    pub readdirplus: bool,
    /// The kernel may keep names and attributes for as long as the tree says, if it can forget them all at once (Linux 6.16).
    /// It then takes other filesystems that are mounted inside this one off when it is made to forget.
    pub keep_names: bool,
    /// Nobody changes the tree but through this mount: what the kernel has, it may keep without being told to forget it, and locks and opens of files are its own
    /// affair.
    pub private: bool,
    /// Locks of files hold among the programs of this mount only: the kernel has them to itself, and need not say when a file is closed.
    pub local_locks: bool,
    /// The kernel opens files without asking, if the tree [vouches](Tree::vouches) for bytes of what it was not asked to open; then locks are local,
    /// too.
    pub local_opens: bool,
    /// What the extended attribute [`CONTROL_XATTR`] of every object says: how a program that stands in the mount finds the daemon behind it.
    pub control: Vec<u8>,
    /// Threads that read the kernel's requests, 1 to 16; by default one for each core, and two at least.
    pub threads: Option<usize>,
}

impl MountOptions {
    /// The usual options: open to others and with set-user-id and devices if root mounts, as other filesystems.
    pub fn at(path: impl Into<PathBuf>) -> MountOptions {
        let root = rustix::process::geteuid().is_root();
        MountOptions {
            path: path.into(),
            fsname: "gavel".into(),
            allow_other: root,
            read_only: false,
            suid_and_devices: root,
            programs: true,
            allow_non_empty: false,
            readdirplus: false,
            keep_names: true,
            private: false,
            local_locks: false,
            local_opens: false,
            control: Vec::new(),
            threads: None,
        }
    }
}

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// This machine has no FUSE.
    #[error(
        "/dev/fuse is missing\nHint: `modprobe fuse` loads it; a container needs `--device /dev/fuse --cap-add SYS_ADMIN`"
    )]
    NoDevice,
    /// The device cannot be opened.
    #[error("/dev/fuse: {cause}\nHint: a container needs `--device /dev/fuse --cap-add SYS_ADMIN`")]
    Device {
        /// Why.
        cause: io::Error,
    },
    /// Only root can mount without the helper.
    #[error("fusermount3 is missing, and only root can mount without it\nHint: install fuse3, or mount as root")]
    NoHelper,
    /// The helper refuses.
    #[error("{}: cannot mount: {cause}\nHint: users need access to /dev/fuse and the directory; root can always mount", path.display())]
    Helper {
        /// The directory.
        path: PathBuf,
        /// What it said.
        cause: String,
    },
    /// The directory cannot be used.
    #[error("{}: {cause}\nHint: `mkdir -p {}` makes the directory", path.display(), path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Only directories can be covered.
    #[error("{}: not a directory", path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// What is in the directory would be hidden.
    #[error("{}: the directory is not empty; a mount would hide what is in it\nHint: mount at an empty directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Something is mounted there.
    #[error("{}: {source_name} ({fs_type}) is mounted here already\nHint: unmount it first, or mount elsewhere", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What is mounted.
        source_name: String,
        /// Its type.
        fs_type: String,
    },
    /// A mount was left behind by a daemon that died, and does not go away.
    #[error("a mount left behind by a daemon that died is in the way: {cause}")]
    Stale {
        /// Why it stays.
        cause: UnmountError,
    },
    /// The name to show is not one.
    #[error(
        "{fsname:?} cannot be shown as the source of a mount: 1 to {FSNAME_BYTES_MAX} bytes without commas, whitespace, backslashes and control characters"
    )]
    BadName {
        /// The name.
        fsname: String,
    },
    /// The kernel refuses to mount.
    #[error("{}: cannot mount: {cause}", path.display())]
    Kernel {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The first exchange with the kernel failed.
    #[error("{}: the kernel does not agree to FUSE's terms: {cause}", path.display())]
    Handshake {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The list of mounts cannot be read.
    #[error("the list of mounts: {cause}")]
    Table {
        /// Why.
        #[from]
        cause: io::Error,
    },
}

/// A tree that is mounted. Dropping it unmounts it (lazily, if it is in use).
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    /// Which mount at that path is ours.
    id: u64,
    end: Arc<End>,
    past: Arc<PastNodes>,
    taken_off: bool,
}

/// How the event-loop threads tell that they have ended.
#[derive(Debug, Default)]
struct End {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Mounted {
    /// Mounts `tree`. A mount that a killed daemon of ours has left there is taken off first. Returns when the kernel
    /// has agreed: the tree can be used from then on, and `tree` is asked from other threads.
    ///
    /// # Errors
    /// [`MountError`]: nothing is mounted.
    pub fn new(tree: Arc<dyn Tree>, options: MountOptions) -> Result<Mounted, MountError> {
        check_name(&options.fsname)?;
        let path = prepare(&options)?;
        let device = device::attach(&path, &options)?;
        let (forgetter, jobs) = Forgetter::new();
        let past = Arc::<PastNodes>::default();
        let front = Front::new(tree.clone(), forgetter.clone(), past.clone(), &options);
        let handshake = |cause| MountError::Handshake { path: path.clone(), cause };
        let session = start(front, device, &options).and_then(|session| {
            // Not a clone of the connection (`FUSE_DEV_IOC_CLONE`): it reads no requests.
            let device = session.as_fd().try_clone_to_owned()?;
            forgetter.start(jobs, device, options.keep_names)?;
            if options.private {
                forgetter.keep_all();
            }
            let forgetter: Arc<dyn Forget> = forgetter;
            tree.attach(Arc::downgrade(&forgetter));
            Ok(session)
        });
        match session.and_then(|session| Mounted::run(session, &path, past)) {
            Ok(mounted) => Ok(mounted),
            Err(cause) => {
                if let Err(error) = table::detach(&path, true) {
                    tracing::warn!(%error, "the mount that failed stays behind");
                }
                Err(handshake(cause))
            }
        }
    }

    fn run(session: Session<Front>, path: &Path, past: Arc<PastNodes>) -> io::Result<Mounted> {
        let entry = table::mount_at(path)?.filter(MountEntry::is_ours);
        let id = entry.ok_or_else(|| io::Error::other("the mount is gone already"))?.id;
        let end = Arc::new(End::default());
        let ended = end.clone();
        std::thread::Builder::new().name("gavel-mount".into()).spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "reading requests from the kernel failed");
            }
            *ended.ended.lock() = true;
            ended.changed.notify_all();
        })?;
        Ok(Mounted { path: path.into(), id, end, past, taken_off: false })
    }

    /// The directory that is covered: absolute, and without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many inodes of past states the kernel has.
    pub fn past_inodes(&self) -> usize {
        self.past.len()
    }

    /// Waits until the mount has ended, whoever unmounted it, for `timeout` at most. True if it has.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        let mut ended = self.end.ended.lock();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        while !*ended {
            match deadline {
                None => self.end.changed.wait(&mut ended),
                Some(deadline) => {
                    if self.end.changed.wait_until(&mut ended, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        *ended
    }

    /// Unmounts. If programs use it, the directory is freed all the same, and what they have open is served as long as
    /// this process lives.
    ///
    /// # Errors
    /// [`UnmountError`]: the mount is still there.
    pub fn unmount(mut self) -> Result<Unmounted, UnmountError> {
        self.take_off()
    }

    fn take_off(&mut self) -> Result<Unmounted, UnmountError> {
        self.taken_off = true;
        if *self.end.ended.lock() {
            // The kernel may have given our mount's id to another one meanwhile.
            return Ok(Unmounted::Already);
        }
        let here: Vec<_> = table::mounts()?.into_iter().filter(|mount| mount.point == self.path).collect();
        match here.iter().rposition(|mount| mount.id == self.id) {
            None => return Ok(Unmounted::Already),
            Some(last) if last + 1 == here.len() => {}
            Some(below) => {
                let cause = format!("{} is mounted over it", here[below + 1].source);
                return Err(UnmountError::Refused { path: self.path.clone(), cause });
            }
        }
        match table::detach(&self.path, false) {
            Err(UnmountError::Busy { .. }) => {
                table::detach(&self.path, true)?;
                tracing::warn!(path = %self.path.display(), "unmounted while programs use it");
                Ok(Unmounted::Busy)
            }
            // The same filesystem may be mounted in other mount namespaces (of a service, of a container), and then it
            // goes on there.
            Ok(()) if self.wait(Some(END_WAIT)) => Ok(Unmounted::Clean),
            Ok(()) => Ok(Unmounted::Busy),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.taken_off
            && let Err(error) = self.take_off()
        {
            tracing::error!(%error, "the mount stays behind");
        }
    }
}

fn start(front: Front, device: OwnedFd, options: &MountOptions) -> io::Result<Session<Front>> {
    let mut config = Config::default();
    config.n_threads = Some(threads(options));
    // A queue of its own for each thread; a user who may not open the device himself shares one.
    config.clone_fd = device::open_device().is_ok();
    // The kernel has checked it: without `allow_other` it lets nobody in but who mounted.
    config.acl = SessionACL::All;
    Session::from_fd(front, device, SessionACL::All, config)
}

fn threads(options: &MountOptions) -> usize {
    let cores = || std::thread::available_parallelism().map_or(THREADS_MIN, |cores| cores.get().max(THREADS_MIN));
    options.threads.unwrap_or_else(cores).clamp(1, THREADS_MAX)
}

fn check_name(fsname: &str) -> Result<(), MountError> {
    let bad = |c: char| c == ',' || c == '\\' || c.is_whitespace() || c.is_control();
    if fsname.is_empty() || fsname.len() > FSNAME_BYTES_MAX || fsname.contains(bad) {
        return Err(MountError::BadName { fsname: fsname.into() });
    }
    Ok(())
}

/// Sees that the directory can be covered; takes dead mounts of ours off.
fn prepare(options: &MountOptions) -> Result<PathBuf, MountError> {
    let missing = |cause| MountError::Missing { path: options.path.clone(), cause };
    let mut path = table::place(&options.path).map_err(missing)?;
    for _ in 0..STALE_MOUNTS_MAX {
        let Some(mount) = table::mount_at(&path)? else { break };
        if !(mount.is_ours() && mount.is_dead()) {
            return Err(MountError::Occupied { path, source_name: mount.source, fs_type: mount.fs_type });
        }
        tracing::info!(path = %path.display(), "taking off the mount of a daemon that died");
        table::detach(&path, true).map_err(|cause| MountError::Stale { cause })?;
        path = table::place(&options.path).map_err(missing)?;
    }
    let metadata = std::fs::metadata(&path).map_err(missing)?;
    if !metadata.is_dir() {
        return Err(MountError::NotDirectory { path });
    }
    if !options.allow_non_empty && std::fs::read_dir(&path).map_err(missing)?.next().is_some() {
        return Err(MountError::NotEmpty { path });
    }
    Ok(path)
}
