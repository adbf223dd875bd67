//! What is asked about mirrors; and that one is none any more.

use super::receive::go_back;
use super::{MirrorAnswer, MirrorAsk, demote, invite, list};
use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use crate::host::volumes;
use gavel_types::{VolumeId, VolumeRef};
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
    let number = |volume: &VolumeRef| volumes::living(&daemon.node, volume);
    match ask {
        MirrorAsk::List { volume: None } => {
            let (mirrors, followers) = (list::mirrors(daemon, |_| true).await, list::followers(daemon).await);
            Ok(MirrorAnswer::Listed { mirrors, followers })
        }
        MirrorAsk::List { volume: Some(volume) } => about(daemon, &volume).await,
        MirrorAsk::Promote { volume } => {
            // Nobody is to receive into it meanwhile. That it follows ends with the promotion.
            let _ = invite::pause(daemon, number(&volume)?, true).await;
            promote(daemon, number(&volume)?).await.map_err(|asked| match asked {
                Asked::Failed(cause) => cause,
                Asked::Refused(Refusal::NotMirror) => format!("volume {volume} is no mirror"),
                Asked::Refused(Refusal::Behind) => format!("somebody receives into {volume}: end that first"),
                Asked::Refused(refusal) => format!("refused: {refusal:?}"),
            })?;
            about(daemon, &volume).await
        }
        MirrorAsk::Admit { volume, name, keep_for_ns, selection } => {
            Ok(MirrorAnswer::Invitation(invite::admit(daemon, &volume, &name, (keep_for_ns, selection)).await?))
        }
        MirrorAsk::Dismiss { volume, name } => {
            invite::dismiss(daemon, &volume, &name).await?;
            Ok(MirrorAnswer::Mirrors(Vec::new()))
        }
        MirrorAsk::Follow { invitation, into } => {
            let volume = invite::follow(daemon, &invitation, &into).await?;
            about(daemon, &volume.into()).await
        }
        MirrorAsk::Pause { volume, paused } => {
            invite::pause(daemon, number(&volume)?, paused).await?;
            about(daemon, &volume).await
        }
        MirrorAsk::Remove { volume } => {
            invite::remove(daemon, number(&volume)?).await?;
            about(daemon, &volume).await
        }
        MirrorAsk::Demote(ask) => Ok(MirrorAnswer::Demoted(demote::demote(daemon, ask).await?)),
    }
}

/// One mirror.
async fn about(daemon: &Arc<Daemon>, volume: &VolumeRef) -> Result<MirrorAnswer, String> {
    let number = volumes::living(&daemon.node, volume)?;
    let found = list::mirrors(daemon, |listed| listed == number).await;
    let none = || format!("volume {volume} is no mirror: `gavel mirror list` says which there are");
    if found.is_empty() { Err(none()) } else { Ok(MirrorAnswer::Mirrors(found)) }
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
