//! `gavel backup`: states of a volume in a folder of plain files.

mod create;
mod folder;
mod key;
mod list;
mod prune;
mod restore;
mod send;
mod tree_out;
mod verify;

use crate::output::hinted;
use clap::Subcommand;
use folder::{Directory, Purpose};
use gavel_backup::{Backup as Found, BackupError, Repository, repository};
use gavel_types::{At, Selection, Tid, Timestamp};
use key::KeyArgs;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// Backups: states of a volume in a folder of plain files. Each is whole; what they have in common is stored once.
#[derive(Subcommand)]
#[command(
    after_help = "A folder holds backups of one volume. It can be copied anywhere, file by file, and needs no cluster to be verified or restored.\n\n\
Exit status: 0 done; 1 could not be done, or something is damaged; 2 wrong command line.\n\n\
Examples:\n  gavel backup create /backups/main main --config /etc/gavel/gavel.toml\n  gavel backup list /backups/main\n  \
gavel backup verify /backups/main\n  gavel backup restore /backups/main --to /srv/restored\n  \
gavel backup prune /backups/main --keep 'keep everything 2d; daily 30d; weekly 52w' --dry-run"
)]
pub enum Backup {
    /// Add a backup of a volume to a folder
    Create(create::Create),
    /// Say which backups there are
    List(list::List),
    /// Look whether everything is there, and good
    Verify(verify::Verify),
    /// Write what a backup holds into a directory
    Restore(restore::Restore),
    /// Write a backup to standard output, for `gavel mirror receive`
    Send(send::Send),
    /// Remove backups, and what only they needed
    Prune(prune::Prune),
}

impl Backup {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Backup::Create(create) => create.run(),
            Backup::List(list) => list.run(),
            Backup::Verify(verify) => verify.run(),
            Backup::Restore(restore) => restore.run(),
            Backup::Send(send) => send.run(),
            Backup::Prune(prune) => prune.run(),
        }
    }
}

/// A backup, for people and programs. Part of the machine-readable output: fields are only added.
#[derive(Serialize)]
struct BackupLine {
    /// The state: a transaction of the volume.
    backup: String,
    /// The same as a time.
    time: String,
    /// The volume's name then.
    volume: String,
    files: u64,
    directories: u64,
    others: u64,
    /// Bytes of the files.
    bytes: u64,
    /// The backup that it was built upon; none if everything was read.
    base: Option<String>,
    /// Rows that had changed, files that were added to the folder, their bytes.
    new_rows: u64,
    new_files: u64,
    new_bytes: u64,
    /// When it was made.
    made: String,
    /// Which part of the volume it has; none is said: all.
    selection: Selection,
}

impl BackupLine {
    fn new(backup: &Found) -> BackupLine {
        let counts = backup.counts;
        BackupLine {
            backup: backup.tid.to_string(),
            time: Timestamp::of_tid(backup.tid).to_string(),
            volume: backup.name.to_string(),
            files: counts.files,
            directories: counts.directories,
            others: counts.others,
            bytes: counts.bytes,
            base: (backup.base != Tid::ZERO).then(|| backup.base.to_string()),
            new_rows: backup.new.rows,
            new_files: backup.new.files,
            new_bytes: backup.new.bytes,
            made: Timestamp::of_tid(Tid(backup.made_ns)).to_string(),
            selection: backup.selection.clone(),
        }
    }
}

/// Opens a folder that is there.
fn open(path: &Path, purpose: Purpose, key: &KeyArgs) -> anyhow::Result<Repository<Directory>> {
    let directory = Directory::open(path, purpose).map_err(told)?;
    let Some(head) = repository::head(&directory).map_err(told)? else {
        let hint = "gavel backup create DIR VOLUME --config FILE makes one";
        return Err(hinted(format!("{}: {}", path.display(), BackupError::NoFolder), hint));
    };
    Repository::open(directory, key.keys(&head)?).map_err(told)
}

/// An error, with what to do about it.
fn told(error: BackupError) -> anyhow::Error {
    match &error {
        BackupError::NeedsKey(_) => {
            hinted(error.to_string(), "give the key: --key-file FILE, or --passphrase-file FILE")
        }
        BackupError::WrongKey => hinted(error.to_string(), "the folder was begun with another one: give that"),
        BackupError::NotEncrypted => hinted(error.to_string(), "leave --key-file and --passphrase-file out"),
        BackupError::Damaged { .. } | BackupError::Missing(_) => hinted(
            error.to_string(),
            "gavel backup verify DIR says which backups are good; gavel backup create DIR --whole stores anew what the volume still has",
        ),
        _ => error.into(),
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The backup that is meant: the newest, or what is named.
fn chosen(repository: &Repository<Directory>, named: Option<&At>) -> anyhow::Result<Found> {
    let tids = repository.tids().map_err(told)?;
    let upto = match named {
        None => Tid::MAX,
        Some(At::Tid(tid)) if !tids.contains(tid) => {
            return Err(hinted(
                format!("there is no backup of state {tid}"),
                "gavel backup list DIR says which there are",
            ));
        }
        Some(At::Tid(tid) | At::Time(tid)) => *tid,
        Some(At::Age(ns)) => Tid(now_ns().saturating_sub(*ns)),
        Some(At::Snapshot(name)) => {
            let hint = "name a backup by its state (0x...), a time, or an age";
            return Err(hinted(format!("{name}: backups do not know snapshots by their names"), hint));
        }
    };
    let found = tids.into_iter().rev().find(|tid| *tid <= upto);
    let tid = found.ok_or_else(|| hinted("there is no such backup", "gavel backup list DIR says which there are"))?;
    repository.backup(tid).map_err(told)
}
