//! A stream into a mirror.

use super::follow::FollowFeed;
use super::{MirrorAnswer, ReceiveAsk, Received, chunks};
use crate::host::asked::{Asked, request};
use crate::host::blobs::Blobs;
use crate::host::control::Reply;
use crate::host::daemon::Daemon;
use crate::host::node::{Input, NodeView, WaitError};
use crate::host::volumes;
use gavel_mirror::stream::ROWS_BYTES_MAX;
use gavel_mirror::{
    Act, Broken, Decoder, Ends, Frame, Header, NotTaken, Partial, Parts, Receiver, Row, Rows, Standing, StepHead,
};
use gavel_txn::mirrors::{Mirror, Step};
use gavel_types::{BlobId, KeyRange, MirrorSource, ObjectId, Selection, Tid, VolumeId, VolumeRef};
use gavel_wire::past::Past;
use gavel_wire::{MirrorStep, Outcome, Refusal, RequestBody};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{BufReader, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How long the quorum may take for one part.
const PATIENCE: Duration = Duration::from_secs(30);
/// Parts that are under way at a time.
const PARTS_ASKED_MAX: usize = 64;
/// Their bytes, about: a part of 1 MiB counts as such, a small one hardly.
const ROWS_ASKED_MAX: usize = 64 * 1024;
/// Blobs that are being stored at a time.
const BLOBS_STORED_MAX: usize = 16;
/// The asker hears at most so often how far it is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Receives a stream, for as long as that takes.
pub async fn receive(
    daemon: Arc<Daemon>,
    ask: ReceiveAsk,
    mut read: BufReader<Take<OwnedReadHalf>>,
    mut write: OwnedWriteHalf,
) {
    let mut feed = Feed::Control { read: &mut read, write: &mut write, told: Instant::now() };
    let received = Receiving::run(&daemon, Meant::Asked(ask), &mut feed).await;
    let reply = match received {
        Ok(received) => Reply::Mirror(Box::new(MirrorAnswer::Received(received))),
        Err(cause) => Reply::Error(cause),
    };
    if let Err(error) = chunks::line(&mut write, &reply).await {
        tracing::debug!(%error, "control connection");
    }
}

/// Receives what a peer of the source sends, until it can't go on. Says why.
pub(super) async fn follow(daemon: &Arc<Daemon>, volume: VolumeId, feed: FollowFeed) -> String {
    let mut feed = Feed::Follow(Box::new(feed));
    match Receiving::run(daemon, Meant::Known(volume), &mut feed).await {
        Ok(_) => "the source has ended the stream".into(),
        Err(cause) => cause,
    }
}

/// Which mirror a stream is for.
enum Meant {
    Asked(ReceiveAsk),
    Known(VolumeId),
}

/// Where a stream comes from.
enum Feed<'a> {
    Control { read: &'a mut BufReader<Take<OwnedReadHalf>>, write: &'a mut OwnedWriteHalf, told: Instant },
    Follow(Box<FollowFeed>),
}

impl Feed<'_> {
    /// Some more bytes; none behind the last.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Feed::Control { read, .. } => {
                chunks::read(read).await.map_err(|_| "who gave the stream has gone away".to_owned())
            }
            Feed::Follow(feed) => feed.next().await.map(Some),
        }
    }

    /// A mirror has moved, or is about to: whoever watches hears of it.
    async fn tell(&mut self, received: &Received, state: impl FnOnce() -> Tid) -> Result<(), String> {
        match self {
            Feed::Control { write, told, .. } if told.elapsed() >= TELL_EVERY => {
                *told = Instant::now();
                let moved = Received { state: state().to_string(), ..received.clone() };
                let line = chunks::line(write, &Reply::Mirror(Box::new(MirrorAnswer::Moved(moved)))).await;
                line.map_err(|_| "who gave the stream has gone away".to_owned())
            }
            Feed::Control { .. } => Ok(()),
            Feed::Follow(feed) => feed.tell().await,
        }
    }

    /// The source has said that the copy would be as it is, as of this state.
    fn on_reached(&mut self, state: Tid) {
        if let Feed::Follow(feed) = self {
            feed.on_reached(state);
        }
    }
}

/// Takes a mirror back to its boundary, from half of a step.
///
/// # Errors
/// What went wrong, in words.
pub(super) async fn go_back(daemon: &Arc<Daemon>, volume: VolumeId) -> Result<(), String> {
    Receiving::new(daemon, volume).go_back().await
}

