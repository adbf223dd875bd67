//! Questions about the past, answered from this replica: one request on a line, any number of lines in answer.
//!
//! Nothing here is ever kept for the asker but one page of the answer, and no snapshot of the records is held while the asker is waited for: a pager
//! that nobody looks at costs a page of memory. An asker that has gone away is noticed at once.

mod ask;
mod content;

pub use ask::ask_many;

use crate::host::control::{Ended, Reply};
use crate::host::daemon::Daemon;
use crate::host::node::NodeHandle;
use gavel_history::diff::{DiffLine, End, Way};
use gavel_history::{HistoryError, HistoryLine, LogLine, RemovedLine, Scope, find};
use gavel_types::{Tid, VolumeId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Lines of a log that are worked out at a time.
const PAGE_LINES: usize = 64;
/// Most transactions that one question for a log looks at; where it stopped is said.
const LOG_LOOKED_AT_MAX: usize = 1_000_000;

/// What can be asked. Paths are within the volume, without a slash at either end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// What became of a path?
    History {
        /// Which.
        path: Vec<u8>,
        /// Up to which state; none: now.
        at: Option<String>,
        /// So many transactions at most.
        limit: usize,
    },
    /// What was removed from a directory?
    Removed {
        /// Which.
        path: Vec<u8>,
        /// Before which state; none: now.
        at: Option<String>,
        /// So many names at most.
        limit: usize,
    },
    /// Which transactions were there, newest first?
    Log {
        /// At this path or below it.
        path: Vec<u8>,
        /// After this state.
        since: Option<String>,
        /// Up to this one; none: now.
        until: Option<String>,
        /// So many at most.
        limit: usize,
    },
    /// Which transactions come? Answered in their order, until the asker goes away.
    Follow {
        /// At this path or below it.
        path: Vec<u8>,
        /// After this state; none: now.
        from: Option<String>,
    },
    /// How do two states differ?
    Diff {
        /// This path.
        old_path: Vec<u8>,
        /// As of this state.
        old_at: String,
        /// And this path.
        new_path: Vec<u8>,
        /// As of this state; none: now.
        new_at: Option<String>,
        /// Texts line by line.
        patch: bool,
    },
}

/// A piece of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Of [`Question::History`].
    History(HistoryLine),
    /// Of [`Question::Removed`].
    Removed(RemovedLine),
    /// Of [`Question::Log`] and [`Question::Follow`].
    Log(LogLine),
    /// Of [`Question::Diff`].
    Diff(DiffLine),
    /// The first line of [`Question::Follow`]: what comes is behind this transaction.
    Following {
        /// The transaction.
        after: String,
    },
    /// There is more, which was not asked for or not looked at.
    More {
        /// For a log: the state to ask for next.
        next: Option<String>,
    },
}

/// The way to whoever has asked.
pub struct Stream {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Stream {
    pub(super) fn new(read: OwnedReadHalf, write: OwnedWriteHalf) -> Stream {
        Stream { read, write }
    }

    async fn send(&mut self, reply: &Reply) -> std::io::Result<()> {
        let mut line = serde_json::to_string(reply).map_err(std::io::Error::other)?;
        line.push('\n');
        self.write.write_all(line.as_bytes()).await
    }

    async fn line(&mut self, line: Line) -> std::io::Result<()> {
        self.send(&Reply::Line(Box::new(line))).await
    }

    /// Returns when the asker has gone away.
    async fn gone(&mut self) {
        let mut rest = [0; 64];
        // Whatever more is said is not listened to.
        while matches!(self.read.read(&mut rest).await, Ok(read) if read > 0) {}
    }
}

/// Answers a question, for as long as that takes.
pub(super) async fn answer(daemon: Arc<Daemon>, volume: VolumeId, question: Question, mut stream: Stream) {
    let ended = Answering { daemon: &daemon, volume, stream: &mut stream }.answer(question).await;
    let last = match ended {
        Ok(()) => Reply::Done,
        Err(Ended::Failed(cause)) => Reply::Error(cause),
        Err(Ended::Gone) => return,
    };
    if let Err(error) = stream.send(&last).await {
        tracing::debug!(%error, "control connection");
    }
}

struct Answering<'a> {
    daemon: &'a Arc<Daemon>,
    volume: VolumeId,
    stream: &'a mut Stream,
}

