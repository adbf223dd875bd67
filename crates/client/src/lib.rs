//! A mount's side of the cluster, as deterministic state machines: the door that a mount knocks at, one operation on its
//! way, and the session that ships what operations want committed.
//!
//! - [`tree`]: the trait between a mount and a node: operations in, answers out
//! - [`run`](mod@run): one operation on its way: evaluated, shipped, evaluated again until it has an answer
//! - [`leased`]: reads that are answered under leases
//! - [`past`]: reads of past states
//! - [`remote`]: operations of a client without a replica
//! - [`transaction`]: many operations that become one commit, or nothing
//! - [`session`]: the node's standing with the quorum: numbered requests, confirmed reads, object ids, orphans
//! - [`behind`]: changes that are answered under exclusive leases
//! - [`pending`]: what was answered so, until the log has it
//! - [`offers`]: what was lost of that with a session is offered again
//! - `once`: a view that is asked once for each record
//! - [`leases`]: what the node may answer for without asking, and how that is taken from it
//! - [`locks`]: locks of this node's programs on their way
//! - `landing`: who is told when all has landed that was answered
//! - `own_writes`: the node's own commits, which it must not answer for until its replica has them
//!
//! Invariants of a session (checked by [`Session::check_invariants`]):
//! 1. Requests that have no outcome are numbered without gaps, and are sent again until they have one.
//! 2. An outcome is given once; a request of a session that has ended is given as lost only when it can never be applied.
//! 3. A read is confirmed only by a round that began after the read asked for it.

pub mod behind;
mod landing;
pub mod leased;
pub mod leases;
pub mod locks;
pub mod offers;
mod once;
mod own_writes;
pub mod past;
pub mod pending;
pub mod remote;
pub mod run;
pub mod session;
pub mod transaction;
pub mod tree;

pub use behind::{Behind, Taken};
pub use leased::{Leased, LookUp};
pub use leases::{ToForget, Usable, What};
pub use locks::{LockAnswer, LockCall};
pub use offers::{Collision, OfferEffect, Offers};
pub use pending::{Asked, Batch, LostPlan, Pending};
pub use run::{Blobs, Run, Step};
pub use session::{LostBecause, Session, SessionEffect, Token};
pub use transaction::{Stepped, Transaction};
pub use tree::{Answer, Answered, Forget, Keep, Kept, LockError, LockId, NoState, Space, Tree, TreeError, TreeRequest};
