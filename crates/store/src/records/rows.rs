//! Bytes of the rows: tables by key prefix, over the one key space of the engine. See `docs/formats/records.md`.

use super::RecordsError;
use gavel_types::key::KEY_BYTES_MAX;
use gavel_types::{BlobId, ClusterId, Key, KeyRange, NodeId, ObjectId, Tid, VolumeId};
use gavel_wire::Version;
use std::ops::Deref;

/// Layout of all rows below. It changes when the meaning of any of their bytes changes.
pub const RECORDS_LAYOUT: u32 = 3;

/// Newest versions: prefix, key.
pub(super) const LIVE: u8 = b'L';
/// Versions that ended: prefix, key, delete Tid.
pub(super) const HISTORY: u8 = b'H';
/// What each transaction changed: prefix, Tid, key. The value is [`MADE`] or [`ENDED`].
pub(super) const CHANGE: u8 = b'C';
/// Which versions name a blob: prefix, blob (32 bytes), key, create Tid. The value is empty.
pub(super) const BLOB: u8 = b'B';
/// Which names an object has had: prefix, volume, object, the rest of the name's key, create Tid. The value is empty.
pub(super) const PLACE: u8 = b'P';
/// Facts about the store.
const META: u8 = b'M';

const TID_BYTES: usize = 8;
const BLOB_ID_BYTES: usize = 32;
const VOLUME_BYTES: usize = 4;
const OBJECT_BYTES: usize = 8;

/// The transaction made a version (and may have ended one).
const MADE: u8 = 1;
/// The transaction ended a version, and made none. Told apart on disk, so that a version that is lost is not taken for
/// one that was deleted.
const ENDED: u8 = 0;

/// One row of the change index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Indexed {
    pub(super) tid: Tid,
    pub(super) key: Key,
    /// Did the transaction make a version of the key? If not, it only ended one.
    pub(super) made: bool,
}

/// The row that holds [`RECORDS_LAYOUT`], big endian.
pub(super) fn layout() -> Vec<u8> {
    vec![META, 0]
}

/// The row that holds cluster (16 bytes) and node (8, big endian).
pub(super) fn identity() -> Vec<u8> {
    vec![META, 1]
}

/// The row that holds the owner's state as of the cut.
pub(super) fn state() -> Vec<u8> {
    vec![META, 2]
}

pub(super) fn identity_value(cluster: ClusterId, node: NodeId) -> Vec<u8> {
    [&cluster.0[..], &node.0.to_be_bytes()].concat()
}

pub(super) fn parse_identity(value: &[u8]) -> Option<(ClusterId, NodeId)> {
    let (cluster, node) = value.split_at_checked(16)?;
    Some((ClusterId(cluster.try_into().ok()?), NodeId(u64::from_be_bytes(node.try_into().ok()?))))
}

/// The key of a row.
pub(super) struct RowKey {
    len: u16,
    bytes: [u8; ROW_KEY_BYTES_MAX],
}

/// The longest: a blob, a record's key, a Tid.
const ROW_KEY_BYTES_MAX: usize = 1 + BLOB_ID_BYTES + KEY_BYTES_MAX + TID_BYTES;

impl RowKey {
    fn of<const N: usize>(parts: [&[u8]; N]) -> RowKey {
        let (mut bytes, mut at) = ([0; ROW_KEY_BYTES_MAX], 0);
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        RowKey { len: at as u16, bytes }
    }
}

impl Deref for RowKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

pub(super) fn live(key: &Key) -> RowKey {
    RowKey::of([&[LIVE], key.as_bytes()])
}

pub(super) fn history(key: &Key, delete: Tid) -> RowKey {
    RowKey::of([&[HISTORY], key.as_bytes(), &delete.0.to_be_bytes()])
}

/// The first row of `key` in history that ended after `at`, if it exists, and where the key's rows end.
pub(super) fn history_after(key: &Key, at: Tid) -> (Vec<u8>, Vec<u8>) {
    // No key is a prefix of another one, so the key with a byte more than a Tid takes is behind all its rows.
    let end = [&history(key, Tid::MAX)[..], &[0]].concat();
    let start = match at.0.checked_add(1) {
        Some(next) => history(key, Tid(next)).to_vec(),
        None => end.clone(),
    };
    (start, end)
}

pub(super) fn change(tid: Tid, key: &Key) -> RowKey {
    RowKey::of([&[CHANGE], &tid.0.to_be_bytes(), key.as_bytes()])
}

pub(super) fn change_value(made: bool) -> [u8; 1] {
    [if made { MADE } else { ENDED }]
}

/// The rows of all changes after `after`, up to and with `upto`.
pub(super) fn changes_between(after: Tid, upto: Tid) -> (Vec<u8>, Vec<u8>) {
    let from = |tid: Tid| match tid.0.checked_add(1) {
        Some(next) => prefixed(CHANGE, &next.to_be_bytes()),
        None => vec![CHANGE + 1],
    };
    (from(after), from(upto))
}

