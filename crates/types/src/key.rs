//! The one ordered key space of records.
//!
//! A key is the order-preserving encoding of `(volume, object, domain, sub)`:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | volume, big endian |
//! | 8 | object, big endian |
//! | 1 | domain |
//! | n | sub: nothing (attr, target); cookie (8, big endian), name, NUL (dirent); end offset (8, big endian; extent); name, NUL (xattr); object (8, big endian; orphan); Tid (8, big endian; commit); nothing (boundary) |

use crate::as_bytes;
use crate::limits::{NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX};
use crate::{ObjectId, Tid, VolumeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What kind of fact about an object a record holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum Domain {
    /// The inode: kind, mode, owner, link count, size, times.
    Attr = 1,
    /// One name in a directory.
    Dirent = 2,
    /// A run of a file's bytes, keyed by the offset behind its last byte.
    Extent = 3,
    /// One extended attribute.
    Xattr = 4,
    /// The target of a symbolic link.
    Target = 5,
    /// An object without a name that some session may still hold open; filed under [`ObjectId::VOLUME`].
    Orphan = 6,
    /// Who made a commit; filed under [`ObjectId::VOLUME`].
    Commit = 7,
    /// Of a mirror: which state of its source it is; filed under [`ObjectId::VOLUME`].
    Boundary = 8,
}

impl Domain {
    fn from_byte(byte: u8) -> Option<Domain> {
        Some(match byte {
            1 => Domain::Attr,
            2 => Domain::Dirent,
            3 => Domain::Extent,
            4 => Domain::Xattr,
            5 => Domain::Target,
            6 => Domain::Orphan,
            7 => Domain::Commit,
            8 => Domain::Boundary,
            _ => return None,
        })
    }
}

const PREFIX_BYTES: usize = 13;
/// Most parts behind these: a cookie, a name and a NUL.
const SUB_PARTS_MAX: usize = 3;
/// Longest encoded key.
pub const KEY_BYTES_MAX: usize = PREFIX_BYTES + 8 + NAME_BYTES_MAX + 1;
const _: () = assert!(XATTR_NAME_BYTES_MAX <= NAME_BYTES_MAX);

/// A directory cookie: 63 bits of the name's hash, the same on every node and for ever.
/// 0 is before everything; 1 and 2 are left for `.` and `..`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Cookie(pub u64);

impl Cookie {
    /// The smallest cookie of a name.
    pub const FIRST: Cookie = Cookie(3);
    /// The largest cookie of a name: directory offsets are signed 64-bit numbers in the kernel.
    pub const LAST: Cookie = Cookie(i64::MAX as u64 - 1);

    /// The cookie of `name`: the first 63 bits of its BLAKE3 hash, kept within `FIRST..=LAST`.
    pub fn of(name: &[u8]) -> Cookie {
        let hash = blake3::hash(name);
        let head: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
        Cookie((u64::from_be_bytes(head) >> 1).clamp(Cookie::FIRST.0, Cookie::LAST.0))
    }
}

/// Longest key that lies within a [`Key`] itself, without an allocation: all but names and extended attributes do, and names of up to eight bytes. Keys are
/// copied from map to map while a commit is worked out; a longer one is shared.
const SHORT_BYTES_MAX: usize = 30;
const _: () = assert!(size_of::<Key>() == 32);

/// A record's key, encoded. See the module's table. Cheap to copy.
#[derive(Clone)]
pub struct Key(Encoded);

#[derive(Clone)]
enum Encoded {
    Short { len: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Arc<[u8]>),
}

impl Encoded {
    fn of(parts: &[&[u8]]) -> Encoded {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len > SHORT_BYTES_MAX {
            return Encoded::Long(parts.concat().into());
        }
        let (mut bytes, mut at) = ([0; SHORT_BYTES_MAX], 0);
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Encoded::Short { len: len as u8, bytes }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Encoded::Short { len, bytes } => &bytes[..usize::from(*len)],
            Encoded::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_bytes::serialize(&self.as_bytes(), serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        as_bytes::parse(deserializer, Key::from_bytes)
    }
}

/// What a key says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyParts<'a> {
    /// The attributes of an object.
    Attr,
    /// A name in a directory.
    Dirent {
        /// The name's place in the order of the directory.
        cookie: Cookie,
        /// The name.
        name: &'a [u8],
    },
    /// The run of bytes that ends before `end`.
    Extent {
        /// The offset behind the last byte.
        end: u64,
    },
    /// An extended attribute.
    Xattr {
        /// Its full name, such as `user.colour`.
        name: &'a [u8],
    },
    /// A symlink's target.
    Target,
    /// An object without a name.
    Orphan {
        /// The object.
        object: ObjectId,
    },
    /// Who made a commit.
    Commit {
        /// The commit.
        tid: Tid,
    },
    /// Which state of its source a mirror is.
    Boundary,
}

/// Keys are compared as their bytes, so a map of keys can be searched with the ends of a [`KeyRange`].
impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Key {
    fn build(volume: VolumeId, object: ObjectId, domain: Domain, sub: &[&[u8]]) -> Key {
        let (volume, object) = (volume.0.to_be_bytes(), object.0.to_be_bytes());
        let domain = [domain as u8];
        let mut parts: [&[u8]; 3 + SUB_PARTS_MAX] = [&volume, &object, &domain, &[], &[], &[]];
        parts[3..3 + sub.len()].copy_from_slice(sub);
        Key(Encoded::of(&parts))
    }

    /// The attributes of an object.
    pub fn attr(volume: VolumeId, object: ObjectId) -> Key {
        Key::build(volume, object, Domain::Attr, &[])
    }

    /// The entry `name` of directory `object`. The name holds no NUL and no slash.
    pub fn dirent(volume: VolumeId, object: ObjectId, name: &[u8]) -> Key {
        debug_assert!(!name.contains(&0));
        Key::build(volume, object, Domain::Dirent, &[&Cookie::of(name).0.to_be_bytes(), name, &[0]])
    }

    /// The extent of `object` that ends before `end` (at least 1).
    pub fn extent(volume: VolumeId, object: ObjectId, end: u64) -> Key {
        Key::build(volume, object, Domain::Extent, &[&end.to_be_bytes()])
    }

    /// The extended attribute `name` of `object`. The name holds no NUL.
    pub fn xattr(volume: VolumeId, object: ObjectId, name: &[u8]) -> Key {
        debug_assert!(!name.contains(&0));
        Key::build(volume, object, Domain::Xattr, &[name, &[0]])
    }

    /// The target of symlink `object`.
    pub fn target(volume: VolumeId, object: ObjectId) -> Key {
        Key::build(volume, object, Domain::Target, &[])
    }

    /// The mark that `object` has no name any more.
    pub fn orphan(volume: VolumeId, object: ObjectId) -> Key {
        Key::build(volume, ObjectId::VOLUME, Domain::Orphan, &[&object.0.to_be_bytes()])
    }

    /// Who made the commit at `tid`.
    pub fn commit(volume: VolumeId, tid: Tid) -> Key {
        Key::build(volume, ObjectId::VOLUME, Domain::Commit, &[&tid.0.to_be_bytes()])
    }

    /// Which state of its source a mirror is.
    pub fn boundary(volume: VolumeId) -> Key {
        Key::build(volume, ObjectId::VOLUME, Domain::Boundary, &[])
    }

    /// The encoded key.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Takes a key from disk or network.
    ///
    /// # Errors
    /// [`KeyError`] if the bytes are not what one of the constructors above makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Key, KeyError> {
        check(bytes)?;
        Ok(Key(Encoded::of(&[bytes])))
    }

    /// The same key of another volume.
    pub fn in_volume(&self, volume: VolumeId) -> Key {
        Key(Encoded::of(&[&volume.0.to_be_bytes(), &self.as_bytes()[4..]]))
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        VolumeId(u32::from_be_bytes(self.as_bytes()[..4].try_into().expect("a key has 13 bytes or more")))
    }

    /// The object under which the record is filed.
    pub fn object(&self) -> ObjectId {
        ObjectId(u64::from_be_bytes(self.as_bytes()[4..12].try_into().expect("a key has 13 bytes or more")))
    }

    /// The rest of the key.
    pub fn parts(&self) -> KeyParts<'_> {
        decode(self.as_bytes()).expect("a Key is only made by constructors or from_bytes, which decoded it")
    }
}

