//! Questions about the past of a volume, as pure functions over [`Past`](gavel_wire::Past): what became of a path, what transactions did, how two
//! states differ, what makes a path what it was. `docs/protocols/history.md` has the whole of it.
//!
//! - [`undo`]: which state an undo goes back to
//! - [`walk`]: from paths to objects, as of a state
//! - [`find`]: from paths to what had them, whether it is there or not
//! - [`names`]: from objects back to paths
//! - [`transaction`]: what one transaction did
//! - [`staged`]: what was written before its commit is told as done by it
//! - [`history`]: what became of a path; what was removed from a directory
//! - [`log`]: transactions, newest first or as they come
//! - [`diff`]: how two states differ; [`compare`]: how two objects do; [`patch`]: how two texts do
//! - [`text`]: paths as text
//!
//! Invariants:
//! 1. Nothing here writes, waits or asks anybody.
//! 2. Nothing is read into memory that grows with the number of files, unless it is the answer; each answer has a named limit.
//! 3. Nothing of an object that a name leads to changes without its attributes: [`history`], [`names`] and [`compare`] rely on that, and the tests of this room look at every
//!    change row for it.

pub mod compare;
pub mod diff;
pub mod find;
pub mod history;
pub mod log;
pub mod names;
pub mod patch;
pub mod staged;
pub mod text;
pub mod transaction;
pub mod undo;
pub mod walk;

pub use find::{Had, HistoryError, find};
pub use history::{History, HistoryLine, RemovedLine, history, removed};
pub use log::{LogLine, LogPage, Scope, Sign};
pub use walk::{Place, WalkError, walk};
