//! Transactions of `gavel txn begin` whose node is killed, stopped, cut off or damaged, on real mounts (docs/protocols/transactions.md, Restart).

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, with_cluster};
use gavel_conformance::command::{Gavel, Ran};
use gavel_conformance::dice::{Dice, seed};
use gavel_conformance::{command, mounts, process, trees, wait};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// A session ends within this when its node is not heard of, on a busy machine.
const SESSION_ENDS: Duration = Duration::from_secs(60);
/// More than is written into a request.
const LARGE: usize = 200_000;

/// A node and its directory for a transaction.
struct Place<'c> {
    gavel: &'c Gavel,
    config: PathBuf,
    dir: PathBuf,
    journals: PathBuf,
}

impl<'c> Place<'c> {
    fn of(cluster: &'c Cluster, node: u64) -> Result<Place<'c>> {
        let dir = cluster.scratch().join("work");
        std::fs::create_dir_all(&dir)?;
        let journals = cluster.home(node).join("data/transactions");
        Ok(Place { gavel: cluster.gavel(), config: cluster.config(node), dir, journals })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.gavel.command(["txn"]);
        command.arg(words[0]).arg("--config").arg(&self.config).args(&words[1..]);
        command
    }

    fn txn(&self, words: &[&str]) -> Result<Ran> {
        command::run(self.command(words), PATIENCE)
    }

    /// Begins one at the directory; gives its id.
    fn begin(&self) -> Result<String> {
        let told = self.txn(&["begin", self.dir.to_str().context("a path of text")?])?.ok()?;
        Ok(told.split_whitespace().next().context("it says its id")?.to_owned())
    }

    fn list(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.txn(&["list", "--json"])?.ok()?)?)
    }

    /// Waits until the transaction is in this state, and gives what `gavel txn status` says.
    fn is(&self, id: &str, state: &str) -> Result<Value> {
        let mut last = String::new();
        let found = wait::for_some(&format!("transaction {id} is {state}"), PATIENCE, || {
            let ran = self.txn(&["status", id, "--json"]).ok()?;
            last = format!("{ran:?}");
            let line: Value = serde_json::from_str(&ran.stdout).ok()?;
            (line["state"] == state).then_some(line)
        });
        let line = found.with_context(|| last)?;
        if state == "open" {
            wait::until("it is mounted", PATIENCE, || mounts::under(&self.dir).len() == 1)?;
        }
        Ok(line)
    }

    /// Nothing of a transaction is left.
    fn no_trace(&self) -> Result<()> {
        ensure!(self.list()?.is_empty(), "{:?}", self.list()?);
        wait::until("nothing is mounted", PATIENCE, || mounts::under(&self.dir).is_empty())?;
        let left = || std::fs::read_dir(&self.journals).map_or(0, Iterator::count);
        wait::until("no journal and no place is left", PATIENCE, || left() == 0)?;
        ensure!(std::fs::read_dir(&self.dir)?.next().is_none(), "something was written beside it");
        Ok(())
    }
}

/// The commits that name a transaction.
fn commits(gavel: &Gavel, mount: &Path, id: &str) -> Result<Vec<Value>> {
    let mut log = gavel.command(["log", "--json", "--limit", "100000"].map(OsStr::new));
    log.arg(mount);
    let lines = command::run(log, PATIENCE)?.ok()?;
    let lines = lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Value>>>()?;
    let ends = format!("[txn {id}]");
    Ok(lines.into_iter().filter(|line| line["note"].as_str().is_some_and(|note| note.ends_with(&ends))).collect())
}

fn settle(mount: &Path) -> Result<()> {
    Ok(File::open(mount)?.sync_all()?)
}