fn check(bytes: &[u8]) -> Result<(), KeyError> {
    match decode(bytes)? {
        KeyParts::Dirent { cookie, name } if cookie != Cookie::of(name) => Err(KeyError),
        _ => Ok(()),
    }
}

fn decode(bytes: &[u8]) -> Result<KeyParts<'_>, KeyError> {
    if bytes.len() < PREFIX_BYTES || bytes.len() > KEY_BYTES_MAX {
        return Err(KeyError);
    }
    let sub = &bytes[PREFIX_BYTES..];
    let number = || Ok(u64::from_be_bytes(sub.try_into().map_err(|_| KeyError)?));
    let parts = match Domain::from_byte(bytes[12]).ok_or(KeyError)? {
        Domain::Attr if sub.is_empty() => KeyParts::Attr,
        Domain::Target if sub.is_empty() => KeyParts::Target,
        Domain::Boundary if sub.is_empty() => KeyParts::Boundary,
        Domain::Attr | Domain::Target | Domain::Boundary => return Err(KeyError),
        Domain::Dirent => {
            let (cookie, name) = sub.split_at_checked(8).ok_or(KeyError)?;
            let name = terminated(name)?;
            let cookie = Cookie(u64::from_be_bytes(cookie.try_into().map_err(|_| KeyError)?));
            KeyParts::Dirent { cookie, name }
        }
        Domain::Extent => KeyParts::Extent { end: number()? },
        Domain::Xattr => KeyParts::Xattr { name: terminated(sub)? },
        Domain::Orphan => KeyParts::Orphan { object: ObjectId(number()?) },
        Domain::Commit => KeyParts::Commit { tid: Tid(number()?) },
    };
    Ok(parts)
}

