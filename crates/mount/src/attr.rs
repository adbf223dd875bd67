//! Attributes and times, from ours to the kernel's and back.

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use gavel_fs::operation::SetTime;
use gavel_types::{ObjectId, Timestamp};
use gavel_wire::{Attr, Kind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The block of `st_blksize`, in bytes: how much programs like to read and write at a time. Each request goes to the
/// daemon, so a library's buffer of 4 KiB would cost 32 requests where one does.
pub(crate) const IO_BYTES: u32 = 128 * 1024;
/// The unit of `st_blocks`, in bytes, whatever `st_blksize` says.
const BLOCK_BYTES: u64 = 512;
const NANOS_PER_SEC: u32 = 1_000_000_000;

/// The live object that a node id names.
pub(crate) fn object(ino: INodeNo) -> ObjectId {
    ObjectId(ino.0)
}

/// The node id, and the inode number, of a live object.
pub(crate) fn inode(object: ObjectId) -> INodeNo {
    INodeNo(object.0)
}

/// What the kernel calls this kind.
pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that `mknod` asks for; none if it makes no such thing.
pub(crate) fn kind_to_make(mode: u32) -> Option<Kind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Kind::File,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => return None,
    })
}

/// The permission bits of a mode that comes with a file type.
pub(crate) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

/// Attributes for the kernel.
pub(crate) fn file_attr(ino: INodeNo, attr: &Attr) -> FileAttr {
    FileAttr {
        ino,
        size: attr.size,
        blocks: attr.allocated.div_ceil(BLOCK_BYTES),
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: to_system(attr.firm.birth),
        kind: file_type(attr.firm.kind),
        perm: attr.firm.mode & 0o7777,
        nlink: attr.nlink,
        uid: attr.firm.uid,
        gid: attr.firm.gid,
        rdev: attr.firm.rdev,
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// What a listing says of a directory of which nothing but the inode number matters (`.` and `..`).
pub(crate) fn bare_directory(ino: INodeNo) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// A time to set, as the kernel asks for it.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(from_request(time)),
    }
}

/// Undoes what fuser 0.18 makes of a request's time. Before 1970 it takes both the seconds and the nanoseconds off
/// the epoch (-2 s and 500,000,000 ns become 2.5 s before it, and mean 1.5), so each half is read off as it is.
fn from_request(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: clamp(after.as_secs()), nanos: after.subsec_nanos() },
        Err(error) => {
            let before = error.duration();
            let secs = 0i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN);
            Timestamp { secs, nanos: before.subsec_nanos() }
        }
    }
}

fn clamp(secs: u64) -> i64 {
    i64::try_from(secs).unwrap_or(i64::MAX)
}

/// Times that `SystemTime` cannot hold become the epoch: they come from a record that no operation makes.
fn to_system(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.min(NANOS_PER_SEC - 1).into());
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs >= 0 { UNIX_EPOCH.checked_add(secs) } else { UNIX_EPOCH.checked_sub(secs) };
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_both_halves() {
        let time = Timestamp { secs: -2, nanos: 500_000_000 };
        assert_eq!(to_system(time), UNIX_EPOCH - Duration::from_millis(1500));
        // As fuser's `system_time_from_time(-2, 500_000_000)` has it:
        assert_eq!(from_request(UNIX_EPOCH - Duration::new(2, 500_000_000)), time);
        assert_eq!(from_request(UNIX_EPOCH - Duration::new(2, 0)), Timestamp { secs: -2, nanos: 0 });
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        for secs in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
            for nanos in [0, 1, NANOS_PER_SEC - 1, u32::MAX] {
                to_system(Timestamp { secs, nanos });
            }
        }
        let first = UNIX_EPOCH.checked_sub(Duration::from_secs(1 << 63)).expect("Linux has 64 bits of seconds");
        assert_eq!(from_request(first).secs, i64::MIN);
    }

    #[test]
    fn blocks_are_counted_up() {
        let firm = gavel_wire::Firm {
            kind: Kind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            rdev: 0,
            parent: ObjectId::VOLUME,
            birth: Timestamp::default(),
            class: gavel_types::Class::VOLUME,
        };
        let time = Timestamp::default();
        let attr = Attr { firm, nlink: 1, size: 5, allocated: 513, atime: time, mtime: time, ctime: time };
        assert_eq!(file_attr(INodeNo(16), &attr).blocks, 2);
    }
}
