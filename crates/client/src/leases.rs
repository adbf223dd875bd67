//! What this node may answer for, and how that is taken from it. `docs/protocols/coherency.md` has the protocol.
//!
//! A range: not held -> wanted -> usable -> fading (the fronts are forgetting it) -> closed (nothing is answered under it) ->
//! shipping (what was answered under it is on its way to the log) -> yielding (the log is told) -> not held. If others only want to read it: usable ->
//! shipping (nothing more is written under it) -> yielding -> shared.

use crate::own_writes::OwnWrites;
use crate::session::Token;
use gavel_lease::RangeSet;
use gavel_lease::range::whole_objects;
use gavel_types::{KeyRange, Moment, ObjectId, VolumeId};
use gavel_wire::{Mode, RequestBody, Want};
use std::collections::{BTreeMap, VecDeque};

/// A range that was asked for is not asked for again within this time.
const WANT_AGAIN_NS: u64 = 500_000_000;
/// Most ranges that are remembered as asked for.
const RECENT_MAX: usize = 4096;
/// Most ranges in one request.
const WANTS_MAX: usize = 64;
/// What the fronts have not forgotten within so many terms of the session, they never will.
const FORGET_PATIENCE_TERMS: u64 = 2;
/// An exclusive lease that was not used for so long becomes a shared one: what others may read must not depend on this node.
const IDLE_NS: u64 = 3_000_000_000;
/// Objects that were recalled within this time are counted to see whether somebody works in a neighbourhood.
const NEIGHBOURHOOD_NS: u64 = 1_000_000_000;
/// Most of them that are counted.
const RECALLS_MAX: usize = 1024;
/// Objects that were numbered together: what is given up when somebody else works through them. A power of two.
const BLOCK: u64 = 64;
/// The same, when even blocks are recalled often.
const LARGE_BLOCK: u64 = 4096;
/// So many objects of a large block, and the next ones give up whole blocks; twice as many, and they give up all of it.
const RECALLS_FOR_BLOCK: usize = 4;

/// What a node may answer for at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usable {
    /// Reads within this may be answered from the node's own replica.
    pub reads: RangeSet,
    /// What was read within this may be kept by a front.
    pub keeps: RangeSet,
    /// Changes of this may be answered, and committed later.
    pub writes: RangeSet,
    /// Until when, on the node's monotonic clock.
    pub until: Moment,
    /// What the cluster's clock showed at some moment, in nanoseconds since the epoch.
    pub time: (Moment, u64),
}

impl Usable {
    /// For how many nanoseconds from `now` on the node may answer.
    pub fn left_ns(&self, now: Moment) -> u64 {
        self.until.0.saturating_sub(now.0)
    }

