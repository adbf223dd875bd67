//! Mirrors and backups that have a part of a volume: what is selected, and nothing else (docs/protocols/mirroring.md, "Parts of a volume").

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::two::with_two;
use gavel_conformance::{trees, wait};
use rustix::fs::{XattrFlags, setxattr};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is selected in all of these tests.
const ONLY: [&str; 6] = ["--only", "projects/atlas", "shared/notes", "--exclude", "*.o", "cache/"];
/// What nobody who has the part may find: as names, as bytes of small files and of large ones, as values of extended attributes.
const SECRET: &str = "nobody-may-find-this";
/// What is in the part, so that a search which finds nothing means something.
const SHOWN: &str = "anybody-may-find-this";

/// Something of every kind within the part, and secrets around it.
fn make(root: &Path) -> Result<()> {
    let atlas = root.join("projects/atlas");
    trees::make(&atlas.join("tree"), 40)?;
    std::fs::create_dir_all(root.join("shared/notes"))?;
    std::fs::write(root.join("shared/notes/note"), SHOWN)?;
    std::fs::write(atlas.join(SHOWN), SHOWN.repeat(10_000))?;
    hide(&root.join("projects").join(SECRET))?;
    hide(&root.join("shared").join(SECRET))?;
    hide(&root.join(SECRET))?;
    hide(&atlas.join("cache"))?;
    std::fs::write(atlas.join(format!("{SECRET}.o")), SECRET)?;
    std::fs::write(atlas.join("tree").join(format!("{SECRET}.o")), SECRET.repeat(10_000))?;
    setxattr(root.join("projects"), "user.secret", SECRET.as_bytes(), XattrFlags::empty())?;
    trees::settle(root)
}

fn hide(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join(SECRET), SECRET)?;
    std::fs::write(directory.join("large"), SECRET.repeat(10_000))?;
    std::os::unix::fs::symlink(SECRET, directory.join("link"))?;
    Ok(setxattr(directory.join("large"), "user.secret", SECRET.as_bytes(), XattrFlags::empty())?)
}

/// Is a text found in a file, or in the files below a directory: in their bytes, and their names?
fn finds(text: &str, place: &Path) -> Result<bool> {
    let ran = Command::new("grep").args(["-rqaF", "--", text]).arg(place).stdin(Stdio::null()).status()?;
    ensure!(ran.code().is_some_and(|code| code < 2), "grep {text} {}: {ran}", place.display());
    Ok(ran.success())
}

fn keeps_the_secret(place: &Path) -> Result<()> {
    ensure!(finds(SHOWN, place)?, "{}: not even what is selected is found", place.display());
    ensure!(!finds(SECRET, place)?, "{}: a secret is in there", place.display());
    Ok(())
}

/// A copy shows what is selected of a tree.
fn same(tree: &Path, copy: &Path) -> Result<()> {
    let is_selected = |path: &Path| {
        let text = path.to_string_lossy();
        let is_excluded = text.ends_with(".o") || path.iter().any(|name| name == "cache");
        let is_below = ["projects/atlas", "shared/notes"].iter().any(|only| path.starts_with(only));
        !is_excluded && is_below
    };
    let mut wanted = trees::read(tree)?;
    wanted.retain(|path, _| is_selected(path));
    let mut found = trees::read(copy)?;
    let on_the_way = ["projects", "shared"].map(PathBuf::from);
    let shown: Vec<PathBuf> = found.keys().filter(|path| !is_selected(path)).cloned().collect();
    ensure!(shown == on_the_way, "{shown:?} are shown beside what is selected");
    found.retain(|path, _| is_selected(path));
    trees::same(&wanted, &found)
}

struct Pair<'a> {
    source: &'a Cluster,
    copy: &'a Cluster,
}

impl Pair<'_> {
    /// A stream in a file, of what is behind `from`.
    fn send(&self, name: &str, from: Option<&str>, selected: &[&str]) -> Result<PathBuf> {
        let path = self.source.scratch().join(name);
        let mut command = self.source.mirror_command(1, &["send", "main"]);
        command.args(from.map(|from| format!("--from={from}"))).args(selected);
        let output = command.stdin(Stdio::null()).stdout(File::create(&path)?).stderr(Stdio::piped()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(path)
    }

    fn receive(&self, file: &Path, words: &[&str]) -> Result<Ran> {
        self.copy.receive(1, "copy", file, words)
    }

    fn place(&self) -> Result<String> {
        Ok(self.copy.mirror(1, &["receive", "copy", "--where"])?.ok()?.trim().to_owned())
    }

    /// What is behind the mirror's state, sent and received.
    fn pass(&self, name: &str) -> Result<PathBuf> {
        let path = self.send(name, Some(&self.place()?), &ONLY)?;
        self.receive(&path, &[])?.ok()?;
        Ok(path)
    }
}

