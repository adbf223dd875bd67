//! Threads that do to a tree what programs do, through several mounts, and do not care what comes of it: mounts go away, others were faster, names are
//! taken.
//!
//! What is there afterwards nobody knows but the tree itself. So it is for tests that compare one tree with another.

use crate::dice::Dice;
use crate::trees;
use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fallocate, lremovexattr, lsetxattr, mknodat, renameat_with, utimensat,
};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Directories in which random changes are made; the deeper ones may be moved and removed.
const DIRS: [&str; 6] = ["a", "b", "c", "a/d", "a/d/é", "b/long name"];
/// Names in each of them.
const NAMES: u64 = 9;
/// Of a length of so many bits at most are pieces that are written: all orders of magnitude, up to beyond what a record holds.
const PIECE_BITS: usize = 17;
/// No file grows beyond this.
const FILE_BYTES_MAX: u64 = 300_000;
/// Who finds no mount, or one that is away, looks again after this.
const AWAY: Duration = Duration::from_millis(50);
/// How long a thread may need to end: a call on a mount without a quorum takes ten seconds, and a script makes many.
const END: Duration = Duration::from_secs(120);

/// Mounts of one tree, some of which are away.
#[derive(Debug)]
pub struct Roots {
    mounts: Vec<(PathBuf, AtomicBool)>,
}

impl Roots {
    /// These, all of them there.
    pub fn new(mounts: Vec<PathBuf>) -> Arc<Roots> {
        Arc::new(Roots { mounts: mounts.into_iter().map(|mount| (mount, AtomicBool::new(true))).collect() })
    }

    /// The mount of a node (from 1 on) is there, or away.
    pub fn set(&self, node: u64, is_there: bool) {
        if let Some((_, there)) = self.mounts.get(node as usize - 1) {
            there.store(is_there, Ordering::SeqCst);
        }
    }

    /// Some node (from 1 on) whose mount is there, and that mount.
    pub fn pick(&self, dice: &mut Dice) -> Option<(u64, &Path)> {
        let there: Vec<_> = (1..).zip(&self.mounts).filter(|(_, (_, there))| there.load(Ordering::SeqCst)).collect();
        (!there.is_empty()).then(|| *dice.pick(&there)).map(|(node, (mount, _))| (node, mount.as_path()))
    }
}

/// The threads. Dropped, they are told to stop, and waited for.
#[derive(Debug)]
pub struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<Worker>,
}

/// One of them.
#[derive(Debug)]
struct Worker {
    name: &'static str,
    counts: Arc<Counts>,
    /// None: it was waited for.
    thread: Option<JoinHandle<()>>,
}

/// What a thread has done.
#[derive(Debug, Default)]
pub struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
}

impl Busy {
    /// None yet.
    pub fn new() -> Busy {
        Busy { stop: Arc::default(), threads: Vec::new() }
    }

    /// Starts a thread that does `work` on some mount again and again, with a pause behind each.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        &mut self,
        name: &'static str,
        seed: u64,
        pause: Duration,
        roots: &Arc<Roots>,
        mut work: impl FnMut(&mut Dice, u64, &Path) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (stop, roots, counts) = (self.stop.clone(), roots.clone(), Arc::<Counts>::default());
        let noted = counts.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut dice = Dice::new(seed);
            while !stop.load(Ordering::Relaxed) {
                let Some((node, root)) = roots.pick(&mut dice) else {
                    std::thread::sleep(AWAY);
                    continue;
                };
                let is_done = work(&mut dice, node, root).is_ok();
                let count = if is_done { &noted.done } else { &noted.failed };
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
        })?;
        self.threads.push(Worker { name, counts, thread: Some(thread) });
        Ok(())
    }

    /// What was done so far, and what failed, in words.
    pub fn told(&self) -> String {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let one = |Worker { name, counts, .. }: &Worker| {
            format!("{name} {} ({} failed)", number(&counts.done), number(&counts.failed))
        };
        self.threads.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// How often the thread of this name has done its work.
    pub fn done(&self, name: &str) -> u64 {
        let of_name = self.threads.iter().filter(|worker| worker.name == name);
        of_name.map(|worker| worker.counts.done.load(Ordering::Relaxed)).sum()
    }

    /// Has them stop, and waits for that.
    ///
    /// # Errors
    /// If one does not, or has panicked.
    pub fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let end = Instant::now() + END;
        for Worker { name, thread, .. } in &mut self.threads {
            let Some(thread) = thread.take() else { continue };
            while !thread.is_finished() && Instant::now() < end {
                std::thread::sleep(AWAY);
            }
            anyhow::ensure!(thread.is_finished(), "{name} does not stop");
            thread.join().map_err(|_| anyhow::anyhow!("{name} has panicked"))?;
        }
        Ok(())
    }
}

impl Default for Busy {
    fn default() -> Busy {
        Busy::new()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// Makes the directories that [`random`] works in.
///
/// # Errors
/// If they can't be made.
pub fn make_dirs(root: &Path) -> io::Result<()> {
    DIRS.iter().try_for_each(|dir| std::fs::create_dir_all(root.join(dir)))
}

/// A random change somewhere below `root`.
///
/// # Errors
/// Whatever it was: most are of no interest.
pub fn random(dice: &mut Dice, root: &Path) -> Result<()> {
    let (path, other) = (place(dice, root), place(dice, root));
    let what = dice.below(24);
    let done = match what {
        0..=4 => opened(OpenOptions::new().create(true).truncate(true), &path)
            .and_then(|mut file| file.write_all(&piece(dice))),
        5..=7 => change_bytes(dice, &path),
        8 | 9 => std::fs::rename(&path, &other),
        10 => renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).map_err(io::Error::from),
        11 | 12 => std::fs::hard_link(&path, &other),
        13 => std::fs::remove_file(&path),
        14 => symlink(format!("../{}", dice.below(9)), &path),
        15..=19 => change_attributes(dice, &path),
        20 => directory(dice, root),
        21 => mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::from(0o640), 0).map_err(io::Error::from),
        22 => without_a_name(dice, &path),
        _ => opened(&mut OpenOptions::new(), &path).and_then(|file| file.sync_all()),
    };
    done.with_context(|| format!("change {what} of {}", path.display()))
}