/// The rows of the changes that one transaction made of the keys in `range`.
pub(super) fn changes_within(tid: Tid, range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let bound = |bytes: &[u8]| [&[CHANGE], &tid.0.to_be_bytes()[..], bytes].concat();
    (bound(&range.start), bound(&range.end))
}

/// The row that says that the version of `key` which `create` made names `blob`.
pub(super) fn name(blob: BlobId, key: &Key, create: Tid) -> RowKey {
    RowKey::of([&[BLOB], &blob.0, key.as_bytes(), &create.0.to_be_bytes()])
}

/// The rows of all versions that name `blob`.
pub(super) fn names_of(blob: BlobId) -> (Vec<u8>, Vec<u8>) {
    let start = prefixed(BLOB, &blob.0);
    let mut end = start.clone();
    // The next name, in the order of bytes; behind the last one, the next table.
    for byte in end.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte > 0 {
            break;
        }
    }
    (start, end)
}

/// The row that says that the version of the name `key` which `create` made is one of `object`.
pub(super) fn place(object: ObjectId, key: &Key, create: Tid) -> RowKey {
    let (volume, rest) = key.as_bytes().split_at(VOLUME_BYTES);
    RowKey::of([&[PLACE], volume, &object.0.to_be_bytes(), rest, &create.0.to_be_bytes()])
}

/// The rows of all names of an object.
pub(super) fn places_of(volume: VolumeId, object: ObjectId) -> (Vec<u8>, Vec<u8>) {
    let range = KeyRange::object(volume, object);
    (prefixed(PLACE, &range.start), prefixed(PLACE, &range.end))
}

/// The live rows of the keys in `range`.
pub(super) fn live_within(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    (prefixed(LIVE, &range.start), prefixed(LIVE, &range.end))
}

/// A run of history rows that holds those of all keys in `range`, and may begin with some of a key before it.
///
/// A range may end in the middle of a key's rows: `key ++ 0` is behind the key, and before most of `key ++ Tid`. One
/// key at most is a prefix of the end, for no key is a prefix of another.
pub(super) fn history_within(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let end = prefixed(HISTORY, &range.end);
    let cut = (1..range.end.len()).find_map(|len| Key::from_bytes(&range.end[..len]).ok());
    let end = match cut {
        Some(key) => end.max(history_after(&key, Tid::MAX).1),
        None => end,
    };
    (prefixed(HISTORY, &range.start), end)
}

/// All rows of a table.
pub(super) fn table(table: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![table], vec![table + 1])
}

fn prefixed(table: u8, bytes: &[u8]) -> Vec<u8> {
    [&[table], bytes].concat()
}

/// The key of a live row.
pub(super) fn parse_live(row: &[u8]) -> Result<Key, RecordsError> {
    let key = row.strip_prefix(&[LIVE]).and_then(|key| Key::from_bytes(key).ok());
    key.ok_or_else(|| unreadable("live row", row))
}

/// Key and delete Tid of a history row.
pub(super) fn parse_history(row: &[u8]) -> Result<(Key, Tid), RecordsError> {
    let parse = || {
        let rest = row.strip_prefix(&[HISTORY])?;
        let (key, tid) = rest.split_at_checked(rest.len().checked_sub(TID_BYTES)?)?;
        Some((Key::from_bytes(key).ok()?, Tid(u64::from_be_bytes(tid.try_into().ok()?))))
    };
    parse().ok_or_else(|| unreadable("history row", row))
}

/// A row of the change index.
pub(super) fn parse_change(row: &[u8], value: &[u8]) -> Result<Indexed, RecordsError> {
    let parse = || {
        let (tid, key) = row.strip_prefix(&[CHANGE])?.split_at_checked(TID_BYTES)?;
        let made = match value {
            [MADE] => true,
            [ENDED] => false,
            _ => return None,
        };
        Some(Indexed { tid: Tid(u64::from_be_bytes(tid.try_into().ok()?)), key: Key::from_bytes(key).ok()?, made })
    };
    parse().ok_or_else(|| unreadable("change row", row))
}

/// A row that says that a version names a blob: the blob, the record, and the transaction that made the version.
pub(super) fn parse_name(row: &[u8]) -> Result<(BlobId, Key, Tid), RecordsError> {
    let parse = || {
        let (blob, rest) = row.strip_prefix(&[BLOB])?.split_at_checked(BLOB_ID_BYTES)?;
        let (key, tid) = rest.split_at_checked(rest.len().checked_sub(TID_BYTES)?)?;
        let tid = Tid(u64::from_be_bytes(tid.try_into().ok()?));
        Some((BlobId(blob.try_into().ok()?), Key::from_bytes(key).ok()?, tid))
    };
    parse().ok_or_else(|| unreadable("row of a blob's name", row))
}