/// All kinds of changes.
fn change(dir: &Path) -> Result<()> {
    std::fs::create_dir(dir.join("made"))?;
    std::fs::write(dir.join("made/small"), "small")?;
    std::fs::write(dir.join("made/large"), trees::noise(5, LARGE))?;
    symlink("small", dir.join("made/link"))?;
    std::fs::hard_link(dir.join("made/small"), dir.join("made/twice"))?;
    std::fs::rename(dir.join("old/a"), dir.join("made/a"))?;
    std::fs::remove_file(dir.join("old/b"))?;
    std::fs::set_permissions(dir.join("old/c"), std::fs::Permissions::from_mode(0o600))?;
    std::io::Write::write_all(&mut File::options().append(true).open(dir.join("old/c"))?, b"more")?;
    setxattr(dir.join("made/small"), "user.colour", b"red", XattrFlags::empty())?;
    // One that is gone again, and one whose name is gone while it is open.
    std::fs::write(dir.join("gone"), "gone")?;
    std::fs::remove_file(dir.join("gone"))?;
    std::fs::write(dir.join("nameless"), "nameless")?;
    Ok(())
}

fn numbers(dir: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let all = trees::read(dir)?;
    all.keys().map(|path| Ok((path.clone(), std::fs::symlink_metadata(dir.join(path))?.ino()))).collect()
}

#[test]
fn killed_and_started_it_goes_on() -> Result<()> {
    with_cluster(3, |cluster| {
        let (here, other) = (cluster.mount(1), cluster.mount(2));
        command::shell(&here, "mkdir -p d/old; for f in a b c; do echo $f > d/old/$f; done", PATIENCE)?;
        settle(&here)?;
        let place = Place::of(cluster, 1)?;
        // What others do beside it does not collide: it lists no more than this.
        let dir = place.dir.join("d");
        let id = place.begin()?;
        change(&dir)?;
        let open = File::open(dir.join("nameless"))?;
        std::fs::remove_file(dir.join("nameless"))?;
        let before = (trees::read(&dir)?, numbers(&dir)?, place.txn(&["diff", &id])?.ok()?);
        // Others go on meanwhile, apart from it.
        std::fs::write(other.join("theirs"), "theirs")?;
        settle(&other)?;
        for round in 0..3 {
            if round == 2 {
                // Stopped in order, all nodes.
                cluster.halt()?;
            } else {
                cluster.kill(1)?;
            }
            if round == 0 {
                drop(File::open(dir.join("made")).expect_err("its dead mount keeps others out"));
            }
            cluster.start()?;
            let line = place.is(&id, "open")?;
            ensure!(line["notices"].is_null(), "{line}");
            trees::same(&before.0, &trees::read(&dir)?)?;
            ensure!(numbers(&dir)? == before.1, "numbers of objects are what they were");
            ensure!(place.txn(&["diff", &id])?.ok()? == before.2);
            let mut value = [0; 16];
            ensure!(getxattr(dir.join("made/small"), "user.colour", &mut value)? == 3 && &value[..3] == b"red");
        }
        drop(open);
        let status = cluster.state(1).context("it answers")?.status;
        let shown = &status["transactions"][0];
        ensure!(shown["id"] == id.as_str() && shown["start"].is_string(), "{status}");
        // It goes on: no number of an object is given out twice.
        for number in 0..50 {
            std::fs::write(dir.join(format!("made/n{number}")), number.to_string())?;
        }
        std::fs::write(dir.join("made/larger"), trees::noise(6, LARGE))?;
        let all = numbers(&dir)?;
        let distinct: std::collections::BTreeSet<u64> = all.values().copied().collect();
        ensure!(distinct.len() == all.len() - 1, "two names of one file, and all others are different");
        let shown = trees::read(&dir)?;
        place.txn(&["commit", &id, "--message", "all of it"])?.ok()?;
        ensure!(commits(place.gavel, &other, &id)?.len() == 1);
        for mount in [&here, &other] {
            let mut found = trees::read(&mount.join("d"))?;
            ensure!(mount.join("theirs").exists());
            // A directory's times are the commit's.
            let mut shown = shown.clone();
            shown.values_mut().chain(found.values_mut()).for_each(|entry| entry.modified = (0, 0));
            trees::same(&shown, &found).with_context(|| mount.display().to_string())?;
        }
        place.no_trace()?;
        // One that is given up after a restart leaves nothing; one that is moved shows the present, also after another restart.
        let id = place.begin()?;
        std::fs::write(place.dir.join("never"), trees::noise(7, LARGE))?;
        std::fs::write(other.join("later"), "later")?;
        settle(&other)?;
        cluster.kill(1)?;
        cluster.start()?;
        place.is(&id, "open")?;
        place.txn(&["rebase", &id])?.ok()?;
        cluster.kill(1)?;
        cluster.start()?;
        place.is(&id, "open")?;
        ensure!(std::fs::read(place.dir.join("later"))? == b"later");
        ensure!(std::fs::read(place.dir.join("never"))? == trees::noise(7, LARGE));
        place.txn(&["abort", &id])?.ok()?;
        ensure!(!here.join("never").exists());
        place.no_trace()?;
        cluster.kill(1)?;
        cluster.start()?;
        place.no_trace()
    })
}

