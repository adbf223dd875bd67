//! What workloads work on: made from the seed, on the scratch disk, once a round.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::random::Random;
use super::turn::Turn;

/// What inputs are for; the number keeps their streams apart.
pub(super) mod purpose {
    pub(in crate::bench) const TREE: u64 = 1;
    pub(in crate::bench) const SEQUENCE: u64 = 2;
    pub(in crate::bench) const RANDOM: u64 = 3;
    pub(in crate::bench) const SYNC: u64 = 4;
    pub(in crate::bench) const REPOSITORY: u64 = 5;
}

/// The spread of file sizes: with 1.5, the middle file of a tree with a mean of 10 kB has 3.2 kB, and one in a hundred more
/// than 100 kB, like the source trees of a kernel or a browser.
const SIZE_SIGMA: f64 = 1.5;

/// Files in one directory of a tree.
const FILES_PER_DIRECTORY: usize = 25;

/// What `grep` looks for; it stands in every [`NEEDLE_EVERY`]th file.
pub(super) const NEEDLE: &str = "the needle in this haystack";
const NEEDLE_EVERY: usize = 50;

const WORDS: [&str; 16] = [
    "commit", "quorum", "record", "volume", "lease", "return", "struct", "static", "length", "buffer", "if", "else",
    "for", "while", "(x, y)", "= 0;",
];

/// Sizes from a log-normal distribution that sum up to `total`, as nearly as whole bytes can.
pub(super) fn sizes(random: &mut Random, files: usize, total: u64) -> Vec<u64> {
    let shares: Vec<f64> = (0..files).map(|_| (SIZE_SIGMA * random.normal()).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| (share / sum * total as f64).round() as u64).collect()
}

/// Writes a source tree; answers with how many files hold the needle.
pub(super) fn write_tree(root: &Path, random: &mut Random, files: usize, total: u64) -> Result<usize> {
    let mut needles = 0;
    for (number, size) in sizes(random, files, total).into_iter().enumerate() {
        let path = root.join(tree_path(number));
        if let Some(directory) = path.parent()
            && number % FILES_PER_DIRECTORY == 0
        {
            fs::create_dir_all(directory)?;
        }
        let mut file = BufWriter::new(File::create(&path)?);
        let mut left = size;
        if number % NEEDLE_EVERY == 0 {
            writeln!(file, "// {NEEDLE}")?;
            left = left.saturating_sub(NEEDLE.len() as u64 + 4);
            needles += 1;
        }
        write_text(&mut file, random, left)?;
        file.flush()?;
    }
    Ok(needles)
}

/// Three levels, like `src/04/module_017/file_00117.c`.
fn tree_path(number: usize) -> PathBuf {
    let directory = number / FILES_PER_DIRECTORY;
    PathBuf::from(format!("src/{:02}/module_{directory:03}/file_{number:05}.c", directory / 10))
}

/// Text that compresses about as well as source code does, in lines.
fn write_text(file: &mut impl Write, random: &mut Random, mut left: u64) -> Result<()> {
    while left > 0 {
        let number = random.number();
        let words: Vec<_> = (0..8).map(|at| WORDS[(number >> (8 * at)) as usize % WORDS.len()]).collect();
        let line = format!("    {} /* {number:016x} */\n", words.join(" "));
        let part = &line.as_bytes()[..line.len().min(left as usize)];
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(())
}

/// The archive of this round's source tree, and how many of its files hold the needle.
pub(super) fn archive(turn: &Turn) -> Result<(PathBuf, usize)> {
    let archive = turn.scratch.join(format!("tree-{}.tar", turn.round));
    let count = turn.scratch.join(format!("tree-{}.needles", turn.round));
    if !count.exists() {
        for round in 1..turn.round {
            let _ = fs::remove_file(turn.scratch.join(format!("tree-{round}.tar")));
        }
        let tree = turn.scratch.join("tree");
        fs::create_dir(&tree)?;
        let mut random = Random::new(purpose::TREE, turn.round);
        let needles = write_tree(&tree, &mut random, turn.sizes.tree_files, turn.sizes.tree_bytes)?;
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@1000000000", "--owner=0", "--group=0", "--numeric-owner", "-cf"]);
        run(tar.arg(&archive).arg("-C").arg(&tree).arg("src"))?;
        fs::remove_dir_all(&tree)?;
        fs::write(&count, needles.to_string())?;
    }
    let needles = fs::read_to_string(&count)?.parse().context("the number of needles")?;
    Ok((archive, needles))
}

/// Runs a program to its end; its output only matters when it fails.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<_> = said.trim().lines().rev().take(3).collect();
        bail!("{program}: {}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join("; "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_log_normal_and_sum_up() {
        let sizes = sizes(&mut Random::new(purpose::TREE, 1), 5_000, 50_000_000);
        let sum: u64 = sizes.iter().sum();
        assert!(sum.abs_diff(50_000_000) < 5_000, "{sum}");
        let mut sorted = sizes;
        sorted.sort_unstable();
        assert!((2_000..5_000).contains(&sorted[2_500]), "the middle file has {} bytes", sorted[2_500]);
    }

    #[test]
    fn a_round_has_the_same_tree_every_time_and_another_than_the_next() {
        let text = |round| {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let needles =
                write_tree(directory.path(), &mut Random::new(purpose::TREE, round), 60, 100_000).expect("a tree");
            assert_eq!(needles, 2);
            fs::read(directory.path().join(tree_path(50))).expect("file 50")
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert!(String::from_utf8(text(1)).expect("text").contains(NEEDLE));
    }
}
