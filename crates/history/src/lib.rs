//! Questions about the past of a volume, as pure functions over [`Past`](gavel_wire::Past): what became of a path, what transactions did, how two
//! states differ, what makes a path what it was. `docs/protocols/history.md` has the whole of it.
//!
//! - [`undo`]: which state an undo goes back to
//! - [`walk`]: from paths to objects, as of a state
//!
//! Nothing here writes, waits or asks anybody; nothing is read into memory that grows with the number of files, unless it is the answer.

pub mod undo;
pub mod walk;

pub use walk::{Place, WalkError, walk};
