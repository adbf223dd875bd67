//! A transaction that does not fit into one request: what can be written before the commit, in parts, and what is left for it.
//!
//! `docs/protocols/transactions.md`, "Staging", has which part comes before which, and why.

use super::fold::Folded;
use gavel_txn::apply::GUARDS_MAX;
use gavel_txn::expand::PLAN_MUTATIONS_MAX;
use gavel_types::{KeyParts, ObjectId, VolumeId};
use gavel_wire::{AttrDelta, Guard, Kind, Mutation, Plan, Record};
use std::collections::{BTreeMap, BTreeSet};

/// A part is not filled beyond this, so that no entry of the log is more work than a batch of write-behind: some 500 small files. A single mutation may be
/// larger.
pub const STAGE_BYTES_MAX: usize = 128 * 1024;
/// What a run of ids takes in a request, no less than it does.
const RUN_BYTES: usize = 20;

/// What is written before the commit, by one request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// The runs of ids of objects that no part before this one has begun.
    pub runs: Vec<(ObjectId, ObjectId)>,
    /// Their records, and more of those that parts before this one have begun.
    pub plan: Plan,
}

/// A transaction in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// To be written first, in this order: each when those before are applied.
    pub parts: Vec<Part>,
    /// The commit: it ties them in.
    pub last: Folded,
}

/// Bytes of guards and plan in a request.
pub fn bytes(guards: &[Guard], plan: &Plan) -> usize {
    gavel_wire::codec::encode(0, &(guards, plan)).len()
}

/// Does it fit into one request of `bytes_max`?
pub fn is_small(folded: &Folded, bytes_max: usize) -> bool {
    folded.guards.len() <= GUARDS_MAX
        && folded.plan.mutations.len() <= PLAN_MUTATIONS_MAX
        && bytes(&folded.guards, &folded.plan) <= bytes_max
}

/// Splits a transaction that made the objects `made`, those among them that have no name any more, too.
pub fn split(volume: VolumeId, folded: Folded, made: &BTreeSet<ObjectId>) -> Split {
    split_into(STAGE_BYTES_MAX, volume, folded, made)
}

/// The same, with parts of `part_bytes`: tests split small transactions.
pub fn split_into(part_bytes: usize, volume: VolumeId, folded: Folded, made: &BTreeSet<ObjectId>) -> Split {
    let mut sorted = Sorted::default();
    folded.plan.mutations.into_iter().for_each(|mutation| sorted.take(mutation, made));
    let order = sorted.order();
    let Sorted { mut units, mut last, touched } = sorted;
    // Behind what it does to old objects: a name and the attributes of what has it change in one transaction.
    last.extend(touched.into_iter().map(|object| touch(volume, object)));
    let staged: BTreeSet<ObjectId> = units.keys().copied().collect();
    let (parts, part, objects) = Default::default();
    let mut filling = Filling { part_bytes, volume, made, staged: &staged, parts, part, objects, bytes: 0 };
    for object in order {
        filling.unit(object, units.remove(&object).unwrap_or_default());
    }
    filling.close();
    Split { parts: filling.parts, last: Folded { guards: folded.guards, plan: Plan { mutations: last } } }
}

/// Runs of ids of these objects, and of the nameless ones right behind each: those are nobody else's either.
fn runs(objects: &mut [ObjectId], made: &BTreeSet<ObjectId>, staged: &BTreeSet<ObjectId>) -> Vec<(ObjectId, ObjectId)> {
    objects.sort_unstable();
    let mut runs: Vec<(ObjectId, ObjectId)> = Vec::new();
    for first in objects.iter().copied() {
        let mut last = first;
        while made.contains(&ObjectId(last.0 + 1)) && !staged.contains(&ObjectId(last.0 + 1)) {
            last.0 += 1;
        }
        match runs.last_mut() {
            Some((_, end)) if end.0 + 1 == first.0 => *end = last,
            _ => runs.push((first, last)),
        }
    }
    runs
}

/// A new version of the attributes that says the same.
fn touch(volume: VolumeId, object: ObjectId) -> Mutation {
    Mutation::Adjust { volume, object, delta: AttrDelta::default() }
}

