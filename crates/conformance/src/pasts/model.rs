//! A filesystem in memory: as plain as can be, and cheap to copy.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// An object's number in the model.
pub type Id = u64;

/// The directory in which everything happens.
pub const ROOT: Id = 0;

/// What an object is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Names, and what they name.
    Directory(BTreeMap<String, Id>),
    /// Bytes.
    File(Vec<u8>),
    /// Where it leads.
    Symlink(String),
    /// Nothing.
    Fifo,
}

/// An object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When its content changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// What it is.
    pub body: Body,
}

/// A tree: objects that have not changed are shared among copies.
#[derive(Clone, Debug)]
pub struct Model {
    objects: BTreeMap<Id, Arc<Object>>,
    next: Id,
}

/// What can be seen at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// How many names it has; of a directory: two, and one for each directory in it.
    pub links: u64,
    /// Bytes; not of directories.
    pub size: u64,
    /// When its content changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// A file's bytes, or where a symlink leads.
    pub content: Vec<u8>,
}

/// All that can be seen, by path; the root is at the empty path.
pub type Sight = BTreeMap<PathBuf, Seen>;

/// An object with the path by which it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its path below the root.
    pub path: PathBuf,
    /// Its number.
    pub id: Id,
}

impl Object {
    /// Is it a directory?
    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    fn format(&self) -> u32 {
        match self.body {
            Body::Directory(_) => 0o040_000,
            Body::File(_) => 0o100_000,
            Body::Symlink(_) => 0o120_000,
            Body::Fifo => 0o010_000,
        }
    }
}

impl Model {
    /// An empty directory.
    pub fn new(root: Object) -> Model {
        Model { objects: BTreeMap::from([(ROOT, Arc::new(root))]), next: ROOT + 1 }
    }

    /// An object.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn get(&self, id: Id) -> &Object {
        &self.objects[&id]
    }

    /// An object, to be changed.
    ///
    /// # Panics
    /// If there is none of this number.
    pub fn change(&mut self, id: Id) -> &mut Object {
        Arc::make_mut(self.objects.get_mut(&id).expect("an object that is there"))
    }

    /// The names in a directory.
    ///
    /// # Panics
    /// If it is none.
    pub fn names(&self, directory: Id) -> &BTreeMap<String, Id> {
        match &self.get(directory).body {
            Body::Directory(names) => names,
            other => panic!("{other:?} has no names"),
        }
    }

    fn names_of(&mut self, directory: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.change(directory).body {
            Body::Directory(names) => names,
            other => panic!("{other:?} has no names"),
        }
    }

    /// A new object gets a name.
    pub fn make(&mut self, directory: Id, name: &str, object: Object) -> Id {
        let id = self.next;
        self.next += 1;
        self.objects.insert(id, Arc::new(object));
        self.names_of(directory).insert(name.into(), id);
        id
    }

    /// An object gets one more name.
    pub fn link(&mut self, id: Id, directory: Id, name: &str) {
        self.names_of(directory).insert(name.into(), id);
    }

    /// A name goes, and with its last name the object.
    pub fn remove(&mut self, directory: Id, name: &str) {
        let id = self.names_of(directory).remove(name);
        if let Some(id) = id
            && self.count_names(id) == 0
        {
            self.objects.remove(&id);
        }
    }

    /// An object gets another name, which may have been something else's.
    pub fn rename(&mut self, from: (Id, &str), to: (Id, &str)) {
        let id = self.names(from.0)[from.1];
        if self.names(to.0).get(to.1) == Some(&id) {
            // Two names of one file: rename(2) does nothing.
            return;
        }
        self.remove(to.0, to.1);
        self.names_of(from.0).remove(from.1);
        self.names_of(to.0).insert(to.1.into(), id);
    }

    fn count_names(&self, id: Id) -> u64 {
        let names = self.objects.values().filter_map(|object| match &object.body {
            Body::Directory(names) => Some(names.values().filter(|named| **named == id).count() as u64),
            _ => None,
        });
        names.sum()
    }

    fn links(&self, id: Id) -> u64 {
        match &self.get(id).body {
            Body::Directory(names) => 2 + names.values().filter(|id| self.get(**id).is_directory()).count() as u64,
            _ => self.count_names(id),
        }
    }

    /// Every path with what it names, the root first, parents before what is in them.
    pub fn walk(&self) -> Vec<Found> {
        let mut found = vec![Found { path: PathBuf::new(), id: ROOT }];
        let mut next = 0;
        while let Some(Found { path, id }) = found.get(next).cloned() {
            next += 1;
            if let Body::Directory(names) = &self.get(id).body {
                found.extend(names.iter().map(|(name, id)| Found { path: path.join(name), id: *id }));
            }
        }
        found
    }

    /// What must be seen of it.
    pub fn sight(&self) -> Sight {
        self.walk().into_iter().map(|Found { path, id }| (path, self.seen(id))).collect()
    }

    fn seen(&self, id: Id) -> Seen {
        let object = self.get(id);
        let content = match &object.body {
            Body::File(bytes) => bytes.clone(),
            Body::Symlink(target) => target.clone().into_bytes(),
            Body::Directory(_) | Body::Fifo => Vec::new(),
        };
        Seen {
            mode: object.format() | object.mode,
            owner: object.owner,
            links: self.links(id),
            size: content.len() as u64,
            modified: object.modified,
            xattrs: object.xattrs.clone(),
            content,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(body: Body) -> Object {
        Object { mode: 0o755, owner: (0, 0), modified: (0, 0), xattrs: BTreeMap::new(), body }
    }

    #[test]
    fn a_copy_stays_as_it_was_and_links_are_counted() {
        let mut model = Model::new(object(Body::Directory(BTreeMap::new())));
        let dir = model.make(ROOT, "d", object(Body::Directory(BTreeMap::new())));
        let file = model.make(dir, "f", object(Body::File(b"one".to_vec())));
        model.link(file, ROOT, "second");
        let copy = model.clone();
        model.change(file).body = Body::File(b"two".to_vec());
        model.rename((ROOT, "second"), (dir, "f"));
        assert_eq!(model.sight().len(), 4, "two names of one file: nothing happens");
        model.remove(ROOT, "second");
        let (old, new) = (copy.sight(), model.sight());
        let path = PathBuf::from("d/f");
        assert_eq!((old[&path].content.as_slice(), old[&path].links), (b"one".as_slice(), 2));
        assert_eq!((new[&path].content.as_slice(), new[&path].links), (b"two".as_slice(), 1));
        assert_eq!((old[&PathBuf::new()].links, new.len()), (3, 3));
    }
}
