//! A mount's side of the cluster, as deterministic state machines: the door that a mount knocks at, one operation on its
//! way, and the session that ships what operations want committed.
//!
//! - [`tree`]: the trait between a mount and a node: operations in, answers out
//! - [`run`](mod@run): one operation on its way: evaluated, shipped, evaluated again until it has an answer
//! - [`session`]: the node's standing with the quorum: numbered requests, confirmed reads, object ids, orphans
//!
//! Invariants of a session (checked by [`Session::check_invariants`]):
//! 1. Requests that have no outcome are numbered without gaps, and are sent again until they have one.
//! 2. An outcome is given once; a request of a session that has ended is given as lost only when it can never be applied.
//! 3. A read is confirmed only by a round that began after the read asked for it.

pub mod run;
pub mod session;
pub mod tree;

pub use run::{Blobs, Run, Step};
pub use session::{Session, SessionEffect, Token};
pub use tree::{Answer, Answered, Forget, Keep, Kept, Space, Tree, TreeError, TreeRequest};
