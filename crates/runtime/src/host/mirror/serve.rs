//! Streams to mirrors that follow a volume of this cluster, from this peer.
//!
//! What a mirror has come to, its connection says. It is written down in the replicated state every [`RECORD_EVERY`], and when the connection ends, and from
//! there on history waits for the mirror.

use super::send::{self, Piece};
use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use crate::host::volumes;
use crate::net::Guest;
use gavel_mirror::follow::FOLLOW_PIECE_BYTES_MAX;
use gavel_mirror::{Ahead, Greeting, Hearing, Partial, Said};
use gavel_types::{Selection, Tid, VolumeId};
use gavel_wire::RequestBody;
use gavel_wire::past::Past;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;

/// Mirrors that follow through one peer at a time.
const FOLLOWERS_SERVED_MAX: usize = 16;
/// Greetings that are judged at a time.
const GREETINGS_MAX: usize = 64;
/// Pieces of a stream that wait to be written to a mirror: each has 4 MiB at most, but most have 64 KiB.
const PIECES_QUEUED_MAX: usize = 2;
/// A mirror hears at least so often that its source is there, and how far ahead.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// What a mirror has come to is written down so often, if it has moved.
const RECORD_EVERY: Duration = Duration::from_secs(5);
/// How long the quorum may take for that.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
/// A mirror that takes nothing for so long is given up: it may wait for its own quorum for half of that.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// States on the way to a mirror whose place in the stream is remembered.
const MARKS_MAX: usize = 1024;
const DISMISSED: &str = "the mirror was dismissed at its source";
/// Rows of the change index that are looked at to say how many transactions a mirror is behind.
const AHEAD_ROWS_MAX: usize = 4096;

/// Who follows through this peer.
pub struct Followers {
    asking: Arc<Semaphore>,
    places: Arc<Semaphore>,
    connected: Mutex<BTreeMap<(VolumeId, Box<str>), Connected>>,
}

/// A mirror that follows through this peer now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connected {
    /// Which connection: a later one may have taken the place of this.
    number: u64,
    pub(super) ahead: Ahead,
    /// The state that it has told of.
    pub(super) reached: Tid,
    /// Bytes of the stream that were sent to it.
    pub(super) sent: u64,
}

impl Default for Followers {
    fn default() -> Followers {
        let (asking, places) = (Semaphore::new(GREETINGS_MAX), Semaphore::new(FOLLOWERS_SERVED_MAX));
        Followers { asking: Arc::new(asking), places: Arc::new(places), connected: Mutex::default() }
    }
}

impl Followers {
    pub(super) fn connected(&self, volume: VolumeId, name: &str) -> Option<Connected> {
        self.connected.lock().get(&(volume, name.into())).copied()
    }
}

/// Answers a mirror, and sends it what it lacks, for as long as that takes.
pub async fn serve(daemon: Arc<Daemon>, guest: Guest) {
    let (greeting, admitted) = match ask(&daemon, &guest).await {
        Ok(asked) => asked,
        Err(why) => {
            // Anybody can come so far: a louder line would let strangers fill the disk.
            tracing::debug!(%why, "a mirror was turned away");
            return guest.refuse(&why).await;
        }
    };
    let Ok(_place) = daemon.followers.places.clone().try_acquire_owned() else {
        let why = "as many mirrors follow through this node as may: another peer of the source may have room";
        return guest.refuse(why).await;
    };
    let (volume, mirror) = (greeting.volume, greeting.name.clone());
    match guest.welcome().await {
        Ok(_) if greeting.only_asks => {}
        Ok(stream) => {
            tracing::info!(%volume, %mirror, from = %greeting.from, "a mirror follows");
            let why = Serving::new(&daemon, &greeting, admitted).run(stream).await;
            tracing::info!(%volume, %mirror, %why, "a mirror does not follow through this node any more");
        }
        Err(error) => tracing::debug!(%error, "a mirror has gone"),
    }
}

/// May it follow? So many are asked about at a time: those who have no key take no place of those who have one.
async fn ask(daemon: &Daemon, guest: &Guest) -> Result<(Greeting, Admitted), String> {
    let asking = daemon.followers.asking.clone().try_acquire_owned();
    let _asking = asking.map_err(|_| "too many ask at a time: try again")?;
    admitted(daemon, guest.greeting()).await
}

/// With what right a mirror follows: since when, and which part of the volume it may read.
struct Admitted {
    since: Tid,
    selection: Selection,
}

