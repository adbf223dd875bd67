//! How a filesystem gets attached to a directory: by the kernel for root, through `fusermount3` for others.
//!
//! fuser can do it too, but it unmounts by path whatever it finds there when it is dropped: after a lazy unmount that
//! could be the next daemon's mount.

use crate::mounted::{MountError, MountOptions};
use crate::table::UnmountError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// Where the helper looks for the number of the socket that it hands the device over.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";
const SUBTYPE: &str = "gavel";

/// Opens the device of FUSE.
pub(crate) fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Mounts at `point`, which must be a directory. Requests can be read from what it gives.
pub(crate) fn attach(point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoDevice);
    }
    if !rustix::process::geteuid().is_root() {
        return attach_by_helper(point, options);
    }
    let device = open_device().map_err(|errno| MountError::Device { cause: errno.into() })?;
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},{}", kernel_options(options));
    let data = CString::new(data).expect("numbers and fixed words hold no NUL");
    let fs_type = crate::table::FILESYSTEM_TYPE;
    match rustix::mount::mount(options.fsname.as_str(), point, fs_type, mount_flags(options), data.as_c_str()) {
        Ok(()) => Ok(device),
        // Root without CAP_SYS_ADMIN, as in a container; the helper says so better than we could.
        Err(Errno::PERM) => attach_by_helper(point, options),
        Err(errno) => Err(MountError::Kernel { path: point.into(), cause: errno.into() }),
    }
}

fn mount_flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NODEV | MountFlags::NOSUID, !options.suid_and_devices);
    flags.set(MountFlags::NOEXEC, !options.programs);
    // Reading changes no time of access here: the kernel need not think about it.
    flags | MountFlags::NOATIME
}

fn kernel_options(options: &MountOptions) -> &'static str {
    if options.allow_other { "default_permissions,allow_other" } else { "default_permissions" }
}

fn attach_by_helper(point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let helper = |cause: String| MountError::Helper { path: point.into(), cause };
    // Not closed at exec: the helper inherits its end.
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
        .map_err(|errno| helper(errno.to_string()))?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).map_err(|errno| helper(errno.to_string()))?;
    let access = if options.read_only { "ro" } else { "rw" };
    let access = if options.programs { access.to_owned() } else { format!("{access},noexec") };
    let words = format!("{access},fsname={},subtype={SUBTYPE},{}", options.fsname, kernel_options(options));
    let output = Command::new(HELPER)
        .args(["-o", &words, "--"])
        .arg(point)
        .env(HELPER_SOCKET, theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| no_helper(error, point))?;
    drop(theirs);
    if !output.status.success() {
        return Err(helper(said(&output)));
    }
    receive(&ours).ok_or_else(|| helper(format!("it did not hand over {DEVICE}")))
}

fn no_helper(error: std::io::Error, point: &Path) -> MountError {
    match error.kind() {
        std::io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::Helper { path: point.into(), cause: error.to_string() },
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_string()
}

fn receive(socket: impl AsFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Takes the mount at `path` off for a user who may not do it himself.
pub(crate) fn detach_by_helper(path: &Path, lazy: bool) -> Result<(), UnmountError> {
    let refused = |cause: String| UnmountError::Refused { path: path.into(), cause };
    let mut command = Command::new(HELPER);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path).stdin(Stdio::null());
    let output = command.output().map_err(|error| refused(format!("{HELPER}: {error}")))?;
    match (output.status.success(), said(&output)) {
        (true, _) => Ok(()),
        (false, cause) if cause.contains("busy") => Err(UnmountError::Busy { path: path.into() }),
        (false, cause) => Err(refused(cause)),
    }
}
