//! Attributes and times, from the one world to the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::{Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// The attributes of inode `number` as the kernel shall see them.
pub(super) fn attributes(number: u64, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: stat.st_size.max(0) as u64,
        blocks: stat.st_blocks.max(0) as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind(rustix::fs::FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// The attributes of nothing: inode 0 in a reply says that there is no such name.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A file's kind; what the directory entry does not tell counts as a regular file.
pub(super) fn kind(behind: rustix::fs::FileType) -> FileType {
    use rustix::fs::FileType as Behind;
    match behind {
        Behind::Directory => FileType::Directory,
        Behind::Symlink => FileType::Symlink,
        Behind::Fifo => FileType::NamedPipe,
        Behind::Socket => FileType::Socket,
        Behind::CharacterDevice => FileType::CharDevice,
        Behind::BlockDevice => FileType::BlockDevice,
        Behind::RegularFile | Behind::Unknown => FileType::RegularFile,
    }
}

/// What `utimensat` shall set.
pub(super) fn timestamps(atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>) -> Timestamps {
    Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) }
}

fn timespec(wanted: Option<TimeOrNow>) -> Timespec {
    match wanted {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(at)) => match at.duration_since(UNIX_EPOCH) {
            Ok(after) => Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() },
            Err(before) => before_epoch(before.duration()),
        },
    }
}

/// Nanoseconds count forwards, also before 1970.
fn before_epoch(before: Duration) -> Timespec {
    let (seconds, nanos) = (before.as_secs() as i64, i64::from(before.subsec_nanos()));
    if nanos == 0 {
        Timespec { tv_sec: -seconds, tv_nsec: 0 }
    } else {
        Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanos }
    }
}

fn time(seconds: i64, nanos: u64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos.min(999_999_999));
    if seconds >= 0 {
        UNIX_EPOCH + Duration::from_secs(seconds as u64) + nanos
    } else {
        UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_the_way_there_and_back() {
        for (seconds, nanos) in [(0, 0), (5, 7), (-1, 0), (-1, 999_999_999), (-300, 1)] {
            let there = timespec(Some(TimeOrNow::SpecificTime(time(seconds, nanos))));
            assert_eq!((there.tv_sec, there.tv_nsec), (seconds, nanos as i64));
        }
    }
}
