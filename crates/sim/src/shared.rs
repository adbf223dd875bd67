//! A small tree that plain programs and transactions share, made for [`crate::serial`]: few names, few files, and each value is written once.
//!
//! What an operation read and wrote is told in *cells*: a name in a directory, a file's bytes as a whole, an extended attribute. A listing reads all names
//! that there can be in its directory: those that it lacks, too.

use crate::dice::Dice;
use gavel_client::{Answer, TreeError, TreeRequest};
use gavel_fs::operation::{RenameMode, SetAttr, XattrMode};
use gavel_fs::{FsError, Operation, Reply};
use gavel_types::{Cookie, Key, KeyParts, ObjectId, VolumeId};
use std::collections::VecDeque;

/// Names of a directory.
pub(crate) const NAMES: u8 = 4;
/// Extended attributes of a file.
const XATTRS: u64 = 2;
/// Bytes of a small file.
const SMALL_BYTES: usize = 16;
/// Bytes of a large one: they go to a blob.
const LARGE_BYTES: usize = 20_000;
/// So often of a thousand a file that is needed is one that only who needs it knows, if there is any.
const OWN_PERMILLE: u32 = 400;
/// Files that were come across and are tried again.
const FOUND_MAX: usize = 6;

/// What is made for it before the programs begin, in the root.
pub(crate) const SETUP: &[(&str, bool)] = &[
    ("t0", true),
    ("t1", true),
    ("t2", true),
    ("v0", false),
    ("v1", false),
    ("v2", false),
    ("v3", false),
    ("v4", false),
    ("w0", false),
];

/// Something that has one value at a time: 0 if there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Cell {
    /// What has this name (by its number): an object.
    Name(ObjectId, u8),
    /// What was written to the file last.
    Bytes(ObjectId),
    /// The value of an extended attribute, by its number.
    Xattr(ObjectId, u8),
}

impl Cell {
    /// The record that holds it.
    pub(crate) fn key(&self, volume: VolumeId, large: bool) -> Key {
        match self {
            Cell::Name(dir, name) => Key::dirent(volume, *dir, &name_of(*name)),
            Cell::Bytes(object) => Key::extent(volume, *object, len_of(large) as u64),
            Cell::Xattr(object, number) => Key::xattr(volume, *object, &xattr_of(*number)),
        }
    }

    /// The cell that a record holds.
    pub(crate) fn of(key: &Key) -> Option<Cell> {
        match key.parts() {
            KeyParts::Dirent { name, .. } => Some(Cell::Name(key.object(), number_of(name)?)),
            KeyParts::Extent { .. } => Some(Cell::Bytes(key.object())),
            KeyParts::Xattr { name } => {
                let number = (1..=XATTRS as u8).find(|number| *xattr_of(*number) == *name)?;
                Some(Cell::Xattr(key.object(), number))
            }
            _ => None,
        }
    }
}

/// What was read of a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// This value.
    Is(u64),
    /// There is one.
    Something,
}

impl Seen {
    pub(crate) fn fits(self, value: u64) -> bool {
        match self {
            Seen::Is(seen) => seen == value,
            Seen::Something => value != 0,
        }
    }
}

/// What an operation read and wrote.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Access {
    pub(crate) reads: Vec<(Cell, Seen)>,
    /// The value; none: that of an object which the answer does not name.
    pub(crate) writes: Vec<(Cell, Option<u64>)>,
}

impl Access {
    fn read(cell: Cell, seen: Seen) -> Access {
        Access { reads: vec![(cell, seen)], writes: Vec::new() }
    }

    fn write(cell: Cell, value: u64) -> Access {
        Access { reads: Vec::new(), writes: vec![(cell, Some(value))] }
    }
}

/// A name in a directory.
type Place = (ObjectId, u8);

/// What is done to the shared tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields are the arguments of the system calls of these names
pub enum Op {
    Lookup { at: Place },
    Create { at: Place },
    Unlink { at: Place },
    Rename { from: Place, to: Place, replace: bool },
    Link { object: ObjectId, at: Place },
    List { dir: ObjectId },
    Write { object: ObjectId, large: bool, value: u64 },
    Truncate { object: ObjectId },
    Read { object: ObjectId },
    GetXattr { object: ObjectId, number: u8 },
    SetXattr { object: ObjectId, number: u8, value: u64 },
    RemoveXattr { object: ObjectId, number: u8 },
}

/// What programs know of the shared tree.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) dirs: Vec<ObjectId>,
    /// Files that stay; whether they are large.
    pub(crate) files: Vec<(ObjectId, bool)>,
    /// Files that were come across, all small.
    found: VecDeque<ObjectId>,
}

impl Shared {
    /// `name` of [`SETUP`] is there.
    pub(crate) fn made(&mut self, name: &str, object: ObjectId) {
        match name.as_bytes()[0] {
            b't' => self.dirs.push(object),
            first => self.files.push((object, first == b'w')),
        }
    }

    /// A file was come across.
    pub(crate) fn found(&mut self, object: ObjectId) {
        if self.found.contains(&object) || self.files.iter().any(|(file, _)| *file == object) {
            return;
        }
        self.found.push_back(object);
        if self.found.len() > FOUND_MAX {
            self.found.pop_front();
        }
    }

