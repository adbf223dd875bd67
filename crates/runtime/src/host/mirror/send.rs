//! A stream of a volume, from one of its states to a later one, and on from there if it is to follow.
//!
//! No snapshot of the records is held while the asker is waited for: what is read lies between states that are pinned.

use super::receive;
use super::states::wait_for;
use super::steps::{Comparing, Has, StepRows};
use super::{MirrorAnswer, SendAsk, Sent, chunks};
use crate::host::control::{Ended, Reply};
use crate::host::daemon::Daemon;
use crate::host::node::NodeHandle;
use crate::host::{retention, volumes};
use gavel_mirror::source::{Readable, is_boundary};
use gavel_mirror::stream::ROWS_BYTES_MAX;
use gavel_mirror::{
    Encoder, Frame, Header, Part, Partial, Piece as Compare, Position, Read, Row, Selector, Step, StepHead, Totals,
};
use gavel_store::records::recent::Transaction;
use gavel_store::records::{JustApplied, RecentReader};
use gavel_txn::VolumePast;
use gavel_types::{BlobId, Key, MirrorSource, Selection, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Author, Record, View, ViewError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// A stream that follows says at least so often what it has reached.
const REACHED_EVERY: Duration = Duration::from_secs(1);
/// The state where the stream stands is pinned so often: less than what every policy keeps whole.
const PIN_EVERY: Duration = Duration::from_secs(3);
/// A stream that stands nearer to the horizon than this goes to its end at once.
const NEAR_HORIZON_NS: u64 = 6_000_000_000;
/// Frames are gathered up to so many bytes, as long as there is more to send at once.
const GATHER_BYTES: usize = 64 * 1024;
/// Blobs of a step that are remembered, so that they are sent once.
const SENT_BLOBS_MAX: usize = 65_536;
/// Objects that name a blob, of which it is asked whether one is in a copy.
const NAMING_MAX: usize = 64;

/// States that streams are made from: they must not be pruned.
#[derive(Debug, Default)]
pub struct Sending(Mutex<BTreeMap<(VolumeId, Tid), usize>>);

impl Sending {
    /// All of them.
    pub(in crate::host) fn states(&self) -> Vec<(VolumeId, Tid)> {
        self.0.lock().keys().copied().collect()
    }

    fn hold(&self, volume: VolumeId, state: Tid) {
        *self.0.lock().entry((volume, state)).or_default() += 1;
    }

    fn let_go(&self, volume: VolumeId, state: Tid) {
        let mut held = self.0.lock();
        if let Some(count) = held.get_mut(&(volume, state)) {
            *count -= 1;
            if *count == 0 {
                held.remove(&(volume, state));
            }
        }
    }
}

/// A state that is held while this lives.
struct Held {
    daemon: Arc<Daemon>,
    volume: VolumeId,
    state: Tid,
}

impl Held {
    async fn new(daemon: &Arc<Daemon>, volume: VolumeId, state: Tid) -> Result<Held, String> {
        daemon.sending.hold(volume, state);
        let held = Held { daemon: daemon.clone(), volume, state };
        retention::pin(daemon, volume, state).await.map_err(|error| format!("{state}: {error}"))?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.daemon.sending.let_go(self.volume, self.state);
    }
}

/// Sends a stream, for as long as that takes.
pub async fn send(daemon: Arc<Daemon>, ask: SendAsk, mut read: OwnedReadHalf, mut write: OwnedWriteHalf) {
    let sending = async {
        match Stream::begin(&daemon, ask, Out::Control(&mut write)).await {
            Ok(stream) => stream.run().await,
            Err(error) => Err(error),
        }
    };
    // Whatever more is said is not listened to; an end is.
    let gone = async {
        let mut rest = [0; 64];
        while matches!(read.read(&mut rest).await, Ok(read) if read > 0) {}
    };
    let ended = tokio::select! {
        ended = sending => ended,
        () = gone => return,
    };
    let reply = match ended {
        Ok(sent) => Reply::Mirror(Box::new(MirrorAnswer::Sent(sent))),
        Err(Ended::Failed(cause)) => Reply::Error(cause),
        Err(Ended::Gone) => return,
    };
    if let Err(error) = chunks::end(&mut write, &reply).await {
        tracing::debug!(%error, "control connection");
    }
}

/// Sends a stream of what is selected to a mirror that follows, from `from` on, until it can't go on. Says why.
pub(super) async fn follow(
    daemon: &Arc<Daemon>,
    volume: VolumeId,
    (from, partial): (Tid, Option<Partial>),
    selection: Selection,
    pieces: &mpsc::Sender<Piece>,
) -> Result<String, Gone> {
    let from = receive::in_words((from, partial));
    let ask = SendAsk { volume: volume.into(), from: Some(from), to: None, follow: true, at_once: false, selection };
    let ended = match Stream::begin(daemon, ask, Out::Follower(pieces)).await {
        Ok(stream) => stream.run().await,
        Err(ended) => Err(ended),
    };
    match ended {
        Ok(_) => Ok("the stream is over".into()),
        Err(Ended::Failed(cause)) => Ok(cause),
        Err(Ended::Gone) => Err(Gone),
    }
}

/// Whoever was to take a stream does not, any more.
pub(super) struct Gone;

/// Some bytes of a stream to a mirror that follows.
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// The state that the stream has led to behind them, if it has led to one.
    pub(super) state: Option<Tid>,
}