    /// What the cluster's clock shows now, in nanoseconds since the epoch: the leader's when it last answered, carried on.
    pub fn cluster_ns(&self, now: Moment) -> u64 {
        let (at, showed) = self.time;
        showed.saturating_add(now.since_ns(at))
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

/// What has to happen next, before ranges can be given up or written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// The fronts have to forget; then [`Leases::forgotten`].
    Forget(ToForget),
    /// All that was answered so far has to be in the session's line; then [`Leases::shipped`].
    Ship(u64),
    /// The log is to be told this.
    Tell(RequestBody),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Fading,
    Closed,
    Shipping,
    Yielding,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Recalled {
    id: u64,
    since: Moment,
    ranges: Vec<KeyRange>,
    stage: Stage,
    /// What others need: to read, and the session shares; or to write, and it gives up.
    needed: Mode,
    /// They asked for it.
    cool: bool,
}

/// The leases of one session. See the module's documentation.
#[derive(Debug, Default)]
pub struct Leases {
    /// As the replicated table has it.
    held: RangeSet,
    /// As the table has it: what of that is exclusive.
    exclusive: RangeSet,
    /// When something was last answered under an exclusive lease, or one was granted.
    used_at: Moment,
    recalled: Vec<Recalled>,
    own: OwnWrites,
    next_id: u64,
    wants: Vec<Want>,
    /// Ranges that were asked for, by their start and mode, and when.
    recent: BTreeMap<(Box<[u8]>, Mode), Moment>,
    /// When objects were recalled last.
    recalls: VecDeque<(Moment, (VolumeId, ObjectId))>,
    /// Until when the session lives for sure.
    until: Moment,
    /// What the cluster's clock showed at some moment.
    time: (Moment, u64),
    /// What was published last.
    published: Usable,
    /// What the fronts may still keep: all that was ever published as such, less what they have said that they forgot.
    kept: RangeSet,
    /// It may be different by now.
    changed: bool,
}

impl Leases {
    /// The session holds just these ranges now, some of them exclusively.
    pub fn on_table(&mut self, now: Moment, held: RangeSet, exclusive: RangeSet) {
        if exclusive.ranges().iter().any(|range| !self.exclusive.covers(range)) {
            self.used_at = now;
        }
        (self.held, self.exclusive) = (held, exclusive);
        self.changed = true;
    }

    /// The session lives until then for sure; `time` is what the cluster's clock showed at some moment.
    pub fn live_until(&mut self, until: Moment, time: (Moment, u64)) {
        if until > self.until {
            (self.until, self.time) = (until, time);
            self.changed = true;
        }
    }

    /// Something that was answered under exclusive leases is on its way.
    pub fn used(&mut self, now: Moment) {
        self.used_at = now;
    }

    /// Does a front not forget what it was told to? The session had better end then: the others wait for what it holds.
    pub fn is_stuck(&self, now: Moment, term_ns: u64) -> bool {
        let forgets = |one: &Recalled| matches!(one.stage, Stage::Fading | Stage::Closed);
        self.recalled.iter().any(|one| forgets(one) && now.since_ns(one.since) >= FORGET_PATIENCE_TERMS * term_ns)
    }

    /// Time passes. Exclusive leases that nobody uses begin to be shared.
    pub fn on_tick(&mut self, now: Moment) -> Option<Next> {
        self.changed |= self.own.on_tick(now);
        if self.exclusive.is_empty() || now.since_ns(self.used_at) < IDLE_NS {
            return None;
        }
        self.used_at = now;
        self.begin(now, self.exclusive.clone(), Mode::Shared, false)
    }

    /// The session has ended.
    pub fn lose(&mut self) {
        let (next_id, published) = (self.next_id, std::mem::take(&mut self.published));
        let (own, kept) = (std::mem::take(&mut self.own), std::mem::take(&mut self.kept));
        *self = Leases { next_id, published, own, kept, changed: true, ..Leases::default() };
    }

    /// Something had to go through the quorum, because these ranges are not held in this mode: they would be useful.
    pub fn want(&mut self, now: Moment, ranges: &[KeyRange], mode: Mode) {
        for range in ranges {
            let Some((volume, first, last)) = whole_objects(range) else { continue };
            let range = KeyRange::objects(volume, first, last);
            let name = (range.start.clone(), mode);
            let asked = self.recent.get(&name).is_some_and(|at| now.since_ns(*at) < WANT_AGAIN_NS);
            let recalled = self.recalled.iter().any(|one| one.ranges.iter().any(|other| other.overlaps(&range)));
            if asked || recalled || self.held_in(mode).covers(&range) {
                continue;
            }
            if self.recent.len() >= RECENT_MAX {
                self.recent.retain(|_, at| now.since_ns(*at) < WANT_AGAIN_NS);
            }
            if self.recent.len() < RECENT_MAX && self.wants.len() < WANTS_MAX {
                self.recent.insert(name, now);
                self.wants.push(Want { range, mode, urgent: false });
            }
        }
    }

    fn held_in(&self, mode: Mode) -> &RangeSet {
        match mode {
            Mode::Shared => &self.held,
            Mode::Exclusive => &self.exclusive,
        }
    }

    /// What is to be asked for now.
    pub fn take_wants(&mut self) -> Vec<Want> {
        let mut wants = std::mem::take(&mut self.wants);
        wants.retain(|want| !self.held_in(want.mode).covers(&want.range));
        wants
    }

    /// Somebody needs these ranges in this mode. Says what has to happen, if there is something to give up. `unseen`: the
    /// session may hold them although this replica does not show it yet.
    pub fn recall(&mut self, now: Moment, ranges: &[KeyRange], needed: Mode, unseen: bool) -> Option<Next> {
        // Who is needed away to read is the holder of an exclusive lease.
        let in_the_way = match needed {
            Mode::Shared => self.exclusive.clone(),
            Mode::Exclusive => self.held.clone(),
        };
        let mut given = RangeSet::default();
        for range in ranges {
            let Some((volume, first, last)) = whole_objects(range) else { continue };
            let asked = KeyRange::objects(volume, first, last);
            if unseen {
                given.insert(asked.clone());
            }
            let given_up = self.recalled.iter().any(|one| one.ranges.iter().any(|other| other.overlaps(&asked)));
            if in_the_way.touches(range) && !given_up {
                let round = self.round(now, volume, first);
                let (first, last) = (first.0 & !(round - 1), last.0 | (round - 1));
                let wide = KeyRange::objects(volume, ObjectId(first), ObjectId(last));
                in_the_way.within(&wide).into_iter().for_each(|range| given.insert(range));
            }
        }
        self.begin(now, given, needed, true)
    }

    /// Begins to give these ranges up, or to share them, as far as that has not begun already.
    fn begin(&mut self, now: Moment, mut given: RangeSet, needed: Mode, cool: bool) -> Option<Next> {
        for range in self.recalled.iter().flat_map(|one| &one.ranges) {
            given.remove(range);
        }
        if given.is_empty() {
            return None;
        }
        self.changed = true;
        let (id, ranges) = (self.fresh_id(), given.ranges().to_vec());
        let stage = if needed == Mode::Shared { Stage::Shipping } else { Stage::Fading };
        self.recalled.push(Recalled { id, since: now, ranges: ranges.clone(), stage, needed, cool });
        Some(match stage {
            Stage::Shipping => Next::Ship(id),
            _ => Next::Forget(ToForget { id, ranges, what: What::All }),
        })
    }

    /// The fronts have forgotten what [`ToForget`] `id` said.
    pub fn forgotten(&mut self, id: u64) -> Option<Next> {
        for range in self.own.forgotten(id) {
            self.forget_kept(&range);
        }
        let recalled = self.recalled.iter_mut().find(|one| one.id == id)?;
        let ranges = recalled.ranges.clone();
        match recalled.stage {
            Stage::Fading => {
                recalled.stage = Stage::Closed;
                self.changed = true;
                ranges.iter().for_each(|range| self.forget_kept(range));
                Some(Next::Forget(ToForget { id, ranges, what: What::Rest }))
            }
            Stage::Closed => {
                recalled.stage = Stage::Shipping;
                Some(Next::Ship(id))
            }
            Stage::Shipping | Stage::Yielding => None,
        }
    }

    /// All that was answered when [`Next::Ship`] `id` was given is in the session's line.
    pub fn shipped(&mut self, id: u64) -> Option<Next> {
        self.own.shipped(id);
        let recalled = self.recalled.iter_mut().find(|one| one.id == id && one.stage == Stage::Shipping)?;
        recalled.stage = Stage::Yielding;
        let (ranges, cool) = (recalled.ranges.clone(), recalled.cool);
        Some(Next::Tell(match recalled.needed {
            Mode::Shared => RequestBody::Downgrade { ranges, cool },
            Mode::Exclusive => RequestBody::Yield { ranges, cool },
        }))
    }

    /// The log has taken what recall `id` gave up.
    pub fn yielded(&mut self, id: u64) {
        self.recalled.retain(|one| one.id != id);
        self.changed = true;
    }

    /// The table has no room for what would be left of the ranges that recall `id` cuts: they are given up, or shared, whole.
    pub fn give_up_whole(&mut self, now: Moment, id: u64) -> Option<Next> {
        let at = self.recalled.iter().position(|one| one.id == id)?;
        let Recalled { ranges, needed, cool, .. } = self.recalled.remove(at);
        let mut whole: RangeSet = ranges.into_iter().collect();
        for held in self.held.ranges() {
            if whole.touches(held) {
                whole.insert(held.clone());
            }
        }
        self.begin(now, whole, needed, cool)
    }

    /// This node is about to ship commit `token`, which writes these ranges: until it is done, nothing is answered there from a
    /// replica that may be behind. Says what has to happen before it may be shipped. Of an object that the commit itself makes (`is_new`) nothing can be kept yet.
    pub fn write(
        &mut self,
        now: Moment,
        token: Token,
        writes: &[KeyRange],
        is_new: impl Fn(ObjectId) -> bool,
    ) -> Vec<Next> {
        // Whether they are held or not: a lease may be granted while the commit is on its way.
        let whole: Vec<(VolumeId, ObjectId, ObjectId)> = writes.iter().filter_map(whole_objects).collect();
        let range = |(volume, first, last): &(VolumeId, ObjectId, ObjectId)| KeyRange::objects(*volume, *first, *last);
        let objects: RangeSet = whole.iter().map(range).collect();
        let known: RangeSet =
            whole.iter().filter(|(_, first, last)| first != last || !is_new(*first)).map(range).collect();
        let ranges: Vec<KeyRange> = known.ranges().iter().filter(|range| self.kept.touches(range)).cloned().collect();
        let id = self.fresh_id();
        self.changed = true;
        let forgets = (!ranges.is_empty()).then(|| ranges.clone());
        self.own.begin(now, token, writes.to_vec(), objects, id, forgets);
        let forget = (!ranges.is_empty()).then_some(Next::Forget(ToForget { id, ranges, what: What::Own }));
        forget.into_iter().chain([Next::Ship(id)]).collect()
    }

    /// A number for [`SessionEffect::ShipPending`](crate::SessionEffect::ShipPending) that no other has.
    pub fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
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
        let (reads, keeps, writes) = (self.held.clone(), self.held.clone(), self.exclusive.clone());
        let mut usable = Usable { reads, keeps, writes, until: self.until, time: self.time };
        for one in &self.recalled {
            let (is_given_up, is_closed) = (one.needed == Mode::Exclusive, one.stage != Stage::Fading);
            for range in &one.ranges {
                if is_given_up {
                    usable.keeps.remove(range);
                }
                if is_given_up && is_closed {
                    usable.reads.remove(range);
                }
                if is_closed {
                    usable.writes.remove(range);
                }
            }
        }
        self.own.take_out_of(&mut usable);
        (usable != self.published).then(|| {
            usable.keeps.ranges().iter().for_each(|range| self.kept.insert(range.clone()));
            self.published = usable.clone();
            usable
        })
    }

    /// How many objects around a recalled one are given up, a power of two: more, the more others were recalled around here. (One that is recalled again and
    /// again says nothing about its neighbours: two nodes meet on it.)
    fn round(&mut self, now: Moment, volume: VolumeId, first: ObjectId) -> u64 {
        self.recalls.retain(|(at, object)| now.since_ns(*at) <= NEIGHBOURHOOD_NS && *object != (volume, first));
        if self.recalls.len() >= RECALLS_MAX {
            self.recalls.pop_front();
        }
        let around =
            |(of, object): (VolumeId, ObjectId)| of == volume && object.0 / LARGE_BLOCK == first.0 / LARGE_BLOCK;
        let before = self.recalls.iter().filter(|(_, object)| around(*object)).count();
        self.recalls.push_back((now, (volume, first)));
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
        hold(&mut leases, KeyRange::objects(V, ObjectId(0), ObjectId(100_000)), Mode::Shared);
        leases
    }

    fn hold(leases: &mut Leases, range: KeyRange, mode: Mode) {
        let held: RangeSet = [range].into_iter().collect();
        let exclusive = if mode == Mode::Exclusive { held.clone() } else { RangeSet::default() };
        leases.on_table(NOW, held, exclusive);
        leases.live_until(Moment(9_000_000_000), (NOW, 0));
        leases.news();
    }

    fn recall(leases: &mut Leases, ranges: &[KeyRange], unseen: bool) -> Option<ToForget> {
        let next = leases.recall(NOW, ranges, Mode::Exclusive, unseen);
        next.map(|next| to_forget(next).unwrap())
    }

    fn to_forget(next: Next) -> Option<ToForget> {
        match next {
            Next::Forget(to_forget) => Some(to_forget),
            _ => None,
        }
    }

    /// Everything that was pending is shipped at once; gives what has to be forgotten.
    fn write(leases: &mut Leases, token: Token, writes: &[KeyRange]) -> Option<ToForget> {
        let next = leases.write(NOW, token, writes, |_| false);
        let Some(Next::Ship(id)) = next.last().cloned() else { panic!("nothing is shipped: {next:?}") };
        assert_eq!(leases.shipped(id), None);
        next.into_iter().find_map(to_forget)
    }

    #[test]
    fn a_recall_first_ends_keeping_then_reading_then_the_lease() {
        let mut leases = holder();
        let forget = recall(&mut leases, &[object(7)], false).unwrap();
        assert_eq!((&forget.ranges[..], forget.what), (&[object(7)][..], What::All));
        let fading = leases.news().unwrap();
        assert!(
            fading.reads.covers(&object(7)) && !fading.keeps.touches(&object(7)) && fading.keeps.covers(&object(8))
        );
        assert_eq!(recall(&mut leases, &[object(7)], false), None, "it is being given up");
        let rest = ToForget { what: What::Rest, ..forget.clone() };
        assert_eq!(leases.forgotten(forget.id), Some(Next::Forget(rest)));
        assert!(!leases.news().unwrap().reads.touches(&object(7)));
        assert_eq!(leases.shipped(forget.id), None, "the fronts have not forgotten the rest");
        assert_eq!(leases.forgotten(forget.id), Some(Next::Ship(forget.id)));
        assert_eq!(leases.forgotten(forget.id), None);
        let body = RequestBody::Yield { ranges: vec![object(7)], cool: true };
        assert_eq!(leases.shipped(forget.id), Some(Next::Tell(body)));
        assert_eq!(leases.shipped(forget.id), None);
        // A grant elsewhere in the log leaves what was given up closed, until the log has taken it.
        leases.on_table(NOW, [KeyRange::volume(V)].into_iter().collect(), RangeSet::default());
        assert!(!leases.news().unwrap().reads.touches(&object(7)));
        leases.yielded(forget.id);
        assert!(leases.news().unwrap().keeps.covers(&object(7)), "granted anew meanwhile");
    }

    #[test]
    fn a_lease_that_this_replica_does_not_show_yet_is_given_up_unseen() {
        let mut leases = Leases::default();
        assert_eq!(recall(&mut leases, &[object(7)], false), None);
        let forget = recall(&mut leases, &[object(7)], true).unwrap();
        leases.on_table(NOW, [KeyRange::volume(V)].into_iter().collect(), RangeSet::default());
        assert!(!leases.news().unwrap().keeps.touches(&object(7)));
        leases.forgotten(forget.id);
        assert!(!leases.news().unwrap().reads.touches(&object(7)));
    }

    #[test]
    fn a_full_table_makes_whole_ranges_go() {
        let mut leases = holder();
        let forget = recall(&mut leases, &[object(7)], false).unwrap();
        let whole = leases.give_up_whole(NOW, forget.id).and_then(to_forget).unwrap();
        assert_eq!(whole.ranges, [KeyRange::objects(V, ObjectId(0), ObjectId(100_000))]);
        assert!(leases.news().unwrap().keeps.is_empty());
    }

    #[test]
    fn what_this_node_writes_is_not_answered_until_its_replica_has_it() {
        let mut leases = holder();
        let name = [KeyRange::one(&Key::dirent(V, ObjectId(7), b"name"))];
        let forget = write(&mut leases, 1, &name).unwrap();
        let other = write(&mut leases, 3, &name).unwrap();
        leases.forgotten(other.id);
        assert!(leases.may_ship(3), "whoever writes while the fronts are still forgetting waits for them as well");
        leases.written(3);
        assert_eq!((&forget.ranges[..], forget.what), (&[object(7)][..], What::Own));
        assert!(!leases.may_ship(1));
        let usable = leases.news().unwrap();
        assert!(
            !usable.reads.touches(&name[0]) && !usable.keeps.touches(&object(7)) && usable.keeps.covers(&object(8))
        );
        assert_eq!(leases.forgotten(forget.id), None);
        assert!(leases.may_ship(1));
        assert_eq!(write(&mut leases, 2, &name), None, "nothing is kept there any more");
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
    fn of_an_object_that_is_being_made_nothing_is_forgotten() {
        let mut leases = holder();
        let writes = [KeyRange::one(&Key::dirent(V, ObjectId(7), b"name")), object(8)];
        let next = leases.write(NOW, 1, &writes, |object| object == ObjectId(8));
        let forget = next.into_iter().find_map(to_forget).unwrap();
        assert_eq!(forget.ranges, [object(7)]);
        assert!(!leases.news().unwrap().keeps.touches(&object(8)), "it is not to be kept before it is there");
        leases.forgotten(forget.id);
        leases.written(1);
        leases.on_tick(Moment(NOW.0 + crate::own_writes::QUIET_NS + 1));
        assert!(leases.news().unwrap().keeps.covers(&object(8)));
        let forget = write(&mut leases, 2, &[object(8)]).unwrap();
        assert_eq!(forget.ranges, [object(8)], "by now it may be kept");
    }

    #[test]
    fn a_lease_that_is_granted_while_a_write_is_on_its_way_does_not_cover_it() {
        let mut leases = Leases::default();
        assert_eq!(write(&mut leases, 1, &[object(7)]), None);
        leases.on_table(NOW, [KeyRange::volume(V)].into_iter().collect(), RangeSet::default());
        leases.live_until(Moment(9_000_000_000), (NOW, 0));
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
                let forget = recall(&mut leases, &[object(8192 + 100 * i)], false);
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
    fn one_that_is_recalled_again_and_again_is_given_up_alone() {
        let mut leases = holder();
        let object = object(8192);
        for moment in (0..20).map(|i| Moment(NOW.0 + i * NEIGHBOURHOOD_NS / 10)) {
            let forget = match leases.recall(moment, std::slice::from_ref(&object), Mode::Exclusive, false) {
                Some(Next::Forget(forget)) => forget,
                other => panic!("{other:?}"),
            };
            assert_eq!(
                forget.ranges,
                std::slice::from_ref(&object),
                "where two meet on an object, its directory stays leased"
            );
            leases.yielded(forget.id);
        }
    }

    #[test]
    fn what_was_asked_for_is_not_asked_for_again_at_once() {
        let mut leases = Leases::default();
        leases.want(NOW, &[object(3), object(3)], Mode::Shared);
        assert_eq!(leases.take_wants().len(), 1);
        leases.want(NOW, &[object(3)], Mode::Shared);
        assert!(leases.take_wants().is_empty());
        leases.want(Moment(NOW.0 + WANT_AGAIN_NS), &[object(3)], Mode::Shared);
        assert_eq!(leases.take_wants().len(), 1);
    }

    #[test]
    fn who_wants_to_read_waits_until_all_is_shipped_and_the_holder_reads_on() {
        let mut leases = Leases::default();
        hold(&mut leases, KeyRange::objects(V, ObjectId(0), ObjectId(100)), Mode::Exclusive);
        let next = leases.recall(NOW, &[object(7)], Mode::Shared, false);
        let Some(Next::Ship(id)) = next else { panic!("{next:?}") };
        let usable = leases.news().unwrap();
        assert!(!usable.writes.touches(&object(7)) && usable.writes.covers(&object(8)));
        assert!(usable.reads.covers(&object(7)) && usable.keeps.covers(&object(7)));
        let body = RequestBody::Downgrade { ranges: vec![object(7)], cool: true };
        assert_eq!(leases.shipped(id), Some(Next::Tell(body)));
        assert_eq!(leases.recall(NOW, &[object(7)], Mode::Exclusive, false), None, "one after the other");
        leases.yielded(id);
        let held: RangeSet = [KeyRange::objects(V, ObjectId(0), ObjectId(100))].into_iter().collect();
        let mut exclusive = held.clone();
        exclusive.remove(&object(7));
        leases.on_table(NOW, held, exclusive);
        assert_eq!(leases.recall(NOW, &[object(7)], Mode::Shared, false), None, "it is shared already");
        assert!(recall(&mut leases, &[object(7)], false).is_some());
    }

    #[test]
    fn an_exclusive_lease_that_is_not_used_is_shared() {
        let mut leases = Leases::default();
        hold(&mut leases, object(7), Mode::Exclusive);
        leases.used(Moment(NOW.0 + 1));
        assert_eq!(leases.on_tick(Moment(NOW.0 + IDLE_NS)), None);
        let next = leases.on_tick(Moment(NOW.0 + IDLE_NS + 1));
        let Some(Next::Ship(id)) = next else { panic!("{next:?}") };
        let body = RequestBody::Downgrade { ranges: vec![object(7)], cool: false };
        assert_eq!(leases.shipped(id), Some(Next::Tell(body)));
    }

    #[test]
    fn what_is_shipped_is_behind_what_was_answered_and_nothing_is_answered_there_meanwhile() {
        let mut leases = Leases::default();
        hold(&mut leases, KeyRange::objects(V, ObjectId(0), ObjectId(100)), Mode::Exclusive);
        let next = leases.write(NOW, 1, &[object(7)], |_| false);
        assert!(!leases.may_ship(1));
        let usable = leases.news().unwrap();
        assert!(!usable.writes.touches(&object(7)) && usable.writes.covers(&object(8)));
        let Some(Next::Ship(id)) = next.last() else { panic!("{next:?}") };
        leases.shipped(*id);
        next.into_iter().filter_map(to_forget).for_each(|forget| assert_eq!(leases.forgotten(forget.id), None));
        assert!(leases.may_ship(1));
        leases.written(1);
        assert!(leases.news().unwrap().writes.covers(&object(7)));
    }

    #[test]
    fn a_session_that_ended_leaves_nothing() {
        let mut leases = holder();
        let forget = recall(&mut leases, &[object(7)], false).unwrap();
        leases.lose();
        assert_eq!(leases.news(), Some(Usable::default()));
        assert_eq!(leases.forgotten(forget.id), None);
    }
}
