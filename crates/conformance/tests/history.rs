//! What was done on three mounts by two users is told as it was: `gavel history`, `gavel log`, `gavel diff` (docs/operations/history.md).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::command::Ran;
use gavel_conformance::{command, wait};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A user who is not root.
const OTHER: u32 = 12_345;

fn gavel(cluster: &Cluster, arguments: &[&str]) -> Result<Ran> {
    cluster.gavel().run(arguments)
}

fn json(cluster: &Cluster, arguments: &[&str]) -> Result<Vec<Value>> {
    let told = gavel(cluster, arguments)?.ok()?;
    Ok(told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

/// Runs a shell script in `dir` as the other user.
fn as_other(dir: &Path, script: &str) -> Result<()> {
    let mut other = Command::new("setpriv");
    other.args([&format!("--reuid={OTHER}"), &format!("--regid={OTHER}"), "--clear-groups", "sh", "-euc", script]);
    other.current_dir(dir);
    command::run(other, PATIENCE)?.ok().map(drop)
}

/// What was done is committed, in a transaction of its own.
fn synced(path: &Path) -> Result<()> {
    Ok(std::fs::File::open(path)?.sync_all()?)
}

fn kinds(line: &Value) -> Vec<&str> {
    line["changes"].as_array().into_iter().flatten().filter_map(|change| change["kind"].as_str()).collect()
}

fn field<'a>(lines: &'a [Value], name: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line[name].as_str()).collect()
}

#[test]
fn what_was_done_on_three_mounts_by_two_users_is_told() -> Result<()> {
    with_cluster(3, |cluster| {
        let [one, two, three] = [1, 2, 3].map(|node| cluster.mount(node));
        let tid = || -> Result<String> {
            let tid = cluster.state(1).and_then(|state| state.position()).context("node 1 does not answer")?.1;
            Ok(format!("{tid:#x}"))
        };
        std::fs::create_dir(one.join("d"))?;
        std::fs::set_permissions(one.join("d"), PermissionsExt::from_mode(0o777))?;
        synced(&one.join("d"))?;
        as_other(&two.join("d"), "echo one > old; sync old")?;
        std::fs::rename(three.join("d/old"), three.join("d/new"))?;
        synced(&three.join("d/new"))?;
        std::fs::rename(one.join("d"), one.join("e"))?;
        synced(&one.join("e"))?;
        as_other(&two.join("e"), "chmod 600 new; sync new")?;
        setxattr(three.join("e/new"), "user.colour", b"red", XattrFlags::empty())?;
        synced(&three.join("e/new"))?;
        let file = std::fs::OpenOptions::new().write(true).open(one.join("e/new"))?;
        file.set_len(2)?;
        file.sync_all()?;
        std::fs::hard_link(two.join("e/new"), two.join("e/link"))?;
        synced(&two.join("e/new"))?;
        cluster.settle()?;
        let before = tid()?;
        std::fs::remove_file(three.join("e/new"))?;
        synced(&three.join("e"))?;
        cluster.settle()?;

        history(cluster, &one)?;
        log(cluster, &one)?;
        diff(cluster, &one, &before)?;
        refusals(cluster, &one)
    })
}

fn history(cluster: &Cluster, mount: &Path) -> Result<()> {
    let lines = json(cluster, &["history", "--json", text(&mount.join("e/new"))?])?;
    let done: Vec<Vec<&str>> = lines.iter().map(kinds).collect();
    let wanted: &[&[&str]] =
        &[&["unlinked"], &["linked"], &["truncated"], &["xattr"], &["mode"], &["renamed"], &["created", "written"]];
    // A creation and the first write may have been committed one by one.
    let mut done = done;
    if done.len() == wanted.len() + 1 {
        let first = done.pop().unwrap_or_default();
        done.last_mut().context("a line")?.splice(0..0, first);
    }
    ensure!(done == wanted, "{lines:#?}");
    ensure!(lines[5]["changes"][0]["from"] == "d/old" && lines[5]["changes"][0]["to"] == "d/new", "{:#?}", lines[5]);
    let by: Vec<_> = lines.iter().map(|line| (line["node"].as_u64(), line["uid"].as_u64())).collect();
    let other = Some(u64::from(OTHER));
    let wanted = [
        (Some(3), Some(0)),
        (Some(2), Some(0)),
        (Some(1), Some(0)),
        (Some(3), Some(0)),
        (Some(2), other),
        (Some(3), Some(0)),
        (Some(2), other),
    ];
    ensure!(by[..7] == wanted, "{by:?}");
    ensure!(lines[0]["size"].is_null() && lines[1]["size"] == 2 && lines[3]["size"] == 4, "{lines:#?}");
    ensure!(field(&lines, "path")[4..6] == ["e/new", "d/new"], "{lines:#?}");
    // From every node the same, also for the name that is left, and for people.
    for node in cluster.ids() {
        let path = cluster.mount(node).join("e/new");
        ensure!(json(cluster, &["history", "--json", text(&path)?])? == lines, "node {node} tells something else");
    }
    let told = gavel(cluster, &["history", text(&mount.join("e/new"))?])?.ok()?;
    ensure!(told.contains("renamed d/old -> d/new") && told.contains("12345") && told.contains("root"), "{told}");
    let short = gavel(cluster, &["history", "--limit", "2", text(&mount.join("e/new"))?])?.ok()?;
    ensure!(short.contains("There is more before"), "{short}");
    let removed = json(cluster, &["history", "--removed", "--json", text(&mount.join("e"))?])?;
    ensure!(field(&removed, "name") == ["new", "old"] && removed[1]["to"] == "d/new", "{removed:#?}");
    // What it says was the last state that had it, had it.
    let last = removed[0]["last"].as_str().context("no last state")?;
    let then = json(cluster, &["history", "--json", "--at", last, text(&mount.join("e/new"))?])?;
    ensure!(then == lines[1..], "{then:#?}");
    Ok(())
}