/// The way to an outcome.
type Answer = oneshot::Receiver<Result<(Option<Outcome>, NodeView), WaitError>>;

struct Receiving<'a> {
    daemon: &'a Arc<Daemon>,
    volume: VolumeId,
    name: String,
    /// Parts under way, and how many rows each has.
    asked: VecDeque<(Answer, usize)>,
    rows_asked: usize,
    storing: JoinSet<Result<Tid, String>>,
    /// What was stored was so as of this transaction, since the last part.
    stored_as_of: Tid,
    /// Blobs of the step that is under way.
    had: BTreeSet<BlobId>,
    /// Ends are of what is there as of this state of the mirror; none: as of its boundary.
    ends_of: Option<Tid>,
    received: Received,
}

impl<'a> Receiving<'a> {
    async fn run(daemon: &'a Arc<Daemon>, meant: Meant, feed: &mut Feed<'_>) -> Result<Received, String> {
        volumes::confirm(&daemon.node).await;
        let mut decoder = Decoder::new();
        let (header, bytes) = first(&mut decoder, feed).await?;
        let volume = match &meant {
            Meant::Asked(ask) => mirror(daemon, ask, &header).await?,
            Meant::Known(volume) => *volume,
        };
        let mut receiving = Receiving::new(daemon, volume);
        receiving.received.bytes = bytes;
        let taken = receiving.take_all(header, decoder, feed).await;
        // What was complete counts, however it ended.
        let settled = receiving.settle().await;
        receiving.received.state = receiving.state().to_string();
        match (taken.and(settled), meant) {
            (Ok(()), _) => Ok(receiving.received),
            (Err(cause), Meant::Asked(_)) => Err(receiving.failed(&cause)),
            (Err(cause), Meant::Known(_)) => Err(cause),
        }
    }

