//! What one transaction did, as its change rows have it.

use crate::names::{Place, before, dirent, place};
use crate::staged::{attr_before, stages};
use crate::walk::attr;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Attr, Committed, Dirent, Kind, Past, Record, ViewError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// A name that names something else than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameChange {
    /// The name.
    pub place: Place,
    /// What it named.
    pub old: Option<Dirent>,
    /// What it names.
    pub new: Option<Dirent>,
}

/// Which records of an object were changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Touch {
    /// Its attributes.
    pub attr: bool,
    /// Extents that were made or ended.
    pub extents: u64,
    /// Extents that were made.
    pub made: u64,
    /// Where the last of these ends.
    pub made_end: u64,
    /// Extended attributes, and whether each has a value now.
    pub xattrs: Vec<(Box<[u8]>, bool)>,
    /// The target.
    pub target: bool,
    /// How many of its names.
    pub names: u64,
}

/// What a transaction changed in a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// The names, in the order of keys.
    pub names: Vec<NameChange>,
    /// The objects.
    pub objects: BTreeMap<ObjectId, Touch>,
}

impl Transaction {
    /// Reads what transaction `tid` changed, with what it adopted. What is held in memory is bounded by what one transaction may change.
    ///
    /// # Errors
    /// As the view's.
    pub fn read(past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<Transaction, ViewError> {
        let mut transaction = Transaction::default();
        let parts = parts(past, volume, tid)?;
        for &(stage, staged) in &parts {
            for row in past.touched(before(stage), stage) {
                let row = row?;
                if row.key.volume() == volume && row.key.object() != ObjectId::VOLUME {
                    transaction.add(past, (tid, staged), &row.key, row.made)?;
                }
            }
        }
        if parts.len() > 1 {
            transaction.names.sort_by_cached_key(|change| Key::dirent(volume, change.place.0, &change.place.1));
        }
        Ok(transaction)
    }

    /// As [`Transaction::read`], but of `object` alone, which had or has the name `place` and the attributes before and after that are given. If it has no other
    /// name, the cost does not follow what else the transaction changed.
    ///
    /// # Errors
    /// As the view's.
    pub fn read_of(
        past: &dyn Past,
        volume: VolumeId,
        tid: Tid,
        (object, place): (ObjectId, Option<&Place>),
        (old, new): (Option<&Attr>, Option<&Attr>),
    ) -> Result<Transaction, ViewError> {
        let alone = |attr: Option<&Attr>| attr.is_none_or(|a| a.firm.kind != Kind::Directory && a.nlink <= 1);
        let Some(place) = place.filter(|_| alone(old) && alone(new)) else {
            return Transaction::read(past, volume, tid);
        };
        let key = Key::dirent(volume, place.0, &place.1);
        let own = |dirent: Option<Dirent>| dirent.is_some_and(|dirent| dirent.object == object);
        let (was, is) = (dirent(past, before(tid), &key)?, dirent(past, tid, &key)?);
        let made = old.is_none() && was.is_none() && own(is);
        let removed = own(was) && is.is_none() && new.is_none_or(|new| new.nlink == 0);
        let kept = own(was) && own(is);
        if !(made || removed || kept) {
            return Transaction::read(past, volume, tid);
        }
        let mut transaction = Transaction::default();
        if !kept {
            transaction.names.push(NameChange { place: place.clone(), old: was, new: is });
        }
        for (stage, staged) in parts(past, volume, tid)? {
            for row in past.touched_at(stage, &KeyRange::object(volume, object)) {
                let row = row?;
                transaction.add(past, (tid, staged), &row.key, row.made)?;
            }
        }
        Ok(transaction)
    }

    fn add(&mut self, past: &dyn Past, (tid, staged): (Tid, bool), key: &Key, made: bool) -> Result<(), ViewError> {
        let touch = self.objects.entry(key.object()).or_default();
        match key.parts() {
            KeyParts::Attr => touch.attr = true,
            KeyParts::Target => touch.target = true,
            KeyParts::Xattr { name } => touch.xattrs.push((name.into(), made)),
            KeyParts::Extent { end } => {
                touch.extents += 1;
                touch.made += u64::from(made);
                touch.made_end = if made { end } else { touch.made_end };
            }
            KeyParts::Dirent { .. } => {
                touch.names += 1;
                let old = if staged { None } else { dirent(past, before(tid), key)? };
                let new = if made { dirent(past, tid, key)? } else { None };
                let changed = old.map(|old| old.object) != new.map(|new| new.object);
                if let Some(place) = place(key).filter(|_| changed) {
                    self.names.push(NameChange { place, old, new });
                }
            }
            KeyParts::Orphan { .. } | KeyParts::Commit { .. } | KeyParts::Boundary => {}
        }
        Ok(())
    }

    /// Which names stand for others: those that an object got, with those that it lost, in the order of keys. What is left over was linked or
    /// unlinked.
    pub fn renames(&self) -> BTreeMap<&Place, &Place> {
        let mut lost: BTreeMap<ObjectId, VecDeque<&Place>> = BTreeMap::new();
        for change in &self.names {
            if let Some(old) = change.old {
                lost.entry(old.object).or_default().push_back(&change.place);
            }
        }
        let gained = self.names.iter().filter_map(|change| Some((&change.place, change.new?)));
        gained.filter_map(|(place, new)| Some((place, lost.get_mut(&new.object)?.pop_front()?))).collect()
    }

    /// The names that `object` has lost.
    pub fn lost(&self, object: ObjectId) -> impl Iterator<Item = &NameChange> {
        self.names.iter().filter(move |change| change.old.is_some_and(|old| old.object == object))
    }

    /// The names that `object` has got.
    pub fn gained(&self, object: ObjectId) -> impl Iterator<Item = &NameChange> {
        self.names.iter().filter(move |change| change.new.is_some_and(|new| new.object == object))
    }
}

/// Who made a commit; none if the quorum did it by itself.
///
/// # Errors
/// As the view's.
pub fn author(past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<Option<Committed>, ViewError> {
    Ok(past.at(tid).get(&Key::commit(volume, tid))?.and_then(|version| match version.record {
        Record::Commit(committed) => Some(committed),
        _ => None,
    }))
}

/// Attributes before and after a transaction.
///
/// # Errors
/// As the view's.
pub fn attrs(
    past: &dyn Past,
    volume: VolumeId,
    object: ObjectId,
    tid: Tid,
) -> Result<(Option<Attr>, Option<Attr>), ViewError> {
    let old = attr_before(past, volume, object, tid)?.and_then(|version| match version.record {
        Record::Attr(attr) => Some(attr),
        _ => None,
    });
    Ok((old, attr(&*past.at(tid), volume, object)?))
}

/// The transactions that wrote what `tid` did, and whether each staged it.
fn parts(past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<Vec<(Tid, bool)>, ViewError> {
    let stages = stages(past, volume, tid)?.into_iter().map(|stage| (stage, true));
    Ok(stages.chain([(tid, false)]).collect())
}

/// Something that was done to an object or its names. Part of the machine-readable output: kinds and fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// It was made.
    Created,
    /// Bytes of it were written.
    Written,
    /// It was cut.
    Truncated {
        /// To so many bytes.
        to: u64,
    },
    /// It grew without bytes.
    Extended {
        /// To so many bytes.
        to: u64,
    },
    /// Its permission bits changed.
    Mode {
        /// In octal.
        from: String,
        /// In octal.
        to: String,
    },
    /// Its owner or group changed.
    Owner {
        /// `uid:gid`.
        from: String,
        /// `uid:gid`.
        to: String,
    },
    /// Its times were set.
    Times,
    /// An extended attribute was set.
    Xattr {
        /// Which.
        name: String,
    },
    /// An extended attribute was removed.
    XattrRemoved {
        /// Which.
        name: String,
    },
    /// The target of a symlink.
    Target,
    /// It got this name in place of another.
    Renamed {
        /// The name that it lost.
        from: String,
        /// The name that it got.
        to: String,
    },
    /// It got one more name.
    Linked {
        /// Which.
        path: String,
    },
    /// It lost a name, and has others.
    Unlinked {
        /// Which.
        path: String,
    },
    /// It lost its last name.
    Removed {
        /// Which.
        path: String,
    },
    /// The name that it got was another object's, which lost it and got no other in its place.
    Replaced {
        /// The other object.
        object: u64,
    },
    /// The name that it had is another object's now.
    ReplacedBy {
        /// The other object.
        object: u64,
    },
    /// Of a directory: a name was added.
    NameAdded {
        /// Which.
        name: String,
        /// The path that the object had before, if it had one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        from: Option<String>,
    },
    /// Of a directory: a name was removed.
    NameRemoved {
        /// Which.
        name: String,
        /// The path that the object has now, if it got another.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        to: Option<String>,
    },
    /// Of a directory: a name names something else now.
    NameReplaced {
        /// Which.
        name: String,
    },
    /// There were more changes of names.
    More {
        /// How many.
        count: u64,
    },
    /// Something was set to what it was.
    Touched,
}

impl What {
    /// In words, for people.
    pub fn words(&self) -> String {
        match self {
            What::Created => "created".into(),
            What::Written => "written".into(),
            What::Truncated { to } => format!("truncated to {to}"),
            What::Extended { to } => format!("extended to {to}"),
            What::Mode { from, to } => format!("mode {from} -> {to}"),
            What::Owner { from, to } => format!("owner {from} -> {to}"),
            What::Times => "times".into(),
            What::Xattr { name } => format!("xattr {name}"),
            What::XattrRemoved { name } => format!("xattr {name} removed"),
            What::Target => "target".into(),
            What::Renamed { from, to } => format!("renamed {from} -> {to}"),
            What::Linked { path } => format!("linked as {path}"),
            What::Unlinked { path } => format!("unlinked {path}"),
            What::Removed { path } => format!("removed {path}"),
            What::Replaced { object } => format!("replaced object {object}"),
            What::ReplacedBy { object } => format!("replaced by object {object}"),
            What::NameAdded { name, from: None } => format!("+ {name}"),
            What::NameAdded { name, from: Some(from) } => format!("+ {name} (from {from})"),
            What::NameRemoved { name, to: None } => format!("- {name}"),
            What::NameRemoved { name, to: Some(to) } => format!("- {name} (now {to})"),
            What::NameReplaced { name } => format!("replaced {name}"),
            What::More { count } => format!("and {count} more"),
            What::Touched => "touched".into(),
        }
    }
}

/// What changed of an object itself: of its attributes, bytes, extended attributes, target.
pub fn of_object(old: Option<&Attr>, new: Option<&Attr>, touch: &Touch) -> Vec<What> {
    let mut all = Vec::new();
    let Some(new) = new else { return all };
    let Some(old) = old else {
        all.push(What::Created);
        all.extend((touch.made > 0).then_some(What::Written));
        return all;
    };
    content(old, new, touch, &mut all);
    if old.firm.mode != new.firm.mode {
        let octal = |attr: &Attr| format!("{:04o}", attr.firm.mode);
        all.push(What::Mode { from: octal(old), to: octal(new) });
    }
    if (old.firm.uid, old.firm.gid) != (new.firm.uid, new.firm.gid) {
        let owner = |attr: &Attr| format!("{}:{}", attr.firm.uid, attr.firm.gid);
        all.push(What::Owner { from: owner(old), to: owner(new) });
    }
    for (name, made) in &touch.xattrs {
        let name = crate::text::escaped(name);
        all.push(if *made { What::Xattr { name } } else { What::XattrRemoved { name } });
    }
    all.extend(touch.target.then_some(What::Target));
    // Writing, and making names in a directory, set times too.
    let explained = touch.names > 0 || touch.extents > 0 || old.size != new.size;
    if old.atime != new.atime || old.mtime != new.mtime && !explained {
        all.push(What::Times);
    }
    all
}

fn content(old: &Attr, new: &Attr, touch: &Touch, all: &mut Vec<What>) {
    if new.firm.kind != Kind::File {
        return;
    }
    let cut = new.size < old.size;
    if cut {
        all.push(What::Truncated { to: new.size });
    }
    // A cut may leave a part of an extent behind.
    let only_cut = cut && (touch.made == 0 || touch.made == 1 && touch.made_end == new.size);
    if touch.extents > 0 && !only_cut {
        all.push(What::Written);
    } else if new.size > old.size {
        all.push(What::Extended { to: new.size });
    }
}
