//! Many plans as one: what they come to, without the steps between.
//!
//! What a batch writes is seen as a whole or not at all, so nobody can tell what one of its plans left and a later one has replaced. A file that is unpacked
//! is made, written piece by piece, and given its times, owner and mode: sixteen mutations for four records.
//!
//! 1. An object's attributes are put, or changed, once, in the place where that was done first. Only what reads them when it is applied ([`Mutation::Append`]) is
//!    in the way. A removal begins a new batch, or follows removals, and its mark ([`Mutation::Orphan`]) is looked at when all is taken in.
//! 2. Bytes that a new file was given one behind the other become one extent, as long as that can be in its record. The layer then has what the
//!    replicas will have, one record instead of several: plans that are accepted later are worked out over that. So it is not done where a later
//!    plan, which is not in the batch yet, has touched one of these extents.
//! 3. A deletion that has laid nothing has found nothing, nor will it when it is applied: the session has the lease. (Each write takes a file's capabilities away.)

use gavel_txn::Layer;
use gavel_types::limits::INLINE_BYTES_MAX;
use gavel_types::{Key, ObjectId, VolumeId};
use gavel_wire::{Attr, AttrDelta, Change, Content, Extent, Mutation, Plan, Record, Version};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Plans on their way to becoming one.
pub(super) struct Join<'l> {
    /// What is laid over the replica.
    layer: &'l mut Layer,
    mutations: Vec<Mutation>,
    places: BTreeMap<(VolumeId, ObjectId), Place>,
}

/// Where an object stands among the mutations.
#[derive(Default)]
struct Place {
    /// Its attributes are put or changed here, and nothing behind this has read them.
    attr: Option<usize>,
    /// The bytes that it was given last.
    run: Option<Run>,
}

/// Bytes of a file, in pieces that follow each other. Its place has what is cut out for the first one, and behind it that one.
struct Run {
    at: usize,
    start: u64,
    end: u64,
    pieces: Vec<(Key, Arc<[u8]>)>,
    /// The plan that wrote the last one.
    number: u64,
}

impl<'l> Join<'l> {
    /// Nothing yet. `layer` has what the plans leave.
    pub(super) fn new(layer: &'l mut Layer) -> Join<'l> {
        Join { layer, mutations: Vec::new(), places: BTreeMap::new() }
    }

    /// What it has come to so far. (Bytes may be in pieces yet.)
    pub(super) fn mutations(&self) -> &[Mutation] {
        &self.mutations
    }

    /// Takes the plan with this number in, which was accepted behind the others.
    pub(super) fn push(&mut self, number: u64, plan: &Plan) {
        let mut rest = &plan.mutations[..];
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            match (first, behind.first()) {
                (
                    Mutation::Carve { volume, object, start, end },
                    Some(Mutation::Put { key, record: Record::Extent(extent) }),
                ) if *key == Key::extent(*volume, *object, *end) && extent.len == end - start => {
                    self.write(number, (*volume, *object), (*start, *end), key, extent);
                    rest = &behind[1..];
                }
                _ => self.mutate(first),
            }
        }
    }

    /// All of it as one plan.
    pub(super) fn finish(mut self) -> Plan {
        for (object, place) in std::mem::take(&mut self.places) {
            place.run.into_iter().for_each(|run| self.settle(object, run));
        }
        Plan { mutations: self.mutations }
    }

