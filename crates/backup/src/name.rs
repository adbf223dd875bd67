//! How the files of a folder are called.
//!
//! | path | what |
//! |---|---|
//! | `gavel-backup` | the folder's own file |
//! | `backups/<Tid>` | a backup; 16 hexadecimal digits |
//! | `tree/<2 digits>/<62 digits>` | a node of a tree of rows; the digits are its hash, or stand for it |
//! | `blobs/<2 digits>/<62 digits>` | a blob, the same |

use gavel_types::Tid;
use std::fmt;

/// A kind of files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The folder's own file.
    Folder = 0,
    /// A backup.
    Backup = 1,
    /// A node of a tree of rows.
    Node = 2,
    /// A blob.
    Blob = 3,
}

/// The name of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Name {
    /// The folder's own file.
    Folder,
    /// A backup of this state.
    Backup(Tid),
    /// A node of a tree of rows.
    Node([u8; 32]),
    /// A blob.
    Blob([u8; 32]),
}

impl Name {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Name::Folder => Kind::Folder,
            Name::Backup(_) => Kind::Backup,
            Name::Node(_) => Kind::Node,
            Name::Blob(_) => Kind::Blob,
        }
    }

    /// The file at a path of the folder; none if no file is called so.
    pub fn of_path(path: &str) -> Option<Name> {
        let name = match path.split_once('/') {
            None => (path == "gavel-backup").then_some(Name::Folder)?,
            Some(("backups", digits)) if digits.len() == 16 => Name::Backup(Tid(u64::from_str_radix(digits, 16).ok()?)),
            Some(("tree", rest)) => Name::Node(hash_of(rest)?),
            Some(("blobs", rest)) => Name::Blob(hash_of(rest)?),
            Some(_) => return None,
        };
        // Digits have one form only.
        (name.to_string() == path).then_some(name)
    }
}

fn hash_of(rest: &str) -> Option<[u8; 32]> {
    let digits: String = rest.split('/').collect();
    digits.parse().ok().map(|id: gavel_types::BlobId| id.0)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (directory, hash) = match self {
            Name::Folder => return f.write_str("gavel-backup"),
            Name::Backup(tid) => return write!(f, "backups/{:016x}", tid.0),
            Name::Node(hash) => ("tree", hash),
            Name::Blob(hash) => ("blobs", hash),
        };
        write!(f, "{directory}/{:02x}/", hash[0])?;
        hash[1..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_and_back() {
        let hash = *blake3::hash(b"x").as_bytes();
        for name in [Name::Folder, Name::Backup(Tid(0x18c4)), Name::Node(hash), Name::Blob(hash)] {
            assert_eq!(Name::of_path(&name.to_string()), Some(name));
        }
        let upper = Name::Blob([0xab; 32]).to_string().to_uppercase();
        for path in ["", "x", "backups", "backups/18c4", "backups/+00000000000018c", "blobs/ab", &upper, "tree/ab/cd"] {
            assert_eq!(Name::of_path(path), None, "{path}");
        }
        let joined = Name::Blob([0xab; 32]).to_string().replacen("blobs/ab/", "blobs/ab", 1);
        assert_eq!(Name::of_path(&joined), None);
    }
}