    fn new(daemon: &'a Arc<Daemon>, volume: VolumeId) -> Receiving<'a> {
        let name = daemon.node.past.read().of(volume).map_or_else(String::new, |past| past.name.to_string());
        Receiving {
            daemon,
            volume,
            name: name.clone(),
            asked: VecDeque::new(),
            rows_asked: 0,
            storing: JoinSet::new(),
            stored_as_of: Tid::MAX,
            had: BTreeSet::new(),
            ends_of: None,
            received: Received { volume: volume.0, name, ..Received::default() },
        }
    }

    /// What went wrong, and where to go on.
    fn failed(&self, cause: &str) -> String {
        let place = place(self.daemon, self.volume);
        format!(
            "{cause}\nHint: mirror {} shows state {} of its source, whole; go on with: gavel mirror send ... --from {} | gavel mirror receive {0}",
            self.name,
            place.0,
            in_words(place)
        )
    }

    fn state(&self) -> Tid {
        state(self.daemon, self.volume)
    }

    async fn take_all(&mut self, header: Header, mut decoder: Decoder, feed: &mut Feed<'_>) -> Result<(), String> {
        let mut receiver = Receiver::new(standing(self.daemon, self.volume)?);
        receiver.take(Frame::Header(header)).map_err(|error| said(&error, &self.name))?;
        loop {
            while let Some(frame) = decoder.read().map_err(|error| error.to_string())? {
                let reached = if let Frame::Reached(state) = frame { Some(state) } else { None };
                let acts = receiver.take(frame).map_err(|error| said(&error, &self.name))?;
                for act in acts {
                    self.act(act, &mut receiver).await?;
                }
                let Received { steps, passed_over, rows, .. } = &mut self.received;
                (*steps, *passed_over, *rows) = (receiver.steps, receiver.passed_over, receiver.rows);
                if let Some(state) = reached.filter(|_| self.asked.is_empty()) {
                    feed.on_reached(state);
                }
                feed.tell(&self.received, || state(self.daemon, self.volume)).await?;
            }
            // Without more to do, what is under way is waited for meanwhile.
            let Some(chunk) = self.next(feed).await? else { break };
            self.received.bytes += chunk.len() as u64;
            decoder.push(&chunk);
        }
        decoder.finish().map_err(|error| error.to_string())
    }

    /// The next chunk. Refusals are heard of while nothing comes.
    async fn next(&mut self, feed: &mut Feed<'_>) -> Result<Option<Vec<u8>>, String> {
        let chunk = feed.next();
        tokio::pin!(chunk);
        loop {
            let Some((first, rows)) = self.asked.front_mut() else {
                return chunk.await;
            };
            tokio::select! {
                biased;
                chunk = &mut chunk => return chunk,
                outcome = first => {
                    self.rows_asked -= *rows;
                    self.asked.pop_front();
                    judged(outcome)?;
                }
            }
        }
    }

    async fn act(&mut self, act: Act, receiver: &mut Receiver) -> Result<(), String> {
        match act {
            Act::Store(bytes) => self.store(bytes).await,
            Act::Part(step) => self.part_of_stream(step).await,
            Act::Rows(rows) => self.rows(rows, receiver).await,
            Act::EndObjects(from, before) => {
                self.ends(Ends::of_objects(self.volume, self.local()?, from, before), receiver).await
            }
            Act::EndParts(object) => self.ends(Ends::of_parts(self.volume, self.local()?, object), receiver).await,
            Act::Close => match receiver.close() {
                Some(step) => self.part_of_stream(step).await,
                None => Ok(()),
            },
            Act::GoBack => self.go_back().await,
            Act::Resume => {
                self.settle().await?;
                self.ends_of = Some(self.daemon.node.tid());
                Ok(())
            }
            Act::End(_) => Ok(()),
        }
    }

    async fn part_of_stream(&mut self, step: MirrorStep) -> Result<(), String> {
        let last = step.last;
        self.part(step).await?;
        if last {
            self.had.clear();
            self.ends_of = None;
        }
        Ok(())
    }

    async fn rows(&mut self, rows: Vec<Row>, receiver: &mut Receiver) -> Result<(), String> {
        for row in rows {
            if let Some(part) = receiver.row(row) {
                self.part(part).await?;
            }
        }
        Ok(())
    }

    /// Ends of what the boundary has.
    async fn ends(&mut self, mut ends: Ends, receiver: &mut Receiver) -> Result<(), String> {
        loop {
            let node = self.daemon.node.clone();
            let page = tokio::task::spawn_blocking(move || {
                let page = ends.page(&node.records.past(node.tid()), ROWS_BYTES_MAX);
                (ends, page)
            });
            let (left, page) = page.await.map_err(|error| error.to_string())?;
            ends = left;
            match page.map_err(|error| error.to_string())? {
                Some(rows) => self.rows(rows, receiver).await?,
                None => return Ok(()),
            }
        }
    }

    /// The state that ends are of, as of this cluster's Tids.
    fn local(&self) -> Result<Tid, String> {
        if let Some(state) = self.ends_of {
            return Ok(state);
        }
        let past = self.daemon.node.past.read();
        let mirror = past.of(self.volume).and_then(|past| past.mirror.as_ref());
        mirror.map(|mirror| mirror.local).ok_or_else(|| "the mirror is gone".into())
    }

    async fn store(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        while self.storing.len() >= BLOBS_STORED_MAX {
            self.stored().await?;
        }
        self.had.insert(BlobId::of(&bytes));
        self.received.blobs += 1;
        let blobs: Arc<Blobs> = self.daemon.blobs.clone();
        self.storing
            .spawn(async move { blobs.store_on_majority(bytes.into()).await.map_err(|error| error.to_string()) });
        Ok(())
    }

    /// Waits for one of the blobs that are being stored.
    async fn stored(&mut self) -> Result<(), String> {
        if let Some(stored) = self.storing.join_next().await {
            let as_of = stored.map_err(|error| error.to_string())??;
            self.stored_as_of = self.stored_as_of.min(as_of);
        }
        Ok(())
    }

    async fn part(&mut self, mut step: MirrorStep) -> Result<(), String> {
        while !self.storing.is_empty() {
            self.stored().await?;
        }
        let named: Vec<BlobId> = step.rows.iter().filter_map(|(_, record)| record.as_ref()?.blob()).collect();
        for blob in named.into_iter().filter(|blob| !self.had.contains(blob)).collect::<BTreeSet<_>>() {
            self.check_named(blob).await?;
        }
        step.stored_as_of = self.stored_as_of;
        if step.last {
            self.stored_as_of = Tid::MAX;
        }
        while self.asked.len() >= PARTS_ASKED_MAX || self.rows_asked >= ROWS_ASKED_MAX {
            self.wait().await?;
        }
        let (reply, answer) = oneshot::channel();
        let rows = step.rows.len();
        self.daemon.node.inbox.push(Input::Request { body: RequestBody::MirrorStep(step), reply });
        self.rows_asked += rows;
        self.asked.push_back((answer, rows));
        Ok(())
    }

    /// A blob that did not come with the step is one that the mirror names.
    async fn check_named(&mut self, blob: BlobId) -> Result<(), String> {
        for _ in 0..2 {
            let as_of = self.daemon.node.tid();
            if self.daemon.node.records.is_named(blob).map_err(|error| error.to_string())? {
                self.stored_as_of = self.stored_as_of.min(as_of);
                return Ok(());
            }
            // What is under way may name it.
            self.settle().await?;
        }
        Err(format!("the stream names blob {blob}, and neither brought it nor does the mirror have it"))
    }

    /// Waits for the first part that is under way.
    async fn wait(&mut self) -> Result<(), String> {
        let Some((answer, rows)) = self.asked.pop_front() else { return Ok(()) };
        self.rows_asked -= rows;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(outcome) => judged(outcome),
            Err(_) => Err("no quorum answered in time".into()),
        }
    }

