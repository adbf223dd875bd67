//! Transactions on a volume of Gavel, for programs: many changes that become visible at once, or none of them.
//!
//! What it is: a door to the daemon of this machine. A [`Transaction`] is the volume as it was when it began, with its own changes, as a directory: [`Transaction::dir`] has the
//! operations of `std::fs`, and [`Transaction::path`] is for programs that take paths. [`Transaction::commit`] makes all changes one transaction of the log, and gives its [`Tid`]; or
//! nothing is written, and [`Error::Collided`] says what others have changed of what it had read. What is dropped, or whose process dies, leaves nothing behind.
//! What it is not: it knows no log and no quorum, and has no filesystem of its own. `gavel txn` does the same for commands.
//!
//! ```no_run
//! use gavel_api::{Error, Volume};
//!
//! fn publish() -> Result<(), Error> {
//!     let volume = Volume::of("/srv/shared")?;
//!     let transaction = volume.begin("a new index")?;
//!     let dir = transaction.dir();
//!     dir.create_dir_all("index/2026")?;
//!     dir.write("index/2026/names", "...")?;
//!     dir.rename("index/2026", dir, "index/now")?;
//!     match transaction.commit() {
//!         Ok(tid) => println!("committed: {tid:?}"),
//!         Err(Error::Collided(conflict)) => println!("nothing was written: {conflict}"),
//!         Err(error) => return Err(error),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! What may collide can be tried again on the new state, with [`Volume::transact`].
//!
//! Invariants:
//! 1. A transaction ends at the latest with the connection that has begun it.
//! 2. Nothing done through [`Transaction::dir`] leaves the transaction: paths that lead out of it, by `..` or by symlinks, are refused.

mod connection;
mod error;
mod transaction;
mod volume;
pub mod wire;

pub use cap_std::fs::Dir;
pub use error::{Conflict, Error};
pub use gavel_types::Tid;
pub use transaction::Transaction;
pub use volume::Volume;
