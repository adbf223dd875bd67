//! Commits that wait until no lease of another session is in their way.
//!
//! They hold nothing while they wait, so nobody waits for them.

use gavel_client::Token;
use gavel_lease::LeaseTable;
use gavel_types::{KeyRange, Moment, SessionId};
use gavel_wire::{Guard, Mode, Plan};
use std::collections::BTreeMap;

/// What is still in the way is recalled again after this.
const RECALL_AGAIN_NS: u64 = 50_000_000;
/// A commit that could not be shipped by then is given up: a lease that nobody gives back ends well before, with its session.
const PATIENCE_NS: u64 = 9_000_000_000;
/// Most ranges in one recall; the rest follows with the next.
const RECALL_RANGES_MAX: usize = 256;

/// A commit that waits.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) token: Token,
    pub(crate) guards: Vec<Guard>,
    pub(crate) plan: Plan,
    writes: Vec<KeyRange>,
    since: Moment,
    recalled_at: Option<Moment>,
}

/// All that wait on one node, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    waits: Vec<Wait>,
    /// Some may be free now.
    changed: bool,
    due: bool,
}

impl Blocked {
    pub(crate) fn len(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn push(&mut self, now: Moment, token: Token, guards: Vec<Guard>, plan: Plan, writes: Vec<KeyRange>) {
        self.waits.push(Wait { token, guards, plan, writes, since: now, recalled_at: None });
        (self.changed, self.due) = (true, true);
    }

    /// The table has changed.
    pub(crate) fn on_leases(&mut self) {
        self.changed = true;
    }

    /// Gives those that have waited for too long: they were not shipped, and are not here any more.
    pub(crate) fn on_tick(&mut self, now: Moment) -> Vec<Token> {
        let given_up = |wait: &Wait| now.since_ns(wait.since) >= PATIENCE_NS;
        let late: Vec<Token> = self.waits.iter().filter(|wait| given_up(wait)).map(|wait| wait.token).collect();
        self.waits.retain(|wait| !given_up(wait));
        self.due |= self.waits.iter().any(|wait| is_due(wait, now));
        late
    }

    /// Takes out what nothing is in the way of, in the order in which it came.
    pub(crate) fn take_free(
        &mut self,
        table: &LeaseTable,
        session: SessionId,
        may_ship: impl Fn(Token) -> bool,
    ) -> Vec<Wait> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let unleased = |range: &KeyRange| table.is_free(session, range, Mode::Exclusive);
        let free = |wait: &Wait| may_ship(wait.token) && wait.writes.iter().all(unleased);
        let (free, blocked) = std::mem::take(&mut self.waits).into_iter().partition(free);
        self.waits = blocked;
        free
    }

    /// Whose leases are in the way of what, as far as it is time to say so (again).
    pub(crate) fn take_recalls(
        &mut self,
        table: &LeaseTable,
        session: SessionId,
        now: Moment,
    ) -> BTreeMap<SessionId, Vec<KeyRange>> {
        let mut recalls: BTreeMap<SessionId, Vec<KeyRange>> = BTreeMap::new();
        if !std::mem::take(&mut self.due) {
            return recalls;
        }
        for wait in self.waits.iter_mut().filter(|wait| is_due(wait, now)) {
            wait.recalled_at = Some(now);
            for range in &wait.writes {
                for holder in table.in_the_way(session, range, Mode::Exclusive) {
                    let ranges = recalls.entry(holder).or_default();
                    if ranges.len() < RECALL_RANGES_MAX && !ranges.contains(range) {
                        ranges.push(range.clone());
                    }
                }
            }
        }
        recalls
    }
}

fn is_due(wait: &Wait, now: Moment) -> bool {
    wait.recalled_at.is_none_or(|at| now.since_ns(at) >= RECALL_AGAIN_NS)
}
