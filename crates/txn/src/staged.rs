//! Objects that were staged: written before the commit that ties them in. A part of the replicated state.
//!
//! `docs/protocols/transactions.md` has the whole of it. A group: (none) -> staged -> adopted, and forgotten; or abandoned -> reaped, and forgotten. What is
//! written for it, and whether it may be, the caller knows.
//!
//! Invariants (checked by [`Staged::check_invariants`]):
//! 1. There are [`GROUPS_MAX`] groups at most, those that are abandoned among them, with [`RUNS_MAX`] runs and [`STAGES_MAX`] stages; fewer of each session
//!    and each group.
//! 2. No two groups of a volume have an object in common. Runs of a group do not touch.

use gavel_types::{KeyRange, ObjectId, SessionId, Tid, VolumeId};
use gavel_wire::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Most groups that are staged or abandoned. More may be abandoned by making clones, which are refused then.
pub const GROUPS_MAX: usize = 1024;
/// Most groups that a session has staged.
pub const GROUPS_OF_SESSION_MAX: usize = 64;
/// Most runs of object ids of all groups.
pub const RUNS_MAX: usize = 64 * 1024;
/// Most runs of one group.
pub const RUNS_OF_GROUP_MAX: usize = 16 * 1024;
/// Most stages of all groups.
pub const STAGES_MAX: usize = 16 * 1024;
/// Most stages of one group.
pub const STAGES_OF_GROUP_MAX: usize = 4096;
/// Most runs that one item looks at when it reaps: those of objects that were never written cost a look each.
const REAP_RUNS_MAX: usize = 256;

const _: () = assert!(RUNS_OF_GROUP_MAX <= RUNS_MAX && STAGES_OF_GROUP_MAX <= STAGES_MAX);

/// What belongs together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    volume: VolumeId,
    /// First object of a run -> the last one.
    runs: BTreeMap<ObjectId, ObjectId>,
    /// The transactions that wrote its records.
    stages: Vec<Tid>,
}

impl Group {
    /// Where its objects are.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Does the object belong to it?
    pub fn holds(&self, object: ObjectId) -> bool {
        self.runs.range(..=object).next_back().is_some_and(|(_, last)| *last >= object)
    }

    /// Its runs of object ids: the first and the last of each.
    pub fn runs(&self) -> impl Iterator<Item = (ObjectId, ObjectId)> {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }

    /// The transactions that wrote its records.
    pub fn stages(&self) -> &[Tid] {
        &self.stages
    }

    /// Has it an object of a run?
    fn touches(&self, (first, last): (ObjectId, ObjectId)) -> bool {
        self.runs.range(..=last).next_back().is_some_and(|(_, end)| *end >= first)
    }

    /// A run that none of its runs has an object of.
    fn add(&mut self, (mut first, mut last): (ObjectId, ObjectId)) {
        if let Some((before, end)) = self.runs.range(..first).next_back().map(|(first, last)| (*first, *last))
            && end.0 + 1 == first.0
        {
            self.runs.remove(&before);
            first = before;
        }
        if let Some(end) = self.runs.remove(&ObjectId(last.0 + 1)) {
            last = end;
        }
        self.runs.insert(first, last);
    }
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Staged {
    groups: BTreeMap<(SessionId, u64), Group>,
    /// The first one is being reaped.
    abandoned: VecDeque<Group>,
}

impl Staged {
    /// Groups that are staged, and those that are abandoned.
    pub fn len(&self) -> (usize, usize) {
        (self.groups.len(), self.abandoned.len())
    }

    /// Is nothing staged, and nothing to be reaped?
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Is anything to be reaped?
    pub fn has_abandoned(&self) -> bool {
        !self.abandoned.is_empty()
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().chain(&self.abandoned)
    }

    /// Is the object staged, or left from what was?
    pub fn holds(&self, volume: VolumeId, object: ObjectId) -> bool {
        self.groups().any(|group| group.volume == volume && group.holds(object))
    }

    /// Those whose groups are staged.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.groups.keys().map(|(session, _)| *session)
    }

    /// A group that is staged.
    pub fn group(&self, session: SessionId, group: u64) -> Option<&Group> {
        self.groups.get(&(session, group))
    }

    /// May the session stage these runs as a part of `group`? They are in order and do not overlap each other.
    ///
    /// # Errors
    /// `Missing` if the group is of another volume, `Exists` if an object belongs to a group already, `Full` if there is no room.
    pub(crate) fn check(
        &self,
        (session, group): (SessionId, u64),
        volume: VolumeId,
        runs: &[(ObjectId, ObjectId)],
    ) -> Result<(), Refusal> {
        let known = self.group(session, group);
        if known.is_some_and(|known| known.volume != volume) {
            return Err(Refusal::Missing);
        }
        let (own_runs, own_stages) = known.map_or((0, 0), |known| (known.runs.len(), known.stages.len()));
        let of_session = self.groups.range((session, 0)..=(session, u64::MAX)).count();
        let new = usize::from(known.is_none());
        let full = of_session + new > GROUPS_OF_SESSION_MAX
            || own_runs + runs.len() > RUNS_OF_GROUP_MAX
            || own_stages + 1 > STAGES_OF_GROUP_MAX
            || !self.has_room(new, runs.len(), 1);
        if full {
            return Err(Refusal::Full);
        }
        let taken = |run: &(ObjectId, ObjectId)| self.of(volume).any(|group| group.touches(*run));
        if runs.iter().any(taken) { Err(Refusal::Exists) } else { Ok(()) }
    }