/// What a writer was told of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Has(Vec<u8>),
    None,
}

fn of<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes, overwrites, renames and removes files until an operation fails. `told` is what was answered, and `asked` what was asked last.
fn write_until_it_fails(
    dir: &Path,
    round: u64,
    told: &Mutex<BTreeMap<String, Told>>,
    asked: &Mutex<Vec<String>>,
    stop: &AtomicBool,
) {
    let mut dice = Dice::new(seed() * 1000 + round);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let name = format!("f{}", dice.below(40));
        let other = format!("f{}", dice.below(40));
        let say = |names: &[&String]| *of(asked) = names.iter().map(|name| (*name).clone()).collect();
        let known = |name: &String| of(told).get(name).cloned();
        let done = match dice.below(6) {
            0 => {
                say(&[&name]);
                match std::fs::remove_file(dir.join(&name)) {
                    Ok(()) => drop(of(told).insert(name, Told::None)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(_) => return,
                }
                true
            }
            1 if name != other && matches!(known(&name), Some(Told::Has(_))) => {
                say(&[&name, &other]);
                let done = std::fs::rename(dir.join(&name), dir.join(&other)).is_ok();
                if done {
                    let mut told = of(told);
                    let had = told.insert(name, Told::None).unwrap_or(Told::None);
                    told.insert(other, had);
                }
                done
            }
            kind => {
                let bytes = if kind == 2 { 60_000 } else { 50 };
                let content = trees::noise(round * 100_000 + number, bytes);
                say(&[&name]);
                let done = std::fs::write(dir.join(&name), &content).is_ok();
                if done {
                    of(told).insert(name, Told::Has(content));
                }
                done
            }
        };
        if !done {
            return;
        }
        of(asked).clear();
    }
}

#[test]
fn killed_at_random_moments_what_was_told_stays() -> Result<()> {
    with_cluster(3, |cluster| {
        let place = Place::of(cluster, 1)?;
        let id = place.begin()?;
        let told = Mutex::new(BTreeMap::new());
        let mut dice = Dice::new(seed());
        let mut most = 0;
        for round in 0..6 {
            let (asked, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
            std::thread::scope(|scope| -> Result<()> {
                let writer = scope.spawn(|| write_until_it_fails(&place.dir, round, &told, &asked, &stop));
                std::thread::sleep(Duration::from_millis(50 + dice.below(700) as u64));
                let killed = cluster.kill(1);
                stop.store(true, Ordering::Relaxed);
                writer.join().map_err(|_| anyhow::anyhow!("the writer has panicked"))?;
                killed
            })?;
            cluster.start()?;
            place.is(&id, "open")?;
            let (mut told, asked) = (of(&told), of(&asked));
            most = most.max(told.len());
            for (name, expected) in told.iter_mut() {
                let found = match std::fs::read(place.dir.join(name)) {
                    Ok(bytes) => Told::Has(bytes),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Told::None,
                    Err(error) => return Err(error).context(name.clone()),
                };
                // What was asked for in that moment may have been done, or half (a write is several operations).
                ensure!(found == *expected || asked.contains(name), "round {round}: {name} is not what was told");
                *expected = found;
            }
            for name in asked.iter().filter(|name| !told.contains_key(*name)).cloned().collect::<Vec<_>>() {
                if let Ok(bytes) = std::fs::read(place.dir.join(&name)) {
                    told.insert(name, Told::Has(bytes));
                }
            }
        }
        ensure!(most > 10, "{most} files");
        place.txn(&["commit", &id])?.ok()?;
        ensure!(commits(place.gavel, &cluster.mount(2), &id)?.len() == 1);
        let told = of(&told);
        let expected = told.iter().filter(|(_, told)| **told != Told::None).count();
        for mount in [cluster.mount(1), cluster.mount(3)] {
            for (name, told) in told.iter() {
                let found = std::fs::read(mount.join(name)).map_or(Told::None, Told::Has);
                ensure!(found == *told, "{}: {name}", mount.display());
            }
            ensure!(std::fs::read_dir(&mount)?.count() == expected);
        }
        place.no_trace()
    })
}

/// Changes bytes of a file.
fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    change(&mut bytes);
    Ok(std::fs::write(path, bytes)?)
}

