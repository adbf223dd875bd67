//! The socket at which a client can be asked: a part of what [`control`](crate::host::control) answers, in the same words.

use super::Client;
use crate::host::control::{CLIENT_PATIENCE, REQUEST_BYTES_MAX, Reply, Request, mount_config};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Starts answering. Must be called within a tokio runtime.
pub(super) fn start(client: &Arc<Client>) -> std::io::Result<()> {
    let path = client.config().control_socket();
    // The data directory is locked by this process: a socket that is there belongs to a client that is not any more.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let client = Arc::downgrade(client);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Some(client) = client.upgrade() else { return };
            tokio::spawn(async move {
                if let Ok(Err(error)) = tokio::time::timeout(CLIENT_PATIENCE, serve(&client, stream)).await {
                    tracing::debug!(%error, "control connection");
                }
            });
        }
    });
    Ok(())
}

async fn serve(client: &Client, stream: UnixStream) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => answer(client, request).await,
        Err(error) => Reply::Error(format!("not a request that this version understands: {error}")),
    };
    let mut line = serde_json::to_string(&reply).map_err(std::io::Error::other)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await
}

async fn answer(client: &Client, request: Request) -> Reply {
    match request {
        Request::Status {} => Reply::Client(Box::new(client.status())),
        Request::Mount { path, volume, options, at } => match mount_config(path, volume, &options, at.as_deref()) {
            Ok(mount) => client.mount(mount).await.map_or_else(Reply::Error, |()| Reply::Done),
            Err(error) => Reply::Error(error),
        },
        Request::Stop {} => {
            client.tell_to_stop();
            Reply::Done
        }
        _ => Reply::Error("this is a client, without a replica: ask a node".into()),
    }
}
