//! What this node may answer for, and how that is taken from it. `docs/protocols/coherency.md` has the protocol.
//!
//! A range: not held -> wanted -> usable -> fading (the fronts are forgetting it) -> closed (nothing is answered under it) ->
//! yielding (the log is told) -> not held.

use crate::own_writes::OwnWrites;
use crate::session::Token;
use gavel_lease::RangeSet;
use gavel_lease::range::whole_objects;
use gavel_types::{KeyRange, Moment, ObjectId, VolumeId};
use gavel_wire::{Mode, Want};
use std::collections::{BTreeMap, VecDeque};

/// A range that was asked for is not asked for again within this time.
const WANT_AGAIN_NS: u64 = 500_000_000;
/// Most ranges that are remembered as asked for.
const RECENT_MAX: usize = 4096;
/// Most ranges in one request.
const WANTS_MAX: usize = 64;
/// What the fronts have not forgotten by then, they never will.
const FORGET_PATIENCE_NS: u64 = 10_000_000_000;
/// Recalls within this time are counted to see whether somebody works in a neighbourhood.
const NEIGHBOURHOOD_NS: u64 = 1_000_000_000;
/// Most recalls that are counted.
const RECALLS_MAX: usize = 1024;
/// Objects that were numbered together: what is given up when somebody else works through them. A power of two.
const BLOCK: u64 = 64;
/// The same, when even blocks are recalled often.
const LARGE_BLOCK: u64 = 4096;
/// So many recalls in a large block, and the next ones give up whole blocks; twice as many, and they give up all of it.
const RECALLS_FOR_BLOCK: usize = 4;

/// What a node may answer for at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usable {
    /// Reads within this may be answered from the node's own replica.
    pub reads: RangeSet,
    /// What was read within this may be kept by a front.
    pub keeps: RangeSet,
    /// Until when, on the node's monotonic clock.
    pub until: Moment,
}

impl Usable {
    /// For how many nanoseconds from `now` on the node may answer.
    pub fn left_ns(&self, now: Moment) -> u64 {
        self.until.0.saturating_sub(now.0)
    }
}

/// What the fronts have to forget of some ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Everything: the ranges are being given up. Answers under them go on being given, but may not be kept any more.
    All,
    /// Bytes of files that came to be kept since the forgetting of all began. Nothing is answered under the ranges any more.
    Rest,
    /// Names and attributes: this node itself is about to change them. (Bytes may be about to be written by the very kernel
    /// that keeps them.)
    Own,
}

/// Something to forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToForget {
    /// Names it, for [`Session::forgotten`](crate::Session::forgotten).
    pub id: u64,
    /// Of which ranges: whole objects.
    pub ranges: Vec<KeyRange>,
    /// What.
    pub what: What,
}

/// What follows when the fronts have forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forgotten {
    /// They have to forget more.
    Forget(ToForget),
    /// These ranges are to be yielded.
    Yield(Vec<KeyRange>),
    /// Writes that waited for this may go on.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Fading,
    Closed,
    Yielding,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Recalled {
    id: u64,
    since: Moment,
    ranges: Vec<KeyRange>,
    stage: Stage,
}

/// The leases of one session. See the module's documentation.
#[derive(Debug, Default)]
pub struct Leases {
    /// As the replicated table has it.
    held: RangeSet,
    recalled: Vec<Recalled>,
    own: OwnWrites,
    next_id: u64,
    wants: Vec<Want>,
    /// Ranges that were asked for, by their start, and when.
    recent: BTreeMap<Box<[u8]>, Moment>,
    /// When large blocks were recalled.
    recalls: VecDeque<(Moment, VolumeId, u64)>,
    /// Until when the session lives for sure.
    until: Moment,
    /// What was published last.
    published: Usable,
    /// What the fronts may still keep: all that was ever published as such, less what they have said that they forgot.
    kept: RangeSet,
    /// It may be different by now.
    changed: bool,
}

