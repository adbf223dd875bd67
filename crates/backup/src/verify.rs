//! Is everything there, and good? Whoever asks needs no cluster.
//!
//! Each file is read once, and looked at. Then each backup's tree is walked: each node and each blob that it names must be there. What is known to be whole
//! is not walked again for the next backup.

use crate::error::BackupError;
use crate::folder::Folder;
use crate::name::{Kind, Name};
use crate::repository::Repository;
use crate::tree::node::{Hash, Node};
use crate::tree::read::{Wanted, node, parsed};
use gavel_types::Tid;
use std::collections::{BTreeMap, BTreeSet};

/// Most damaged files that are told of.
pub const DAMAGED_MAX: usize = 65_536;
/// Most nodes that are remembered to be whole: 32 bytes each. More are walked again.
pub const WHOLE_MAX: usize = 1 << 20;

/// A file that is not good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// What is wrong.
    pub what: String,
    /// The backups that it spoils; none if no backup needs it.
    pub backups: Vec<Tid>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Backups, good or not.
    pub backups: Vec<Tid>,
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not good.
    pub damaged: BTreeMap<Name, Damage>,
    /// There are more of them than are told of.
    pub more: bool,
}

impl Verified {
    /// Is everything good?
    pub fn is_good(&self) -> bool {
        self.damaged.is_empty() && !self.more
    }

    /// The backups that are not good.
    pub fn spoiled(&self) -> BTreeSet<Tid> {
        self.damaged.values().flat_map(|damage| damage.backups.iter().copied()).collect()
    }

    fn damage(&mut self, name: Name, what: String) -> Option<&mut Damage> {
        if self.damaged.len() >= DAMAGED_MAX && !self.damaged.contains_key(&name) {
            self.more = true;
            return None;
        }
        Some(self.damaged.entry(name).or_insert(Damage { what, backups: Vec::new() }))
    }

    fn spoils(&mut self, name: Name, what: String, backup: Tid) {
        if let Some(damage) = self.damage(name, what)
            && damage.backups.last() != Some(&backup)
        {
            damage.backups.push(backup);
        }
    }
}

/// Looks at everything. `each` is told how many bytes each file has that was read.
///
/// # Errors
/// As the folder's, but for damage: that is what is told.
pub fn verify<F: Folder>(repository: &Repository<F>, each: &mut dyn FnMut(u64)) -> Result<Verified, BackupError> {
    let mut verified = Verified::default();
    for kind in [Kind::Backup, Kind::Node, Kind::Blob] {
        repository.folder().list(kind, &mut |name, bytes| {
            verified.files += 1;
            verified.bytes += bytes;
            each(bytes);
            match repository.read(name) {
                Err(error) if error.is_damage() => {
                    verified.damage(name, cause(&error));
                    Ok(())
                }
                read => read.map(drop),
            }
        })?;
    }
    verified.backups = repository.tids()?;
    let mut walk = Walk { repository, whole: BTreeSet::new(), verified, backup: Tid::ZERO };
    for backup in walk.verified.backups.clone() {
        walk.backup = backup;
        match repository.backup(backup) {
            Ok(found) => {
                if let Some(root) = found.root {
                    walk.node(&root, Wanted::default(), None)?;
                }
            }
            Err(error) => walk.spoiled(error)?,
        }
    }
    Ok(walk.verified)
}

/// What is wrong, without the file's name.
fn cause(error: &BackupError) -> String {
    match error {
        BackupError::Damaged { what, .. } => (*what).to_owned(),
        BackupError::Missing(_) => "the file is missing".to_owned(),
        error => error.to_string(),
    }
}

struct Walk<'r, F: Folder> {
    repository: &'r Repository<F>,
    whole: BTreeSet<Hash>,
    verified: Verified,
    /// The backup that is walked.
    backup: Tid,
}

impl<F: Folder> Walk<'_, F> {
    fn spoiled(&mut self, error: BackupError) -> Result<(), BackupError> {
        let file = match &error {
            BackupError::Damaged { file, .. } | BackupError::Missing(file) => *file,
            BackupError::UnknownVersion { file, .. } => *file,
            _ => return Err(error),
        };
        self.verified.spoils(file, cause(&error), self.backup);
        Ok(())
    }

    /// Walks a node, whose keys are all before `end`. Is it whole, with all that is below it?
    fn node(&mut self, hash: &Hash, wanted: Wanted<'_>, end: Option<&[u8]>) -> Result<bool, BackupError> {
        if self.whole.contains(hash) {
            return Ok(true);
        }
        let found = match node(self.repository, hash, wanted) {
            Ok(found) => found,
            Err(error) => return self.spoiled(error).map(|()| false),
        };
        let is_whole = match &found {
            Node::Leaf(rows) => self.leaf(hash, rows, end)?,
            Node::Branch(level, nodes) => {
                let mut is_whole = self.is_before(hash, nodes.last().map(|(key, _)| &**key), end);
                for (place, (first, below)) in nodes.iter().enumerate() {
                    let end = nodes.get(place + 1).map(|(first, _)| &**first).or(end);
                    is_whole &= self.node(below, Wanted { level: Some(level - 1), first: Some(first) }, end)?;
                }
                is_whole
            }
        };
        if is_whole && self.whole.len() < WHOLE_MAX {
            self.whole.insert(*hash);
        }
        Ok(is_whole)
    }

    fn is_before(&mut self, hash: &Hash, last: Option<&[u8]>, end: Option<&[u8]>) -> bool {
        let is_before = end.is_none_or(|end| last.is_some_and(|last| last < end));
        if !is_before {
            self.verified.spoils(self.repository.node(hash), "its rows are out of order".into(), self.backup);
        }
        is_before
    }

    fn leaf(
        &mut self,
        hash: &Hash,
        rows: &[(crate::tree::RowKey, Box<[u8]>)],
        end: Option<&[u8]>,
    ) -> Result<bool, BackupError> {
        let mut is_whole = self.is_before(hash, rows.last().map(|(key, _)| &**key), end);
        let mut there = None;
        for row in rows {
            let Some((_, record)) = parsed(row) else {
                self.verified.spoils(self.repository.node(hash), "a row is no record".into(), self.backup);
                return Ok(false);
            };
            let Some(blob) = record.blob().filter(|blob| there != Some(*blob)) else { continue };
            let file = self.repository.blob(blob);
            let known = self.verified.damaged.get(&file).map(|damage| damage.what.clone());
            match known {
                Some(what) => self.verified.spoils(file, what, self.backup),
                None if self.repository.folder().has(file)? => {
                    there = Some(blob);
                    continue;
                }
                None => self.verified.spoils(file, "the file is missing".into(), self.backup),
            }
            is_whole = false;
        }
        Ok(is_whole)
    }
}
