//! Filesystem operations as pure functions over a view.
//!
//! `run(view, cx, operation)` reads the view and gives a [`Done`] (a plan with its guards, and a reply), or a
//! [`Stop`]: an error that the caller of the system call must see, or something that must be fetched before the
//! operation is run again from the start. An operation never waits and does no I/O. The same function serves the
//! live tree, a user's transaction and a read of the past; only the view differs.
//!
//! What this room is not: it knows no kernel (errno is made in the mount), no session, no blob's bytes (a write is
//! given its content as inline bytes or a stored blob's name; a read answers with pieces), and no clock (times are
//! [`gavel_types::Timestamp::COMMIT`], replaced when the plan is applied).
//!
//! - [`operation`]: what can be asked for, and the answers
//! - [`error`]: why not
//! - [`ops`]: one file for each operation, and the one function that runs them
//! - [`revert`]: makes a path what it was; [`reclass`]: changes how long the past of a tree is kept
//! - [`acl`]: POSIX access control lists: their form, and how they and the mode bits follow each other
//! - `name`: what a name may be; `privileges`: what a change of a file takes away
//! - `tree`: guarded reads; `extents`: walks over a file's extents; `changes`: plans in the making
//!
//! Invariants:
//! 1. A reply that follows from a read is covered by a guard, unless its documentation says that it may be newer.
//! 2. A directory's `nlink` is 2 plus its subdirectories, its `size` the number of its names.
//! 3. Every object but the root has as many names as `nlink` says (directories: one name), or is an orphan.
//! 4. No extent lies behind a file's size, unless allocated there with "keep size"; extents never overlap.

pub mod acl;
pub mod error;
pub mod operation;
pub mod ops;
pub mod reclass;
pub mod revert;

mod changes;
mod extents;
mod name;
mod privileges;
mod tree;

pub use error::{FsError, Stop};
pub use operation::{Caller, Cx, Done, Operation, Reply};
pub use ops::{attempt, attempt_to_ship, run};
pub use reclass::{Reclass, Reclassing};
pub use revert::{Revert, Reverted, Reverting};
