//! A database and a version control system, as they are.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::inputs::{purpose, run as run_program, write_tree};
use super::measure::{Measure, Unit};
use super::random::Random;
use super::turn::{Turn, seconds};

/// sqlite: through the system's program, or Python's module.
pub(super) fn sqlite(turn: &Turn) -> Result<()> {
    let Some(shell) = sqlite_shell() else {
        turn.skip("sqlite", "neither sqlite3 nor python3 with its sqlite3 module is installed");
        return Ok(());
    };
    let transactions = turn.sizes.transactions;
    for (journal, metric) in [("wal", "WAL"), ("delete", "DELETE journal")] {
        turn.step("sqlite", || {
            let database = turn.home().join(format!("{journal}.db"));
            let (took, said) = seconds(|| shell(&database, &transactions_script(journal, transactions)))?;
            ensure!(said.trim_start().starts_with(journal), "the journal is {}, not {journal}", said.trim());
            let count = said.trim().lines().last().unwrap_or_default();
            ensure!(count == transactions.to_string(), "{count} of {transactions} rows are there");
            Ok(vec![Measure::rate(metric, transactions, took)])
        })?;
    }
    Ok(())
}

type Shell = fn(&Path, &str) -> Result<String>;

fn sqlite_shell() -> Option<Shell> {
    let works = |program: &str, arguments: &[&str]| {
        let quiet = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        quiet.is_ok_and(|status| status.success())
    };
    if works("sqlite3", &["--version"]) {
        return Some(|database, script| feed(Command::new("sqlite3").arg("-batch").arg("-bail").arg(database), script));
    }
    const PYTHON: &str = "import sqlite3, sys\n\
        database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        for statement in sys.stdin:\n    \
            for row in database.execute(statement): print(row[0])\n";
    if works("python3", &["-c", "import sqlite3"]) {
        return Some(|database, script| feed(Command::new("python3").args(["-c", PYTHON]).arg(database), script));
    }
    None
}

/// One statement a line; each insert is a transaction of its own.
fn transactions_script(journal: &str, transactions: usize) -> String {
    let mut script = format!(
        "PRAGMA journal_mode={journal};\nPRAGMA synchronous=FULL;\n\
         CREATE TABLE entries (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER);\n"
    );
    for number in 0..transactions {
        script.push_str(&format!("INSERT INTO entries (name, amount) VALUES ('entry {number}', {});\n", number * 7));
    }
    script.push_str("SELECT count(*) FROM entries;\n");
    script
}

fn feed(command: &mut Command, script: &str) -> Result<String> {
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let input = running.stdin.take().context("standard input is a pipe")?;
    std::thread::scope(|scope| {
        // A program that ends early closes the pipe; its own error says more.
        scope.spawn(move || { &input }.write_all(script.as_bytes()));
        let output = running.wait_with_output()?;
        if !output.status.success() {
            bail!("sqlite: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// git: clone, status, commit, gc.
pub(super) fn git(turn: &Turn) -> Result<()> {
    let origin = repository(turn)?;
    let clone = turn.home().join("clone");
    let timed = |metric, work: &dyn Fn() -> Result<()>| -> Result<Vec<Measure>> {
        let (took, ()) = seconds(work)?;
        Ok(vec![Measure::new(metric, Unit::Seconds, took)])
    };
    turn.step("git", || {
        let url = format!("file://{}", origin.display());
        timed("clone", &|| git_command(turn, turn.home(), &["clone", "-q", &url, "clone"]))
    })?;
    turn.step("git", || {
        timed("status x 20", &|| {
            (0..turn.sizes.status_calls).try_for_each(|_| git_command(turn, &clone, &["status", "--porcelain"]))
        })
    })?;
    change_some(&clone)?;
    turn.step("git", || {
        timed("add and commit", &|| {
            git_command(turn, &clone, &["add", "-A"])?;
            git_command(turn, &clone, &["commit", "-q", "-m", "a change"])
        })
    })?;
    turn.step("git", || timed("gc", &|| git_command(turn, &clone, &["gc", "-q"])))
}

/// Appends to every hundredth file.
fn change_some(clone: &Path) -> Result<()> {
    let listed = run_program(Command::new("find").arg(clone.join("src")).args(["-type", "f", "-name", "*00.c"]))?;
    ensure!(!listed.is_empty(), "the clone has no files");
    for path in listed.lines() {
        let mut file = fs::File::options().append(true).open(path)?;
        file.write_all(b"/* changed */\n")?;
    }
    Ok(())
}

/// A repository of a source tree with a history of a few commits, made once.
fn repository(turn: &Turn) -> Result<PathBuf> {
    const FILES_PER_MEGABYTE: u64 = 100;
    const COMMITS: u64 = 5;
    let (done, half_done) = (turn.scratch.join("origin"), turn.scratch.join("origin.new"));
    if done.exists() {
        return Ok(done);
    }
    fs::create_dir(&half_done)?;
    git_command(turn, &half_done, &["init", "-q", "-b", "main"])?;
    let files = (turn.sizes.repository_bytes / 1_000_000 * FILES_PER_MEGABYTE) as usize;
    for commit in 0..COMMITS {
        // Text compresses about 2 to 1: so the repository's objects are about as large as the tree that is checked out.
        let mut random = Random::new(purpose::REPOSITORY, commit);
        let part = half_done.join(format!("part-{commit}"));
        write_tree(&part, &mut random, files / COMMITS as usize, turn.sizes.repository_bytes / COMMITS)?;
        if commit == 0 {
            fs::rename(part.join("src"), half_done.join("src"))?;
            fs::remove_dir(&part)?;
        }
        git_command(turn, &half_done, &["add", "-A"])?;
        git_command(turn, &half_done, &["commit", "-q", "-m", &format!("part {commit}")])?;
    }
    fs::rename(&half_done, &done)?;
    Ok(done)
}

/// Runs git as if nobody had configured it.
fn git_command(turn: &Turn, directory: &Path, arguments: &[&str]) -> Result<()> {
    let configuration = turn.scratch.join("gitconfig");
    if !configuration.exists() {
        let text = "[user]\n\tname = benchmark\n\temail = benchmark@localhost\n[gc]\n\tauto = 0\n[safe]\n\tdirectory = *\n\
            [maintenance]\n\tauto = false\n[advice]\n\tdetachedHead = false\n";
        fs::write(&configuration, text)?;
    }
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(arguments);
    git.env("GIT_CONFIG_GLOBAL", &configuration).env("GIT_CONFIG_NOSYSTEM", "1");
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(inherited);
    }
    run_program(&mut git).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_that_is_there_commits_every_transaction() {
        let Some(shell) = sqlite_shell() else { return };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let said = shell(&directory.path().join("t.db"), &transactions_script("wal", 10)).expect("sqlite works");
        assert_eq!(said.lines().collect::<Vec<_>>(), ["wal", "10"]);
        assert!(shell(&directory.path().join("u.db"), "NONSENSE;\n").is_err());
    }
}
