//! What operations should do, as simply as can be: no records, no plans, a byte is a byte.

use super::world::V;
use gavel_fs::operation::{Allocate, Listed, Piece, RenameMode, Seek, SetAttr, SetTime, XattrMode};
use gavel_fs::{Caller, FsError, Operation, Reply};
use gavel_types::{Cookie, ObjectId, Timestamp};
use gavel_wire::{Attr, Content, Firm, Kind};
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    Hole,
    Reserved,
    Byte(u8),
}

#[derive(Clone, Debug)]
pub struct Node {
    pub attr: Attr,
    pub cells: Vec<Cell>,
    pub names: BTreeMap<Vec<u8>, ObjectId>,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub removed: bool,
}

pub struct Model {
    pub nodes: BTreeMap<ObjectId, Node>,
    pub caller: Caller,
    /// The time of the next commit.
    pub now: Timestamp,
    /// The id of the next object.
    pub fresh: ObjectId,
}

use FsError as E;
type Answer = Result<Reply, FsError>;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The ACLs of the model: three entries, or five with one user and a mask. So the permissions are at fixed places.
pub fn acl_bytes(extended: bool, user: u8, group: u8, other: u8) -> Vec<u8> {
    let entry = |tag: u8, permissions: u8, id: u32| {
        let mut bytes = vec![tag, 0, permissions & 7, 0];
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes
    };
    let mut bytes = vec![2, 0, 0, 0];
    bytes.extend(entry(1, user, u32::MAX));
    if extended {
        bytes.extend(entry(2, 7, 1000));
        bytes.extend(entry(4, 5, u32::MAX));
        bytes.extend(entry(0x10, group, u32::MAX));
    } else {
        bytes.extend(entry(4, group, u32::MAX));
    }
    bytes.extend(entry(0x20, other, u32::MAX));
    bytes
}

/// Where the three classes' permissions are.
fn class_places(acl: &[u8]) -> [usize; 3] {
    if acl.len() > 28 { [6, 30, 38] } else { [6, 14, 22] }
}

fn acl_mode(acl: &[u8]) -> u16 {
    let [user, group, other] = class_places(acl).map(|place| u16::from(acl[place]));
    user << 6 | group << 3 | other
}

fn acl_chmod(acl: &mut [u8], mode: u16) {
    for (place, shift) in class_places(acl).into_iter().zip([6, 3, 0]) {
        acl[place] = (mode >> shift & 7) as u8;
    }
}

impl Model {
    pub fn new(root: Attr) -> Model {
        let node = Node {
            attr: root,
            cells: Vec::new(),
            names: BTreeMap::new(),
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            removed: false,
        };
        let caller = Caller::default();
        let now = Timestamp::default();
        Model { nodes: BTreeMap::from([(ObjectId::ROOT, node)]), caller, now, fresh: ObjectId(0) }
    }

    fn node(&mut self, object: ObjectId) -> Result<&mut Node, E> {
        self.nodes.get_mut(&object).ok_or(E::Stale)
    }

    fn regular(&mut self, object: ObjectId) -> Result<&mut Node, E> {
        let node = self.node(object)?;
        match node.attr.firm.kind {
            Kind::File => Ok(node),
            Kind::Directory => Err(E::IsDirectory),
            _ => Err(E::Invalid),
        }
    }

    fn directory(&mut self, object: ObjectId) -> Result<&mut Node, E> {
        let node = self.node(object).map_err(|_| E::NotFound)?;
        match node.attr.firm.kind {
            Kind::Directory if node.removed => Err(E::NotFound),
            Kind::Directory => Ok(node),
            _ => Err(E::NotDirectory),
        }
    }

