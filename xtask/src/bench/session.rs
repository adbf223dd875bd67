//! The order of turns, and what happens when one fails or hangs.
//!
//! Family by family, round by round, directory by directory (A B C A B C ...), so that drift of the machine hits all
//! alike. Each turn runs in a thread of its own: one that hangs in a mount that does not answer is left behind, and its
//! directory is not used any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::families::{FAMILIES, Family};
use super::measure::Measure;
use super::place::Place;
use super::turn::{Sizes, Told, Turn};

/// The longest line of an error in a table.
const ERROR_CHARS_MAX: usize = 600;

/// One run of the benchmark.
pub(super) struct Session {
    pub(super) places: Vec<Arc<Place>>,
    pub(super) rounds: u64,
    pub(super) only: BTreeSet<&'static str>,
    pub(super) sizes: Sizes,
    pub(super) scratch: PathBuf,
    /// How long a turn may go without a result.
    pub(super) limit: Duration,
}

/// One measurement with where it comes from.
pub(super) struct Sample {
    pub(super) id: &'static str,
    pub(super) place: usize,
    pub(super) round: u64,
    pub(super) measure: Measure,
    /// What the directory's daemons used meanwhile; with the first measurement of a step only.
    pub(super) daemon_cpu_seconds: Option<f64>,
}

