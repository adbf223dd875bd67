//! A daemon that is killed while a thread of it waits in the kernel for what the daemon itself was to answer.

use crate::fixture::{eventually, has_fuse, is_root};
use crate::lifecycle::Daemon;
use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, Notifier, OpenFlags, ReplyAttr,
    ReplyData, ReplyEntry, Request, Session, SessionACL,
};
use gavel_mount::reaper::Watched;
use gavel_mount::table;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const CHILD_MOUNTS_AT: &str = "GAVEL_REAPER_TEST_CHILD";
/// The thread that waits in the kernel.
const FORGETS: &str = "forgets";
const LONG: Duration = Duration::from_secs(1000);
const FILE: INodeNo = INodeNo(2);
/// The reaper gives a process a second to end by itself.
const END_MAX: Duration = Duration::from_secs(20);

/// One file, which is never read to the end: each request for its bytes is kept, and the kernel told to forget them.
#[derive(Default)]
struct Unread {
    notifier: Arc<OnceLock<Notifier>>,
    asked: Mutex<Vec<ReplyData>>,
}

fn attributes(object: INodeNo) -> FileAttr {
    let kind = if object == FILE { FileType::RegularFile } else { FileType::Directory };
    let now = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: object,
        size: 4096,
        blocks: 8,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Unread {
    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.entry(&LONG, &attributes(FILE), Generation(0));
    }

    fn getattr(&self, _: &Request, object: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LONG, &attributes(object));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.asked.lock().expect("nobody panics").push(reply);
        let notifier = self.notifier.clone();
        let forgets = std::thread::Builder::new().name(FORGETS.into());
        forgets.spawn(move || notifier.wait().inval_inode(FILE, 0, 0)).expect("starts");
    }
}

/// Not a test: the process that is killed.
#[test]
fn child_that_waits_in_the_kernel() {
    let Some(path) = std::env::var_os(CHILD_MOUNTS_AT) else { return };
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").expect("opens");
    let data = CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd())).expect("no NUL");
    mount("gavel", path, table::FILESYSTEM_TYPE, MountFlags::empty(), data.as_c_str()).expect("mounts");
    let unread = Unread::default();
    let notifier = unread.notifier.clone();
    let session = Session::from_fd(unread, device.into(), SessionACL::All, Config::default()).expect("agrees");
    let background = session.spawn().expect("serves");
    assert!(notifier.set(background.notifier()).is_ok());
    println!("mounted");
    background.join().expect("until it is killed");
}

/// Nothing stays behind when the test ends, nor waits for what nobody answers.
struct Aborted<'a>(&'a Path);

impl Drop for Aborted<'_> {
    fn drop(&mut self) {
        _ = unmount(self.0, UnmountFlags::FORCE);
        _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

/// Does the thread that forgets wait where no signal reaches it?
fn waits(process: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    states.any(|stat| stat.contains(&format!("({FORGETS}) D")))
}

#[test]
fn a_daemon_that_is_killed_while_it_waits_for_itself_ends_and_so_do_requests_to_it() {
    if !has_fuse() || !is_root() {
        return;
    }
    let dir = TempDir::new().expect("a directory");
    let _left = Aborted(dir.path());
    let daemon = Daemon::running("reaper::child_that_waits_in_the_kernel", CHILD_MOUNTS_AT, dir.path());
    // Before the daemon's end is waited for, if it hangs.
    let _hung = Aborted(dir.path());
    let process = Pid::from_child(&daemon.0);
    let (read, answer) = mpsc::channel();
    let file = dir.path().join("file");
    std::thread::spawn(move || read.send(fs::read(file)));
    eventually("a thread waits in the kernel", || waits(process));
    let watched = Watched::new(process).expect("is watched");
    kill_process(process, Signal::KILL).expect("kills");
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(watched.see_off()));
    let aborted = end.recv_timeout(END_MAX).expect("it ends").expect("the connection is aborted");
    assert_eq!(aborted.len(), 1, "it could not have ended by itself");
    drop(daemon);
    assert!(answer.recv_timeout(END_MAX).expect("is answered").is_err());
}

#[test]
fn a_daemon_that_ends_by_itself_is_left_alone() {
    let mut sleeper = Command::new("sleep").arg("1000").spawn().expect("starts");
    let process = Pid::from_child(&sleeper);
    let watched = Watched::new(process).expect("is watched");
    kill_process(process, Signal::KILL).expect("kills");
    assert!(watched.see_off().expect("is looked at").is_empty(), "it ends");
    sleeper.wait().expect("ends");
}
