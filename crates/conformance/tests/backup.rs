//! Backups of a volume in a folder of plain files (docs/formats/backup.md, docs/operations/backup.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::dice::{self, Dice};
use gavel_conformance::{trees, wait};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// What nobody should find in an encrypted folder.
const NAME: &str = "a name that nobody may see";
const FILES: u64 = 200;

struct Folder<'a> {
    cluster: &'a Cluster,
    path: PathBuf,
    key: Vec<String>,
}

impl Folder<'_> {
    fn new<'a>(cluster: &'a Cluster, name: &str, key: &[&str]) -> Folder<'a> {
        let key = key.iter().map(|word| (*word).to_owned()).collect();
        Folder { cluster, path: cluster.scratch().join(name), key }
    }

    fn command(&self, words: &[&str], more: &[&str]) -> std::process::Command {
        let mut command = self.cluster.gavel().command(["backup"]);
        command.args(words).arg(&self.path).args(&self.key).args(more);
        command
    }

    fn create_command(&self, more: &[&str]) -> std::process::Command {
        let mut command = self.command(&["create", "--json"], more);
        command.arg("--config").arg(self.cluster.config(1)).arg("--").arg("main");
        command
    }

    fn create(&self, more: &[&str]) -> Result<Value> {
        json(command::run(self.create_command(more), command::PATIENCE)?)
    }

    fn ran(&self, words: &[&str], more: &[&str]) -> Result<Ran> {
        command::run(self.command(words, more), command::PATIENCE)
    }

    fn verify(&self) -> Result<()> {
        self.ran(&["verify"], &[])?.ok().map(drop)
    }

    fn list(&self) -> Result<Vec<String>> {
        let lines = json(self.ran(&["list", "--json"], &[])?)?;
        let lines = lines.as_array().context("a list")?;
        lines.iter().map(|line| Ok(line["backup"].as_str().context("a state")?.to_owned())).collect()
    }

    /// The backup, restored, is what the volume was.
    fn same(&self, state: &str) -> Result<()> {
        self.restored(state, &self.cluster.mount(1).join(format!("@@{state}")))
    }

    /// The backup, restored, is what is there.
    fn restored(&self, state: &str, then: &Path) -> Result<()> {
        let to = self.cluster.scratch().join(format!("restored {state}"));
        let place = to.to_str().context("a path of text")?;
        self.ran(&["restore"], &["--backup", state, "--to", place])?.ok()?;
        let (wanted, found) = (trees::digest_of_content(then)?, trees::digest_of_content(&to)?);
        if wanted != found {
            trees::same(&trees::read(then)?, &trees::read(&to)?)?;
        }
        ensure!(wanted == found, "{state}: what was restored is not what was there");
        ensure!(blocks(&to.join("sparse"))? < 100, "holes were filled");
        Ok(std::fs::remove_dir_all(&to)?)
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let found = command::shell(&self.path, "find . -type f ! -name LOCK ! -name READING", command::PATIENCE)?;
        Ok(found.lines().map(|line| self.path.join(line)).collect())
    }
}

fn blocks(path: &Path) -> Result<u64> {
    Ok(if path.exists() { path.metadata()?.blocks() } else { 0 })
}