impl Leases {
    /// The session holds just these ranges now.
    pub fn on_table(&mut self, held: RangeSet) {
        self.held = held;
        self.changed = true;
    }

    /// The session lives until then for sure.
    pub fn live_until(&mut self, until: Moment) {
        if until > self.until {
            self.until = until;
            self.changed = true;
        }
    }

    /// Does a front not forget what it was told to? The session had better end then: the others wait for what it holds.
    pub fn is_stuck(&self, now: Moment) -> bool {
        let late = |one: &Recalled| one.stage != Stage::Yielding && now.since_ns(one.since) >= FORGET_PATIENCE_NS;
        self.recalled.iter().any(late)
    }

    /// Time passes.
    pub fn on_tick(&mut self, now: Moment) {
        self.changed |= self.own.on_tick(now);
    }

    /// The session has ended.
    pub fn lose(&mut self) {
        let (next_id, published) = (self.next_id, std::mem::take(&mut self.published));
        let (own, kept) = (std::mem::take(&mut self.own), std::mem::take(&mut self.kept));
        *self = Leases { next_id, published, own, kept, changed: true, ..Leases::default() };
    }

    /// A read had to be confirmed, because these ranges are not held: they would be useful.
    pub fn want(&mut self, now: Moment, ranges: &[KeyRange]) {
        for range in ranges {
            let Some((volume, first, last)) = whole_objects(range) else { continue };
            let range = KeyRange::objects(volume, first, last);
            let asked = self.recent.get(&range.start).is_some_and(|at| now.since_ns(*at) < WANT_AGAIN_NS);
            let recalled = self.recalled.iter().any(|one| one.ranges.iter().any(|other| other.overlaps(&range)));
            if asked || recalled || self.held.covers(&range) {
                continue;
            }
            if self.recent.len() >= RECENT_MAX {
                self.recent.retain(|_, at| now.since_ns(*at) < WANT_AGAIN_NS);
            }
            if self.recent.len() < RECENT_MAX && self.wants.len() < WANTS_MAX {
                self.recent.insert(range.start.clone(), now);
                self.wants.push(Want { range, mode: Mode::Shared, urgent: false });
            }
        }
    }

    /// What is to be asked for now.
    pub fn take_wants(&mut self) -> Vec<Want> {
        let mut wants = std::mem::take(&mut self.wants);
        wants.retain(|want| !self.held.covers(&want.range));
        wants
    }

    /// Somebody needs these ranges. Gives what the fronts have to forget, if there is something to give up. `unseen`: the
    /// session may hold them although this replica does not show it yet.
    pub fn recall(&mut self, now: Moment, ranges: &[KeyRange], unseen: bool) -> Option<ToForget> {
        let mut given = RangeSet::default();
        for range in ranges {
            let Some((volume, first, last)) = whole_objects(range) else { continue };
            if unseen {
                given.insert(KeyRange::objects(volume, first, last));
            }
            let asked = KeyRange::objects(volume, first, last);
            let given_up = self.recalled.iter().any(|one| one.ranges.iter().any(|other| other.overlaps(&asked)));
            if self.held.touches(range) && !given_up {
                let round = self.round(now, volume, first);
                let (first, last) = (first.0 & !(round - 1), last.0 | (round - 1));
                let wide = KeyRange::objects(volume, ObjectId(first), ObjectId(last));
                self.held.within(&wide).into_iter().for_each(|range| given.insert(range));
            }
        }
        self.begin(now, given)
    }

    /// Begins to give these ranges up, as far as they are not being given up already.
    fn begin(&mut self, now: Moment, mut given: RangeSet) -> Option<ToForget> {
        for range in self.recalled.iter().flat_map(|one| &one.ranges) {
            given.remove(range);
        }
        if given.is_empty() {
            return None;
        }
        self.next_id += 1;
        self.changed = true;
        let (id, ranges) = (self.next_id, given.ranges().to_vec());
        self.recalled.push(Recalled { id, since: now, ranges: ranges.clone(), stage: Stage::Fading });
        Some(ToForget { id, ranges, what: What::All })
    }