/// Is the greeting that of a mirror which may follow? With what right?
async fn admitted(daemon: &Daemon, greeting: &[u8]) -> Result<(Greeting, Admitted), String> {
    let greeting = Greeting::decode(greeting).map_err(|error| error.to_string())?;
    if greeting.cluster != daemon.config().cluster {
        return Err(format!(
            "the invitation is of cluster {}, this is cluster {}",
            greeting.cluster,
            daemon.config().cluster
        ));
    }
    // It may have been admitted, or dismissed, through another node a moment ago.
    volumes::confirm(&daemon.node).await;
    let past = daemon.node.past.read();
    let volume = past.of(greeting.volume).filter(|past| past.is_living() && past.made == greeting.made);
    let follower = volume.and_then(|past| past.followers.get(&greeting.name));
    let follower = follower.filter(|follower| follower.key == greeting.key.hash());
    let admitted =
        follower.map(|follower| Admitted { since: follower.admitted, selection: follower.selection.clone() });
    // Whoever has no key is not to learn from this which volumes and names there are.
    let none = "the invitation is not valid (any more): the mirror was dismissed at its source, or its volume destroyed. \
                `gavel mirror admit` at the source makes another invitation";
    admitted.map(|admitted| (greeting, admitted)).ok_or_else(|| none.to_owned())
}

/// How far a mirror has come.
struct Progress {
    reached: Tid,
    /// Bytes that were sent; how many of them lead to states, the last of which has not been reached.
    sent: u64,
    marks: VecDeque<(Tid, u64)>,
    /// Bytes that lead to the state that was reached.
    taken: u64,
}

impl Progress {
    fn sent(&mut self, bytes: u64, state: Option<Tid>) {
        self.sent += bytes;
        if let Some(state) = state {
            if self.marks.len() >= MARKS_MAX {
                self.marks.pop_back();
            }
            self.marks.push_back((state, self.sent));
        }
    }

    fn reached(&mut self, state: Tid) {
        self.reached = self.reached.max(state);
        while let Some((mark, bytes)) = self.marks.front().copied()
            && mark <= self.reached
        {
            self.taken = bytes;
            self.marks.pop_front();
        }
    }
}

struct Serving<'a> {
    daemon: &'a Arc<Daemon>,
    volume: VolumeId,
    name: Box<str>,
    admitted: Tid,
    /// Nothing else is sent, whatever the mirror says.
    selection: Selection,
    from: (Tid, Option<Partial>),
    progress: Mutex<Progress>,
    number: u64,
}

impl<'a> Serving<'a> {
    fn new(daemon: &'a Arc<Daemon>, greeting: &Greeting, admitted: Admitted) -> Serving<'a> {
        let Admitted { since: admitted, selection } = admitted;
        let (volume, name, from) = (greeting.volume, greeting.name.clone(), (greeting.from, greeting.partial));
        let progress = Progress { reached: greeting.from, sent: 0, marks: VecDeque::new(), taken: 0 };
        let number = daemon.node.clocks.now().0;
        Serving { daemon, volume, name, admitted, selection, from, progress: Mutex::new(progress), number }
    }

    /// Until one side has enough; says why.
    async fn run(self, stream: TlsStream<TcpStream>) -> String {
        let (read, write) = tokio::io::split(stream);
        let (pieces, queue) = mpsc::channel(PIECES_QUEUED_MAX);
        let sending = async {
            match send::follow(self.daemon, self.volume, self.from, self.selection.clone(), &pieces).await {
                Ok(why) => why,
                // It is the writer who ends it then, and says why.
                Err(send::Gone) => std::future::pending().await,
            }
        };
        let why = {
            let writing = self.write(write, queue, sending);
            tokio::select! {
                why = writing => why,
                why = self.hear(read) => why,
            }
        };
        self.leave();
        self.record().await;
        why
    }

    /// It does not follow through this node any more, unless another connection has come meanwhile.
    fn leave(&self) {
        let key = (self.volume, self.name.clone());
        let mut connected = self.daemon.followers.connected.lock();
        if connected.get(&key).is_some_and(|connected| connected.number == self.number) {
            connected.remove(&key);
        }
    }

    /// Writes what is sent, and once a second how far ahead the source is; at the end, why there is no more.
    async fn write(
        &self,
        mut write: WriteHalf<TlsStream<TcpStream>>,
        mut queue: mpsc::Receiver<Piece>,
        sending: impl Future<Output = String>,
    ) -> String {
        tokio::pin!(sending);
        let mut beat = tokio::time::interval(BEAT_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut recorded, mut recorded_at) = (Tid::ZERO, None::<Instant>);
        loop {
            let said = tokio::select! {
                Some(piece) = queue.recv() => match self.is_admitted() {
                    true => self.write_piece(&mut write, piece).await,
                    false => return end(&mut write, DISMISSED.into()).await,
                },
                why = &mut sending => return end(&mut write, why).await,
                _ = beat.tick() => {
                    if !self.is_admitted() {
                        return end(&mut write, DISMISSED.into()).await;
                    }
                    let reached = self.progress.lock().reached;
                    if reached > recorded && recorded_at.is_none_or(|at| at.elapsed() >= RECORD_EVERY) {
                        (recorded, recorded_at) = (reached, Some(Instant::now()));
                        tokio::spawn(self.record());
                    }
                    let ahead = self.ahead().await;
                    say(&mut write, &Said::Ahead(ahead)).await
                }
            };
            if let Err(why) = said {
                return why;
            }
        }
    }

    async fn write_piece(&self, write: &mut WriteHalf<TlsStream<TcpStream>>, piece: Piece) -> Result<(), String> {
        for bytes in piece.bytes.chunks(FOLLOW_PIECE_BYTES_MAX) {
            say(write, &Said::Bytes(bytes.to_vec())).await?;
        }
        self.progress.lock().sent(piece.bytes.len() as u64, piece.state);
        Ok(())
    }

    /// Hears what the mirror has come to.
    async fn hear(&self, mut read: ReadHalf<TlsStream<TcpStream>>) -> String {
        let (mut hearing, mut bytes) = (Hearing::default(), [0; 1024]);
        loop {
            match read.read(&mut bytes).await {
                Ok(0) => return "the mirror has gone".into(),
                Ok(len) => hearing.push(&bytes[..len]),
                Err(error) => return format!("the mirror has gone: {error}"),
            }
            loop {
                match hearing.take() {
                    Ok(Some(Said::Reached(state))) => self.progress.lock().reached(state),
                    Ok(Some(_)) => return "the mirror says what only a source says".into(),
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                }
            }
        }
    }

    fn is_admitted(&self) -> bool {
        let past = self.daemon.node.past.read();
        let follower =
            past.of(self.volume).filter(|past| past.is_living()).and_then(|past| past.followers.get(&self.name));
        follower.is_some_and(|follower| follower.admitted == self.admitted)
    }

    /// Writes down what the mirror has come to.
    fn record(&self) -> impl Future<Output = ()> + Send + 'static {
        let (daemon, volume, name) = (self.daemon.clone(), self.volume, self.name.clone());
        let (admitted, at) = (self.admitted, self.progress.lock().reached);
        async move {
            if at == Tid::ZERO {
                return;
            }
            let body = RequestBody::FollowerReached { volume, name: name.clone(), admitted, at };
            match request(&daemon.node, body, RECORD_PATIENCE, "gavel mirror list").await {
                Ok(()) => {}
                Err(Asked::Refused(refusal)) => tracing::debug!(%volume, mirror = %name, ?refusal, "not written down"),
                Err(Asked::Failed(cause)) => {
                    tracing::warn!(%volume, mirror = %name, %cause, "what a mirror has come to could not be written down");
                }
            }
        }
    }

