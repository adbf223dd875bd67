//! `gavel backup create`: adds a backup of a volume to a folder.

use super::folder::{Directory, Purpose};
use super::key::KeyArgs;
use super::{BackupLine, now_ns, told};
use crate::command::mirror::{SelectionArgs, failed, progress, volume_or_path};
use crate::output::{hinted, print_json};
use crate::target::Target;
use clap::Args;
use gavel_backup::{Backup, BackupError, Creator, Repository, repository};
use gavel_mirror::{Decoder, Frame, Header};
use gavel_runtime::config::Config;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::mirror::{SendAsk, copy_out};
use gavel_types::{Selection, Tid, VolumeId, VolumeRef};
use indicatif::{HumanBytes, ProgressBar};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Adds a backup of a volume to a folder: one whole state of it. Only what has changed since the newest backup there is read, and only what the folder lacks
/// is stored.
#[derive(Args)]
#[command(after_help = "Killed at any moment, it leaves all backups that there are as they were.\n\n\
Examples:\n  gavel backup create /backups/main main --config /etc/gavel/gavel.toml\n  gavel backup create /backups/main /srv/shared\n  \
gavel backup create /backups/main --config /etc/gavel/gavel.toml --at yesterday --key-file /etc/gavel/backup.key\n  \
gavel backup create /backups/atlas main --config /etc/gavel/gavel.toml --only projects/atlas --exclude '*.o' cache/")]
pub struct Create {
    /// The folder; it is made if it is not there
    dir: PathBuf,
    /// The volume: its name or number (with --config), or a path in a mount of it; by default the one that the folder has backups of
    volume: Option<String>,
    /// The configuration of the node that is asked; not needed with a path
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which state: a transaction (0x...), a time (RFC 3339), an age (2h), a snapshot; by default what is there now
    #[arg(long, value_name = "AT")]
    at: Option<String>,
    /// Read the whole volume, and store anew what is missing or damaged in the folder
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    key: KeyArgs,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Why there is no backup yet.
enum Failed {
    /// The folder.
    Folder(BackupError),
    /// The source does not send what was asked for.
    Refused(anyhow::Error),
    /// Anything else.
    Other(anyhow::Error),
}

impl Create {
    /// # Errors
    /// Why there is no new backup.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let directory = Directory::open(&self.dir, Purpose::Add).map_err(told)?;
        let (repository, source) = match repository::head(&directory).map_err(told)? {
            Some(head) => {
                let repository = Repository::open(directory, self.key.keys(&head)?).map_err(told)?;
                let source = self.source(newest(&repository, Tid::MAX)?.as_ref())?;
                (repository, source)
            }
            None => {
                let source = self.source(None)?;
                // Nothing is begun for a volume that is not there.
                source.header(self.at.as_deref())?;
                let (head, keys) = self.key.begin()?;
                (Repository::begin(directory, &head, keys).map_err(told)?, source)
            }
        };
        let header = source.header(self.at.as_deref())?;
        let to = header.to.unwrap_or(Tid::MAX);
        let base = newest(&repository, to)?;
        self.check(&repository, base.as_ref(), &header)?;
        if let Some(there) = base.as_ref().filter(|base| base.tid == to && !self.whole) {
            return self.tell(there, false);
        }
        let backup = self.make(&repository, &source, base, to)?;
        self.tell(&backup, true)
    }

    fn check(&self, repository: &Repository<Directory>, base: Option<&Backup>, header: &Header) -> anyhow::Result<()> {
        let other = match base {
            Some(base) => Some(base.clone()),
            None => newest(repository, Tid::MAX)?,
        };
        let Some(other) = other else { return Ok(()) };
        if other.source == header.source {
            return if other.selection == header.selection { Ok(()) } else { Err(self.other_part(&other, header)) };
        }
        Err(hinted(
            format!(
                "{}: the backups are of volume {} ({} of cluster {}), and this is volume {} ({} of cluster {})",
                self.dir.display(),
                other.name,
                other.source.volume,
                other.source.cluster,
                header.name,
                header.source.volume,
                header.source.cluster
            ),
            "each volume has a folder of its own",
        ))
    }

    fn other_part(&self, other: &Backup, header: &Header) -> anyhow::Error {
        let what = format!(
            "{}: the backups have {} of volume {}, and this would have {}",
            self.dir.display(),
            other.selection,
            other.name,
            header.selection
        );
        hinted(what, "each selection has a folder of its own; without --only and --exclude, it is that of the folder")
    }

    /// Upon the newest backup if that can be done, and if not, of everything.
    fn make(
        &self,
        repository: &Repository<Directory>,
        source: &Source,
        base: Option<Backup>,
        to: Tid,
    ) -> anyhow::Result<Backup> {
        let why = match base.filter(|_| !self.whole) {
            None => None,
            Some(base) => match source.backup(repository, Some(base), to) {
                Ok(backup) => return Ok(backup),
                Err(Failed::Refused(error)) => Some(error.to_string()),
                Err(Failed::Folder(error @ BackupError::Incomplete { .. })) => Some(error.to_string()),
                Err(error) => return Err(error.told()),
            },
        };
        if let Some(why) = why {
            eprintln!("note: {why}: the whole volume is read, and what the folder lacks is stored");
        }
        source.backup(repository, None, to).map_err(Failed::told)
    }