    /// The fronts have forgotten what [`ToForget`] `id` said.
    pub fn forgotten(&mut self, id: u64) -> Forgotten {
        for range in self.own.forgotten(id) {
            self.forget_kept(&range);
        }
        let Some(recalled) = self.recalled.iter_mut().find(|one| one.id == id) else { return Forgotten::Nothing };
        let ranges = recalled.ranges.clone();
        match recalled.stage {
            Stage::Fading => {
                recalled.stage = Stage::Closed;
                self.changed = true;
                ranges.iter().for_each(|range| self.forget_kept(range));
                Forgotten::Forget(ToForget { id, ranges, what: What::Rest })
            }
            Stage::Closed => {
                recalled.stage = Stage::Yielding;
                Forgotten::Yield(ranges)
            }
            Stage::Yielding => Forgotten::Nothing,
        }
    }

    /// The log has taken what recall `id` gave up.
    pub fn yielded(&mut self, id: u64) {
        self.recalled.retain(|one| one.id != id);
        self.changed = true;
    }

    /// The table has no room for what would be left of the ranges that recall `id` cuts: they are given up whole.
    pub fn give_up_whole(&mut self, now: Moment, id: u64) -> Option<ToForget> {
        let at = self.recalled.iter().position(|one| one.id == id)?;
        let mut whole: RangeSet = self.recalled.remove(at).ranges.into_iter().collect();
        for held in self.held.ranges() {
            if whole.touches(held) {
                whole.insert(held.clone());
            }
        }
        self.begin(now, whole)
    }

    /// This node is about to commit `token`, which writes these ranges: until it is done, nothing is answered there from a
    /// replica that may be behind. Gives what the fronts have to forget before the commit may be shipped.
    pub fn write(&mut self, now: Moment, token: Token, writes: &[KeyRange]) -> Option<ToForget> {
        // Whether they are held or not: a lease may be granted while the commit is on its way.
        let objects = writes.iter().filter_map(whole_objects);
        let objects: RangeSet = objects.map(|(volume, first, last)| KeyRange::objects(volume, first, last)).collect();
        let ranges: Vec<KeyRange> = objects.ranges().iter().filter(|range| self.kept.touches(range)).cloned().collect();
        self.next_id += 1;
        self.changed = true;
        let waits_for = (!ranges.is_empty()).then_some(self.next_id);
        self.own.begin(now, token, writes.to_vec(), objects, waits_for.map(|id| (id, ranges.clone())));
        waits_for.map(|id| ToForget { id, ranges, what: What::Own })
    }

    /// The fronts keep nothing of `range` any more, unless they may again.
    fn forget_kept(&mut self, range: &KeyRange) {
        self.kept.remove(range);
        for again in self.published.keeps.within(range) {
            self.kept.insert(again);
        }
    }

    /// May the commit be shipped?
    pub fn may_ship(&self, token: Token) -> bool {
        self.own.may_ship(token)
    }

    /// The commit has its outcome, or never will have: this replica holds it, if it was applied.
    pub fn written(&mut self, token: Token) {
        self.changed |= self.own.end(token);
    }

