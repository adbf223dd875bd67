//! Mirrors: volumes that hold what a volume of another cluster held, and move on from one of its states to a later one.
//!
//! `docs/protocols/mirroring.md` has the whole of it.
//!
//! Invariants (checked by [`VolumePast::check_mirror`]):
//! 1. The boundary can be read, of every object.
//! 2. A step that is under way leads to the boundary or behind it, and has a part; the way back of a volume that was demoted has none until it begins.
//! 3. What a volume had before it was demoted lies before that, and the boundary is no earlier than the state that the source has had.

use crate::past::{Past, VolumePast};
use gavel_types::{MirrorSource, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::{Boundary, Demotion, Follow, MirrorStep, Refusal, UnderWay};
use serde::{Deserialize, Serialize};

/// Object ids that a mirror may have are less: so many can never be given out.
pub const MIRRORED_IDS_END: ObjectId = ObjectId(1 << 62);
/// So many object ids are passed over when a mirror is promoted: what its former source makes from then on has other ids than what is made in it.
pub const PROMOTED_IDS_GAP: u64 = 1 << 40;

/// What a volume copies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mirror {
    /// The volume of another cluster.
    pub source: MirrorSource,
    /// The state that is shown, as of this volume's Tids.
    pub local: Tid,
    /// The same, as of the source's.
    pub state: Tid,
    /// The step that ended there was one transaction of the source.
    pub single: bool,
    /// The step that is under way.
    pub step: Option<Step>,
    /// Since when it is a volume as any other.
    pub promoted: Option<Tid>,
    /// What is made in it since then has this id, or a later one.
    pub ids_from: ObjectId,
    /// Where its stream comes from by itself.
    pub follow: Option<Box<Follow>>,
    /// Which part of the source it has.
    pub selection: Selection,
    /// What it was before, if it was demoted.
    pub former: Option<Former>,
}

/// What a mirror was that was a volume as any other before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Former {
    /// The last of its own states that the source has had, as of this volume's Tids.
    pub own: Tid,
    /// The same, as of the source's.
    pub state: Tid,
    /// Since when it is a mirror: what it had between `own` and that is not shown.
    pub at: Tid,
}

/// Where a promoted mirror comes from: up to there it has its source's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lineage {
    /// The source.
    pub source: MirrorSource,
    /// The last state of it that the mirror has had, as of the source's Tids.
    pub departed: Tid,
    /// The same, as of this volume's.
    pub state: Tid,
}

/// A step that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// How far it has come.
    pub at: UnderWay,
    /// What of a whole copy is there is of this state of the source, or of a later one: that to which the first of the steps has led which were gone on with.
    pub since: Tid,
}

impl Mirror {
    /// What is to be read of it now.
    pub fn boundary(&self) -> Boundary {
        // What lies on the way back is half of a step, as what lies on the way to another state is.
        let to = self.step.map_or(self.state, |step| if step.at.to == self.state { Tid::MAX } else { step.at.to });
        Boundary { source: self.state, local: self.local, to, single: self.single }
    }

    /// Where it comes from, if it was promoted. (What had a part of a volume only descends from no volume.)
    pub fn lineage(&self) -> Option<Lineage> {
        let received = self.promoted.is_some() && self.state != Tid::ZERO && self.selection.is_all();
        received.then_some(Lineage { source: self.source, departed: self.state, state: self.local })
    }

    /// May this part come next?
    fn takes(&self, step: &MirrorStep) -> bool {
        let under_way = self.step.map(|step| step.at);
        // Rows of another state may be there: they would stay.
        let begins = self.step.is_none_or(|before| before.at.to == step.to && before.since == step.to);
        step.from == self.state
            && step.to >= step.from
            && match (step.part, step.resumes) {
                (0, None) => begins || step.to == step.from,
                (0, Some(resumed)) => self.state == Tid::ZERO && step.to >= resumed.to && under_way == Some(resumed),
                (parts, _) => under_way == Some(UnderWay { to: step.to, parts }),
            }
    }

    /// The part is in, as of `tid`.
    fn take(&mut self, tid: Tid, step: &MirrorStep) {
        if !step.last {
            let goes_on = step.part > 0 || step.resumes.is_some();
            let since = self.step.filter(|_| goes_on).map_or(step.to, |before| before.since);
            self.step = Some(Step { at: UnderWay { to: step.to, parts: step.part.saturating_add(1) }, since });
            return;
        }
        self.step = None;
        self.local = tid;
        if step.to > self.state {
            (self.state, self.single) = (step.to, step.single);
        }
    }
}

impl Past {
    /// The mirror, if the volume is one and lives.
    pub(crate) fn mirror(&mut self, volume: VolumeId) -> Result<&mut Mirror, Refusal> {
        let past = self.living(volume)?;
        past.mirror.as_mut().filter(|mirror| mirror.promoted.is_none()).ok_or(Refusal::NotMirror)
    }

    /// A volume that was made at `tid` is to be a mirror.
    pub(crate) fn begin_mirror(&mut self, tid: Tid, volume: VolumeId, (source, selection): (MirrorSource, &Selection)) {
        if let Some(past) = self.volumes.get_mut(&volume) {
            let (state, single, ids_from) = (Tid::ZERO, false, ObjectId::VOLUME);
            let (step, promoted, follow, former, selection) = (None, None, None, None, selection.clone());
            let local = tid;
            past.mirror =
                Some(Mirror { source, local, state, single, step, promoted, ids_from, follow, selection, former });
        }
    }