fn terminated(bytes: &[u8]) -> Result<&[u8], KeyError> {
    match bytes.split_last() {
        Some((0, name)) if !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(&0) => Ok(name),
        _ => Err(KeyError),
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.volume(), self.object())?;
        match self.parts() {
            KeyParts::Attr => write!(f, "attr"),
            KeyParts::Dirent { name, .. } => write!(f, "dirent/{}", name.escape_ascii()),
            KeyParts::Extent { end } => write!(f, "extent/{end}"),
            KeyParts::Xattr { name } => write!(f, "xattr/{}", name.escape_ascii()),
            KeyParts::Target => write!(f, "target"),
            KeyParts::Orphan { object } => write!(f, "orphan/{object}"),
            KeyParts::Commit { tid } => write!(f, "commit/{tid}"),
            KeyParts::Boundary => write!(f, "boundary"),
        }
    }
}

/// Bytes that are not a record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the key of a record")]
pub struct KeyError;

/// A run of keys: from `start`, up to and without `end`. The ends need not be keys themselves.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// First bytes of the range.
    #[serde(with = "as_bytes")]
    pub start: Box<[u8]>,
    /// First bytes behind the range.
    #[serde(with = "as_bytes")]
    pub end: Box<[u8]>,
}

impl KeyRange {
    fn domain(volume: VolumeId, object: ObjectId, domain: Domain, from: &[u8], to: Option<&[u8]>) -> KeyRange {
        let bound = |sub: &[u8]| -> Box<[u8]> { Key::build(volume, object, domain, &[sub]).as_bytes().into() };
        let start = bound(from);
        let end = match to {
            Some(to) => bound(to),
            None => {
                let mut end = bound(&[]);
                end[12] += 1;
                end
            }
        };
        KeyRange { start, end }
    }

    /// Just this key.
    pub fn one(key: &Key) -> KeyRange {
        let start = key.as_bytes();
        KeyRange { start: start.into(), end: [start, &[0]].concat().into() }
    }

    /// Everything of a volume.
    pub fn volume(volume: VolumeId) -> KeyRange {
        let start = volume.0.to_be_bytes();
        let end = match volume.0.checked_add(1) {
            Some(next) => next.to_be_bytes().to_vec(),
            None => vec![0xff; 13],
        };
        KeyRange { start: start.into(), end: end.into_boxed_slice() }
    }

    /// The range of the same keys of `to`, of one that lies within volume `from`.
    pub fn in_volume(&self, from: VolumeId, to: VolumeId) -> KeyRange {
        let (theirs, ours) = (KeyRange::volume(from), KeyRange::volume(to));
        let moved = |bound: &[u8]| -> Box<[u8]> {
            match bound.strip_prefix(&from.0.to_be_bytes()) {
                Some(rest) => [&to.0.to_be_bytes(), rest].concat().into(),
                None if *bound <= *theirs.start => ours.start.clone(),
                None => ours.end.clone(),
            }
        };
        KeyRange { start: moved(&self.start), end: moved(&self.end) }
    }

    /// What of this range lies within `other`.
    pub fn within(&self, other: &KeyRange) -> KeyRange {
        let (start, end) = ((&self.start).max(&other.start).clone(), (&self.end).min(&other.end).clone());
        KeyRange { start, end }
    }

