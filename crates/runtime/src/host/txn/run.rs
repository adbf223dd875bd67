//! The daemon's side of `gavel txn run`: a transaction that lives as long as the connection of who has asked for it.

use super::{Open, TxnAnswer, TxnBegin, begin, commit};
use crate::host::control::Reply;
use crate::host::daemon::Daemon;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 64;

/// Begins a transaction, waits for a word about its end, and ends it. Without one it ends without a trace.
pub(in crate::host) async fn run(daemon: Arc<Daemon>, ask: TxnBegin, read: OwnedReadHalf, mut write: OwnedWriteHalf) {
    let open = match begin(&daemon, ask, true).await {
        Ok(open) => open,
        Err(error) => return say(&mut write, &Reply::Error(error)).await,
    };
    say(&mut write, &Reply::Txn(Box::new(TxnAnswer::Started(open.started(&daemon))))).await;
    let mut word = String::new();
    // An error is an end, too.
    let _ = BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut word).await;
    let answer = match word.as_str() {
        "commit\n" => commit::commit(&daemon, open.clone(), open.message.clone()).await.map(TxnAnswer::Ended),
        _ => aborted(&daemon, &open).await,
    };
    say(&mut write, &answer.map_or_else(Reply::Error, |answer| Reply::Txn(Box::new(answer)))).await;
}

async fn aborted(daemon: &Daemon, open: &Open) -> Result<TxnAnswer, String> {
    open.take_to_end()?;
    open.end(daemon, "its command did not succeed, and nothing was written").await;
    Ok(TxnAnswer::Ended(super::TxnEnd::Aborted {}))
}

/// Who has gone away is told nothing.
async fn say(write: &mut OwnedWriteHalf, reply: &Reply) {
    let Ok(mut line) = serde_json::to_string(reply) else { return };
    line.push('\n');
    if let Err(error) = write.write_all(line.as_bytes()).await {
        tracing::debug!(%error, "control connection");
    }
}
