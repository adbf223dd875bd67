//! What a plan means, said once more and as simply as can be: every byte of a file by itself.

use super::memory::At;
use gavel_types::limits::{FILE_BYTES_MAX, LINKS_MAX};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, SessionId};
use gavel_wire::{AttrDelta, Content, Extent, Mutation, Record, View};
use std::collections::{BTreeMap, BTreeSet};

/// One byte of a file: what it is, and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Byte {
    Inline(u8),
    Blob(u32),
    Zero,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    pub nlink: u32,
    pub size: u64,
    pub mode: u16,
    pub allocated: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    pub files: BTreeMap<ObjectId, File>,
    /// Object -> end of an extent -> its bytes.
    pub extents: BTreeMap<ObjectId, BTreeMap<u64, Vec<Byte>>>,
    pub orphans: BTreeMap<ObjectId, BTreeSet<SessionId>>,
    /// Names, extended attributes, targets.
    pub others: BTreeMap<Key, Record>,
}

fn bytes(extent: &Extent) -> Vec<Byte> {
    match &extent.content {
        Content::Inline(bytes) => bytes.iter().map(|byte| Byte::Inline(*byte)).collect(),
        Content::Blob { offset, .. } => (0..extent.len as u32).map(|i| Byte::Blob(offset + i)).collect(),
        Content::Zeros => vec![Byte::Zero; extent.len as usize],
    }
}

impl Model {
    /// What the records of volume 1 say.
    pub fn of(view: &At<'_>) -> Model {
        let mut model = Model::default();
        let all = KeyRange { start: [0, 0, 0, 1].into(), end: [0, 0, 0, 2].into() };
        for (key, version) in view.scan(&all, usize::MAX).unwrap() {
            let object = key.object();
            match (key.parts(), &version.record) {
                (_, Record::Attr(attr)) => {
                    let (nlink, size, mode, allocated) = (attr.nlink, attr.size, attr.firm.mode, attr.allocated);
                    model.files.insert(object, File { nlink, size, mode, allocated });
                }
                (KeyParts::Extent { end }, Record::Extent(extent)) => {
                    model.extents.entry(object).or_default().insert(end, bytes(extent));
                }
                (KeyParts::Orphan { object }, Record::Orphan(orphan)) => {
                    model.orphans.insert(object, orphan.holders.iter().copied().collect());
                }
                (KeyParts::Commit { .. }, _) => {}
                (_, record) => drop(model.others.insert(key, record.clone())),
            }
        }
        model
    }

    /// What a plan makes of this; none if it is to be refused.
    pub fn after(&self, mutations: &[Mutation], sessions: &BTreeSet<SessionId>) -> Option<Model> {
        let mut model = self.clone();
        mutations.iter().try_for_each(|mutation| model.mutate(mutation, sessions))?;
        model.tidy();
        model.is_sound(self).then_some(model)
    }

    fn tidy(&mut self) {
        self.extents.retain(|_, extents| !extents.is_empty());
        for (object, file) in &mut self.files {
            let extents = self.extents.get(object).into_iter().flat_map(BTreeMap::values);
            file.allocated = extents.map(|bytes| bytes.len() as u64).sum();
        }
    }

    /// What must hold of a plan as a whole.
    fn is_sound(&self, before: &Model) -> bool {
        let links = |model: &Model, object| model.files.get(object).map(|file| file.nlink);
        let named = self.files.iter().all(|(object, file)| (file.nlink == 0) == self.orphans.contains_key(object));
        let buried = before.files.iter().all(|(object, file)| file.nlink > 0 || links(self, object) == Some(0));
        let owned = self.extents.keys().chain(self.orphans.keys()).all(|object| self.files.contains_key(object));
        named && buried && owned
    }

    fn mutate(&mut self, mutation: &Mutation, sessions: &BTreeSet<SessionId>) -> Option<()> {
        match mutation {
            Mutation::Put { key, record } => self.put(key, record),
            Mutation::Delete { key } => {
                self.others.remove(key);
                Some(())
            }
            Mutation::Adjust { object, delta, .. } => self.adjust(*object, delta),
            Mutation::Carve { object, start, end, .. } => {
                let extents = self.extents.entry(*object).or_default();
                *extents = std::mem::take(extents).into_iter().flat_map(|run| cut(run, *start, *end)).collect();
                Some(())
            }
            Mutation::Append { object, len, content, .. } => {
                let Some(file) = self.files.get_mut(object) else { return Some(()) };
                let start = file.size;
                let end = start.checked_add(*len).filter(|end| *end <= FILE_BYTES_MAX)?;
                file.size = end;
                let extents = self.extents.entry(*object).or_default();
                *extents = std::mem::take(extents).into_iter().flat_map(|run| cut(run, start, end)).collect();
                extents.insert(end, bytes(&Extent { len: *len, content: content.clone() }));
                Some(())
            }
            Mutation::Orphan { object, .. } => {
                self.orphans.insert(*object, sessions.clone());
                Some(())
            }
        }
    }

    fn put(&mut self, key: &Key, record: &Record) -> Option<()> {
        match (key.parts(), record) {
            (_, Record::Attr(attr)) => {
                let (nlink, size, mode) = (attr.nlink, attr.size, attr.firm.mode);
                self.files.insert(key.object(), File { nlink, size, mode, allocated: 0 });
            }
            (KeyParts::Extent { end }, Record::Extent(extent)) => {
                let extents = self.extents.entry(key.object()).or_default();
                extents.remove(&end);
                let start = end.checked_sub(extent.len)?;
                let taken = |(other_end, bytes): (&u64, &Vec<Byte>)| {
                    let other_start = other_end - bytes.len() as u64;
                    (start..end).any(|at| (other_start..*other_end).contains(&at))
                };
                if extents.iter().any(taken) {
                    return None;
                }
                extents.insert(end, bytes(extent));
            }
            _ => drop(self.others.insert(key.clone(), record.clone())),
        }
        Some(())
    }

    fn adjust(&mut self, object: ObjectId, delta: &AttrDelta) -> Option<()> {
        let Some(file) = self.files.get_mut(&object) else { return Some(()) };
        let nlink = i128::from(file.nlink) + i128::from(delta.nlink);
        let size = i128::from(file.size) + i128::from(delta.size);
        file.nlink = u32::try_from(nlink).ok().filter(|nlink| *nlink <= LINKS_MAX)?;
        file.size = u64::try_from(size).ok()?.max(delta.size_min);
        (file.size <= FILE_BYTES_MAX).then_some(())
    }

    /// `session` does not hold `object`.
    pub fn release(&mut self, object: ObjectId, session: SessionId) {
        let Some(holders) = self.orphans.get_mut(&object) else { return };
        if holders.remove(&session) && holders.is_empty() {
            self.orphans.remove(&object);
            self.files.remove(&object);
            self.extents.remove(&object);
            self.others.retain(|key, _| key.object() != object);
        }
    }
}

/// The runs that are left of a run when `start..end` is cut out of it: each byte by itself, then what hangs together.
fn cut((run_end, bytes): (u64, Vec<Byte>), start: u64, end: u64) -> Vec<(u64, Vec<Byte>)> {
    let mut left: Vec<(u64, Vec<Byte>)> = Vec::new();
    let run_start = run_end - bytes.len() as u64;
    for (at, byte) in (run_start..).zip(bytes) {
        if (start..end).contains(&at) {
            continue;
        }
        match left.last_mut() {
            Some((behind, run)) if *behind == at => {
                *behind += 1;
                run.push(byte);
            }
            _ => left.push((at + 1, vec![byte])),
        }
    }
    left
}