    /// The keys of a volume that are filed under objects: all but those under [`ObjectId::VOLUME`].
    pub fn of_objects(volume: VolumeId) -> KeyRange {
        KeyRange { start: KeyRange::object(volume, ObjectId::VOLUME).end, end: KeyRange::volume(volume).end }
    }

    /// Where leases have the mark of an orphan: among the keys of its object, at which no record is.
    pub fn mark(volume: VolumeId, object: ObjectId) -> KeyRange {
        KeyRange::domain(volume, object, Domain::Orphan, &[], None)
    }

    /// The objects from `first` to `last`, both included.
    pub fn objects(volume: VolumeId, first: ObjectId, last: ObjectId) -> KeyRange {
        KeyRange { start: KeyRange::object(volume, first).start, end: KeyRange::object(volume, last).end }
    }

    /// Have the two a key in common?
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        *self.start < *other.end && *other.start < *self.end
    }

    /// Everything filed under one object.
    pub fn object(volume: VolumeId, object: ObjectId) -> KeyRange {
        let mut start = Vec::with_capacity(12);
        start.extend_from_slice(&volume.0.to_be_bytes());
        let mut end = start.clone();
        start.extend_from_slice(&object.0.to_be_bytes());
        match object.0.checked_add(1) {
            Some(next) => end.extend_from_slice(&next.to_be_bytes()),
            // Nobody is given this id, but a key may name it. No domain has such a byte.
            None => end.extend_from_slice(&[0xff; 9]),
        }
        KeyRange { start: start.into_boxed_slice(), end: end.into_boxed_slice() }
    }

    /// All names of a directory.
    pub fn dirents(volume: VolumeId, object: ObjectId) -> KeyRange {
        KeyRange::domain(volume, object, Domain::Dirent, &[], None)
    }

    /// The names of a directory whose cookie is greater than `cookie`.
    pub fn dirents_after(volume: VolumeId, object: ObjectId, cookie: Cookie) -> KeyRange {
        KeyRange::domain(volume, object, Domain::Dirent, &(cookie.0.saturating_add(1)).to_be_bytes(), None)
    }

    /// The extents of a file that end behind `offset`: what covers `offset` and what follows.
    pub fn extents_behind(volume: VolumeId, object: ObjectId, offset: u64) -> KeyRange {
        KeyRange::domain(volume, object, Domain::Extent, &(offset.saturating_add(1)).to_be_bytes(), None)
    }

    /// All extended attributes of an object.
    pub fn xattrs(volume: VolumeId, object: ObjectId) -> KeyRange {
        KeyRange::domain(volume, object, Domain::Xattr, &[], None)
    }

    /// All orphans of a volume from `object` on.
    pub fn orphans_from(volume: VolumeId, object: ObjectId) -> KeyRange {
        KeyRange::domain(volume, ObjectId::VOLUME, Domain::Orphan, &object.0.to_be_bytes(), None)
    }

    /// Who made the commits of a volume from `first` to `last`, both included.
    pub fn commits(volume: VolumeId, first: Tid, last: Tid) -> KeyRange {
        let to = last.0.checked_add(1).map(u64::to_be_bytes);
        let to = to.as_ref().map(|to| &to[..]);
        KeyRange::domain(volume, ObjectId::VOLUME, Domain::Commit, &first.0.to_be_bytes(), to)
    }

    /// The object, if all keys of the range are filed under one.
    pub fn of_object(&self) -> Option<(VolumeId, ObjectId)> {
        let (first, rest) = self.start.split_first_chunk::<4>()?;
        let object = rest.first_chunk::<8>()?;
        let (volume, object) = (VolumeId(u32::from_be_bytes(*first)), ObjectId(u64::from_be_bytes(*object)));
        (self.end <= KeyRange::object(volume, object).end).then_some((volume, object))
    }

    /// Is `key` in the range?
    pub fn contains(&self, key: &Key) -> bool {
        *self.start <= *key.as_bytes() && *key.as_bytes() < *self.end
    }

    /// Is there nothing that the range could hold?
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}..{})", self.start.escape_ascii(), self.end.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V: VolumeId = VolumeId(1);

    #[test]
    fn keys_and_ranges_move_between_volumes() {
        let (a, b) = (VolumeId(7), VolumeId(8));
        let key = Key::dirent(a, ObjectId(9), b"x");
        assert_eq!(key.in_volume(b), Key::dirent(b, ObjectId(9), b"x"));
        for range in [KeyRange::volume, |v| KeyRange::object(v, ObjectId(9)), |v| KeyRange::dirents(v, ObjectId(9))] {
            assert_eq!(range(a).in_volume(a, b), range(b));
            assert_eq!(range(b).in_volume(b, a), range(a));
        }
        assert_eq!(KeyRange::volume(a).within(&KeyRange::object(a, ObjectId(9))), KeyRange::object(a, ObjectId(9)));
        let objects = KeyRange::of_objects(a);
        assert!(objects.contains(&Key::attr(a, ObjectId::ROOT)) && !objects.contains(&Key::orphan(a, ObjectId(9))));
        assert!(!objects.contains(&Key::attr(b, ObjectId::ROOT)));
    }

    #[test]
    fn golden_bytes() {
        let prefix = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
        let with = |tail: &[u8]| [&prefix[..], tail].concat();
        let o = ObjectId(9);
        assert_eq!(Key::attr(V, o).as_bytes(), with(&[1]));
        assert_eq!(Key::extent(V, o, 0x0102).as_bytes(), with(&[3, 0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(Key::xattr(V, o, b"user.a").as_bytes(), with(b"\x04user.a\0"));
        assert_eq!(Key::target(V, o).as_bytes(), with(&[5]));
        assert_eq!(Key::dirent(V, o, b"a").as_bytes(), with(b"\x02\x0b\xbb\x17\xee\xec\xb4\xd2\x29a\0"));
        assert_eq!(Key::orphan(V, o).as_bytes(), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(Key::commit(V, Tid(9)).as_bytes(), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn ranges_hold_what_they_name() {
        let o = ObjectId(9);
        let names = KeyRange::dirents(V, o);
        assert!(names.contains(&Key::dirent(V, o, b"x")));
        assert!(!names.contains(&Key::attr(V, o)) && !names.contains(&Key::extent(V, o, 1)));
        assert!(!KeyRange::dirents_after(V, o, Cookie::of(b"x")).contains(&Key::dirent(V, o, b"x")));
        let behind = KeyRange::extents_behind(V, o, 10);
        assert!(!behind.contains(&Key::extent(V, o, 10)) && behind.contains(&Key::extent(V, o, 11)));
        let all = KeyRange::object(V, o);
        assert!(all.contains(&Key::attr(V, o)) && !all.contains(&Key::attr(V, ObjectId(10))));
        let last = ObjectId(u64::MAX);
        assert!(KeyRange::object(V, last).contains(&Key::dirent(V, last, b"x")));
        assert!(!KeyRange::object(V, last).contains(&Key::attr(VolumeId(2), ObjectId(0))));
        assert!(KeyRange::one(&Key::attr(V, o)).contains(&Key::attr(V, o)));
        assert!(KeyRange::orphans_from(V, o).contains(&Key::orphan(V, o)));
        assert!(!KeyRange::orphans_from(V, ObjectId(10)).contains(&Key::orphan(V, o)));
        let commits = KeyRange::commits(V, Tid(5), Tid(9));
        assert!(commits.contains(&Key::commit(V, Tid(5))) && commits.contains(&Key::commit(V, Tid(9))));
        assert!(!commits.contains(&Key::commit(V, Tid(4))) && !commits.contains(&Key::commit(V, Tid(10))));
        assert!(KeyRange::commits(V, Tid(5), Tid::MAX).contains(&Key::commit(V, Tid::MAX)));
        for of_one in [KeyRange::object(V, o), names, KeyRange::one(&Key::attr(V, o)), KeyRange::object(V, last)] {
            assert!(of_one.of_object().is_some_and(|(volume, object)| volume == V && (object == o || object == last)));
        }
        assert_eq!(KeyRange::objects(V, o, ObjectId(10)).of_object(), None);
        assert_eq!(KeyRange::volume(V).of_object(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(key) = Key::from_bytes(&bytes) {
                prop_assert_eq!(key.as_bytes(), &bytes[..]);
                let _ = format!("{key:?}");
            }
        }

        #[test]
        fn what_is_built_is_read_back(object in 0u64..u64::MAX, name in "[a-z]{1,20}", end in 1u64..) {
            let o = ObjectId(object);
            let key = Key::dirent(V, o, name.as_bytes());
            prop_assert_eq!(Key::from_bytes(key.as_bytes()), Ok(key.clone()));
            prop_assert_eq!(key.parts(), KeyParts::Dirent { cookie: Cookie::of(name.as_bytes()), name: name.as_bytes() });
            let extent = Key::extent(V, o, end);
            prop_assert_eq!(extent.parts(), KeyParts::Extent { end });
        }
    }
}
