//! Everything at rest on one node: records, the replicated log's segments, blobs.
//!
//! - [`disk`]: the narrow door to a directory of files; a real one, and one in memory that fails on purpose
//! - [`log`]: the replicated log's segment files
//! - [`blob`]: immutable blobs by content hash
//! - [`engine`]: an ordered map of bytes with atomic batches, snapshots and a durable cut; two of them
//! - [`records`]: live, history and change index over an engine
//!
//! What this room is not: it decides nothing about commits (see `gavel-txn`), and starts no thread: its owner says
//! when to sync, to flush and to compact.

pub mod blob;
pub mod disk;
pub mod engine;
pub mod log;
pub mod records;
