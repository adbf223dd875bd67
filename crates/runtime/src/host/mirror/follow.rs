//! Mirrors that follow their source by themselves.
//!
//! What is followed is a part of the replicated state. The node that leads carries it: it connects to one peer of the source after the other until one answers,
//! and receives. When another node leads, that one does. Two at a time do no harm: the log judges each part of a step.

use super::receive;
use crate::host::daemon::Daemon;
use crate::net::guest::visit;
use crate::net::{Limits, LinkError};
use crate::trust::GuestTrust;
use gavel_mirror::{Ahead, Greeting, Hearing, Partial, Said};
use gavel_types::{MirrorSource, NodeId, Tid, VolumeId};
use gavel_wire::Follow;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

/// A node looks so often at what it is to carry.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The source hears at most so often what the mirror has come to.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A source that says nothing for so long is given up: it says something every second.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// After the first failure; doubled with each, up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// So much is read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Connecting to another cluster may take longer than to a peer in the same rack.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(6);

/// The transport's limits, for connections to other clusters.
pub(super) fn limits() -> Limits {
    let unacknowledged_max = SILENCE_MAX;
    Limits { dial_timeout: DIAL_TIMEOUT, handshake_timeout: HANDSHAKE_TIMEOUT, unacknowledged_max, ..Limits::default() }
}

/// How a mirror follows that this node carries. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Carried {
    /// The peer of the source that it is connected to, if it is.
    pub peer: Option<u64>,
    /// That peer's address, or that of the one that was tried last.
    pub address: String,
    /// How often a connection has begun since this node carries it.
    pub connections: u64,
    /// Bytes of streams that have come since.
    pub bytes: u64,
    /// Why the last connection ended, or was not made; none while one is open.
    pub error: Option<String>,
    /// The last state of the source for which the mirror holds all.
    pub reached: u64,
    /// What the source has said of itself last.
    pub source: Option<SourceAhead>,
}

/// What a source has said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceAhead {
    /// Its last transaction, of any volume.
    pub now: u64,
    /// Transactions of the volume that the mirror had not told of yet.
    pub transactions: u32,
    /// There are more than that.
    pub more: bool,
    /// Bytes on their way.
    pub bytes: u64,
}

/// What this node carries.
#[derive(Default)]
pub struct Following(Mutex<BTreeMap<VolumeId, Arc<Mutex<Carried>>>>);

impl Following {
    /// All of it.
    pub(super) fn carried(&self) -> BTreeMap<VolumeId, Carried> {
        self.0.lock().iter().map(|(volume, carried)| (*volume, carried.lock().clone())).collect()
    }
}