/// Where a stream goes.
enum Out<'a> {
    Control(&'a mut OwnedWriteHalf),
    Follower(&'a mpsc::Sender<Piece>),
}

struct Stream<'a> {
    daemon: &'a Arc<Daemon>,
    volume: VolumeId,
    out: Out<'a>,
    encoder: Encoder,
    /// What was not written yet, and the last state that it leads to, if it leads to one.
    gathered: Vec<u8>,
    leads_to: Option<Tid>,
    /// If the stream goes on with all of a volume: each transaction is read right behind its commit, as long as the stream keeps up.
    recent: Option<RecentReader>,
    /// The state that the stream has led to.
    at: Tid,
    /// The one that it is to lead to first.
    to: Tid,
    follow: bool,
    /// If the state where it stands is gone, what is there is compared with it.
    compares: bool,
    /// The first step goes on with what the mirror has of a whole copy.
    partial: Option<Partial>,
    at_once: bool,
    /// The state that is held where the stream stands, or stood a moment ago.
    held: Option<Held>,
    /// The one that a step leads to which may take long.
    target: Option<Held>,
    held_at: Instant,
    told_at: Instant,
    /// What the mirror was told to be.
    told: Tid,
    sent: Sent,
    read: Read,
    /// What is selected, if that is not everything.
    part: Option<Part>,
}

