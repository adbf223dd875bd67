//! What this node has answered, and the log does not have yet. `docs/protocols/write-behind.md` has the protocol.
//!
//! A plan: accepted -> (its blob is on a majority) -> shipped with others as one commit -> landed; or lost with the session.
//!
//! Threads that answer operations and the node's own thread share this behind one lock; it does no waiting itself.
//!
//! Invariants (checked by [`Pending::check_invariants`]):
//! 1. Plans are numbered without gaps in the order in which they were accepted; they are shipped and land in that order.
//! 2. The layer holds what the plans that have not landed leave behind, and nothing else.
//! 3. No plan is shipped before its blob is on a majority.

mod join;

use bytes::Bytes;
use gavel_fs::{Caller, Operation};
use gavel_lease::range::written;
use gavel_txn::expand::{ExpandError, Expansion, PLAN_MUTATIONS_MAX};
use gavel_txn::{Layer, Layered};
use gavel_types::limits::{FILE_BYTES_MAX, OBJECT_BLOCK, REQUEST_BYTES_MAX};
use gavel_types::{BlobId, Key, KeyParts, KeyRange, ObjectId, SessionId, Tid, VolumeId};
use gavel_wire::{Author, Change, Content, Guard, Mutation, Plan, Record, View, ViewError};
use join::Join;
use std::collections::{BTreeMap, VecDeque};

/// Most bytes of plans and blobs that have not landed; beyond it, operations wait for room. What was asked for is kept beside, and holds the bytes of small
/// writes once more.
pub const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most plans that have not landed.
pub const PENDING_PLANS_MAX: usize = 16 * 1024;
/// Most bytes of plans (roughly) that are joined to one commit.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Most mutations that are joined to one commit: whoever applies it does nothing else meanwhile.
pub const BATCH_MUTATIONS_MAX: usize = 2048;
/// Object ids that are kept ready; more are fetched when fewer are left.
pub const IDS_READY: u64 = 1024;
/// So far is looked for an id that nobody else has a lease over, a power of two: as far as grants are widened among what a session makes.
const IDS_APART: u64 = 64;
/// What a mutation weighs beside the bytes that it carries.
const MUTATION_BYTES: usize = 128;

// A single plan is a request too: what one operation can come to fits into one.
const _: () = assert!(BATCH_BYTES_MAX <= REQUEST_BYTES_MAX / 4);
const _: () = assert!(BATCH_MUTATIONS_MAX <= PLAN_MUTATIONS_MAX);
const _: () = assert!(IDS_READY <= OBJECT_BLOCK);

/// What a program asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Where.
    pub volume: VolumeId,
    /// On whose behalf.
    pub caller: Caller,
    /// What.
    pub operation: Operation,
}

#[derive(Debug)]
struct Accepted {
    asked: Asked,
    time: Tid,
    /// The replica's Tid when it was evaluated.
    at: Tid,
    plan: Plan,
    guards: Vec<Guard>,
    /// What it wrote in the layer.
    keys: Vec<Key>,
    bytes: usize,
    /// Bytes that are not in the plan, and as of when they are on a majority, if they are.
    blob: Option<(BlobId, Option<Tid>)>,
}

impl Accepted {
    /// As of when the blobs that it names were there: its own was stored, those that it copies were seen.
    fn named_as_of(&self) -> Tid {
        match self.blob {
            Some((_, stored)) => stored.unwrap_or(self.at).min(self.at),
            None if self.plan.blobs().next().is_some() => self.at,
            None => Tid::MAX,
        }
    }
}

/// Plans that become one commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The number of its last plan.
    pub last: u64,
    /// All their mutations, in order.
    pub plan: Plan,
    /// For whom all of them are.
    pub author: Author,
    /// As of when the blobs that it names were stored, or found.
    pub stored_as_of: Tid,
}

/// A plan that was answered, and was not committed when its session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostPlan {
    /// Its number.
    pub number: u64,
    /// What was asked for.
    pub asked: Asked,
    /// When it was answered, by the cluster's clock.
    pub time: Tid,
    /// What it read was so as of this Tid, but for what the plans before it wrote: the same for all that are lost together.
    pub at: Tid,
    /// What it would have written. Its times are set.
    pub plan: Plan,
    /// What it read, some of it left by the plans before it.
    pub guards: Vec<Guard>,
    /// It was shipped: it may have been committed.
    pub shipped: bool,
    /// The bytes of its blob.
    pub blob: Option<(BlobId, Bytes)>,
    /// As of when that is on a majority since the plan was lost, if it is.
    pub stored_as_of: Option<Tid>,
}