fn with_pair(body: impl FnOnce(&Pair) -> Result<()>) -> Result<()> {
    with_two(1, 1, |source, copy| body(&Pair { source, copy }))
}

#[test]
fn a_stream_of_a_part_has_nothing_else() -> Result<()> {
    with_pair(|pair| {
        let tree = pair.source.mount(1);
        make(&tree)?;
        let whole = pair.send("whole", None, &ONLY)?;
        keeps_the_secret(&whole)?;
        pair.receive(&whole, &["--create"])?.ok()?;
        let copy = pair.copy.mounted(1, "copy")?;
        same(&tree, &copy)?;
        // What happens outside is no step.
        hide(&tree.join("more"))?;
        trees::settle(&tree)?;
        let nothing = pair.pass("nothing")?;
        ensure!(std::fs::metadata(&nothing)?.len() < 1000 && !finds(SECRET, &nothing)?);
        // A directory goes in: it is whole there. Its bytes, which the source had all the time, are new to the mirror.
        std::fs::create_dir_all(tree.join("aside/inner"))?;
        std::fs::write(tree.join("aside/inner/bytes"), trees::noise(5, 300_000))?;
        std::fs::write(tree.join("aside/inner/left.o"), SECRET)?;
        trees::settle(&tree)?;
        pair.pass("aside")?;
        std::fs::rename(tree.join("aside"), tree.join("projects/atlas/inside"))?;
        trees::settle(&tree)?;
        let inside = pair.pass("inside")?;
        ensure!(!finds(SECRET, &inside)?, "a secret went in");
        same(&tree, &copy)?;
        ensure!(std::fs::metadata(&inside)?.len() > 300_000);
        // And out: nothing of it is left but what has another name within.
        std::fs::hard_link(tree.join("projects/atlas/inside/inner/bytes"), tree.join("shared/notes/bytes"))?;
        trees::settle(&tree)?;
        pair.pass("linked")?;
        ensure!(copy.join("shared/notes/bytes").metadata()?.nlink() == 2);
        std::fs::rename(tree.join("projects/atlas/inside"), tree.join(SECRET).join("again"))?;
        trees::settle(&tree)?;
        let outside = pair.pass("outside")?;
        ensure!(!finds(SECRET, &outside)?, "a secret is told as gone");
        ensure!(copy.join("shared/notes/bytes").metadata()?.nlink() == 1);
        ensure!(std::fs::read(copy.join("shared/notes/bytes"))? == trees::noise(5, 300_000));
        ensure!(!copy.join("projects/atlas/inside").exists());
        // The way to it is gone, and comes back.
        std::fs::rename(tree.join("projects"), tree.join("away"))?;
        trees::settle(&tree)?;
        pair.pass("away")?;
        ensure!(!copy.join("projects").exists() && copy.join("shared/notes/note").exists());
        std::fs::rename(tree.join("away"), tree.join("projects"))?;
        std::fs::remove_file(tree.join("shared/notes/bytes"))?;
        trees::settle(&tree)?;
        keeps_the_secret(&pair.pass("back")?)?;
        same(&tree, &copy)?;
        // Another part is another copy.
        let from = pair.place()?;
        let other = pair.send("other", Some(&from), &ONLY[..3])?;
        pair.receive(&other, &[])?.refused(&["--only /projects/atlas", "--exclude *.o", "--create"])?;
        let all = pair.send("all", Some(&from), &[])?;
        pair.receive(&all, &[])?.refused(&["the stream has everything", "--only /projects/atlas"])?;
        let status = pair.copy.mirror_status(1, "copy")?;
        ensure!(status["selection"]["only"][0] == "/projects/atlas", "{status}");
        pair.source.mirror(1, &["send", "main", "--only", "a/../b"])?.refused(&["no path of a volume"])?;
        pair.source.mirror(1, &["send", "main", "--exclude", "a[b"])?.refused(&["no pattern"])?;
        keeps_the_secret(&pair.copy.home(1))
    })
}

