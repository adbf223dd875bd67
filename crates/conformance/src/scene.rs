//! One directory that is changed through one mount after the other, and that all mounts must show exactly as it is after
//! each change; and threads that look at it all the time, so that every node has all of it in its caches.
//!
//! There is one writer, so what must be seen is no question of luck: whatever a look that begins after a change has returned
//! shows of before it, is wrong. The scene knows names, types, modes and bytes by itself; of inode numbers, counts and times
//! it knows that all mounts must say the same.

use crate::dice::Dice;
use crate::trees;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FILES: usize = 8;
const DIRS: usize = 4;
const LINKS: usize = 4;
/// Smallest file, largest file.
const FILE_BYTES_MIN: usize = 10;
const FILE_BYTES_MAX: usize = 64 << 10;
/// What appends stop at.
const FILE_BYTES_BOUND: usize = 4 * FILE_BYTES_MAX;
/// After so many changes, everything is looked at and not only what was changed.
const ALL_EVERY: u64 = 40;
/// A thread that looks rests this long between two looks: the writer shall have its share of the machine.
const PACE: Duration = Duration::from_micros(500);

/// What has a name.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Thing {
    File { bytes: Vec<u8>, mode: u32 },
    Dir,
    Link(String),
}

impl Thing {
    fn format(&self) -> u32 {
        match self {
            Thing::File { mode, .. } => 0o100_000 | mode,
            Thing::Dir => 0o040_700,
            Thing::Link(_) => 0o120_777,
        }
    }
}