    fn source(&self, newest: Option<&Backup>) -> anyhow::Result<Source> {
        let selection = match newest.filter(|_| self.selection.is_empty()) {
            Some(newest) => newest.selection.clone(),
            None => self.selection.selection()?,
        };
        let named = self.volume.as_deref().map(volume_or_path);
        let (socket, volume) = match (named, &self.config, newest) {
            (Some(Ok(volume)), Some(config), _) => (Config::load(config)?.control_socket, volume),
            (None, Some(config), Some(newest)) => (Config::load(config)?.control_socket, newest.source.volume.into()),
            (Some(Err(path)), Some(_), _) => {
                return Err(hinted(
                    format!("{}: not a volume's name or number", path.display()),
                    "with --config, name the volume; a path in a mount needs no --config",
                ));
            }
            (Some(_), None, _) => {
                let target = Target::of(Path::new(self.volume.as_deref().unwrap_or_default()))?;
                (target.socket, VolumeId(target.volume).into())
            }
            (None, ..) => {
                let hint = "gavel backup create DIR VOLUME --config FILE, or gavel backup create DIR PATH";
                return Err(hinted("which volume?", hint));
            }
        };
        Ok(Source { socket, volume, selection })
    }

    fn tell(&self, backup: &Backup, added: bool) -> anyhow::Result<ExitCode> {
        let line = BackupLine::new(backup);
        if self.json {
            let mut value = serde_json::to_value(&line)?;
            value["added"] = added.into();
            print_json(&value)?;
        } else if added {
            println!(
                "{} ({}): {} files, {}; {} rows had changed, {} stored in {} files",
                line.backup,
                line.time,
                line.files,
                HumanBytes(line.bytes),
                line.new_rows,
                HumanBytes(line.new_bytes),
                line.new_files
            );
        } else {
            println!("{} ({}) is there already", line.backup, line.time);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Failed {
    fn told(self) -> anyhow::Error {
        match self {
            Failed::Folder(error) => told(error),
            Failed::Refused(error) | Failed::Other(error) => error,
        }
    }
}

/// The newest backup up to a state. One whose file is damaged is passed over.
fn newest(repository: &Repository<Directory>, upto: Tid) -> anyhow::Result<Option<Backup>> {
    for tid in repository.tids().map_err(told)?.into_iter().rev().filter(|tid| *tid <= upto) {
        match repository.backup(tid) {
            Ok(backup) => return Ok(Some(backup)),
            Err(error) if error.is_damage() => eprintln!("note: {error}: not built upon"),
            Err(error) => return Err(told(error)),
        }
    }
    Ok(None)
}

/// A volume, and the daemon that is asked.
struct Source {
    socket: PathBuf,
    volume: VolumeRef,
    selection: Selection,
}

impl Source {
    fn request(&self, from: Option<Tid>, to: Option<String>) -> Request {
        let from = from.map(|from| from.to_string());
        let (volume, selection) = (self.volume.clone(), self.selection.clone());
        Request::MirrorSend(SendAsk { volume, from, to, follow: false, at_once: true, selection })
    }

    /// What a stream of the volume would be about.
    fn header(&self, at: Option<&str>) -> anyhow::Result<Header> {
        let (mut header, request) = (None, self.request(None, at.map(str::to_owned)));
        let sent = self.frames(&request, &ProgressBar::hidden(), |frame| {
            if let Frame::Header(found) = frame {
                header = Some(found);
            }
            // The rest is not wanted.
            Err(BackupError::Refused(String::new()))
        });
        match (header, sent) {
            (Some(header), _) => Ok(header),
            (None, Err(error)) => Err(error.told()),
            (None, Ok(())) => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
        }
    }

    fn backup(&self, repository: &Repository<Directory>, base: Option<Backup>, to: Tid) -> Result<Backup, Failed> {
        let request = self.request(base.as_ref().map(|base| base.tid), Some(to.to_string()));
        let (mut creator, bar) = (Creator::new(repository, base), progress());
        let sent = self.frames(&request, &bar, |frame| creator.take(frame));
        bar.finish_and_clear();
        sent?;
        creator.finish(now_ns()).map_err(Failed::Folder)
    }

    /// Hands each frame of a stream on. It was refused if nothing but its header came.
    fn frames(
        &self,
        request: &Request,
        bar: &ProgressBar,
        mut each: impl FnMut(Frame) -> Result<(), BackupError>,
    ) -> Result<(), Failed> {
        let (mut decoder, mut stopped, mut frames) = (Decoder::new(), None, 0u64);
        let said = copy_out(&self.socket, request, |bytes| {
            bar.inc(bytes.len() as u64);
            decoder.push(bytes);
            loop {
                let taken = match decoder.read() {
                    Ok(None) => return Ok(()),
                    Ok(Some(frame)) => each(frame).map_err(Failed::Folder),
                    Err(error) => Err(Failed::Other(error.into())),
                };
                frames += 1;
                if let Err(error) = taken {
                    stopped = Some(error);
                    return Err(std::io::Error::other("the rest is not wanted"));
                }
            }
        });
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        match said {
            Ok(Ok(Reply::Mirror(_))) => decoder.finish().map_err(|error| Failed::Other(error.into())),
            Ok(Ok(Reply::Error(error))) if frames <= 1 => Err(Failed::Refused(failed(&error))),
            Ok(Ok(Reply::Error(error))) => Err(Failed::Other(failed(&error))),
            Ok(Ok(_)) => Err(Failed::Other(anyhow::anyhow!("the daemon answered something else than it was asked"))),
            Ok(Err(error)) => Err(Failed::Other(error.into())),
            Err(error) => Err(Failed::Other(hinted(error.to_string(), crate::target::ASK_HINT))),
        }
    }
}