impl Answering<'_> {
    async fn answer(&mut self, question: Question) -> Result<(), Ended> {
        match question {
            Question::History { path, at, limit } => self.history(path, at, limit).await,
            Question::Removed { path, at, limit } => self.removed(path, at, limit).await,
            Question::Log { path, since, until, limit } => self.log(path, since, until, limit).await,
            Question::Follow { path, from } => self.follow(path, from).await,
            Question::Diff { old_path, old_at, new_path, new_at, patch } => {
                let old = End { tid: self.state(&old_at).await?, path: old_path };
                let new = End { tid: self.state_or_now(new_at).await?, path: new_path };
                self.diff(old, new, patch).await
            }
        }
    }

    async fn state(&self, at: &str) -> Result<Tid, String> {
        self.daemon.tree(self.volume, false).state_named(at).await
    }

    /// The state that is asked for.
    async fn state_or_now(&self, at: Option<String>) -> Result<Tid, String> {
        if let Some(at) = at {
            return self.state(&at).await;
        }
        self.daemon.tree(self.volume, false).present().await.map_err(|error| error.to_string())
    }

    /// Reads the past on a thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&NodeHandle, VolumeId) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, String> {
        let (node, volume) = (self.daemon.node.clone(), self.volume);
        let asked = tokio::task::spawn_blocking(move || question(&node, volume)).await;
        asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn history(&mut self, path: Vec<u8>, at: Option<String>, limit: usize) -> Result<(), Ended> {
        let at = self.state_or_now(at).await?;
        let question = move |node: &NodeHandle, volume| {
            gavel_history::history(&node.records.past(node.tid()), volume, &path, at, limit)
        };
        let found = self.ask(question).await?;
        for line in found.lines {
            self.stream.line(Line::History(line)).await?;
        }
        self.more(found.more, None).await
    }

    async fn removed(&mut self, path: Vec<u8>, at: Option<String>, limit: usize) -> Result<(), Ended> {
        let at = self.state_or_now(at).await?;
        let question = move |node: &NodeHandle, volume| {
            gavel_history::removed(&node.records.past(node.tid()), volume, &path, at, limit)
        };
        let (lines, more) = self.ask(question).await?;
        for line in lines {
            self.stream.line(Line::Removed(line)).await?;
        }
        self.more(more, None).await
    }

    async fn more(&mut self, more: bool, next: Option<Tid>) -> Result<(), Ended> {
        if more {
            self.stream.line(Line::More { next: next.map(|next| next.to_string()) }).await?;
        }
        Ok(())
    }

    async fn scope(&self, path: Vec<u8>, at: Tid) -> Result<Scope, String> {
        let question = move |node: &NodeHandle, volume| find(&node.records.past(node.tid()), volume, &path, at);
        let had = self.ask(question).await?;
        Ok(Scope::of(had.object, had.kind))
    }

    async fn log(
        &mut self,
        path: Vec<u8>,
        since: Option<String>,
        until: Option<String>,
        limit: usize,
    ) -> Result<(), Ended> {
        let after = match since {
            Some(since) => self.state(&since).await?,
            None => Tid::ZERO,
        };
        let mut upto = self.state_or_now(until).await?;
        let scope = self.scope(path, upto).await?;
        let (mut told, mut looked_at) = (0, 0);
        loop {
            let most = (limit - told).min(PAGE_LINES);
            let question = move |node: &NodeHandle, volume| {
                let past = node.records.past(node.tid());
                Ok(gavel_history::log::log(&past, volume, scope, (after, upto), most)?)
            };
            let page = self.ask(question).await?;
            told += page.lines.len();
            looked_at += page.looked_at;
            for line in page.lines {
                self.stream.line(Line::Log(line)).await?;
            }
            match page.next {
                Some(next) if told >= limit || looked_at >= LOG_LOOKED_AT_MAX => {
                    return self.more(true, Some(next)).await;
                }
                Some(next) => upto = next,
                None => return Ok(()),
            }
        }
    }

    async fn follow(&mut self, path: Vec<u8>, from: Option<String>) -> Result<(), Ended> {
        let node = self.daemon.node.clone();
        let mut news = node.news.subscribe();
        let mut stopped = node.stopped.subscribe();
        let now = node.tid();
        let mut after = match from {
            Some(from) => self.state(&from).await?,
            None => now,
        };
        self.is_complete(after)?;
        let scope = self.scope(path, node.tid()).await?;
        self.stream.line(Line::Following { after: after.to_string() }).await?;
        loop {
            news.borrow_and_update();
            let upto = node.tid();
            while after < upto {
                let question = move |node: &NodeHandle, volume| {
                    let past = node.records.past(upto);
                    Ok(gavel_history::log::feed(&past, volume, scope, (after, upto), PAGE_LINES)?)
                };
                let (lines, reached) = self.ask(question).await?;
                // What was read may have been swept while it was.
                self.is_complete(after)?;
                for line in lines {
                    self.stream.line(Line::Log(line)).await?;
                }
                after = reached;
            }
            tokio::select! {
                changed = news.changed() => changed.map_err(|_| "the node is shutting down".to_owned())?,
                cause = stopped.wait_for(Option::is_some) => {
                    let cause = cause.ok().and_then(|cause| cause.clone());
                    return Err(Ended::Failed(cause.unwrap_or_else(|| "the node is shutting down".into())));
                }
                () = self.stream.gone() => return Err(Ended::Gone),
            }
        }
    }

    /// Whoever follows must miss nothing. A state that is kept may be older than transactions that were pruned.
    fn is_complete(&self, after: Tid) -> Result<(), Ended> {
        match self.daemon.node.records.is_whole_from(self.volume, after) {
            true => Ok(()),
            false => Err(Ended::Failed(format!(
                "what was done after {after} was pruned, at least in part: begin anew, without --from"
            ))),
        }
    }

    async fn diff(&mut self, old: End, new: End, patch: bool) -> Result<(), Ended> {
        let states = (old.tid, new.tid);
        let question = move |node: &NodeHandle, volume| {
            let past = node.records.past(node.tid());
            gavel_history::diff::diff(&past, volume, &old, &new, Way::Quicker)
        };
        for difference in self.ask(question).await? {
            let mut line = DiffLine::from(&difference);
            if patch {
                content::compare(self.daemon, self.volume, states, &difference, &mut line).await;
            }
            self.stream.line(Line::Diff(line)).await?;
        }
        Ok(())
    }
}
