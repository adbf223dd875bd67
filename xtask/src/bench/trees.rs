//! A source tree: what unpacking, packing, searching and removing one costs, with the usual programs.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::inputs::{NEEDLE, archive, run as run_program};
use super::measure::{Measure, Unit};
use super::turn::{Turn, seconds};

/// untar, tar-warm, grep, tar-cold, rm-rf.
pub(super) fn run(turn: &Turn) -> Result<()> {
    let (archive, needles) = archive(turn)?;
    let tree = turn.home().join("src");
    let archive_bytes = archive.metadata()?.len();
    turn.step("untar", || {
        timed(|| run_program(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(turn.home())))
    })?;
    if turn.wants_any(&["tar-warm", "grep"]) {
        pack(&tree, archive_bytes)?;
    }
    turn.step_if_wanted("tar-warm", || timed(|| pack(&tree, archive_bytes)))?;
    turn.step_if_wanted("grep", || timed(|| search(&tree, needles)))?;
    turn.step_when_cold("tar-cold", || timed(|| pack(&tree, archive_bytes)))?;
    turn.step("rm-rf", || timed(|| run_program(Command::new("rm").arg("-rf").arg(&tree))))?;
    ensure!(!tree.exists(), "the tree is still there after removing it");
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Vec<Measure>> {
    let (took, _) = seconds(work)?;
    Ok(vec![Measure::new("", Unit::Seconds, took)])
}

/// Packs into a pipe: GNU tar does not read the files when it sees that the archive is `/dev/null`.
fn pack(tree: &Path, expected_bytes: u64) -> Result<()> {
    let parent = tree.parent().context("the tree has a parent")?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "-cf", "-", "-C"]).arg(parent).arg("src").stdout(Stdio::piped());
    let mut packing = tar.spawn().context("running tar")?;
    let mut packed = 0;
    if let Some(output) = &mut packing.stdout {
        let mut buffer = vec![0; 256 << 10];
        while let Some(read) = Some(output.read(&mut buffer)?).filter(|read| *read > 0) {
            packed += read as u64;
        }
    }
    let status = packing.wait()?;
    ensure!(status.success(), "tar: {status}");
    ensure!(packed == expected_bytes, "{packed} of {expected_bytes} bytes were packed");
    Ok(())
}

fn search(tree: &Path, needles: usize) -> Result<()> {
    let found = run_program(Command::new("grep").args(["-rlF", NEEDLE]).arg(tree).env("LC_ALL", "C"))?.lines().count();
    ensure!(found == needles, "{found} of {needles} files were found");
    Ok(())
}