#[test]
fn a_follower_is_sent_what_it_was_admitted_to() -> Result<()> {
    with_pair(|pair| {
        let tree = pair.source.mount(1);
        make(&tree)?;
        let invitation = pair.source.admit("main", "atlas", &ONLY)?;
        // Who changes what the invitation says gets nothing else by that.
        let text = std::fs::read_to_string(&invitation)?;
        let is_kept =
            |line: &&str| !line.starts_with("[selection]") && !line.starts_with("only") && !line.starts_with("exclude");
        let forged = pair.source.scratch().join("forged");
        let lines: Vec<&str> = text.lines().filter(is_kept).collect();
        std::fs::write(&forged, lines.join("\n"))?;
        pair.copy.follow(1, &forged, "forged")?.ok()?;
        let said = wait::for_some("it is told what is wrong", PATIENCE, || {
            let status = pair.copy.mirror_status(1, "forged").ok()?;
            status["follow"]["error"].as_str().filter(|error| error.contains("--only")).map(str::to_owned)
        })?;
        ensure!(
            said.contains("the mirror has everything") && pair.copy.mirror_status(1, "forged")?["state"] == "0x0",
            "{said}"
        );
        pair.copy.mirror(1, &["remove", "forged"])?.ok()?;
        pair.copy.follow(1, &invitation, "forged")?.refused(&["the invitation is to --only /projects/atlas"])?;
        // As it was meant.
        pair.copy.follow(1, &invitation, "copy")?.ok()?;
        wait::until("the whole copy is there", PATIENCE, || {
            pair.copy.mirror_status(1, "copy").is_ok_and(|status| status["state"] != "0x0")
        })?;
        let copy = pair.copy.mounted(1, "copy")?;
        let follows = |what: &str| wait::until(what, PATIENCE, || same(&tree, &copy).is_ok());
        follows("the part is there")?;
        std::fs::write(tree.join("projects/atlas/new"), trees::noise(7, 100_000))?;
        hide(&tree.join("projects/atlas/tree/cache"))?;
        hide(&tree.join("more"))?;
        trees::settle(&tree)?;
        follows("what is new is there")?;
        std::fs::rename(tree.join("projects/atlas/tree"), tree.join("tree"))?;
        trees::settle(&tree)?;
        follows("what went out is gone")?;
        std::fs::rename(tree.join("tree"), tree.join("shared/notes/tree"))?;
        trees::settle(&tree)?;
        follows("what came back is there")?;
        // It goes on where it stands.
        pair.copy.halt()?;
        std::fs::rename(tree.join("shared/notes/tree"), tree.join("projects/atlas/tree"))?;
        hide(&tree.join("still more"))?;
        trees::settle(&tree)?;
        pair.copy.start()?;
        let copy = pair.copy.mounted(1, "copy")?;
        wait::until("it has gone on", PATIENCE, || same(&tree, &copy).is_ok())?;
        let listed = pair.source.mirror(1, &["list"])?.ok()?;
        ensure!(listed.contains("--only /projects/atlas"), "{listed}");
        keeps_the_secret(&pair.copy.home(1))
    })
}

#[test]
fn a_backup_of_a_part_has_nothing_else() -> Result<()> {
    with_cluster(1, |cluster| {
        let tree = cluster.mount(1);
        make(&tree)?;
        let folder = cluster.scratch().join("folder");
        let create = |selected: &[&str]| -> Result<Ran> {
            let mut command = cluster.gavel().command(["backup", "create"]);
            command.arg(&folder).arg("main").arg("--config").arg(cluster.config(1)).args(selected);
            command::run(command, command::PATIENCE)
        };
        let ran = |words: &[&str], more: &[&str]| -> Result<Ran> {
            let mut command = cluster.gavel().command(["backup"]);
            command.args(words).arg(&folder).args(more);
            command::run(command, command::PATIENCE)
        };
        let restored = |number: u32| -> Result<()> {
            let to = cluster.scratch().join(format!("restored {number}"));
            ran(&["restore"], &["--to", to.to_str().context("text")?])?.ok()?;
            same(&tree, &to)?;
            keeps_the_secret(&to)
        };
        create(&ONLY)?.ok()?;
        restored(1)?;
        keeps_the_secret(&folder)?;
        // Each other one has the same part, if nothing is said.
        hide(&tree.join("more"))?;
        std::fs::create_dir(tree.join("projects/atlas/sub"))?;
        std::fs::rename(tree.join("projects/atlas/tree"), tree.join("projects/atlas/sub/tree"))?;
        std::fs::write(tree.join("projects/atlas/new"), trees::noise(7, 100_000))?;
        trees::settle(&tree)?;
        create(&[])?.ok()?;
        restored(2)?;
        std::fs::rename(tree.join("projects/atlas/sub"), tree.join("sub"))?;
        trees::settle(&tree)?;
        create(&ONLY)?.ok()?;
        restored(3)?;
        std::fs::rename(tree.join("sub"), tree.join("shared/notes/sub"))?;
        trees::settle(&tree)?;
        create(&[])?.ok()?;
        restored(4)?;
        ran(&["verify"], &[])?.ok()?;
        keeps_the_secret(&folder)?;
        create(&["--only", "projects"])?
            .refused(&["the backups have --only /projects/atlas", "a folder of its own"])?;
        // As a whole, into a volume.
        let sent = cluster.scratch().join("sent");
        let mut send = cluster.gavel().command(["backup", "send"]);
        let status = send.arg(&folder).stdout(File::create(&sent)?).status()?;
        ensure!(status.success());
        let mut receive = cluster.gavel().command(["mirror", "receive", "again", "--create", "--config"]);
        receive.arg(cluster.config(1)).stdin(File::open(&sent)?);
        let output = receive.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        keeps_the_secret(&sent)
    })
}
