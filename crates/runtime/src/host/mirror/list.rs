//! Which mirrors there are, how far each is, and who follows volumes of this cluster.

use super::follow::Carried;
use super::receive;
use super::{FollowLine, FollowerLine, Lag, MirrorLine, serve};
use crate::host::daemon::Daemon;
use crate::net::BulkFailure;
use bytes::Bytes;
use gavel_txn::{Follower, Mirror, VolumePast};
use gavel_types::{Tid, Timestamp, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bulk request: what do you carry? The answer is JSON.
pub const CARRIED: u8 = 64;
/// How long the node that carries mirrors may take to say how they follow.
const CARRIER_PATIENCE: Duration = Duration::from_secs(2);

/// What this node carries, for another node of the cluster that is asked about it.
///
/// # Errors
/// None in practice: numbers and texts can be written.
pub fn carried(daemon: &Daemon) -> Result<Bytes, BulkFailure> {
    let carried: BTreeMap<u32, Carried> =
        daemon.following.carried().into_iter().map(|(volume, carried)| (volume.0, carried)).collect();
    serde_json::to_vec(&carried).map(Bytes::from).map_err(|error| BulkFailure(error.to_string()))
}

/// What the node that leads carries, and which node that is.
async fn carried_by_leader(daemon: &Daemon) -> (Option<u64>, BTreeMap<VolumeId, Carried>) {
    let Some(leader) = *daemon.node.leader.borrow() else { return (None, BTreeMap::new()) };
    if leader == daemon.config().node {
        return (Some(leader.0), daemon.following.carried());
    }
    let asked = daemon.transport.sender().bulk_request_within(leader, CARRIED, Bytes::new(), CARRIER_PATIENCE).await;
    let said: Option<BTreeMap<u32, Carried>> = asked.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let said = said.unwrap_or_default();
    (Some(leader.0), said.into_iter().map(|(volume, carried)| (VolumeId(volume), carried)).collect())
}

/// The mirrors in this cluster.
pub async fn mirrors(daemon: &Daemon, is_listed: impl Fn(VolumeId) -> bool) -> Vec<MirrorLine> {
    let follows = |past: &VolumePast| past.mirror.as_ref().is_some_and(|mirror| mirror.follow.is_some());
    let any = daemon.node.past.read().volumes().any(|(volume, past)| is_listed(volume) && follows(past));
    let (carrier, carried) = if any { carried_by_leader(daemon).await } else { (None, BTreeMap::new()) };
    let now = Tid(daemon.node.cluster_ns());
    let known = daemon.node.past.read();
    let mirrors = known.volumes().filter(|(number, past)| past.is_living() && is_listed(*number));
    let line = |(number, past): (VolumeId, &VolumePast)| {
        let mirror = past.mirror.as_ref()?;
        let mut line = line(number, past, mirror, now);
        line.follow = follow_line(mirror, carrier, carried.get(&number), now);
        Some(line)
    };
    let mut lines: Vec<MirrorLine> = mirrors.filter_map(line).collect();
    drop(known);
    for line in lines.iter_mut().filter(|line| line.step_to.is_some()) {
        let (_, partial) = receive::place(daemon, VolumeId(line.number));
        line.partial = partial.map(|partial| partial.to_string());
    }
    lines
}

fn line(number: VolumeId, past: &VolumePast, mirror: &Mirror, now: Tid) -> MirrorLine {
    let received = (mirror.state != Tid::ZERO).then_some(mirror.state);
    MirrorLine {
        number: number.0,
        name: past.name.to_string(),
        source_cluster: mirror.source.cluster.to_string(),
        source_volume: mirror.source.volume.0,
        state: mirror.state.to_string(),
        state_time: received.map(|state| Timestamp::of_tid(state).to_string()),
        local: mirror.local.to_string(),
        age_s: received.map(|state| seconds(now, state)),
        step_to: mirror.step.map(|step| step.at.to.to_string()),
        partial: None,
        promoted: mirror.promoted.map(|tid| tid.to_string()),
        demoted: mirror.former.filter(|_| mirror.promoted.is_none()).map(|former| former.at.to_string()),
        follow: None,
        selection: mirror.selection.clone(),
    }
}

fn follow_line(mirror: &Mirror, carrier: Option<u64>, carried: Option<&Carried>, now: Tid) -> Option<FollowLine> {
    let follow = mirror.follow.as_deref()?;
    let peer = carried.and_then(|carried| carried.peer);
    // Of a source that can't be heard, all that is known is the time.
    let heard =
        carried.filter(|_| peer.is_some()).and_then(|carried| Some((carried.source.as_ref()?, carried.reached)));
    let lag = match heard {
        Some((source, reached)) => {
            let behind = source.now.saturating_sub(reached.max(mirror.state.0));
            // What the mirror holds already is not behind, even if the source has not heard of it yet.
            let holds_all = behind == 0;
            Lag {
                tids: behind,
                seconds: behind as f64 / 1e9,
                transactions: Some(if holds_all { 0 } else { source.transactions }),
                more: source.more && !holds_all,
                bytes: Some(if holds_all { 0 } else { source.bytes }),
            }
        }
        None => {
            let behind = now.0.saturating_sub(mirror.state.0);
            Lag { tids: behind, seconds: behind as f64 / 1e9, transactions: None, more: true, bytes: None }
        }
    };
    Some(FollowLine {
        name: follow.name.to_string(),
        peers: follow.peers.iter().map(|(id, address)| format!("{id}={address}")).collect(),
        paused: follow.paused,
        carrier,
        peer,
        connections: carried.map_or(0, |carried| carried.connections),
        bytes: carried.map_or(0, |carried| carried.bytes),
        error: carried.and_then(|carried| carried.error.clone()),
        lag: (mirror.state != Tid::ZERO).then_some(lag),
    })
}

/// The mirrors in other clusters that volumes of this one have.
pub async fn followers(daemon: &Daemon) -> Vec<FollowerLine> {
    let now = Tid(daemon.node.cluster_ns());
    let admitted: Vec<(VolumeId, VolumePast)> = {
        let past = daemon.node.past.read();
        let some = past.volumes().filter(|(_, past)| past.is_living() && !past.followers.is_empty());
        some.map(|(volume, past)| (volume, past.clone())).collect()
    };
    let mut lines = Vec::new();
    for (volume, past) in &admitted {
        for (name, follower) in &past.followers {
            lines.push(follower_line(daemon, (*volume, past), (name, follower), now).await);
        }
    }
    lines
}

async fn follower_line(
    daemon: &Daemon,
    (volume, past): (VolumeId, &VolumePast),
    (name, follower): (&str, &Follower),
    now: Tid,
) -> FollowerLine {
    let connected = daemon.followers.connected(volume, name);
    let state = connected.map_or(follower.at, |connected| connected.reached.max(follower.at));
    let known = (state != Tid::ZERO).then_some(state);
    let (node, upto) = (daemon.node.clone(), daemon.node.tid());
    let counted =
        tokio::task::spawn_blocking(move || serve::transactions(&node.records.past(upto), volume, state, upto));
    let (transactions, more) = counted.await.unwrap_or((0, true));
    let holds = follower.holds(now);
    // What the policy alone would have kept is no cost of the mirror.
    let begins = past.policy.horizon(now).unwrap_or(Tid::ZERO);
    let held_s = holds.filter(|from| *from < begins).map(|from| seconds(begins, from));
    FollowerLine {
        volume: volume.0,
        volume_name: past.name.to_string(),
        name: name.to_owned(),
        admitted: follower.admitted.to_string(),
        state: known.map(|state| state.to_string()),
        state_time: known.map(|state| Timestamp::of_tid(state).to_string()),
        age_s: known.map(|state| seconds(now, state)),
        seen_s: (follower.seen != Tid::ZERO).then(|| seconds(now, follower.seen)),
        connected: connected.is_some(),
        keep_for_s: follower.keep_for_ns.map(|ns| ns / 1_000_000_000),
        is_waited_for: holds.is_some(),
        held_s: held_s.unwrap_or(0),
        transactions,
        more,
        bytes: connected.map(|connected| connected.ahead.bytes),
        sent: connected.map(|connected| connected.sent),
        selection: follower.selection.clone(),
    }
}

fn seconds(now: Tid, then: Tid) -> u64 {
    now.0.saturating_sub(then.0) / 1_000_000_000
}