/// Opens a file to write. It may be a FIFO that nobody reads: that is not waited for.
fn opened(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

fn place(dice: &mut Dice, root: &Path) -> PathBuf {
    root.join(dice.pick(&DIRS)).join(format!("n{}", dice.roll() % NAMES))
}

fn piece(dice: &mut Dice) -> Vec<u8> {
    let end = 2 << dice.below(PIECE_BITS);
    let (seed, bytes) = (dice.roll(), dice.below(end));
    trees::noise(seed, bytes)
}

fn change_bytes(dice: &mut Dice, path: &Path) -> io::Result<()> {
    let mut file = opened(OpenOptions::new().read(true), path)?;
    let (len, piece) = (file.metadata()?.len(), piece(dice));
    match dice.below(5) {
        0 if len < FILE_BYTES_MAX => {
            drop(file);
            file = opened(OpenOptions::new().append(true), path)?;
            file.write_all(&piece)
        }
        0 | 1 => file.set_len(dice.roll() % (len + len / 4 + 2).min(FILE_BYTES_MAX)),
        2 => {
            let (at, bytes) = (dice.roll() % (len + 1), 1 + dice.roll() % 50_000);
            Ok(fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, bytes)?)
        }
        _ => file.write_all_at(&piece, dice.roll() % (len + 20_000).min(FILE_BYTES_MAX)),
    }
}

fn change_attributes(dice: &mut Dice, path: &Path) -> io::Result<()> {
    let name = *dice.pick(&["user.colour", "user.a", "user.long name"]);
    match dice.below(5) {
        0 => std::fs::set_permissions(path, Permissions::from_mode(0o400 + dice.below(0o400) as u32)),
        1 => {
            let (uid, gid) = (Uid::from_raw(dice.below(70_000) as u32), Gid::from_raw(dice.below(70_000) as u32));
            Ok(chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        2 => {
            let time = Timespec { tv_sec: dice.below(2_000_000_000) as i64, tv_nsec: dice.below(1_000_000_000) as i64 };
            let times = Timestamps { last_access: time, last_modification: time };
            Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        3 => Ok(lremovexattr(path, name)?),
        _ => {
            let (seed, len) = (dice.roll(), dice.below(3_000));
            Ok(lsetxattr(path, name, &trees::noise(seed, len), XattrFlags::empty())?)
        }
    }
}

/// Directories move, go with all that is in them, and come again.
fn directory(dice: &mut Dice, root: &Path) -> io::Result<()> {
    let dir = root.join(dice.pick(&DIRS[3..]));
    match dice.below(3) {
        0 => {
            let away = root.join("c").join(format!("moved {}", dice.below(3)));
            std::fs::rename(&dir, away)
        }
        1 => {
            let away = root.join("c").join(format!("moved {}", dice.below(3)));
            std::fs::remove_dir_all(away)
        }
        _ => std::fs::create_dir(&dir),
    }
}

/// A file loses its last name, is written to, and goes.
fn without_a_name(dice: &mut Dice, path: &Path) -> io::Result<()> {
    let file = opened(OpenOptions::new().create(true).truncate(false), path)?;
    std::fs::remove_file(path)?;
    file.write_all_at(&piece(dice), 0)?;
    std::thread::sleep(Duration::from_millis(dice.roll() % 30));
    file.write_all_at(&piece(dice), 100)
}

/// A script that unpacks an archive of [`trees::make`] and builds something of it, in `dir`, which it makes anew.
pub fn build_script(archive: &Path, dir: &str) -> String {
    format!(
        "rm -rf {dir}; mkdir {dir}; cd {dir}; tar -xf {}; mkdir out; number=0
        for file in d*/*/*/file*; do
            number=$((number + 1)); if [ $number -gt 10 ]; then break; fi
            wc -c < \"$file\" > out/part; cat \"$file\" >> out/part; mv out/part out/$number.o
        done
        cat out/*.o > program.new; chmod 755 program.new; ln -f program.new program; rm program.new; rm -r out",
        archive.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_directory_gets_all_kinds_of_things() -> Result<()> {
        let here = tempfile::tempdir()?;
        make_dirs(here.path())?;
        let mut dice = Dice::new(5);
        let done = (0..3_000).filter(|_| random(&mut dice, here.path()).is_ok()).count();
        let tree = trees::read(here.path())?;
        let formats: std::collections::BTreeSet<u32> = tree.values().map(|entry| entry.mode & 0o170_000).collect();
        assert!(done > 1_000 && formats.len() == 4, "{done} changes, {formats:?}");
        assert!(tree.values().any(|entry| entry.links > 1) && tree.values().any(|entry| entry.content.len() > 16_384));
        Ok(())
    }

    #[test]
    fn a_tree_is_built() -> Result<()> {
        let here = tempfile::tempdir()?;
        let (tree, archive) = (here.path().join("tree"), here.path().join("archive.tar"));
        std::fs::create_dir(&tree)?;
        trees::make(&tree, 30)?;
        crate::command::shell(&tree, &format!("tar -cf {} .", archive.display()), END)?;
        for _ in 0..2 {
            crate::command::shell(here.path(), &build_script(&archive, "built"), END)?;
        }
        assert!(std::fs::metadata(here.path().join("built/program"))?.len() > 10_000);
        Ok(())
    }
}
