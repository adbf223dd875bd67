//! What a conflict was about, for people: operations in words, with the paths that objects have now.

use crate::host::conflicts::{Conflict, Why};
use gavel_fs::Operation;
use gavel_fs::operation::SetTime;
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, VolumeId};
use gavel_wire::{Content, Kind, Record, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};

/// Most records that are looked at to find the names of files: a file does not know its own.
const SEARCH_MAX: usize = 2_000_000;
/// Records looked at in one step.
const PAGE: usize = 4096;

/// The paths of objects in one volume, as of a view.
pub struct Paths<'v> {
    view: &'v dyn View,
    volume: VolumeId,
    /// What was found: where an object's name is, and the name.
    names: BTreeMap<ObjectId, (ObjectId, Vec<u8>)>,
}

impl<'v> Paths<'v> {
    /// Looks for the names of these objects, and of the directories above them. Those that are not found in a bounded search have no path.
    pub fn of(view: &'v dyn View, volume: VolumeId, objects: impl IntoIterator<Item = ObjectId>) -> Paths<'v> {
        let mut paths = Paths { view, volume, names: BTreeMap::new() };
        let mut files = BTreeSet::new();
        for object in objects {
            match paths.parent(object) {
                Some(_) => paths.find_above(object),
                None if object != ObjectId::ROOT => drop(files.insert(object)),
                None => {}
            }
        }
        if !files.is_empty() {
            // What can't be read has no path.
            let _ = paths.search(&KeyRange::volume(volume), &mut files);
        }
        let above: BTreeSet<ObjectId> = paths.names.values().map(|(parent, _)| *parent).collect();
        above.into_iter().for_each(|directory| paths.find_above(directory));
        paths
    }

    /// The directory above a directory.
    fn parent(&self, object: ObjectId) -> Option<ObjectId> {
        let found = self.view.get(&Key::attr(self.volume, object)).ok()??;
        match found.record {
            Record::Attr(attr) if attr.firm.kind == Kind::Directory && object != ObjectId::ROOT => {
                Some(attr.firm.parent)
            }
            _ => None,
        }
    }

    fn find_above(&mut self, directory: ObjectId) {
        let mut at = directory;
        for _ in 0..DEPTH_MAX {
            let Some(parent) = self.parent(at).filter(|_| !self.names.contains_key(&at)) else { return };
            let _ = self.search(&KeyRange::dirents(self.volume, parent), &mut BTreeSet::from([at]));
            at = parent;
        }
    }

    /// Looks for names of these objects among the records of `range`.
    fn search(&mut self, range: &KeyRange, wanted: &mut BTreeSet<ObjectId>) -> Result<(), ViewError> {
        let mut range = range.clone();
        for _ in 0..SEARCH_MAX / PAGE {
            let page = self.view.scan(&range, PAGE)?;
            for (key, version) in &page {
                if let (Record::Dirent(dirent), KeyParts::Dirent { name, .. }) = (&version.record, key.parts())
                    && wanted.remove(&dirent.object)
                {
                    self.names.insert(dirent.object, (key.object(), name.to_vec()));
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE && !wanted.is_empty() => range.start = KeyRange::one(key).end,
                _ => break,
            }
        }
        Ok(())
    }

    /// The path of an object within its volume, if it has one.
    pub fn path(&self, object: ObjectId) -> Option<String> {
        let (mut path, mut at) = (String::new(), object);
        for _ in 0..DEPTH_MAX {
            if at == ObjectId::ROOT {
                return Some(if path.is_empty() { "/".into() } else { path });
            }
            let (parent, name) = self.names.get(&at)?;
            path = format!("/{}{path}", printable(name));
            at = *parent;
        }
        None
    }

    /// The path of an object, or its number.
    fn say(&self, object: ObjectId) -> String {
        self.path(object).unwrap_or_else(|| format!("(object {object}, which has no path now)"))
    }

    /// The path of a name in a directory.
    fn join(&self, parent: ObjectId, name: &[u8]) -> String {
        match self.path(parent) {
            Some(path) => format!("{}/{}", path.trim_end_matches('/'), printable(name)),
            None => format!("{} in (directory {parent}, which has no path now)", printable(name)),
        }
    }
}

/// Names are bytes: what does not print is escaped.
fn printable(name: &[u8]) -> String {
    name.utf8_chunks().fold(String::new(), |text, chunk| {
        let valid: String = chunk
            .valid()
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect();
        text + &valid + &chunk.invalid().escape_ascii().to_string()
    })
}

/// The objects that an operation names.
pub fn objects(operation: &Operation) -> Vec<ObjectId> {
    use Operation as O;
    match operation {
        O::Lookup { parent, .. } | O::Mknod { parent, .. } | O::Create { parent, .. } => vec![*parent],
        O::Mkdir { parent, .. } | O::Symlink { parent, .. } => vec![*parent],
        O::Unlink { parent, .. } | O::Rmdir { parent, .. } => vec![*parent],
        O::Link { object, parent, .. } => vec![*object, *parent],
        O::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
        O::CopyRange { from, to, .. } => vec![*from, *to],
        O::Getattr { object } | O::Setattr { object, .. } | O::Readlink { object } | O::Open { object, .. } => {
            vec![*object]
        }
        O::Read { object, .. } | O::Write { object, .. } | O::Fallocate { object, .. } => vec![*object],
        O::Seek { object, .. } | O::Readdir { object, .. } => vec![*object],
        O::Getxattr { object, .. } | O::Setxattr { object, .. } => vec![*object],
        O::Removexattr { object, .. } | O::Listxattr { object } => vec![*object],
    }
}

/// The objects that a conflict names, in the operation or the cause.
pub fn named(conflict: &Conflict) -> Vec<ObjectId> {
    let mut named = objects(&conflict.operation);
    if let Why::Changed { start, .. } = &conflict.why
        && let Ok(key) = Key::from_bytes(start)
    {
        named.push(key.object());
    }
    named
}

/// An operation in words.
pub fn what(operation: &Operation, paths: &Paths<'_>) -> String {
    use Operation as O;
    match operation {
        O::Create { parent, name, mode, .. } => format!("create file {} (mode {mode:03o})", paths.join(*parent, name)),
        O::Mknod { parent, name, kind, .. } => {
            format!("create {} {}", format!("{kind:?}").to_lowercase(), paths.join(*parent, name))
        }
        O::Mkdir { parent, name, .. } => format!("make directory {}", paths.join(*parent, name)),
        O::Symlink { parent, name, target } => {
            format!("make symlink {} to {}", paths.join(*parent, name), printable(target))
        }
        O::Link { object, parent, name } => format!("link {} as {}", paths.say(*object), paths.join(*parent, name)),
        O::Unlink { parent, name } => format!("remove {}", paths.join(*parent, name)),
        O::Rmdir { parent, name } => format!("remove directory {}", paths.join(*parent, name)),
        O::Rename { parent, name, new_parent, new_name, .. } => {
            format!("rename {} to {}", paths.join(*parent, name), paths.join(*new_parent, new_name))
        }
        O::Open { object, .. } => format!("open {} and truncate it", paths.say(*object)),
        O::Write { object, append: true, len, .. } => format!("append {len} bytes to {}", paths.say(*object)),
        O::Write { object, offset, len, .. } => format!("write {len} bytes at {offset} to {}", paths.say(*object)),
        O::Fallocate { object, offset, len, how } => {
            format!("allocate ({how:?}) {len} bytes at {offset} of {}", paths.say(*object))
        }
        O::CopyRange { from, to, len, to_offset, .. } => {
            format!("copy {len} bytes of {} to {} at {to_offset}", paths.say(*from), paths.say(*to))
        }
        O::Setxattr { object, name, .. } => format!("set attribute {} of {}", printable(name), paths.say(*object)),
        O::Removexattr { object, name } => format!("remove attribute {} of {}", printable(name), paths.say(*object)),
        O::Setattr { object, set } => {
            let time = |name: &str, time: Option<SetTime>| time.map(|_| name.to_owned());
            let set = [
                set.size.map(|size| format!("size {size}")),
                set.mode.map(|mode| format!("mode {mode:03o}")),
                set.uid.map(|uid| format!("owner {uid}")),
                set.gid.map(|gid| format!("group {gid}")),
                time("time of access", set.atime),
                time("time of change", set.mtime),
            ];
            let set: Vec<String> = set.into_iter().flatten().collect();
            format!("set {} of {}", set.join(", "), paths.say(*object))
        }
        reads => format!("{reads:?}"),
    }
}

/// Why a change collided, in words.
pub fn why(why: &Why, paths: &Paths<'_>) -> String {
    match why {
        Why::Changed { start, .. } => match Key::from_bytes(start) {
            Ok(key) => {
                let object = paths.say(key.object());
                match key.parts() {
                    KeyParts::Attr => format!("another node has changed the attributes of {object}"),
                    KeyParts::Dirent { name, .. } => {
                        format!("another node has changed what the name {} is", paths.join(key.object(), name))
                    }
                    KeyParts::Extent { .. } => format!("another node has changed bytes of {object}"),
                    KeyParts::Xattr { name } => {
                        format!("another node has changed the attribute {} of {object}", printable(name))
                    }
                    KeyParts::Target => format!("another node has changed {object}"),
                    KeyParts::Orphan { .. } => "another node has removed it".into(),
                    KeyParts::Commit { .. } => "another node has made a commit".into(),
                    KeyParts::Boundary => "a mirror has moved".into(),
                }
            }
            // The start of a range of keys is not always a key: it says which object all the same.
            Err(_) => match object_of(start) {
                Some(object) => format!("another node has changed bytes or names of {}", paths.say(object)),
                None => "another node has changed what it depends on".into(),
            },
        },
        Why::Depends => "it stands on an earlier change that is a conflict itself".into(),
        Why::Unknown => "it may have been committed: nobody can say. Look before you replay it".into(),
        Why::Refused => "the cluster refused it, which is a fault of the program; please report this".into(),
        Why::TooMany => "too many changes were lost at once to be offered again".into(),
    }
}

fn object_of(start: &[u8]) -> Option<ObjectId> {
    start.get(4..12).and_then(|bytes| bytes.try_into().ok()).map(|bytes| ObjectId(u64::from_be_bytes(bytes)))
}

/// The bytes that a write carries, or where they are.
pub fn content(operation: &Operation) -> Option<&Content> {
    match operation {
        Operation::Write { content, .. } => Some(content),
        _ => None,
    }
}
