//! The lock table: who has locked which bytes of which file, and who waits for that.
//!
//! A part of the replicated state, changed only by log items, so every replica has the same. What the rules are for, how a
//! request gets here and what becomes of locks when something fails is in `docs/protocols/locks.md`; here is the table alone.
//!
//! - [`table`]: files, locks and waiters; taking, giving back, cancelling, ending, asking
//! - `file`: one file: who is in whose way, and what is left of an owner's locks behind a change
//! - `deadlock`: does somebody in the way wait for the owner that asks?
//!
//! What this room is not: it knows no log, no clock and no session that has ended.
//!
//! Invariants (checked by [`LockTable::check_invariants`]):
//! 1. Locks of one POSIX file: those of one owner do not overlap, and do not touch if they are of one kind. An owner has one
//!    flock of a file, over all of it.
//! 2. Locks of different owners that overlap are shared.
//! 3. A waiter is hindered by a lock of another owner, or by an older waiter that must not be passed: nothing that can be
//!    granted waits.
//! 4. A file has locks or waiters; what is counted is what is there, and within its bounds.

mod deadlock;
mod file;
pub mod table;

pub use table::{LockTable, Locking};
