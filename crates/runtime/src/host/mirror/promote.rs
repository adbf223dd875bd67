//! Which mirrors there are, and that one is none any more.

use super::receive::go_back;
use super::{MirrorAnswer, MirrorAsk, MirrorLine};
use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use crate::host::volumes;
use gavel_txn::{Mirror, VolumePast};
use gavel_types::{Tid, Timestamp, VolumeId};
use gavel_wire::{Refusal, RequestBody};
use std::sync::Arc;
use std::time::Duration;

/// How long the quorum may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers a question about mirrors.
///
/// # Errors
/// What went wrong and what to do, in words.
pub async fn ask(daemon: &Arc<Daemon>, ask: MirrorAsk) -> Result<MirrorAnswer, String> {
    volumes::confirm(&daemon.node).await;
    match ask {
        MirrorAsk::List { volume: None } => Ok(MirrorAnswer::Mirrors(lines(daemon, |_| true))),
        MirrorAsk::List { volume: Some(volume) } => {
            let number = volumes::living(&daemon.node, &volume)?;
            let found = lines(daemon, |listed| listed == number);
            let none = || format!("volume {volume} is no mirror: `gavel mirror list` says which there are");
            if found.is_empty() { Err(none()) } else { Ok(MirrorAnswer::Mirrors(found)) }
        }
        MirrorAsk::Promote { volume } => {
            let number = volumes::living(&daemon.node, &volume)?;
            promote(daemon, number).await.map_err(|asked| match asked {
                Asked::Failed(cause) => cause,
                Asked::Refused(Refusal::NotMirror) => format!("volume {volume} is no mirror"),
                Asked::Refused(Refusal::Behind) => format!("somebody receives into {volume}: end that first"),
                Asked::Refused(refusal) => format!("refused: {refusal:?}"),
            })?;
            Ok(MirrorAnswer::Mirrors(lines(daemon, |listed| listed == number)))
        }
    }
}

/// Half of a step that was never completed is taken back before.
async fn promote(daemon: &Arc<Daemon>, volume: VolumeId) -> Result<(), Asked> {
    let body = || RequestBody::PromoteMirror { volume };
    match request(&daemon.node, body(), PATIENCE, "gavel mirror list").await {
        Err(Asked::Refused(Refusal::Behind)) => {
            go_back(daemon, volume).await.map_err(Asked::Failed)?;
            request(&daemon.node, body(), PATIENCE, "gavel mirror list").await
        }
        asked => asked,
    }
}

fn lines(daemon: &Daemon, is_listed: impl Fn(VolumeId) -> bool) -> Vec<MirrorLine> {
    let now = Tid(daemon.node.cluster_ns());
    let past = daemon.node.past.read();
    let mirrors = past.volumes().filter(|(number, past)| past.is_living() && is_listed(*number));
    mirrors.filter_map(|(number, past)| Some(line(number, past, past.mirror.as_ref()?, now))).collect()
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
        age_s: received.map(|state| now.0.saturating_sub(state.0) / 1_000_000_000),
        step_to: mirror.step.map(|step| step.to.to_string()),
        promoted: mirror.promoted.map(|tid| tid.to_string()),
    }
}