#[test]
fn a_damaged_journal_is_told() -> Result<()> {
    with_cluster(3, |cluster| {
        let place = Place::of(cluster, 1)?;
        let begun = |names: std::ops::Range<u32>| -> Result<(String, PathBuf)> {
            let id = place.begin()?;
            names
                .into_iter()
                .try_for_each(|name| std::fs::write(place.dir.join(name.to_string()), name.to_string()))?;
            cluster.kill(1)?;
            let journal = place.journals.join(format!("{id}.journal"));
            Ok((id, journal))
        };
        let names = || -> Result<usize> { Ok(std::fs::read_dir(&place.dir)?.count()) };
        // The last operation was not written to its end: it was not answered, or not synced.
        let (id, journal) = begun(100..120)?;
        tamper(&journal, |bytes| bytes.truncate(bytes.len() - 3))?;
        cluster.start()?;
        let line = place.is(&id, "open")?;
        ensure!(line["notices"][0].as_str().is_some_and(|notice| notice.contains("not whole")), "{line}");
        ensure!(names()? == 20 && std::fs::read(place.dir.join("119"))?.is_empty(), "the last write is missing");
        std::fs::write(place.dir.join("119"), "119")?;
        cluster.kill(1)?;
        cluster.start()?;
        place.is(&id, "open")?;
        ensure!(std::fs::read(place.dir.join("119"))? == b"119");
        place.txn(&["abort", &id])?.ok()?;
        // Damage in the middle: what is in front of it can be read, and is committed only if that is meant.
        let (id, journal) = begun(100..200)?;
        tamper(&journal, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        })?;
        cluster.start()?;
        let line = place.is(&id, "open")?;
        ensure!(line["notices"][0].as_str().is_some_and(|notice| notice.contains("damaged")), "{line}");
        let left = names()?;
        ensure!((10..90).contains(&left), "{left} of 100");
        let refused = std::fs::write(place.dir.join("more"), "").map_err(|error| Errno::from_io_error(&error));
        ensure!(refused == Err(Some(Errno::ROFS)), "{refused:?}");
        place.txn(&["commit", &id])?.refused(&["not whole", "damaged", "--incomplete"])?;
        cluster.kill(1)?;
        cluster.start()?;
        place.is(&id, "open")?;
        ensure!(names()? == left, "the same again");
        place.txn(&["commit", &id, "--incomplete"])?.ok()?;
        ensure!(std::fs::read_dir(cluster.mount(2))?.count() == left);
        place.no_trace()?;
        // Nothing of it can be read.
        let (id, journal) = begun(300..310)?;
        tamper(&journal, |bytes| bytes[50] ^= 1)?;
        cluster.start()?;
        let line = place.is(&id, "lost")?;
        ensure!(
            line["notices"][0].as_str().is_some_and(|notice| notice.contains("damaged at its beginning")),
            "{line}"
        );
        place.txn(&["commit", &id])?.refused(&["is lost", "gavel txn abort"])?;
        place.txn(&["abort", &id])?.ok()?;
        ensure!(std::fs::read_dir(cluster.mount(2))?.count() == left);
        place.no_trace()
    })
}

