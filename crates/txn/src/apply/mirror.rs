//! Parts of steps of mirrors.

use super::{Expanded, Run, done};
use crate::expand::{ExpandError, Expansion, PLAN_MUTATIONS_MAX};
use crate::mirrors::MIRRORED_IDS_END;
use gavel_types::limits::NOTE_BYTES_MAX;
use gavel_types::{Class, Key, KeyParts, MirrorSource, NodeId, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::{Boundary, Committed, MirrorStep, Mutation, Outcome, Plan, Record, Refusal, View, ViewError};
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
        let ids_from = self.state.next_object;
        self.state.past.promote(tid, volume, ids_from)
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
                Some(record) => expansion.put(key, &of_mirror(record))?,
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

/// The mirror's own retention is another one than its source's.
fn of_mirror(record: &Record) -> Record {
    match record {
        Record::Attr(attr) => {
            let mut attr = *attr;
            attr.firm.class = Class::VOLUME;
            Record::Attr(attr)
        }
        record => record.clone(),
    }
}