    fn find(&mut self, parent: ObjectId, name: &[u8]) -> Result<Option<ObjectId>, E> {
        if name.len() > 255 {
            return Err(E::NameTooLong);
        }
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            return Err(E::Invalid);
        }
        Ok(self.directory(parent)?.names.get(name).copied())
    }

    fn is_directory(&self, object: ObjectId) -> bool {
        self.nodes[&object].attr.firm.kind == Kind::Directory
    }

    fn set_name(&mut self, parent: ObjectId, name: &[u8], object: ObjectId) {
        self.nodes.get_mut(&parent).unwrap().names.insert(name.to_vec(), object);
        if self.is_directory(object) {
            self.nodes.get_mut(&object).unwrap().attr.firm.parent = parent;
        }
    }

    /// The names in a directory have changed; its counters follow from them.
    fn recount(&mut self, directory: ObjectId) {
        let names: Vec<ObjectId> = self.nodes[&directory].names.values().copied().collect();
        let subdirectories = names.iter().filter(|object| self.is_directory(**object)).count();
        let now = self.now;
        let attr = &mut self.nodes.get_mut(&directory).unwrap().attr;
        (attr.size, attr.nlink) = (names.len() as u64, 2 + subdirectories as u32);
        (attr.mtime, attr.ctime) = (now, now);
    }

    fn lose_name(&mut self, object: ObjectId) {
        let now = self.now;
        let node = self.nodes.get_mut(&object).unwrap();
        node.attr.ctime = now;
        if node.attr.firm.kind == Kind::Directory {
            node.attr.nlink = 0;
            node.removed = true;
            node.attr.firm.parent = ObjectId::VOLUME;
        } else {
            node.attr.nlink -= 1;
        }
    }

    fn make(&mut self, parent: ObjectId, name: &[u8], kind: Kind, mode: u16, umask: u16) -> Result<ObjectId, E> {
        if self.find(parent, name)?.is_some() {
            return Err(E::Exists);
        }
        let (caller, now, object) = (self.caller, self.now, self.fresh);
        let directory = self.directory(parent)?.clone();
        let is_dir = kind == Kind::Directory;
        let set_gid = directory.attr.firm.mode & 0o2000 != 0;
        let mut mode = if is_dir { mode & 0o1777 | directory.attr.firm.mode & 0o2000 } else { mode & 0o7777 };
        let mut xattrs = BTreeMap::new();
        match directory.xattrs.get(DEFAULT) {
            Some(default) if kind != Kind::Symlink => {
                mode &= !0o777 | acl_mode(default);
                if default.len() > 28 {
                    let mut access = default.clone();
                    acl_chmod(&mut access, mode);
                    xattrs.insert(ACCESS.to_vec(), access);
                }
                if is_dir {
                    xattrs.insert(DEFAULT.to_vec(), default.clone());
                }
            }
            _ => mode &= !umask,
        }
        let firm = Firm {
            kind,
            mode,
            uid: caller.uid,
            gid: if set_gid { directory.attr.firm.gid } else { caller.gid },
            rdev: 0,
            parent: if is_dir { parent } else { ObjectId::VOLUME },
            birth: now,
            class: directory.attr.firm.class,
        };
        let nlink = if is_dir { 2 } else { 1 };
        let attr = Attr { firm, nlink, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
        let node = Node { attr, cells: Vec::new(), names: BTreeMap::new(), target: Vec::new(), xattrs, removed: false };
        self.nodes.insert(object, node);
        self.set_name(parent, name, object);
        self.recount(parent);
        Ok(object)
    }

    /// The content of a file has changed.
    fn modified(&mut self, object: ObjectId, kill: bool) {
        let now = self.now;
        let node = self.nodes.get_mut(&object).unwrap();
        (node.attr.mtime, node.attr.ctime) = (now, now);
        node.attr.allocated = node.cells.iter().filter(|cell| **cell != Cell::Hole).count() as u64;
        node.xattrs.remove(&b"security.capability"[..]);
        if kill {
            kill_bits(&mut node.attr.firm.mode);
        }
    }

    fn truncate(&mut self, object: ObjectId, size: u64, kill: bool) {
        let node = self.nodes.get_mut(&object).unwrap();
        if size <= node.attr.size {
            node.cells.truncate(size as usize);
        }
        node.attr.size = size;
        self.modified(object, kill);
    }

    fn put_cells(&mut self, object: ObjectId, offset: u64, cells: &[Cell]) {
        let node = self.nodes.get_mut(&object).unwrap();
        let (start, end) = (offset as usize, offset as usize + cells.len());
        if node.cells.len() < end {
            node.cells.resize(end, Cell::Hole);
        }
        node.cells[start..end].copy_from_slice(cells);
    }

    fn grow(&mut self, object: ObjectId, size: u64) {
        let attr = &mut self.nodes.get_mut(&object).unwrap().attr;
        attr.size = attr.size.max(size);
    }

    fn setattr(&mut self, object: ObjectId, set: &SetAttr) -> Answer {
        let kind = self.node(object)?.attr.firm.kind;
        if set.size.is_some() {
            self.regular(object)?;
        }
        if set.mode.is_some() && kind == Kind::Symlink {
            return Err(E::NotSupported);
        }
        if let Some(size) = set.size {
            self.truncate(object, size, set.kill_suidgid);
        }
        let (now, caller) = (self.now, self.caller);
        let node = self.node(object)?;
        let firm = &mut node.attr.firm;
        if set.kill_suidgid && kind != Kind::Directory {
            kill_bits(&mut firm.mode);
        }
        if let Some(mode) = set.mode {
            firm.mode = mode & 0o7777;
            if let Some(acl) = node.xattrs.get_mut(ACCESS) {
                acl_chmod(acl, mode);
            }
        }
        if set.uid.or(set.gid).is_some() && kind != Kind::Directory {
            if caller.uid != 0 && caller.gid != firm.gid {
                firm.mode &= !0o2000;
            }
            kill_bits(&mut firm.mode);
            if kind == Kind::File {
                node.xattrs.remove(&b"security.capability"[..]);
            }
        }
        firm.uid = set.uid.unwrap_or(firm.uid);
        firm.gid = set.gid.unwrap_or(firm.gid);
        let time = |set: Option<SetTime>, old| match set {
            None => old,
            Some(SetTime::Now) => now,
            Some(SetTime::At(time)) => time,
        };
        node.attr.atime = time(set.atime, node.attr.atime);
        node.attr.mtime = time(set.mtime, node.attr.mtime);
        node.attr.ctime = now;
        Ok(Reply::Object(object))
    }

    fn below(&self, mut object: ObjectId, ancestor: ObjectId) -> bool {
        while object != ancestor && object != ObjectId::ROOT {
            object = self.nodes[&object].attr.firm.parent;
        }
        object == ancestor
    }

    fn rename(
        &mut self,
        (parent, name): (ObjectId, &[u8]),
        (new_parent, new_name): (ObjectId, &[u8]),
        mode: RenameMode,
    ) -> Answer {
        // Both names are judged before either is looked for.
        self.find(ObjectId::ROOT, name)?;
        self.find(ObjectId::ROOT, new_name)?;
        let source = self.find(parent, name)?.ok_or(E::NotFound)?;
        let target = self.find(new_parent, new_name)?;
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(E::Exists);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(E::NotFound);
        }
        if target == Some(source) {
            return Ok(Reply::Empty);
        }
        let into_itself = self.is_directory(source) && self.below(new_parent, source);
        if let Some(target) = target {
            let both = (self.is_directory(source), self.is_directory(target));
            if mode == RenameMode::Exchange {
                if into_itself || (both.1 && self.below(parent, target)) {
                    return Err(E::Invalid);
                }
            } else {
                match both {
                    _ if into_itself => return Err(E::Invalid),
                    (true, false) => return Err(E::NotDirectory),
                    (false, true) => return Err(E::IsDirectory),
                    (true, true) if !self.nodes[&target].names.is_empty() => return Err(E::NotEmpty),
                    _ => self.lose_name(target),
                }
            }
        } else if into_itself {
            return Err(E::Invalid);
        }
        self.nodes.get_mut(&parent).unwrap().names.remove(name);
        self.set_name(new_parent, new_name, source);
        let now = self.now;
        self.nodes.get_mut(&source).unwrap().attr.ctime = now;
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            self.set_name(parent, name, target);
            self.nodes.get_mut(&target).unwrap().attr.ctime = now;
        }
        self.recount(parent);
        self.recount(new_parent);
        Ok(Reply::Empty)
    }

    fn fallocate(&mut self, object: ObjectId, offset: u64, len: u64, how: Allocate) -> Answer {
        let kill = self.caller.uid != 0;
        self.regular(object)?;
        if len == 0 {
            return Err(E::Invalid);
        }
        let (start, end) = (offset as usize, (offset + len) as usize);
        let mut old = self.nodes[&object].cells.clone();
        old.resize(old.len().max(end), Cell::Hole);
        let new: Vec<Cell> = old[start..end]
            .iter()
            .map(|cell| match (how, cell) {
                (Allocate::PunchHole, _) => Cell::Hole,
                (Allocate::Reserve { .. }, Cell::Byte(_)) => *cell,
                _ => Cell::Reserved,
            })
            .collect();
        self.put_cells(object, offset, &new);
        if let Allocate::Reserve { keep_size: false } | Allocate::ZeroRange { keep_size: false } = how {
            self.grow(object, offset + len);
        }
        self.modified(object, kill);
        Ok(Reply::Empty)
    }

    fn seek(&mut self, object: ObjectId, offset: u64, what: Seek) -> Answer {
        let node = self.regular(object)?;
        if offset >= node.attr.size {
            return Err(E::NoData);
        }
        let is_data = |at: &u64| matches!(node.cells.get(*at as usize), Some(Cell::Byte(_)));
        let mut offsets = offset..node.attr.size;
        match what {
            Seek::Data => offsets.find(is_data).map(Reply::Offset).ok_or(E::NoData),
            Seek::Hole => Ok(Reply::Offset(offsets.find(|at| !is_data(at)).unwrap_or(node.attr.size))),
        }
    }

    fn copy_range(&mut self, from: (ObjectId, u64), to: (ObjectId, u64), len: u64) -> Answer {
        let kill = self.caller.uid != 0;
        let source = self.regular(from.0)?.clone();
        self.regular(to.0)?;
        let len = len.min(source.attr.size.saturating_sub(from.1));
        if from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len {
            return Err(E::Invalid);
        }
        if len > 0 {
            let cell = |at: u64| source.cells.get(at as usize).copied().unwrap_or(Cell::Hole);
            let cells: Vec<Cell> = (from.1..from.1 + len).map(cell).collect();
            self.put_cells(to.0, to.1, &cells);
            self.grow(to.0, to.1 + len);
            self.modified(to.0, kill);
        }
        Ok(Reply::Written { len, offset: to.1 })
    }

    fn readdir(&mut self, object: ObjectId, after: Cookie, limit: u32) -> Answer {
        let node = self.node(object)?;
        if node.attr.firm.kind != Kind::Directory {
            return Err(E::NotDirectory);
        }
        let parent = if node.removed { object } else { node.attr.firm.parent };
        let names = node.names.clone();
        let mut names: Vec<Listed> = names
            .into_iter()
            .map(|(name, object)| {
                let kind = self.nodes[&object].attr.firm.kind;
                Listed { cookie: Cookie::of(&name), name: name.into(), object, kind }
            })
            .filter(|name| name.cookie > after)
            .collect();
        names.sort_by_key(|name| name.cookie);
        let end = names.len() <= limit.max(1) as usize;
        names.truncate(limit.max(1) as usize);
        Ok(Reply::Listing { names, parent, end })
    }

    fn check_xattr(&mut self, object: ObjectId, name: &[u8], sets: bool) -> Result<(), E> {
        match name {
            b"user." => return Err(E::Invalid),
            b"foo.x" => return Err(E::NotSupported),
            _ => {}
        }
        let kind = self.node(object)?.attr.firm.kind;
        if kind == Kind::Symlink && (name == ACCESS || name == DEFAULT) {
            return Err(E::NotSupported);
        }
        if sets && name.starts_with(b"user.") && !matches!(kind, Kind::File | Kind::Directory) {
            return Err(E::NotPermitted);
        }
        Ok(())
    }

    fn setxattr(&mut self, object: ObjectId, name: &[u8], value: &[u8], mode: XattrMode) -> Answer {
        self.check_xattr(object, name, true)?;
        let (caller, now) = (self.caller, self.now);
        let node = self.node(object)?;
        let is_acl = name == ACCESS || name == DEFAULT;
        if is_acl && value.is_empty() {
            return self.removexattr(object, name);
        }
        if name == DEFAULT && node.attr.firm.kind != Kind::Directory {
            return Err(E::AccessDenied);
        }
        match (mode, node.xattrs.contains_key(name)) {
            _ if is_acl => {}
            (XattrMode::Create, true) => return Err(E::Exists),
            (XattrMode::Replace, false) => return Err(E::NoAttribute),
            _ => {}
        }
        node.attr.ctime = now;
        node.xattrs.insert(name.to_vec(), value.to_vec());
        if name == ACCESS {
            if value.len() <= 28 {
                node.xattrs.remove(name);
            }
            node.attr.firm.mode = node.attr.firm.mode & 0o7000 | acl_mode(value);
            if caller.uid != 0 && caller.gid != node.attr.firm.gid {
                node.attr.firm.mode &= !0o2000;
            }
        }
        Ok(Reply::Empty)
    }

    fn removexattr(&mut self, object: ObjectId, name: &[u8]) -> Answer {
        self.check_xattr(object, name, true)?;
        let now = self.now;
        let node = self.node(object)?;
        match node.xattrs.remove(name) {
            Some(_) => node.attr.ctime = now,
            None if name == ACCESS || name == DEFAULT => {}
            None => return Err(E::NoAttribute),
        }
        Ok(Reply::Empty)
    }

    /// Does what the operation should do. `bytes` are those that a write writes; none if it writes zeros.
    pub fn run(&mut self, operation: &Operation, bytes: Option<&[u8]>) -> Answer {
        use Operation as Op;
        match operation {
            Op::Lookup { parent, name } => Ok(Reply::Object(self.find(*parent, name)?.ok_or(E::NotFound)?)),
            Op::Getattr { object } => Ok(Reply::Attr(*object, self.node(*object)?.attr)),
            Op::Setattr { object, set } => self.setattr(*object, set),
            Op::Mknod { parent, name, kind, mode, umask, rdev } => {
                let object = self.make(*parent, name, *kind, *mode, *umask)?;
                if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                    self.node(object)?.attr.firm.rdev = *rdev;
                }
                Ok(Reply::Object(object))
            }
            Op::Create { parent, name, mode, umask, exclusive, truncate } => match self.find(*parent, name)? {
                Some(_) if *exclusive => Err(E::Exists),
                Some(object) => match self.regular(object).map(drop) {
                    Err(E::Invalid) => Err(E::Stale),
                    Err(other) => Err(other),
                    Ok(()) => {
                        if *truncate {
                            let kill = self.caller.uid != 0;
                            self.truncate(object, 0, kill);
                        }
                        Ok(Reply::Created { object, created: false })
                    }
                },
                None => {
                    let object = self.make(*parent, name, Kind::File, *mode, *umask)?;
                    Ok(Reply::Created { object, created: true })
                }
            },
            Op::Mkdir { parent, name, mode, umask } => {
                Ok(Reply::Object(self.make(*parent, name, Kind::Directory, *mode, *umask)?))
            }
            Op::Symlink { parent, name, target } => {
                let object = self.make(*parent, name, Kind::Symlink, 0o777, 0)?;
                let node = self.node(object)?;
                node.target = target.to_vec();
                node.attr.size = target.len() as u64;
                Ok(Reply::Object(object))
            }
            Op::Readlink { object } => {
                let node = self.node(*object)?;
                if node.attr.firm.kind == Kind::Symlink {
                    Ok(Reply::Bytes(node.target.clone().into()))
                } else {
                    Err(E::Invalid)
                }
            }
            Op::Link { object, parent, name } => {
                if self.find(*parent, name)?.is_some() {
                    return Err(E::Exists);
                }
                let now = self.now;
                let node = self.node(*object)?;
                if node.attr.firm.kind == Kind::Directory {
                    return Err(E::NotPermitted);
                }
                if node.attr.nlink == 0 {
                    return Err(E::NotFound);
                }
                node.attr.nlink += 1;
                node.attr.ctime = now;
                self.set_name(*parent, name, *object);
                self.recount(*parent);
                Ok(Reply::Object(*object))
            }
            Op::Unlink { parent, name } => {
                let object = self.find(*parent, name)?.ok_or(E::NotFound)?;
                if self.is_directory(object) {
                    return Err(E::IsDirectory);
                }
                self.directory(*parent)?.names.remove(&name[..]);
                self.lose_name(object);
                self.recount(*parent);
                Ok(Reply::Empty)
            }
            Op::Rmdir { parent, name } => {
                let object = self.find(*parent, name)?.ok_or(E::NotFound)?;
                if !self.is_directory(object) {
                    return Err(E::NotDirectory);
                }
                if !self.nodes[&object].names.is_empty() {
                    return Err(E::NotEmpty);
                }
                self.directory(*parent)?.names.remove(&name[..]);
                self.lose_name(object);
                self.recount(*parent);
                Ok(Reply::Empty)
            }
            Op::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename((*parent, name), (*new_parent, new_name), *mode)
            }
            Op::Open { object, truncate, kill_suidgid } => {
                match self.node(*object)?.attr.firm.kind {
                    Kind::Directory => return Err(E::IsDirectory),
                    Kind::File if *truncate => self.truncate(*object, 0, *kill_suidgid),
                    _ => {}
                }
                Ok(Reply::Object(*object))
            }
            Op::Read { object, offset, len } => {
                let node = self.regular(*object)?;
                let end = (offset + u64::from(*len)).min(node.attr.size);
                let byte = |at: u64| match node.cells.get(at as usize) {
                    Some(Cell::Byte(byte)) => *byte,
                    _ => 0,
                };
                let bytes: Box<[u8]> = (*offset..end).map(byte).collect();
                Ok(Reply::Data(if bytes.is_empty() { vec![] } else { vec![Piece::Bytes(bytes)] }))
            }
            Op::Write { object, offset, append, len, content, kill_suidgid } => {
                let node = self.regular(*object)?;
                let offset = if *append { node.attr.size } else { *offset };
                let len = u64::from(*len);
                if len > 0 {
                    let cells: Vec<Cell> = match (content, bytes) {
                        (Content::Zeros, _) => vec![Cell::Reserved; len as usize],
                        (_, bytes) => bytes.unwrap().iter().copied().map(Cell::Byte).collect(),
                    };
                    self.put_cells(*object, offset, &cells);
                    self.grow(*object, offset + len);
                    self.modified(*object, *kill_suidgid);
                }
                Ok(Reply::Written { len, offset })
            }
            Op::Fallocate { object, offset, len, how } => self.fallocate(*object, *offset, *len, *how),
            Op::Seek { object, offset, what } => self.seek(*object, *offset, *what),
            Op::CopyRange { from, from_offset, to, to_offset, len } => {
                self.copy_range((*from, *from_offset), (*to, *to_offset), *len)
            }
            Op::Readdir { object, after, limit } => self.readdir(*object, *after, *limit),
            Op::Getxattr { object, name } => {
                self.check_xattr(*object, name, false)?;
                let value = self.node(*object)?.xattrs.get(&name[..]).cloned();
                value.map(|value| Reply::Bytes(value.into())).ok_or(E::NoAttribute)
            }
            Op::Setxattr { object, name, value, mode } => self.setxattr(*object, name, value, *mode),
            Op::Removexattr { object, name } => self.removexattr(*object, name),
            Op::Listxattr { object } => {
                let root = self.caller.uid == 0;
                let names = self.node(*object)?.xattrs.keys();
                let shown = names.filter(|name| root || !name.starts_with(b"trusted."));
                Ok(Reply::Bytes(shown.flat_map(|name| [name, &b"\0"[..]].concat()).collect()))
            }
        }
    }
}