#[test]
fn one_whose_start_was_pruned_meanwhile_is_told_as_lost() -> Result<()> {
    with_cluster(3, |cluster| {
        let other = cluster.mount(2);
        let mount = other.to_str().context("a path of text")?;
        std::fs::write(other.join("f"), "1")?;
        settle(&other)?;
        cluster.gavel().run(["retention", "set", mount, "nohistory"])?.ok()?;
        let place = Place::of(cluster, 1)?;
        let id = place.begin()?;
        std::fs::write(place.dir.join("g"), "1")?;
        let start = place.is(&id, "open")?["start"].as_str().context("it says its start")?.to_owned();
        cluster.kill(1)?;
        std::fs::write(other.join("f"), "2")?;
        settle(&other)?;
        let pinned = || -> Result<Value> {
            Ok(serde_json::from_str(&cluster.gavel().run(["retention", "show", mount, "--json"])?.ok()?)?)
        };
        ensure!(pinned()?["pins"] == 1, "{}", pinned()?);
        wait::until("its pin has ended with its session", SESSION_ENDS, || {
            pinned().is_ok_and(|said| said["pins"] == 0)
        })?;
        // Tids are written with all their digits.
        let gone = |said: Value| said["kept"] == 0 && said["horizon"].as_str() > Some(&start);
        wait::until("its start is pruned", SESSION_ENDS, || {
            cluster.gavel().run(["retention", "prune", mount]).is_ok() && pinned().is_ok_and(gone)
        })?;
        cluster.start()?;
        place.is(&id, "lost")?;
        place.txn(&["commit", &id])?.refused(&["the history it started from is gone"])?;
        wait::until("its dead mount is taken off", PATIENCE, || mounts::under(&place.dir).is_empty())?;
        place.txn(&["abort", &id])?.ok()?;
        ensure!(!other.join("g").exists());
        place.no_trace()
    })
}

#[test]
fn a_full_disk_refuses_what_it_can_not_keep_and_takes_it_back() -> Result<()> {
    with_cluster(3, |cluster| {
        let place = Place::of(cluster, 1)?;
        let journals = place.journals.to_str().context("a path of text")?;
        cluster.kill(1)?;
        command::shell(cluster.scratch(), &format!("mount -t tmpfs -o size=256k gavel-test {journals}"), PATIENCE)?;
        let filled = fill(cluster, &place, journals);
        cluster.kill(1)?;
        command::shell(cluster.scratch(), &format!("umount {journals}"), PATIENCE)?;
        filled?;
        cluster.start()?;
        place.no_trace()
    })
}

fn fill(cluster: &Cluster, place: &Place<'_>, journals: &str) -> Result<()> {
    cluster.start()?;
    let id = place.begin()?;
    let content = |number: u64| trees::noise(number, 5000);
    let mut told = Vec::new();
    let refused = loop {
        let number = told.len() as u64;
        match std::fs::write(place.dir.join(format!("f{number}")), content(number)) {
            Ok(()) => told.push(number),
            Err(error) => break Errno::from_io_error(&error),
        }
    };
    ensure!(refused == Some(Errno::NOSPC) && told.len() > 10, "{refused:?} after {} files", told.len());
    let line = place.is(&id, "open")?;
    ensure!(line["full"].as_str().is_some_and(|full| full.contains("journal")), "{line}");
    let is_whole = || -> Result<()> {
        for number in &told {
            let found = std::fs::read(place.dir.join(format!("f{number}")))?;
            ensure!(found == content(*number), "f{number} has {} bytes", found.len());
        }
        let last = place.dir.join(format!("f{}", told.len()));
        ensure!(!last.exists() || std::fs::metadata(&last)?.len() == 0, "what was refused is there");
        Ok(())
    };
    is_whole()?;
    for _ in 0..5 {
        let again = std::fs::write(place.dir.join("more"), content(0)).map_err(|error| Errno::from_io_error(&error));
        ensure!(again == Err(Some(Errno::NOSPC)), "{again:?}");
    }
    is_whole()?;
    cluster.kill(1)?;
    cluster.start()?;
    place.is(&id, "open")?;
    is_whole().context("after a restart")?;
    command::shell(cluster.scratch(), &format!("mount -o remount,size=8m {journals}"), PATIENCE)?;
    std::fs::write(place.dir.join("more"), content(0))?;
    place.txn(&["commit", &id])?.ok()?;
    ensure!(std::fs::read(cluster.mount(2).join("more"))? == content(0));
    for number in &told {
        ensure!(std::fs::read(cluster.mount(2).join(format!("f{number}")))? == content(*number));
    }
    Ok(())
}