fn json(ran: Ran) -> Result<Value> {
    let said = ran.ok()?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

/// A tree with something of every kind.
fn make(root: &Path) -> Result<()> {
    trees::make(&root.join("tree"), FILES)?;
    std::fs::write(root.join(NAME), trees::noise(1, 70_000))?;
    std::fs::hard_link(root.join(NAME), root.join("tree/second name"))?;
    setxattr(root.join(NAME), "user.secret", b"a value that nobody may see", XattrFlags::empty())?;
    symlink("a target that nobody may see", root.join("link"))?;
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
    mknodat(
        CWD,
        root.join("device"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        rustix::fs::makedev(259, 70_000),
    )?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.write_all_at(b"x", 3_000_000)?;
    sparse.set_len(5_000_000)?;
    std::os::unix::fs::chown(root.join("tree"), Some(1234), Some(4321))?;
    std::fs::set_permissions(root.join("tree"), std::os::unix::fs::PermissionsExt::from_mode(0o2750))?;
    trees::settle(root)
}

/// Changes of all kinds, somewhere in the tree.
fn change(dice: &mut Dice, root: &Path, count: usize) -> Result<()> {
    for _ in 0..count {
        let tree = trees::read(&root.join("tree"))?;
        let files: Vec<&PathBuf> =
            tree.iter().filter(|(_, e)| e.mode & 0o170_000 == 0o100_000).map(|(path, _)| path).collect();
        let file = root.join("tree").join(*dice.pick(&files));
        let new = root.join(format!("tree/new {}", dice.roll() % 1000));
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        match dice.below(8) {
            0 => std::fs::write(&new, trees::noise(dice.roll(), 50_000))?,
            1 => std::fs::remove_file(&file)?,
            2 => std::fs::rename(&file, &new)?,
            3 if !new.exists() => std::fs::hard_link(&file, &new)?,
            4 => File::options().write(true).open(&file)?.set_len(dice.roll() % 60_000)?,
            5 => setxattr(&file, "user.colour", format!("{}", dice.roll()).as_bytes(), XattrFlags::empty())?,
            6 => File::options()
                .write(true)
                .open(&file)?
                .write_all_at(&trees::noise(dice.roll(), 20_000), dice.roll() % 30_000)?,
            _ => std::fs::create_dir_all(root.join(format!("tree/dir {}/deep", dice.roll() % 20)))?,
        }
    }
    trees::settle(root)
}

fn state(line: &Value) -> Result<String> {
    Ok(line["backup"].as_str().context("a state")?.to_owned())
}

#[test]
fn each_backup_is_restored_as_what_the_volume_was() -> Result<()> {
    with_cluster(1, |cluster| {
        let mut dice = Dice::new(dice::seed());
        let root = cluster.mount(1);
        make(&root)?;
        let folder = Folder::new(cluster, "folder", &[]);
        let first = folder.create(&[])?;
        ensure!(first["added"] == true && first["base"].is_null(), "{first}");
        let mut states = vec![state(&first)?];
        for _ in 0..3 {
            let many = 1 + dice.below(15);
            change(&mut dice, &root, many)?;
            let line = folder.create(&[])?;
            ensure!(
                line["base"] == states[states.len() - 1].as_str() && line["new_rows"].as_u64() < Some(400),
                "{line}"
            );
            states.push(state(&line)?);
        }
        std::fs::remove_dir_all(root.join("tree"))?;
        trees::settle(&root)?;
        states.push(state(&folder.create(&[])?)?);
        ensure!(folder.list()? == states);
        folder.verify()?;
        let open = command::shell(&folder.path, "find . -perm /077 | wc -l", command::PATIENCE)?;
        ensure!(open.trim() == "0", "{open} files of the folder are open to others");
        for state in &states {
            folder.same(state)?;
        }
        // States of the past, in a folder of their own.
        let past = Folder::new(cluster, "past", &[]);
        for state in [&states[0], &states[2]] {
            let line = past.create(&["--at", state])?;
            ensure!(line["backup"] == state.as_str(), "{line}");
            past.same(state)?;
        }
        ensure!(past.create(&["--at", &states[2]])?["added"] == false);
        past.verify()?;
        subtree(&folder, &states)?;
        pruned(&folder, &states)?;
        healed(&folder)?;
        into_a_mirror(&folder)
    })
}

fn subtree(folder: &Folder, states: &[String]) -> Result<()> {
    let root = folder.cluster.mount(1).join(format!("@@{}", states[1]));
    let to = folder.cluster.scratch().join("subtree");
    let words = ["--backup", &states[1], "--path", "/tree/", "--to", to.to_str().context("text")?];
    folder.ran(&["restore"], &words)?.ok()?;
    ensure!(trees::digest_of_content(&to)? == trees::digest_of_content(&root.join("tree"))?, "a subtree");
    folder.ran(&["restore"], &words)?.refused(&["not empty", "Hint"])?;
    let to = folder.cluster.scratch().join("one file");
    let words = ["--backup", &states[1], "--path", NAME, "--to", to.to_str().context("text")?];
    folder.ran(&["restore"], &words)?.ok()?;
    ensure!(std::fs::read(to.join(NAME))? == trees::noise(1, 70_000));
    let words = ["--backup", &states[1], "--path", "nowhere/at/all", "--to", "/nowhere"];
    folder.ran(&["restore"], &words)?.refused(&["not in backup", "Hint"])
}

/// What stays is whole, and the next backup needs no more than what has changed.
fn pruned(folder: &Folder, states: &[String]) -> Result<()> {
    let before = folder.files()?;
    let words = ["--keep-last", "2", "--json"];
    let rehearsed = json(folder.ran(&["prune"], &[&words[..], &["--dry-run"]].concat())?)?;
    ensure!(folder.files()? == before && rehearsed["removed"].as_array().map(Vec::len) == Some(3), "{rehearsed}");
    let went = json(folder.ran(&["prune"], &words)?)?;
    ensure!(went["files"] == rehearsed["files"] && went["bytes"] == rehearsed["bytes"], "{went} {rehearsed}");
    ensure!(folder.files()?.len() as u64 + went["files"].as_u64().unwrap_or(0) == before.len() as u64);
    ensure!(folder.list()? == states[3..]);
    folder.verify()?;
    folder.same(&states[3])?;
    std::fs::write(folder.cluster.mount(1).join("later"), "x")?;
    trees::settle(&folder.cluster.mount(1))?;
    let line = folder.create(&[])?;
    ensure!(line["base"] == states[4].as_str() && line["new_files"].as_u64() < Some(6), "{line}");
    folder.same(&state(&line)?)
}

/// What is damaged is stored anew from what the volume still has.
fn healed(folder: &Folder) -> Result<()> {
    let newest = folder.list()?.pop().context("a backup")?;
    for file in folder.files()?.iter().filter(|file| !file.ends_with("gavel-backup")) {
        std::fs::write(file, "nonsense")?;
    }
    let ran = folder.ran(&["verify"], &[])?;
    ensure!(ran.code == Some(1) && ran.stdout.contains(&newest) && ran.stdout.contains("--whole"), "{}", ran.stdout);
    let line = folder.create(&["--whole"])?;
    folder.same(&state(&line)?)?;
    let damaged = damaged(folder)?;
    ensure!(!damaged.is_empty() && !damaged.contains(&state(&line)?), "{damaged:?}");
    folder.ran(&["prune"], &[])?.refused(&["nothing was removed", "--remove"])?;
    let words: Vec<&str> = damaged.iter().flat_map(|state| ["--remove", state]).collect();
    folder.ran(&["prune"], &words)?.ok()?;
    folder.verify()
}

fn damaged(folder: &Folder) -> Result<Vec<String>> {
    let ran = folder.ran(&["verify", "--json"], &[])?;
    let found: Value = serde_json::from_str(&ran.stdout)?;
    let states = found["damaged_backups"].as_array().context("a list")?;
    Ok(states.iter().filter_map(|state| Some(state.as_str()?.to_owned())).collect())
}

fn into_a_mirror(folder: &Folder) -> Result<()> {
    let cluster = folder.cluster;
    let newest = folder.list()?.pop().context("a backup")?;
    let mut send = folder.command(&["send"], &[]).stdout(Stdio::piped()).spawn()?;
    let mut receive = cluster.gavel().command(["mirror", "receive", "again", "--create", "--config"]);
    receive.arg(cluster.config(1)).stdin(send.stdout.take().context("a pipe")?);
    ensure!(receive.status()?.success() && send.wait()?.success());
    let path = cluster.scratch().join("again");
    std::fs::create_dir_all(&path)?;
    let mut mount = cluster.gavel().command(["mount", "--volume", "again", "--config"]);
    mount.arg(cluster.config(1)).arg(&path);
    command::run(mount, command::PATIENCE)?.ok()?;
    let same =
        trees::digest_of_content(&path)? == trees::digest_of_content(&cluster.mount(1).join(format!("@@{newest}")))?;
    cluster.gavel().run(["umount", "--lazy", path.to_str().context("text")?])?.ok()?;
    ensure!(same, "the backup is another tree as a mirror");
    Ok(())
}

#[test]
fn killed_at_any_moment_all_backups_are_good() -> Result<()> {
    with_cluster(1, |cluster| {
        let mut dice = Dice::new(dice::seed() + 1);
        let root = cluster.mount(1);
        make(&root)?;
        let folder = Folder::new(cluster, "folder", &[]);
        let first = folder.create(&[])?;
        let mut killed = 0;
        // Within how many milliseconds it is killed, of `create` and of `prune`: less, each time that it was over before.
        let mut spread = [400, 60];
        for round in 0..12u64 {
            trees::make(&root.join(format!("tree/more {round}")), 60)?;
            trees::settle(&root)?;
            let before = folder.list()?;
            let prunes = round % 3 == 2;
            let mut command =
                if prunes { folder.command(&["prune"], &["--keep-last", "1"]) } else { folder.create_command(&[]) };
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            let spread = &mut spread[usize::from(prunes)];
            std::thread::sleep(Duration::from_millis(dice.roll() % *spread));
            match child.try_wait()? {
                None => {
                    killed += 1;
                    child.kill()?;
                }
                Some(_) => *spread = (*spread / 2).max(4),
            }
            child.wait()?;
            folder.verify().with_context(|| format!("round {round}"))?;
            let after = folder.list()?;
            let newest = before.last().context("a backup")?;
            ensure!(after.contains(newest), "round {round}: {before:?} became {after:?}");
        }
        ensure!(killed > 2, "hardly anything was killed in the middle");
        let last = folder.create(&[])?;
        folder.same(&state(&last)?)?;
        folder.ran(&["prune"], &["--keep-last", "1"])?.ok()?;
        ensure!(!folder.path.join("tmp").read_dir()?.any(|_| true), "something was left over");
        ensure!(!folder.list()?.contains(&state(&first)?));
        folder.verify()?;
        // Two at once.
        let lock = File::open(folder.path.join("LOCK"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        command::run(folder.create_command(&[]), command::PATIENCE)?.refused(&["another `gavel backup` is at work"])
    })
}

#[test]
fn an_encrypted_folder_shows_nothing_and_each_flipped_bit_is_found() -> Result<()> {
    with_cluster(1, |cluster| {
        let root = cluster.mount(1);
        make(&root)?;
        let secrets = cluster.scratch().join("secrets");
        std::fs::create_dir_all(&secrets)?;
        let (key, other, phrase) = (secrets.join("key"), secrets.join("other"), secrets.join("phrase"));
        std::fs::write(&key, trees::noise(5, 32))?;
        std::fs::write(&other, trees::noise(6, 32))?;
        std::fs::write(&phrase, "correct horse\n")?;
        let text = |path: &Path| Ok::<_, anyhow::Error>(path.to_str().context("text")?.to_owned());
        let by_key = Folder::new(cluster, "by key", &["--key-file", &text(&key)?]);
        let by_phrase = Folder::new(cluster, "by phrase", &["--passphrase-file", &text(&phrase)?]);
        let plain = Folder::new(cluster, "plain", &[]);
        for folder in [&by_key, &by_phrase, &plain] {
            let line = folder.create(&[])?;
            folder.verify()?;
            folder.same(&state(&line)?)?;
            let script = "grep -rlaF -e 'that nobody may see' -e 'user.secret' . | wc -l";
            let shows = command::shell(&folder.path, script, command::PATIENCE)?.trim().to_owned();
            ensure!((shows == "0") != folder.key.is_empty(), "{shows} files of {} show names", folder.path.display());
        }
        let with = |words: &[&str]| Folder {
            cluster,
            path: by_key.path.clone(),
            key: words.iter().map(|w| (*w).to_owned()).collect(),
        };
        with(&[]).ran(&["verify"], &[])?.refused(&["encrypted", "--key-file"])?;
        with(&["--key-file", &text(&other)?]).ran(&["list"], &[])?.refused(&["not the key", "Hint"])?;
        with(&["--passphrase-file", &text(&phrase)?]).ran(&["list"], &[])?.refused(&["by a key file", "Hint"])?;
        cluster.halt()?;
        for folder in [&by_key, &plain] {
            flipped(folder)?;
        }
        cluster.start()
    })
}

#[test]
fn what_the_source_has_pruned_costs_reading_and_no_space() -> Result<()> {
    with_cluster(1, |cluster| {
        let root = cluster.mount(1);
        make(&root)?;
        let folder = Folder::new(cluster, "folder", &[]);
        let first = folder.create(&[])?;
        let path = root.to_str().context("text")?.to_owned();
        cluster.gavel().run(["retention", "set", &path, "nohistory"])?.ok()?;
        wait::until("the state is gone", PATIENCE, || {
            let touched = std::fs::write(root.join("touched"), "x").and_then(|()| File::open(&root)?.sync_all());
            let pruned = cluster.gavel().run(["retention", "prune", &path]).and_then(Ran::ok);
            let then = root.join(format!("@@{}", state(&first).unwrap_or_default()));
            touched.is_ok() && pruned.is_ok() && std::fs::read_dir(then).is_err()
        })?;
        let ran = command::run(folder.create_command(&[]), command::PATIENCE)?;
        ensure!(ran.stderr.contains("note: ") && ran.stderr.contains("the whole volume is read"), "{}", ran.stderr);
        let second = json(ran)?;
        ensure!(second["base"].is_null() && second["new_files"].as_u64() < Some(8), "{second}");
        ensure!(first["new_files"].as_u64() > Some(40), "{first}");
        folder.verify()?;
        folder.restored(&state(&second)?, &root)
    })
}

/// A flipped bit in each file is found, with no node running.
fn flipped(folder: &Folder) -> Result<()> {
    let mut dice = Dice::new(dice::seed());
    let mut flip = |file: &Path| -> Result<Vec<u8>> {
        let good = std::fs::read(file)?;
        let (mut bad, at) = (good.clone(), dice.below(good.len()));
        bad[at] ^= 1 << dice.below(8);
        std::fs::write(file, bad)?;
        Ok(good)
    };
    let own = folder.path.join("gavel-backup");
    let good = flip(&own)?;
    folder.ran(&["verify"], &[])?.refused(&["gavel-backup"])?;
    std::fs::write(&own, good)?;
    let files: Vec<PathBuf> =
        folder.files()?.into_iter().filter(|file| *file != own && !file.ends_with("gavel-backup")).collect();
    for file in &files {
        flip(file)?;
    }
    let ran = folder.ran(&["verify", "--json"], &[])?;
    ensure!(ran.code == Some(1), "{}", ran.line);
    let found: Value = serde_json::from_str(&ran.stdout)?;
    let told = found["damaged"].as_array().map_or(0, Vec::len);
    ensure!(told == files.len() && told > 20, "{told} of {} files are told of", files.len());
    Ok(())
}
