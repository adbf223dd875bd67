//! Does somebody in the way wait for the owner that asks?
//!
//! A request waits for the owners of locks in its way and of waiters that it must not pass. If following that from owner to owner
//! leads back to the owner that asks, none of them would ever go on.

use crate::table::LockTable;
use gavel_types::Seq;
use gavel_wire::lock::{Family, Lock, LockFile, LockOwner};
use std::collections::BTreeSet;

/// So many owners are looked at; a longer chain than that is not found.
pub const OWNERS_MAX: usize = 1024;

impl LockTable {
    /// Would `lock`, which can't be had at once, wait for its own owner?
    pub(crate) fn would_deadlock(&self, file: &LockFile, lock: &Lock) -> bool {
        let Some(line) = self.files.get(file).map(|file| file.line.len()) else { return false };
        let mut seen = BTreeSet::new();
        let mut to_look_at = self.waits_for(file, lock, line);
        while let Some(owner) = to_look_at.pop() {
            if owner == lock.owner {
                return true;
            }
            if seen.len() < OWNERS_MAX && seen.insert(owner) {
                to_look_at.extend(self.all_that_waits_for(owner));
            }
        }
        false
    }

    /// The owners that a request waits for, behind the first `places` of the line.
    fn waits_for(&self, file: &LockFile, lock: &Lock, places: usize) -> Vec<LockOwner> {
        let Some(file) = self.files.get(file) else { return Vec::new() };
        let held = file.in_the_way(lock).map(|held| held.owner);
        held.chain(file.not_to_pass(lock, places).map(|waiting| waiting.lock.owner)).collect()
    }

    /// The owners that any POSIX request of this one waits for.
    fn all_that_waits_for(&self, owner: LockOwner) -> Vec<LockOwner> {
        let session = (owner.session, Seq(0))..=(owner.session, Seq(u64::MAX));
        let mut found = Vec::new();
        for (waiter, file) in self.waiting.range(session).filter(|(_, file)| file.family == Family::Posix) {
            let line = self.files.get(file).map(|file| file.line.as_slice()).unwrap_or_default();
            let place = line.iter().position(|waiting| waiting.name() == *waiter && waiting.lock.owner == owner);
            if let Some(place) = place {
                found.extend(self.waits_for(file, &line[place].lock, place));
            }
        }
        found
    }
}
