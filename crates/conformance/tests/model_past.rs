//! Random changes on three mounts, and every past state compared with a model that keeps them all (`gavel_conformance::pasts`):
//! at once, at the end, behind pruning, behind the death of nodes, behind an absence, behind a change of leader.
//!
//! `GAVEL_SEED=N` makes other choices than the usual ones; `GAVEL_PAST_SECONDS=N` plays for another time at night.

use anyhow::{Context, Result, ensure};
use gavel_conformance::cluster::{Cluster, PATIENCE, with_cluster};
use gavel_conformance::command;
use gavel_conformance::dice;
use gavel_conformance::machine;
use gavel_conformance::pasts::keeper::{Keeper, now_ns};
use gavel_conformance::pasts::look;
use gavel_conformance::pasts::player::Player;
use gavel_conformance::trees;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// How long the long one takes, if nothing else is said.
const LONG: Duration = Duration::from_secs(600);
const LONG_VARIABLE: &str = "GAVEL_PAST_SECONDS";
/// The directory in which everything happens.
const DIR: &str = "play";
/// What stays whole when it is pruned: the least that a policy may say.
const WHOLE: Duration = Duration::from_secs(10);
/// Of what is older, the last state of each of these stays.
const EVERY: Duration = Duration::from_secs(1);
/// A leader keeps 64 MiB of its log for those who are away, in segments of 16 MiB: so many bytes are more than that.
const CHURN_BYTES: usize = 112 << 20;
const CHURN_PIECE_BYTES: usize = 16 * 1024;
const CHURN_SYNCED: usize = 32;
/// Records are made durable at least every 30 s; only then can the log be cut off.
const FLUSHED: Duration = Duration::from_secs(35);

/// A cluster that is played with.
struct Game<'a> {
    cluster: &'a Cluster,
    player: Player,
    keeper: Keeper<'a>,
    away: Option<u64>,
    steps: u64,
}

