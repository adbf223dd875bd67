//! Two clusters in network namespaces, one of them a mirror of the other's first volume, for long: the source is busy and forgets its past, the link
//! between them is cut, nodes of either are killed and cut off. At every moment that is looked at, the mirror's state is what the source was then.
//!
//! `GAVEL_SEED=N` makes other choices than the usual ones; `GAVEL_MIRROR_SECONDS=N` has the faults go on for another time.

use anyhow::{Context, Result, bail, ensure};
use gavel_conformance::busy::{self, Busy, Roots};
use gavel_conformance::command::{self, Ran};
use gavel_conformance::dice::{self, Dice};
use gavel_conformance::pasts::look;
use gavel_conformance::wired::{Cluster, Door, PATIENCE, with_two};
use gavel_conformance::{machine, trees, wait};
use rustix::io::Errno;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// For how long there are faults, if nothing else is said.
const SECONDS: u64 = 60;
const SECONDS_VARIABLE: &str = "GAVEL_MIRROR_SECONDS";
/// Nodes of a quorum on both sides: whoever carries the mirror, and whoever serves it, may die while the rest goes on.
const NODES: (u64, u64) = (3, 3);
/// Bytes that nothing names are collected so soon: within the test, and within a cut.
const TUNING: &str = "collect_grace_ms = 5000";
/// What the source keeps: little. A cut may be longer than that and than `KEEP_FOR`, so that the mirror must go over a gap.
const SOURCE_KEEPS: &str = "keep everything 10s; 2s 40s";
const KEEP_FOR: &str = "6s";
/// What the mirror keeps. Its states are read while it moves on.
const MIRROR_KEEPS: &str = "keep everything 20s";
const PRUNE_EVERY: Duration = Duration::from_secs(3);
const CUT_MS_MAX: usize = 16_000;
/// Longer than both, and than the time between two prunings: the state that the mirror has is gone then, if nothing names it.
const LONG_CUT_MS: usize = 18_000;
const DEAD_MS_MAX: usize = 5_000;
const CALM_MS_MAX: usize = 4_000;
/// The directory that is changed.
const DIR: &str = "busy";
/// Fewer looks say nothing.
const LOOKS_MIN: u64 = 8;
/// How long the mirror may take to come to what the source is, when all is well again: a debug build, and a gap to go over.
const CATCH_UP: Duration = Duration::from_secs(90);

#[test]
fn a_mirror_is_its_source_as_of_its_state_while_both_are_in_trouble() -> Result<()> {
    if !machine::has_programs(&["tar"]) {
        return Ok(());
    }
    let seed = dice::seed();
    let seconds = std::env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    println!("GAVEL_SEED={seed}");
    with_two(NODES, TUNING, |source, copy| {
        let done = play(source, copy, seed, Duration::from_secs(seconds));
        done.with_context(|| format!("GAVEL_SEED={seed} GAVEL_MIRROR_SECONDS={seconds}"))
    })
}

fn play(source: &mut Cluster, copy: &mut Cluster, seed: u64, time: Duration) -> Result<()> {
    let begun = Instant::now();
    let first = prepare(source, copy)?;
    let sides = Arc::new(Sides::new(source, copy));
    let mut busy = start(&sides, source.scratch(), seed)?;
    let mut looking = Looking::start(&sides, seed)?;
    println!("prepared after {:?}", begun.elapsed());
    let mut faults = Faults { source, copy, sides: &sides, dice: Dice::new(seed), made: BTreeMap::new(), compared: 0 };
    let end = Instant::now() + time;
    let mut done = faults.long_cut();
    while done.is_ok() && Instant::now() < end {
        done = faults.one().and_then(|()| looking.failed());
    }
    let compared: usize = faults.source.ids().map(|node| comparisons(faults.source, node)).sum();
    let compared = compared + faults.compared;
    println!("{:?}; {}; compared {compared} times; {}", faults.made, busy.told(), looking.told());
    done?;
    busy.end()?;
    let found = same_now(source, copy, &sides);
    looking.end()?;
    found?;
    println!("all is well after {:?}; {}", begun.elapsed(), looking.told());
    let looks = looking.shared.same.load(Ordering::Relaxed);
    ensure!(looks >= LOOKS_MIN, "only {looks} states were compared");
    ensure!(compared > 0, "the mirror was never away for so long that its state was gone");
    ensure!(busy.done("random") > 100, "the source was hardly changed: {}", busy.told());
    let then = std::fs::read_dir(source.mount(1).join(format!(".@@{first}")));
    let errno = then.err().and_then(|error| Errno::from_io_error(&error));
    ensure!(errno == Some(Errno::STALE), "the source has not forgotten its first state, {first}: {errno:?}");
    Ok(())
}