/// A row that says that a version is a name of an object: the object, the record, and the transaction that made the version.
pub(super) fn parse_place(row: &[u8]) -> Result<(ObjectId, Key, Tid), RecordsError> {
    let parse = || {
        let (volume, rest) = row.strip_prefix(&[PLACE])?.split_at_checked(VOLUME_BYTES)?;
        let (object, rest) = rest.split_at_checked(OBJECT_BYTES)?;
        let (key, tid) = rest.split_at_checked(rest.len().checked_sub(TID_BYTES)?)?;
        let key = Key::from_bytes(&[volume, key].concat()).ok()?;
        let tid = Tid(u64::from_be_bytes(tid.try_into().ok()?));
        Some((ObjectId(u64::from_be_bytes(object.try_into().ok()?)), key, tid))
    };
    parse().ok_or_else(|| unreadable("row of an object's name", row))
}

/// The version in a live or history row.
pub(super) fn parse_version(key: &Key, value: &[u8]) -> Result<Version, RecordsError> {
    Version::decode(value).map_err(|e| RecordsError::Damaged { what: format!("{key:?} ({e})") })
}

fn unreadable(what: &str, row: &[u8]) -> RecordsError {
    RecordsError::Damaged { what: format!("{what} {}", row.escape_ascii()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::{ObjectId, VolumeId};

    const V: VolumeId = VolumeId(1);

    #[test]
    fn golden_bytes() {
        let key = Key::attr(V, ObjectId(9));
        let k = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1];
        let t = [0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(*live(&key), [b"L", &k[..]].concat());
        assert_eq!(*history(&key, Tid(0x0102)), [b"H", &k[..], &t].concat());
        assert_eq!(*change(Tid(0x0102), &key), [b"C", &t[..], &k].concat());
        let blob = BlobId([5; 32]);
        assert_eq!(*name(blob, &key, Tid(0x0102)), [b"B", &[5; 32][..], &k, &t].concat());
        assert_eq!(names_of(blob), ([b"B", &[5; 32][..]].concat(), [b"B", &[5; 31][..], &[6]].concat()));
        assert_eq!(names_of(BlobId([255; 32])).1, [b"C", &[0; 32][..]].concat());
        let named = place(ObjectId(0x0304), &key, Tid(0x0102));
        assert_eq!(*named, [b"P", &k[..4], &[0, 0, 0, 0, 0, 0, 3, 4], &k[4..], &t].concat());
        assert_eq!([change_value(false), change_value(true)], [[0], [1]]);
        assert_eq!([layout(), identity(), state()], [b"M\x00", b"M\x01", b"M\x02"]);
        let id = identity_value(ClusterId([7; 16]), NodeId(0x0102));
        assert_eq!(id, [&[7; 16][..], &t].concat());
        assert_eq!(parse_identity(&id), Some((ClusterId([7; 16]), NodeId(0x0102))));
        assert_eq!(RECORDS_LAYOUT, 3, "a new layout needs new golden bytes, and a way to open the old one");
    }

    #[test]
    fn rows_are_read_back_and_others_refused() {
        for key in [Key::attr(V, ObjectId(9)), Key::dirent(V, ObjectId(9), b"x"), Key::extent(V, ObjectId(9), 5)] {
            assert_eq!(parse_live(&live(&key)), Ok(key.clone()));
            assert_eq!(parse_history(&history(&key, Tid(5))), Ok((key.clone(), Tid(5))));
            assert_eq!(parse_name(&name(BlobId([9; 32]), &key, Tid(5))), Ok((BlobId([9; 32]), key.clone(), Tid(5))));
            let (start, end) = places_of(V, ObjectId(8));
            let row = place(ObjectId(8), &key, Tid(5)).to_vec();
            assert!(start <= row && row < end && place(ObjectId(9), &key, Tid(5))[..] >= end[..]);
            assert_eq!(parse_place(&row), Ok((ObjectId(8), key.clone(), Tid(5))));
            for made in [false, true] {
                let indexed = Indexed { tid: Tid(5), key: key.clone(), made };
                assert_eq!(parse_change(&change(Tid(5), &key), &change_value(made)), Ok(indexed));
            }
            assert!(parse_change(&change(Tid(5), &key), &[2]).is_err());
            assert!(parse_change(&change(Tid(5), &key), &[]).is_err());
        }
        for row in [&b""[..], b"L", b"H", b"C", b"C1234567", b"H1234567", b"Lx", b"X", b"B", b"B12345678"] {
            assert!(parse_name(row).is_err() && parse_place(row).is_err());
            assert!(parse_live(row).is_err() && parse_history(row).is_err() && parse_change(row, &[MADE]).is_err());
        }
    }

    #[test]
    fn history_of_a_key_is_contiguous() {
        let a = Key::dirent(V, ObjectId(9), b"x");
        let (start, end) = history_after(&a, Tid(5));
        let row = |tid: Tid| history(&a, tid).to_vec();
        assert!(row(Tid(5)) < start && start <= row(Tid(6)));
        assert!(row(Tid::MAX) < end);
        let one = KeyRange::one(&a);
        let (from, to) = history_within(&one);
        assert!(from <= row(Tid::ZERO) && row(Tid::MAX) < to, "a range of one key has all its rows");
        let behind = KeyRange { start: one.end, end: KeyRange::dirents(V, ObjectId(9)).end };
        assert!(history_within(&behind).0 < row(Tid(5)), "so the caller compares keys too");
    }
}