/// All that came out.
pub(super) struct Results {
    pub(super) places: Vec<String>,
    pub(super) cold: Vec<&'static str>,
    pub(super) samples: Vec<Sample>,
    /// Workload and directory, and what went wrong first.
    pub(super) failures: BTreeMap<(&'static str, usize), String>,
    /// Workload and directory, and why it was not done.
    pub(super) skipped: BTreeMap<(&'static str, usize), String>,
    pub(super) peak_bytes: Vec<u64>,
}

/// How a turn ended.
enum End {
    Done,
    /// In which step, if it was one, and why.
    Failed(Option<&'static str>, String),
    Hung(String),
}

impl Session {
    /// Runs everything.
    pub(super) fn run(&self) -> Results {
        let mut results = Results {
            places: self.places.iter().map(|place| place.name.clone()).collect(),
            cold: self.places.iter().map(|place| place.cold_means()).collect(),
            samples: Vec::new(),
            failures: BTreeMap::new(),
            skipped: BTreeMap::new(),
            peak_bytes: vec![0; self.places.len()],
        };
        let mut hung: BTreeMap<usize, String> = BTreeMap::new();
        for family in FAMILIES.iter().filter(|family| family.ids.iter().any(|id| self.only.contains(id))) {
            self.run_family(family, &mut results, &mut hung);
        }
        for (at, place) in self.places.iter().enumerate() {
            results.peak_bytes[at] = place.usage().peak_bytes;
        }
        results
    }

    fn run_family(&self, family: &Family, results: &mut Results, hung: &mut BTreeMap<usize, String>) {
        let wanted: Vec<_> = family.ids.iter().copied().filter(|id| self.only.contains(id)).collect();
        let mut out = BTreeSet::new();
        for (at, place) in self.places.iter().enumerate() {
            if let Some(why) = hung.get(&at) {
                results.fail(&wanted, at, why);
                out.insert(at);
            } else if place.mounts.len() < family.mounts {
                results.skip(&wanted, at, &format!("needs {} mounts of the same tree", family.mounts));
                out.insert(at);
            }
        }
        for round in 1..=self.rounds {
            for (at, place) in self.places.iter().enumerate() {
                if out.contains(&at) {
                    continue;
                }
                let started = Instant::now();
                let seen = results.samples.len();
                let end = self.run_turn(family, at, place, round, results);
                progress(family, place, (round, self.rounds), started, &end);
                match end {
                    End::Done => {}
                    End::Failed(step, why) => {
                        results.fail(&missed(&wanted, step, &results.samples[seen..]), at, &why);
                        out.insert(at);
                    }
                    End::Hung(why) => {
                        results.fail(&wanted, at, &why);
                        hung.insert(at, format!("not run: the directory hung before ({why})"));
                        out.insert(at);
                    }
                }
            }
        }
    }

    fn run_turn(&self, family: &Family, at: usize, place: &Arc<Place>, round: u64, results: &mut Results) -> End {
        let (tell, told) = channel();
        let turn = Turn {
            place: Arc::clone(place),
            homes: place.mounts.iter().map(|mount| mount.join(home_name())).collect(),
            scratch: self.scratch.clone(),
            round,
            sizes: self.sizes,
            wanted: self.only.clone(),
            tell,
        };
        let run = family.run;
        std::thread::spawn(move || {
            let outcome = in_fresh_home(&turn, run);
            // Nobody listens any more once the session has given this turn up.
            let _ = turn.tell.send(Told::Over(outcome));
        });
        let mut last = "its preparation";
        let mut failed_in = None;
        loop {
            match told.recv_timeout(self.limit) {
                Ok(Told::Measured { id, measures, daemon_cpu_seconds }) => {
                    results.keep(id, at, round, measures, daemon_cpu_seconds);
                    last = id;
                }
                Ok(Told::FailedIn(id)) => failed_in = Some(id),
                Ok(Told::Skipped { id, reason }) => results.skip(&[id], at, &reason),
                Ok(Told::Over(Ok(()))) => return End::Done,
                Ok(Told::Over(Err(error))) => return End::Failed(failed_in, one_line(&error)),
                Err(RecvTimeoutError::Timeout) => {
                    let limit = self.limit.as_secs();
                    return End::Hung(format!("no result for {limit} s after {last}\nHint: --limit gives it more"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return End::Failed(failed_in, "the workload panicked".to_owned());
                }
            }
        }
    }
}

impl Results {
    fn keep(&mut self, id: &'static str, place: usize, round: u64, measures: Vec<Measure>, cpu: f64) {
        for (nth, measure) in measures.into_iter().enumerate() {
            let daemon_cpu_seconds = (nth == 0).then_some(cpu);
            self.samples.push(Sample { id, place, round, measure, daemon_cpu_seconds });
        }
    }

    fn fail(&mut self, ids: &[&'static str], place: usize, why: &str) {
        for id in ids {
            self.failures.entry((id, place)).or_insert_with(|| why.to_owned());
        }
    }

    fn skip(&mut self, ids: &[&'static str], place: usize, why: &str) {
        for id in ids {
            self.skipped.entry((id, place)).or_insert_with(|| why.to_owned());
        }
    }
}

/// What a failed turn leaves without a good figure: the step that failed, those that were not reached, and when it was in
/// cleaning up, the last one.
fn missed(wanted: &[&'static str], failed_in: Option<&'static str>, samples: &[Sample]) -> Vec<&'static str> {
    let good = |id: &&'static str| Some(*id) != failed_in && samples.iter().any(|sample| sample.id == *id);
    let missed: Vec<_> = wanted.iter().copied().filter(|id| !good(id)).collect();
    if missed.is_empty() { wanted.last().copied().into_iter().collect() } else { missed }
}

/// The directory that a turn works in; the process id keeps two benchmarks apart.
fn home_name() -> String {
    format!("bench-{}", std::process::id())
}

/// Runs the workload in a directory that is made for it and removed afterwards.
fn in_fresh_home(turn: &Turn, run: fn(&Turn) -> Result<()>) -> Result<()> {
    let home = turn.home();
    turn.place.check_mounted()?;
    remove(home)?;
    fs::create_dir(home).with_context(|| format!("making {}", home.display()))?;
    let outcome = run(turn);
    let removed = remove(home);
    outcome.and(removed)
}

/// Removes a directory with all that is in it; none is fine too.
fn remove(home: &Path) -> Result<()> {
    match fs::remove_dir_all(home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(anyhow!(error)).with_context(|| format!("removing {}", home.display()))
        }
        _ => Ok(()),
    }
}

fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").replace('\n', "; ");
    text.chars().take(ERROR_CHARS_MAX).collect()
}

fn progress(family: &Family, place: &Place, (round, rounds): (u64, u64), started: Instant, end: &End) {
    let how = match end {
        End::Done => String::new(),
        End::Failed(_, why) | End::Hung(why) => format!(" FAILED: {why}"),
    };
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("{} {round}/{rounds} {}: {seconds:.1} s{how}", family.ids[0], place.name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Unit;
    use crate::bench::place::Kind;

    fn session(mounts: &[&Path], limit: Duration) -> Session {
        let place = |(at, mount): (usize, &&Path)| {
            Arc::new(Place::new(&format!("p{at}"), vec![mount.to_path_buf()], Kind::Given(Vec::new())))
        };
        Session {
            places: mounts.iter().enumerate().map(place).collect(),
            rounds: 2,
            only: BTreeSet::from(["good", "bad"]),
            sizes: Sizes::quick(),
            scratch: PathBuf::new(),
            limit,
        }
    }

    fn results(session: &Session, family: &Family) -> Results {
        let none =
            Session { places: session.places.clone(), only: BTreeSet::new(), scratch: PathBuf::new(), ..*session };
        let mut results = none.run();
        session.run_family(family, &mut results, &mut BTreeMap::new());
        results
    }

    #[test]
    fn a_failure_is_reported_where_it_happened_and_stops_nothing_else() {
        let (broken, whole) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
        fs::write(broken.path().join("mark"), "").expect("a mark");
        let family = Family {
            ids: &["good", "bad"],
            about: "",
            mounts: 1,
            run: |turn| {
                let one = || Ok(vec![Measure::new("", Unit::Seconds, 1.0)]);
                turn.step("good", one)?;
                anyhow::ensure!(!turn.place.mount().join("mark").exists(), "broken here");
                turn.step("bad", one)
            },
        };
        let session = session(&[broken.path(), whole.path()], Duration::from_secs(60));
        let results = results(&session, &family);
        assert_eq!(results.failures, BTreeMap::from([(("bad", 0), "broken here".to_owned())]));
        let count = |id, place| results.samples.iter().filter(|s| s.id == id && s.place == place).count();
        assert_eq!((count("good", 0), count("bad", 0), count("good", 1), count("bad", 1)), (1, 0, 2, 2));
        let left = |directory: &Path| fs::read_dir(directory).expect("readable").count();
        assert_eq!((left(broken.path()), left(whole.path())), (1, 0));
    }

    #[test]
    fn a_workload_that_fails_in_its_second_step_has_failed() {
        let directory = tempfile::tempdir().expect("a");
        let family = Family {
            ids: &["bad", "good"],
            about: "",
            mounts: 1,
            run: |turn| {
                let one = || Ok(vec![Measure::new("", Unit::Seconds, 1.0)]);
                turn.step("bad", one)?;
                turn.step("bad", || anyhow::bail!("the second half"))?;
                turn.step("good", one)
            },
        };
        let results = results(&session(&[directory.path()], Duration::from_secs(60)), &family);
        assert_eq!(results.failures, ["bad", "good"].map(|id| ((id, 0), "the second half".to_owned())).into());
    }

    #[test]
    fn a_failure_after_the_last_step_is_not_lost() {
        let directory = tempfile::tempdir().expect("a");
        let family = Family {
            ids: &["good"],
            about: "",
            mounts: 1,
            run: |turn| {
                turn.step("good", || Ok(vec![Measure::new("", Unit::Seconds, 1.0)]))?;
                anyhow::bail!("something is left")
            },
        };
        let results = results(&session(&[directory.path()], Duration::from_secs(60)), &family);
        assert_eq!(results.failures, BTreeMap::from([(("good", 0), "something is left".to_owned())]));
    }

    #[test]
    fn a_directory_that_hangs_is_left_behind() {
        let directory = tempfile::tempdir().expect("a");
        let family = Family {
            ids: &["good"],
            about: "",
            mounts: 1,
            run: |_| loop {
                std::thread::park();
            },
        };
        let session = session(&[directory.path()], Duration::from_millis(50));
        let results = results(&session, &family);
        assert!(results.failures[&("good", 0)].starts_with("no result for"));
        assert!(results.samples.is_empty());
    }

    #[test]
    fn too_few_mounts_are_skipped() {
        let directory = tempfile::tempdir().expect("a");
        let family = Family { ids: &["good"], about: "", mounts: 2, run: |_| panic!("not to be run") };
        let results = results(&session(&[directory.path()], Duration::from_secs(60)), &family);
        assert!(results.skipped.contains_key(&("good", 0)) && results.failures.is_empty());
    }
}