fn kill_bits(mode: &mut u16) {
    *mode &= if *mode & 0o010 == 0 { !0o4000 } else { !0o6000 };
}

impl Model {
    /// Asserts that the world's records say what the model says.
    pub fn compare(&self, world: &mut super::world::World) {
        for (object, node) in &self.nodes {
            assert_eq!(world.attr(*object), node.attr, "attributes of {object}");
            let found: BTreeMap<Vec<u8>, Vec<u8>> = world
                .records
                .live
                .iter()
                .filter(|(key, _)| key.volume() == V && key.object() == *object)
                .filter_map(|(key, version)| match (key.parts(), &version.record) {
                    (gavel_types::KeyParts::Xattr { name }, gavel_wire::Record::Xattr(value)) => {
                        Some((name.to_vec(), value.to_vec()))
                    }
                    _ => None,
                })
                .collect();
            assert_eq!(found, node.xattrs, "extended attributes of {object}");
            if node.attr.firm.kind == Kind::File {
                let mut bytes = vec![0; node.attr.size as usize];
                for (byte, cell) in bytes.iter_mut().zip(&node.cells) {
                    *byte = if let Cell::Byte(byte) = cell { *byte } else { 0 };
                }
                assert_eq!(world.read(*object), bytes, "content of {object}");
            }
            for (name, named) in &node.names {
                let found = world.prepare(&Operation::Lookup { parent: *object, name: name[..].into() });
                assert_eq!(found.map(|done| done.reply), Ok(Reply::Object(*named)));
            }
        }
    }
}
