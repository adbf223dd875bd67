//! Backups in a folder of plain files: their formats, how they are made, read, verified and pruned.
//!
//! `docs/formats/backup.md` has the bytes, `docs/operations/backup.md` how they are used. What this room is not: it opens no file, reads no clock and asks
//! no cluster. Files come and go through the trait [`Folder`], and what has changed comes as frames of a [mirror's stream](gavel_mirror::stream).
//!
//! - [`folder`]: what a folder must be able to do; [`memory`]: one in memory
//! - [`name`]: how files are called; [`file`](mod@file): what a file is, plain and sealed; [`seal`]: keys
//! - [`head`]: the folder's own file, and that of each backup
//! - [`repository`]: an opened folder: files by what they hold
//! - [`tree`]: the rows of a state, as a tree of files that states have in common
//! - [`create`](mod@create), [`verify`](mod@verify), [`prune`](mod@prune): what is done with backups; [`keep`]: which of them stay
//! - [`view`]: a backup, read as a tree of files and directories; [`send`](mod@send): as a stream for a new mirror
//!
//! Invariants:
//! 1. A file is never changed once it has its name, and its name follows from what it holds, but for that of the folder and those of backups.
//! 2. A backup's own file is written when all that it needs is durable, and is removed before anything that it needs.
//! 3. The same rows make the same tree, in whatever steps they came: what a folder has is never stored again.
//! 4. No byte of the folder is trusted: it is checked, and refused with the name of its file.
//! 5. Memory follows neither the number of files nor their size: rows, nodes and names that are held are bounded.

pub mod create;
pub mod file;
pub mod folder;
pub mod head;
pub mod keep;
pub mod memory;
pub mod name;
pub mod prune;
pub mod repository;
pub mod seal;
pub mod send;
pub mod tree;
pub mod verify;
pub mod view;

mod error;

pub use create::Creator;
pub use error::BackupError;
pub use folder::Folder;
pub use head::{Backup, Counts, FolderHead, New, Protection};
pub use name::{Kind, Name};
pub use repository::Repository;
pub use seal::Keys;
