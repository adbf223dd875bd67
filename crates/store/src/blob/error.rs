//! What can go wrong with blobs, and what to do about it.

use crate::disk::DiskError;
use gavel_types::BlobId;
use gavel_types::limits::BLOB_BYTES_MAX;

/// A blob that cannot be given or taken.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier failure left it open what is durable. Nothing was done; only opening the store again helps.
    #[error("the blob store stopped after an error and must be opened again: {cause}")]
    Stopped {
        /// The first failure.
        cause: String,
    },
    /// The blob was here, and what is left of it is not what was written.
    #[error("{file}: blob {id} at offset {offset} is damaged. Hint: fetch it from another replica and replace it")]
    Damaged {
        /// The blob.
        id: BlobId,
        /// The segment's file.
        file: String,
        /// Where, in bytes from the file's start.
        offset: u64,
    },
    /// An index that cannot be read, and neither could it be rebuilt.
    #[error("{file}: the index is damaged. Hint: remove it, and open the store again")]
    IndexDamaged {
        /// The index's file.
        file: String,
    },
    /// Written in a format that this program does not know.
    #[error("{file}: blob format {found}, and this program reads {known}. Hint: run the release that wrote it")]
    Version {
        /// The file.
        file: String,
        /// The version found.
        found: u32,
        /// The version that this program reads and writes.
        known: u32,
    },
    /// Larger than a blob may be. Nothing was done.
    #[error("blob {id} has {bytes} bytes, and at most {BLOB_BYTES_MAX} are taken")]
    TooLarge {
        /// The blob.
        id: BlobId,
        /// Its size.
        bytes: usize,
    },
}
