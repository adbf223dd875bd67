//! Commits and reads that wait until no lease of another session is in their way.
//!
//! They hold nothing while they wait, so nobody waits for them.

use gavel_client::Token;
use gavel_lease::LeaseTable;
use gavel_types::{KeyRange, Moment, SessionId};
use gavel_wire::Mode;
use std::collections::{BTreeMap, BTreeSet};

/// What is still in the way is recalled again after this.
const RECALL_AGAIN_NS: u64 = 50_000_000;
/// What could not go on within so many of the longest term of a session, and these elections, is given up. A lease that nobody gives back ends before, with its session: after a
/// term; after a term from the next election, if its holder led; after two more, if a front of its holder is stuck (`Leases::is_stuck`).
const PATIENCE_TERMS: u64 = 4;
const ELECTIONS_NS: u64 = 4_000_000_000;
/// The same when no quorum is heard of: what comes new is refused at once then.
const PATIENCE_CUT_OFF_NS: u64 = 9_000_000_000;
/// Most ranges in one recall; the rest follows with the next.
const RECALL_RANGES_MAX: usize = 256;

/// How long something may wait. `longest_term_ms`: of all sessions.
pub(crate) fn patience_ns(longest_term_ms: u32, is_cut_off: bool) -> u64 {
    if is_cut_off {
        return PATIENCE_CUT_OFF_NS;
    }
    PATIENCE_TERMS * u64::from(longest_term_ms) * 1_000_000 + ELECTIONS_NS
}

/// Something that waits, with what it needs.
#[derive(Debug)]
pub(crate) struct Wait<T> {
    pub(crate) token: Token,
    pub(crate) what: T,
    /// Nobody else holds these exclusively, or these at all.
    reads: Vec<KeyRange>,
    writes: Vec<KeyRange>,
    since: Moment,
    recalled_at: Option<Moment>,
}

impl<T> Wait<T> {
    fn ranges(&self) -> impl Iterator<Item = (&KeyRange, Mode)> {
        let reads = self.reads.iter().map(|range| (range, Mode::Shared));
        reads.chain(self.writes.iter().map(|range| (range, Mode::Exclusive)))
    }

    fn is_due(&self, now: Moment) -> bool {
        self.recalled_at.is_none_or(|at| now.since_ns(at) >= RECALL_AGAIN_NS)
    }
}

/// All of a kind that wait on one node, the oldest first.
#[derive(Debug)]
pub(crate) struct Blocked<T> {
    waits: Vec<Wait<T>>,
    /// Some may be free now.
    changed: bool,
    due: bool,
}

impl<T> Default for Blocked<T> {
    fn default() -> Blocked<T> {
        Blocked { waits: Vec::new(), changed: false, due: false }
    }
}

impl<T> Blocked<T> {
    pub(crate) fn len(&self) -> usize {
        self.waits.len()
    }

    pub(crate) fn push(&mut self, now: Moment, token: Token, what: T, reads: Vec<KeyRange>, writes: Vec<KeyRange>) {
        self.waits.push(Wait { token, what, reads, writes, since: now, recalled_at: None });
        (self.changed, self.due) = (true, true);
    }

    /// The table has changed, or something else that they wait for.
    pub(crate) fn on_change(&mut self) {
        self.changed = true;
    }

    /// Gives those that have waited longer than this: they are not here any more.
    pub(crate) fn on_tick(&mut self, now: Moment, patience_ns: u64) -> Vec<Token> {
        let given_up = |wait: &Wait<T>| now.since_ns(wait.since) >= patience_ns;
        let late: Vec<Token> = self.waits.iter().filter(|wait| given_up(wait)).map(|wait| wait.token).collect();
        self.waits.retain(|wait| !given_up(wait));
        self.due |= self.waits.iter().any(|wait| wait.is_due(now));
        late
    }

    /// Takes out what nothing is in the way of, in the order in which it came.
    pub(crate) fn take_free(
        &mut self,
        table: &LeaseTable,
        session: SessionId,
        may_go: impl Fn(Token) -> bool,
    ) -> Vec<Wait<T>> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        let free = |wait: &Wait<T>| {
            may_go(wait.token) && wait.ranges().all(|(range, mode)| table.is_free(session, range, mode))
        };
        let (free, blocked) = std::mem::take(&mut self.waits).into_iter().partition(free);
        self.waits = blocked;
        free
    }

    /// Who is in the way of how many.
    pub(crate) fn in_the_way(&self, table: &LeaseTable, session: SessionId) -> BTreeMap<SessionId, usize> {
        let mut waited_for = BTreeMap::new();
        for wait in &self.waits {
            let holders = wait.ranges().flat_map(|(range, mode)| table.in_the_way(session, range, mode));
            for holder in holders.collect::<BTreeSet<_>>() {
                *waited_for.entry(holder).or_default() += 1;
            }
        }
        waited_for
    }

    /// Whose leases are in the way of what, as far as it is time to say so (again).
    pub(crate) fn take_recalls(
        &mut self,
        table: &LeaseTable,
        session: SessionId,
        now: Moment,
    ) -> BTreeMap<(SessionId, Mode), Vec<KeyRange>> {
        let mut recalls: BTreeMap<(SessionId, Mode), Vec<KeyRange>> = BTreeMap::new();
        if !std::mem::take(&mut self.due) {
            return recalls;
        }
        for wait in self.waits.iter_mut().filter(|wait| wait.is_due(now)) {
            wait.recalled_at = Some(now);
            for (range, mode) in wait.ranges() {
                for holder in table.in_the_way(session, range, mode) {
                    let ranges = recalls.entry((holder, mode)).or_default();
                    if ranges.len() < RECALL_RANGES_MAX && !ranges.contains(range) {
                        ranges.push(range.clone());
                    }
                }
            }
        }
        recalls
    }
}
