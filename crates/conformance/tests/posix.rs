//! What a POSIX filesystem must do, by the suites that others have written: pjdfstest and fsx.
//!
//! `./test` installs them (`cargo install pjdfstest --version 0.2.2`, `cargo install fsx --version 0.3.2`) and names them in
//! PJDFSTEST and FSX; without these variables they are looked for in PATH.

use anyhow::{Context, Result, bail, ensure};
use gavel_conformance::cluster::with_cluster;
use gavel_conformance::{command, machine};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PJDFSTEST_PATIENCE: Duration = Duration::from_secs(300);
const FSX_PATIENCE: Duration = Duration::from_secs(120);

/// What came of each test that did not pass: `skip` or `fail`.
type Unpassed = BTreeMap<String, &'static str>;

#[test]
fn pjdfstest_finds_nothing_new() -> Result<()> {
    let Some(pjdfstest) = machine::program("pjdfstest", "PJDFSTEST") else { return Ok(()) };
    with_cluster(3, |cluster| {
        let room = Path::new(env!("CARGO_MANIFEST_DIR"));
        // Another filesystem, to see that links and renames do not go across: the cluster's own directory is on one.
        let secondary = cluster.scratch().join("secondary");
        std::fs::create_dir(&secondary)?;
        let mut run = Command::new(&pjdfstest);
        run.env("NO_COLOR", "1").arg("-c").arg(room.join("pjdfstest.toml"));
        run.arg("-p").arg(cluster.mount(1)).arg("-s").arg(&secondary);
        let ran = command::run(run, PJDFSTEST_PATIENCE)?;
        let (passed, found) = read_output(&ran.stdout);
        let expected = read_expected(&std::fs::read_to_string(room.join("pjdfstest.expected"))?)?;
        println!("pjdfstest: {passed} passed, {} did not", found.len());
        let new: Vec<_> = found.iter().filter(|(name, what)| expected.get(*name) != Some(what)).collect();
        ensure!(new.is_empty(), "not expected: {new:?}\n{}\n{}", ran.stdout, ran.stderr);
        let gone: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
        ensure!(gone.is_empty(), "these pass now: take them out of pjdfstest.expected: {gone:?}");
        ensure!(passed > 350, "only {passed} tests have passed: is this pjdfstest 0.2.2?\n{}", ran.stderr);
        Ok(())
    })
}

/// How many have passed, and what came of the others. A line is a name and a word; what else is printed is indented.
fn read_output(output: &str) -> (usize, Unpassed) {
    let mut passed = 0;
    let mut unpassed = Unpassed::new();
    for line in output.lines().filter(|line| line.contains("::") && !line.starts_with(char::is_whitespace)) {
        let Some((name, word)) = line.split_once(char::is_whitespace) else { continue };
        match word.trim() {
            "ok" => passed += 1,
            "skipped" => drop(unpassed.insert(name.to_owned(), "skip")),
            _ => drop(unpassed.insert(name.to_owned(), "fail")),
        }
    }
    (passed, unpassed)
}

fn read_expected(text: &str) -> Result<Unpassed> {
    let mut expected = Unpassed::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (entry, reason) = line.split_once('#').with_context(|| format!("pjdfstest.expected: no reason: {line}"))?;
        ensure!(!reason.trim().is_empty(), "pjdfstest.expected: no reason: {line}");
        match entry.split_whitespace().collect::<Vec<_>>()[..] {
            ["skip", name] => drop(expected.insert(name.to_owned(), "skip")),
            ["fail", name] => drop(expected.insert(name.to_owned(), "fail")),
            _ => bail!("pjdfstest.expected: neither skip nor fail: {line}"),
        }
    }
    Ok(expected)
}

#[test]
fn expectations_have_reasons() {
    assert!(read_expected("# nothing\n\nskip a::b  # because\n").is_ok_and(|all| all.len() == 1));
    for wrong in ["skip a::b", "skip a::b #", "pass a::b # because"] {
        assert!(read_expected(wrong).is_err(), "{wrong}");
    }
    let (passed, unpassed) = read_output("a::b    ok\nc::d   skipped\n\twhy::so ok\ne::f  FAILED\n");
    assert_eq!((passed, unpassed.len()), (1, 2));
}

/// Everything that fsx 0.3.2 can do on Linux.
const EVERYTHING: &str = "flen = 262144\n[opsize]\nmax = 65536\n[weights]\nclose_open = 1.0\ninvalidate = 1.0\n\
    mapread = 10.0\nmapwrite = 10.0\nread = 10.0\nwrite = 10.0\ntruncate = 5.0\nfsync = 1.0\nfdatasync = 1.0\n\
    posix_fallocate = 3.0\npunch_hole = 5.0\nsendfile = 3.0\nposix_fadvise = 1.0\ncopy_file_range = 5.0\n";
/// Without mappings; holes and truncations instead, in a larger file.
const HOLES: &str = "flen = 4000000\n[opsize]\nmax = 300000\n[weights]\nclose_open = 1.0\nmapread = 0.0\nmapwrite = 0.0\n\
    read = 10.0\nwrite = 10.0\ntruncate = 10.0\nposix_fallocate = 5.0\npunch_hole = 15.0\ncopy_file_range = 5.0\n";
/// Small operations, all within what a record holds itself.
const SMALL: &str = "flen = 16384\n[opsize]\nmax = 3000\n[weights]\nclose_open = 2.0\nmapread = 10.0\nmapwrite = 10.0\n\
    read = 10.0\nwrite = 20.0\ntruncate = 10.0\npunch_hole = 10.0\ncopy_file_range = 5.0\n";

fn fsx(rounds: &[(&str, &str, u64, u64)]) -> Result<()> {
    let Some(fsx) = machine::program("fsx", "FSX") else { return Ok(()) };
    with_cluster(3, |cluster| {
        for (name, config, seed, operations) in rounds {
            let file = cluster.scratch().join(format!("{name}.toml"));
            std::fs::write(&file, config)?;
            let mut run = Command::new(&fsx);
            run.arg("-q").arg("-f").arg(&file).arg("-P").arg(cluster.scratch());
            run.args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
            run.arg(cluster.mount(1 + seed % 3).join(format!("{name}-{seed}")));
            let ran = command::run(run, FSX_PATIENCE)?;
            ensure!(ran.code == Some(0), "{}: status {:?}\n{}\n{}", ran.line, ran.code, ran.stdout, ran.stderr);
        }
        Ok(())
    })
}

#[test]
fn fsx_with_mappings_and_holes() -> Result<()> {
    let everything = [1, 2, 3].map(|seed| ("everything", EVERYTHING, seed, 700));
    let small = [4, 5].map(|seed| ("small", SMALL, seed, 700));
    fsx(&[&everything[..], &small[..]].concat())
}

#[test]
fn fsx_without_mappings() -> Result<()> {
    fsx(&[6, 7].map(|seed| ("holes", HOLES, seed, 700)))
}

#[test]
#[ignore = "takes about half an hour"]
fn fsx_for_long() -> Result<()> {
    let rounds = (100..130).flat_map(|seed| {
        [("everything", EVERYTHING, seed, 3_000), ("small", SMALL, seed, 3_000), ("holes", HOLES, seed, 3_000)]
    });
    fsx(&rounds.collect::<Vec<_>>())
}
