//! POSIX access control lists, in the kernel's form of extended attributes.
//!
//! The kernel enforces them; here they are checked, inherited, and kept in step with the mode bits. The rules are
//! those of `fs/posix_acl.c`: `posix_acl_valid`, `posix_acl_equiv_mode`, `posix_acl_create_masq`, `posix_acl_chmod`.
//!
//! | bytes | field (little endian) |
//! |---|---|
//! | 4 | version: 2 |
//! | 8 each | entry: tag (2), permissions (2), user or group (4; all ones where there is none) |

use crate::FsError;
use gavel_types::limits::XATTR_VALUE_BYTES_MAX;

/// The extended attribute that holds the ACL of an object, if it says more than the mode bits.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute that holds what objects made in a directory inherit.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// Most entries of an ACL: what fits into an extended attribute.
pub const ENTRIES_MAX: usize = (XATTR_VALUE_BYTES_MAX - HEADER_BYTES) / ENTRY_BYTES;
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about. The order is that of the entries in a list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Tag {
    UserObj,
    User,
    GroupObj,
    Group,
    Mask,
    Other,
}

impl Tag {
    fn from_number(number: u16) -> Option<Tag> {
        Some(match number {
            0x01 => Tag::UserObj,
            0x02 => Tag::User,
            0x04 => Tag::GroupObj,
            0x08 => Tag::Group,
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return None,
        })
    }

    fn number(self) -> u16 {
        match self {
            Tag::UserObj => 0x01,
            Tag::User => 0x02,
            Tag::GroupObj => 0x04,
            Tag::Group => 0x08,
            Tag::Mask => 0x10,
            Tag::Other => 0x20,
        }
    }

    fn names_somebody(self) -> bool {
        matches!(self, Tag::User | Tag::Group)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: Tag,
    permissions: u16,
    id: u32,
}

/// A valid access control list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl {
    /// One owner, users, one group, groups, at most one mask (one if there are users or groups), one for others.
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads the value of an extended attribute. `None` is the list without entries: it stands for "no ACL".
    ///
    /// # Errors
    /// [`FsError::NotSupported`] for another version, [`FsError::Invalid`] for anything else that is not a valid ACL.
    pub fn parse(value: &[u8]) -> Result<Option<Acl>, FsError> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, rest) = value.split_first_chunk().ok_or(FsError::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(FsError::NotSupported);
        }
        let (entries, left_over) = rest.as_chunks::<ENTRY_BYTES>();
        if !left_over.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(FsError::Invalid);
        }
        let entries = entries.iter().map(parse_entry).collect::<Result<Vec<Entry>, FsError>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        check(&entries)?;
        Ok(Some(Acl { entries }))
    }

    /// The value of the extended attribute.
    pub fn encode(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * self.entries.len());
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.tag.number().to_le_bytes());
            bytes.extend_from_slice(&entry.permissions.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes.into_boxed_slice()
    }

    fn permissions(&self, tag: Tag) -> Option<u16> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    fn set_permissions(&mut self, tag: Tag, permissions: u16) {
        for entry in self.entries.iter_mut().filter(|entry| entry.tag == tag) {
            entry.permissions = permissions;
        }
    }

    /// The entry that the group bits of the mode stand for.
    fn group_class(&self) -> Tag {
        if self.permissions(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj }
    }

    /// The nine mode bits that go with this ACL.
    pub fn mode_bits(&self) -> u16 {
        let bits = |tag| self.permissions(tag).unwrap_or(0);
        bits(Tag::UserObj) << 6 | bits(self.group_class()) << 3 | bits(Tag::Other)
    }

    /// Does it say no more than the mode bits?
    pub fn is_equivalent_to_mode(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.tag, Tag::UserObj | Tag::GroupObj | Tag::Other))
    }

    /// The ACL behind a chmod.
    pub fn with_mode(mut self, mode: u16) -> Acl {
        self.set_permissions(Tag::UserObj, mode >> 6 & 7);
        self.set_permissions(self.group_class(), mode >> 3 & 7);
        self.set_permissions(Tag::Other, mode & 7);
        self
    }

    /// What an object that is made with `mode` in a directory with this default ACL gets: its mode, and its access
    /// ACL if that says more.
    pub fn inherit(&self, mode: u16) -> (u16, Option<Acl>) {
        let granted = mode & !0o777 | mode & self.mode_bits();
        let acl = self.clone().with_mode(granted);
        (granted, if acl.is_equivalent_to_mode() { None } else { Some(acl) })
    }
}

