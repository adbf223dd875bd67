//! Ids, keys, times and limits: the nouns that every room shares.
//!
//! This room holds plain values and their order. It knows no record, no message and no I/O.
//!
//! - [`as_bytes`]: how bytes are encoded
//! - [`at`]: names for states of the past
//! - [`blob`]: bytes that know their name
//! - [`ids`]: transaction ids, object ids, node ids, ... each its own type, none reused in the life of a cluster
//! - [`key`]: the one ordered key space of records, as order-preserving bytes
//! - [`time`]: timestamps of files, and the injected monotonic clock of the state machines
//! - [`retention`]: which past states of a volume stay, by their age
//! - [`schedule`]: which states get names by themselves
//! - [`selection`]: which part of a volume a mirror or a backup has
//! - [`limits`]: every bound that more than one room must agree on
//!
//! Invariants:
//! 1. The byte order of [`Key`] is the order of `(volume, object, domain, sub)`.
//! 2. No key is a prefix of another key.

pub mod as_bytes;
pub mod at;
pub mod blob;
pub mod ids;
pub mod key;
pub mod limits;
pub mod retention;
pub mod schedule;
pub mod selection;
pub mod time;
pub mod volume;

pub use at::At;
pub use blob::Blob;
pub use ids::{BlobId, ClusterId, LogIndex, NodeId, ObjectId, Seq, SessionId, Term, Tid, VolumeId};
pub use key::{Cookie, Domain, Key, KeyError, KeyParts, KeyRange};
pub use retention::{Class, Retention};
pub use schedule::Schedule;
pub use selection::{Selection, SelectionError};
pub use time::{Moment, Timestamp};
pub use volume::{CONTROL_XATTR, MirrorSource, Origin, VolumeRef};