fn log(cluster: &Cluster, mount: &Path) -> Result<()> {
    let all = json(cluster, &["log", "--json", text(mount)?])?;
    let tids = field(&all, "tid");
    let mut sorted = tids.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    ensure!(tids == sorted, "newest first: {tids:?}");
    let changes: Vec<_> = all.iter().flat_map(|line| line["changes"].as_array().into_iter().flatten()).collect();
    let has = |sign: &str, path: &str| changes.iter().any(|change| change["sign"] == sign && change["path"] == path);
    for (sign, path) in
        [("-", "e/new"), ("+", "e/link"), ("M", "e/new"), ("R", "e"), ("R", "d/new"), ("+", "d/old"), ("+", "d")]
    {
        ensure!(has(sign, path), "{sign} {path} is not told of: {changes:#?}");
    }
    // Below a directory it is the same but for what was done elsewhere; and in pieces.
    std::fs::write(mount.join("elsewhere"), "x")?;
    synced(&mount.join("elsewhere"))?;
    let below = json(cluster, &["log", "--json", text(&mount.join("e"))?])?;
    ensure!(field(&below, "tid") == tids, "{below:#?}");
    let first = json(cluster, &["log", "--json", "--limit", "3", text(&mount.join("e"))?])?;
    ensure!(first[..3] == below[..3] && first[3]["more"] == true, "{first:#?}");
    let next = first[3]["next"].as_str().context("no next")?;
    let rest = json(cluster, &["log", "--json", "--until", next, text(&mount.join("e"))?])?;
    ensure!(rest == below[3..], "{rest:#?}");
    let since = json(cluster, &["log", "--json", "--since", tids[1], text(&mount.join("e"))?])?;
    ensure!(field(&since, "tid") == tids[..1], "{since:#?}");
    let told = gavel(cluster, &["log", text(mount)?])?.ok()?;
    ensure!(told.contains("  R d -> e") && told.contains("  - e/new"), "{told}");
    Ok(())
}

fn diff(cluster: &Cluster, mount: &Path, before: &str) -> Result<()> {
    let at = |name: &str, text: &str| -> Result<()> {
        std::fs::write(mount.join("e").join(name), text)?;
        synced(&mount.join("e").join(name))
    };
    at("text", "one\ntwo\n")?;
    at("binary", "a\0b")?;
    let middle = "middle";
    gavel(cluster, &["snapshot", "create", text(mount)?, middle])?.ok()?;
    at("text", "one\n2\n")?;
    at("binary", "a\0c")?;
    std::fs::rename(mount.join("e/link"), mount.join("e/moved"))?;
    synced(&mount.join("e"))?;
    let lines = json(cluster, &["diff", "--json", "-p", text(mount)?, "--from", middle])?;
    let signs: Vec<_> = lines.iter().map(|line| (line["sign"].as_str(), line["path"].as_str())).collect();
    let wanted = [(Some("M"), Some("e/binary")), (Some("R"), Some("e/moved")), (Some("M"), Some("e/text"))];
    ensure!(signs == wanted, "{lines:#?}");
    ensure!(lines[0]["no_patch"] == "binary" && lines[1]["from"] == "e/link", "{lines:#?}");
    let patch = "--- a/e/text\n+++ b/e/text\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n";
    ensure!(lines[2]["patch"] == patch, "{lines:#?}");
    // The other way round, and of one file.
    let file = mount.join("e/text");
    let back = gavel(cluster, &["diff", "-p", text(&file)?, "--from", "0s", "--to", middle])?.ok()?;
    ensure!(back.starts_with("M e/text") && back.contains("-2\n+two\n"), "{back}");
    let (old, new) = (format!("{}@@{middle}", file.display()), format!("{}@@0s", file.display()));
    let told = gavel(cluster, &["diff", &old, &new])?.ok()?;
    ensure!(told.starts_with("M e/text  (content"), "{told}");
    let stat = gavel(cluster, &["diff", "--stat", text(mount)?, "--from", before])?.ok()?;
    ensure!(stat == "3 made, 1 removed, 0 changed, 1 renamed\n", "{stat}");
    ensure!(gavel(cluster, &["diff", text(mount)?, "--from", middle, "--to", middle])?.ok()?.is_empty());
    Ok(())
}