    fn place(&self, dice: &mut Dice) -> Place {
        (*dice.pick(&self.dirs), dice.below(u64::from(NAMES)) as u8)
    }

    /// `made`: files that only who draws knows.
    fn file(&self, dice: &mut Dice, made: &[ObjectId]) -> (ObjectId, bool) {
        if !made.is_empty() && dice.permille(OWN_PERMILLE) {
            return (*dice.pick(made), false);
        }
        if self.found.is_empty() || dice.permille(650) {
            return *dice.pick(&self.files);
        }
        (self.found[dice.below(self.found.len() as u64) as usize], false)
    }

    fn small(&self, dice: &mut Dice, made: &[ObjectId]) -> ObjectId {
        match self.file(dice, made) {
            (file, false) => file,
            _ => self.files[0].0,
        }
    }

    /// Draws what to do next. `value` was never used before; `made` are files that nobody else knows.
    pub(crate) fn draw(&self, dice: &mut Dice, made: &[ObjectId], value: u64) -> Op {
        match dice.below(24) {
            0..3 => Op::Lookup { at: self.place(dice) },
            3..5 => Op::Create { at: self.place(dice) },
            5..7 => Op::Unlink { at: self.place(dice) },
            7..9 => {
                let (from, mut to) = (self.place(dice), self.place(dice));
                if from == to {
                    to.1 = (to.1 + 1) % NAMES;
                }
                Op::Rename { from, to, replace: dice.permille(700) }
            }
            9 => Op::Link { object: self.small(dice, made), at: self.place(dice) },
            10..12 => Op::List { dir: *dice.pick(&self.dirs) },
            12..16 => {
                let (object, large) = self.file(dice, made);
                Op::Write { object, large, value }
            }
            16 => Op::Truncate { object: self.small(dice, made) },
            17..21 => Op::Read { object: self.file(dice, made).0 },
            21 => Op::GetXattr { object: self.small(dice, made), number: 1 + dice.below(XATTRS) as u8 },
            22 => Op::SetXattr { object: self.small(dice, made), number: 1 + dice.below(XATTRS) as u8, value },
            _ => Op::RemoveXattr { object: self.small(dice, made), number: 1 + dice.below(XATTRS) as u8 },
        }
    }
}

fn name_of(number: u8) -> [u8; 1] {
    [b'a' + number]
}

fn number_of(name: &[u8]) -> Option<u8> {
    (0..NAMES).find(|number| name_of(*number) == *name)
}

fn xattr_of(number: u8) -> Box<[u8]> {
    format!("user.t{number}").into_bytes().into()
}

fn len_of(large: bool) -> usize {
    if large { LARGE_BYTES } else { SMALL_BYTES }
}

/// The bytes that stand for a value.
pub(crate) fn bytes_of(value: u64, large: bool) -> Vec<u8> {
    value.to_le_bytes().repeat(len_of(large) / 8)
}

/// The value that bytes stand for; none if they are of more than one.
pub(crate) fn value_of(bytes: &[u8]) -> Option<u64> {
    let (words, rest) = bytes.as_chunks::<8>();
    let first = words.first().map_or(0, |word| u64::from_le_bytes(*word));
    (rest.is_empty() && words.iter().all(|word| u64::from_le_bytes(*word) == first)).then_some(first)
}

impl Op {
    /// As a request.
    pub(crate) fn request(&self) -> TreeRequest {
        let named = |(parent, name): Place| (parent, Box::from(name_of(name)));
        TreeRequest::Operation(match *self {
            Op::Lookup { at } => {
                let (parent, name) = named(at);
                Operation::Lookup { parent, name }
            }
            Op::Create { at } => {
                let (parent, name) = named(at);
                Operation::Create { parent, name, mode: 0o644, umask: 0, exclusive: true, truncate: false }
            }
            Op::Unlink { at } => {
                let (parent, name) = named(at);
                Operation::Unlink { parent, name }
            }
            Op::Rename { from, to, replace } => {
                let ((parent, name), (new_parent, new_name)) = (named(from), named(to));
                let mode = if replace { RenameMode::Replace } else { RenameMode::NoReplace };
                Operation::Rename { parent, name, new_parent, new_name, mode }
            }
            Op::Link { object, at } => {
                let (parent, name) = named(at);
                Operation::Link { object, parent, name }
            }
            Op::List { dir } => Operation::Readdir { object: dir, after: Cookie(0), limit: 1_000 },
            Op::Truncate { object } => {
                Operation::Setattr { object, set: SetAttr { size: Some(0), ..SetAttr::default() } }
            }
            Op::GetXattr { object, number } => Operation::Getxattr { object, name: xattr_of(number) },
            Op::SetXattr { object, number, value } => {
                let value = value.to_le_bytes().into();
                Operation::Setxattr { object, name: xattr_of(number), value, mode: XattrMode::Set }
            }
            Op::RemoveXattr { object, number } => Operation::Removexattr { object, name: xattr_of(number) },
            Op::Write { object, large, value } => {
                let data = bytes_of(value, large);
                return TreeRequest::Write { object, offset: 0, append: false, data, kill_suidgid: false };
            }
            Op::Read { object } => return TreeRequest::Read { object, offset: 0, len: 2 * LARGE_BYTES as u32 },
        })
    }

