//! The socket that the command line talks to: one JSON request on a line, one JSON answer on a line. (Questions about the past are answered with
//! many lines: [`history`](crate::host::history).)
//!
//! The socket is a file that only the daemon's user may open.

use crate::config::{MountConfig, MountOption};
use crate::host::browse::{self, BrowseAsk, Browsed, Piece, ReadAsk};
use crate::host::client::ClientStatus;
use crate::host::conflicts::ConflictId;
use crate::host::conflicts::ask::{self as about, ConflictDetail, ConflictLine};
use crate::host::daemon::Daemon;
use crate::host::history::{self, Line, Question, Stream};
use crate::host::mirror::{self, MirrorAnswer, MirrorAsk, ReceiveAsk, SendAsk};
use crate::host::node::Input;
use crate::host::retention::{self, RetentionAsk, RetentionStatus};
use crate::host::revert::{self, RevertAsk, RevertDone};
use crate::host::snapshots::{self, ScheduleAsk, ScheduleStatus, SnapshotChange, SnapshotLine};
use crate::host::space::{self, Space};
use crate::host::status::NodeStatus;
use crate::host::txn::{self, TxnAnswer, TxnAsk, TxnBegin, TxnLine};
use crate::host::volumes::{self, VolumeAsk, VolumeLine};
use gavel_types::{At, VolumeId, VolumeRef};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// Longest request, in bytes.
pub(super) const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// A request must come, and an answer be taken, within this time.
pub(super) const CLIENT_PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer that the client side reads, in bytes.
pub(super) const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why an answer of many pieces ends before its time.
pub(super) enum Ended {
    /// The asker has gone away.
    Gone,
    /// What went wrong, in words.
    Failed(String),
}

impl From<std::io::Error> for Ended {
    fn from(_: std::io::Error) -> Ended {
        Ended::Gone
    }
}

impl From<String> for Ended {
    fn from(cause: String) -> Ended {
        Ended::Failed(cause)
    }
}