    fn of(&self, volume: VolumeId) -> impl Iterator<Item = &Group> {
        self.groups().filter(move |group| group.volume == volume)
    }

    fn has_room(&self, groups: usize, runs: usize, stages: usize) -> bool {
        let (staged, abandoned) = self.len();
        staged + abandoned + groups <= GROUPS_MAX
            && self.groups().map(|group| group.runs.len()).sum::<usize>() + runs <= RUNS_MAX
            && self.groups().map(|group| group.stages.len()).sum::<usize>() + stages <= STAGES_MAX
    }

    /// Transaction `tid` has staged objects of these runs, which [`Staged::check`] has found good.
    pub(crate) fn add(&mut self, tid: Tid, whose: (SessionId, u64), volume: VolumeId, runs: &[(ObjectId, ObjectId)]) {
        let new = || Group { volume, runs: BTreeMap::new(), stages: Vec::new() };
        let group = self.groups.entry(whose).or_insert_with(new);
        runs.iter().for_each(|run| group.add(*run));
        group.stages.push(tid);
    }

    /// The group is a part of the volume.
    pub(crate) fn adopt(&mut self, session: SessionId, group: u64) {
        self.groups.remove(&(session, group));
    }

    /// The group is to be reaped. Nothing happens if there is none.
    pub(crate) fn abandon(&mut self, session: SessionId, group: u64) {
        self.abandoned.extend(self.groups.remove(&(session, group)));
    }

    /// The session has ended.
    pub(crate) fn end(&mut self, session: SessionId) {
        while let Some((whose, _)) = self.groups.range((session, 0)..=(session, u64::MAX)).next() {
            let whose = *whose;
            self.abandoned.extend(self.groups.remove(&whose));
        }
    }

    /// Nobody stages anything in the volume any more: what is staged there is to be reaped.
    pub(crate) fn abandon_all(&mut self, volume: VolumeId) {
        let of_volume = |group: &Group| group.volume == volume;
        let whose: Vec<_> = self.groups.iter().filter(|(_, group)| of_volume(group)).map(|(whose, _)| *whose).collect();
        self.abandoned.extend(whose.into_iter().filter_map(|whose| self.groups.remove(&whose)));
    }

    /// Is anything staged in the volume, or left from what was?
    pub(crate) fn is_in(&self, volume: VolumeId) -> bool {
        self.of(volume).next().is_some()
    }

    /// A clone shows what was staged in its origin as of `at`: there it is to be reaped. False if there is no room: nothing has changed then.
    pub(crate) fn clone_abandoned(&mut self, from: VolumeId, at: Tid, to: VolumeId) -> bool {
        let shown = |group: &&Group| group.stages.first().is_some_and(|first| *first <= at);
        let shown: Vec<Group> = self.of(from).filter(shown).cloned().collect();
        let runs = shown.iter().map(|group| group.runs.len()).sum();
        let stages = shown.iter().map(|group| group.stages.len()).sum();
        let fits = self.has_room(shown.len(), runs, stages);
        if fits {
            self.abandoned.extend(shown.into_iter().map(|group| Group { volume: to, ..group }));
        }
        fits
    }

    /// All of a volume has gone, or goes.
    pub(crate) fn forget(&mut self, volume: VolumeId) {
        self.groups.retain(|_, group| group.volume != volume);
        self.abandoned.retain(|group| group.volume != volume);
    }

    /// Where the next objects are that are to be reaped: their volume, and ranges of keys in order.
    pub(crate) fn to_reap(&self) -> Option<(VolumeId, Vec<KeyRange>)> {
        let group = self.abandoned.front()?;
        let ranges = group.runs().take(REAP_RUNS_MAX).map(|(first, last)| KeyRange::objects(group.volume, first, last));
        Some((group.volume, ranges.collect()))
    }

    /// Of the objects that [`Staged::to_reap`] gave, all before `next` are gone; all of them if there is no next one.
    pub(crate) fn reaped(&mut self, next: Option<ObjectId>) {
        let Some(group) = self.abandoned.front_mut() else { return };
        for _ in 0..REAP_RUNS_MAX {
            let Some((first, last)) = group.runs.first_key_value().map(|(first, last)| (*first, *last)) else { break };
            match next {
                Some(next) if next <= last => {
                    group.runs.remove(&first);
                    group.runs.insert(next.max(first), last);
                    break;
                }
                _ => drop(group.runs.remove(&first)),
            }
        }
        if group.runs.is_empty() {
            self.abandoned.pop_front();
        }
    }