impl LostPlan {
    /// Are its bytes still to be stored, before it can be offered?
    pub fn is_to_be_stored(&self) -> bool {
        self.blob.is_some() && self.stored_as_of.is_none()
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Pending {
    layer: Layer,
    /// What has not landed; the first one's number is `landed + 1`.
    queue: VecDeque<Accepted>,
    landed: u64,
    /// The commit that landed last.
    landed_at: Tid,
    shipped: u64,
    bytes: usize,
    /// Who wants to know when all up to a plan is shipped: the plan, and [`SessionEffect::ShipPending`](crate::SessionEffect::ShipPending)'s number.
    marks: VecDeque<(u64, u64)>,
    /// The last time that was given out.
    time: Tid,
    /// Ids for new objects: from the first up to and without the second.
    ids: VecDeque<(u64, u64)>,
    /// Bytes of blobs that are named here, and by how many plans: they can be read before anybody has stored them.
    blobs: BTreeMap<BlobId, (Bytes, u32)>,
}

impl Pending {
    /// What is laid over the replica.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// The number of the last plan that was accepted.
    pub fn accepted(&self) -> u64 {
        self.landed + self.queue.len() as u64
    }

    /// The number of the last plan that was shipped.
    pub fn shipped(&self) -> u64 {
        self.shipped
    }

    /// The number of the last plan that has landed.
    pub fn landed(&self) -> u64 {
        self.landed
    }

    /// Bytes of plans and blobs that have not landed, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is there no room for another plan?
    pub fn is_full(&self) -> bool {
        self.bytes >= PENDING_BYTES_MAX || self.queue.len() >= PENDING_PLANS_MAX
    }

    /// The time of what is accepted now: the cluster's clock shows `cluster_ns`, and the replica `seen`.
    pub fn next_time(&mut self, cluster_ns: u64, seen: Tid) -> Tid {
        self.time = self.time.max(seen).advance(cluster_ns);
        self.time
    }

    /// An id for a new object, if one is ready. Those that are not `good` are passed by, with their neighbours, and never used, if there are
    /// good ones behind them: others have leases around what was made last. Otherwise it is one that is not.
    pub fn take_id(&mut self, good: impl Fn(ObjectId) -> bool) -> Option<ObjectId> {
        let ready = self.ids.iter().flat_map(|(first, end)| {
            let behind = (first / IDS_APART + 1..).map(|place| place * IDS_APART).take_while(move |id| id < end);
            std::iter::once(*first).chain(behind)
        });
        if let Some(id) = ready.map(ObjectId).find(|id| good(*id)) {
            while let Some((first, end)) = self.ids.front_mut() {
                if id.0 < *end {
                    *first = id.0.max(*first);
                    break;
                }
                self.ids.pop_front();
            }
        }
        let (first, end) = self.ids.front_mut()?;
        let id = ObjectId(*first);
        *first += 1;
        if first == end {
            self.ids.pop_front();
        }
        Some(id)
    }

    /// An id that was taken is not used after all.
    pub fn put_back_id(&mut self, id: ObjectId) {
        self.ids.push_front((id.0, id.0 + 1));
    }

    /// Are more ids needed?
    pub fn lacks_ids(&self) -> bool {
        self.ids.iter().map(|(first, end)| end - first).sum::<u64>() < IDS_READY / 2
    }

    /// Ids, from the first up to and without the second, that nobody else has.
    pub fn add_ids(&mut self, ids: (u64, u64)) {
        self.ids.push_back(ids);
    }

    /// Ids before this one are not used any more.
    pub fn skip_ids(&mut self, floor: ObjectId) {
        skip_ids(&mut self.ids, floor);
    }

    /// Accepts a plan: from now on, views show it. `base` is the replica, taken under the same lock. `asked` is called if the plan is accepted: what
    /// was asked for is moved here, not copied. Gives the plan's number.
    ///
    /// # Errors
    /// [`ExpandError`] if the plan can't be applied. Nothing has changed then.
    pub fn accept(
        &mut self,
        base: &dyn View,
        time: Tid,
        mut plan: Plan,
        guards: Vec<Guard>,
        blob: Option<(BlobId, Bytes)>,
        asked: impl FnOnce() -> Asked,
    ) -> Result<u64, ExpandError> {
        plan.settle_times(time);
        let view = Layered::new(base, self.layer.clone());
        let mut expansion = Expansion::new(&view, time);
        // Who else may have it open shows when the commit is applied; nothing that depends on that is accepted.
        let holders: &[SessionId] = &[];
        for mutation in &plan.mutations {
            expansion.mutate(mutation, holders)?;
        }
        expansion.check_plan()?;
        let (changes, _) = expansion.finish()?;
        let made = made_by(&changes, &view)?;
        // It shares the layer, which would be copied where it is laid, with what is in it.
        drop(view);
        let keys = changes.iter().map(|change| change.key.clone()).collect();
        let number = self.accepted() + 1;
        self.layer.lay(number, changes);
        made.into_iter().for_each(|(volume, object)| self.layer.made(number, volume, object));
        let bytes = weight(&plan) + blob.as_ref().map_or(0, |(_, bytes)| bytes.len());
        self.bytes += bytes;
        let blob = blob.map(|(id, bytes)| {
            self.blobs.entry(id).or_insert((bytes, 0)).1 += 1;
            (id, None)
        });
        let (asked, at) = (asked(), base.tid());
        self.queue.push_back(Accepted { asked, time, at, plan, guards, keys, bytes, blob });
        Ok(number)
    }

    /// The blob of this plan is on a majority, each member of which had applied this transaction.
    pub fn stored(&mut self, number: u64, as_of: Tid) {
        if let Some((_, stored)) = self.at(number).and_then(|accepted| accepted.blob.as_mut()) {
            *stored = Some(as_of);
        }
    }

    fn at(&mut self, number: u64) -> Option<&mut Accepted> {
        let place = number.checked_sub(self.landed + 1)?;
        self.queue.get_mut(place as usize)
    }

    /// What a plan that has not landed writes.
    pub fn written_by(&self, number: u64) -> Vec<KeyRange> {
        let place = number.checked_sub(self.landed + 1);
        let accepted = place.and_then(|place| self.queue.get(place as usize));
        accepted.map(|accepted| written(&accepted.plan)).unwrap_or_default()
    }

    /// The bytes of a blob that a plan names.
    pub fn blob(&self, id: &BlobId) -> Option<Bytes> {
        self.blobs.get(id).map(|(bytes, _)| bytes.clone())
    }

    /// The next plans that can be shipped, if there are any.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let from = (self.shipped - self.landed) as usize;
        let uid = self.queue.get(from)?.asked.caller.uid;
        let (mut bytes, mut join) = (0, Join::new(&mut self.layer));
        let mut removed = true;
        let mut stored_as_of = Tid::MAX;
        for accepted in self.queue.range(from..) {
            let is_ready = accepted.blob.is_none_or(|(_, stored)| stored.is_some());
            let own = accepted.bytes.min(weight(&accepted.plan));
            let mutations = join.mutations();
            let fits = bytes == 0
                || (bytes + own <= BATCH_BYTES_MAX
                    && mutations.len() + accepted.plan.mutations.len() <= BATCH_MUTATIONS_MAX);
            let removes = removes(&accepted.plan);
            let apart =
                accepted.asked.caller.uid != uid || truncates(&accepted.plan, mutations) || (removes && !removed);
            if !is_ready || !fits || apart {
                break;
            }
            removed = removes;
            stored_as_of = stored_as_of.min(accepted.named_as_of());
            bytes += own;
            self.shipped += 1;
            join.push(self.shipped, &accepted.plan);
        }
        let plan = join.finish();
        let author = Author::user(uid);
        (bytes > 0).then_some(Batch { last: self.shipped, plan, author, stored_as_of })
    }

    /// What was accepted so far is to be shipped soon, and [`Pending::take_shipped`] to give `id` then.
    pub fn mark(&mut self, id: u64) {
        self.marks.push_back((self.accepted(), id));
    }

    /// The marks in front of which everything is shipped.
    pub fn take_shipped(&mut self) -> Vec<u64> {
        let shipped = self.shipped;
        let ready = self.marks.iter().take_while(|(last, _)| *last <= shipped).count();
        self.marks.drain(..ready).map(|(_, id)| id).collect()
    }

    /// The plans up to and with `last` are committed at `tid`, and the replica has them.
    pub fn on_landed(&mut self, last: u64, tid: Tid) {
        self.landed_at = self.landed_at.max(tid);
        while self.landed < last
            && let Some(accepted) = self.queue.pop_front()
        {
            self.landed += 1;
            self.bytes -= accepted.bytes;
            self.layer.lift(last, &accepted.keys);
            self.forget_blob(accepted.blob);
        }
    }

    /// The session has ended: nothing that has not landed will land as it is. Gives it, oldest first.
    pub fn lose(&mut self) -> Vec<LostPlan> {
        let (landed, shipped) = (self.landed, self.shipped);
        self.landed = self.accepted();
        self.shipped = self.landed;
        self.layer = Layer::default();
        self.bytes = 0;
        let blobs = std::mem::take(&mut self.blobs);
        let queue = std::mem::take(&mut self.queue);
        // The session held leases over all that these read, from before they did until it ended, which was behind what it landed last.
        let at = queue.iter().map(|accepted| accepted.at).fold(self.landed_at, Tid::max);
        // Stored or not: it may be collected before the plan is committed.
        let with_bytes = |(id, _)| blobs.get(&id).map(|(bytes, _)| (id, bytes.clone()));
        let lost = queue.into_iter().zip(landed + 1..);
        lost.map(|(Accepted { asked, time, plan, guards, blob, .. }, number)| {
            let shipped = number <= shipped;
            let (blob, stored_as_of) = (blob.and_then(with_bytes), None);
            LostPlan { number, asked, time, at, plan, guards, shipped, blob, stored_as_of }
        })
        .collect()
    }

    fn forget_blob(&mut self, blob: Option<(BlobId, Option<Tid>)>) {
        let Some((id, _)) = blob else { return };
        if let Some((_, named)) = self.blobs.get_mut(&id) {
            *named -= 1;
            if *named == 0 {
                self.blobs.remove(&id);
            }
        }
    }

    /// Asserts the invariants that the module's documentation numbers.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        assert!(self.landed <= self.shipped && self.shipped <= self.accepted(), "{self:?}");
        assert!(!self.queue.is_empty() || self.layer.is_empty(), "a layer of nothing");
        assert_eq!(self.bytes, self.queue.iter().map(|accepted| accepted.bytes).sum::<usize>());
        let shipped = (self.shipped - self.landed) as usize;
        assert!(self.queue.range(..shipped).all(|accepted| accepted.blob.is_none_or(|(_, stored)| stored.is_some())));
    }
}

