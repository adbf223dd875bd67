//! The lease table: who may answer for which range of keys.
//!
//! A part of the replicated state, changed only by log items, so every replica has the same. What a lease allows, how it
//! is recalled and why no answer is stale is in `docs/protocols/coherency.md`; here is the table alone.
//!
//! - [`table`]: ranges, modes and holders; granting, widening, yielding, ending; what is in the way of whom
//! - [`range`](mod@range): which range of the table stands for a key, and for what a plan writes
//! - [`set`]: ranges as a set: what one session holds, as its node uses it
//!
//! Invariants (checked by [`LeaseTable::check_invariants`]):
//! 1. Ranges do not overlap and none is empty; they are in the order of their keys.
//! 2. Each has a holder, no holder twice; an exclusive one has one.
//! 3. Two neighbours that touch differ in mode or holders.
//! 4. There are [`LEASES_MAX`](table::LEASES_MAX) ranges at most behind a grant, and [`HOLDERS_MAX`](table::HOLDERS_MAX) holders.

pub mod range;
pub mod set;
pub mod table;

pub use range::{lease_range, written};
pub use set::RangeSet;
pub use table::{LeaseTable, Refused};
