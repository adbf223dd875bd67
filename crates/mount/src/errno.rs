//! Every errno that a program can get from a mount, and why it is that one.
//!
//! Nothing else in Gavel makes an errno. `docs/protocols/mount.md` shows the table to users.

use fuser::Errno;
use gavel_client::tree::{LockError, NoState, TreeError};
use gavel_fs::FsError;

/// Too many requests are under way on this mount (see `gate`): nothing was done. ENOMEM is what any system call may
/// answer, and what programs take for a passing shortage.
pub(crate) const CROWDED: Errno = Errno::ENOMEM;
/// The tree's answer was not one to the question: a defect on our side.
pub(crate) const NOT_AN_ANSWER: Errno = Errno::EIO;
/// Never asked for again: the kernel does without, or by itself.
pub(crate) const NOT_IMPLEMENTED: Errno = Errno::ENOSYS;
/// No ioctl is known.
pub(crate) const NO_IOCTL: Errno = Errno::ENOTTY;
/// An argument of the request has no meaning here.
pub(crate) const INVALID: Errno = Errno::EINVAL;
/// A flag of the request asks for something that is not offered.
pub(crate) const NOT_SUPPORTED: Errno = Errno::EOPNOTSUPP;
/// A seek to before the file: what the kernel says of one behind it.
pub(crate) const NO_SUCH_OFFSET: Errno = Errno::ENXIO;
/// The caller's buffer is too small for an attribute or a list of names.
pub(crate) const BUFFER_TOO_SMALL: Errno = Errno::ERANGE;
/// It was so, and stays so: nothing of a past state can be changed.
pub(crate) const READ_ONLY: Errno = Errno::EROFS;
/// The past is another filesystem as far as links, renames and copies without reading go. The kernel copies by reading then.
pub(crate) const OTHER_STATE: Errno = Errno::EXDEV;
/// There is no such name.
pub(crate) const NO_SUCH_NAME: Errno = Errno::ENOENT;
/// The file that `open(O_CREAT)` was to make has come up meanwhile: the kernel walks the path again, without its
/// caches, checks the permissions of what is there now, and opens that.
pub(crate) const WALK_AGAIN: Errno = Errno::ESTALE;
/// A removed directory is being listed: what the kernel itself says on a local filesystem.
pub(crate) const DIRECTORY_GONE: Errno = Errno::ENOENT;

/// The object is gone, or is not there yet.
pub(crate) fn stale() -> Errno {
    of_fs(FsError::Stale)
}

/// What the program that made a system call gets to see of a request's failure.
pub(crate) fn of(error: &TreeError) -> Errno {
    match error {
        TreeError::Fs(error) => of_fs(*error),
        // As NFS does (`softerr`): the request was waited for and nothing came of it; nothing was changed. Not EAGAIN:
        // runtimes take that for "wait until the file is readable" and spin or fail on a regular file. Not EROFS:
        // programs take that for good.
        TreeError::NoQuorum { .. } => Errno::ETIMEDOUT,
        // The one answer that promises nothing. It may have happened.
        TreeError::Unknown { .. } => Errno::EIO,
        TreeError::Storage { full: true, .. } => Errno::ENOSPC,
        TreeError::Storage { full: false, .. } => Errno::EIO,
        // Not ENOTCONN, which is what a mount says whose daemon is gone.
        TreeError::Closed => Errno::from_i32(libc::ESHUTDOWN),
        TreeError::Lock(error) => of_lock(*error),
        TreeError::NoState(error) => of_no_state(*error),
    }
}

fn of_no_state(error: NoState) -> Errno {
    match error {
        // Before the volume, nothing had any name.
        NoState::Unnamed | NoState::BeforeVolume | NoState::BeforeClone => Errno::ENOENT,
        NoState::NotReceived | NoState::NeverReceived => Errno::ENOENT,
        NoState::Future => Errno::EINVAL,
        // What was there, and is not any more: as NFS says of a handle.
        NoState::Pruned => Errno::from_i32(libc::ESTALE),
    }
}

fn of_lock(error: LockError) -> Errno {
    match error {
        LockError::Locked => Errno::EAGAIN,
        LockError::Deadlock => Errno::EDEADLK,
        LockError::NoLocks => Errno::ENOLCK,
        // The kernel calls again, or not, as the program's signal handler wants it.
        LockError::Cancelled => Errno::EINTR,
        // As NFS does. No errno says it, and the program must not believe that it has its locks.
        LockError::Lost => Errno::EIO,
    }
}

fn of_fs(error: FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid => Errno::EINVAL,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::TooLarge => Errno::EFBIG,
        FsError::NotPermitted => Errno::EPERM,
        FsError::AccessDenied => Errno::EACCES,
        FsError::NoAttribute => Errno::from_i32(libc::ENODATA),
        // The kernel refuses a value that is too large by itself (E2BIG): what is left is the bound of the list.
        FsError::AttributeTooLarge => Errno::ENOSPC,
        FsError::NoData => Errno::ENXIO,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::Stale => Errno::from_i32(libc::ESTALE),
        FsError::ReadOnly => Errno::EROFS,
        FsError::TooDeep => Errno::ELOOP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_reads_as_a_feature_that_is_missing() {
        // The kernel takes ENOSYS for "never ask again": one failed request must not turn an operation off for good.
        let cause = || "a cause".to_string();
        let errors = [
            TreeError::NoQuorum { cause: cause() },
            TreeError::Unknown { cause: cause() },
            TreeError::Storage { cause: cause(), full: true },
            TreeError::Storage { cause: cause(), full: false },
            TreeError::Closed,
            TreeError::Fs(FsError::NotSupported),
            TreeError::Fs(FsError::Stale),
            TreeError::Lock(LockError::NoLocks),
            TreeError::Lock(LockError::Lost),
        ];
        for error in errors {
            assert_ne!(of(&error), NOT_IMPLEMENTED, "{error}");
        }
        assert_ne!(of(&TreeError::Closed), Errno::ENOTCONN, "only a dead daemon's mount says so");
    }
}