    /// Waits for all parts that are under way.
    async fn settle(&mut self) -> Result<(), String> {
        let mut first = Ok(());
        while !self.asked.is_empty() {
            first = first.and(self.wait().await);
        }
        first
    }

    /// Back to the boundary, from half of a step.
    async fn go_back(&mut self) -> Result<(), String> {
        self.settle().await?;
        let node = self.daemon.node.clone();
        let (volume, past) = (self.volume, node.past.read().clone());
        let mirror = past.of(volume).and_then(|past| past.mirror.clone()).ok_or("the mirror is gone")?;
        let (now, at) = (node.tid(), mirror.state);
        let mut rows = Rows::back(volume, now, mirror.local);
        let mut parts = Parts::new(volume, StepHead { from: at, to: at, single: false, author: None });
        loop {
            let node = node.clone();
            let page = tokio::task::spawn_blocking(move || {
                let page = rows.page(&node.records.past(node.tid()), ROWS_BYTES_MAX);
                (rows, page)
            });
            let (left, page) = page.await.map_err(|error| error.to_string())?;
            rows = left;
            let Some(page) = page.map_err(|error| error.to_string())? else { break };
            for row in page {
                if let Some(part) = parts.row(row) {
                    self.part(part).await?;
                }
            }
        }
        self.part(parts.end()).await?;
        self.settle().await
    }
}

/// The header, which says what the stream is about; and how many bytes were read until it came.
async fn first(decoder: &mut Decoder, feed: &mut Feed<'_>) -> Result<(Header, u64), String> {
    let mut bytes = 0;
    loop {
        match decoder.read().map_err(|error| error.to_string())? {
            Some(Frame::Header(header)) => return Ok((header, bytes)),
            Some(_) => return Err("the stream does not begin with a header".into()),
            None => {}
        }
        match (feed.next().await, &feed) {
            (Ok(Some(chunk)), _) => {
                bytes += chunk.len() as u64;
                decoder.push(&chunk);
            }
            (Err(cause), Feed::Follow(_)) => return Err(cause),
            (Ok(None) | Err(_), _) => {
                decoder.finish().map_err(|error| error.to_string())?;
                return Err("the stream has no header".into());
            }
        }
    }
}

/// The state of its source that a mirror shows.
pub(super) fn state(daemon: &Daemon, volume: VolumeId) -> Tid {
    let past = daemon.node.past.read();
    past.of(volume).and_then(|past| past.mirror.as_ref()).map_or(Tid::ZERO, |mirror| mirror.state)
}

/// The mirror that is meant; it is made if that is wanted.
async fn mirror(daemon: &Daemon, ask: &ReceiveAsk, header: &Header) -> Result<VolumeId, String> {
    let found = volumes::living(&daemon.node, &ask.volume);
    let (name, cause) = match (found, &ask.volume) {
        (Ok(volume), _) => return Ok(volume),
        (Err(_), VolumeRef::Name(name)) if ask.create => (name.clone(), String::new()),
        (Err(cause), _) => (Box::default(), cause),
    };
    if name.is_empty() {
        return Err(format!("{cause}; with --create it is made, as a mirror of {}", header.name));
    }
    create(daemon, &name, header.source, header.selection.clone()).await?;
    volumes::living(&daemon.node, &ask.volume)
}