    /// Asserts the invariants that the module's documentation numbers.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        assert!(self.has_room(0, 0, 0), "too much is staged");
        let mut by_volume: BTreeMap<(VolumeId, ObjectId), ObjectId> = BTreeMap::new();
        for group in self.groups() {
            assert!(group.runs.len() <= RUNS_OF_GROUP_MAX && group.stages.len() <= STAGES_OF_GROUP_MAX);
            let mut behind = None;
            for (first, last) in group.runs() {
                assert!(first <= last && behind.is_none_or(|behind| first.0 > behind), "runs of a group touch");
                behind = last.0.checked_add(1);
                assert_eq!(by_volume.insert((group.volume, first), last), None, "an object of two groups");
            }
        }
        let mut before: Option<(VolumeId, ObjectId)> = None;
        for ((volume, first), last) in by_volume {
            assert!(before.is_none_or(|before| before < (volume, first)), "{first} belongs to two groups");
            before = Some((volume, last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeId = VolumeId(1);
    const S: SessionId = SessionId(7);

    fn run(first: u64, last: u64) -> (ObjectId, ObjectId) {
        (ObjectId(first), ObjectId(last))
    }

    fn stage(staged: &mut Staged, group: u64, runs: &[(ObjectId, ObjectId)]) -> Result<(), Refusal> {
        staged.check((S, group), V, runs)?;
        staged.add(Tid(100), (S, group), V, runs);
        staged.check_invariants();
        Ok(())
    }

    #[test]
    fn runs_that_touch_are_one_and_none_is_of_two_groups() {
        let mut staged = Staged::default();
        stage(&mut staged, 1, &[run(10, 19), run(30, 39)]).unwrap();
        stage(&mut staged, 1, &[run(20, 29)]).unwrap();
        let group = staged.group(S, 1).unwrap();
        assert_eq!(group.runs().collect::<Vec<_>>(), [run(10, 39)]);
        assert!(group.holds(ObjectId(39)) && !group.holds(ObjectId(9)) && !group.holds(ObjectId(40)));
        for taken in [run(5, 10), run(39, 50), run(1, 100), run(15, 15)] {
            assert_eq!(stage(&mut staged, 2, &[run(1, 1), taken]), Err(Refusal::Exists), "{taken:?}");
            assert_eq!(stage(&mut staged, 1, &[taken]), Err(Refusal::Exists), "{taken:?}");
        }
        stage(&mut staged, 2, &[run(40, 40)]).unwrap();
        staged.abandon(S, 1);
        assert_eq!(
            stage(&mut staged, 2, &[run(12, 12)]),
            Err(Refusal::Exists),
            "what is to be reaped is not staged anew"
        );
        assert_eq!(staged.group(S, 2).unwrap().stages(), [Tid(100)]);
        staged.adopt(S, 2);
        assert_eq!(staged.len(), (0, 1));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut staged = Staged::default();
        for group in 0..GROUPS_OF_SESSION_MAX as u64 {
            stage(&mut staged, group, &[run(group * 10, group * 10)]).unwrap();
        }
        assert_eq!(stage(&mut staged, 9999, &[run(5, 5)]), Err(Refusal::Full));
        let odd: Vec<_> = (0..RUNS_OF_GROUP_MAX as u64).map(|i| run(10_001 + i * 2, 10_001 + i * 2)).collect();
        assert_eq!(stage(&mut staged, 0, &odd), Err(Refusal::Full), "it has one already");
        stage(&mut staged, 0, &odd[1..]).unwrap();
        for _ in 2..STAGES_OF_GROUP_MAX {
            staged.add(Tid(100), (S, 0), V, &[]);
        }
        assert_eq!(stage(&mut staged, 0, &[]), Err(Refusal::Full));
        staged.end(S);
        assert_eq!(staged.len(), (0, GROUPS_OF_SESSION_MAX));
        staged.forget(V);
        assert!(staged.is_empty());
    }

    #[test]
    fn a_group_is_reaped_from_its_first_object_on() {
        let mut staged = Staged::default();
        stage(&mut staged, 1, &[run(10, 19), run(30, 39)]).unwrap();
        assert_eq!(staged.to_reap(), None);
        staged.end(S);
        let ranges = |runs: &[(ObjectId, ObjectId)]| {
            Some((V, runs.iter().map(|(first, last)| KeyRange::objects(V, *first, *last)).collect()))
        };
        assert_eq!(staged.to_reap(), ranges(&[run(10, 19), run(30, 39)]));
        staged.reaped(Some(ObjectId(12)));
        assert_eq!(staged.to_reap(), ranges(&[run(12, 19), run(30, 39)]));
        staged.reaped(Some(ObjectId(30)));
        assert_eq!(staged.to_reap(), ranges(&[run(30, 39)]));
        staged.reaped(None);
        assert!(staged.is_empty());
    }
}
