//! Bytes that know their name.

use crate::BlobId;

/// Bytes and the name that they have. Only [`Blob::of`] makes one, so the name need not be computed, or checked, once more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blob<B> {
    id: BlobId,
    bytes: B,
}

impl<B: AsRef<[u8]>> Blob<B> {
    /// Computes the name of these bytes.
    pub fn of(bytes: B) -> Blob<B> {
        Blob { id: BlobId::of(bytes.as_ref()), bytes }
    }

    /// The name.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// The bytes.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// How many there are.
    pub fn length(&self) -> usize {
        self.bytes.as_ref().len()
    }
}
