//! Every decoder under a few thousand inputs, the same on every machine. GAVEL_FUZZ_ROUNDS=N for more.

use gavel_fuzz::{TARGETS, Target, mutate};

/// So that a debug build takes seconds.
const ROUNDS: u64 = 3000;

/// Says which input it was when a test fails under it.
struct Witness<'a> {
    target: &'static str,
    what: String,
    input: &'a [u8],
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("target {}, {}: {} bytes\n{hex}", self.target, self.what, self.input.len());
        }
    }
}

fn run(target: Target, what: String, input: &[u8]) -> bool {
    let _witness = Witness { target: target.name, what, input };
    (target.run)(input)
}

fn rounds() -> u64 {
    match std::env::var("GAVEL_FUZZ_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("GAVEL_FUZZ_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

fn stands(name: &str) {
    let target = *TARGETS.iter().find(|target| target.name == name).expect("a target");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty() && seeds == (target.seeds)(), "seeds are the same each time");
    for (number, seed) in seeds.iter().enumerate() {
        run(target, format!("seed {number}"), seed);
    }
    let accepted = (0..rounds()).filter(|round| run(target, format!("round {round}"), &mutate::input(&seeds, *round)));
    let accepted = accepted.count() as u64;
    // All or nothing accepted: then only one side of the decoders was tried.
    assert!((rounds() / 100..rounds()).contains(&accepted), "{accepted} of {} accepted", rounds());
}

#[test]
fn access_control_lists() {
    stands("acl");
}

#[test]
fn blob_directories() {
    stands("blobs");
}

#[test]
fn journals_of_transactions() {
    stands("journal");
}

#[test]
fn log_directories() {
    stands("log");
}

#[test]
fn folders_of_backups() {
    stands("backup");
}

#[test]
fn streams_to_mirrors() {
    stands("mirror");
}

#[test]
fn frames_and_greetings() {
    stands("net");
}

#[test]
fn messages_of_the_replicated_log() {
    stands("quorum");
}

#[test]
fn replicated_state() {
    stands("state");
}

#[test]
fn configuration_requests_and_certificates() {
    stands("texts");
}

#[test]
fn entries_messages_versions_and_keys() {
    stands("wire");
}

/// Otherwise the rounds above start from nothing.
#[test]
fn every_seed_is_accepted() {
    for target in TARGETS {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            assert!(run(target, format!("seed {number}"), seed), "{}: seed {number} is refused", target.name);
        }
    }
}