impl<'a> Stream<'a> {
    async fn begin(daemon: &'a Arc<Daemon>, ask: SendAsk, out: Out<'a>) -> Result<Stream<'a>, Ended> {
        volumes::confirm(&daemon.node).await;
        let volume = volumes::living(&daemon.node, &ask.volume)?;
        let Some(past) = daemon.node.past.read().of(volume).cloned() else {
            return Err(Ended::Failed("the volume is gone".into()));
        };
        let tree = daemon.tree(volume, false);
        let compares = matches!(out, Out::Follower(_));
        let to = match &ask.to {
            Some(_) if past.is_mirror() => {
                return Err(Ended::Failed(format!(
                    "volume {} is a mirror: it sends up to the state that it shows, without --to",
                    past.name
                )));
            }
            Some(to) => tree.state_named(to).await?,
            None if past.is_mirror() => shown(&daemon.node, volume)?,
            // What is not in it yet follows at once, if it is followed.
            None if compares => tree.last().await.map_err(|error| error.to_string())?,
            None => tree.landed().await.map_err(|error| error.to_string())?,
        };
        let partial: Option<Partial> = ask.from.as_ref().and_then(|from| from.parse().ok());
        if partial.is_some() && !ask.selection.is_all() {
            return Err(Ended::Failed("a copy of a part that broke off is begun anew: send without --from".into()));
        }
        let from = match &ask.from {
            Some(_) if partial.is_some() => Tid::ZERO,
            // That of a mirror that follows may be gone. The states of a mirror are called as its own mirrors call them.
            Some(from) if compares || past.is_mirror() => {
                from.parse().map_err(|_| format!("{from} is no transaction"))?
            }
            Some(from) => state_of(daemon, volume, from).await?,
            None => Tid::ZERO,
        };
        if from.max(partial.map_or(Tid::ZERO, |partial| partial.since)) > to {
            let from = partial.map_or(from, |partial| partial.since);
            return Err(Ended::Failed(format!(
                "the stream would begin with {from}, which is later than its end, {to}"
            )));
        }
        if past.is_mirror() && from != Tid::ZERO && past.is_whole(from) {
            let is_one = is_state(&past, &daemon.node.records.past(daemon.node.tid()), volume, from);
            if !is_one.map_err(|error| error.to_string())? {
                return Err(Ended::Failed(format!("{from} is no state that mirror {} has shown", past.name)));
            }
        }
        if !past.is_whole(to) {
            return Err(Ended::Failed(format!(
                "{to}: some directories of the volume do not keep this state: send a later one"
            )));
        }
        // Both are held until the stream stands behind them.
        let held = match from {
            Tid::ZERO => None,
            from if compares && !past.is_whole(from) => None,
            from => Some(Held::new(daemon, volume, from).await?),
        };
        let source = MirrorSource { cluster: daemon.config().cluster, volume, made: past.made };
        let selection = ask.selection.clone();
        let reads_recent = ask.follow && selection.is_all() && past.origin.is_none();
        let header = Header { source, name: past.name, from, partial, to: (!ask.follow).then_some(to), selection };
        let sent = Sent { from: from.to_string(), ..Sent::default() };
        let (encoder, now) = (Encoder::new(), Instant::now());
        let mut stream = Stream {
            daemon,
            volume,
            out,
            encoder,
            gathered: Vec::new(),
            leads_to: None,
            recent: reads_recent.then(|| daemon.node.records.recent().reader()),
            at: from,
            to,
            follow: ask.follow,
            compares,
            partial,
            at_once: ask.at_once,
            held,
            target: None,
            held_at: now,
            told_at: now,
            told: from,
            sent,
            read: Read::default(),
            part: part_of(volume, ask.selection)?,
        };
        stream.frame(&Frame::Header(header)).await?;
        stream.write().await?;
        Ok(stream)
    }

    async fn run(mut self) -> Result<Sent, Ended> {
        self.target = Some(Held::new(self.daemon, self.volume, self.to).await?);
        self.go_to(self.to).await?;
        self.held = self.target.take();
        if self.follow {
            return Err(self.go_on().await);
        }
        let end = self.to;
        self.frame(&Frame::End(end)).await?;
        self.write().await?;
        self.sent.to = end.to_string();
        self.sent.read = self.read;
        Ok(self.sent)
    }

    /// Goes on with what comes, until the asker has gone away or the node stops.
    async fn go_on(&mut self) -> Ended {
        let node = self.daemon.node.clone();
        let mut news = node.news.subscribe();
        loop {
            news.borrow_and_update();
            let upto = match shown(&node, self.volume) {
                Ok(upto) => upto,
                Err(ended) => return Ended::Failed(ended),
            };
            if let Err(ended) = self.go_to(upto).await {
                return ended;
            }
            if self.told < self.at && self.told_at.elapsed() >= REACHED_EVERY {
                let reached = Frame::Reached(self.at);
                if let Err(ended) = self.frame(&reached).await {
                    return ended;
                }
            }
            if let Err(ended) = self.write().await {
                return ended;
            }
            if let Ok(Err(_)) = tokio::time::timeout(REACHED_EVERY, news.changed()).await {
                return Ended::Failed("the node is shutting down".into());
            }
            if let Some(cause) = node.failure() {
                return Ended::Failed(cause);
            }
        }
    }

    /// Sends all steps up to a state.
    async fn go_to(&mut self, upto: Tid) -> Result<(), Ended> {
        while self.at < upto {
            let readable = readable(&self.daemon.node, self.volume)?;
            if self.go_on_in_memory(&readable, upto).await? {
                return Ok(());
            }
            match self.next(readable, upto).await? {
                Position::Reached(tid) => self.at = tid,
                Position::Step(step) => match self.partial.take() {
                    Some(partial) => {
                        let compared = Comparing::partial(self.volume, partial, step.to);
                        self.compare(compared, step.to).await?;
                    }
                    None => self.step(step, None).await?,
                },
                Position::Gone if self.compares => {
                    tracing::info!(volume = %self.volume, from = %self.at, to = %upto, "a mirror's state was pruned: what is there is compared with it");
                    let compared = Comparing::new(self.volume, (self.at, upto), self.part.take());
                    self.compare(compared, upto).await?;
                }
                Position::Gone => return Err(self.gone()),
            }
            self.write().await?;
            self.hold().await?;
        }
        Ok(())
    }

    /// Sends the transactions up to a state that are in memory. False if what comes next is not.
    async fn go_on_in_memory(&mut self, readable: &Readable, upto: Tid) -> Result<bool, Ended> {
        let Some(transactions) = self.in_memory(readable, upto) else { return Ok(false) };
        let volume = self.volume;
        for transaction in transactions.iter().filter(|transaction| transaction.is_in(volume)) {
            if !transaction.has_attributes(volume) {
                return Ok(false);
            }
            let step = Step { from: self.at, to: transaction.tid(), single: true };
            self.step(step, Some(transaction)).await?;
            self.hold().await?;
        }
        self.at = upto;
        Ok(true)
    }

    /// The transactions up to a state, if all are in memory, and nothing else is needed to send them.
    fn in_memory(&self, readable: &Readable, upto: Tid) -> Option<Vec<Arc<Transaction>>> {
        let recent = self.recent.as_ref()?;
        if self.at < readable.horizon || self.daemon.node.past.read().is_mirror(self.volume) {
            return None;
        }
        recent.behind(self.at, upto)
    }

    async fn next(&mut self, mut readable: Readable, upto: Tid) -> Result<Position, Ended> {
        let is_near = self.at.0 < readable.horizon.0.saturating_add(NEAR_HORIZON_NS);
        if self.at != Tid::ZERO && (self.at_once || is_near && self.policy_moves()) {
            // The horizon may overtake what is sent one by one. What is held, it does not.
            if self.at_once {
                readable.kept.retain(|kept| *kept == self.at);
            }
            if self.at >= readable.horizon {
                self.held = Some(Held::new(self.daemon, self.volume, self.at).await?);
                readable.kept.push(self.at);
            }
            self.target = Some(Held::new(self.daemon, self.volume, upto).await?);
            readable.horizon = upto;
        }
        let (volume, at) = (self.volume, self.at);
        let is_mirror = self.daemon.node.past.read().is_mirror(volume);
        let (position, read) = self
            .ask(move |past| {
                let mut read = Read::default();
                let behind = if is_mirror { Position::behind_boundary } else { Position::behind };
                Ok((behind(past, volume, &readable, (at, upto), &mut read)?, read))
            })
            .await?;
        self.read.add(read);
        Ok(position)
    }

    /// Does the volume's policy let go of anything by itself?
    fn policy_moves(&self) -> bool {
        let past = self.daemon.node.past.read();
        past.of(self.volume).is_none_or(|past| past.policy.whole_ns.is_some())
    }

    /// The state where the stream stands is held, or one a moment before it.
    async fn hold(&mut self) -> Result<(), Ended> {
        let held = self.held.as_ref().map_or(Tid::ZERO, |held| held.state);
        if held < self.at && (self.held_at.elapsed() >= PIN_EVERY || held == Tid::ZERO) {
            self.held = Some(Held::new(self.daemon, self.volume, self.at).await?);
            self.held_at = Instant::now();
        }
        Ok(())
    }

    fn gone(&self) -> Ended {
        let readable = readable(&self.daemon.node, self.volume);
        let left = readable.map_or(String::new(), |readable| {
            format!("all states from {} on are there, and {} before it", readable.horizon, readable.kept.len())
        });
        Ended::Failed(format!(
            "state {} of the source was pruned ({left}): a snapshot of the source keeps the state that a mirror has come to. Receive a whole copy into a new mirror",
            self.at
        ))
    }

    /// Sends a step. If it is one transaction that is in memory, no disk is waited for.
    async fn step(&mut self, step: Step, in_memory: Option<&Arc<Transaction>>) -> Result<(), Ended> {
        let rows = StepRows::new(self.volume, step, self.part.take());
        let (mut rows, mut totals, mut begun) = (rows, Totals::default(), false);
        let mut had = BTreeSet::new();
        loop {
            let page = match in_memory {
                Some(transaction) => self.look(step.from, transaction, |past| rows.page(past, ROWS_BYTES_MAX))?,
                None => {
                    let asked = self.ask(move |past| {
                        let page = rows.page(past, ROWS_BYTES_MAX)?;
                        Ok((rows, page))
                    });
                    let (left, page) = asked.await?;
                    rows = left;
                    page
                }
            };
            self.is_whole(step)?;
            let Some(page) = page.filter(|page| begun || !page.is_empty()) else {
                if begun {
                    break;
                }
                // Nothing of it is part of a copy: such as the bytes of a file without a name, and what is not selected.
                self.end_step(rows, step.to);
                return Ok(());
            };
            if !begun {
                begun = true;
                let author = self.author(step, in_memory).await?;
                // What was passed by in silence belongs to the step.
                let from = self.told;
                self.frame(&Frame::Step(StepHead { from, to: step.to, single: step.single, author })).await?;
            }
            let (left, blobs) = self.blobs(&page, step.from, (rows, &mut had)).await?;
            rows = left;
            totals.blobs += blobs;
            totals.rows += page.len() as u64;
            if !page.is_empty() {
                self.frame(&Frame::Rows(page)).await?;
            }
        }
        self.complete(totals).await?;
        self.end_step(rows, step.to);
        Ok(())
    }

    fn end_step(&mut self, rows: StepRows, to: Tid) {
        self.read.add(rows.read());
        self.part = rows.into_part();
        self.at = to;
    }

    /// A step in which what is there is compared with what the mirror has.
    async fn compare(&mut self, mut compared: Comparing, to: Tid) -> Result<(), Ended> {
        self.target = Some(Held::new(self.daemon, self.volume, to).await?);
        let (has, step) = (compared.has(), Step { from: Tid::ZERO, to, single: false });
        let (mut totals, mut had) = (Totals::default(), BTreeSet::new());
        self.frame(&Frame::Step(StepHead { from: self.told, to, single: false, author: None })).await?;
        self.frame(&Frame::Same(Vec::new())).await?;
        loop {
            let asked = self.ask(move |past| {
                let piece = compared.page(past, ROWS_BYTES_MAX)?;
                Ok((compared, piece))
            });
            let (left, piece) = asked.await?;
            compared = left;
            self.is_whole(step)?;
            match piece {
                None => break,
                Some(Compare::Same(runs)) => self.frame(&Frame::Same(runs)).await?,
                Some(Compare::Rows(page)) => {
                    totals.blobs += self.all_blobs(&page, has, &mut had).await?;
                    totals.rows += page.len() as u64;
                    self.frame(&Frame::Rows(page)).await?;
                }
            }
        }
        self.complete(totals).await?;
        self.read.add(compared.read());
        self.part = compared.into_part();
        self.at = to;
        Ok(())
    }

    /// All of a step has been sent.
    async fn complete(&mut self, totals: Totals) -> Result<(), Ended> {
        self.frame(&Frame::StepEnd(totals)).await?;
        self.sent.steps += 1;
        self.sent.rows += totals.rows;
        self.sent.blobs += totals.blobs;
        Ok(())
    }

    /// Was all there that was read?
    fn is_whole(&self, step: Step) -> Result<(), Ended> {
        let records = &self.daemon.node.records;
        let whole = |tid: Tid| tid == Tid::ZERO || records.is_whole(self.volume, tid);
        if whole(step.from) && whole(step.to) { Ok(()) } else { Err(self.gone()) }
    }

    /// Who is said to have made the one transaction of a step.
    async fn author(&self, step: Step, in_memory: Option<&Arc<Transaction>>) -> Result<Option<Author>, Ended> {
        let (key, at) = (Key::commit(self.volume, step.to), step.to);
        let found = match in_memory {
            Some(transaction) => self.look(step.from, transaction, |past| past.at(at).get(&key))?,
            None if step.single => self.ask(move |past| past.at(at).get(&key)).await?,
            None => None,
        };
        Ok(found.and_then(|version| match version.record {
            Record::Commit(committed) => Some(Author { uid: committed.uid, note: committed.note }),
            _ => None,
        }))
    }

    /// Sends the blobs that the mirror may lack. Gives how many.
    async fn blobs(
        &mut self,
        page: &[Row],
        from: Tid,
        (mut rows, had): (StepRows, &mut BTreeSet<BlobId>),
    ) -> Result<(StepRows, u64), Ended> {
        let StepRows::Part(_) = rows else { return Ok((rows, self.all_blobs(page, Has::State(from), had).await?)) };
        let mut sent = 0;
        for blob in page.iter().filter_map(|row| row.record.as_ref()?.blob()) {
            if !is_new(had, blob) {
                continue;
            }
            let records = &self.daemon.node.records;
            let naming = records.objects_naming_at(blob, self.volume, from, NAMING_MAX);
            let naming = naming.map_err(|error| error.to_string())?;
            let asked = self.ask(move |past| {
                let is_there = rows.had_any(past, &naming)?;
                Ok((rows, is_there))
            });
            let (left, is_there) = asked.await?;
            rows = left;
            if !is_there {
                self.blob(blob).await?;
                sent += 1;
            }
        }
        Ok((rows, sent))
    }

    /// The same, of a mirror of all of the volume.
    async fn all_blobs(&mut self, page: &[Row], has: Has, had: &mut BTreeSet<BlobId>) -> Result<u64, Ended> {
        let mut sent = 0;
        for blob in page.iter().filter_map(|row| row.record.as_ref()?.blob()) {
            if !is_new(had, blob) {
                continue;
            }
            let records = &self.daemon.node.records;
            let is_named = match has {
                Has::State(from) => records.is_named_at(blob, self.volume, from),
                Has::Part(part, to) => records.is_named_throughout(blob, self.volume, (part.since, to), part.before),
            };
            if !is_named.map_err(|error| error.to_string())? {
                self.blob(blob).await?;
                sent += 1;
            }
        }
        Ok(sent)
    }

    async fn blob(&mut self, blob: BlobId) -> Result<(), Ended> {
        let bytes = self.daemon.blobs.fetch(blob).await.map_err(|error| error.to_string())?;
        self.sent.blob_bytes += bytes.len() as u64;
        self.frame(&Frame::Blob(bytes.to_vec())).await
    }

    async fn frame(&mut self, frame: &Frame) -> Result<(), Ended> {
        match frame {
            Frame::Step(head) => self.told = head.to,
            Frame::Reached(tid) | Frame::End(tid) => self.told = *tid,
            _ => {}
        }
        self.told_at = Instant::now();
        let bytes = self.encoder.write(frame);
        self.sent.bytes += bytes.len() as u64;
        self.gathered.extend_from_slice(&bytes);
        if matches!(frame, Frame::StepEnd(_) | Frame::Reached(_)) {
            self.leads_to = Some(self.told);
        }
        if self.gathered.len() >= GATHER_BYTES { self.write().await } else { Ok(()) }
    }

    /// Writes what was gathered.
    async fn write(&mut self) -> Result<(), Ended> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let (bytes, state) = (std::mem::take(&mut self.gathered), self.leads_to.take());
        match &mut self.out {
            Out::Control(out) => Ok(chunks::write(out, &bytes).await?),
            Out::Follower(pieces) => pieces.send(Piece { bytes, state }).await.map_err(|_| Ended::Gone),
        }
    }

    /// Reads the past beside a transaction that is in memory, at once: what is asked of it is not on a disk.
    fn look<T>(
        &self,
        from: Tid,
        transaction: &Transaction,
        question: impl FnOnce(&dyn Past) -> Result<T, ViewError>,
    ) -> Result<T, Ended> {
        let past = self.daemon.node.records.past(self.daemon.node.tid());
        let looked = question(&JustApplied::new(&past, self.volume, from, transaction));
        Ok(looked.map_err(|error| error.to_string())?)
    }

    /// Reads the past on a thread that may wait for the disk.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Past) -> Result<T, ViewError> + Send + 'static,
    ) -> Result<T, Ended> {
        let node = self.daemon.node.clone();
        let asked = tokio::task::spawn_blocking(move || question(&node.records.past(node.tid()))).await;
        Ok(asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?)
    }
}

