//! What a file is: a header, and what it holds, plain with a checksum or sealed. `docs/formats/backup.md` has the table.

use crate::error::BackupError;
use crate::name::{Kind, Name};
use crate::seal::{Keys, SALT_BYTES, TAG_BYTES};
use gavel_types::limits::BLOB_BYTES_MAX;

/// What each file begins with.
pub const MAGIC: [u8; 8] = *b"GAVELBAK";
/// The version behind it.
pub const VERSION: u8 = 2;
/// Longest content of a file, in bytes.
pub const CONTENT_BYTES_MAX: usize = BLOB_BYTES_MAX;
/// Longest file, in bytes.
pub const FILE_BYTES_MAX: usize = HEADER_BYTES + SALT_BYTES + CONTENT_BYTES_MAX + TAG_BYTES;

const HEADER_BYTES: usize = MAGIC.len() + 3;
const PLAIN: u8 = 0;
const SEALED: u8 = 1;

fn header(kind: Kind, sealed: bool) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..MAGIC.len()].copy_from_slice(&MAGIC);
    header[MAGIC.len()..].copy_from_slice(&[VERSION, kind as u8, if sealed { SEALED } else { PLAIN }]);
    header
}

/// What a file is known by beside its content: its header and its name.
fn about(header: &[u8; HEADER_BYTES], name: Name) -> Vec<u8> {
    [&header[..], name.to_string().as_bytes()].concat()
}

fn checksum(about: &[u8], content: &[u8]) -> [u8; TAG_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(about.len() as u64).to_be_bytes()).update(about).update(content);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// The bytes of a file.
///
/// # Panics
/// If the content is longer than [`CONTENT_BYTES_MAX`]: a programming error.
pub fn to_bytes(name: Name, keys: Option<&Keys>, content: &[u8]) -> Vec<u8> {
    assert!(content.len() <= CONTENT_BYTES_MAX, "a file of {} bytes", content.len());
    let header = header(name.kind(), keys.is_some());
    let about = about(&header, name);
    let mut bytes = Vec::with_capacity(content.len() + HEADER_BYTES + SALT_BYTES + TAG_BYTES);
    bytes.extend(header);
    match keys {
        Some(keys) => keys.seal(&about, content, &mut bytes),
        None => {
            bytes.extend(content);
            bytes.extend(checksum(&about, content));
        }
    }
    bytes
}

/// What a file holds.
///
/// # Errors
/// [`BackupError::Damaged`], [`BackupError::UnknownVersion`].
pub fn from_bytes(name: Name, keys: Option<&Keys>, bytes: &[u8]) -> Result<Vec<u8>, BackupError> {
    let damaged = |what| BackupError::Damaged { file: name, what };
    let (found, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(damaged("the file is truncated"))?;
    if found[..MAGIC.len()] != MAGIC {
        return Err(damaged("the file is damaged, or no file of a backup"));
    }
    if found[MAGIC.len()] != VERSION {
        return Err(BackupError::UnknownVersion { file: name, found: found[MAGIC.len()] });
    }
    if *found != header(name.kind(), keys.is_some()) {
        return Err(damaged("the file is damaged, or another one's content"));
    }
    if rest.len() > FILE_BYTES_MAX - HEADER_BYTES {
        return Err(damaged("the file is longer than a file can be"));
    }
    let about = about(found, name);
    match keys {
        Some(keys) => keys.open(&about, rest).ok_or(damaged("the file is damaged, or was not sealed with this key")),
        None => match rest.split_last_chunk::<TAG_BYTES>() {
            Some((content, tag)) if checksum(&about, content) == *tag => Ok(content.to_vec()),
            _ => Err(damaged("the file is damaged")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Tid;

    #[test]
    fn nothing_but_what_was_written_is_read() {
        let name = Name::Backup(Tid(7));
        for keys in [None, Some(Keys::new(b"secret", &[1; 16]))] {
            let bytes = to_bytes(name, keys.as_ref(), b"content");
            assert_eq!(from_bytes(name, keys.as_ref(), &bytes).expect("it was written"), b"content");
            assert!(from_bytes(Name::Backup(Tid(8)), keys.as_ref(), &bytes).is_err(), "under another name");
            for len in 0..bytes.len() {
                assert!(from_bytes(name, keys.as_ref(), &bytes[..len]).is_err(), "{len} bytes of it");
            }
            assert!(from_bytes(name, keys.as_ref(), &[&bytes[..], b"x"].concat()).is_err(), "with more behind it");
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(from_bytes(name, keys.as_ref(), &flipped).is_err(), "bit {bit}");
            }
        }
    }
}