/// What `stat` says, as far as all mounts must say the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Meta {
    inode: u64,
    mode: u32,
    links: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Meta {
    fn of(meta: &std::fs::Metadata) -> Meta {
        Meta {
            inode: meta.ino(),
            mode: meta.mode(),
            links: meta.nlink(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many, half of them, 99 of 100, and the longest.
    pub fn summary(&mut self) -> String {
        self.0.sort_unstable();
        let at = |percent: usize| self.0.get(self.0.len() * percent / 100).copied().unwrap_or_default();
        let longest = self.0.last().copied().unwrap_or_default();
        format!("{}: p50 {:?}, p99 {:?}, longest {longest:?}", self.0.len(), at(50), at(99))
    }
}

/// The directory, and what must be in it.
#[derive(Debug)]
pub struct Scene {
    dirs: Vec<PathBuf>,
    seed: u64,
    dice: Dice,
    step: u64,
    things: BTreeMap<String, Thing>,
    /// Files that were opened through a mount some time ago and are still open there.
    held: BTreeMap<(usize, String), File>,
    /// A directory's size is the number of its names here.
    counted: bool,
    /// How long the changes took.
    pub changes: Times,
    /// How long the looks of one mount at one change took.
    pub looks: Times,
}

/// A change, and the names that it was about.
struct Changed {
    what: String,
    names: Vec<String>,
}

fn changed<const N: usize>(what: String, names: [&str; N]) -> Changed {
    Changed { what, names: names.map(str::to_owned).to_vec() }
}

impl Scene {
    /// A new directory, of this name on all mounts.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new(mounts: &[PathBuf], name: &str, seed: u64) -> Result<Scene> {
        let dirs: Vec<PathBuf> = mounts.iter().map(|mount| mount.join(name)).collect();
        let first = dirs.first().context("a scene on no mount")?;
        std::fs::create_dir(first).with_context(|| first.display().to_string())?;
        let (changes, looks) = Default::default();
        Ok(Scene {
            dirs,
            seed,
            dice: Dice::new(seed),
            step: 0,
            things: BTreeMap::new(),
            held: BTreeMap::new(),
            counted: true,
            changes,
            looks,
        })
    }

    /// The directory on each mount.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// How many changes were made.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Makes changes through some of the mounts (by their place in the list), and looks at each on all of those, until `more`
    /// says that it is enough.
    ///
    /// # Errors
    /// What is not as it must be, or the call that failed; on which mount, after what change, with which seed.
    pub fn play(&mut self, on: &[usize], mut more: impl FnMut() -> bool) -> Result<()> {
        // Those that are left out now may be new mounts when they are back.
        self.held.retain(|(mount, _), _| on.contains(mount));
        self.look_at_all(on).with_context(|| format!("seed {}, before step {}", self.seed, self.step + 1))?;
        while more() {
            self.step += 1;
            let through = *self.dice.pick(on);
            let began = Instant::now();
            let change = self.change(through);
            self.changes.add(began.elapsed());
            let place = || format!("seed {}, step {}, through {}", self.seed, self.step, self.dirs[through].display());
            let change = change.with_context(place)?;
            let told = format!("{}: {}", place(), change.what);
            self.look(on, &change.names).with_context(|| told.clone())?;
            if self.step.is_multiple_of(ALL_EVERY) {
                self.look_at_all(on).context(told)?;
            }
        }
        Ok(())
    }

    fn look_at_all(&mut self, on: &[usize]) -> Result<()> {
        let names: Vec<String> = all_names().collect();
        self.look(on, &names)
    }

    /// Looks at these names, and at the directory, on these mounts in some order.
    fn look(&mut self, on: &[usize], names: &[String]) -> Result<()> {
        let mut order = on.to_vec();
        self.dice.shuffle(&mut order);
        let mut first: Option<Vec<Option<Meta>>> = None;
        for mount in order {
            let began = Instant::now();
            let place = |name: &str| self.dirs[mount].join(name).display().to_string();
            let mut seen = vec![Some(self.list(mount).with_context(|| place(""))?)];
            for name in names {
                seen.push(self.look_at(mount, name).with_context(|| place(name))?);
            }
            for name in names {
                self.look_through_open(mount, name)
                    .with_context(|| format!("{}, open for longer", self.dirs[mount].join(name).display()))?;
            }
            self.looks.add(began.elapsed());
            let before = first.get_or_insert_with(|| seen.clone());
            let differs = before.iter().zip(&seen).position(|(one, other)| one != other);
            if let Some(at) = differs {
                let name = if at == 0 { "the directory" } else { &names[at - 1] };
                bail!("{name}: {:?} and, on {}, {:?}", before[at], self.dirs[mount].display(), seen[at]);
            }
        }
        Ok(())
    }

    /// The names that are there, and what the directory says of itself.
    fn list(&self, mount: usize) -> Result<Meta> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dirs[mount])? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let kind = match kind {
                kind if kind.is_dir() => 'd',
                kind if kind.is_symlink() => 'l',
                _ => 'f',
            };
            found.push((entry.file_name().to_string_lossy().into_owned(), kind));
        }
        found.sort();
        let kind = |thing: &Thing| match thing {
            Thing::File { .. } => 'f',
            Thing::Dir => 'd',
            Thing::Link(_) => 'l',
        };
        let expected: Vec<_> = self.things.iter().map(|(name, thing)| (name.clone(), kind(thing))).collect();
        ensure!(found == expected, "the list is {found:?} and not {expected:?}");
        let meta = Meta::of(&std::fs::symlink_metadata(&self.dirs[mount])?);
        let dirs = expected.iter().filter(|(_, kind)| *kind == 'd').count() as u64;
        ensure!(
            !self.counted || (meta.size, meta.links) == (expected.len() as u64, 2 + dirs),
            "{meta:?} of a directory with {} names, {dirs} of them of directories",
            expected.len()
        );
        Ok(meta)
    }

    /// What is at a name, if anything may be.
    fn look_at(&self, mount: usize, name: &str) -> Result<Option<Meta>> {
        let path = self.dirs[mount].join(name);
        let found = match std::fs::symlink_metadata(&path) {
            Ok(meta) => Some(Meta::of(&meta)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("stat"),
        };
        let Some(thing) = self.things.get(name) else {
            ensure!(found.is_none(), "is there: {found:?}");
            let opened = File::open(&path).err().map(|error| error.kind());
            ensure!(opened == Some(ErrorKind::NotFound), "opening what is not there: {opened:?}");
            return Ok(None);
        };
        let meta = found.context("is not there")?;
        ensure!(meta.mode == thing.format(), "stat says mode {:o} and not {:o}", meta.mode, thing.format());
        match thing {
            Thing::File { bytes, .. } => {
                ensure!(meta.size == bytes.len() as u64, "stat says {} bytes and not {}", meta.size, bytes.len());
                same_bytes(bytes, &std::fs::read(&path).context("open and read")?)?;
            }
            Thing::Link(target) => {
                let found = std::fs::read_link(&path).context("readlink")?;
                ensure!(found == Path::new(target), "leads to {} and not to {target}", found.display());
            }
            Thing::Dir => {}
        }
        Ok(Some(meta))
    }

    /// The same through a file that was opened here before the change, if it is the same one still.
    fn look_through_open(&mut self, mount: usize, name: &str) -> Result<()> {
        let key = (mount, name.to_owned());
        let Some(Thing::File { bytes, .. }) = self.things.get(name) else {
            self.held.remove(&key);
            return Ok(());
        };
        let now = Meta::of(&std::fs::symlink_metadata(self.dirs[mount].join(name))?);
        if let Some(file) = self.held.get(&key) {
            let meta = Meta::of(&file.metadata()?);
            if meta.inode == now.inode {
                ensure!(meta == now, "fstat says {meta:?}, stat {now:?}");
                let mut found = vec![0; bytes.len() + 1];
                let length = read_at(file, &mut found)?;
                return same_bytes(bytes, &found[..length]);
            }
        }
        self.held.insert(key, File::open(self.dirs[mount].join(name))?);
        Ok(())
    }

    /// One change, whatever the dice say.
    fn change(&mut self, through: usize) -> Result<Changed> {
        let dir = self.dirs[through].clone();
        match self.dice.below(12) {
            0 | 1 => self.change_dir(&dir),
            2 => self.change_link(&dir),
            _ => self.change_file(&dir),
        }
    }

    fn change_dir(&mut self, dir: &Path) -> Result<Changed> {
        let name = format!("absent {}", self.dice.below(DIRS));
        let path = dir.join(&name);
        if self.things.remove(&name).is_some() {
            std::fs::remove_dir(&path).with_context(|| format!("rmdir {name}"))?;
            return Ok(changed(format!("rmdir {name}"), [&name]));
        }
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("mkdir {name}"))?;
        self.things.insert(name.clone(), Thing::Dir);
        Ok(changed(format!("mkdir {name}"), [&name]))
    }

    /// A symlink never changes; another one takes its place.
    fn change_link(&mut self, dir: &Path) -> Result<Changed> {
        let name = format!("link {}", self.dice.below(LINKS));
        let target = format!("to {}", self.step);
        let what = format!("symlink {name} -> {target}");
        let new = if self.things.contains_key(&name) { dir.join("new link") } else { dir.join(&name) };
        symlink(&target, &new).with_context(|| what.clone())?;
        if new != dir.join(&name) {
            std::fs::rename(&new, dir.join(&name)).with_context(|| format!("{what}, rename over"))?;
        }
        self.things.insert(name.clone(), Thing::Link(target));
        Ok(changed(what, [&name, "new link"]))
    }

    fn change_file(&mut self, dir: &Path) -> Result<Changed> {
        let name = format!("file {}", self.dice.below(FILES));
        let path = dir.join(&name);
        let Some(Thing::File { mut bytes, mut mode }) = self.things.get(&name).cloned() else {
            let bytes = self.content();
            let what = format!("make {name}, {} bytes", bytes.len());
            std::fs::write(&path, &bytes).with_context(|| what.clone())?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
            self.things.insert(name.clone(), Thing::File { bytes, mode: 0o644 });
            return Ok(changed(what, [&name]));
        };
        let what = match self.dice.below(8) {
            0 => {
                bytes = self.content();
                std::fs::write(&path, &bytes).map(|()| format!("write {name} anew, {} bytes", bytes.len()))
            }
            1 if bytes.len() < FILE_BYTES_BOUND => {
                let more = self.content();
                bytes.extend_from_slice(&more);
                let appended = OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(&more));
                appended.map(|()| format!("append {} bytes to {name}", more.len()))
            }
            1 | 2 => {
                bytes.resize(self.size(), 0);
                let cut = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(bytes.len() as u64));
                cut.map(|()| format!("truncate {name} to {}", bytes.len()))
            }
            3 => {
                std::fs::remove_file(&path).with_context(|| format!("unlink {name}"))?;
                self.things.remove(&name);
                return Ok(changed(format!("unlink {name}"), [&name]));
            }
            4 => return self.rename(dir, &name),
            5 => {
                mode = 0o600 | self.dice.below(0o100) as u32;
                let done = std::fs::set_permissions(&path, Permissions::from_mode(mode));
                done.map(|()| format!("chmod {mode:o} {name}"))
            }
            _ => {
                let at = self.dice.below(bytes.len().max(1));
                let mut part = self.content();
                part.truncate(bytes.len() - at);
                bytes[at..at + part.len()].copy_from_slice(&part);
                let done = overwrite(&path, at as u64, &part);
                done.map(|()| format!("write {} bytes at {at} of {name}, and its old mtime", part.len()))
            }
        };
        let what = what.with_context(|| name.clone())?;
        self.things.insert(name.clone(), Thing::File { bytes, mode });
        Ok(changed(what, [&name]))
    }

    fn rename(&mut self, dir: &Path, from: &str) -> Result<Changed> {
        let to = format!("file {}", self.dice.below(FILES));
        let what =
            format!("rename {from} to {to}{}", if self.things.contains_key(&to) { ", which is there" } else { "" });
        std::fs::rename(dir.join(from), dir.join(&to)).with_context(|| what.clone())?;
        if let Some(thing) = self.things.remove(from) {
            self.things.insert(to.clone(), thing);
        }
        Ok(changed(what, [from, &to]))
    }

    /// All orders of magnitude are equally likely.
    fn size(&mut self) -> usize {
        let end = FILE_BYTES_MIN << self.dice.below(14);
        (FILE_BYTES_MIN + self.dice.below(end)).min(FILE_BYTES_MAX)
    }

    fn content(&mut self) -> Vec<u8> {
        let (seed, size) = (self.dice.roll(), self.size());
        trees::noise(seed, size)
    }
}

