//! Running programs, with a limit on their time; and finding the one that is tested.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait;

/// How long a command of `gavel` may take, if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How many lines of its output are shown of a program that has failed.
const LINES_SHOWN: usize = 40;

/// A program that has ended.
#[derive(Debug)]
pub struct Ran {
    /// What was run.
    pub line: String,
    /// Its exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// What it printed.
    ///
    /// # Errors
    /// If it has failed.
    pub fn ok(self) -> Result<String> {
        ensure!(
            self.code == Some(0),
            "{}: status {:?}\n{}\n{}",
            self.line,
            self.code,
            last(&self.stdout),
            last(&self.stderr)
        );
        Ok(self.stdout)
    }

    /// Sees that it was refused: exit status 1, and every phrase on standard error. Nothing may look like a crash.
    ///
    /// # Errors
    /// If not.
    pub fn refused(&self, phrases: &[&str]) -> Result<()> {
        ensure!(self.code == Some(1), "{}: status {:?} and not 1\n{}", self.line, self.code, self.stderr);
        ensure!(!self.stderr.contains("panicked at"), "{}: panicked\n{}", self.line, self.stderr);
        for phrase in phrases {
            ensure!(self.stderr.contains(phrase), "{}: nothing about {phrase:?} in\n{}", self.line, self.stderr);
        }
        Ok(())
    }
}

/// The last lines of an output.
fn last(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

/// Runs a program to its end; kills it after `patience`.
///
/// # Errors
/// If it can't be run, or does not end.
pub fn run(command: Command, patience: Duration) -> Result<Ran> {
    run_from(Stdio::null(), command, patience)
}

/// The same, with this as its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_from(input: impl Into<Stdio>, mut command: Command, patience: Duration) -> Result<Ran> {
    let line = format!("{command:?}");
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| line.clone())?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let mut ended = None;
    let waited = wait::until(&line, patience, || {
        ended = child.try_wait().ok().flatten();
        ended.is_some()
    });
    if waited.is_err() {
        // It may have ended in this moment.
        let _ = child.kill();
    }
    let (stdout, stderr) = (text(stdout), text(stderr));
    let Some(status) = ended else { bail!("{line}: did not end within {patience:?}\n{stdout}\n{stderr}") };
    Ok(Ran { line, code: status.code(), stdout, stderr })
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is shown.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn text(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a shell script in `dir` and gives what it printed.
///
/// # Errors
/// If it fails, or does not end.
pub fn shell(dir: &Path, script: &str, patience: Duration) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    run(command, patience)?.ok()
}

/// The program under test.
#[derive(Clone, Debug)]
pub struct Gavel {
    program: PathBuf,
}

impl Gavel {
    /// What `GAVEL_BIN` names, or else the `gavel` that was built beside this test.
    ///
    /// # Errors
    /// If there is none: how to build it.
    pub fn find() -> Result<Gavel> {
        let program = match std::env::var_os("GAVEL_BIN") {
            Some(named) => PathBuf::from(named),
            None => {
                // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM
                let this = std::env::current_exe().context("finding this program")?;
                let beside = this.parent().context("a program in no directory")?;
                let profile = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
                profile.context("a test in no directory")?.join("gavel")
            }
        };
        ensure!(
            program.is_file(),
            "{}: there is no gavel to test; build it: cargo build -p gavel-cli (or name one with GAVEL_BIN)",
            program.display()
        );
        Ok(Gavel { program: program.canonicalize()? })
    }

    /// A command of it, to be run by the caller.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        command
    }

    /// Runs a command of it to its end.
    ///
    /// # Errors
    /// If it can't be run, or does not end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Ran> {
        run(self.command(arguments), PATIENCE)
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }
}