/// Notes that the step has named a blob. Was it the first time?
fn is_new(had: &mut BTreeSet<BlobId>, blob: BlobId) -> bool {
    !had.contains(&blob) && (had.len() >= SENT_BLOBS_MAX || had.insert(blob))
}

/// What is selected of a volume; none: everything.
fn part_of(volume: VolumeId, selection: Selection) -> Result<Option<Part>, String> {
    if !selection.is_sound() {
        return Err("what is selected makes no sense: another version of gavel asks for it".into());
    }
    if selection.is_all() {
        return Ok(None);
    }
    let selector = Selector::new(selection).map_err(|error| error.to_string())?;
    Ok(Some(Part::new(volume, Arc::new(selector))))
}

/// Which states of the volume are whole, of every object.
fn readable(node: &NodeHandle, volume: VolumeId) -> Result<Readable, String> {
    let past = node.past.read();
    let past = past.of(volume).filter(|past| past.is_living()).ok_or("the volume was destroyed")?;
    let classes = past.classes.values().map(|class| class.horizon);
    let horizon = classes.fold(past.horizon, Tid::max);
    let kept = past.kept.iter().chain(past.classes.values().flat_map(|class| &class.kept));
    let mut kept: BTreeSet<Tid> = kept.copied().filter(|tid| *tid < horizon && past.is_whole(*tid)).collect();
    let Some(boundary) = past.boundary() else { return Ok(Readable { horizon, kept: kept.into_iter().collect() }) };
    // Of a mirror's states, those count that its source has had.
    let states = node.records.past(node.tid());
    let is_one = |tid: Tid| is_state(past, &states, volume, tid).map_err(|error| error.to_string());
    let mut horizon = horizon.min(boundary);
    if !is_one(horizon)? {
        let behind = Readable { horizon, kept: Vec::new() };
        let next = Position::behind_boundary(&states, volume, &behind, (horizon, boundary), &mut Read::default());
        horizon = match next.map_err(|error| error.to_string())? {
            Position::Step(step) => step.to,
            Position::Reached(_) | Position::Gone => boundary,
        };
    }
    for tid in kept.clone() {
        if !is_one(tid)? {
            kept.remove(&tid);
        }
    }
    Ok(Readable { horizon, kept: kept.into_iter().collect() })
}