/// Mutations by what they are staged with.
#[derive(Default)]
struct Sorted {
    /// Of each made object its records, attributes first, and its names in made directories.
    units: BTreeMap<ObjectId, Vec<Mutation>>,
    last: Vec<Mutation>,
    /// Made objects of which the last request has a name, or a record.
    touched: BTreeSet<ObjectId>,
}

impl Sorted {
    fn take(&mut self, mutation: Mutation, made: &BTreeSet<ObjectId>) {
        let Mutation::Put { key, record } = &mutation else { return self.last.push(mutation) };
        let (owner, named) = match (key.parts(), record) {
            (KeyParts::Dirent { .. }, Record::Dirent(dirent)) => (key.object(), Some(dirent.object)),
            _ => (key.object(), None),
        };
        match (made.contains(&owner), named) {
            (true, None) => self.units.entry(owner).or_default().push(mutation),
            (true, Some(named)) if made.contains(&named) => self.units.entry(named).or_default().push(mutation),
            (inside, named) => {
                self.touched.extend(named.filter(|named| made.contains(named)));
                self.touched.extend(Some(owner).filter(|_| inside));
                self.last.push(mutation);
            }
        }
    }

    /// Directories, each behind the one that it lies in; then everything else.
    fn order(&mut self) -> Vec<ObjectId> {
        let mut parents = BTreeMap::new();
        for (object, unit) in &mut self.units {
            unit.sort_by_key(|mutation| !is_attr(mutation));
            if let Some(Mutation::Put { record: Record::Attr(attr), .. }) = unit.first()
                && attr.firm.kind == Kind::Directory
            {
                parents.insert(*object, attr.firm.parent);
            }
        }
        let (mut order, mut placed) = (Vec::with_capacity(self.units.len()), BTreeSet::new());
        for directory in parents.keys() {
            let (mut line, mut next) = (Vec::new(), *directory);
            while let Some(parent) = parents.get(&next).filter(|_| placed.insert(next)) {
                line.push(next);
                next = *parent;
            }
            order.extend(line.into_iter().rev());
        }
        order.extend(self.units.keys().filter(|object| !parents.contains_key(object)));
        order
    }
}

fn is_attr(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Put { key, .. } if matches!(key.parts(), KeyParts::Attr))
}

/// Parts that are being filled.
struct Filling<'a> {
    part_bytes: usize,
    volume: VolumeId,
    made: &'a BTreeSet<ObjectId>,
    staged: &'a BTreeSet<ObjectId>,
    parts: Vec<Part>,
    part: Part,
    /// The objects that this part has begun.
    objects: Vec<ObjectId>,
    bytes: usize,
}

impl Filling<'_> {
    /// An object with all its records. One that is larger than a part goes on in the next, which touches its attributes.
    fn unit(&mut self, object: ObjectId, unit: Vec<Mutation>) {
        let sizes: Vec<usize> = unit.iter().map(size).collect();
        if self.bytes + sizes.iter().sum::<usize>() > self.part_bytes {
            self.close();
        }
        self.objects.push(object);
        self.bytes += RUN_BYTES;
        for (mutation, bytes) in unit.into_iter().zip(sizes) {
            if self.bytes + bytes > self.part_bytes && !self.part.plan.mutations.is_empty() {
                self.close();
                self.put(touch(self.volume, object), size(&touch(self.volume, object)));
            }
            self.put(mutation, bytes);
        }
    }

    fn put(&mut self, mutation: Mutation, bytes: usize) {
        self.bytes += bytes;
        self.part.plan.mutations.push(mutation);
    }

    fn close(&mut self) {
        let mut part = std::mem::take(&mut self.part);
        let mut objects = std::mem::take(&mut self.objects);
        self.bytes = 0;
        if !part.plan.mutations.is_empty() {
            part.runs = runs(&mut objects, self.made, self.staged);
            self.parts.push(part);
        }
    }
}

fn size(mutation: &Mutation) -> usize {
    gavel_wire::codec::encode(0, mutation).len()
}
