//! The other end of the socket: who asks.

use crate::host::control::{ANSWER_BYTES_MAX, AskError, Reply, Request};
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Asks the daemon that listens at `socket`, and hands each line of the answer to `each` until it breaks off, or the answer is over. `patience` is how
/// long each line may take; none: for ever.
///
/// # Errors
/// [`AskError`].
pub fn ask_many(
    socket: &Path,
    request: &Request,
    patience: Option<Duration>,
    mut each: impl FnMut(Reply) -> ControlFlow<()>,
) -> Result<(), AskError> {
    let not_running = |cause| AskError::NotRunning { socket: socket.into(), cause };
    let garbled = |cause: String| AskError::Garbled { socket: socket.into(), cause };
    let mut stream = UnixStream::connect(socket).map_err(not_running)?;
    stream.set_read_timeout(patience).map_err(not_running)?;
    let mut line = serde_json::to_string(request).map_err(|error| garbled(error.to_string()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(not_running)?;
    let mut lines = BufReader::new(stream);
    loop {
        line.clear();
        lines.by_ref().take(ANSWER_BYTES_MAX).read_line(&mut line).map_err(not_running)?;
        if line.is_empty() {
            return Err(garbled("it ended in the middle of the answer".into()));
        }
        let reply: Reply = serde_json::from_str(&line).map_err(|error| garbled(error.to_string()))?;
        if matches!(reply, Reply::Done) || each(reply).is_break() {
            return Ok(());
        }
    }
}
