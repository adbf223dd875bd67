//! `gavel txn run`: a command whose changes become one commit, or nothing.

use super::enter::FAILED;
use super::which::{Node, PATIENCE, of_path, unreachable};
use super::{COLLIDED, complain, told};
use crate::output::{hinted, print_error};
use anyhow::Context;
use clap::Args;
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::txn::namespace::Namespace;
use gavel_runtime::host::txn::{TxnAnswer, TxnBegin, TxnEnd, TxnStarted};
use gavel_types::VolumeRef;
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::signal::unix::{SignalKind, signal};

/// Set for the command: its transaction.
const VARIABLE: &str = "GAVEL_TXN";

/// Runs a command that sees the volume as it is now, and what it changes itself, at the paths where the volume is mounted. If it succeeds (exit status 0), all that it has changed
/// becomes visible at once; anything else leaves no trace. If others have changed meanwhile what it has read, nothing is written, and it says what collides.
#[derive(Args)]
#[command(
    after_help = "What the command leaves running is ended. The volume's mounts of this node are what it sees changed; other files are not part of it.\n\n\
Exit status: the command's own, if it is not 0 (128 and the signal's number, if one ended it), and nothing was written; 0 committed; \
75 collided with others, nothing was written; 125 gavel itself could not do it, nothing was written; 126 the command cannot be run; 127 there is no such command; \
74 nobody can say whether it was committed.\n\n\
Examples:\n  gavel txn run -- make install\n  gavel txn run --retry 5 --message 'rename the module' -- ./refactor.sh"
)]
pub struct Run {
    #[command(flatten)]
    node: Node,
    /// The volume's name or number; by default, the one that this directory is in, or the only one that is mounted
    #[arg(long)]
    volume: Option<VolumeRef>,
    /// Run it again on the new state if it collides, so often at most
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry: u32,
    /// What for: the note of the commit, which `gavel log` shows
    #[arg(long, short, default_value = "")]
    message: String,
    /// Show the transaction at this directory, instead of where the volume is mounted
    #[arg(long, value_name = "DIR")]
    at_dir: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What happens while the command runs.
enum Event {
    Signal(i32),
    Ended(std::io::Result<ExitStatus>),
    /// The daemon has said something; none: it is gone.
    Said(Option<String>),
}

impl Run {
    /// Gives the exit status.
    pub fn run(self) -> ExitCode {
        self.try_all().unwrap_or_else(|error| {
            print_error(&error);
            ExitCode::from(FAILED)
        })
    }

    fn try_all(&self) -> anyhow::Result<ExitCode> {
        let outer = std::env::var(VARIABLE).ok();
        if let Some(outer) = outer.or(of_path(Path::new("."))?.map(|found| found.id)) {
            let hint = "a transaction is one piece: let the outer one run all of it";
            return Err(hinted(format!("this is in transaction {outer} already; there is none within another"), hint));
        }
        let (socket, volume) = self.node.find(self.volume.clone())?;
        let (tell, events) = channel();
        watch_signals(tell.clone())?;
        let mut left = self.retry;
        loop {
            let (started, end) = match self.attempt(&socket, &volume, &tell, &events)? {
                Attempt::Over(code) => return Ok(code),
                Attempt::Told(started, end) => (started, end),
            };
            let TxnEnd::Collided { collisions, more } = &end else {
                // The command has its own output: a word about success would be in its way.
                let quiet = matches!(end, TxnEnd::Committed { .. });
                return if quiet { Ok(ExitCode::SUCCESS) } else { told(&started.id, &end, false) };
            };
            complain(&started.id, collisions, *more);
            if left == 0 {
                return Ok(ExitCode::from(COLLIDED));
            }
            left -= 1;
            eprintln!("running it again on the new state ({} of {})", self.retry - left, self.retry);
        }
    }

    fn attempt(
        &self,
        socket: &Path,
        volume: &VolumeRef,
        tell: &Sender<Event>,
        events: &Receiver<Event>,
    ) -> anyhow::Result<Attempt> {
        let (mut stream, started) = self.begin(socket, volume)?;
        let over = match &self.at_dir {
            Some(dir) => vec![dir.canonicalize().with_context(|| dir.display().to_string())?],
            None => started.over.clone(),
        };
        if over.is_empty() {
            let hint = "mount it, or say --at-dir with a directory to show it at";
            return Err(hinted(format!("volume {volume} is not mounted for writing on this node"), hint));
        }
        let child = self.start(socket, &started, &over)?;
        let pid = Pid::from_child(&child);
        listen(stream.try_clone()?, child, tell)?;
        let mut signalled = None;
        let status = loop {
            match events.recv().context("waiting for the command")? {
                Event::Ended(status) => break status.context("waiting for the command")?,
                Event::Signal(number) => {
                    signalled = Some(number);
                    forward(pid, number);
                }
                Event::Said(_) => return Ok(Attempt::Over(abandoned(pid, &started))),
            }
        };
        if status.success() && signalled.is_none() {
            super::begin::write_back(&started.place);
            return say(&mut stream, events, "commit\n").map(|end| match end {
                Some(end) => Attempt::Told(started, end),
                None => {
                    let cause = "the node went away while it was committing".into();
                    Attempt::Told(started, TxnEnd::Unknown { cause })
                }
            });
        }
        // If the node is gone there is nothing to give up.
        let _ = say(&mut stream, events, "abort\n");
        let code = status.code().filter(|code| *code != 0);
        let signal = status.signal().or(signalled).unwrap_or(0);
        Ok(Attempt::Over(ExitCode::from(code.map_or(128 + signal, |code| code) as u8)))
    }

