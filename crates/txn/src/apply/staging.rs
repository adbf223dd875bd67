//! Requests that stage a part of a commit, and what ends what came to nothing. [`crate::staged`] has the groups.

use super::{Judged, Run};
use crate::expand::{ExpandError, Expansion, PLAN_MUTATIONS_MAX, object_of, volume_of};
use crate::past::VolumePast;
use crate::volumes::Stage;
use gavel_types::{KeyRange, ObjectId, SessionId, Tid, VolumeId};
use gavel_wire::{Mutation, Outcome, Plan, Refusal, RequestBody, View, ViewError};

/// Most records of an abandoned group that end by one item.
pub const REAP_STAGED_MAX: usize = 1024;

/// A session's group, by its number.
type Whose = (SessionId, u64);
type Runs = [(ObjectId, ObjectId)];

impl Run<'_> {
    /// What a session asks about a group of staged objects.
    pub(super) fn stage_request(
        &mut self,
        tid: Tid,
        session: SessionId,
        body: &RequestBody,
    ) -> Result<Outcome, ViewError> {
        match body {
            RequestBody::Stage { group, volume, runs, plan, stored_as_of } => {
                self.stage(tid, (session, *group), (*volume, runs), plan, *stored_as_of)
            }
            RequestBody::Adopt { group, guards, plan, author, stored_as_of } => {
                let judged = Judged { guards, plan, author, stored_as_of: *stored_as_of, staged: &[] };
                self.adopt(tid, (session, *group), judged)
            }
            RequestBody::Unstage { group } => {
                self.state.staged.abandon(session, *group);
                Ok(Outcome::Committed { tid })
            }
            _ => unreachable!("nothing else is asked about groups"),
        }
    }

    fn stage(
        &mut self,
        tid: Tid,
        whose: Whose,
        (volume, runs): (VolumeId, &Runs),
        plan: &Plan,
        stored_as_of: Tid,
    ) -> Result<Outcome, ViewError> {
        let refused = |refusal| Ok(Outcome::Refused { refusal });
        if !self.blobs_are_there(plan.blobs(), stored_as_of)? {
            return refused(Refusal::Collected);
        }
        if !self.is_free(whose.0, &[], plan) {
            return refused(Refusal::Leased);
        }
        if !self.state.past.takes_commits(volume) || self.begun.contains(&volume) {
            return refused(Refusal::Missing);
        }
        if self.state.past.is_mirror(volume) {
            return refused(Refusal::ReadOnly);
        }
        if !self.are_given(runs) || !self.writes_only(whose, (volume, runs), plan) || self.makes_mirrored_id(plan)? {
            return refused(Refusal::BadPlan);
        }
        if let Err(refusal) = self.state.staged.check(whose, volume, runs) {
            return refused(refusal);
        }
        for (first, last) in runs {
            if !self.view.scan(&KeyRange::objects(volume, *first, *last), 1)?.is_empty() {
                return refused(Refusal::Exists);
            }
        }
        match self.expand(tid, plan, &[]) {
            Ok(done) => {
                self.take(tid, done)?;
                self.state.staged.add(tid, whose, volume, runs);
                Ok(Outcome::Committed { tid })
            }
            Err(ExpandError::BadPlan(_)) => refused(Refusal::BadPlan),
            Err(ExpandError::View(error)) => Err(error),
        }
    }

    /// Are these runs of ids that were given out, upwards, without overlaps?
    fn are_given(&self, runs: &Runs) -> bool {
        let ordered = runs.windows(2).all(|pair| pair[0].1 < pair[1].0);
        let whole = runs.iter().all(|(first, last)| first <= last && *first >= ObjectId::FIRST_FREE);
        ordered && whole && runs.last().is_none_or(|(_, last)| *last < self.state.next_object)
    }

    /// Does the plan write objects of these runs, or of the group, and nothing else?
    fn writes_only(&self, (session, group): Whose, (volume, runs): (VolumeId, &Runs), plan: &Plan) -> bool {
        let known = self.state.staged.group(session, group).filter(|known| known.volume() == volume);
        let new = |object: ObjectId| {
            let at = runs.partition_point(|(_, last)| *last < object);
            runs.get(at).is_some_and(|(first, _)| *first <= object)
        };
        plan.mutations.len() <= PLAN_MUTATIONS_MAX
            && plan.mutations.iter().all(|mutation| {
                let object = object_of(mutation);
                let own = new(object) || known.is_some_and(|known| known.holds(object));
                own && volume_of(mutation) == volume && !matches!(mutation, Mutation::Orphan { .. })
            })
    }

    fn adopt(&mut self, tid: Tid, (session, group): Whose, judged: Judged<'_>) -> Result<Outcome, ViewError> {
        let Some(known) = self.state.staged.group(session, group) else {
            return Ok(Outcome::Refused { refusal: Refusal::NotStaged });
        };
        let (volume, stages) = (known.volume(), known.stages().to_vec());
        let judged = Judged { staged: &stages, ..judged };
        let outcome = match self.state.past.takes_commits(volume) {
            true => self.commit(tid, session, &judged)?,
            // What is about it would be left out of the commit.
            false => Outcome::Refused { refusal: Refusal::Missing },
        };
        match outcome {
            Outcome::Committed { .. } => self.state.staged.adopt(session, group),
            // It is asked again when the lease is not in the way any more.
            Outcome::Refused { refusal: Refusal::Leased } => {}
            _ => self.state.staged.abandon(session, group),
        }
        Ok(outcome)
    }

    /// Ends records of the first abandoned group, as many as this item and this entry may still end.
    pub(super) fn reap_staged(&mut self, tid: Tid) -> Result<(), ViewError> {
        self.out.reaped_staged = true;
        let Some((volume, ranges)) = self.state.staged.to_reap() else { return Ok(()) };
        let past = self.state.past.of(volume);
        if past.is_none_or(|past: &VolumePast| past.stage == Stage::Going) {
            self.state.staged.forget(volume);
            return Ok(());
        }
        // What a clone inherits it shows from the next entry on.
        if self.begun.contains(&volume) || self.reap_left == 0 {
            return Ok(());
        }
        let most = self.reap_left.min(REAP_STAGED_MAX);
        let (mut left, mut next) = (most, None);
        let mut expansion = Expansion::new(&self.view, tid);
        for range in &ranges {
            let found = self.view.scan(range, left)?;
            for (key, _) in &found {
                super::sound(expansion.end_record(key))?;
            }
            left -= found.len();
            if left == 0 {
                next = found.last().map(|(key, _)| key.object());
                break;
            }
        }
        let done = super::sound(expansion.finish())?;
        self.take(tid, done)?;
        self.reap_left -= most - left;
        self.state.staged.reaped(next);
        Ok(())
    }
}