/// The same number of bytes, and the same time as before: only the change itself tells that there was one.
fn overwrite(path: &Path, at: u64, part: &[u8]) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let before = file.metadata()?.modified()?;
    file.write_all_at(part, at)?;
    file.set_times(FileTimes::new().set_modified(before))
}

/// Reads until the end or until `into` is full; gives how much it was.
fn read_at(file: &File, into: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < into.len() {
        match file.read_at(&mut into[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

fn same_bytes(expected: &[u8], found: &[u8]) -> Result<()> {
    ensure!(expected.len() == found.len(), "{} bytes are read and not {}", found.len(), expected.len());
    let differs = expected.iter().zip(found).position(|(one, other)| one != other);
    ensure!(differs.is_none(), "of {} bytes, byte {} is another one", found.len(), differs.unwrap_or_default());
    Ok(())
}

fn all_names() -> impl Iterator<Item = String> {
    let row = |what: &'static str, count: usize| (0..count).map(move |number| format!("{what} {number}"));
    row("file", FILES).chain(row("absent", DIRS)).chain(row("link", LINKS)).chain(["new link".to_owned()])
}

/// Threads that look at a scene all the time, one on each mount. Dropped, they are told to stop.
#[derive(Debug)]
pub struct Churn {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Churn {
    /// Starts them.
    ///
    /// # Errors
    /// If there can be no threads.
    pub fn start(scene: &Scene) -> Result<Churn> {
        let mut churn = Churn { stop: Arc::default(), looks: Arc::default(), threads: Vec::new() };
        for (number, dir) in scene.dirs.iter().enumerate() {
            let (stop, looks, dir) = (churn.stop.clone(), churn.looks.clone(), dir.clone());
            let mut dice = Dice::new(scene.seed.wrapping_add(1 + number as u64));
            let thread = std::thread::Builder::new().name("churn".into());
            churn.threads.push(thread.spawn(move || {
                let names: Vec<String> = all_names().collect();
                while !stop.load(Ordering::Relaxed) {
                    glance(&dir, &mut dice, &names);
                    looks.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
            })?);
        }
        Ok(churn)
    }

    /// How many looks there were so far.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One look, to have things cached. What it shows may be of before or after a change that is under way, and the mount may be
/// away: nothing is made of it.
fn glance(dir: &Path, dice: &mut Dice, names: &[String]) {
    let path = dir.join(dice.pick(names));
    let _ = match dice.below(6) {
        0 | 1 => std::fs::symlink_metadata(path).map(drop),
        2 => std::fs::read(path).map(drop),
        3 => std::fs::read_link(path).map(drop),
        4 => std::fs::read_dir(dir).map(|entries| entries.for_each(drop)),
        _ => std::fs::metadata(dir).map(drop),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays on local directories, so many steps; does something to them before each.
    fn play(mounts: &[PathBuf], steps: u64, mut meddle: impl FnMut(&Path, u64)) -> Result<()> {
        let mut scene = Scene { counted: false, ..Scene::new(mounts, "scene", 7)? };
        let (dir, mut step) = (scene.dirs[0].clone(), 0);
        let all: Vec<usize> = (0..mounts.len()).collect();
        scene.play(&all, || {
            step += 1;
            meddle(&dir, step);
            step <= steps
        })
    }

    #[test]
    fn nothing_is_wrong_with_a_local_directory() -> Result<()> {
        let here = tempfile::tempdir()?;
        play(&[here.path().to_owned(), here.path().to_owned()], 400, |_, _| ())
    }

    #[test]
    fn whatever_is_not_as_it_must_be_is_found() -> Result<()> {
        type Meddling = fn(&Path) -> std::io::Result<()>;
        let wrong: [(&str, Meddling); 4] = [
            ("bytes", |file| OpenOptions::new().write(true).open(file)?.write_all_at(&[0x5a; 10], 0)),
            ("length", |file| OpenOptions::new().append(true).open(file)?.write_all(b"more")),
            ("mode", |file| std::fs::set_permissions(file, Permissions::from_mode(0o4711))),
            ("name", |file| std::fs::rename(file, file.with_file_name("other"))),
        ];
        for (what, meddling) in wrong {
            let here = tempfile::tempdir()?;
            let mut done = false;
            let played = play(&[here.path().to_owned()], 400, |dir, step| {
                let file = dir.join("file 3");
                if step > 100 && !done && file.metadata().is_ok_and(|meta| meta.len() > 100) {
                    done = meddling(&file).is_ok();
                }
            });
            assert!(done && played.is_err(), "{what}: {done}, {played:?}");
        }
        Ok(())
    }

    #[test]
    fn a_mount_that_lags_behind_is_found() -> Result<()> {
        let (here, there) = (tempfile::tempdir()?, tempfile::tempdir()?);
        std::fs::create_dir(there.path().join("scene"))?;
        assert!(play(&[here.path().to_owned(), there.path().to_owned()], 10, |_, _| ()).is_err());
        Ok(())
    }
}