    /// The boundary that there is if this part is taken at `tid`.
    ///
    /// # Errors
    /// [`Refusal`] if it must not be.
    pub(crate) fn next_boundary(&mut self, tid: Tid, step: &MirrorStep) -> Result<Boundary, Refusal> {
        let mirror = self.mirror(step.volume)?;
        if !mirror.takes(step) {
            return Err(Refusal::Behind);
        }
        let mut next = mirror.clone();
        next.take(tid, step);
        Ok(next.boundary())
    }

    /// The part is taken at `tid`.
    pub(crate) fn step_mirror(&mut self, tid: Tid, step: &MirrorStep) {
        if let Ok(mirror) = self.mirror(step.volume) {
            mirror.take(tid, step);
            self.revision += 1;
        }
    }

    /// `ids_from`: the next id that nobody has.
    pub(crate) fn promote(&mut self, tid: Tid, volume: VolumeId, ids_from: ObjectId) -> Result<(), Refusal> {
        let mirror = self.mirror(volume)?;
        if mirror.step.is_some() {
            return Err(Refusal::Behind);
        }
        mirror.promoted = Some(tid);
        mirror.ids_from = ids_from;
        mirror.follow = None;
        self.revision += 1;
        Ok(())
    }

    /// May the volume be made a mirror at `tid`, which is now?
    pub(crate) fn check_demotion(&self, tid: Tid, demotion: &Demotion) -> Result<(), Refusal> {
        let past = self.of(demotion.volume).filter(|past| past.is_living()).ok_or(Refusal::Missing)?;
        if past.is_mirror() {
            return Err(Refusal::ReadOnly);
        }
        if demotion.own >= tid || !past.is_whole(demotion.own) {
            return Err(Refusal::Pruned);
        }
        // Since it departed from a source itself, that one's mirrors are not its own.
        match &past.mirror {
            Some(mirror) if demotion.own < mirror.local => Err(Refusal::Behind),
            _ => Ok(()),
        }
    }

    /// The volume, which [`Past::check_demotion`] has found good, is a mirror from `tid` on. What it shows from now on.
    pub(crate) fn demote(&mut self, tid: Tid, demotion: &Demotion) -> Option<Boundary> {
        let Demotion { source, own, state, .. } = *demotion;
        let past = self.volumes.get_mut(&demotion.volume)?;
        let ids_from = past.mirror.as_ref().map_or(ObjectId::VOLUME, |mirror| mirror.ids_from);
        let (step, former) =
            (Some(Step { at: UnderWay { to: state, parts: 0 }, since: state }), Some(Former { own, state, at: tid }));
        let (single, promoted, follow) = (false, None, None);
        let mirror = Mirror {
            source,
            local: own,
            state,
            single,
            step,
            promoted,
            ids_from,
            follow,
            selection: Selection::default(),
            former,
        };
        let boundary = mirror.boundary();
        past.mirror = Some(mirror);
        self.revision += 1;
        Some(boundary)
    }

    pub(crate) fn follow(&mut self, volume: VolumeId, follow: Option<&Follow>) -> Result<(), Refusal> {
        if !follow.is_none_or(Follow::is_bounded) {
            return Err(Refusal::Full);
        }
        self.mirror(volume)?.follow = follow.cloned().map(Box::new);
        self.revision += 1;
        Ok(())
    }

    /// What is made in a volume has this id, or a later one: those before it may be mirrored ones.
    pub(crate) fn ids_from(&self, volume: VolumeId) -> ObjectId {
        self.of(volume).and_then(|past| past.mirror.as_ref()).map_or(ObjectId::VOLUME, |mirror| mirror.ids_from)
    }

    /// The greatest of these ids, of all volumes: blocks before it are not to be used any more.
    pub fn all_ids_from(&self) -> ObjectId {
        self.volumes().map(|(volume, _)| self.ids_from(volume)).max().unwrap_or_default()
    }

    /// Is the volume a mirror?
    pub fn is_mirror(&self, volume: VolumeId) -> bool {
        self.of(volume).is_some_and(VolumePast::is_mirror)
    }
}

impl VolumePast {
    /// Does only its source change it?
    pub fn is_mirror(&self) -> bool {
        self.boundary().is_some()
    }

    /// Since when it is what it is: made, demoted, or promoted. Whoever has used it before must begin anew.
    pub fn turned(&self) -> Tid {
        let turned = self.mirror.as_ref().and_then(|mirror| mirror.promoted.or(mirror.former.map(|former| former.at)));
        turned.unwrap_or(self.made)
    }

    /// The state that a mirror shows, as of this volume's Tids.
    pub fn boundary(&self) -> Option<Tid> {
        self.mirror.as_ref().filter(|mirror| mirror.promoted.is_none()).map(|mirror| mirror.local)
    }

    /// Asserts the invariants that the module's documentation numbers; `tid` is the last transaction.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub(crate) fn check_mirror(&self, tid: Tid) {
        let Some(mirror) = self.mirror.as_ref().filter(|_| self.is_mirror() && self.is_living()) else { return };
        let shown = self.is_whole(mirror.local) && mirror.local <= tid && mirror.local >= self.made;
        assert!(shown, "the boundary {} can't be read", mirror.local);
        let begins = |step: Step| step.at.to == mirror.state && mirror.former.is_some();
        let sound =
            |step: Step| (step.at.parts > 0 || begins(step)) && step.at.to >= mirror.state && step.at.to >= step.since;
        assert!(mirror.step.is_none_or(sound), "the step {:?} leads back from {}", mirror.step, mirror.state);
        let sound = |former: Former| former.own < former.at && former.at <= tid && mirror.state >= former.state;
        assert!(mirror.former.is_none_or(sound), "it was {:?} before, and shows {}", mirror.former, mirror.state);
    }
}
