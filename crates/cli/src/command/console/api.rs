//! What the page asks. Each question is put to the daemon, on a thread that may wait for it.

use super::names::{decoded_path, encoded, encoded_path, of_escaped};
use super::server::Shared;
use crate::past::{Users, ask, words};
use crate::target::Target;
use axum::Json;
use axum::body::Body;
use axum::extract::{Form, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use gavel_history::{HistoryLine, RemovedLine};
use gavel_runtime::host::browse::{BrowseAsk, Browsed, ENTRIES_MAX, Entry, PIECE_BYTES_MAX, Piece, ReadAsk};
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::history::{Line, Question};
use gavel_runtime::host::revert::{RevertAsk, RevertDone};
use gavel_runtime::host::snapshots::SnapshotLine;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most bytes of a file that the page shows as text.
const TEXT_BYTES_MAX: u32 = 256 * 1024;
/// Most versions of a path, and removed names of a directory, that the page is told of.
const LINES_MAX: usize = 200;

/// What the page is a page of.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The volume.
    pub volume: u32,
    /// The node's name.
    pub node: String,
    /// Where the volume is mounted on this machine, for command lines.
    pub mount: Option<String>,
}

/// Why there is no answer, as the page gets it.
pub struct Failed(StatusCode, String);

impl Failed {
    fn bad(what: &str) -> Failed {
        Failed(StatusCode::BAD_REQUEST, what.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Failed {
        Failed(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}"))
    }
}

type Answered<T> = Result<Json<T>, Failed>;

/// Which path, in which state.
#[derive(Debug, Deserialize)]
pub struct Where {
    #[serde(default)]
    path: String,
    at: Option<String>,
    /// Names behind this one.
    after: Option<String>,
}

impl Where {
    fn path(&self) -> Result<Vec<u8>, Failed> {
        path(&self.path)
    }
}

fn path(encoded: &str) -> Result<Vec<u8>, Failed> {
    decoded_path(encoded).ok_or_else(|| Failed::bad("a name has a slash in it"))
}

/// Does what may wait on a thread of its own.
async fn waiting<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Target) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Failed> {
    let shared = shared.clone();
    let done = tokio::task::spawn_blocking(move || work(&shared.target)).await;
    let broken = |error: tokio::task::JoinError| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    Ok(done.map_err(broken)??)
}

fn something_else() -> anyhow::Error {
    anyhow::anyhow!("the daemon answered something else than it was asked")
}

/// Asks the daemon who it is.
///
/// # Errors
/// Why it could not be asked.
pub fn about(target: &Target) -> anyhow::Result<About> {
    let Reply::Status(status) = target.ask(&Request::Status {})? else { return Err(something_else()) };
    let mount = status.mounts.iter().find(|mount| mount.volume == target.volume);
    let mount = mount.map(|mount| mount.path.display().to_string());
    Ok(About { volume: target.volume, node: status.name, mount })
}

pub async fn told(State(shared): State<Arc<Shared>>) -> Json<About> {
    Json(shared.about.clone())
}

/// An object with its name, and the name as it stands in addresses.
#[derive(Serialize)]
pub struct Named {
    id: String,
    user: String,
    #[serde(flatten)]
    entry: Entry,
}

/// What is at a path.
#[derive(Serialize)]
pub struct Seen {
    at: String,
    time: String,
    first_ms: u64,
    now_ms: u64,
    at_ms: u64,
    here: Named,
    entries: Vec<Named>,
    more: bool,
}

pub async fn browse(State(shared): State<Arc<Shared>>, Query(place): Query<Where>) -> Answered<Seen> {
    let after = place.after.as_deref().map(path).transpose()?;
    let (path, at) = (place.path()?, place.at);
    let seen = waiting(&shared, move |target| {
        let ask = BrowseAsk { volume: target.volume, path, at, after, limit: ENTRIES_MAX };
        match target.ask(&Request::Browse(ask))? {
            Reply::Browsed(browsed) => Ok(seen(*browsed)),
            _ => Err(something_else()),
        }
    });
    seen.await.map(Json)
}

fn seen(browsed: Browsed) -> Seen {
    let mut users = Users::default();
    let mut named = |entry: Entry| Named {
        id: encoded(entry.bytes.as_deref().unwrap_or(entry.name.as_bytes())),
        user: users.name(entry.uid),
        entry,
    };
    let Browsed { at, time, first_ns, now_ns, at_ns, here, entries, more } = browsed;
    let ms = |ns: u64| ns / 1_000_000;
    Seen {
        at,
        time,
        first_ms: ms(first_ns),
        now_ms: ms(now_ns),
        at_ms: ms(at_ns),
        here: named(here),
        entries: entries.into_iter().map(named).collect(),
        more,
    }
}

pub async fn snapshots(State(shared): State<Arc<Shared>>) -> Answered<Vec<SnapshotLine>> {
    let snapshots = waiting(&shared, |target| match target.ask(&Request::Snapshots { volume: target.volume })? {
        Reply::Snapshots(lines) => Ok(lines),
        _ => Err(something_else()),
    });
    snapshots.await.map(Json)
}

/// Lines about the past, and whether there are older ones.
#[derive(Serialize)]
pub struct Lines<T> {
    lines: Vec<T>,
    more: bool,
}

/// A transaction that changed a path.
#[derive(Serialize)]
pub struct Version {
    /// The path behind it, encoded.
    id: String,
    user: Option<String>,
    /// What was done, in words.
    words: String,
    #[serde(flatten)]
    line: HistoryLine,
}

/// A name that was removed.
#[derive(Serialize)]
pub struct Removed {
    id: String,
    user: Option<String>,
    #[serde(flatten)]
    line: RemovedLine,
}

fn lines<T>(target: &Target, question: Question, mut each: impl FnMut(Line) -> Option<T>) -> anyhow::Result<Lines<T>> {
    let mut told = Lines { lines: Vec::new(), more: false };
    ask(target, question, false, |line| {
        match line {
            Line::More { .. } => told.more = true,
            line => told.lines.push(each(line).ok_or_else(something_else)?),
        }
        Ok(())
    })?;
    Ok(told)
}

pub async fn history(State(shared): State<Arc<Shared>>, Query(place): Query<Where>) -> Answered<Lines<Version>> {
    let question = Question::History { path: place.path()?, at: place.at, limit: LINES_MAX };
    let told = waiting(&shared, move |target| {
        let mut users = Users::default();
        lines(target, question, |line| match line {
            Line::History(line) => Some(Version {
                id: encoded_path(&of_escaped(&line.path)),
                user: line.uid.map(|uid| users.name(uid)),
                words: words(&line.changes),
                line,
            }),
            _ => None,
        })
    });
    told.await.map(Json)
}

pub async fn removed(State(shared): State<Arc<Shared>>, Query(place): Query<Where>) -> Answered<Lines<Removed>> {
    let question = Question::Removed { path: place.path()?, at: place.at, limit: LINES_MAX };
    let told = waiting(&shared, move |target| {
        let mut users = Users::default();
        lines(target, question, |line| match line {
            Line::Removed(line) => {
                Some(Removed { id: encoded(&of_escaped(&line.name)), user: line.uid.map(|uid| users.name(uid)), line })
            }
            _ => None,
        })
    });
    told.await.map(Json)
}

/// A file as text.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    /// The state, as a transaction.
    at: String,
    /// The file's length in bytes.
    size: u64,
    /// Its beginning; none if it is no text.
    text: Option<String>,
    /// There is more of it than that.
    cut: bool,
}