/// The source has something, and the mirror follows it. Gives the first state that the mirror had.
fn prepare(source: &mut Cluster, copy: &mut Cluster) -> Result<String> {
    let root = source.mount(1).join(DIR);
    std::fs::create_dir(&root)?;
    busy::make_dirs(&root)?;
    std::fs::create_dir(root.join("build"))?;
    let tree = source.scratch().join("tree");
    std::fs::create_dir(&tree)?;
    trees::make(&tree, 40)?;
    command::shell(&tree, "tar -cf ../tree.tar .", PATIENCE)?;
    let (door, mount) = (source.door(), text(&source.mount(1))?);
    door.gavel(&["retention", "set", &mount, SOURCE_KEEPS])?.ok()?;
    door.gavel(&["retention", "set", "--dir", &text(&root.join("build"))?, "nohistory"])?.ok()?;
    let invitation = text(&source.scratch().join("copy.invitation"))?;
    let admit = ["mirror", "admit", "main", "--name", "copy", "--keep-for", KEEP_FOR, "--out", &invitation];
    door.through(1, &admit)?.ok()?;
    // `gavel mirror follow` asks the source whether the invitation is good, from here: it is the node that does, in its own network.
    ensure!(std::fs::metadata(&invitation)?.permissions().mode() & 0o077 == 0);
    copy.door().through(1, &["mirror", "follow", &invitation, "--into", "copy"])?.ok()?;
    let state = || state(&copy.door(), 1).ok().flatten();
    let first = wait::for_some("the whole copy is there", PATIENCE, state)?;
    copy.mounts_volume("copy")?;
    copy.door().gavel(&["retention", "set", &text(&copy.mount(1))?, MIRROR_KEEPS])?.ok()?;
    Ok(first)
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path of text")?.to_owned())
}

