//! A process that locks files as it is told (`src/bin/locker.rs`).

use crate::{process, wait};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// What nothing is in the way of is answered by then: a commit, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer of the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// What the monotonic clock showed before the call, in nanoseconds.
    pub before_ns: u64,
    /// And after it.
    pub after_ns: u64,
    /// `ok`, an errno, or what F_GETLK found.
    pub text: String,
}

/// The process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Locker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Locker {
    /// Starts one. `program`: where it is, as cargo says.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn new(program: &str) -> Result<Locker> {
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the locker")?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            // Ends with the process, or with the test.
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let orders = child.stdin.take();
        Ok(Locker { child, orders, answers })
    }

    /// One that has `path` open, under the name `f`.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn of(program: &str, path: &Path) -> Result<Locker> {
        let mut locker = Locker::new(program)?;
        locker.says(&format!("open f {}", path.display()), "ok")?;
        Ok(locker)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something that may take long: [`Locker::answer`] says what came of it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn order(&mut self, line: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("it was told to end")?;
        writeln!(orders, "{line}").with_context(|| format!("telling it to {line}"))
    }

    /// Its next answer.
    ///
    /// # Errors
    /// If there is none within `patience`.
    pub fn answer(&self, patience: Duration) -> Result<Said> {
        let line = match self.answers.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {} s", patience.as_secs_f32()),
            Err(RecvTimeoutError::Disconnected) => bail!("it has ended without an answer"),
        };
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next()?.parse().ok();
        let (before_ns, after_ns) = (number(), number());
        let text = words.next().unwrap_or_default().to_owned();
        let (before_ns, after_ns) = (before_ns.context(line.clone())?, after_ns.context(line.clone())?);
        Ok(Said { before_ns, after_ns, text })
    }

    /// Has it not answered yet?
    pub fn is_waiting(&self) -> bool {
        process::is_alive(self.pid()) && self.answers.try_recv().is_err()
    }

    /// Tells it to do something, and gives what came of it.
    ///
    /// # Errors
    /// If nothing does soon.
    pub fn ask(&mut self, line: &str) -> Result<Said> {
        self.order(line)?;
        self.answer(PATIENCE).with_context(|| line.to_owned())
    }

    /// Tells it to do something, of which just this must come.
    ///
    /// # Errors
    /// If something else does.
    pub fn says(&mut self, line: &str, expected: &str) -> Result<Said> {
        let said = self.ask(line)?;
        ensure!(said.text == expected, "{line}: {} and not {expected}", said.text);
        Ok(said)
    }

    /// SIGUSR1: what it waits for is interrupted.
    ///
    /// # Errors
    /// If it is gone.
    pub fn interrupt(&self) -> Result<()> {
        process::signal(self.pid(), Signal::USR1)
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// If it does not go.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        let mut ended = false;
        wait::until("the killed process has ended", PATIENCE, || {
            ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            ended
        })
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        self.orders = None;
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
