//! What volumes are called, and where clones come from. `docs/protocols/volumes.md` has the whole of it.

use crate::at::is_snapshot_name;
use crate::{ClusterId, Tid, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An extended attribute that everything in a mount has and no listing shows: which volume it is, or which transaction, and the socket of the daemon behind it.
pub const CONTROL_XATTR: &str = "system.gavel.control";
/// What the volume is called that every cluster starts with.
pub const FIRST_NAME: &str = "main";

/// May a volume have this name? As a snapshot's: it looks like no number.
pub fn is_volume_name(name: &str) -> bool {
    is_snapshot_name(name)
}

/// Where a clone comes from: it begins with what a volume shows as of a Tid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The volume.
    pub volume: VolumeId,
    /// The state of it.
    pub at: Tid,
}

/// The volume that a mirror copies. A number is never given to another volume, so the three name one for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MirrorSource {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number there.
    pub volume: VolumeId,
    /// When it was made.
    pub made: Tid,
}

/// What people write for a volume: its name, or its number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VolumeRef {
    /// Its number.
    Number(VolumeId),
    /// Its name.
    Name(Box<str>),
}

/// A text that names no volume.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} is neither a volume's name (a letter or `_`, then letters, digits, `-`, `_` and `.`, 64 bytes at most) nor its number (1 or more)"
)]
pub struct VolumeRefError {
    /// The text.
    pub text: String,
}

impl VolumeRef {
    /// The number, if it is one.
    pub fn number(&self) -> Option<VolumeId> {
        match self {
            VolumeRef::Number(number) => Some(*number),
            VolumeRef::Name(_) => None,
        }
    }
}

impl FromStr for VolumeRef {
    type Err = VolumeRefError;

    fn from_str(text: &str) -> Result<VolumeRef, VolumeRefError> {
        if is_volume_name(text) {
            return Ok(VolumeRef::Name(text.into()));
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: Option<u32> = digits.then(|| text.parse().ok()).flatten();
        match number {
            Some(number) if number > 0 => Ok(VolumeRef::Number(VolumeId(number))),
            _ => Err(VolumeRefError { text: text.into() }),
        }
    }
}

impl TryFrom<String> for VolumeRef {
    type Error = VolumeRefError;

    fn try_from(text: String) -> Result<VolumeRef, VolumeRefError> {
        text.parse()
    }
}

impl From<VolumeRef> for String {
    fn from(volume: VolumeRef) -> String {
        volume.to_string()
    }
}

impl From<VolumeId> for VolumeRef {
    fn from(volume: VolumeId) -> VolumeRef {
        VolumeRef::Number(volume)
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VolumeRef::Number(number) => write!(f, "{number}"),
            VolumeRef::Name(name) => write!(f, "{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_told_apart() {
        let read = |text: &str| text.parse::<VolumeRef>();
        assert_eq!(read("main"), Ok(VolumeRef::Name("main".into())));
        assert_eq!(read("_1.2-x"), Ok(VolumeRef::Name("_1.2-x".into())));
        assert_eq!(read("7"), Ok(VolumeRef::Number(VolumeId(7))));
        for text in ["", "0", "-1", "+1", "1a", "a/b", "a b", "4294967296", &"x".repeat(65)] {
            assert_eq!(read(text), Err(VolumeRefError { text: text.into() }));
        }
        assert!(is_volume_name(FIRST_NAME));
        for text in ["main", "12"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }
}
