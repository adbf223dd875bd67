//! Leases as they are asked for.

use gavel_types::KeyRange;
use serde::{Deserialize, Serialize};

/// What a lease allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Mode {
    /// To answer reads. Any number of sessions can hold it.
    Shared,
    /// To answer reads, and to commit later what was answered. One session can hold it.
    Exclusive,
}

/// A lease that a session would like to have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Want {
    /// At least this range.
    pub range: KeyRange,
    /// To do what.
    pub mode: Mode,
    /// Just this range, and even if it was recalled just now.
    pub urgent: bool,
}
