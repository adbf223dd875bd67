//! Random operations, each done through some mount and in the model.
//!
//! The operations are those that must succeed. What a mount alone can say (the time of a change) is taken over from it for the
//! objects that the operation touches, just behind it; of all others it must not change.

use super::model::{Body, Found, Id, Model, Object, ROOT};
use crate::dice::Dice;
use crate::trees;
use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Names in a directory.
const NAMES: [&str; 9] = ["a", "b", "c", "long name", "é", "x.txt", "0", "copy@@home", "z"];
/// With more paths than this, things are removed and not made.
const PATHS_MAX: usize = 60;
/// Longest file.
const FILE_BYTES_MAX: usize = 400_000;
/// How deep directories go.
const DEPTH_MAX: usize = 4;

/// Does operations.
#[derive(Debug)]
pub struct Player {
    /// What must be there.
    pub model: Model,
    dice: Dice,
    /// The directory on each mount, from node 1 on.
    roots: Vec<PathBuf>,
}

/// A place for a name.
struct Place {
    dir: Id,
    name: &'static str,
    path: PathBuf,
}

impl Player {
    /// Makes the directory `name` on the mounts.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn new(mounts: &[PathBuf], name: &str, seed: u64) -> Result<Player> {
        let roots: Vec<PathBuf> = mounts.iter().map(|mount| mount.join(name)).collect();
        let root = roots.first().context("no mount")?;
        std::fs::create_dir(root)?;
        let made = object(root, Body::Directory(BTreeMap::new()))?;
        Ok(Player { model: Model::new(made), dice: Dice::new(seed), roots })
    }

    /// The choices.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// Does some operation through the mount of `node`. Says which.
    ///
    /// # Errors
    /// If it fails.
    pub fn step(&mut self, node: u64) -> Result<String> {
        let root = self.roots[usize::try_from(node)? - 1].clone();
        loop {
            let full = self.model.walk().len() > PATHS_MAX;
            let what = match self.dice.below(20) {
                0..=3 if !full => self.create(&root),
                4 if !full => self.mkdir(&root),
                5 if !full => self.link(&root),
                6 if !full => self.symlink(&root),
                7 if !full => self.fifo(&root),
                0..=7 => self.remove(&root),
                8..=10 => self.write(&root),
                11 => self.append(&root),
                12 => self.truncate(&root),
                13 | 14 => self.rename(&root),
                15 => self.remove(&root),
                16 => self.chmod(&root),
                17 => self.chown(&root),
                18 => self.utimes(&root),
                _ => self.xattr(&root),
            };
            if let Some(what) = what.with_context(|| format!("through node {node}"))? {
                return Ok(format!("node {node}: {what}"));
            }
        }
    }

    /// What fits; none if nothing does.
    fn some(&mut self, fits: impl Fn(&Object, &Path) -> bool) -> Option<Found> {
        let mut all = self.model.walk();
        all.retain(|found| fits(self.model.get(found.id), &found.path));
        (!all.is_empty()).then(|| self.dice.pick(&all).clone())
    }

    fn some_file(&mut self) -> Option<Found> {
        self.some(|object, _| matches!(object.body, Body::File(_)))
    }

    /// A name in some directory, which may be taken.
    fn some_place(&mut self) -> Option<Place> {
        let dir = self.some(|object, path| object.is_directory() && path.components().count() < DEPTH_MAX)?;
        let name = *self.dice.pick(&NAMES);
        Some(Place { dir: dir.id, name, path: dir.path.join(name) })
    }

    fn free_place(&mut self) -> Option<Place> {
        let place = self.some_place()?;
        (!self.model.names(place.dir).contains_key(place.name)).then_some(place)
    }

    fn bytes(&mut self) -> Vec<u8> {
        // All orders of magnitude, up to beyond what a record holds.
        let end = 2 << self.dice.below(17);
        let size = self.dice.below(end);
        trees::noise(self.dice.roll(), size)
    }

    /// What was made at `place` is in the model.
    fn made(&mut self, root: &Path, place: &Place, body: Body) -> Result<()> {
        let made = object(&root.join(&place.path), body)?;
        self.model.make(place.dir, place.name, made);
        self.touched(root, &[place.dir])
    }

    /// The times of these are what the mount says.
    fn touched(&mut self, root: &Path, ids: &[Id]) -> Result<()> {
        for found in self.model.walk() {
            if ids.contains(&found.id) {
                let path = if found.id == ROOT { root.to_owned() } else { root.join(&found.path) };
                let meta = std::fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
                self.model.change(found.id).modified = (meta.mtime(), meta.mtime_nsec());
            }
        }
        Ok(())
    }

    fn create(&mut self, root: &Path) -> Result<Option<String>> {
        let (Some(place), bytes) = (self.free_place(), self.bytes()) else { return Ok(None) };
        let what = format!("create {} with {} bytes", place.path.display(), bytes.len());
        let mut file = File::create_new(root.join(&place.path)).with_context(|| what.clone())?;
        file.write_all(&bytes).with_context(|| what.clone())?;
        drop(file);
        self.made(root, &place, Body::File(bytes))?;
        Ok(Some(what))
    }

    fn mkdir(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(place) = self.free_place() else { return Ok(None) };
        let what = format!("mkdir {}", place.path.display());
        std::fs::create_dir(root.join(&place.path)).with_context(|| what.clone())?;
        self.made(root, &place, Body::Directory(BTreeMap::new()))?;
        Ok(Some(what))
    }

    fn symlink(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(place) = self.free_place() else { return Ok(None) };
        let target = format!("../{}", self.dice.pick(&NAMES));
        let what = format!("symlink {} to {target}", place.path.display());
        symlink(&target, root.join(&place.path)).with_context(|| what.clone())?;
        self.made(root, &place, Body::Symlink(target))?;
        Ok(Some(what))
    }

    fn fifo(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(place) = self.free_place() else { return Ok(None) };
        let what = format!("mkfifo {}", place.path.display());
        let (kind, mode) = (rustix::fs::FileType::Fifo, Mode::from(0o640));
        rustix::fs::mknodat(rustix::fs::CWD, root.join(&place.path), kind, mode, 0).with_context(|| what.clone())?;
        self.made(root, &place, Body::Fifo)?;
        Ok(Some(what))
    }

    fn link(&mut self, root: &Path) -> Result<Option<String>> {
        let (Some(found), Some(place)) = (self.some(|object, _| !object.is_directory()), self.free_place()) else {
            return Ok(None);
        };
        let what = format!("link {} as {}", found.path.display(), place.path.display());
        std::fs::hard_link(root.join(&found.path), root.join(&place.path)).with_context(|| what.clone())?;
        self.model.link(found.id, place.dir, place.name);
        self.touched(root, &[place.dir])?;
        Ok(Some(what))
    }

    /// Unlinks something, removes an empty directory, or one with all that is in it.
    fn remove(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(found) = self.some(|_, path| path != Path::new("")) else { return Ok(None) };
        let path = root.join(&found.path);
        let (verb, done) = match &self.model.get(found.id).body {
            Body::Directory(names) if names.is_empty() => ("rmdir", std::fs::remove_dir(&path)),
            // Large ones go seldom: there would never be much.
            Body::Directory(names) if names.len() > 1 && self.dice.below(4) > 0 => return Ok(None),
            Body::Directory(_) => ("rm -r", std::fs::remove_dir_all(&path)),
            _ => ("unlink", std::fs::remove_file(&path)),
        };
        let what = format!("{verb} {}", found.path.display());
        done.with_context(|| what.clone())?;
        let dir = self.forget(&found.path)?;
        self.touched(root, &[dir])?;
        Ok(Some(what))
    }

    /// A path goes from the model, with all below it, one name at a time. Gives its directory.
    fn forget(&mut self, path: &Path) -> Result<Id> {
        let walked = self.model.walk();
        let id = |path: &Path| walked.iter().find(|found| found.path == path).map(|found| found.id);
        let mut dir = ROOT;
        for found in walked.iter().rev().filter(|found| found.path.starts_with(path)) {
            let name = found.path.file_name().and_then(|name| name.to_str()).context("the root does not go")?;
            dir = found.path.parent().and_then(id).context("a path without a directory")?;
            self.model.remove(dir, name);
        }
        Ok(dir)
    }

    fn write(&mut self, root: &Path) -> Result<Option<String>> {
        let (Some(found), part) = (self.some_file(), self.bytes()) else { return Ok(None) };
        let mut bytes = self.content(found.id);
        // Within it, or a little behind its end.
        let at = self.dice.below(bytes.len() + 20_000);
        if part.is_empty() || at + part.len() > FILE_BYTES_MAX {
            return Ok(None);
        }
        let what = format!("write {} bytes at {at} of {}", part.len(), found.path.display());
        let file = OpenOptions::new().write(true).open(root.join(&found.path)).with_context(|| what.clone())?;
        file.write_all_at(&part, at as u64).with_context(|| what.clone())?;
        drop(file);
        bytes.resize(bytes.len().max(at + part.len()), 0);
        bytes[at..at + part.len()].copy_from_slice(&part);
        self.written(root, &found, bytes)?;
        Ok(Some(what))
    }

    fn append(&mut self, root: &Path) -> Result<Option<String>> {
        let (Some(found), part) = (self.some_file(), self.bytes()) else { return Ok(None) };
        let mut bytes = self.content(found.id);
        if part.is_empty() || bytes.len() + part.len() > FILE_BYTES_MAX {
            return Ok(None);
        }
        let what = format!("append {} bytes to {}", part.len(), found.path.display());
        let mut file = OpenOptions::new().append(true).open(root.join(&found.path)).with_context(|| what.clone())?;
        file.write_all(&part).with_context(|| what.clone())?;
        drop(file);
        bytes.extend_from_slice(&part);
        self.written(root, &found, bytes)?;
        Ok(Some(what))
    }

    fn truncate(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(found) = self.some_file() else { return Ok(None) };
        let mut bytes = self.content(found.id);
        let size = self.dice.below((bytes.len() + bytes.len() / 4 + 2).min(FILE_BYTES_MAX));
        let what = format!("truncate {} to {size}", found.path.display());
        let file = OpenOptions::new().write(true).open(root.join(&found.path)).with_context(|| what.clone())?;
        file.set_len(size as u64).with_context(|| what.clone())?;
        drop(file);
        bytes.resize(size, 0);
        self.written(root, &found, bytes)?;
        Ok(Some(what))
    }

    fn content(&self, id: Id) -> Vec<u8> {
        match &self.model.get(id).body {
            Body::File(bytes) => bytes.clone(),
            _ => Vec::new(),
        }
    }

    fn written(&mut self, root: &Path, found: &Found, bytes: Vec<u8>) -> Result<()> {
        self.model.change(found.id).body = Body::File(bytes);
        self.touched(root, &[found.id])
    }

    fn rename(&mut self, root: &Path) -> Result<Option<String>> {
        let (Some(from), Some(to)) = (self.some(|_, path| path != Path::new("")), self.some_place()) else {
            return Ok(None);
        };
        let there = self.model.names(to.dir).get(to.name).copied();
        let is_directory = self.model.get(from.id).is_directory();
        let fits = there.is_none_or(|id| match (&self.model.get(id).body, is_directory) {
            (Body::Directory(names), true) => names.is_empty(),
            (Body::Directory(_), false) | (_, true) => false,
            (_, false) => true,
        });
        if !fits || from.path == to.path || to.path.starts_with(&from.path) {
            return Ok(None);
        }
        let what = format!("rename {} to {}", from.path.display(), to.path.display());
        std::fs::rename(root.join(&from.path), root.join(&to.path)).with_context(|| what.clone())?;
        let from_dir = from.path.parent().unwrap_or(Path::new(""));
        let from_dir = self.model.walk().into_iter().find(|found| found.path == from_dir).context("no directory")?.id;
        let name = from.path.file_name().and_then(|name| name.to_str()).context("no name")?;
        self.model.rename((from_dir, name), (to.dir, to.name));
        self.touched(root, &[from_dir, to.dir])?;
        Ok(Some(what))
    }

    fn chmod(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(found) = self.some(|object, _| !matches!(object.body, Body::Symlink(_))) else { return Ok(None) };
        let mode = 0o100 + self.dice.below(0o700) as u32;
        let what = format!("chmod {mode:o} {}", found.path.display());
        std::fs::set_permissions(at(root, &found), Permissions::from_mode(mode)).with_context(|| what.clone())?;
        self.model.change(found.id).mode = mode;
        Ok(Some(what))
    }

    fn chown(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(found) = self.some(|_, _| true) else { return Ok(None) };
        let owner = (self.dice.below(70_000) as u32, self.dice.below(70_000) as u32);
        let what = format!("chown {}:{} {}", owner.0, owner.1, found.path.display());
        let (uid, gid, flags) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1), AtFlags::SYMLINK_NOFOLLOW);
        rustix::fs::chownat(rustix::fs::CWD, at(root, &found), Some(uid), Some(gid), flags)
            .with_context(|| what.clone())?;
        self.model.change(found.id).owner = owner;
        Ok(Some(what))
    }

    fn utimes(&mut self, root: &Path) -> Result<Option<String>> {
        let Some(found) = self.some(|_, _| true) else { return Ok(None) };
        let modified = (self.dice.below(2_000_000_000) as i64, self.dice.below(1_000_000_000) as i64);
        let what = format!("utimes {} to {}.{:09}", found.path.display(), modified.0, modified.1);
        let time = Timespec { tv_sec: modified.0, tv_nsec: modified.1 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, at(root, &found), &times, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| what.clone())?;
        self.model.change(found.id).modified = modified;
        Ok(Some(what))
    }

    /// Sets an attribute, or takes one away.
    fn xattr(&mut self, root: &Path) -> Result<Option<String>> {
        let may = |object: &Object, _: &Path| matches!(object.body, Body::File(_) | Body::Directory(_));
        let Some(found) = self.some(may) else { return Ok(None) };
        let name = *self.dice.pick(&["user.colour", "user.a", "user.long name"]);
        let taken = self.model.get(found.id).xattrs.contains_key(name) && self.dice.below(2) == 0;
        let what = format!("{} {name} of {}", if taken { "removexattr" } else { "setxattr" }, found.path.display());
        let path = at(root, &found);
        if taken {
            rustix::fs::lremovexattr(&path, name).with_context(|| what.clone())?;
            self.model.change(found.id).xattrs.remove(name);
        } else {
            let (seed, len) = (self.dice.roll(), self.dice.below(300));
            let value = trees::noise(seed, len);
            rustix::fs::lsetxattr(&path, name, &value, XattrFlags::empty()).with_context(|| what.clone())?;
            self.model.change(found.id).xattrs.insert(name.into(), value);
        }
        Ok(Some(what))
    }

    /// What this node has answered is committed.
    ///
    /// # Errors
    /// If that can't be said.
    pub fn sync(&self, node: u64) -> Result<()> {
        let root = &self.roots[usize::try_from(node)? - 1];
        ensure!(root.is_dir(), "{} is not there", root.display());
        Ok(File::open(root)?.sync_all()?)
    }
}

fn at(root: &Path, found: &Found) -> PathBuf {
    if found.id == ROOT { root.to_owned() } else { root.join(&found.path) }
}

/// What was just made there.
fn object(path: &Path, body: Body) -> Result<Object> {
    let meta = std::fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok(Object {
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        xattrs: BTreeMap::new(),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::super::look;
    use super::*;

    #[test]
    fn a_local_directory_does_what_the_model_does() -> Result<()> {
        let here = tempfile::tempdir()?;
        let mut player = Player::new(&[here.path().to_owned()], "play", 3)?;
        for number in 0..1_500 {
            let what = player.step(1)?;
            if number % 10 == 0 {
                look::same(&player.model.sight(), &look::at(&here.path().join("play"))?).context(what)?;
            }
        }
        Ok(())
    }
}