/// The objects that changes of a plan made over `view`. One whose mark is there has ended, though some of its records may not have.
fn made_by(changes: &[Change], view: &dyn View) -> Result<Vec<(VolumeId, ObjectId)>, ViewError> {
    let mut made = Vec::new();
    for Change { key, old, new, .. } in changes {
        let (volume, object) = (key.volume(), key.object());
        let is_made = old.is_none() && new.is_some() && key.parts() == KeyParts::Attr;
        if is_made && view.get(&Key::orphan(volume, object))?.is_none() {
            made.push((volume, object));
        }
    }
    Ok(made)
}

/// What a plan weighs, roughly.
fn weight(plan: &Plan) -> usize {
    let carried = |mutation: &Mutation| match mutation {
        Mutation::Put { record: Record::Extent(extent), .. } => match &extent.content {
            Content::Inline(bytes) => bytes.len(),
            _ => 0,
        },
        Mutation::Put { record: Record::Xattr(bytes) | Record::Target(bytes), .. } => bytes.len(),
        _ => 0,
    };
    plan.mutations.iter().map(|mutation| MUTATION_BYTES + carried(mutation)).sum()
}

/// Does a plan cut off what these mutations have made or written? That is to have been a state then, to which one can go back.
fn truncates(plan: &Plan, before: &[Mutation]) -> bool {
    let wrote = |object: ObjectId| {
        before.iter().any(|mutation| match mutation {
            Mutation::Put { key, record: Record::Attr(_) | Record::Extent(_) } => key.object() == object,
            _ => false,
        })
    };
    plan.mutations.iter().any(|mutation| match mutation {
        Mutation::Carve { object, end: FILE_BYTES_MAX, .. } => wrote(*object),
        _ => false,
    })
}

/// Does a plan take an object's last name away? What was before removals begin is to have been a state, for the same reason.
fn removes(plan: &Plan) -> bool {
    plan.mutations.iter().any(|mutation| matches!(mutation, Mutation::Orphan { .. }))
}

/// Drops the ids before `floor` out of ranges of ids.
pub(crate) fn skip_ids(ids: &mut VecDeque<(u64, u64)>, floor: ObjectId) {
    ids.retain_mut(|(first, end)| {
        *first = (*first).max(floor.0);
        *first < *end
    });
}

#[cfg(test)]
mod tests;