fn refusals(cluster: &Cluster, mount: &Path) -> Result<()> {
    let mount = text(mount)?;
    let never = format!("{mount}/never/was");
    gavel(cluster, &["history", &never])?.refused(&["never/was: nothing has ever had this path"])?;
    gavel(cluster, &["history", "--removed", &format!("{mount}/e/text")])?.refused(&["e/text: not a directory"])?;
    gavel(cluster, &["history", "/proc"])?.refused(&["/proc: not in a mount of Gavel", "Hint:"])?;
    gavel(cluster, &["history", "--at", "2200-01-01", mount])?.refused(&["this time is in the future"])?;
    gavel(cluster, &["history", "--at", "1999-01-01", mount])?.refused(&["the volume was made later than that"])?;
    gavel(cluster, &["log", "--since", "7q", mount])?.refused(&["\"7q\" is neither a transaction"])?;
    gavel(cluster, &["log", "--until", "nobody", mount])?.refused(&["no snapshot of the volume has this name"])?;
    gavel(cluster, &["log", &never])?.refused(&["nothing has ever had this path"])?;
    gavel(cluster, &["log", "--follow", "--from", "2200-01-01", mount])?.refused(&["this time is in the future"])?;
    gavel(cluster, &["diff", mount])?.refused(&["which state is to be compared?", "Hint:"])?;
    gavel(cluster, &["diff", mount, "--from", "nobody"])?
        .refused(&["nobody: no snapshot of the volume has this name"])?;
    gavel(cluster, &["diff", &never, "--from", "0s"])?.refused(&["never/was: in neither of the two states"])?;
    gavel(cluster, &["diff", &format!("{mount}@@0s"), "--from", "0s"])?.refused(&["a state is named twice"])
}

/// `gavel log --follow --json`, and what it has said so far. Dropped, it is killed.
struct Follower {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    fn start(cluster: &Cluster, mount: &Path, from: Option<&str>) -> Result<Follower> {
        let mut command = cluster.gavel().command(["log", "--follow", "--json"]);
        command.args(from.map(|from| ["--from", from]).into_iter().flatten()).arg(mount);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let said = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // What was cut off in the middle when it was killed is no line.
                if let Ok(value) = serde_json::from_str(&line) {
                    said.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(value);
                }
            }
        });
        let follower = Follower { child, lines };
        wait::until("it follows", PATIENCE, || follower.said().iter().any(|line| !line["following_after"].is_null()))?;
        Ok(follower)
    }

    fn said(&self) -> Vec<Value> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn tids(&self) -> Vec<String> {
        field(&self.said(), "tid").into_iter().map(str::to_owned).collect()
    }

    fn has(&self, path: &str) -> bool {
        let made = |change: &Value| change["sign"] == "+" && change["path"] == path;
        self.said().iter().any(|line| line["changes"].as_array().into_iter().flatten().any(made))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_follower_that_is_killed_and_resumed_misses_nothing_and_hears_nothing_twice() -> Result<()> {
    with_cluster(3, |cluster| {
        let mount = cluster.mount(2);
        let begin = Follower::start(cluster, &mount, None)?;
        let after = begin.said()[0]["following_after"].as_str().context("no beginning")?.to_owned();
        let write = |name: &str, node: u64| -> Result<()> {
            let path = cluster.mount(node).join(name);
            std::fs::write(&path, name)?;
            synced(&path)
        };
        (0..30).try_for_each(|number| write(&format!("a{number}"), 1 + number % 3))?;
        wait::until("it has heard of all", PATIENCE, || (0..30).all(|number| begin.has(&format!("a{number}"))))?;
        let first = begin.tids();
        drop(begin);
        // Nobody listens.
        (0..30).try_for_each(|number| write(&format!("b{number}"), 1 + number % 3))?;
        let last = first.last().context("it heard of nothing")?;
        let again = Follower::start(cluster, &mount, Some(last))?;
        (0..30).try_for_each(|number| write(&format!("c{number}"), 1 + number % 3))?;
        wait::until("it has heard of the rest", PATIENCE, || {
            (0..30).all(|number| again.has(&format!("b{number}")) && again.has(&format!("c{number}")))
        })?;
        let heard = [first, again.tids()].concat();
        let all = json(cluster, &["log", "--json", "--limit", "1000", "--since", &after, text(&mount)?])?;
        let mut wanted = field(&all, "tid");
        wanted.reverse();
        ensure!(heard == wanted, "heard {heard:?}\nand there was {wanted:?}");
        Ok(())
    })
}
