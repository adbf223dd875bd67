//! Inputs that stand for several byte strings, such as the files of a directory: each behind its length, two bytes,
//! little-endian. Any input is such a sequence: a length that is too large means "all that is left".

const LENGTH_BYTES: usize = 2;

/// Joins byte strings, each of at most 65,535 bytes.
///
/// # Panics
/// If one is longer.
pub fn join<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        let length = u16::try_from(part.len()).expect("seeds are made short");
        joined.extend(length.to_le_bytes());
        joined.extend_from_slice(part);
    }
    joined
}

/// Takes joined byte strings apart again.
pub fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (part, behind) = behind.split_at(length);
        rest = behind;
        Some(part)
    })
}
