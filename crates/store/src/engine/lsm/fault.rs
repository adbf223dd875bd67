//! What can go wrong inside the tree, turned into [`EngineError`]: errors, and panics on damaged files.

use super::EngineError;
use lsm_tree::table::filter::standard_bloom::Builder as Filter;
use lsm_tree::{AbstractTree, Cache, Checksum, Slice, Table, Tree};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A failure inside the tree, before it is known which file it is about.
pub(super) enum Fault {
    /// Bytes are not what was written.
    Damage(String),
    /// The operating system refused.
    System(String),
}

/// Runs something that may read files. A panic inside becomes damage: the crate has assertions on what it decodes.
/// The locks of the tree that a panic poisons make later calls panic, which end here too.
pub(super) fn guarded<T>(work: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Fault::of),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|text| text.to_string());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(Fault::Damage(format!("the tree panicked: {}", said.unwrap_or_default())))
        }
    }
}

/// Answers of the operating system that only a damaged file explains.
const DAMAGE: [ErrorKind; 4] =
    [ErrorKind::UnexpectedEof, ErrorKind::NotFound, ErrorKind::InvalidInput, ErrorKind::InvalidData];

impl Fault {
    fn of(error: lsm_tree::Error) -> Fault {
        match &error {
            // A file that is too short, or not there although a version names it, or names an impossible place in it.
            lsm_tree::Error::Io(e) if DAMAGE.contains(&e.kind()) => Fault::Damage(e.to_string()),
            lsm_tree::Error::Io(e) => Fault::System(e.to_string()),
            other => Fault::Damage(format!("{other:?}")),
        }
    }

    /// The error to report. `locate` looks for the damaged file; without one it is `dir`.
    pub(super) fn into_error(self, doing: &str, locate: impl FnOnce() -> Option<PathBuf>, dir: &Path) -> EngineError {
        match self {
            Fault::Damage(cause) => {
                let what = locate().unwrap_or_else(|| dir.to_path_buf()).display().to_string();
                EngineError::Damaged { what, cause }
            }
            Fault::System(cause) => EngineError::Io { doing: format!("{doing} {}", dir.display()), cause },
        }
    }
}

/// The first table file in `dir` that does not open. Files that no version names may be among those looked at: a
/// hint for people.
pub(super) fn first_bad_table(dir: &Path) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = super::preflight::table_files(dir).ok()?;
    paths.sort();
    paths.into_iter().find(|path| {
        let cache = Arc::new(Cache::with_capacity_bytes(0));
        guarded(|| Table::recover(path.clone(), Checksum::from_raw(0), 0, 0, cache, None, true, true)).is_err()
    })
}

/// The table file in which reading `key` fails.
pub(super) fn bad_table_of_key(tree: &Tree, key: &[u8]) -> Option<PathBuf> {
    let hash = Filter::get_hash(key);
    bad_table(tree, |table| {
        let range = &table.metadata.key_range;
        if **range.min() <= *key && *key <= **range.max() { table.get(key, u64::MAX, hash).map(drop) } else { Ok(()) }
    })
}

/// The table file in which reading a range fails.
pub(super) fn bad_table_of_range(tree: &Tree, start: &[u8], end: &[u8]) -> Option<PathBuf> {
    bad_table(tree, |table| table.range(Slice::from(start)..Slice::from(end)).try_for_each(|row| row.map(drop)))
}

fn bad_table(tree: &Tree, read: impl Fn(&Table) -> lsm_tree::Result<()>) -> Option<PathBuf> {
    let version = catch_unwind(AssertUnwindSafe(|| tree.current_version())).ok()?;
    version.iter_tables().find(|table| guarded(|| read(table)).is_err()).map(|table| (*table.path).clone())
}