fn parse_entry(bytes: &[u8; ENTRY_BYTES]) -> Result<Entry, FsError> {
    let [t0, t1, p0, p1, id @ ..] = *bytes;
    let tag = Tag::from_number(u16::from_le_bytes([t0, t1])).ok_or(FsError::Invalid)?;
    let permissions = u16::from_le_bytes([p0, p1]);
    let id = u32::from_le_bytes(id);
    if permissions > 7 || (tag.names_somebody() && id == NO_ID) {
        return Err(FsError::Invalid);
    }
    Ok(Entry { tag, permissions, id: if tag.names_somebody() { id } else { NO_ID } })
}

fn check(entries: &[Entry]) -> Result<(), FsError> {
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let named = entries.iter().any(|entry| entry.tag.names_somebody());
    let sound = entries.is_sorted_by_key(|entry| entry.tag)
        && [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|tag| count(tag) == 1)
        && (count(Tag::Mask) == 1 || count(Tag::Mask) == 0 && !named);
    if sound { Ok(()) } else { Err(FsError::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOBODY: u32 = NO_ID;

    fn bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::parse(&bytes(entries)).expect("valid").expect("not empty")
    }

    const MINIMAL: [(u16, u16, u32); 3] = [(1, 7, NOBODY), (4, 5, NOBODY), (0x20, 1, NOBODY)];
    const EXTENDED: [(u16, u16, u32); 5] =
        [(1, 6, NOBODY), (2, 7, 1000), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)];

    #[test]
    fn what_is_parsed_is_encoded_again() {
        for entries in [&MINIMAL[..], &EXTENDED] {
            assert_eq!(acl(entries).encode().to_vec(), bytes(entries));
        }
        assert_eq!(Acl::parse(&bytes(&[])), Ok(None));
        assert_eq!(Acl::parse(b""), Ok(None));
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let mut old = bytes(&MINIMAL);
        old[0] = 1;
        assert_eq!(Acl::parse(&old), Err(FsError::NotSupported));
        let mut odd = bytes(&MINIMAL);
        odd.push(0);
        let (user, group, other) = (MINIMAL[0], MINIMAL[1], MINIMAL[2]);
        let bad = [
            odd,
            vec![2, 0],
            bytes(&[user, group]),
            bytes(&[user, other, group]),
            bytes(&[user, user, group, other]),
            bytes(&[user, (2, 7, 1000), group, other]),
            bytes(&[user, (2, 7, NOBODY), group, (0x10, 7, NOBODY), other]),
            bytes(&[(1, 8, NOBODY), group, other]),
            bytes(&[user, group, (0x40, 0, NOBODY), other]),
        ];
        for value in bad {
            assert_eq!(Acl::parse(&value), Err(FsError::Invalid), "{value:?}");
        }
        let unsorted_users = [user, (2, 7, 9), (2, 7, 8), (2, 7, 8), group, (0x10, 7, NOBODY), other];
        assert!(Acl::parse(&bytes(&unsorted_users)).is_ok());
    }

    /// The numbers are those that ext4 gave (Linux 6.18).
    #[test]
    fn mode_and_acl_follow_each_other() {
        assert_eq!((acl(&MINIMAL).mode_bits(), acl(&MINIMAL).is_equivalent_to_mode()), (0o751, true));
        assert_eq!((acl(&EXTENDED).mode_bits(), acl(&EXTENDED).is_equivalent_to_mode()), (0o660, false));
        let after_chmod = [(1, 7, NOBODY), (2, 7, 1000), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 1, NOBODY)];
        assert_eq!(acl(&EXTENDED).with_mode(0o741), acl(&after_chmod));
    }

    /// The numbers are those that ext4 gave (Linux 6.18).
    #[test]
    fn inheritance_masks_with_the_mode_asked_for() {
        assert_eq!(acl(&MINIMAL).inherit(0o666), (0o640, None));
        let file = [(1, 6, NOBODY), (2, 7, 1000), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)];
        assert_eq!(acl(&EXTENDED).inherit(0o2644), (0o2640, Some(acl(&file))));
        assert_eq!(acl(&EXTENDED).inherit(0o777), (0o660, Some(acl(&EXTENDED))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_acl_or_refused(entries in proptest::collection::vec((0u16..64, 0u16..9, 0u32..3), 0..6)) {
            if let Ok(Some(acl)) = Acl::parse(&bytes(&entries)) {
                prop_assert_eq!(Acl::parse(&acl.encode()), Ok(Some(acl.clone())));
                let mode = acl.mode_bits();
                prop_assert_eq!(acl.clone().with_mode(mode), acl);
            }
        }
    }
}
