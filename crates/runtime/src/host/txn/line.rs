//! How a transaction is, for people and programs.

use super::reopen::{Left, Why};
use super::{Open, Phase, Transactions};
use crate::host::daemon::Daemon;
use gavel_client::transaction::COMMIT_BYTES_MAX;
use gavel_client::transaction::journal::Header;
use gavel_types::{Tid, Timestamp};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How far a transaction has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnState {
    /// It takes operations.
    #[default]
    Open,
    /// It is being committed or ended.
    Committing,
    /// The node has been started, and will open it again.
    Opening,
    /// It can't be opened again, and can only be given up.
    Lost,
    /// The node had ended before it could say so: it was committed.
    Committed,
}

impl TxnState {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            TxnState::Open => "open",
            TxnState::Committing => "committing",
            TxnState::Opening => "opening",
            TxnState::Lost => "lost",
            TxnState::Committed => "committed",
        }
    }
}

/// A transaction that is open. Part of the machine-readable output: fields are only added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TxnLine {
    /// Its id.
    pub id: String,
    /// Its volume.
    pub volume: u32,
    /// For which user.
    pub uid: u32,
    /// When it began, to the second.
    pub time: String,
    /// How many seconds ago.
    pub age_secs: u64,
    /// The state that it began at, or was moved to: it stays as long as this is open.
    pub start: String,
    /// Where it is mounted.
    pub place: PathBuf,
    /// Is it a `gavel txn run`?
    pub run: bool,
    /// What for.
    pub message: String,
    /// How many records it has changed.
    pub changes: u64,
    /// How many it depends on.
    pub guards: u64,
    /// How much of the room that a commit has it takes, in bytes, no less than it does.
    pub bytes: u64,
    /// How much room a commit has.
    pub bytes_max: u64,
    /// How far it has come.
    #[serde(default)]
    pub state: TxnState,
    /// What is wrong with it, or should be known of it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notices: Vec<String>,
    /// Why an operation was refused for lack of room, if one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub full: Option<String>,
}

impl Open {
    pub(super) fn line(&self, daemon: &Daemon) -> TxnLine {
        let state = self.state.lock();
        let notices = self.damaged.iter().chain(&state.broken).chain(&state.notices);
        TxnLine {
            id: self.id.clone(),
            volume: self.volume.0,
            uid: self.uid,
            time: Timestamp::of_tid(Tid(self.began_ns)).to_string(),
            age_secs: daemon.node.cluster_ns().saturating_sub(self.began_ns) / 1_000_000_000,
            start: state.transaction.at().to_string(),
            place: self.place.clone(),
            run: self.run,
            message: self.message.clone(),
            changes: state.transaction.changes() as u64,
            guards: state.transaction.guards().len() as u64,
            bytes: state.transaction.bytes() as u64,
            bytes_max: COMMIT_BYTES_MAX as u64,
            state: match state.phase {
                Phase::Open => TxnState::Open,
                Phase::Committing | Phase::Ended => TxnState::Committing,
            },
            notices: notices.cloned().collect(),
            full: state.full.clone(),
        }
    }
}

impl Left {
    /// How it is.
    pub(super) fn line(&self, id: &str, daemon: &Daemon) -> TxnLine {
        let (state, notice) = match &self.why {
            Why::Waits(cause) => (TxnState::Opening, cause.clone()),
            Why::Lost(cause) => (TxnState::Lost, cause.clone()),
            Why::Committed(tid) => (TxnState::Committed, format!("it was committed at {tid}")),
        };
        let header = self.header.as_ref();
        let number = |of: fn(&Header) -> u64| header.map_or(0, of);
        let began_ns = number(|header| header.began_ns);
        TxnLine {
            id: id.to_owned(),
            volume: header.map_or(0, |header| header.volume.0),
            uid: header.map_or(0, |header| header.uid),
            time: Timestamp::of_tid(Tid(began_ns)).to_string(),
            age_secs: daemon.node.cluster_ns().saturating_sub(began_ns) / 1_000_000_000,
            start: Tid(number(|header| header.start.0)).to_string(),
            place: header.map_or_else(PathBuf::new, |header| PathBuf::from(OsStr::from_bytes(&header.place))),
            run: false,
            message: header.map_or_else(String::new, |header| header.message.to_string()),
            changes: 0,
            guards: 0,
            bytes: 0,
            bytes_max: COMMIT_BYTES_MAX as u64,
            state,
            notices: vec![notice],
            full: None,
        }
    }
}

impl Transactions {
    /// Somebody is told these: of what was committed nobody needs to be told again.
    pub(super) fn tell(&self, lines: Vec<TxnLine>) -> Vec<TxnLine> {
        for line in lines.iter().filter(|line| line.state == TxnState::Committed) {
            self.forget_committed(&line.id);
        }
        lines
    }
}