#[test]
fn a_journal_that_has_grown_is_written_anew() -> Result<()> {
    const PIECE: usize = 512 * 1024;
    const PIECES: u64 = 200;
    with_cluster(3, |cluster| {
        let place = Place::of(cluster, 1)?;
        let id = place.begin()?;
        std::fs::write(place.dir.join("before"), "before")?;
        let file = File::create(place.dir.join("large"))?;
        let journal = place.journals.join(format!("{id}.journal"));
        let (mut longest, mut last, mut anew) = (0, 0, 0);
        for number in 0..PIECES {
            let at = number % 3 * PIECE as u64;
            std::os::unix::fs::FileExt::write_all_at(&file, &trees::noise(number, PIECE), at)?;
            let len = std::fs::metadata(&journal)?.len();
            anew += u32::from(len < last);
            (longest, last) = (longest.max(len), len);
        }
        println!(
            "{} MiB were written, the journal had {longest} bytes, and was written anew",
            (PIECES as usize * PIECE) >> 20
        );
        ensure!(anew > 0 && longest > 64 << 20, "written anew {anew} times, with {longest} bytes at most");
        file.sync_all()?;
        drop(file);
        let holds = |dir: &Path| -> Result<()> {
            let found = std::fs::read(dir.join("large"))?;
            for number in PIECES - 3..PIECES {
                let at = (number % 3) as usize * PIECE;
                ensure!(found[at..at + PIECE] == trees::noise(number, PIECE), "piece {number}");
            }
            ensure!(std::fs::read(dir.join("before"))? == b"before");
            Ok(())
        };
        holds(&place.dir)?;
        cluster.kill(1)?;
        cluster.start()?;
        place.is(&id, "open")?;
        holds(&place.dir).context("after a restart")?;
        place.txn(&["commit", &id])?.ok()?;
        holds(&cluster.mount(2)).context("committed")?;
        place.no_trace()
    })
}

/// Directories that no other test round has used.
static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

/// Nodes that may hold their breath for some seconds without another one leading.
fn patient(cluster: &Cluster) -> Result<()> {
    cluster.halt()?;
    for node in cluster.ids() {
        let config = cluster.config(node);
        let text = std::fs::read_to_string(&config)?;
        let ours = |line: &&str| !["[tuning]", "election_ms", "term_ms"].iter().any(|begin| line.starts_with(begin));
        let rest: Vec<&str> = text.lines().filter(ours).collect();
        std::fs::write(&config, format!("{}\n[tuning]\nelection_ms = 4000\nterm_ms = 10000\n", rest.join("\n")))?;
    }
    cluster.start()
}

/// A node that does not lead, and a transaction there, in a directory of which no other node holds leases: its commit is one message.
struct Away<'c> {
    cluster: &'c Cluster,
    /// Its process.
    pid: u32,
    dir: String,
    others: Vec<u64>,
    /// Their processes: who is stopped can't be asked for it.
    pids: Vec<u32>,
    place: Place<'c>,
    id: String,
    session: Value,
}

