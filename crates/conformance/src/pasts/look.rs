//! What a mount shows below a directory, and whether that is what it must be.

use super::model::{Seen, Sight};
use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
/// More than any attribute, or list of names of attributes, has.
const XATTR_BYTES_MAX: usize = 4096;

/// Looks at everything.
///
/// # Errors
/// If something can't be read: its path, and the cause ([`errno`]).
pub fn at(root: &Path) -> Result<Sight> {
    let mut sight = Sight::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        let path = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(&below) };
        let seen = one(&path).with_context(|| path.display().to_string())?;
        if seen.mode & FORMAT == DIRECTORY {
            for entry in std::fs::read_dir(&path).with_context(|| path.display().to_string())? {
                waiting.push(below.join(entry.with_context(|| path.display().to_string())?.file_name()));
            }
        }
        sight.insert(below, seen);
    }
    Ok(sight)
}

fn one(path: &Path) -> Result<Seen> {
    let meta = std::fs::symlink_metadata(path)?;
    let content = match meta.mode() & FORMAT {
        FILE => std::fs::read(path)?,
        SYMLINK => std::fs::read_link(path)?.into_os_string().into_encoded_bytes(),
        _ => Vec::new(),
    };
    Ok(Seen {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        size: if meta.is_dir() { 0 } else { meta.size() },
        modified: (meta.mtime(), meta.mtime_nsec()),
        xattrs: xattrs(path)?,
        content,
    })
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = [0; XATTR_BYTES_MAX];
    let len = rustix::fs::llistxattr(path, &mut names)?;
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for name in names.map(|name| String::from_utf8_lossy(name).into_owned()) {
        let mut value = [0; XATTR_BYTES_MAX];
        let len = rustix::fs::lgetxattr(path, &name, &mut value)?;
        found.insert(name, value[..len].to_vec());
    }
    Ok(found)
}

/// The error of the system that is behind it, if one is.
pub fn errno(error: &anyhow::Error) -> Option<Errno> {
    error.chain().find_map(|cause| cause.downcast_ref::<io::Error>().and_then(Errno::from_io_error))
}

/// Sees that two are the same.
///
/// # Errors
/// The first difference.
pub fn same(expected: &Sight, found: &Sight) -> Result<()> {
    for (path, seen) in expected {
        let (other, path) = (found.get(path), path.display());
        let other = other.with_context(|| format!("/{path} is missing"))?;
        let of = |seen: &Seen| Seen { content: Vec::new(), ..seen.clone() };
        ensure!(of(seen) == of(other), "/{path} must be\n{:?}, and is\n{:?}", of(seen), of(other));
        let differs = seen.content.iter().zip(&other.content).position(|(one, other)| one != other);
        ensure!(seen.content == other.content, "/{path}: other content from byte {differs:?} on");
    }
    let more = found.keys().find(|path| !expected.contains_key(*path));
    ensure!(more.is_none(), "{more:?} should not be there");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn any_difference_is_found() -> Result<()> {
        let here = tempfile::tempdir()?;
        let root = here.path().join("play");
        std::fs::create_dir_all(root.join("d"))?;
        std::fs::write(root.join("d/file"), "text")?;
        let before = at(&root)?;
        same(&before, &at(&root)?)?;
        type Change = fn(&Path) -> io::Result<()>;
        let changes: [Change; 4] = [
            |root| symlink("nowhere", root.join("link")),
            |root| std::fs::hard_link(root.join("d/file"), root.join("second")),
            |root| std::fs::write(root.join("d/file"), "tixt"),
            |root| std::fs::remove_dir_all(root.join("d")),
        ];
        for (number, change) in changes.iter().enumerate() {
            let before = at(&root)?;
            change(&root)?;
            assert!(same(&before, &at(&root)?).is_err(), "change {number}");
        }
        Ok(())
    }

    #[test]
    fn the_cause_is_found() {
        let error = at(Path::new("/no/such/directory")).err();
        assert_eq!(error.as_ref().and_then(errno), Some(Errno::NOENT));
    }
}
