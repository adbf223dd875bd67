//! `gavel backup restore`: writes what a backup holds into a directory.

use super::folder::{Directory, Purpose};
use super::key::KeyArgs;
use super::tree_out::{Problem, TreeOut, Written};
use super::{chosen, open, told};
use crate::command::mirror::progress;
use crate::output::{hinted, print_json};
use anyhow::Context;
use clap::Args;
use gavel_backup::Backup;
use gavel_backup::view::BackupView;
use gavel_types::{At, ObjectId};
use indicatif::HumanBytes;
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Writes what a backup holds into a directory, which is empty or not there. Needs no cluster. Owners and devices need root.
#[derive(Args)]
#[command(after_help = "Exit status: 0 everything was restored; 1 not all, or nothing; 2 wrong command line.\n\n\
Examples:\n  gavel backup restore /backups/main --to /srv/restored\n  \
gavel backup restore /backups/main --backup 2d --path projects/atlas --to /tmp/atlas")]
pub struct Restore {
    /// The folder
    dir: PathBuf,
    /// Where to: the directory is made if it is not there
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
    /// Which backup: its state (0x...), a time (RFC 3339) or an age (2h), which mean the last one before; by default the newest
    #[arg(long, value_name = "BACKUP")]
    backup: Option<At>,
    /// Only this file or directory of the volume
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Part of the machine-readable output: fields are only added.
#[derive(Serialize)]
struct Line {
    backup: String,
    /// Files, directories, symlinks and so on, and bytes of files.
    objects: u64,
    bytes: u64,
    /// Objects whose owner could not be set: only root may.
    unowned: u64,
    problems: u64,
}

impl Restore {
    /// # Errors
    /// Why nothing, or not all, was restored.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let repository = open(&self.dir, Purpose::Read, &self.key)?;
        let backup = chosen(&repository, self.backup.as_ref())?;
        let view = BackupView::new(&repository, &backup);
        let object = self.object(&view, &backup)?;
        empty(&self.to)?;
        let bar = progress();
        let mut problems = 0u64;
        let mut out = TreeOut::new(
            &view,
            |bytes| bar.inc(bytes),
            |problem: Problem| {
                problems += 1;
                bar.suspend(|| eprintln!("{problem}"));
            },
        );
        let written = match object {
            (object, None) => out.directory(object, &self.to),
            (object, Some(name)) => out.alone(object, &self.to, &name),
        };
        bar.finish_and_clear();
        let written = written.with_context(|| self.to.display().to_string())?;
        self.tell(&backup, written, problems)
    }

    /// What is to be restored; with its name if it is no directory.
    fn object(&self, view: &BackupView<'_, Directory>, backup: &Backup) -> anyhow::Result<(ObjectId, Option<Vec<u8>>)> {
        let (mut object, mut last) = (ObjectId::ROOT, None);
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        for name in path.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let found = if last.is_some() { None } else { view.lookup(object, name).map_err(told)? };
            let dirent = found.ok_or_else(|| {
                hinted(
                    format!("{}: not in backup {}", path.display(), backup.tid),
                    "--path begins at the volume's root, such as projects/atlas",
                )
            })?;
            object = dirent.object;
            last = (dirent.kind != gavel_wire::Kind::Directory).then(|| name.to_vec());
        }
        Ok((object, last))
    }

    fn tell(&self, backup: &Backup, written: Written, problems: u64) -> anyhow::Result<ExitCode> {
        let line = Line {
            backup: backup.tid.to_string(),
            objects: written.objects,
            bytes: written.bytes,
            unowned: written.unowned,
            problems,
        };
        if self.json {
            print_json(&line)?;
        } else {
            println!("{} restored: {} files and directories, {}", line.backup, line.objects, HumanBytes(line.bytes));
            if line.unowned > 0 {
                println!("{} have another owner than in the backup: only root may set owners", line.unowned);
            }
            if problems > 0 {
                println!("{problems} problems: what is told above is not as it was");
            }
        }
        Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Makes the directory, if it is not there. If it is, it must be empty.
fn empty(to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let mut entries = std::fs::read_dir(to).with_context(|| to.display().to_string())?;
    if entries.next().is_some() {
        return Err(hinted(
            format!("{}: not empty: nothing is restored over what is there", to.display()),
            "name another --to",
        ));
    }
    Ok(())
}