/// Makes a mirror.
pub(super) async fn create(
    daemon: &Daemon,
    name: &str,
    source: MirrorSource,
    selection: Selection,
) -> Result<(), String> {
    let body = RequestBody::CreateMirror { name: name.into(), source, selection };
    request(&daemon.node, body, PATIENCE, "gavel mirror list").await.map_err(|asked| match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::Full) => "there are too many volumes already".into(),
        Asked::Refused(refusal) => format!("volume {name} could not be made: {refusal:?}"),
    })
}

fn standing(daemon: &Daemon, volume: VolumeId) -> Result<Standing, String> {
    let known = daemon.node.past.read();
    let past = known.of(volume).ok_or("the volume is gone")?;
    let mirror = past.mirror.as_ref().filter(|_| past.is_mirror());
    let mirror = mirror.ok_or_else(|| format!("volume {} is no mirror: receive into another one", past.name))?;
    let mirror = mirror.clone();
    // What follows may read from the disk, and who tells of the past does not wait for that.
    drop(known);
    let step = mirror.step.map(|step| broken(daemon, volume, &mirror, step));
    let selection = mirror.selection.clone();
    Ok(Standing { volume, source: mirror.source, selection, at: mirror.state, step })
}

/// What there is of a step that was broken off.
fn broken(daemon: &Daemon, volume: VolumeId, mirror: &Mirror, step: Step) -> Broken {
    let last = || {
        let past = daemon.node.records.past(daemon.node.tid());
        let row = past.live_back(&KeyRange::of_objects(volume)).next();
        // What can't be read is not gone on with.
        row.and_then(Result::ok).map(|(key, _)| key.object()).filter(|last| *last > ObjectId::ROOT)
    };
    let is_whole = mirror.state == Tid::ZERO && mirror.selection.is_all();
    Broken { at: step.at, since: step.since, last: is_whole.then(last).flatten() }
}

/// What a mirror shows, and what is there of a whole copy that was broken off.
pub(super) fn place(daemon: &Daemon, volume: VolumeId) -> (Tid, Option<Partial>) {
    let mirror = daemon.node.past.read().of(volume).and_then(|past| past.mirror.clone());
    mirror.map_or((Tid::ZERO, None), |mirror| {
        let broken = mirror.step.map(|step| broken(daemon, volume, &mirror, step));
        (mirror.state, broken.and_then(|broken| broken.partial()))
    })
}

/// The same, as `gavel mirror send --from` is told.
pub(super) fn in_words((state, partial): (Tid, Option<Partial>)) -> String {
    partial.map_or_else(|| state.to_string(), |partial| partial.to_string())
}

/// Why a stream is not taken, and what to do.
fn said(error: &NotTaken, name: &str) -> String {
    let hint = match error {
        NotTaken::OtherVolume { .. } => "receive it into another mirror, with --create".to_owned(),
        NotTaken::OtherPart { wanted, .. } if wanted.is_all() => {
            "send without --only and --exclude, or receive it into another mirror, with --create".to_owned()
        }
        NotTaken::OtherPart { wanted, .. } => {
            format!("send with {wanted}, or receive it into another mirror, with --create")
        }
        NotTaken::Whole { .. } | NotTaken::Gap { .. } | NotTaken::Across { .. } | NotTaken::Partial { .. } => {
            format!("`gavel mirror receive {name} --where` says from which state to send")
        }
    };
    format!("{error}: {hint}")
}

fn judged(
    outcome: Result<Result<(Option<Outcome>, NodeView), WaitError>, oneshot::error::RecvError>,
) -> Result<(), String> {
    match outcome {
        Ok(Ok((Some(Outcome::Committed { .. }), _))) => Ok(()),
        Ok(Ok((Some(Outcome::Refused { refusal }), _))) => Err(match refusal {
            Refusal::Behind => "the mirror has moved: somebody else receives into it, too".into(),
            Refusal::NotMirror => "the volume is no mirror any more: it was promoted".into(),
            Refusal::Missing => "the mirror was destroyed".into(),
            Refusal::BadPlan => "the stream has rows that no volume can have; nothing of this step is shown".into(),
            Refusal::Collected => "bytes were collected before they were named, which takes a cluster that lags".into(),
            refusal => format!("refused: {refusal:?}"),
        }),
        Ok(Ok(_)) => Err("the cluster gave this node up meanwhile".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the node is shutting down".into()),
    }
}