    /// How far the source is ahead of what the mirror has told of.
    async fn ahead(&self) -> Ahead {
        let (reached, bytes, sent) = {
            let progress = self.progress.lock();
            (progress.reached, progress.sent - progress.taken, progress.sent)
        };
        let (node, volume) = (self.daemon.node.clone(), self.volume);
        let counted = tokio::task::spawn_blocking(move || {
            let now = node.tid();
            (now, transactions(&node.records.past(now), volume, reached, now))
        });
        let (now, (transactions, more)) = counted.await.unwrap_or((reached, (0, true)));
        let ahead = Ahead { now, transactions, more, bytes };
        let connected = Connected { number: self.number, ahead, reached, sent };
        self.daemon.followers.connected.lock().insert((self.volume, self.name.clone()), connected);
        ahead
    }
}

/// How many transactions have changed a volume behind a state, as far as so many rows of the change index say; and whether there are more.
pub(super) fn transactions(past: &dyn Past, volume: VolumeId, after: Tid, upto: Tid) -> (u32, bool) {
    if after == Tid::ZERO {
        return (0, true);
    }
    let (mut count, mut last) = (0, after);
    for (row, touched) in past.touched(after, upto).enumerate() {
        let Ok(touched) = touched else { return (count, true) };
        if row >= AHEAD_ROWS_MAX {
            return (count, true);
        }
        if touched.key.volume() == volume && touched.tid > last {
            (count, last) = (count + 1, touched.tid);
        }
    }
    (count, false)
}

/// Says why there is no more, and gives it back.
async fn end(write: &mut WriteHalf<TlsStream<TcpStream>>, why: String) -> String {
    // Whoever does not hear it finds the connection closed.
    let _ = say(write, &Said::end(&why)).await;
    let _ = write.shutdown().await;
    why
}

async fn say(write: &mut WriteHalf<TlsStream<TcpStream>>, said: &Said) -> Result<(), String> {
    let bytes = said.encode();
    let written = async {
        write.write_all(&bytes).await?;
        write.flush().await
    };
    match tokio::time::timeout(WRITE_PATIENCE, written).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the mirror has gone: {error}")),
        Err(_) => Err("the mirror has taken nothing for too long".into()),
    }
}