    /// What the node may answer for, if that has changed since it was last asked.
    pub fn news(&mut self) -> Option<Usable> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut usable = Usable { reads: self.held.clone(), keeps: self.held.clone(), until: self.until };
        for one in &self.recalled {
            one.ranges.iter().for_each(|range| usable.keeps.remove(range));
            if one.stage != Stage::Fading {
                one.ranges.iter().for_each(|range| usable.reads.remove(range));
            }
        }
        self.own.take_out_of(&mut usable);
        (usable != self.published).then(|| {
            usable.keeps.ranges().iter().for_each(|range| self.kept.insert(range.clone()));
            self.published = usable.clone();
            usable
        })
    }

    /// How many objects around a recalled one are given up, a power of two: more, the more recalls there were around here.
    fn round(&mut self, now: Moment, volume: VolumeId, first: ObjectId) -> u64 {
        while self.recalls.front().is_some_and(|(at, _, _)| now.since_ns(*at) > NEIGHBOURHOOD_NS)
            || self.recalls.len() >= RECALLS_MAX
        {
            self.recalls.pop_front();
        }
        let place = (volume, first.0 / LARGE_BLOCK);
        let before = self.recalls.iter().filter(|(_, volume, block)| (*volume, *block) == place).count();
        self.recalls.push_back((now, place.0, place.1));
        match before / RECALLS_FOR_BLOCK {
            0 => 1,
            1 => BLOCK,
            _ => LARGE_BLOCK,
        }
    }

    /// Asserts what the leases of one session show of the invariants.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        for (i, one) in self.recalled.iter().enumerate() {
            for other in &self.recalled[..i] {
                let overlap = |range: &KeyRange| other.ranges.iter().any(|that| that.overlaps(range));
                assert!(!one.ranges.iter().any(overlap), "a range is given up twice");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Key;

    const V: VolumeId = VolumeId(1);
    const NOW: Moment = Moment(5_000_000_000);

    fn object(object: u64) -> KeyRange {
        KeyRange::object(V, ObjectId(object))
    }

    fn holder() -> Leases {
        let mut leases = Leases::default();
        leases.on_table([KeyRange::objects(V, ObjectId(0), ObjectId(100_000))].into_iter().collect());
        leases.live_until(Moment(9_000_000_000));
        leases.news().unwrap();
        leases
    }

    #[test]
    fn a_recall_first_ends_keeping_then_reading_then_the_lease() {
        let mut leases = holder();
        let forget = leases.recall(NOW, &[object(7)], false).unwrap();
        assert_eq!((&forget.ranges[..], forget.what), (&[object(7)][..], What::All));
        let fading = leases.news().unwrap();
        assert!(
            fading.reads.covers(&object(7)) && !fading.keeps.touches(&object(7)) && fading.keeps.covers(&object(8))
        );
        assert_eq!(leases.recall(NOW, &[object(7)], false), None, "it is being given up");
        let rest = ToForget { what: What::Rest, ..forget.clone() };
        assert_eq!(leases.forgotten(forget.id), Forgotten::Forget(rest));
        assert!(!leases.news().unwrap().reads.touches(&object(7)));
        assert_eq!(leases.forgotten(forget.id), Forgotten::Yield(vec![object(7)]));
        assert_eq!(leases.forgotten(forget.id), Forgotten::Nothing);
        // A grant elsewhere in the log leaves what was given up closed, until the log has taken it.
        leases.on_table([KeyRange::volume(V)].into_iter().collect());
        assert!(!leases.news().unwrap().reads.touches(&object(7)));
        leases.yielded(forget.id);
        assert!(leases.news().unwrap().keeps.covers(&object(7)), "granted anew meanwhile");
    }

    #[test]
    fn a_lease_that_this_replica_does_not_show_yet_is_given_up_unseen() {
        let mut leases = Leases::default();
        assert_eq!(leases.recall(NOW, &[object(7)], false), None);
        let forget = leases.recall(NOW, &[object(7)], true).unwrap();
        leases.on_table([KeyRange::volume(V)].into_iter().collect());
        assert!(!leases.news().unwrap().keeps.touches(&object(7)));
        leases.forgotten(forget.id);
        assert!(!leases.news().unwrap().reads.touches(&object(7)));
    }

    #[test]
    fn a_full_table_makes_whole_ranges_go() {
        let mut leases = holder();
        let forget = leases.recall(NOW, &[object(7)], false).unwrap();
        let whole = leases.give_up_whole(NOW, forget.id).unwrap();
        assert_eq!(whole.ranges, [KeyRange::objects(V, ObjectId(0), ObjectId(100_000))]);
        assert!(leases.news().unwrap().keeps.is_empty());
    }

    #[test]
    fn what_this_node_writes_is_not_answered_until_its_replica_has_it() {
        let mut leases = holder();
        let name = [KeyRange::one(&Key::dirent(V, ObjectId(7), b"name"))];
        let forget = leases.write(NOW, 1, &name).unwrap();
        let other = leases.write(NOW, 3, &name).unwrap();
        leases.forgotten(other.id);
        assert!(leases.may_ship(3), "whoever writes while the fronts are still forgetting waits for them as well");
        leases.written(3);
        assert_eq!((&forget.ranges[..], forget.what), (&[object(7)][..], What::Own));
        assert!(!leases.may_ship(1));
        let usable = leases.news().unwrap();
        assert!(
            !usable.reads.touches(&name[0]) && !usable.keeps.touches(&object(7)) && usable.keeps.covers(&object(8))
        );
        assert_eq!(leases.forgotten(forget.id), Forgotten::Nothing);
        assert!(leases.may_ship(1));
        assert_eq!(leases.write(NOW, 2, &name), None, "nothing is kept there any more");
        assert!(leases.may_ship(2));
        leases.written(1);
        assert_eq!(leases.news(), None, "the other one is still on its way");
        leases.written(2);
        let usable = leases.news().unwrap();
        assert!(usable.reads.covers(&name[0]) && !usable.keeps.touches(&name[0]));
        leases.on_tick(Moment(NOW.0 + crate::own_writes::QUIET_NS + 1));
        assert!(leases.news().unwrap().keeps.covers(&name[0]));
    }

    #[test]
    fn a_lease_that_is_granted_while_a_write_is_on_its_way_does_not_cover_it() {
        let mut leases = Leases::default();
        assert_eq!(leases.write(NOW, 1, &[object(7)]), None);
        leases.on_table([KeyRange::volume(V)].into_iter().collect());
        leases.live_until(Moment(9_000_000_000));
        let usable = leases.news().unwrap();
        assert!(
            !usable.reads.touches(&object(7)) && !usable.keeps.touches(&object(7)) && usable.keeps.covers(&object(8))
        );
        leases.written(1);
        let usable = leases.news().unwrap();
        assert!(usable.reads.covers(&object(7)) && !usable.keeps.touches(&object(7)));
    }

    #[test]
    fn who_is_recalled_often_gives_up_more() {
        let mut leases = holder();
        let given: Vec<u64> = (0..10)
            .map(|i| {
                let forget = leases.recall(NOW, &[object(8192 + 100 * i)], false);
                let ranges = forget.map(|forget| forget.ranges).unwrap_or_default();
                ranges.iter().filter_map(whole_objects).map(|(_, first, last)| last.0 - first.0 + 1).sum()
            })
            .collect();
        assert_eq!(given[..5], [1, 1, 1, 1, BLOCK]);
        assert!(given[8] > 3 * BLOCK, "{given:?}");
        assert_eq!(given[9], 0, "it is all gone");
        leases.check_invariants();
    }

    #[test]
    fn what_was_asked_for_is_not_asked_for_again_at_once() {
        let mut leases = Leases::default();
        leases.want(NOW, &[object(3), object(3)]);
        assert_eq!(leases.take_wants().len(), 1);
        leases.want(NOW, &[object(3)]);
        assert!(leases.take_wants().is_empty());
        leases.want(Moment(NOW.0 + WANT_AGAIN_NS), &[object(3)]);
        assert_eq!(leases.take_wants().len(), 1);
    }

    #[test]
    fn a_session_that_ended_leaves_nothing() {
        let mut leases = holder();
        let forget = leases.recall(NOW, &[object(7)], false).unwrap();
        leases.lose();
        assert_eq!(leases.news(), Some(Usable::default()));
        assert_eq!(leases.forgotten(forget.id), Forgotten::Nothing);
    }
}