impl<'c> Away<'c> {
    fn new(cluster: &'c Cluster) -> Result<Away<'c>> {
        let (leader, node) = (cluster.leader()?, cluster.follower()?);
        let third = cluster.ids().find(|id| ![leader, node].contains(id)).context("three nodes")?;
        let place = Place::of(cluster, node)?;
        let dir = format!("d{}", DIRECTORIES.fetch_add(1, Ordering::Relaxed));
        std::fs::create_dir(cluster.mount(node).join(&dir))?;
        std::fs::write(cluster.mount(node).join(&dir).join("f"), "before")?;
        settle(&cluster.mount(node))?;
        let id = place.begin()?;
        std::fs::write(place.dir.join(&dir).join("f"), &id)?;
        std::fs::write(place.dir.join(&dir).join("large"), trees::noise(id.len() as u64, LARGE))?;
        let session = cluster.state(node).context("it answers")?.status["node"]["session"].clone();
        // Its bytes are on a majority: the commit goes out at once.
        std::thread::sleep(Duration::from_secs(1));
        let (others, pid) = (vec![leader, third], cluster.pid(node)?);
        let pids = others.iter().map(|node| cluster.pid(*node)).collect::<Result<_>>()?;
        Ok(Away { cluster, pid, dir, others, pids, place, id, session })
    }

    fn commit(&self) -> Result<Child> {
        let mut command = self.place.command(&["commit", &self.id, "--json"]);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn mount(&self) -> PathBuf {
        self.cluster.mount(self.others[0])
    }

    fn commits(&self) -> Result<Vec<Value>> {
        commits(self.place.gavel, &self.mount(), &self.id)
    }

    /// The commit goes out while the others hold their breath; `then` is done to the node, and the others go on. Gives the commit, and as what they have
    /// committed it, if they have.
    fn commit_and(&self, then: impl FnOnce() -> Result<()>) -> Result<(Child, Option<String>)> {
        self.pids.iter().try_for_each(|pid| process::signal(*pid, Signal::STOP))?;
        let journal = self.place.journals.join(format!("{}.journal", self.id));
        let len = || std::fs::metadata(&journal).map_or(0, |found| found.len());
        let before = len();
        let commit = self.commit();
        let out = wait::until("the journal says that it is being committed", Duration::from_secs(1), || len() > before);
        std::thread::sleep(Duration::from_millis(500));
        let done = then();
        self.pids.iter().try_for_each(|pid| process::signal(*pid, Signal::CONT))?;
        out.and(done)?;
        // Until then the directory is the node's own, and nobody else can look at it.
        self.session_ends()?;
        let committed = self.commits()?.first().and_then(|line| line["tid"].as_str()).map(str::to_owned);
        Ok((commit?, committed))
    }

    fn session_ends(&self) -> Result<()> {
        wait::until("the session of the node that is away has ended", SESSION_ENDS, || {
            let sessions = self.cluster.state(self.others[0]).map(|state| state.status["node"]["sessions"].clone());
            let all = sessions.as_ref().and_then(Value::as_array);
            all.is_some_and(|all| all.iter().all(|one| one["id"] != self.session))
        })
    }

    /// Exactly once, on all nodes.
    fn is_done_once(&self) -> Result<()> {
        self.cluster.settle()?;
        for mount in self.cluster.all_mounts() {
            let dir = mount.join(&self.dir);
            ensure!(std::fs::read(dir.join("f"))? == self.id.as_bytes(), "{}", dir.display());
            ensure!(std::fs::read(dir.join("large"))? == trees::noise(self.id.len() as u64, LARGE));
        }
        ensure!(self.commits()?.len() == 1, "{:?}", self.commits()?);
        self.place.no_trace()
    }

    /// What the commit says must be so; one that was not done can be done.
    fn is_as_told(&self, commit: Child, committed: Option<String>) -> Result<()> {
        let told = wait::within("the commit is told", PATIENCE, move || commit.wait_with_output())??;
        if told.status.code() != Some(0) {
            ensure!(committed.is_none(), "it was committed at {committed:?}, and told {told:?}");
            ensure!(String::from_utf8_lossy(&told.stderr).contains("nothing was written"), "{told:?}");
            ensure!(self.commits()?.is_empty());
            self.cluster.settle()?;
            self.place.txn(&["commit", &self.id])?.ok()?;
            return self.is_done_once();
        }
        let end: Value = serde_json::from_slice(&told.stdout)?;
        ensure!(committed.is_none_or(|tid| end["committed"]["tid"] == tid.as_str()), "{end}");
        self.place.txn(&["commit", &self.id])?.refused(&["has ended", "committed at"])?;
        self.is_done_once()
    }
}

/// How often a node is stopped while it commits, until that was done in its absence: the leader may just have changed.
const TRIES: u32 = 5;

#[test]
fn a_commit_that_was_done_while_its_session_ended_is_told_as_committed_once() -> Result<()> {
    with_cluster(3, |cluster| {
        patient(cluster)?;
        let mut found_out = false;
        for _ in 0..TRIES {
            let away = Away::new(cluster)?;
            let (commit, committed) = away.commit_and(|| process::signal(away.pid, Signal::STOP))?;
            // More than the log keeps for those who are away: the node will not read there what became of its commit, and has to look.
            let dd = "dd if=/dev/urandom of=filler bs=16k count=6000 conv=fsync 2>/dev/null; rm filler";
            command::shell(&away.mount(), dd, PATIENCE)?;
            process::signal(away.pid, Signal::CONT)?;
            let done = committed.is_some();
            away.is_as_told(commit, committed)?;
            found_out |= done;
            if done {
                break;
            }
        }
        ensure!(found_out, "no commit was done in its node's absence");
        // At whatever moment it is stopped: what is told is so.
        let mut dice = Dice::new(seed());
        for _ in 0..3 {
            let away = Away::new(cluster)?;
            let commit = away.commit()?;
            std::thread::sleep(Duration::from_millis(dice.below(60) as u64));
            process::signal(away.pid, Signal::STOP)?;
            let ended = away.session_ends();
            process::signal(away.pid, Signal::CONT)?;
            ended?;
            away.is_as_told(commit, None)?;
        }
        Ok(())
    })
}

#[test]
fn killed_while_it_commits_it_is_found_out_when_the_node_starts() -> Result<()> {
    with_cluster(3, |cluster| {
        patient(cluster)?;
        // Done, and the node does not hear of it.
        let mut found_out = false;
        for _ in 0..TRIES {
            let away = Away::new(cluster)?;
            let (mut commit, committed) = away.commit_and(|| process::kill(away.pid))?;
            commit.wait()?;
            cluster.start()?;
            let Some(tid) = committed else {
                // The leader that was to do it does not lead any more.
                away.place.is(&away.id, "open")?;
                away.place.txn(&["abort", &away.id])?.ok()?;
                continue;
            };
            let line = away.place.is(&away.id, "committed")?;
            ensure!(
                line["notices"][0].as_str().is_some_and(|notice| notice.contains(&tid)),
                "{line}, and it was {tid}"
            );
            away.place.txn(&["status", &away.id])?.refused(&["has ended", &tid])?;
            away.is_done_once()?;
            found_out = true;
            break;
        }
        ensure!(found_out, "no commit was done in its node's absence");
        // Not done: the others are not there.
        let away = Away::new(cluster)?;
        cluster.kill_at_once(&away.others)?;
        let mut commit = away.commit()?;
        std::thread::sleep(Duration::from_millis(500));
        process::kill(away.pid)?;
        commit.wait()?;
        cluster.start()?;
        away.place.is(&away.id, "open")?;
        ensure!(away.commits()?.is_empty());
        ensure!(std::fs::read(away.place.dir.join(&away.dir).join("f"))? == away.id.as_bytes());
        away.place.txn(&["commit", &away.id])?.ok()?;
        away.is_done_once()
    })
}
