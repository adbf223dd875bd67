//! Tests of the commit rule.
//!
//! - `memory`: every version that ever was, in memory
//! - `world`: one replica; entries go through `apply`, and every invariant is checked after each
//! - `invariants`: what must hold of the records and the state after each entry
//! - `guards`, `mutations`, `sessions`, `orphans`: one situation after the other
//! - `snapshots`: names for states
//! - `staging`: parts of a commit that are written before it
//! - `followers`, `demote`: mirrors in other clusters, and volumes that become mirrors of what was theirs
//! - `scheduled`: names that states get by themselves
//! - `prune`: which past states go, and what goes with them
//! - `leases`: what other sessions hold
//! - `locks`: requests for locks
//! - `refusals`: plans of a faulty node
//! - `trace`: the lives of a request, a session and an orphan as readable text
//! - `model`, `log`: random logs against plans said once more, as simply as can be
//! - `serial`: operations on old views against the same operations one after the other
//! - `measure`: what a commit costs (ignored: a measurement, not a test)

#![allow(clippy::unwrap_used)]

mod collect;
mod demote;
mod followers;
mod guards;
mod invariants;
mod leases;
mod locks;
mod log;
mod measure;
mod memory;
mod model;
mod mutations;
mod orphans;
mod prune;
mod refusals;
mod scheduled;
mod serial;
mod sessions;
mod snapshots;
mod staging;
mod trace;
mod volumes;
mod world;