impl<'a> Game<'a> {
    fn new(cluster: &'a Cluster, seed: u64) -> Result<Game<'a>> {
        let player = Player::new(&cluster.all_mounts(), DIR, seed)?;
        player.sync(1)?;
        Ok(Game { cluster, player, keeper: Keeper::new(cluster, DIR), away: None, steps: 0 })
    }

    fn nodes(&self) -> Vec<u64> {
        self.cluster.ids().filter(|node| Some(*node) != self.away).collect()
    }

    fn some_node(&mut self) -> u64 {
        let nodes = self.nodes();
        *self.player.dice().pick(&nodes)
    }

    fn some_state(&mut self) -> usize {
        let count = self.keeper.states.len();
        self.player.dice().below(count)
    }

    /// Some operations, and a name for the state behind them: through one mount, or through all in turn. What one node has
    /// answered is in its own snapshots without more ado.
    fn burst(&mut self) -> Result<()> {
        let steps = 1 + self.player.dice().below(6);
        let (alone, turns) = (self.some_node(), self.player.dice().below(2) == 0);
        let mut names = alone;
        self.keeper.changes_begin()?;
        for _ in 0..steps {
            let node = if turns { self.some_node() } else { alone };
            self.player.step(node)?;
            self.steps += 1;
        }
        if turns {
            self.nodes().into_iter().try_for_each(|node| self.player.sync(node))?;
            names = self.some_node();
        }
        self.keeper.name(names, &self.player.model)?;
        if self.player.dice().below(3) == 0 {
            let last = self.keeper.states.len() - 1;
            let (node, state) = (self.some_node(), self.some_state());
            self.keeper.check(node, last)?;
            self.keeper.check(node, state)?;
        }
        Ok(())
    }

    fn bursts(&mut self, count: usize) -> Result<()> {
        (0..count).try_for_each(|_| self.burst())
    }

    /// What there is now is what the model has, on every mount.
    fn check_present(&self) -> Result<()> {
        for node in self.nodes() {
            let found = look::at(&self.cluster.mount(node).join(DIR))?;
            look::same(&self.player.model.sight(), &found).with_context(|| format!("now, on node {node}"))?;
        }
        Ok(())
    }

    fn check_all(&mut self) -> Result<()> {
        let nodes = self.nodes();
        self.keeper.check_all(&nodes)
    }

    /// SIGKILL.
    fn leaves(&mut self, node: u64) -> Result<()> {
        self.cluster.kill(node)?;
        self.away = Some(node);
        self.cluster.leader().map(drop)
    }

    /// It is started again, and shows everything, though its kernel has not seen any of it.
    fn comes_back(&mut self) -> Result<()> {
        let Some(node) = self.away.take() else { return Ok(()) };
        self.cluster.start()?;
        self.cluster.settle()?;
        self.keeper.remounted(node);
        self.keeper.check_all(&[node]).with_context(|| format!("node {node} is back"))
    }

    /// Every second name goes, and then all states that neither have a name nor are the last ones of their second.
    fn prune(&mut self) -> Result<()> {
        let node = self.some_node();
        for number in (0..self.keeper.states.len()).filter(|number| number % 2 == 1) {
            self.keeper.drop_name(node, number)?;
        }
        // All of these are to be before the horizon.
        let last = self.keeper.states.last().context("there are states")?.tid;
        let old = Duration::from_nanos(now_ns()?.saturating_sub(last));
        std::thread::sleep(WHOLE.saturating_sub(old));
        self.keeper.prune(node, WHOLE, EVERY)
    }

    /// So much is written that the log does not reach back to what was before.
    fn churn(&mut self) -> Result<()> {
        let node = self.some_node();
        let began = Instant::now();
        let path = self.cluster.mount(node).join("churn");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
        for piece in 0..CHURN_BYTES / CHURN_PIECE_BYTES {
            let at = piece % CHURN_SYNCED * CHURN_PIECE_BYTES;
            file.write_all_at(&trees::noise(piece as u64, CHURN_PIECE_BYTES), at as u64).context("churning")?;
            // Not more than a slow node commits within the time that a call waits.
            if at == 0 {
                file.sync_all().context("churning")?;
            }
        }
        std::thread::sleep(FLUSHED.saturating_sub(began.elapsed()));
        // A flush comes with something that is to be flushed.
        file.write_all_at(b"more", 0)?;
        Ok(file.sync_all()?)
    }

    /// The first and the last segment of a node's log (docs/formats/log.md).
    fn segments(&self, node: u64) -> Result<(u64, u64)> {
        let script = "find . -name '????????????????.log' -printf '%f\n' | sort | sed -n '1p;$p'";
        let found = command::shell(&self.cluster.home(node), script, PATIENCE)?;
        let numbers = found.lines().map(|name| u64::from_str_radix(name.trim_end_matches(".log"), 16));
        let numbers = numbers.collect::<Result<Vec<_>, _>>().with_context(|| found.clone())?;
        let last = numbers.last().with_context(|| format!("node {node} has no log"))?;
        Ok((numbers[0], *last))
    }

    fn tars(&self, number: usize) -> Result<Vec<String>> {
        if !machine::has_programs(&["tar"]) {
            return Ok(Vec::new());
        }
        let sums = self.nodes().into_iter().map(|node| self.keeper.tar(node, number)).collect::<Result<Vec<_>>>()?;
        ensure!(sums.iter().all(|sum| *sum == sums[0]), "tar of state {number}: {sums:?}");
        Ok(sums)
    }

    /// One round: changes, an absence, a new leader, pruning, an absence over the pruning.
    fn round(&mut self, bursts: usize, churn: bool) -> Result<()> {
        self.bursts(bursts)?;
        let kept = self.keeper.states.len() / 2 * 2 - 2;
        self.check_all().context("behind changes")?;
        let sums = self.tars(kept)?;
        self.leaves(self.cluster.follower()?)?;
        self.bursts(bursts / 2)?;
        self.comes_back().context("a follower was killed")?;
        self.leaves(self.cluster.leader()?)?;
        self.bursts(bursts / 2)?;
        self.check_all().context("behind a change of leader")?;
        self.comes_back().context("a leader was killed")?;
        self.leaves(self.cluster.follower()?)?;
        let leader = self.cluster.leader()?;
        let (_, last) = self.segments(leader)?;
        self.prune()?;
        self.check_all().context("behind pruning")?;
        if churn {
            self.churn()?;
            // What the one who is away has not got is not in the log any more: it must copy.
            let (first, _) = self.segments(leader)?;
            ensure!(first > last, "the log reaches back to segment {first}, which was {last}");
        }
        self.bursts(bursts / 2)?;
        self.comes_back().context("a node was away while states were pruned")?;
        self.check_all().context("at the end")?;
        self.check_present()?;
        let again = self.tars(kept)?;
        ensure!(sums == again, "tar of state {kept}, earlier {sums:?} and later {again:?}");
        Ok(())
    }

    fn told(&self) -> String {
        let Keeper { compared, refused, states, .. } = &self.keeper;
        format!("{} operations, {} states; {compared} compared, {refused} refused", self.steps, states.len())
    }
}

fn with_game(body: impl FnOnce(&mut Game<'_>) -> Result<()>) -> Result<()> {
    let seed = dice::seed();
    println!("GAVEL_SEED={seed}");
    with_cluster(3, |cluster| {
        let mut game = Game::new(cluster, seed)?;
        let done = body(&mut game);
        println!("{}", game.told());
        done.with_context(|| format!("GAVEL_SEED={seed}, behind {}", game.told()))?;
        ensure!(game.keeper.refused > 0, "no state was pruned: {}", game.told());
        cluster.settle()
    })
}

#[test]
fn every_past_state_is_what_a_model_says_it_was() -> Result<()> {
    with_game(|game| game.round(20, false))
}

#[test]
#[ignore = "nightly: takes ten minutes"]
fn every_past_state_is_what_a_model_says_it_was_for_long() -> Result<()> {
    let seconds = std::env::var(LONG_VARIABLE).ok().and_then(|text| text.parse().ok());
    with_game(|game| {
        let end = Instant::now() + seconds.map_or(LONG, Duration::from_secs);
        let mut churn = true;
        while Instant::now() < end {
            game.round(24, churn)?;
            println!("{}", game.told());
            churn = false;
        }
        Ok(())
    })
}
