//! Streams on the control socket: chunks of bytes, each behind its length.

use crate::host::control::{ANSWER_BYTES_MAX, AskError, Reply, Request};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest chunk, in bytes.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// So many bytes are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// Writes bytes as chunks.
pub(super) async fn write(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
        out.write_all(&(chunk.len() as u32).to_be_bytes()).await?;
        out.write_all(chunk).await?;
    }
    Ok(())
}

/// Writes the last chunk, and the line behind it.
pub(super) async fn end(out: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> std::io::Result<()> {
    out.write_all(&0u32.to_be_bytes()).await?;
    line(out, reply).await
}

/// Writes a line.
pub(super) async fn line(out: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_string(reply).map_err(std::io::Error::other)?;
    line.push('\n');
    out.write_all(line.as_bytes()).await
}

/// The next chunk; none behind the last one.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let len = from.read_u32().await? as usize;
    if len == 0 {
        return Ok(None);
    }
    if len > CHUNK_BYTES_MAX {
        return Err(std::io::Error::other("a chunk is longer than a chunk can be"));
    }
    let mut chunk = vec![0; len];
    from.read_exact(&mut chunk).await?;
    Ok(Some(chunk))
}

fn asked(socket: &Path, request: &Request) -> Result<UnixStream, AskError> {
    let not_running = |cause| AskError::NotRunning { socket: socket.into(), cause };
    let garbled = |cause: String| AskError::Garbled { socket: socket.into(), cause };
    let mut stream = UnixStream::connect(socket).map_err(not_running)?;
    let mut line = serde_json::to_string(request).map_err(|error| garbled(error.to_string()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(not_running)?;
    Ok(stream)
}

/// Asks for a stream, and hands its bytes to `each`. Gives what the daemon says at the end.
///
/// # Errors
/// [`AskError`] of the daemon; what `each` says is within, as what it is.
pub fn copy_out(
    socket: &Path,
    request: &Request,
    mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<std::io::Result<Reply>, AskError> {
    let mut from = BufReader::new(asked(socket, request)?);
    let broken = |cause: std::io::Error| {
        let cause = format!("it ended in the middle of the stream ({cause})");
        AskError::Garbled { socket: socket.into(), cause }
    };
    let mut chunk = Vec::new();
    loop {
        let mut len = [0; 4];
        from.read_exact(&mut len).map_err(broken)?;
        let len = (u32::from_be_bytes(len) as usize).min(CHUNK_BYTES_MAX);
        if len == 0 {
            return said(socket, &mut from).map(Ok);
        }
        chunk.resize(len, 0);
        from.read_exact(&mut chunk).map_err(broken)?;
        if let Err(error) = each(&chunk) {
            return Ok(Err(error));
        }
    }
}

fn said(socket: &Path, from: &mut impl BufRead) -> Result<Reply, AskError> {
    let garbled = |cause: String| AskError::Garbled { socket: socket.into(), cause };
    let mut line = String::new();
    from.take(ANSWER_BYTES_MAX).read_line(&mut line).map_err(|error| garbled(error.to_string()))?;
    if line.is_empty() {
        return Err(garbled("it ended in the middle of the answer".into()));
    }
    serde_json::from_str(&line).map_err(|error| garbled(error.to_string()))
}

/// Gives a stream to the daemon, and each line of its answer to `each`, until one is an error, or it says so. `bytes` is read from on another thread,
/// which stays behind if nothing comes and the daemon has had enough.
///
/// # Errors
/// [`AskError`].
pub fn copy_in(
    socket: &Path,
    request: &Request,
    mut bytes: impl Read + Send + 'static,
    mut each: impl FnMut(Reply) -> std::ops::ControlFlow<()>,
) -> Result<(), AskError> {
    let not_running = |cause| AskError::NotRunning { socket: socket.into(), cause };
    let stream = asked(socket, request)?;
    let mut to = stream.try_clone().map_err(not_running)?;
    std::thread::spawn(move || {
        let mut chunk = vec![0; READ_BYTES];
        loop {
            // An end that is an error looks like one that is none: the stream says itself whether it is whole.
            let read = bytes.read(&mut chunk).unwrap_or(0);
            let sent = to.write_all(&(read as u32).to_be_bytes()).and_then(|()| to.write_all(&chunk[..read]));
            // Who does not listen any more says why in its answer.
            if read == 0 || sent.is_err() {
                return;
            }
        }
    });
    let mut lines = BufReader::new(stream);
    while each(said(socket, &mut lines)?).is_continue() {}
    Ok(())
}