pub async fn text(State(shared): State<Arc<Shared>>, Query(place): Query<Where>) -> Answered<Text> {
    let (path, at) = (place.path()?, place.at);
    let read = waiting(&shared, move |target| {
        let piece = piece(target, path, at, 0, TEXT_BYTES_MAX)?;
        let bytes = piece.bytes()?;
        let cut = (bytes.len() as u64) < piece.size;
        Ok(Text { at: piece.at, size: piece.size, text: as_text(bytes, cut), cut })
    });
    read.await.map(Json)
}

/// The bytes as text, if they are one. What is cut may end in the middle of a character.
fn as_text(mut bytes: Vec<u8>, cut: bool) -> Option<String> {
    if bytes.contains(&0) {
        return None;
    }
    if let Err(error) = std::str::from_utf8(&bytes)
        && error.error_len().is_none()
        && cut
    {
        bytes.truncate(error.valid_up_to());
    }
    String::from_utf8(bytes).ok()
}

fn piece(target: &Target, path: Vec<u8>, at: Option<String>, offset: u64, len: u32) -> anyhow::Result<Piece> {
    match target.ask(&Request::ReadAt(ReadAsk { volume: target.volume, path, at, offset, len }))? {
        Reply::Piece(piece) => Ok(piece),
        _ => Err(something_else()),
    }
}

