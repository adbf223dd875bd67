//! Directory trees: making one up, and telling whether two are the same.

use crate::command;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a tree has at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// How many names it has; not compared for directories.
    pub links: u64,
    /// When its content changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// A file's bytes, or where a symlink leads.
    pub content: Vec<u8>,
}

/// All of a tree, by path.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a tree.
///
/// # Errors
/// If something can't be read: its path.
pub fn read(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let found = read_entry(&path).with_context(|| path.display().to_string())?;
            if found.mode & FORMAT == DIRECTORY {
                waiting.push(path.clone());
            }
            tree.insert(path.strip_prefix(root)?.to_owned(), found);
        }
    }
    Ok(tree)
}

/// What is the same for the same tree: names, attributes, all times, extended attributes, contents, which names are of one file.
///
/// # Errors
/// If the tree can't be read.
pub fn digest(root: &Path) -> Result<String> {
    digest_with(root, "")
}

/// As [`digest`], without the times of the last access and of the last change of attributes.
///
/// # Errors
/// If the tree can't be read.
pub fn digest_of_content(root: &Path) -> Result<String> {
    digest_with(root, ",delete=atime,delete=ctime")
}

fn digest_with(root: &Path, options: &str) -> Result<String> {
    let names = "exthdr.name=%d/PaxHeaders/%f";
    let tar = format!("tar --sort=name --format=pax --pax-option='{names}{options}' --xattrs --xattrs-include='*'");
    let digest = command::shell(root, &digest_script(&tar), Duration::from_secs(120));
    let digest = digest.with_context(|| root.display().to_string())?;
    ensure!(digest.len() > 60, "no digest of {}", root.display());
    Ok(digest)
}

/// Of what was read until an error there is no digest: the script fails if `tar` does.
fn digest_script(tar: &str) -> String {
    format!(
        "exec 4>&1; failed=$({{ {{ {tar} -cf - . || echo yes >&3; }} | sha256sum >&4; }} 3>&1); test -z \"$failed\""
    )
}

/// Waits until all that was answered on this mount's node is committed.
///
/// # Errors
/// As `fsync`.
pub fn settle(mount: &Path) -> Result<()> {
    Ok(File::open(mount)?.sync_all()?)
}

const FORMAT: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

fn read_entry(path: &Path) -> Result<Entry> {
    let meta = std::fs::symlink_metadata(path)?;
    let content = if meta.is_symlink() {
        std::fs::read_link(path)?.into_os_string().into_encoded_bytes()
    } else if meta.is_file() {
        std::fs::read(path)?
    } else {
        Vec::new()
    };
    Ok(Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: if meta.is_dir() { 0 } else { meta.nlink() },
        modified: (meta.mtime(), meta.mtime_nsec()),
        content,
    })
}

/// Sees that two trees are the same.
///
/// # Errors
/// The first difference.
pub fn same(expected: &Tree, found: &Tree) -> Result<()> {
    for (path, entry) in expected {
        let other = found.get(path).with_context(|| format!("{} is missing", path.display()))?;
        ensure!(
            entry.content == other.content,
            "{}: other content, {} and {} bytes",
            path.display(),
            entry.content.len(),
            other.content.len()
        );
        let of = |entry: &Entry| (format!("{:o}", entry.mode), entry.owner, entry.links, entry.modified);
        ensure!(entry == other, "{}: {:?} and {:?}", path.display(), of(entry), of(other));
    }
    let more = found.keys().find(|path| !expected.contains_key(*path));
    ensure!(more.is_none(), "{more:?} should not be there");
    Ok(())
}

/// Bytes that look like nothing, and are the same for the same seed (SplitMix64).
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let words = (1..).map(|step: u64| {
        let mut word = seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    });
    words.flat_map(u64::to_le_bytes).take(bytes).collect()
}

/// Makes a tree up: directories four deep, files of no byte up to beyond what a record holds, names in other letters, odd
/// permissions, symlinks that lead somewhere and nowhere, second names.
///
/// # Errors
/// If it can't be made.
pub fn make(root: &Path, files: u64) -> Result<()> {
    const SIZES: [usize; 8] = [0, 1, 700, 4_096, 9_000, 16_384, 16_385, 150_000];
    for number in 0..files {
        let dir =
            root.join(format!("d{}", number % 5)).join(format!("é{}", number % 3)).join(format!("{}", number % 7));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join(format!("file {number}"));
        std::fs::write(&file, noise(number, SIZES[(number % 8) as usize]))?;
        let mode = [0o644, 0o755, 0o600, 0o444][(number % 4) as usize];
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
        match number % 10 {
            0 => symlink(format!("file {number}"), dir.join(format!("link {number}")))?,
            1 => symlink("../nowhere", dir.join(format!("dangling {number}")))?,
            2 => std::fs::hard_link(&file, root.join(format!("second name {number}")))?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_digest_of_what_cannot_be_read() -> Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("file"), "text")?;
        assert!(digest(dir.path())?.len() > 60);
        let tar = dir.path().join("tar");
        std::fs::write(&tar, "#!/bin/sh\necho something\nexit 2\n")?;
        std::fs::set_permissions(&tar, std::fs::Permissions::from_mode(0o755))?;
        let script = digest_script(&tar.display().to_string());
        assert!(command::shell(dir.path(), &script, Duration::from_secs(20)).is_err());
        Ok(())
    }

    #[test]
    fn any_difference_is_found() -> Result<()> {
        let dir = tempfile::tempdir()?;
        make(dir.path(), 12)?;
        let tree = read(dir.path())?;
        same(&tree, &read(dir.path())?)?;
        let changes: [fn(&Path) -> std::io::Result<()>; 4] = [
            |root| std::fs::write(root.join("new"), ""),
            |root| std::fs::remove_file(root.join("second name 2")),
            |root| std::fs::write(root.join("d2/é2/2/file 2"), "other"),
            |root| std::fs::set_permissions(root.join("d1"), std::fs::Permissions::from_mode(0o700)),
        ];
        for (number, change) in changes.iter().enumerate() {
            let before = read(dir.path())?;
            change(dir.path())?;
            assert!(same(&before, &read(dir.path())?).is_err(), "change {number}");
        }
        Ok(())
    }
}
