//! This node's own commits on their way.
//!
//! No lease of its own is in the way of a node's commit. But others may see the commit applied before this node's replica
//! has it: until then, the node must not answer for what it writes, nor may its fronts keep it.

use crate::leases::Usable;
use crate::session::Token;
use gavel_lease::RangeSet;
use gavel_types::{KeyRange, Moment};
use std::collections::BTreeMap;

/// What this node has written is not kept by its fronts for so long: it is likely to be written again. Longer, and a file that was just made costs
/// three requests at each open; shorter, and who writes again and again has the fronts forget more often than this, at some 0.1 ms each.
pub(crate) const QUIET_NS: u64 = 100_000_000;
/// Most ranges that are quiet; with more, nothing at all is kept for that time.
const QUIET_MAX: usize = 1024;

#[derive(Debug)]
struct Write {
    ranges: Vec<KeyRange>,
    /// The fronts have to forget this first: its number, and which ranges.
    waits_for: Option<(u64, Vec<KeyRange>)>,
    /// What was answered before has to be shipped first: the number of that.
    ships_after: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct OwnWrites {
    under_way: BTreeMap<Token, Write>,
    /// What was written lately, by its start, and until when it is quiet.
    quiet: BTreeMap<Box<[u8]>, (KeyRange, Moment)>,
    all_quiet_until: Option<Moment>,
}

impl OwnWrites {
    /// `objects` are what `ranges` are parts of. Before the commit may be shipped, [`OwnWrites::shipped`] must have been told of `id`, and, if the
    /// fronts have to forget something, [`OwnWrites::forgotten`] too.
    pub(crate) fn begin(
        &mut self,
        now: Moment,
        token: Token,
        ranges: Vec<KeyRange>,
        objects: RangeSet,
        id: u64,
        forgets: Option<Vec<KeyRange>>,
    ) {
        let until = Moment(now.0 + QUIET_NS);
        for object in objects.ranges() {
            if self.quiet.len() < QUIET_MAX || self.quiet.contains_key(&object.start) {
                self.quiet.insert(object.start.clone(), (object.clone(), until));
            } else {
                self.all_quiet_until = Some(until);
            }
        }
        let waits_for = forgets.map(|ranges| (id, ranges));
        self.under_way.insert(token, Write { ranges, waits_for, ships_after: Some(id) });
    }

    /// What was answered before `id` is in the session's line.
    pub(crate) fn shipped(&mut self, id: u64) {
        for write in self.under_way.values_mut() {
            write.ships_after.take_if(|waits| *waits == id);
        }
    }

    /// Gives the ranges that the fronts have forgotten.
    pub(crate) fn forgotten(&mut self, id: u64) -> Vec<KeyRange> {
        let mut waits = self.under_way.values_mut().map(|write| &mut write.waits_for);
        let found = waits.find_map(|waits| waits.take_if(|(waits, _)| *waits == id));
        found.map(|(_, ranges)| ranges).unwrap_or_default()
    }

    pub(crate) fn may_ship(&self, token: Token) -> bool {
        self.under_way.get(&token).is_none_or(|write| write.waits_for.is_none() && write.ships_after.is_none())
    }

    /// True if that changes what may be answered.
    pub(crate) fn end(&mut self, token: Token) -> bool {
        self.under_way.remove(&token).is_some()
    }

    /// True if that changes what may be kept.
    pub(crate) fn on_tick(&mut self, now: Moment) -> bool {
        let before = self.quiet.len();
        self.quiet.retain(|_, (_, until)| *until > now);
        self.all_quiet_until.take_if(|until| *until <= now).is_some() || self.quiet.len() != before
    }

    pub(crate) fn take_out_of(&self, usable: &mut Usable) {
        for range in self.under_way.values().flat_map(|write| &write.ranges) {
            usable.reads.remove(range);
            usable.keeps.remove(range);
            usable.writes.remove(range);
        }
        for (range, _) in self.quiet.values() {
            usable.keeps.remove(range);
        }
        if self.all_quiet_until.is_some() {
            usable.keeps = RangeSet::default();
        }
    }
}
