//! What is checked of a tree's directory before the tree is opened, because the crate does not:
//!
//! 1. `current` names the newest version file and holds its checksum, which the crate writes and never compares. A
//!    flipped bit in the list of tables would lose or resurrect rows, and then delete the files that seem unused.
//! 2. Without `current` the crate makes a new, empty tree, and then deletes the tables of the old one.
//! 3. The number of sections in a table file sizes an allocation before its checksum is compared: a flipped bit
//!    there would abort the process.
//! 4. Temporary files that a crash left are never removed by the crate.

use super::{EngineError, damaged};
use lsm_tree::checksum::ChecksummedWriter;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const CURRENT: &str = "current";
/// Version number (8 bytes, little endian), xxh3-128 of the version file (16), checksum type (1, always 0).
const CURRENT_BYTES: usize = 8 + 16 + 1;
const TABLES: &str = "tables";
/// How the crate's temporary files begin.
const TEMPORARY_PREFIX: &str = ".tmp";
/// Largest version file: a table takes 33 bytes in it, so this is some 500,000 tables or 30 TiB.
const VERSION_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// End of a table file: magic, version (1), checksum type (1), checksum of the table of contents (16), its position
/// (8) and length (8).
const TRAILER_BYTES: u64 = 4 + 1 + 1 + 16 + 8 + 8;
const TRAILER_MAGIC: &[u8] = b"SFA!";
const CONTENTS_MAGIC: &[u8] = b"TOC!";
/// Shortest entry in a table of contents: position (8), length (8), length of its name (2).
const CONTENTS_ENTRY_BYTES_MIN: u64 = 18;

/// Checks `dir`, and removes temporary files in it. An empty or missing directory is fine.
pub(super) fn check(dir: &Path) -> Result<(), EngineError> {
    let names = names(dir)?;
    for name in names.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
        let path = dir.join(name);
        fs::remove_file(&path).map_err(|e| io("removing", &path, &e))?;
    }
    let tables = table_files(dir)?;
    if names.iter().any(|name| name == CURRENT) {
        check_current(dir)?;
    } else if !tables.is_empty() || names.iter().any(|name| is_later_version(name)) {
        return Err(damaged(&dir.join(CURRENT), "it is missing, and there are tables"));
    }
    tables.iter().try_for_each(|path| check_contents(path))
}

/// Makes the directory's own name durable.
pub(super) fn sync_parent(dir: &Path) -> Result<(), EngineError> {
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    File::open(parent).and_then(|file| file.sync_all()).map_err(|e| io("syncing", parent, &e))
}

/// The files in the directory of tables, whether a version names them or not.
pub(super) fn table_files(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let tables = dir.join(TABLES);
    Ok(names(&tables)?.into_iter().map(|name| tables.join(name)).collect())
}

fn names(dir: &Path) -> Result<Vec<String>, EngineError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io("listing", dir, &e)),
    };
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries.map(|entry| entry.map(name)).collect::<Result<_, _>>().map_err(|e| io("listing", dir, &e))
}

/// Version 0 is empty, and written before the first `current`: a crash between them leaves it alone.
fn is_later_version(name: &str) -> bool {
    name.strip_prefix('v').and_then(|number| number.parse::<u64>().ok()).is_some_and(|number| number > 0)
}

fn check_current(dir: &Path) -> Result<(), EngineError> {
    let path = dir.join(CURRENT);
    let current = read(&path, CURRENT_BYTES as u64)?;
    let current: [u8; CURRENT_BYTES] =
        current.try_into().map_err(|_| damaged(&path, "it does not have the right length"))?;
    let (number, rest) = current.split_at(8);
    let (checksum, kind) = rest.split_at(16);
    let number = u64::from_le_bytes(number.try_into().expect("split at 8 bytes"));
    let checksum = u128::from_le_bytes(checksum.try_into().expect("split at 16 bytes"));
    if kind != [0] {
        return Err(damaged(&path, "it has an unknown type of checksum"));
    }
    let version = dir.join(format!("v{number}"));
    let bytes = read(&version, VERSION_FILE_BYTES_MAX)?;
    let mut hasher = ChecksummedWriter::new(std::io::sink());
    hasher.write_all(&bytes).map_err(|e| io("reading", &version, &e))?;
    if hasher.checksum().into_u128() != checksum {
        return Err(damaged(&version, "its checksum is not the one in `current`, or `current` is damaged"));
    }
    Ok(())
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => io("opening", path, &e),
    })?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| io("reading", path, &e))?;
    if bytes.len() as u64 > max {
        return Err(damaged(path, "it is too long"));
    }
    Ok(bytes)
}

/// Refuses a table of contents that says it has more entries than fit in the file. Everything else in a table is
/// checked by the crate, so what looks odd here is left to it: the file may be one that no version names.
fn check_contents(path: &Path) -> Result<(), EngineError> {
    let count = (|| -> std::io::Result<Option<(u64, u64)>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        if len < TRAILER_BYTES {
            return Ok(None);
        }
        let mut trailer = [0; TRAILER_BYTES as usize];
        file.seek(SeekFrom::Start(len - TRAILER_BYTES))?;
        file.read_exact(&mut trailer)?;
        let position = u64::from_le_bytes(trailer[22..30].try_into().expect("8 of the trailer's 38 bytes"));
        if !trailer.starts_with(TRAILER_MAGIC) || position > len - TRAILER_BYTES {
            return Ok(None);
        }
        let mut head = [0; 8];
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut head)?;
        let count = u32::from_le_bytes(head[4..].try_into().expect("4 of 8 bytes"));
        Ok(head.starts_with(CONTENTS_MAGIC).then_some((u64::from(count), len - position)))
    })();
    match count.map_err(|e| io("reading", path, &e))? {
        Some((count, bytes)) if count > bytes / CONTENTS_ENTRY_BYTES_MIN => {
            Err(damaged(path, "its table of contents is longer than the file"))
        }
        _ => Ok(()),
    }
}

fn io(doing: &str, path: &Path, cause: &std::io::Error) -> EngineError {
    EngineError::Io { doing: format!("{doing} {}", path.display()), cause: cause.to_string() }
}
