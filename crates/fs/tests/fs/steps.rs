//! Random operations over few objects, few names and small files, so that they meet.

use super::model::acl_bytes;
use super::world::{NOWHERE, World};
use gavel_fs::operation::{Allocate, RenameMode, Seek, SetAttr, SetTime, XattrMode};
use gavel_fs::{Caller, Operation};
use gavel_types::{Cookie, ObjectId, Timestamp};
use gavel_wire::{Content, Kind};
use proptest::prelude::*;

/// Numbers from which an operation is made once it is known which objects there are.
#[derive(Clone, Debug)]
pub struct Step {
    what: u8,
    objects: (u8, u8),
    names: (u8, u8),
    offsets: (u8, u8),
    len: u8,
    flags: u16,
}

pub fn step() -> impl Strategy<Value = Step> {
    let numbers = (0u8..66, any::<(u8, u8)>(), (0u8..24, 0u8..24), (0u8..96, 0u8..96), 0u8..48, any::<u16>());
    numbers.prop_map(|(what, objects, names, offsets, len, flags)| Step { what, objects, names, offsets, len, flags })
}

/// An operation, on whose behalf, and the bytes that it writes.
pub struct Planned {
    pub operation: Operation,
    pub caller: Caller,
    pub bytes: Option<Vec<u8>>,
}

const XATTRS: [&[u8]; 8] = [
    b"user.a",
    b"user.b",
    b"trusted.t",
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    b"foo.x",
    b"user.",
];
const MODES: [u16; 6] = [0o644, 0o755, 0o6755, 0o2745, 0o2775, 0o1777];

impl Step {
    fn name(&self, number: u8) -> Box<[u8]> {
        let name: &[u8] = match number {
            22 => b"..",
            23 => b"a/b",
            _ => &[b'a' + number % 4],
        };
        name.into()
    }

    fn flag(&self, bit: u32) -> bool {
        self.flags >> bit & 1 == 1
    }

    /// Is it to be committed at once? If not, it waits.
    pub fn commits(&self) -> bool {
        self.flag(14)
    }

    fn time(&self, bit: u32) -> Option<SetTime> {
        match self.flags >> bit & 3 {
            0 => Some(SetTime::Now),
            1 => Some(SetTime::At(Timestamp { secs: i64::from(self.len) - 20, nanos: 7 })),
            _ => None,
        }
    }

    fn set(&self) -> SetAttr {
        let number = u32::from(self.offsets.0 % 8);
        SetAttr {
            mode: self.flag(0).then(|| MODES[usize::from(self.offsets.1) % MODES.len()]),
            uid: (self.flag(1) && self.flag(2)).then_some(number),
            gid: (self.flag(2) && self.flag(3)).then_some(number),
            size: (self.flag(4) && self.flag(5)).then_some(u64::from(self.len) * 2),
            atime: self.time(6),
            mtime: self.time(8),
            kill_suidgid: self.flag(10) && self.flag(11),
        }
    }

    fn xattr_value(&self, name: &[u8]) -> Box<[u8]> {
        let acl = acl_bytes(self.flag(2), self.offsets.0, self.offsets.1, self.len);
        match name.starts_with(b"system.") {
            true if self.flag(3) && self.flag(4) => [].into(),
            true => acl.into(),
            false => vec![self.len; usize::from(self.len % 4)].into(),
        }
    }

    /// The operation that this step stands for, if these are the objects that there ever were.
    pub fn plan(&self, world: &mut World, objects: &[ObjectId]) -> Planned {
        let object = |number: u8| match number {
            250.. => NOWHERE,
            _ => objects[usize::from(number) % objects.len()],
        };
        let (a, b) = (object(self.objects.0), object(self.objects.1));
        let (name, other_name) = (self.name(self.names.0), self.name(self.names.1));
        let (offset, other_offset) = (u64::from(self.offsets.0), u64::from(self.offsets.1));
        let mode = MODES[usize::from(self.offsets.1) % MODES.len()];
        let umask = if self.flag(12) { 0o022 } else { 0 };
        let mut bytes = None;
        let operation = match self.what {
            0..=1 => Operation::Lookup { parent: a, name },
            2 => Operation::Getattr { object: a },
            3..=6 => Operation::Setattr { object: a, set: self.set() },
            7..=8 => {
                let kind = [Kind::File, Kind::Fifo, Kind::Socket, Kind::CharDevice][usize::from(self.len % 4)];
                Operation::Mknod { parent: a, name, kind, mode, umask, rdev: 259 }
            }
            9..=13 => {
                let (exclusive, truncate) = (self.flag(0), self.flag(1));
                Operation::Create { parent: a, name, mode, umask, exclusive, truncate }
            }
            14..=18 => Operation::Mkdir { parent: a, name, mode, umask },
            19 => Operation::Symlink { parent: a, name, target: b"over/there"[..].into() },
            20 => Operation::Readlink { object: a },
            21..=23 => Operation::Link { object: a, parent: b, name },
            24..=26 => Operation::Unlink { parent: a, name },
            27..=29 => Operation::Rmdir { parent: a, name },
            30..=37 => {
                let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange, RenameMode::Replace]
                    [usize::from(self.len % 4)];
                Operation::Rename { parent: a, name, new_parent: b, new_name: other_name, mode }
            }
            38 => Operation::Open { object: a, truncate: self.flag(0), kill_suidgid: self.flag(1) },
            39..=40 => Operation::Read { object: a, offset, len: u32::from(self.len) },
            41..=46 => {
                let written: Vec<u8> = (0..self.len).map(|i| i.wrapping_add(self.flags as u8) | 1).collect();
                let content = match self.flags % 5 {
                    0 => Content::Zeros,
                    1 | 2 => world.blob(&written),
                    _ => Content::Inline(written.clone().into()),
                };
                bytes = Some(written);
                let (append, kill_suidgid) = (self.flag(8), self.flag(9));
                Operation::Write { object: a, offset, append, len: u32::from(self.len), content, kill_suidgid }
            }
            47..=50 => {
                let keep_size = self.flag(0);
                let how = match self.flags >> 1 & 3 {
                    0 => Allocate::PunchHole,
                    1 => Allocate::ZeroRange { keep_size },
                    _ => Allocate::Reserve { keep_size },
                };
                Operation::Fallocate { object: a, offset, len: u64::from(self.len), how }
            }
            51..=52 => {
                let what = if self.flag(0) { Seek::Data } else { Seek::Hole };
                Operation::Seek { object: a, offset, what }
            }
            53..=55 => Operation::CopyRange {
                from: a,
                from_offset: offset,
                to: b,
                to_offset: other_offset,
                len: u64::from(self.len),
            },
            56..=57 => {
                let after = if self.flag(0) { Cookie(0) } else { Cookie::of(&name) };
                Operation::Readdir { object: a, after, limit: u32::from(self.len % 4) }
            }
            what => {
                let often = if self.names.0 < 12 { 0 } else { usize::from(self.names.0) };
                let name: Box<[u8]> = XATTRS[often % XATTRS.len()].into();
                match what {
                    58 | 64.. => Operation::Getxattr { object: a, name },
                    59..=61 => {
                        let value = self.xattr_value(&name);
                        let mode = [XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace]
                            [usize::from(self.flags % 4)];
                        Operation::Setxattr { object: a, name, value, mode }
                    }
                    62 => Operation::Removexattr { object: a, name },
                    _ => Operation::Listxattr { object: a },
                }
            }
        };
        let caller = if self.flag(13) { Caller { uid: 5, gid: 6 } } else { Caller { uid: 0, gid: 0 } };
        Planned { operation, caller, bytes }
    }
}
