//! What a name of an entry, and a symlink's target, may be.

use crate::FsError;
use gavel_types::limits::{NAME_BYTES_MAX, TARGET_BYTES_MAX};

/// Is `name` a single component that an entry can have?
///
/// # Errors
/// [`FsError::Invalid`] for an empty name, `.`, `..`, and names with a slash or a NUL; [`FsError::NameTooLong`].
pub fn check(name: &[u8]) -> Result<(), FsError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// Can a symlink point to `target`?
///
/// # Errors
/// [`FsError::NotFound`] for an empty target (as `symlink(2)` has it), [`FsError::NameTooLong`],
/// [`FsError::Invalid`] if there is a NUL in it.
pub fn check_target(target: &[u8]) -> Result<(), FsError> {
    match target {
        [] => Err(FsError::NotFound),
        _ if target.len() > TARGET_BYTES_MAX => Err(FsError::NameTooLong),
        _ if target.contains(&0) => Err(FsError::Invalid),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_components() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert_eq!(check(bad), Err(FsError::Invalid), "{}", bad.escape_ascii());
        }
        for good in [&b"..."[..], b".a", b" ", b"\xff\n", &[b'x'; NAME_BYTES_MAX]] {
            assert_eq!(check(good), Ok(()));
        }
        assert_eq!(check(&[b'x'; NAME_BYTES_MAX + 1]), Err(FsError::NameTooLong));
    }

    #[test]
    fn targets_are_any_path() {
        assert_eq!(check_target(b""), Err(FsError::NotFound));
        assert_eq!(check_target(b"a\0"), Err(FsError::Invalid));
        assert_eq!(check_target(&[b'x'; TARGET_BYTES_MAX + 1]), Err(FsError::NameTooLong));
        assert_eq!(check_target(&[b'x'; TARGET_BYTES_MAX]), Ok(()));
        assert_eq!(check_target(b"../a/./b"), Ok(()));
    }
}
