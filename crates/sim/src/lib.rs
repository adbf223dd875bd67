//! A whole cluster in one thread: virtual time, seeded faults, checkers. One script is one world, seconds for hours.
//!
//! The nodes are the real ones ([`gavel_node::Node`]), hosted as the runtime hosts them: the real log and blob store
//! over disks in memory that lose and tear what was not synced, the engine's twin in memory, operations stepped
//! with views of the node's own replica. Disks, network, clocks and power are dreamed, and fail. docs/protocols/simulator.md
//! says what is simulated, what is checked, and how a failure is reproduced.
//!
//! What this room is not: it has no protocol of its own (but for the placement of blobs, which the runtime does in the
//! real world), and it decides nothing.
//!
//! Invariants:
//! 1. A script decides its world: the same script gives the same digest of everything that happened.
//! 2. Streams of chance do not mix: one more fault does not change what programs ask for.
//!
//! Modules:
//! - [`script`]: a world as data: what runs, and what goes wrong when; the named scenarios
//! - [`world`]: time that passes from one event to the next
//! - [`machine`], [`clock`], [`network`]: what a node runs on; `hosting`, `jobs`, `blobs`: what the runtime would do
//! - `faults`: what goes wrong, as it goes wrong
//! - [`program`]: what programs ask for, and what answers mean
//! - [`models`], [`linear`]: what single objects may answer, and whether a history is one of theirs
//! - `transact`: programs that run transactions; [`shared`]: what they and plain ones do to a tree that they share
//! - `serial`, `cycles`: whether all of that is strictly serializable, and transactions are whole and stay
//! - [`fsck`]: whether a tree is whole
//! - `locks`: programs that lock files, and whether they exclude each other
//! - `snapshots`: programs that name past states, and whether one table of names explains their answers
//! - `past_check`: every version there ever was, in plain memory, and whether replicas show the past as it was
//! - `pruning`: past states that go, and whether those that stay are whole
//! - `volumes`: volumes that are made, cloned, destroyed, and whether they show what they should
//! - `judge`, `rest`: what must hold all the time, and at the end
//! - [`cover`]: rare situations that were reached
//! - [`mod@shrink`]: cuts a failing script down
//! - [`dice`]: the one source of chance

mod behind;
mod blobs;
pub mod clock;
pub mod cover;
mod cycles;
pub mod dice;
mod faults;
pub mod fsck;
mod hosting;
mod jobs;
mod judge;
mod leased;
mod linear;
mod locks;
pub mod machine;
pub mod models;
pub mod network;
mod past_check;
pub mod program;
mod pruning;
mod rest;
mod schedules;
pub mod script;
mod serial;
pub mod shared;
pub mod shrink;
mod snapshots;
mod staging;
mod transact;
mod volumes;
pub mod world;

pub use script::{Fault, Mix, SCENARIOS, Scenario, Script, What, scenario};
pub use world::{Outcome, Violation, World};

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a world ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing is wrong with it.
    Sound(Box<Outcome>),
    /// Something is.
    Violated(Violation),
}

thread_local! {
    /// Where and why the last panic of this thread was.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics of worlds quiet: they are reported as violations. Call it once, before the first [`run`].
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| PANIC.with(|panic| *panic.borrow_mut() = info.to_string())));
}

/// Lives through the world of a script. `traced`: a violation tells what happened before it.
pub fn run(script: &Script, traced: bool) -> Verdict {
    let trace = world::shared_trace(traced);
    let world = World::new(script.clone(), trace.clone());
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(Ok(outcome)) => Verdict::Sound(Box::new(outcome)),
        Ok(Err(violation)) => Verdict::Violated(violation),
        Err(_) => {
            let what = PANIC.with(|panic| panic.borrow().clone());
            let what = if what.is_empty() { "a panic".to_string() } else { what };
            Verdict::Violated(Violation { what, trace: world::lines(&trace) })
        }
    }
}