    fn mutate(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::Put { key, record: Record::Attr(_) } => return self.put_attr(key, mutation),
            Mutation::Adjust { volume, object, delta } => return self.adjust((*volume, *object), delta, mutation),
            Mutation::Append { volume, object, .. } => self.pass((*volume, *object), true),
            Mutation::Carve { volume, object, .. } => self.pass((*volume, *object), false),
            Mutation::Put { key, record: Record::Extent(_) } => self.pass((key.volume(), key.object()), false),
            Mutation::Delete { key } if self.layer.laid_by(key).is_none() => return,
            Mutation::Put { .. } | Mutation::Delete { .. } | Mutation::Orphan { .. } => {}
        }
        self.mutations.push(mutation.clone());
    }

    /// Something is about to be done to an object's bytes that none may be moved across; it may read the attributes, too.
    fn pass(&mut self, object: (VolumeId, ObjectId), reads_attr: bool) {
        let place = self.places.entry(object).or_default();
        if reads_attr {
            place.attr = None;
        }
        if let Some(run) = place.run.take() {
            self.settle(object, run);
        }
    }

    fn put_attr(&mut self, key: &Key, put: &Mutation) {
        let next = self.mutations.len();
        let at = *self.places.entry((key.volume(), key.object())).or_default().attr.get_or_insert(next);
        if at == next {
            self.mutations.push(put.clone());
        } else {
            self.mutations[at] = put.clone();
        }
    }

    fn adjust(&mut self, object: (VolumeId, ObjectId), delta: &AttrDelta, adjust: &Mutation) {
        let place = self.places.entry(object).or_default();
        let joined = match place.attr.map(|at| &mut self.mutations[at]) {
            Some(Mutation::Put { record: Record::Attr(attr), .. }) => change(attr, delta),
            Some(Mutation::Adjust { delta: earlier, .. }) => join_deltas(earlier, delta),
            _ => false,
        };
        if !joined {
            place.attr = Some(self.mutations.len());
            self.mutations.push(adjust.clone());
        }
    }

    /// Takes in what is cut out and put in its place.
    fn write(
        &mut self,
        number: u64,
        object: (VolumeId, ObjectId),
        (start, end): (u64, u64),
        key: &Key,
        extent: &Extent,
    ) {
        let (volume, id) = object;
        let put = || [Mutation::Carve { volume, object: id, start, end }, put(key, extent.clone())];
        let bytes = match &extent.content {
            Content::Inline(bytes) if self.layer.laid_by(key) == Some(number) && self.layer.has_all(volume, id) => {
                bytes
            }
            _ => {
                self.pass(object, false);
                return self.mutations.extend(put());
            }
        };
        let piece = (key.clone(), bytes.clone());
        if let Some(run) = self.places.entry(object).or_default().run.as_mut()
            && run.end == start
            && end - run.start <= INLINE_BYTES_MAX as u64
        {
            (run.end, run.number) = (end, number);
            return run.pieces.push(piece);
        }
        self.pass(object, false);
        let run = Run { at: self.mutations.len(), start, end, pieces: vec![piece], number };
        self.places.entry(object).or_default().run = Some(run);
        self.mutations.extend(put());
    }

    /// The pieces of a run become one, here and in the layer.
    fn settle(&mut self, (volume, object): (VolumeId, ObjectId), run: Run) {
        let Run { at, start, end, number, pieces } = run;
        let Some(((last, _), others)) = pieces.split_last().filter(|(_, others)| !others.is_empty()) else {
            return;
        };
        let Some(Some(version)) = self.layer.get(last) else { return };
        let tid = version.create;
        let bytes: Vec<&[u8]> = pieces.iter().map(|(_, bytes)| &**bytes).collect();
        let extent = Extent { len: end - start, content: Content::Inline(bytes.concat().into()) };
        let whole = Version { record: Record::Extent(extent.clone()), ..version.clone() };
        self.mutations[at] = Mutation::Carve { volume, object, start, end };
        self.mutations[at + 1] = put(last, extent);
        let lay = |key: &Key, new| Change { tid, key: key.clone(), old: None, new };
        let mut changes: Vec<Change> = others.iter().map(|(key, _)| lay(key, None)).collect();
        changes.push(lay(last, Some(whole)));
        self.layer.lay(number, changes);
    }
}

fn put(key: &Key, extent: Extent) -> Mutation {
    Mutation::Put { key: key.clone(), record: Record::Extent(extent) }
}

/// Changes attributes that are being put, if it can.
fn change(attr: &mut Attr, delta: &AttrDelta) -> bool {
    let sums = (attr.nlink.checked_add_signed(delta.nlink), attr.size.checked_add_signed(delta.size));
    let (Some(nlink), Some(size)) = sums else { return false };
    *attr = Attr {
        nlink,
        size: size.max(delta.size_min),
        atime: delta.atime.unwrap_or(attr.atime),
        mtime: delta.mtime.unwrap_or(attr.mtime),
        ctime: delta.ctime.unwrap_or(attr.ctime),
        ..*attr
    };
    true
}

/// Makes one change of two, if it can: what the first one makes the size to be at least must be known before the second one adds to it.
fn join_deltas(earlier: &mut AttrDelta, later: &AttrDelta) -> bool {
    let sums = (earlier.nlink.checked_add(later.nlink), earlier.size.checked_add(later.size));
    let (Some(nlink), Some(size)) = sums else { return false };
    if earlier.size_min != 0 && later.size != 0 {
        return false;
    }
    *earlier = AttrDelta {
        nlink,
        size,
        size_min: earlier.size_min.max(later.size_min),
        atime: later.atime.or(earlier.atime),
        mtime: later.mtime.or(earlier.mtime),
        ctime: later.ctime.or(earlier.ctime),
    };
    true
}
