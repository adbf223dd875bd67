//! Bytes as one run instead of a sequence of numbers: the same encoding, without a step for each byte. For `#[serde(with = ...)]`.

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;
use std::fmt;

/// # Errors
/// As the serializer's.
pub fn serialize<T: AsRef<[u8]>, S: Serializer>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes.as_ref())
}

/// # Errors
/// As the deserializer's.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: for<'a> From<&'a [u8]>,
    D: Deserializer<'de>,
{
    parse(deserializer, |bytes| Ok::<T, &str>(bytes.into()))
}

/// What `parse` makes of the bytes, which are not copied before.
///
/// # Errors
/// As the deserializer's, and what `parse` refuses.
pub fn parse<'de, T, E, D>(deserializer: D, parse: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, D::Error>
where
    E: fmt::Display,
    D: Deserializer<'de>,
{
    deserializer.deserialize_bytes(Parse(parse))
}

struct Parse<F>(F);

impl<'de, T, E: fmt::Display, F: FnOnce(&[u8]) -> Result<T, E>> Visitor<'de> for Parse<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<D: Error>(self, bytes: &[u8]) -> Result<T, D> {
        (self.0)(bytes).map_err(D::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<T, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        self.visit_bytes(&bytes)
    }
}