    /// What the answer says was read and written; none if it says nothing. `renamed` is what a rename that changed something moved, if that is known.
    ///
    /// # Errors
    /// What it can't have been answered, in words.
    pub(crate) fn access(
        &self,
        result: &Result<Answer, TreeError>,
        renamed: Renamed,
    ) -> Result<Option<Access>, String> {
        let cell = |(dir, name): Place| Cell::Name(dir, name);
        match result {
            Err(TreeError::Fs(error)) => Ok(self.refused(*error).map(|(cell, seen)| Access::read(cell, seen))),
            Err(_) => Ok(None),
            Ok(answer) => {
                let wrong = || Err(format!("{self:?} was answered with {:?}", answer.reply));
                Ok(Some(match (*self, &answer.reply) {
                    (Op::Lookup { at }, Reply::Object(object)) => Access::read(cell(at), Seen::Is(object.0)),
                    (Op::Create { at }, Reply::Created { object, created: true }) => {
                        Access { reads: vec![(cell(at), Seen::Is(0))], writes: vec![(cell(at), Some(object.0))] }
                    }
                    (Op::Unlink { at }, Reply::Empty) => {
                        Access { reads: vec![(cell(at), Seen::Something)], writes: vec![(cell(at), Some(0))] }
                    }
                    (Op::Rename { from, to, replace }, Reply::Empty) => renames(cell(from), cell(to), replace, renamed),
                    (Op::Link { object, at }, Reply::Object(_)) => {
                        Access { reads: vec![(cell(at), Seen::Is(0))], writes: vec![(cell(at), Some(object.0))] }
                    }
                    (Op::List { dir }, Reply::Listing { names, end: true, .. }) => {
                        let has = |number| names.iter().find(|listed| number_of(&listed.name) == Some(number));
                        let seen = |number| Seen::Is(has(number).map_or(0, |listed| listed.object.0));
                        let reads = (0..NAMES).map(|number| (Cell::Name(dir, number), seen(number))).collect();
                        Access { reads, writes: Vec::new() }
                    }
                    (Op::Write { object, value, .. }, Reply::Written { .. } | Reply::Empty) => {
                        Access::write(Cell::Bytes(object), value)
                    }
                    (Op::Truncate { object }, Reply::Object(_)) => Access::write(Cell::Bytes(object), 0),
                    (Op::Read { object }, _) => match value_of(&answer.data) {
                        Some(value) => Access::read(Cell::Bytes(object), Seen::Is(value)),
                        None => return Err(format!("{self:?} was read torn, {} bytes", answer.data.len())),
                    },
                    (Op::GetXattr { object, number }, Reply::Bytes(bytes)) => match value_of(bytes) {
                        Some(value) => Access::read(Cell::Xattr(object, number), Seen::Is(value)),
                        None => return wrong(),
                    },
                    (Op::SetXattr { object, number, value }, Reply::Empty) => {
                        Access::write(Cell::Xattr(object, number), value)
                    }
                    (Op::RemoveXattr { object, number }, Reply::Empty) => Access {
                        reads: vec![(Cell::Xattr(object, number), Seen::Something)],
                        writes: vec![(Cell::Xattr(object, number), Some(0))],
                    },
                    _ => return wrong(),
                }))
            }
        }
    }

    fn refused(&self, error: FsError) -> Option<(Cell, Seen)> {
        let cell = |(dir, name): Place| Cell::Name(dir, name);
        match (*self, error) {
            (Op::Lookup { at } | Op::Unlink { at } | Op::Rename { from: at, .. }, FsError::NotFound) => {
                Some((cell(at), Seen::Is(0)))
            }
            (Op::Create { at } | Op::Link { at, .. } | Op::Rename { to: at, .. }, FsError::Exists) => {
                Some((cell(at), Seen::Something))
            }
            (Op::GetXattr { object, number } | Op::RemoveXattr { object, number }, FsError::NoAttribute) => {
                Some((Cell::Xattr(object, number), Seen::Is(0)))
            }
            // A file that has gone: nothing is said of what it was.
            _ => None,
        }
    }
}

/// What a rename that was done has moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Renamed {
    /// Nothing: both names are of one file, and stay.
    Nothing,
    This(ObjectId),
    /// Something that the answer does not name.
    Something,
}

fn renames(from: Cell, to: Cell, replace: bool, renamed: Renamed) -> Access {
    let object = match renamed {
        Renamed::Nothing => {
            return Access { reads: vec![(from, Seen::Something), (to, Seen::Something)], writes: Vec::new() };
        }
        Renamed::This(object) => Some(object.0),
        Renamed::Something => None,
    };
    let mut reads = vec![(from, object.map_or(Seen::Something, Seen::Is))];
    if !replace {
        reads.push((to, Seen::Is(0)));
    }
    Access { reads, writes: vec![(from, Some(0)), (to, object)] }
}