/// What can be asked of a daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is it? (With braces: so that unknown fields beside `ask` are refused here, too.)
    Status {},
    /// Mount a volume.
    Mount {
        /// Where.
        path: PathBuf,
        /// Which.
        volume: VolumeRef,
        /// Names of options.
        options: Vec<String>,
        /// Which state of it, as it is written.
        #[serde(default)]
        at: Option<String>,
    },
    /// End a mount.
    Umount {
        /// Where.
        path: PathBuf,
    },
    /// Which changes were answered and could not be committed?
    Conflicts {},
    /// Say all of one.
    ConflictShow {
        /// Its number.
        id: ConflictId,
    },
    /// Run one anew on the present state; drop it if that succeeds.
    ConflictReplay {
        /// Its number.
        id: ConflictId,
    },
    /// Forget some.
    ConflictDrop {
        /// Their numbers.
        ids: Vec<ConflictId>,
    },
    /// Make a path what it was.
    Revert(RevertAsk),
    /// Which snapshots of a volume are there?
    Snapshots {
        /// Which volume.
        volume: u32,
    },
    /// Make, delete or rename a snapshot.
    Snapshot {
        /// Of which volume.
        volume: u32,
        /// What.
        change: SnapshotChange,
    },
    /// What is at a path, as of a state?
    Browse(BrowseAsk),
    /// Which bytes has a file, as of a state?
    ReadAt(ReadAsk),
    /// What of the past? Answered with any number of [`Reply::Line`], and [`Reply::Done`] or [`Reply::Error`] at the end.
    Past {
        /// Of which volume.
        volume: u32,
        /// What is asked.
        question: Question,
    },
    /// Which past states of a volume stay?
    Retention {
        /// Of which volume.
        volume: u32,
        /// What about it.
        about: RetentionAsk,
    },
    /// Which snapshots of a volume are made by themselves?
    Schedule {
        /// Of which volume.
        volume: u32,
        /// What about it.
        about: ScheduleAsk,
    },
    /// Where are the bytes of a volume, or of what lies below a path in it?
    Space {
        /// Which volume.
        volume: u32,
        /// The path within it, as bytes; none: the whole volume.
        #[serde(default)]
        path: Vec<u8>,
    },
    /// Which volumes are there, or: make, clone, rename, destroy, restore one.
    Volume(VolumeAsk),
    /// Something about transactions of users.
    Txn {
        /// What.
        about: TxnAsk,
    },
    /// Begin one that ends with this connection. Answered by [`TxnAnswer::Started`]; the asker then says `commit` or `abort`, each on a line, and is
    /// told how it ended.
    TxnRun(TxnBegin),
    /// Which mirrors are there, or: promote one.
    Mirror {
        /// What.
        about: MirrorAsk,
    },
    /// Make a stream for a mirror. Answered with chunks: a length (4 bytes, big endian) and so many bytes of the stream; behind a length of 0, a line.
    MirrorSend(SendAsk),
    /// Take a stream. The asker says chunks as above, the last one of length 0; it is answered with lines.
    MirrorReceive(ReceiveAsk),
    /// End all mounts and stop.
    Stop {},
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// The answer to [`Request::Status {}`].
    Status(Box<DaemonStatus>),
    /// The answer to [`Request::Conflicts {}`].
    Conflicts(Vec<ConflictLine>),
    /// The answer to [`Request::ConflictShow`].
    Conflict(Box<ConflictDetail>),
    /// The answer to [`Request::Revert`].
    Reverted(RevertDone),
    /// The answer to [`Request::Snapshots`].
    Snapshots(Vec<SnapshotLine>),
    /// The answer to [`Request::Snapshot`]: the state that has the name now.
    Snapshot(SnapshotLine),
    /// The answer to [`Request::Browse`].
    Browsed(Box<Browsed>),
    /// The answer to [`Request::ReadAt`].
    Piece(Piece),
    /// A piece of the answer to [`Request::Past`].
    Line(Box<Line>),
    /// The answer to [`Request::Retention`].
    Retention(Box<RetentionStatus>),
    /// The answer to [`Request::Schedule`].
    Schedule(ScheduleStatus),
    /// The answer to [`Request::Space`].
    Space(Box<Space>),
    /// The answer to [`Request::Volume`]: the volumes that it was about.
    Volumes(Vec<VolumeLine>),
    /// The answer to [`Request::Txn`] and [`Request::TxnRun`].
    Txn(Box<TxnAnswer>),
    /// The answer to [`Request::Mirror`], [`Request::MirrorSend`] and [`Request::MirrorReceive`].
    Mirror(Box<MirrorAnswer>),
    /// It could not be done: why, and what to do.
    Error(String),
    /// The answer of a client to [`Request::Status {}`].
    Client(Box<ClientStatus>),
}

/// What a daemon says of itself. Part of the machine-readable output: fields are only added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The cluster.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// The node.
    pub node: NodeStatus,
    /// Connections to the peers, as the transport describes them.
    pub links: serde_json::Value,
    /// Blobs stored here.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Mounts.
    pub mounts: Vec<MountStatus>,
    /// Transactions of users that are open.
    #[serde(default)]
    pub transactions: Vec<TxnLine>,
    /// Mirrors in this cluster, and how far each is.
    #[serde(default)]
    pub mirrors: Vec<mirror::MirrorLine>,
    /// Mirrors in other clusters that follow volumes of this one, and what they hold.
    #[serde(default)]
    pub followers: Vec<mirror::FollowerLine>,
}

/// A mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    pub path: PathBuf,
    /// Which volume.
    pub volume: u32,
}

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no daemon answers at {socket}: {cause}")]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It said something else than an answer.
    #[error("the daemon at {socket} answered with something else: {cause}")]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What.
        cause: String,
    },
}

