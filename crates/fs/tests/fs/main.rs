//! Tests of the operations, with the real commit rule behind them.
//!
//! - `world`: one replica in memory; commits go through `gavel_txn`
//! - `invariants`: what must hold of the records after each commit
//! - `model`: what operations should do, said once more and as simply as can be
//! - `steps`: random operations
//! - `properties`: random operations against the model; stale plans against fresh ones
//! - `collisions`: which operations collide, as a table
//! - `revert`: ways back to an earlier state
//! - `names`, `files`, `attributes`: one situation after the other

#![allow(clippy::unwrap_used)]

mod attributes;
mod collisions;
mod files;
mod invariants;
mod model;
mod names;
mod properties;
mod reclass;
mod revert;
mod steps;
mod world;
