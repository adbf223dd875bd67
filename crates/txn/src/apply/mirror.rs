//! Parts of steps of mirrors, and volumes that become mirrors, or are none any more.

use super::{Expanded, Run, done};
use crate::expand::{ExpandError, Expansion, PLAN_MUTATIONS_MAX};
use crate::mirrors::{MIRRORED_IDS_END, PROMOTED_IDS_GAP};
use gavel_lease::range::every_object;
use gavel_types::limits::NOTE_BYTES_MAX;
use gavel_types::{
    Class, Key, KeyParts, KeyRange, MirrorSource, NodeId, ObjectId, Selection, SessionId, Tid, VolumeId,
};
use gavel_wire::{
    Attr, Boundary, Committed, Demotion, Live, MirrorStep, Mode, Mutation, Orphan, Outcome, Plan, Record, Refusal,
    View, ViewError,
};
use std::collections::BTreeSet;

/// Permission bits of a mirror's root before the first step.
const EMPTY_MODE: u16 = 0o700;

impl Run<'_> {
    pub(super) fn create_mirror(
        &mut self,
        tid: Tid,
        name: &str,
        (source, selection): (MirrorSource, &Selection),
    ) -> Result<Result<(), Refusal>, ViewError> {
        if !selection.is_sound() {
            return Ok(Err(Refusal::Full));
        }
        let volume = match self.state.past.next_volume(name) {
            Ok(volume) => volume,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.make_volume(tid, volume, Some(name), (EMPTY_MODE, 0, 0))?;
        self.state.past.begin_mirror(tid, volume, (source, selection));
        Ok(Ok(()))
    }

    pub(super) fn promote(&mut self, tid: Tid, volume: VolumeId) -> Result<(), Refusal> {
        // So many promotions can't be, but a source may have used up what there is.
        let ids_from = self.state.next_object.0.saturating_add(PROMOTED_IDS_GAP).min(MIRRORED_IDS_END.0);
        let ids_from = self.state.next_object.max(ObjectId(ids_from));
        self.state.past.promote(tid, volume, ids_from)?;
        self.state.next_object = ids_from;
        Ok(())
    }

    /// A volume is a mirror from now on. What it is now is cloned before, if that is wanted.
    pub(super) fn demote(
        &mut self,
        tid: Tid,
        session: SessionId,
        demotion: &Demotion,
    ) -> Result<Result<(), Refusal>, ViewError> {
        let volume = demotion.volume;
        if let Err(refusal) = self.state.past.check_demotion(tid, demotion) {
            return Ok(Err(refusal));
        }
        // What others may have answered is not known here.
        if !self.state.leases.is_free(session, &every_object(volume), Mode::Exclusive) {
            return Ok(Err(Refusal::Leased));
        }
        let Some(orphans) = super::orphans_of(&self.view, volume)? else { return Ok(Err(Refusal::Full)) };
        match &demotion.save {
            Some(name) => {
                if let Err(refusal) = self.clone_volume(tid, volume, None, name)? {
                    return Ok(Err(refusal));
                }
            }
            None => {
                let (range, as_of) = (KeyRange::of_objects(volume), demotion.as_of);
                let known = as_of >= demotion.own && as_of < tid && self.state.past.knows_changes(&range, as_of);
                if !known || self.view.changed_after(&range, as_of)? {
                    return Ok(Err(Refusal::Behind));
                }
            }
        }
        let sessions: Vec<SessionId> = self.state.sessions.keys().copied().collect();
        for session in sessions {
            // A whole volume leaves nothing of a range that is cut: there is room for that.
            let _ = self.state.leases.give_up(session, &[KeyRange::volume(volume)], None);
        }
        self.out.leases = true;
        self.state.staged.abandon_all(volume);
        let boundary = self.state.past.demote(tid, demotion);
        // What has no name belongs to nobody any more, and what is there is half of a step.
        let mut expansion = Expansion::new(&self.view, tid);
        if let Some(boundary) = boundary {
            super::sound(expansion.set_record(&Key::boundary(volume), Record::Boundary(boundary)))?;
        }
        for object in &orphans {
            let mark = Record::Orphan(Orphan { holders: Vec::new() });
            super::sound(expansion.set_record(&Key::orphan(volume, *object), mark))?;
        }
        let done = super::sound(expansion.finish())?;
        self.take(tid, done)?;
        self.out.to_reap.extend(orphans.into_iter().map(|object| (volume, object)));
        Ok(Ok(()))
    }

    /// A volume that was demoted may have objects that nobody can reach: they are reaped before anything takes their place.
    fn has_nameless(&self, volume: VolumeId) -> Result<bool, ViewError> {
        let orphans = KeyRange::orphans_from(volume, ObjectId(0));
        Ok(self.state.staged.is_in(volume) || !self.view.scan(&orphans, 1)?.is_empty())
    }

    /// Would the plan make something in a volume that was a mirror, under an id that may have been mirrored?
    pub(super) fn makes_mirrored_id(&self, plan: &Plan) -> Result<bool, ViewError> {
        for mutation in &plan.mutations {
            let Mutation::Put { key, record: Record::Attr(_) } = mutation else { continue };
            if key.object() < self.state.past.ids_from(key.volume()) && self.view.get(key)?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One part of a step: whole, or not at all.
    pub(super) fn mirror_step(&mut self, tid: Tid, node: NodeId, step: &MirrorStep) -> Result<Outcome, ViewError> {
        let refused = |refusal| Ok(Outcome::Refused { refusal });
        let boundary = match self.state.past.next_boundary(tid, step) {
            Ok(boundary) => boundary,
            Err(refusal) => return refused(refusal),
        };
        if step.rows.len() > PLAN_MUTATIONS_MAX || step.author.note.len() > NOTE_BYTES_MAX {
            return refused(Refusal::BadPlan);
        }
        if step.part == 0 && self.has_nameless(step.volume)? {
            return refused(Refusal::Behind);
        }
        let blobs = step.rows.iter().filter_map(|(_, record)| record.as_ref()?.blob());
        if !self.blobs_are_there(blobs, step.stored_as_of)? {
            return refused(Refusal::Collected);
        }
        match self.expand_step(tid, step, boundary) {
            Ok(mut done) => {
                let by = Committed { node, uid: step.author.uid, note: step.author.note.clone(), staged: Vec::new() };
                super::sign(tid, &by, &BTreeSet::from([step.volume]), &mut done.0);
                self.take(tid, done)?;
            }
            Err(ExpandError::BadPlan(_)) => return refused(Refusal::BadPlan),
            Err(ExpandError::View(error)) => return Err(error),
        }
        // Nothing that is made here later must have an id that the mirror has got.
        if let Some(last) = step.rows.iter().map(|(key, _)| key.object()).max() {
            self.state.next_object = self.state.next_object.max(ObjectId(last.0 + 1));
        }
        self.state.past.step_mirror(tid, step);
        Ok(done(tid, Ok(())))
    }

    fn expand_step(&mut self, tid: Tid, step: &MirrorStep, boundary: Boundary) -> Result<Expanded, ExpandError> {
        let mut expansion = Expansion::new(&self.view, tid);
        for (key, record) in &step.rows {
            check_key(step.volume, key)?;
            match record {
                Some(record) => expansion.put(key, &self.of_mirror(step, key, record)?)?,
                None if *key == Key::attr(step.volume, ObjectId::ROOT) => {
                    return Err(ExpandError::BadPlan("a volume without a root"));
                }
                None => expansion.end_record(key)?,
            }
        }
        expansion.check_plan()?;
        // A part that neither begins nor ends a step leaves it as it is.
        if step.part == 0 || step.last {
            expansion.set_record(&Key::boundary(step.volume), Record::Boundary(boundary))?;
        }
        let done = expansion.finish()?;
        self.check_bytes(&done)?;
        Ok(done)
    }

    /// The mirror's own retention is another one than its source's.
    fn of_mirror(&self, step: &MirrorStep, key: &Key, record: &Record) -> Result<Record, ViewError> {
        let Record::Attr(attr) = record else { return Ok(record.clone()) };
        let mut attr = *attr;
        attr.firm.class = self.class_in_mirror(step, key, &attr)?;
        Ok(Record::Attr(attr))
    }

    /// Of what a volume had before it was demoted, some may keep less than the rest.
    fn class_in_mirror(&self, step: &MirrorStep, key: &Key, attr: &Attr) -> Result<Class, ViewError> {
        let Some(past) = self.state.past.of(step.volume).filter(|past| !past.classes.is_empty()) else {
            return Ok(Class::VOLUME);
        };
        let goes_back = step.to == step.from;
        let class = match self.view.get(key)?.map(|version| version.record) {
            _ if goes_back => attr.firm.class,
            Some(Record::Attr(there)) => there.firm.class,
            _ => Class::VOLUME,
        };
        Ok(if past.classes.contains_key(&class) { class } else { Class::VOLUME })
    }
}

/// Of the mirror, of an object, and of one that can be.
fn check_key(volume: VolumeId, key: &Key) -> Result<(), ExpandError> {
    let of_object = match key.parts() {
        KeyParts::Attr | KeyParts::Dirent { .. } | KeyParts::Extent { .. } | KeyParts::Xattr { .. } => true,
        KeyParts::Target => true,
        KeyParts::Orphan { .. } | KeyParts::Commit { .. } | KeyParts::Boundary => false,
    };
    let is_one = key.object() != ObjectId::VOLUME && key.object() < MIRRORED_IDS_END;
    if of_object && is_one && key.volume() == volume {
        return Ok(());
    }
    Err(ExpandError::BadPlan("no record of a mirror"))
}
