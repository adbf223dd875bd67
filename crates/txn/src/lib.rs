//! The commit rule: what the replicated log's entries do to the replicated state.
//!
//! [`apply()`] is a pure function of the state, the live records and one entry, so all replicas that apply the same
//! log hold the same state, byte for byte; [`digest`] proves it. There is one way to change a record, and it is here.
//!
//! What this room is not: it orders nothing (see `gavel-quorum`) and stores nothing (see `gavel-store`): it says what is to
//! be stored.
//!
//! - [`state`]: sessions, counters and digest: the replicated state that is not records
//! - [`apply`](mod@apply): one entry, item by item; the commit rule
//! - [`expand`]: what a plan's mutations mean for the records as they are
//! - `locks`: requests for locks
//! - [`past`]: which past states can be read, and their names
//! - [`prune`]: what pruning removes; [`prune_step`]: one step of a sweep
//! - [`collect`]: blobs that nothing names any more
//! - [`staged`]: objects that were written before the commit that ties them in
//! - [`volumes`]: volumes that are made, cloned, destroyed; `clones`: what a transaction does to a clone
//! - [`mirrors`]: volumes that copy another cluster's; [`followers`]: other clusters' that copy one of this
//! - `volume_step`: one step of a sweep over a whole volume
//! - [`overlay`]: a view with changes laid over it
//! - [`layer`]: the same, of a node's own transactions that are not in the log yet
//! - [`digest`]: a running digest of everything that ever changed
//!
//! Invariants (checked by [`State::check_invariants`] and by the tests):
//! 1. Tids only grow: every item that applies has a Tid above all before it.
//! 2. A session's requests apply in the order of their numbers, without gaps, once.
//! 3. A request applies whole or not at all.
//! 4. One commit makes at most one version of a key.
//! 5. Extents of a file do not overlap, and its `allocated` is the sum of their lengths.
//! 6. An object that has no names (no links) has an orphan's mark, and the other way round.
//! 7. An orphan's holders are open sessions.
//! 8. The digest of the records is the sum over the rows of their change index.
//! 9. One entry ends [`REAP_RECORDS_MAX`](apply::REAP_RECORDS_MAX) records of orphans and abandoned groups at most.
//! 10. Every group of staged objects is of an open session, or abandoned; no two have an object in common.

pub mod apply;
mod clones;
pub mod collect;
pub mod digest;
pub mod expand;
pub mod followers;
pub mod layer;
mod locks;
pub mod mirrors;
pub mod overlay;
pub mod past;
pub mod prune;
pub mod prune_step;
pub mod staged;
pub mod state;
mod volume_step;
pub mod volumes;

pub use apply::{Applied, apply};
pub use collect::Collection;
pub use digest::Digest;
pub use followers::Follower;
pub use layer::{Layer, Layered};
pub use mirrors::{Former, Lineage, Mirror};
pub use overlay::Overlay;
pub use past::{Past, Scheduled, Snapshot, VolumePast};
pub use staged::Staged;
pub use state::{Session, State, VolumeCounts};
pub use volumes::Stage;
