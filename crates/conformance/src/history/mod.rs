//! Is what programs on several mounts were answered what one filesystem could have answered, one call at a time, each at
//! some moment between its call and its return?
//!
//! What it is: a recorder of small random operations on a few shared files and directories, while nodes are killed and
//! stopped, and a checker of what it has recorded. (The simulator has a checker of its own; these tests know no crate of Gavel.)
//! What it is not: a test of what single operations do. It knows five kinds of object, and little of each.
//!
//! | module | what |
//! |---|---|
//! | [`record`] | what was asked and answered, when, on which node; the objects |
//! | [`model`] | what each kind of object may answer |
//! | [`search`] | looks for an order of calls that a model could have answered so |
//! | [`judge`] | which calls must have happened, which may have; a round's verdict, and its file |
//! | [`worker`] | makes calls on a mount and notes them |
//! | [`round`] | fresh objects, workers on all mounts, a fault, a last look from everywhere |
//!
//! **What is demanded.** A change that has returned is seen by every call that begins afterwards, on any mount. If it failed
//! with ETIMEDOUT, it never happens. If it failed with anything that says "unknown", or its daemon died meanwhile, it happens
//! at any time after its call, or never.
//!
//! **What is not.** A node whose daemon was killed, or whose session ended, may lose the last of what it acknowledged: what
//! returned after the call of its last successful fsync. Those changes may have happened or not, and what that node read of them
//! says nothing ([`judge::Fault`]); what it read of others' work counts, whatever happened to it. But what another node has seen was durable, so the search must still place it; and what is lost in a
//! death is a suffix ([`judge::lost_in_the_middle`]).

pub mod judge;
pub mod model;
pub mod record;
pub mod round;
pub mod search;
pub mod worker;