/// Carries what this node is to carry, until the daemon ends.
pub async fn carry(daemon: Weak<Daemon>) {
    let mut running: BTreeMap<VolumeId, (Box<Follow>, JoinHandle<()>)> = BTreeMap::new();
    let mut known = None;
    loop {
        let Some(daemon) = daemon.upgrade() else { break };
        if daemon.node.failure().is_some() {
            break;
        }
        let leads = *daemon.node.leader.borrow() == Some(daemon.config().node);
        let now = (leads, daemon.node.past.read().revision());
        if known != Some(now) {
            known = Some(now);
            let wanted = if leads { wanted(&daemon) } else { BTreeMap::new() };
            adjust(&daemon, &mut running, wanted);
        }
        drop(daemon);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    running.values().for_each(|(_, task)| task.abort());
}

fn wanted(daemon: &Daemon) -> BTreeMap<VolumeId, Box<Follow>> {
    let past = daemon.node.past.read();
    let mirrors = past.volumes().filter(|(_, past)| past.is_living() && past.is_mirror());
    let follows = mirrors.filter_map(|(volume, past)| Some((volume, past.mirror.as_ref()?.follow.clone()?)));
    follows.filter(|(_, follow)| !follow.paused).collect()
}

fn adjust(
    daemon: &Arc<Daemon>,
    running: &mut BTreeMap<VolumeId, (Box<Follow>, JoinHandle<()>)>,
    wanted: BTreeMap<VolumeId, Box<Follow>>,
) {
    running.retain(|volume, (follow, task)| {
        let stays = wanted.get(volume) == Some(follow) && !task.is_finished();
        if !stays {
            task.abort();
            daemon.following.0.lock().remove(volume);
            tracing::info!(%volume, "this node does not carry the mirror any more");
        }
        stays
    });
    for (volume, follow) in wanted {
        running.entry(volume).or_insert_with(|| {
            tracing::info!(%volume, "this node carries the mirror");
            let carried = Arc::new(Mutex::new(Carried::default()));
            daemon.following.0.lock().insert(volume, carried.clone());
            let task = tokio::spawn(follow_on(Arc::downgrade(daemon), volume, follow.clone(), carried));
            (follow, task)
        });
    }
}

/// Follows one peer of the source, then the next, for as long as this node is to carry it.
async fn follow_on(daemon: Weak<Daemon>, volume: VolumeId, follow: Box<Follow>, carried: Arc<Mutex<Carried>>) {
    let (mut failures, mut turn) = (0u32, 0);
    while let Some(daemon) = daemon.upgrade() {
        let (peer, address) = &follow.peers[turn % follow.peers.len()];
        carried.lock().address = address.to_string();
        let begun = Instant::now();
        let why = follow_peer(&daemon, volume, &follow, (*peer, address), &carried).await;
        tracing::warn!(%volume, %peer, %address, %why, "a mirror's connection to its source has ended");
        {
            let mut carried = carried.lock();
            (carried.peer, carried.error) = (None, Some(why));
        }
        drop(daemon);
        // One that has worked for a while was no failure.
        failures = if begun.elapsed() > BACKOFF_MAX { 0 } else { failures.saturating_add(1) };
        turn += 1;
        // Every peer is tried once before any waiting.
        let rounds = failures / follow.peers.len() as u32;
        let pause = if rounds == 0 { Duration::ZERO } else { BACKOFF_MIN * 2u32.saturating_pow((rounds - 1).min(16)) };
        tokio::time::sleep(pause.clamp(BACKOFF_MIN / 4, BACKOFF_MAX)).await;
    }
}

/// Follows one peer until that ends. Says why.
async fn follow_peer(
    daemon: &Arc<Daemon>,
    volume: VolumeId,
    follow: &Follow,
    (peer, address): (NodeId, &str),
    carried: &Arc<Mutex<Carried>>,
) -> String {
    let source = daemon.node.past.read().of(volume).and_then(|past| past.mirror.as_ref().map(|mirror| mirror.source));
    let Some(source) = source else { return "the mirror is gone".into() };
    let (from, partial) = receive::place(daemon, volume);
    let stream = match knock(follow, source, (from, partial), (peer, address), false).await {
        Ok(stream) => stream,
        Err(why) => return why.to_string(),
    };
    {
        let mut carried = carried.lock();
        carried.connections += 1;
        carried.reached = carried.reached.max(from.0);
        (carried.peer, carried.error) = (Some(peer.0), None);
    }
    tracing::info!(%volume, %peer, %address, %from, "a mirror follows its source");
    receive::follow(daemon, volume, FollowFeed::new(daemon, volume, stream, carried)).await
}

/// Why a peer of a source does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unserved {
    /// It says that it will not.
    #[error("{0}")]
    Refused(String),
    /// It could not be asked.
    #[error("{0}")]
    Unreached(String),
}