/// What is to be brought back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    path: String,
    at: String,
    dry_run: bool,
}

pub async fn restore(State(shared): State<Arc<Shared>>, Json(wanted): Json<Restore>) -> Answered<RevertDone> {
    let path = path(&wanted.path)?;
    if path.is_empty() {
        return Err(Failed::bad("the whole volume is not brought back here: gavel undo --at AT MOUNT"));
    }
    let done = waiting(&shared, move |target| {
        let uid = rustix::process::geteuid().as_raw();
        let (volume, at, dry_run) = (target.volume, Some(wanted.at), wanted.dry_run);
        match target.ask(&Request::Revert(RevertAsk { volume, path, at, to: None, dry_run, uid }))? {
            Reply::Reverted(done) => Ok(done),
            _ => Err(something_else()),
        }
    });
    done.await.map(Json)
}

/// Which file is to be saved. The key stands in the form: no header can be given to what the browser saves by itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    key: String,
    path: String,
    at: String,
}

pub async fn download(State(shared): State<Arc<Shared>>, Form(wanted): Form<Download>) -> Result<Response, Failed> {
    shared.guard.is_key(&wanted.key).map_err(|refused| Failed(StatusCode::FORBIDDEN, refused.words().into()))?;
    let busy = |_| Failed(StatusCode::SERVICE_UNAVAILABLE, "too many files are being saved: try again".into());
    let permit = shared.downloads.clone().try_acquire_owned().map_err(busy)?;
    let path = path(&wanted.path)?;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let disposition = format!("attachment; filename*=UTF-8''{}", encoded(name));
    let (first_path, at) = (path.clone(), wanted.at);
    let first = waiting(&shared, move |target| {
        let piece = piece(target, first_path, Some(at), 0, PIECE_BYTES_MAX)?;
        Ok((piece.bytes()?, piece))
    });
    let (bytes, Piece { at, size, .. }) = first.await?;
    // From here on it is the state that the first piece was of. What fails breaks the connection off: the browser says that the file is not whole.
    let saving = Saving { shared, path, at, size, sent: 0, next: Some(bytes), _permit: permit };
    let body = Body::from_stream(futures_util::stream::unfold(saving, Saving::step));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CONTENT_LENGTH, size.to_string()),
    ];
    Ok((headers, body).into_response())
}

/// A file on its way, piece by piece.
struct Saving {
    shared: Arc<Shared>,
    path: Vec<u8>,
    at: String,
    size: u64,
    sent: u64,
    /// A piece that was read already.
    next: Option<Vec<u8>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Saving {
    async fn step(mut self) -> Option<(std::io::Result<Vec<u8>>, Saving)> {
        if self.sent >= self.size {
            return None;
        }
        let read = match self.next.take() {
            Some(bytes) => Ok(bytes),
            None => {
                let (path, at, offset) = (self.path.clone(), self.at.clone(), self.sent);
                waiting(
                    &self.shared,
                    move |target| Ok(piece(target, path, Some(at), offset, PIECE_BYTES_MAX)?.bytes()?),
                )
                .await
                .map_err(|Failed(_, cause)| std::io::Error::other(cause))
            }
        };
        let read = read.and_then(|bytes| match bytes.is_empty() {
            true => Err(std::io::ErrorKind::UnexpectedEof.into()),
            false => Ok(bytes),
        });
        match &read {
            Ok(bytes) => self.sent += bytes.len() as u64,
            Err(_) => self.sent = self.size,
        }
        Some((read, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_character_does_not_make_a_text_binary() {
        let text = "grün".as_bytes().to_vec();
        assert_eq!(as_text(text[..3].to_vec(), true).as_deref(), Some("gr"));
        assert_eq!(as_text(text[..3].to_vec(), false), None);
        assert_eq!(as_text(text, true).as_deref(), Some("grün"));
        assert_eq!(as_text(vec![b'a', 0, b'b'], false), None);
        assert_eq!(as_text(vec![b'a', 0xff, b'b'], true), None);
        assert_eq!(as_text(Vec::new(), false).as_deref(), Some(""));
    }
}
