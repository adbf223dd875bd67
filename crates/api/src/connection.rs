//! The daemon's socket: one JSON request on a line, one JSON answer on a line.

use crate::Error;
use crate::wire::{Answer, Begin};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a daemon may take: a commit waits for others, and for bytes to be stored.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What is asked of a daemon here. The rest of what can be is the command line's.
#[derive(Serialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Request<'a> {
    TxnRun(&'a Begin),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Txn(Box<Answer>),
    Error(String),
}

/// A connection over which one transaction is begun and ended.
pub(crate) struct Connection {
    stream: UnixStream,
    socket: PathBuf,
}

impl Connection {
    /// Asks to begin a transaction.
    pub(crate) fn begin(socket: &Path, begin: &Begin) -> Result<(Connection, Answer), Error> {
        let failed = |cause| Error::NoDaemon { socket: socket.into(), cause };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut connection = Connection { stream, socket: socket.into() };
        let line = serde_json::to_string(&Request::TxnRun(begin)).map_err(io::Error::from).map_err(failed)?;
        let answer = connection.say(&line)?;
        Ok((connection, answer))
    }

    /// Says a line, and hears the answer.
    pub(crate) fn say(&mut self, line: &str) -> Result<Answer, Error> {
        match self.exchange(line).map_err(|cause| Error::NoDaemon { socket: self.socket.clone(), cause })? {
            Reply::Txn(answer) => Ok(*answer),
            Reply::Error(cause) => Err(Error::Refused(cause)),
        }
    }

    fn exchange(&mut self, line: &str) -> io::Result<Reply> {
        self.stream.write_all(format!("{line}\n").as_bytes())?;
        // Nothing comes but the one answer, so nothing is lost with this reader.
        let mut answer = String::new();
        BufReader::new((&self.stream).take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it went away without an answer"));
        }
        Ok(serde_json::from_str(&answer)?)
    }
}