/// Greets a peer of a source.
pub(super) async fn knock(
    follow: &Follow,
    source: MirrorSource,
    (from, partial): (Tid, Option<Partial>),
    (peer, address): (NodeId, &str),
    only_asks: bool,
) -> Result<TlsStream<TcpStream>, Unserved> {
    let origin = Path::new("(the invitation)");
    let trust = GuestTrust::new(&follow.authority, origin, source.cluster, SystemTime::now());
    let trust = trust.map_err(|error| Unserved::Refused(error.to_string()))?;
    let MirrorSource { cluster, volume, made } = source;
    let (name, key) = (follow.name.clone(), follow.key.clone());
    let greeting = Greeting { cluster, volume, made, name, key, from, partial, only_asks }.encode();
    visit(&trust, &limits(), peer, address, &greeting).await.map_err(|error| match error {
        LinkError::Refused(refusal) => Unserved::Refused(refusal.to_string()),
        error => Unserved::Unreached(format!("node {peer} of the source, at {address}: {error}")),
    })
}

/// The stream of a source, as it comes from one of its peers.
pub(super) struct FollowFeed {
    daemon: Arc<Daemon>,
    volume: VolumeId,
    stream: TlsStream<TcpStream>,
    hearing: Hearing,
    buffer: Vec<u8>,
    carried: Arc<Mutex<Carried>>,
    /// What the source was told that the mirror has come to.
    told: Tid,
    told_at: Instant,
}

impl FollowFeed {
    fn new(
        daemon: &Arc<Daemon>,
        volume: VolumeId,
        stream: TlsStream<TcpStream>,
        carried: &Arc<Mutex<Carried>>,
    ) -> FollowFeed {
        let (hearing, buffer, told) = (Hearing::default(), vec![0; READ_BYTES], Tid::ZERO);
        let (daemon, carried) = (daemon.clone(), carried.clone());
        FollowFeed { daemon, volume, stream, hearing, buffer, carried, told, told_at: Instant::now() }
    }

    /// Some more bytes of the stream.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, String> {
        let mut heard = Instant::now();
        loop {
            match self.hearing.take().map_err(|error| error.to_string())? {
                Some(Said::Bytes(bytes)) => {
                    self.carried.lock().bytes += bytes.len() as u64;
                    return Ok(bytes);
                }
                Some(Said::Ahead(ahead)) => self.on_ahead(ahead),
                Some(Said::End(why)) => return Err(why),
                Some(Said::Reached(_)) => return Err("the source says what only a mirror says".into()),
                None => {
                    // A read that is given up has read nothing.
                    match tokio::time::timeout(TELL_EVERY, self.stream.read(&mut self.buffer)).await {
                        Ok(Ok(0)) => return Err("the source has closed the connection".into()),
                        Ok(Ok(len)) => {
                            heard = Instant::now();
                            self.hearing.push(&self.buffer[..len]);
                        }
                        Ok(Err(error)) => return Err(format!("the connection was lost: {error}")),
                        Err(_) if heard.elapsed() > SILENCE_MAX => {
                            return Err(format!("nothing heard for {} s", SILENCE_MAX.as_secs()));
                        }
                        Err(_) => {}
                    }
                }
            }
            self.tell().await?;
        }
    }

    /// Tells the source what the mirror has come to, if it is time.
    pub(super) async fn tell(&mut self) -> Result<(), String> {
        let state = receive::state(&self.daemon, self.volume);
        if state <= self.told || self.told_at.elapsed() < TELL_EVERY {
            return Ok(());
        }
        (self.told, self.told_at) = (state, Instant::now());
        self.on_reached(state);
        let written = async {
            self.stream.write_all(&Said::Reached(state).encode()).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(SILENCE_MAX, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the connection was lost: {error}")),
            Err(_) => Err("the source takes nothing any more".into()),
        }
    }

    /// The mirror holds all of this state.
    pub(super) fn on_reached(&mut self, state: Tid) {
        let mut carried = self.carried.lock();
        carried.reached = carried.reached.max(state.0);
    }

    fn on_ahead(&mut self, ahead: Ahead) {
        let Ahead { now, transactions, more, bytes } = ahead;
        self.carried.lock().source = Some(SourceAhead { now: now.0, transactions, more, bytes });
    }
}