/// Asks the daemon that listens at `socket`. Waits for the answer.
///
/// # Errors
/// [`AskError`].
pub fn ask(socket: &Path, request: &Request, patience: Duration) -> Result<Reply, AskError> {
    let not_running = |cause| AskError::NotRunning { socket: socket.into(), cause };
    let garbled = |cause: String| AskError::Garbled { socket: socket.into(), cause };
    let mut stream = StdUnixStream::connect(socket).map_err(not_running)?;
    stream.set_read_timeout(Some(patience)).map_err(not_running)?;
    stream.set_write_timeout(Some(patience)).map_err(not_running)?;
    let mut line = serde_json::to_string(request).map_err(|error| garbled(error.to_string()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(not_running)?;
    let mut answer = String::new();
    let mut limited = std::io::Read::take(BufReader::new(stream), ANSWER_BYTES_MAX);
    limited.read_line(&mut answer).map_err(not_running)?;
    serde_json::from_str(&answer).map_err(|error| garbled(error.to_string()))
}

/// Starts answering. Must be called within a tokio runtime.
pub(super) fn start(daemon: Arc<Daemon>) -> std::io::Result<()> {
    let path = daemon.config.control_socket.clone();
    // The data directory is locked by this process: a socket that is there belongs to a daemon that is not any more.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                match tokio::time::timeout(CLIENT_PATIENCE, serve(&daemon, stream)).await {
                    Ok(Ok(Some(Long::Past(volume, question, stream)))) => {
                        history::answer(daemon, volume, question, stream).await;
                    }
                    Ok(Ok(Some(Long::Run(begin, read, write)))) => txn::run(daemon, begin, read, write).await,
                    Ok(Ok(Some(Long::Send(ask, read, write)))) => mirror::send(daemon, ask, read, write).await,
                    Ok(Ok(Some(Long::Receive(ask, read, write)))) => mirror::receive(daemon, ask, read, write).await,
                    Ok(Err(error)) => tracing::debug!(%error, "control connection"),
                    Ok(Ok(None)) | Err(_) => {}
                }
            });
        }
    });
    Ok(())
}

/// What goes on for however long it takes.
enum Long {
    Past(VolumeId, Question, Stream),
    Run(TxnBegin, OwnedReadHalf, OwnedWriteHalf),
    Send(SendAsk, OwnedReadHalf, OwnedWriteHalf),
    Receive(ReceiveAsk, tokio::io::BufReader<tokio::io::Take<OwnedReadHalf>>, OwnedWriteHalf),
}

/// Gives back what is more than a question and an answer.
async fn serve(daemon: &Arc<Daemon>, stream: UnixStream) -> std::io::Result<Option<Long>> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
    read.read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(Request::Past { volume, question }) => {
            let stream = Stream::new(read.into_inner().into_inner(), write);
            return Ok(Some(Long::Past(VolumeId(volume), question, stream)));
        }
        Ok(Request::MirrorSend(ask)) => return Ok(Some(Long::Send(ask, read.into_inner().into_inner(), write))),
        Ok(Request::MirrorReceive(ask)) => {
            // What has come of the stream with the request is in the buffer.
            read.get_mut().set_limit(u64::MAX);
            return Ok(Some(Long::Receive(ask, read, write)));
        }
        Ok(Request::TxnRun(begin)) => return Ok(Some(Long::Run(begin, read.into_inner().into_inner(), write))),
        Ok(request) => answer(daemon, request).await,
        Err(error) => Reply::Error(format!("not a request that this version understands: {error}")),
    };
    let mut line = serde_json::to_string(&reply).map_err(std::io::Error::other)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await.map(|()| None)
}