/// Has a mirror shown this state: is it a boundary, or one that the volume had before it was demoted?
fn is_state(volume_past: &VolumePast, past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<bool, ViewError> {
    let former = volume_past.mirror.as_ref().and_then(|mirror| mirror.former);
    let was_own = former.is_some_and(|former| tid < former.at);
    Ok(is_boundary(past, volume, tid)? || was_own && past.at(tid).get(&Key::boundary(volume))?.is_none())
}

/// The last state of the volume that is shown here: of a mirror, its boundary.
fn shown(node: &NodeHandle, volume: VolumeId) -> Result<Tid, String> {
    let boundary = node.past.read().of(volume).filter(|past| past.is_living()).map(VolumePast::boundary);
    match boundary.ok_or("the volume was destroyed")? {
        None => Ok(node.tid()),
        // What is known of it and not seen yet, is seen in a moment.
        Some(boundary) => {
            wait_for(node, boundary);
            Ok(boundary)
        }
    }
}

/// What the mirror has, as it is written. A transaction need not be one that can be read: what can be sent is found out from there.
async fn state_of(daemon: &Arc<Daemon>, volume: VolumeId, text: &str) -> Result<Tid, Ended> {
    match text.parse() {
        Ok(Tid::ZERO) => Ok(Tid::ZERO),
        _ => Ok(daemon.tree(volume, false).state_named(text).await?),
    }
}
