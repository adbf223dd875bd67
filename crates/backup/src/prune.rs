//! Backups go, and what only they needed.
//!
//! 1. What the backups that stay need is marked: their trees are walked. If one of them can't be, nothing is removed.
//! 2. The files of the backups that go are removed, and that is made durable.
//! 3. Files that are not marked are removed: what only those needed, and what a backup left behind that was never finished.
//!
//! Marks are bits of a Bloom filter: a few files that nobody needs may stay, another few the next time.

use crate::error::BackupError;
use crate::folder::Folder;
use crate::name::{Kind, Name};
use crate::repository::Repository;
use crate::tree::node::{Hash, Node};
use crate::tree::read::{Wanted, node, parsed};
use gavel_types::Tid;
use std::collections::BTreeSet;

/// Bits for each file, so that 1 of some 2,000 that nobody needs is taken for one that somebody does.
const BITS_A_FILE: u64 = 16;
const PROBES: u64 = 8;
/// Least and most bits of the filter: 1 MiB, 256 MiB.
const BITS_MIN: u64 = 1 << 23;
const BITS_MAX: u64 = 1 << 31;
/// Most nodes that are remembered to be walked: 32 bytes each. More are walked again.
const WALKED_MAX: usize = 1 << 20;

/// What went, or would.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pruned {
    /// Backups that stay.
    pub kept: Vec<Tid>,
    /// Backups that went.
    pub removed: Vec<Tid>,
    /// Files that went, those of backups among them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes all backups but those in `keep`, and what nobody needs then. If it is a `rehearsal`, only says what would go.
///
/// # Errors
/// As the folder's. [`BackupError::Damaged`] or [`BackupError::Missing`], of a backup that stays: nothing was removed.
pub fn prune<F: Folder>(
    repository: &Repository<F>,
    keep: &BTreeSet<Tid>,
    rehearsal: bool,
) -> Result<Pruned, BackupError> {
    let (kept, removed): (Vec<Tid>, Vec<Tid>) = repository.tids()?.into_iter().partition(|tid| keep.contains(tid));
    let mut files = 0;
    for kind in [Kind::Node, Kind::Blob] {
        repository.folder().list(kind, &mut |_, _| {
            files += 1;
            Ok(())
        })?;
    }
    let mut mark = Mark { repository, walked: BTreeSet::new(), filter: Filter::new(files, &removed) };
    for tid in &kept {
        if let Some(root) = repository.backup(*tid)?.root {
            mark.node(&root, Wanted::default())?;
        }
    }
    let filter = mark.filter;
    let mut pruned = Pruned { kept, removed, ..Pruned::default() };
    pruned.remove(repository, Kind::Backup, rehearsal, |name| match name {
        Name::Backup(tid) => keep.contains(&tid),
        _ => true,
    })?;
    for kind in [Kind::Node, Kind::Blob] {
        pruned.remove(repository, kind, rehearsal, |name| filter.has(name))?;
    }
    Ok(pruned)
}

impl Pruned {
    fn remove<F: Folder>(
        &mut self,
        repository: &Repository<F>,
        kind: Kind,
        rehearsal: bool,
        stays: impl Fn(Name) -> bool,
    ) -> Result<(), BackupError> {
        let folder = repository.folder();
        folder.list(kind, &mut |name, bytes| {
            if stays(name) {
                return Ok(());
            }
            self.files += 1;
            self.bytes += bytes;
            if rehearsal { Ok(()) } else { folder.remove(name) }
        })?;
        folder.settle()
    }
}

struct Mark<'r, F: Folder> {
    repository: &'r Repository<F>,
    walked: BTreeSet<Hash>,
    filter: Filter,
}

impl<F: Folder> Mark<'_, F> {
    fn node(&mut self, hash: &Hash, wanted: Wanted<'_>) -> Result<(), BackupError> {
        if self.walked.contains(hash) {
            return Ok(());
        }
        self.filter.put(self.repository.node(hash));
        match node(self.repository, hash, wanted)? {
            Node::Leaf(rows) => {
                for row in &rows {
                    let damaged =
                        || BackupError::Damaged { file: self.repository.node(hash), what: "a row is no record" };
                    let (_, record) = parsed(row).ok_or_else(damaged)?;
                    if let Some(blob) = record.blob() {
                        self.filter.put(self.repository.blob(blob));
                    }
                }
            }
            Node::Branch(level, nodes) => {
                for (first, below) in &nodes {
                    self.node(below, Wanted { level: Some(level - 1), first: Some(first) })?;
                }
            }
        }
        if self.walked.len() < WALKED_MAX {
            self.walked.insert(*hash);
        }
        Ok(())
    }
}

/// A Bloom filter of names.
struct Filter {
    words: Vec<u64>,
    /// Other files are taken for marked ones each time.
    seed: [u8; 32],
}

impl Filter {
    fn new(files: u64, removed: &[Tid]) -> Filter {
        let bits = (files.saturating_mul(BITS_A_FILE)).clamp(BITS_MIN, BITS_MAX);
        let mut seed = blake3::Hasher::new();
        seed.update(&files.to_be_bytes());
        for tid in removed {
            seed.update(&tid.0.to_be_bytes());
        }
        Filter { words: vec![0; (bits / 64) as usize], seed: *seed.finalize().as_bytes() }
    }

    fn bits(&self, name: Name) -> impl Iterator<Item = (usize, u64)> + use<> {
        let hash = blake3::keyed_hash(&self.seed, name.to_string().as_bytes());
        let word = |at: usize| u64::from_le_bytes(*hash.as_bytes()[at..].first_chunk().expect("8 bytes"));
        let (a, b, bits) = (word(0), word(8) | 1, self.words.len() as u64 * 64);
        (0..PROBES).map(move |probe| {
            let bit = a.wrapping_add(b.wrapping_mul(probe)) % bits;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn put(&mut self, name: Name) {
        self.bits(name).for_each(|(word, bit)| self.words[word] |= bit);
    }

    fn has(&self, name: Name) -> bool {
        self.bits(name).all(|(word, bit)| self.words[word] & bit != 0)
    }
}