/// What a node says of the mirror.
fn status(door: &Door, node: u64) -> Result<Value> {
    let said = door.through(node, &["mirror", "status", "copy", "--json"])?.ok()?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

/// The state of the source that a node says the mirror shows; none: none yet.
fn state(door: &Door, node: u64) -> Result<Option<String>> {
    let status = status(door, node)?;
    let state = status["state"].as_str().context("a state")?;
    Ok((state != "0x0").then(|| state.to_owned()))
}

/// One of the two clusters, for all threads.
struct Side {
    door: Door,
    roots: Arc<Roots>,
    /// Grows when trouble begins, and when it is over: odd meanwhile. What is looked at then may fail.
    disturbed: AtomicU64,
}

/// Both, and how the one is reached from the other.
struct Sides {
    source: Side,
    copy: Side,
    /// Nobody is to look for a while: a look has the source keep the state.
    unseen: AtomicBool,
}

impl Side {
    fn new(cluster: &Cluster) -> Side {
        Side { door: cluster.door(), roots: Roots::new(cluster.mounts()), disturbed: AtomicU64::new(0) }
    }

    fn disturb(&self) {
        self.disturbed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Sides {
    fn new(source: &Cluster, copy: &Cluster) -> Sides {
        Sides { source: Side::new(source), copy: Side::new(copy), unseen: AtomicBool::new(false) }
    }

    /// How often there was trouble; none if there is some now.
    fn quiet(&self) -> Option<(u64, u64)> {
        let of = |side: &Side| Some(side.disturbed.load(Ordering::SeqCst)).filter(|count| count.is_multiple_of(2));
        Some((of(&self.source)?, of(&self.copy)?))
    }
}

/// The source is busy from now on.
fn start(sides: &Arc<Sides>, scratch: &Path, seed: u64) -> Result<Busy> {
    let (mut busy, roots) = (Busy::new(), &sides.source.roots);
    let pause = Duration::from_millis;
    for number in 1..=2 {
        let seed = seed.wrapping_mul(100) + number;
        busy.start("random", seed, pause(12), roots, |dice, _, root| busy::random(dice, &root.join(DIR)))?;
    }
    let archive = scratch.join("tree.tar");
    let door = sides.source.door.clone();
    busy.start("build", seed.wrapping_mul(100) + 3, pause(700), roots, move |dice, _, root| {
        let dir = root.join(DIR).join("build");
        let name = format!("b{}", dice.below(3));
        let script = busy::build_script(&archive, &name);
        match dice.below(6) {
            // Built in one transaction of a user's, which may be large enough to be staged.
            0 => {
                let run = ["txn", "run", "--", "sh", "-euc", &script];
                door.gavel_in(&dir, &run)?.ok().map(drop)
            }
            1 => {
                std::fs::remove_dir_all(dir.join(&name))?;
                trees::settle(&dir)?;
                door.gavel(&["undo", &text(&dir.join(&name))?])?.ok().map(drop)
            }
            _ => command::shell(&dir, &script, PATIENCE).map(drop),
        }
    })?;
    let door = sides.source.door.clone();
    busy.start("snapshots", seed.wrapping_mul(100) + 4, pause(400), roots, move |dice, _, root| {
        let (root, name) = (text(root)?, format!("s{}", dice.below(4)));
        // One that is there goes, and comes again later.
        if door.gavel(&["snapshot", "create", &root, &name])?.code != Some(0) {
            door.gavel(&["snapshot", "delete", &root, &name])?.ok()?;
        }
        Ok(())
    })?;
    let both = sides.clone();
    busy.start("prune", seed.wrapping_mul(100) + 5, PRUNE_EVERY, roots, move |dice, _, root| {
        both.source.door.gavel(&["retention", "prune", &text(root)?])?.ok()?;
        let (_, copy) = both.copy.roots.pick(dice).context("no mount of the mirror")?;
        both.copy.door.gavel(&["retention", "prune", &text(copy)?])?.ok().map(drop)
    })?;
    Ok(busy)
}

/// What is done to both.
struct Faults<'a> {
    source: &'a mut Cluster,
    copy: &'a mut Cluster,
    sides: &'a Arc<Sides>,
    dice: Dice,
    /// How often what was done.
    made: BTreeMap<&'static str, u64>,
    /// How often the source had to compare, by nodes that were killed since.
    compared: usize,
}

/// How often a node of the source has compared what is there with a state that was pruned, since it was started last.
fn comparisons(source: &Cluster, node: u64) -> usize {
    source.said(node).matches("what is there is compared with it").count()
}

impl Faults<'_> {
    /// Something happens, and is over again.
    fn one(&mut self) -> Result<()> {
        self.rest(CALM_MS_MAX);
        match self.dice.below(16) {
            0..=2 => self.cut(),
            3 | 4 => self.kill("a node of the source is killed", true, 1),
            5 | 6 => self.kill("a node of the mirror is killed", false, 1),
            7 | 8 => self.kill("all nodes of the mirror are killed", false, 3),
            9 | 10 => self.kill("a majority of the source is killed", true, 2),
            11 | 12 => self.cut_off(),
            13 | 14 => self.cut_and_kill(),
            _ => self.long_cut(),
        }
    }

    fn note(&mut self, what: &'static str) {
        *self.made.entry(what).or_default() += 1;
    }

    fn rest(&mut self, ms_max: usize) {
        std::thread::sleep(Duration::from_millis(self.dice.below(ms_max) as u64));
    }

    /// The link is cut, and restored.
    fn cut(&mut self) -> Result<()> {
        self.note("the link is cut");
        self.source.network.part()?;
        self.rest(CUT_MS_MAX);
        self.source.network.join()
    }

    /// The link is cut until the source has forgotten the state that the mirror has.
    fn long_cut(&mut self) -> Result<()> {
        self.note("the link is cut for long");
        self.sides.unseen.store(true, Ordering::SeqCst);
        self.source.network.part()?;
        std::thread::sleep(Duration::from_millis(LONG_CUT_MS as u64));
        self.rest(DEAD_MS_MAX);
        self.source.network.join()?;
        self.sides.unseen.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Meanwhile, nodes on both sides die and come back.
    fn cut_and_kill(&mut self) -> Result<()> {
        self.note("nodes are killed while the link is cut");
        self.source.network.part()?;
        let (of_source, of_copy) = (self.victims(true, 1), self.victims(false, 1));
        self.die(true, &of_source)?;
        self.die(false, &of_copy)?;
        self.rest(DEAD_MS_MAX);
        match self.dice.below(2) {
            0 => {
                self.source.network.join()?;
                self.rest(DEAD_MS_MAX);
                self.live(true, &of_source)?;
                self.live(false, &of_copy)
            }
            _ => {
                self.live(true, &of_source)?;
                self.live(false, &of_copy)?;
                self.rest(CUT_MS_MAX);
                self.source.network.join()
            }
        }
    }

    /// One node can't be reached by anybody.
    fn cut_off(&mut self) -> Result<()> {
        self.note("a node is cut off");
        let is_source = self.dice.below(2) == 0;
        let node = self.victims(is_source, 1)[0];
        self.side(is_source).disturb();
        self.side(is_source).roots.set(node, false);
        self.cluster(is_source).plug(node, false)?;
        self.rest(CUT_MS_MAX);
        self.cluster(is_source).plug(node, true)?;
        let cluster = self.cluster(is_source);
        wait::until("the node that was cut off takes part again", PATIENCE, || {
            cluster.status(node).is_ok_and(|status| status["quorum"] == true && status["session"].is_u64())
        })?;
        self.side(is_source).roots.set(node, true);
        self.side(is_source).disturb();
        Ok(())
    }

    fn kill(&mut self, what: &'static str, is_source: bool, count: u64) -> Result<()> {
        self.note(what);
        let nodes = self.victims(is_source, count);
        self.die(is_source, &nodes)?;
        self.rest(DEAD_MS_MAX);
        self.live(is_source, &nodes)
    }

    fn victims(&mut self, is_source: bool, count: u64) -> Vec<u64> {
        let mut nodes: Vec<u64> = self.cluster(is_source).ids().collect();
        self.dice.shuffle(&mut nodes);
        nodes.truncate(count as usize);
        nodes
    }

    fn cluster(&self, is_source: bool) -> &Cluster {
        if is_source { self.source } else { self.copy }
    }

    fn side(&self, is_source: bool) -> &Side {
        if is_source { &self.sides.source } else { &self.sides.copy }
    }

    fn die(&mut self, is_source: bool, nodes: &[u64]) -> Result<()> {
        self.side(is_source).disturb();
        nodes.iter().for_each(|node| self.side(is_source).roots.set(*node, false));
        if is_source {
            self.compared += nodes.iter().map(|node| comparisons(self.source, *node)).sum::<usize>();
        }
        nodes.iter().try_for_each(|node| self.cluster(is_source).kill(*node))
    }

    fn live(&mut self, is_source: bool, nodes: &[u64]) -> Result<()> {
        if is_source {
            self.source.restart(nodes)?
        } else {
            self.copy.restart(nodes)?
        }
        nodes.iter().for_each(|node| self.side(is_source).roots.set(*node, true));
        self.side(is_source).disturb();
        Ok(())
    }
}

/// What has come of a look.
enum Look {
    /// The mirror is what the source was as of this state.
    Same(u64),
    /// It could not be compared, and that may be; why.
    Again(&'static str),
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    same: AtomicU64,
    states: Mutex<BTreeSet<u64>>,
    again: Mutex<BTreeMap<&'static str, u64>>,
    failure: Mutex<Option<anyhow::Error>>,
}

/// A thread that compares the two, as of the state that the mirror has at the moment, again and again. Dropped, it is told to stop.
struct Looking {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Looking {
    fn start(sides: &Arc<Sides>, seed: u64) -> Result<Looking> {
        let shared = Arc::<Shared>::default();
        let (noted, sides) = (shared.clone(), sides.clone());
        let thread = std::thread::Builder::new().name("looking".into()).spawn(move || {
            let mut looker =
                Looker { sides, dice: Dice::new(seed.wrapping_mul(100) + 9), number: 0, names: Vec::new() };
            while !noted.stop.load(Ordering::Relaxed) {
                match looker.look() {
                    Ok(Look::Same(state)) => {
                        noted.same.fetch_add(1, Ordering::Relaxed);
                        locked(&noted.states).insert(state);
                    }
                    Ok(Look::Again(why)) => {
                        *locked(&noted.again).entry(why).or_default() += 1;
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    Err(error) => {
                        *locked(&noted.failure) = Some(error);
                        break;
                    }
                }
            }
        })?;
        Ok(Looking { shared, thread: Some(thread) })
    }

    fn failed(&self) -> Result<()> {
        locked(&self.shared.failure).take().map_or(Ok(()), Err)
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the thread that looks has panicked"))?;
        }
        self.failed()
    }

    fn told(&self) -> String {
        let (same, states) = (self.shared.same.load(Ordering::Relaxed), locked(&self.shared.states).len());
        format!("{same} looks at {states} states were the same; looked again: {:?}", locked(&self.shared.again))
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Looker {
    sides: Arc<Sides>,
    dice: Dice,
    number: u64,
    /// Names that were given to states of the source, and may be there still.
    names: Vec<String>,
}

impl Looker {
    /// Compares what some node of the mirror shows with what some node of the source shows as of the same state.
    fn look(&mut self) -> Result<Look> {
        let sides = self.sides.clone();
        let before = sides.quiet();
        if sides.unseen.load(Ordering::SeqCst) {
            if let Some((_, source)) = sides.source.roots.pick(&mut self.dice) {
                self.forget(&text(source)?)?;
            }
            return Ok(Look::Again("nobody is to look"));
        }
        let (Some((node, copy)), Some((_, source))) =
            (sides.copy.roots.pick(&mut self.dice), sides.source.roots.pick(&mut self.dice))
        else {
            return Ok(Look::Again("no node is there"));
        };
        let quiet = |sides: &Sides| before.is_some() && sides.quiet() == before;
        let state = match state(&sides.copy.door, node) {
            Ok(Some(state)) => state,
            Ok(None) => return Ok(Look::Again("nothing was received")),
            Err(error) if quiet(&sides) => return Err(error),
            Err(_) => return Ok(Look::Again("a node is away")),
        };
        let root = text(source)?;
        self.forget(&root)?;
        // It is not to be pruned while it is looked at.
        let name = format!("look-{}", self.number);
        self.number += 1;
        let named = sides.source.door.gavel(&["snapshot", "create", &root, &name, "--at", &state])?;
        self.names.push(name);
        if let Some(why) = unnamed(&named) {
            return Ok(Look::Again(why));
        }
        if named.code != Some(0) {
            return if quiet(&sides) { named.ok().map(|_| Look::Again("")) } else { Ok(Look::Again("a node is away")) };
        }
        let compared = self.compare(&state, source, copy);
        let is_quiet = quiet(&sides);
        match compared {
            Err(error) => may_be(&error, is_quiet).map(Look::Again).ok_or(error),
            Ok(()) => Ok(Look::Same(u64::from_str_radix(state.trim_start_matches("0x"), 16)?)),
        }
    }

    fn compare(&mut self, state: &str, source: &Path, copy: &Path) -> Result<()> {
        let then = format!(".@@{state}");
        let (source, copy) = (source.join(&then), copy.join(&then));
        let wanted = look::at(&source).context("the source")?;
        let found = look::at(&copy).context("the mirror")?;
        let place = || format!("{} and {}", source.display(), copy.display());
        look::same(&wanted, &found).map_err(|error| Differs(format!("{}: {error:#}", place())))?;
        // All times, and which names are of one file: the kernel has the rest of it still.
        if self.dice.below(3) == 0 {
            let wanted = trees::digest(&source).context("the source")?;
            let found = trees::digest(&copy).context("the mirror")?;
            ensure!(wanted == found, Differs(format!("{}: other digests", place())));
        }
        Ok(())
    }

    /// The names go that looks have given, as far as they can.
    fn forget(&mut self, root: &str) -> Result<()> {
        let door = &self.sides.source.door;
        let mut left = Vec::new();
        for name in self.names.drain(..) {
            let gone = door.gavel(&["snapshot", "delete", root, &name])?;
            if gone.code != Some(0) && !gone.stderr.contains("no snapshot") {
                left.push(name);
            }
        }
        self.names = left;
        Ok(())
    }
}

/// The two are not the same.
#[derive(Debug)]
struct Differs(String);

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Differs {}

/// Why a state of the source could not get a name, if that may be.
fn unnamed(ran: &Ran) -> Option<&'static str> {
    let said = |phrase: &str| ran.code != Some(0) && ran.stderr.contains(phrase);
    (said("not kept any more") || said("was pruned")).then_some("pruned at the source")
}

/// Why a look has failed, if that may be: a difference never may.
fn may_be(error: &anyhow::Error, is_quiet: bool) -> Option<&'static str> {
    if error.is::<Differs>() {
        return None;
    }
    let of = |who: &str| error.chain().any(|cause| cause.to_string() == who);
    // What tar says of it, it says in words.
    let (errno, words) = (look::errno(error), format!("{error:#}"));
    let is = |errno_is: Errno, phrase: &str| errno == Some(errno_is) || words.contains(phrase);
    match () {
        () if of("the mirror") && is(Errno::STALE, "Stale file handle") => Some("pruned at the mirror"),
        () if is(Errno::TIMEDOUT, "Connection timed out") => Some("no quorum"),
        () if !is_quiet => Some("a node is away"),
        () => None,
    }
}

/// Nothing is changed any more, and all nodes are there: every mount of the mirror comes to what the source is.
fn same_now(source: &Cluster, copy: &Cluster, sides: &Arc<Sides>) -> Result<()> {
    source.settle()?;
    let begun = Instant::now();
    let tree = source.mount(1);
    trees::settle(&tree)?;
    let wanted = trees::digest(&tree)?;
    let same = |copy: &PathBuf| trees::digest(copy).is_ok_and(|found| found == wanted);
    for node in copy.ids() {
        let mount = copy.mount(node);
        if wait::until("the mirror is what its source is", CATCH_UP, || same(&mount)).is_err() {
            let said = status(&sides.copy.door, node);
            look::same(&look::at(&tree)?, &look::at(&mount)?).with_context(|| format!("node {node}: {said:?}"))?;
            bail!("node {node}: other digests; {said:?}");
        }
    }
    println!("every node of the mirror shows what the source is after {:?}", begun.elapsed());
    look::same(&look::at(&tree)?, &look::at(&copy.mount(1))?)
}
