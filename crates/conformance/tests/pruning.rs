//! States are pruned, mounted, and named by schedule, on real mounts (docs/operations/retention.md).

use anyhow::{Context, Result, bail, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::pasts::keeper::{as_tid, now_ns, tid_of};
use gavel_conformance::{command, mounts, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Everything is kept for so long at least.
const WHOLE: Duration = Duration::from_secs(10);
/// A mount that has ended lets go of its state within this: its node looks every 2 s, and believes it the third time.
const UNPINNED: Duration = Duration::from_secs(30);
const SECOND: u64 = 1_000_000_000;

fn gavel(cluster: &Cluster, words: &[&str]) -> Result<String> {
    command::run(cluster.gavel().command(words), PATIENCE)?.ok()
}

fn json(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&gavel(cluster, words)?)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("no {name} in {value}"))
}

fn name(cluster: &Cluster, node: u64, name: &str) -> Result<u64> {
    let said = gavel(cluster, &["snapshot", "create", text(&cluster.mount(node))?, name])?;
    said.split_whitespace().nth(2).context("no transaction").and_then(tid_of)
}

fn swept(cluster: &Cluster, mount: &str) -> Result<()> {
    wait::until("what was pruned is gone", PATIENCE, || {
        json(cluster, &["retention", "show", mount, "--json"]).is_ok_and(|said| said["sweeping"] == false)
    })
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

/// Eight states of a directory of ten files, each written anew in each; gives their Tids. The names of all but `named` are taken away.
fn states(cluster: &Cluster, named: usize) -> Result<Vec<u64>> {
    let mut tids = Vec::new();
    for state in 0..8 {
        let dir = cluster.mount(1 + state % 3).join("dir");
        if state == 0 {
            std::fs::create_dir(&dir)?;
        }
        for file in 0..10 {
            std::fs::write(dir.join(format!("f{file}")), format!("state {state} of {file}"))?;
        }
        File::open(&dir)?.sync_all()?;
        tids.push(name(cluster, 1 + state % 3, &format!("s{state}"))?);
    }
    for state in (0..8).filter(|state| *state != named) {
        gavel(cluster, &["snapshot", "delete", text(&cluster.mount(1))?, &format!("s{state}")])?;
    }
    Ok(tids)
}

/// Does this directory show that state?
fn shows(dir: &Path, state: usize) -> std::io::Result<bool> {
    let mut all = true;
    for file in 0..10 {
        all &= std::fs::read_to_string(dir.join(format!("f{file}")))? == format!("state {state} of {file}");
    }
    Ok(all && std::fs::read_dir(dir)?.count() == 10)
}

fn is_shown(dir: &Path, state: usize) -> Result<()> {
    ensure!(shows(dir, state).with_context(|| dir.display().to_string())?, "{} is not state {state}", dir.display());
    Ok(())
}

fn is_refused(dir: &Path) -> Result<()> {
    let found = errno(std::fs::symlink_metadata(dir));
    ensure!(found == Some(Errno::STALE), "{}: {found:?} and not ESTALE", dir.display());
    Ok(())
}

fn mount_at(cluster: &Cluster, node: u64, at: u64) -> Result<PathBuf> {
    let dir = cluster.scratch().join("then");
    std::fs::create_dir(&dir)?;
    let config = cluster.config(node);
    gavel(cluster, &["mount", "--config", text(&config)?, "--at", &as_tid(at), text(&dir)?])?;
    Ok(dir)
}

#[test]
fn what_goes_is_what_was_said_and_what_is_needed_stays() -> Result<()> {
    const NAMED: usize = 2;
    const MOUNTED: usize = 4;
    const OPEN: usize = 5;
    with_cluster(3, |cluster| {
        let tids = states(cluster, NAMED)?;
        let past = |node: u64, state: usize| cluster.mount(node).join(format!("dir@@{}", as_tid(tids[state])));
        let then = mount_at(cluster, 2, tids[MOUNTED])?;
        let open = File::open(past(3, OPEN))?;
        std::thread::sleep(WHOLE);
        let mount = cluster.mount(1);
        let mount = text(&mount)?;
        let said = json(cluster, &["retention", "set", mount, "nohistory", "--dry-run", "--json"])?;
        let would = &said["preview"];
        for state in 0..8 {
            is_shown(&past(1, state), state).context("only asked what would go")?;
        }
        gavel(cluster, &["retention", "set", mount, "nohistory"])?;
        gavel(cluster, &["retention", "prune", mount])?;
        swept(cluster, mount)?;
        let left = json(cluster, &["retention", "prune", mount, "--dry-run", "--json"])?;
        let (had, goes) = (number(would, "looked_at")?, number(would, "versions")?);
        let has = number(&left["preview"], "looked_at")?;
        println!("{had} versions had ended, {goes} of them were to go, {has} are left");
        ensure!(goes > 50 && had - goes == has, "said {would}, and now {left}");
        ensure!(number(&left["preview"], "versions")? == 0, "not all has gone that goes: {left}");
        for node in [2, 3] {
            is_shown(&past(node, NAMED), NAMED)?;
            is_shown(&cluster.mount(node).join("dir"), 7).context("the present")?;
            is_shown(&past(node, MOUNTED), MOUNTED)?;
            for state in [0, 1, 3, 6] {
                is_refused(&past(node, state))?;
            }
        }
        is_shown(&then.join("dir"), MOUNTED)?;
        // Nothing keeps it: what it shows is as it was, or nothing.
        let here = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        match shows(&here, OPEN) {
            Ok(as_it_was) => ensure!(as_it_was, "an open directory shows another state"),
            Err(error) => ensure!(errno::<()>(Err(error)) == Some(Errno::STALE), "an open directory"),
        }
        feeds(cluster, &tids, NAMED)?;
        mounts::take_off(&then);
        unpinned(cluster, mount)?;
        is_refused(&past(3, MOUNTED))?;
        is_shown(&past(3, NAMED), NAMED)
    })
}

/// Behind the end of the mount, the state that it needed goes.
/// What was pruned is shown by a kernel that keeps it for as long as a state stays whole, and not longer.
#[test]
fn what_was_pruned_goes_from_what_kernels_keep() -> Result<()> {
    with_cluster(3, |cluster| {
        let tids = states(cluster, 0)?;
        let mount = cluster.mount(2);
        let past = mount.join(format!("dir@@{}", as_tid(tids[3])));
        gavel(cluster, &["retention", "set", text(&mount)?, "nohistory"])?;
        is_shown(&past, 3)?;
        let mut unlisted = std::fs::read_dir(mount.join(format!("dir@@{}", as_tid(tids[4]))))?;
        std::thread::sleep(WHOLE);
        gavel(cluster, &["retention", "prune", text(&mount)?])?;
        let listed = unlisted.next().context("a pruned directory seems to be empty")?;
        ensure!(errno(listed.map(drop)) == Some(Errno::STALE), "what was pruned is listed");
        // Its kernel has names and attributes of all that was looked at; nothing but their times to live says that they go.
        wait::until("the pruned state is not shown any more", WHOLE + WHOLE, || is_refused(&past).is_ok())?;
        is_refused(&past.join("f3"))
    })
}

fn unpinned(cluster: &Cluster, mount: &str) -> Result<()> {
    wait::until("the state is not needed any more", UNPINNED, || {
        json(cluster, &["retention", "show", mount, "--json"]).is_ok_and(|said| said["pins"] == 0)
    })?;
    gavel(cluster, &["retention", "prune", mount])?;
    swept(cluster, mount)
}

/// Who goes on from a state that was pruned, or from one that stays but has lost what came behind it, is told so.
fn feeds(cluster: &Cluster, tids: &[u64], named: usize) -> Result<()> {
    let mount = cluster.mount(1);
    for state in [1, named] {
        let from = as_tid(tids[state]);
        let words = ["log", "--follow", "--json", "--from", &from, text(&mount)?];
        let ran = command::run(cluster.gavel().command(words), PATIENCE)?;
        ran.refused(&["pruned"]).with_context(|| format!("from state {state}"))?;
    }
    Ok(())
}

#[derive(Debug)]
struct Scheduled {
    name: String,
    tid: u64,
}

fn scheduled(cluster: &Cluster, mount: &str) -> Result<Vec<Scheduled>> {
    let all = json(cluster, &["snapshot", "list", mount, "--json"])?;
    let made = all.as_array().into_iter().flatten().filter(|line| line["scheduled"] == true);
    let line = |line: &Value| -> Result<Scheduled> {
        let name = line["name"].as_str().context("no name")?.to_owned();
        Ok(Scheduled { name, tid: line["tid"].as_str().context("no tid").and_then(tid_of)? })
    };
    made.map(line).collect()
}

/// The period, in nanoseconds, of `every 10s`.
const EVERY: u64 = 10 * SECOND;

#[test]
fn states_get_names_by_themselves_whoever_leads() -> Result<()> {
    with_cluster(3, |cluster| {
        let follower = cluster.follower()?;
        let mount = cluster.mount(follower);
        let mount = text(&mount)?;
        name(cluster, follower, "by-hand")?;
        let refused = cluster.gavel().run(["snapshot", "schedule", "set", mount, "every 9s keep 2"])?;
        refused.refused(&["10s at least"])?;
        let said = gavel(cluster, &["snapshot", "schedule", "set", mount, "every 10s keep 2; daily keep 7"])?;
        ensure!(said.contains("every 10s keep 2") && said.contains("daily keep 7"), "{said}");
        let mut seen: Vec<Scheduled> = Vec::new();
        let mut ticks = 0;
        let end = Instant::now() + Duration::from_secs(90);
        let mut killed = None;
        while seen.len() < 4 {
            ensure!(Instant::now() < end, "only {seen:?}");
            std::fs::write(Path::new(mount).join("ticks"), ticks.to_string())?;
            ticks += 1;
            let made = scheduled(cluster, mount)?;
            ensure!(made.len() <= 2, "more than two stay: {made:?}");
            for one in made {
                if !seen.iter().any(|other| other.name == one.name) {
                    println!("{one:?}");
                    seen.push(one);
                }
            }
            if seen.len() == 2 && killed.is_none() {
                let leader = cluster.leader()?;
                cluster.kill(leader)?;
                killed = Some(leader);
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        let periods: Vec<u64> = seen.iter().map(|one| one.tid / EVERY).collect();
        ensure!(periods.windows(2).all(|pair| pair[1] > pair[0]), "not one for each period: {seen:?}");
        ensure!(seen.windows(2).all(|pair| pair[1].name > pair[0].name), "names do not sort: {seen:?}");
        ensure!(seen.iter().all(|one| one.name.starts_with("every-10s-20")), "{seen:?}");
        // They are snapshots like any other, on every node.
        cluster.start()?;
        let newest = seen.last().context("none")?;
        let then =
            |node: u64| std::fs::read_to_string(cluster.mount(node).join(format!("ticks@@{}", as_tid(newest.tid))));
        ensure!(then(1)? == then(2)? && then(2)? == then(3)?, "nodes show different states");
        let cleared = gavel(cluster, &["snapshot", "schedule", "clear", mount])?;
        ensure!(cleared.contains("No snapshots are made"), "{cleared}");
        let left = scheduled(cluster, mount)?;
        let period = now_ns()? / EVERY;
        wait::until("the next period has begun", PATIENCE, || now_ns().is_ok_and(|now| now / EVERY > period))?;
        std::thread::sleep(Duration::from_secs(2));
        let now = scheduled(cluster, mount)?;
        ensure!(now.len() == left.len(), "made though there is no schedule: {now:?}");
        let list = gavel(cluster, &["snapshot", "list", mount])?;
        ensure!(list.contains("by-hand"), "what a person made is gone: {list}");
        Ok(())
    })
}

/// Versions of which a sweep finds that they go, in each round of the measurement.
const VERSIONS: usize = 100_000;
const FILES: usize = 1_000;
const ROUNDS: usize = 3;
/// A foreground call takes no longer than this for 99 of 100, sweeping or not: a debug build on a busy machine.
const P99_MAX: Duration = Duration::from_secs(2);

/// How long calls took.
#[derive(Default)]
struct Times {
    stat: Vec<Duration>,
    create: Vec<Duration>,
    write: Vec<Duration>,
}

impl Times {
    /// Makes files, writes them and looks at them, until `ends`.
    fn take(&mut self, dir: &Path, mut ends: impl FnMut() -> bool) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut number = self.create.len();
        let timed = |times: &mut Vec<Duration>, work: &mut dyn FnMut() -> std::io::Result<()>| -> Result<()> {
            let began = Instant::now();
            work()?;
            times.push(began.elapsed());
            Ok(())
        };
        while !ends() {
            for _ in 0..10 {
                let path = dir.join(format!("n{number}"));
                let mut made = None;
                timed(&mut self.create, &mut || File::create_new(&path).map(|file| made = Some(file)))?;
                let file = made.context("it was made")?;
                timed(&mut self.write, &mut || {
                    std::io::Write::write_all(&mut &file, &[7; 4096]).and_then(|()| file.sync_data())
                })?;
                timed(&mut self.stat, &mut || std::fs::metadata(dir.join(format!("n{}", number / 2))).map(drop))?;
                number += 1;
            }
        }
        Ok(())
    }

    fn told(&mut self) -> [(Duration, Duration); 3] {
        [&mut self.stat, &mut self.create, &mut self.write].map(|times| {
            times.sort_unstable();
            let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
            (at(50), at(99))
        })
    }
}

/// Many versions, each of another commit: all files get another time, again and again.
fn versions(dir: &Path) -> Result<()> {
    for round in 0..VERSIONS / FILES {
        for file in 0..FILES {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(round as u64 + 1);
            let path = dir.join(format!("f{file}"));
            File::options().create(true).truncate(false).write(true).open(path)?.set_modified(time)?;
        }
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[test]
#[ignore = "nightly: a measurement, takes some minutes"]
fn who_works_while_states_are_swept_is_not_held_up() -> Result<()> {
    with_cluster(3, |cluster| {
        let (mount, many) = (cluster.mount(1), cluster.mount(1).join("many"));
        let volume = text(&mount)?;
        std::fs::create_dir(&many)?;
        let (mut quiet, mut busy) = (Times::default(), Times::default());
        for round in 0..ROUNDS {
            versions(&many)?;
            std::thread::sleep(WHOLE);
            let said = json(cluster, &["retention", "set", volume, "nohistory", "--dry-run", "--json"])?;
            let goes = number(&said["preview"], "versions")?;
            let began = Instant::now();
            quiet.take(&mount.join("quiet"), || began.elapsed() > Duration::from_secs(15))?;
            gavel(cluster, &["retention", "set", volume, "nohistory"])?;
            gavel(cluster, &["retention", "prune", volume])?;
            gavel(cluster, &["retention", "set", volume, "keep everything"])?;
            let began = Instant::now();
            busy.take(&mount.join("busy"), || began.elapsed() > Duration::from_secs(15))?;
            let still = json(cluster, &["retention", "show", volume, "--json"])?["sweeping"] == true;
            wait::until("what was pruned is gone", Duration::from_secs(600), || {
                json(cluster, &["retention", "show", volume, "--json"]).is_ok_and(|said| said["sweeping"] == false)
            })?;
            println!(
                "round {round}: {goes} versions went in {:?}; behind the calls, some were left: {still}",
                began.elapsed()
            );
            if !still {
                bail!("the sweep was over before the calls: nothing was measured");
            }
        }
        let (quiet, busy) = (quiet.told(), busy.told());
        for (what, (quiet, busy)) in
            ["stat", "create", "write and fdatasync of 4 KiB"].iter().zip(quiet.iter().zip(&busy))
        {
            println!("{what}: p50 {:?}, p99 {:?}; while sweeping p50 {:?}, p99 {:?}", quiet.0, quiet.1, busy.0, busy.1);
            ensure!(busy.1 < P99_MAX, "{what}: p99 {:?} while states are swept", busy.1);
        }
        Ok(())
    })
}