async fn answer(daemon: &Arc<Daemon>, request: Request) -> Reply {
    match request {
        Request::Status {} => match status(daemon).await {
            Some(status) => Reply::Status(Box::new(status)),
            None => Reply::Error("the node is shutting down".into()),
        },
        Request::Mount { path, volume, options, at } => match mount_config(path, volume, &options, at.as_deref()) {
            Ok(mount) => reply(daemon.mount(mount).await, |()| Reply::Done),
            Err(error) => Reply::Error(error),
        },
        Request::Umount { path } => {
            let mounter = daemon.mounter.clone();
            let ended = blocking(move || mounter.umount(&path)).await;
            daemon.sync().await;
            ended
        }
        Request::Conflicts {} => reply(about::list(daemon).await, Reply::Conflicts),
        Request::ConflictShow { id } => {
            reply(about::show(daemon, id).await, |detail| Reply::Conflict(Box::new(detail)))
        }
        Request::ConflictReplay { id } => reply(about::replay(daemon, id).await, |()| Reply::Done),
        Request::ConflictDrop { ids } => reply(about::drop_some(daemon, ids).await, |()| Reply::Done),
        Request::Revert(ask) => reply(revert::revert(daemon, ask).await, Reply::Reverted),
        Request::Snapshots { volume } => reply(snapshots::list(daemon, VolumeId(volume)).await, Reply::Snapshots),
        Request::Snapshot { volume, change } => match snapshots::change(daemon, VolumeId(volume), change).await {
            Ok(Some(line)) => Reply::Snapshot(line),
            Ok(None) => Reply::Done,
            Err(error) => Reply::Error(error),
        },
        Request::Browse(ask) => reply(browse::browse(daemon, ask).await, |browsed| Reply::Browsed(Box::new(browsed))),
        Request::ReadAt(ask) => reply(browse::read(daemon, ask).await, Reply::Piece),
        Request::Past { .. } | Request::TxnRun(_) | Request::MirrorSend(_) | Request::MirrorReceive(_) => {
            Reply::Error("this is answered with many lines".into())
        }
        Request::Space { volume, path } => {
            reply(space::ask(daemon, VolumeId(volume), path).await, |space| Reply::Space(Box::new(space)))
        }
        Request::Txn { about } => reply(txn::answer(daemon, about).await, |answer| Reply::Txn(Box::new(answer))),
        Request::Retention { volume, about } => {
            let answer = retention::ask(daemon, VolumeId(volume), about).await;
            reply(answer, |status| Reply::Retention(Box::new(status)))
        }
        Request::Schedule { volume, about } => {
            reply(snapshots::schedule(daemon, VolumeId(volume), about).await, Reply::Schedule)
        }
        Request::Volume(ask) => reply(volumes::ask(daemon, ask).await, Reply::Volumes),
        Request::Mirror { about } => reply(mirror::ask(daemon, about).await, |answer| Reply::Mirror(Box::new(answer))),
        Request::Stop {} => {
            daemon.tell_to_stop();
            Reply::Done
        }
    }
}

fn reply<T>(done: Result<T, String>, reply: impl FnOnce(T) -> Reply) -> Reply {
    done.map_or_else(Reply::Error, reply)
}

async fn blocking(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Reply {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Reply::Done,
        Ok(Err(error)) => Reply::Error(error),
        Err(error) => Reply::Error(error.to_string()),
    }
}

/// A mount as it is asked for.
///
/// # Errors
/// What of it can't be, in words.
pub fn mount_config(
    path: PathBuf,
    volume: VolumeRef,
    names: &[String],
    at: Option<&str>,
) -> Result<MountConfig, String> {
    let mut options = Vec::new();
    for name in names {
        let known = MountOption::ALL.iter().find(|(_, known)| known == name);
        let (option, _) = known.ok_or_else(|| {
            let all: Vec<&str> = MountOption::ALL.iter().map(|(_, name)| *name).collect();
            format!("there is no mount option {name:?}; there are {}", all.join(", "))
        })?;
        options.push(*option);
    }
    let at = at.map(str::parse::<At>).transpose().map_err(|error| error.to_string())?;
    Ok(MountConfig { path, volume, options, at })
}

fn mount_status(mount: MountConfig) -> MountStatus {
    // What is mounted has been found out.
    MountStatus { path: mount.path, volume: mount.volume.number().map_or(0, |volume| volume.0) }
}

async fn status(daemon: &Daemon) -> Option<DaemonStatus> {
    let (reply, status) = tokio::sync::oneshot::channel();
    daemon.node.inbox.push(Input::Status(reply));
    let node = status.await.ok()?;
    let blobs = daemon.blobs.stats();
    let mounts = daemon.mounter.mounts();
    Some(DaemonStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        cluster: daemon.config.cluster.to_string(),
        name: daemon.config.name.clone(),
        data_dir: daemon.config.data_dir.clone(),
        node,
        links: serde_json::to_value(daemon.transport.link_state()).unwrap_or_default(),
        blobs: blobs.blobs,
        blob_bytes: blobs.bytes,
        mounts: mounts.into_iter().map(mount_status).collect(),
        transactions: daemon.transactions.list(daemon),
        mirrors: mirror::mirrors(daemon, |_| true).await,
        followers: mirror::followers(daemon).await,
    })
}