    fn begin(&self, socket: &Path, volume: &VolumeRef) -> anyhow::Result<(UnixStream, TxnStarted)> {
        let uid = rustix::process::geteuid().as_raw();
        let request =
            Request::TxnRun(TxnBegin { volume: volume.clone(), uid, message: self.message.clone(), dir: None });
        let gone = |error: std::io::Error| unreachable(socket, &error);
        let mut stream = UnixStream::connect(socket).map_err(gone)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let line = serde_json::to_string(&request)? + "\n";
        stream.write_all(line.as_bytes()).map_err(gone)?;
        let mut answer = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut answer).map_err(gone)?;
        stream.set_read_timeout(None)?;
        match serde_json::from_str(&answer).context("the daemon's answer")? {
            Reply::Txn(answer) => match *answer {
                TxnAnswer::Started(started) => Ok((stream, started)),
                _ => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
            },
            Reply::Error(error) => Err(anyhow::anyhow!("{error}")),
            _ => Err(anyhow::anyhow!("the daemon answered something else than it was asked")),
        }
    }

    fn start(&self, socket: &Path, started: &TxnStarted, over: &[PathBuf]) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(program);
        command.args(["txn", "enter", "--socket"]).arg(socket).arg("--id").arg(&started.id);
        command.arg("--place").arg(&started.place).arg("--parent").arg(std::process::id().to_string());
        for over in over {
            command.arg("--over").arg(over);
        }
        command.arg("--").args(&self.command).env(VARIABLE, &started.id);
        command.spawn().context("starting the command")
    }
}

enum Attempt {
    /// Nothing was written; this is the exit status.
    Over(ExitCode),
    Told(TxnStarted, TxnEnd),
}

/// Says what becomes of the transaction, and hears how it ended; none if the daemon is gone.
fn say(stream: &mut UnixStream, events: &Receiver<Event>, word: &str) -> anyhow::Result<Option<TxnEnd>> {
    if stream.write_all(word.as_bytes()).is_err() {
        return Ok(None);
    }
    loop {
        match events.recv().context("waiting for the daemon")? {
            Event::Said(None) => return Ok(None),
            Event::Said(Some(line)) => {
                return match serde_json::from_str(&line).context("the daemon's answer")? {
                    Reply::Txn(answer) => match *answer {
                        TxnAnswer::Ended(end) => Ok(Some(end)),
                        _ => Ok(None),
                    },
                    Reply::Error(error) => Err(anyhow::anyhow!("{error}")),
                    _ => Ok(None),
                };
            }
            // It is too late for them.
            Event::Signal(_) | Event::Ended(_) => {}
        }
    }
}

/// The daemon is gone, and the transaction with it. Nothing is left running, nor mounted.
fn abandoned(pid: Pid, started: &TxnStarted) -> ExitCode {
    match Namespace::of(pid.as_raw_pid().unsigned_abs()) {
        Ok(namespace) => namespace.end(),
        Err(_) => drop(rustix::process::kill_process(pid, Signal::KILL)),
    }
    let _ = gavel_mount::table::unmount_path(&started.place, true);
    let _ = std::fs::remove_dir(&started.place);
    let what = format!("the node went away, and transaction {} with it; nothing was written", started.id);
    print_error(&hinted(what, "run it again when the node is back"));
    ExitCode::from(FAILED)
}

/// A terminal tells the command itself when somebody interrupts it.
fn forward(pid: Pid, number: i32) {
    let from_terminal = std::io::stdin().is_terminal();
    let signal = match number {
        libc_number::TERM => Signal::TERM,
        libc_number::HUP => Signal::HUP,
        libc_number::INT if !from_terminal => Signal::INT,
        libc_number::QUIT if !from_terminal => Signal::QUIT,
        _ => return,
    };
    let _ = rustix::process::kill_process(pid, signal);
}

/// Numbers of signals, as Linux has them on every architecture.
mod libc_number {
    pub(super) const HUP: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const QUIT: i32 = 3;
    pub(super) const TERM: i32 = 15;
}

/// From now on these signals do not end this process: the transaction has to be ended first.
fn watch_signals(tell: Sender<Event>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("watching for signals")?;
    let inside = runtime.enter();
    let numbers = [libc_number::HUP, libc_number::INT, libc_number::QUIT, libc_number::TERM];
    for number in numbers {
        let mut stream = signal(SignalKind::from_raw(number)).context("watching for signals")?;
        let tell = tell.clone();
        runtime.spawn(async move {
            while stream.recv().await.is_some() {
                let _ = tell.send(Event::Signal(number));
            }
        });
    }
    drop(inside);
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(())
}

/// Tells when the command has ended, and what the daemon says.
fn listen(stream: UnixStream, mut child: Child, tell: &Sender<Event>) -> anyhow::Result<()> {
    let (ended, said) = (tell.clone(), tell.clone());
    std::thread::Builder::new().spawn(move || ended.send(Event::Ended(child.wait())))?;
    std::thread::Builder::new().spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stream).read_line(&mut line);
        let _ = said.send(Event::Said(matches!(read, Ok(1..)).then_some(line)));
    })?;
    Ok(())
}
