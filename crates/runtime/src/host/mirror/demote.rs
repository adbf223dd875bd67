//! A volume becomes a mirror of one that was its mirror until that was promoted.
//!
//! `docs/protocols/mirroring.md`, "Demoting". What the two have in common, the invitation to the other one says; what this one has behind that is saved as a clone, by
//! the same item of the log that makes it a mirror.

use super::invite::{self, Invited};
use super::{DemoteAsk, DemotedLine};
use crate::host::asked::{Asked, request};
use crate::host::daemon::Daemon;
use crate::host::volumes;
use gavel_txn::{Lineage, VolumePast};
use gavel_types::{KeyRange, MirrorSource, Tid, Timestamp, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Demotion, Refusal, RequestBody, ViewError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the quorum may take, and others to give their leases back: a session that is silent ends before.
const PATIENCE: Duration = Duration::from_secs(30);
/// While others go on writing, it is tried again for so long.
const TRIES: Duration = Duration::from_secs(20);
/// So long between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// Rows of the change index that are counted, at most.
const COUNTED_MAX: usize = 65_536;
/// Longest beginning of a name that is made, in bytes: the rest is a word and a transaction.
const NAME_BYTES_MAX: usize = 32;

/// Makes a volume a mirror of one that was its mirror; or says what that would do.
///
/// # Errors
/// What went wrong and what to do, in words.
pub async fn demote(daemon: &Arc<Daemon>, ask: DemoteAsk) -> Result<DemotedLine, String> {
    let number = volumes::living(&daemon.node, &ask.volume)?;
    let Invited { source, name, selection, follow, lineage } = invite::read(&ask.invitation)?;
    let (lineage, own_name) = judge(daemon, number, lineage)?;
    if !selection.is_all() {
        return Err(format!(
            "the invitation is to a part of {name} only: {own_name} would lose all else that it has\nHint: gavel mirror admit, without --only and --exclude"
        ));
    }
    if ask.follow {
        invite::is_served(&follow, source).await?;
    }
    let behind = Behind::look(daemon, number, lineage.departed).await?;
    let save_as = ask.save_as.unwrap_or_else(|| clone_name(&own_name, lineage.departed));
    let mut line = DemotedLine {
        number: number.0,
        name: own_name,
        source_cluster: source.cluster.to_string(),
        source_volume: source.volume.0,
        source_name: name,
        departed: lineage.departed.to_string(),
        departed_time: Timestamp::of_tid(lineage.departed).to_string(),
        state: lineage.state.to_string(),
        transactions: behind.transactions,
        more: behind.more,
        saved: (behind.transactions > 0).then(|| save_as.clone()),
        demoted: false,
        follows: false,
    };
    if ask.dry_run {
        return Ok(line);
    }
    line.saved = carry_out(daemon, number, (source, lineage), &save_as).await?;
    line.demoted = true;
    if ask.follow {
        invite::set(daemon, number, Some(follow)).await.map_err(|cause| {
            format!(
                "volume {0} is a mirror now, and follows nobody: {cause}\nHint: gavel mirror follow INVITATION --into {0}",
                line.name
            )
        })?;
        line.follows = true;
    }
    Ok(line)
}

/// Is the volume one that the other one departed from? Gives where, and what this one is called.
fn judge(daemon: &Daemon, number: VolumeId, lineage: Option<Lineage>) -> Result<(Lineage, String), String> {
    let past = daemon.node.past.read();
    let past = past.of(number).ok_or("the volume is gone")?;
    let own = MirrorSource { cluster: daemon.config().cluster, volume: number, made: past.made };
    is_descendant(past, own, lineage, daemon.node.tid()).map(|lineage| (lineage, past.name.to_string()))
}

/// `now` is the last transaction that is known here.
fn is_descendant(past: &VolumePast, own: MirrorSource, lineage: Option<Lineage>, now: Tid) -> Result<Lineage, String> {
    let name = &past.name;
    let anew = format!(
        "keep {name}, and make a new mirror beside it: gavel mirror follow INVITATION --into NAME, with a name that is not there yet"
    );
    if past.is_mirror() {
        return Err(format!("volume {name} is a mirror already\nHint: gavel mirror status {name} says of what"));
    }
    let lineage = lineage.ok_or_else(|| {
        format!(
            "the invitation is to a volume that has departed from no other one: it is a mirror still, or was never one\nHint: if it is a mirror of {name}, promote it first (gavel mirror promote, in its cluster), and make the invitation then (gavel mirror admit)"
        )
    })?;
    let Lineage { source, departed, .. } = lineage;
    if source != own {
        return Err(format!(
            "the invitation is to a volume that does not descend from {name}: it departed from volume {} of cluster {}, made at {}, and {name} is volume {} of cluster {}, made at {}\nHint: {anew}",
            source.volume, source.cluster, source.made, own.volume, own.cluster, own.made
        ));
    }
    if departed > now {
        return Err(format!(
            "the other volume has had state {departed} of {name}, and this cluster has come to {now} only: it has lost what was committed since\nHint: {anew}"
        ));
    }
    if let Some(mirror) = past.mirror.as_ref().filter(|mirror| departed < mirror.local) {
        let promoted = mirror.promoted.map_or_else(String::new, |promoted| format!(", and was promoted at {promoted}"));
        return Err(format!(
            "the other volume departed at state {departed} of {name}, and {name} has followed another one since, up to {}{promoted}\nHint: an older invitation? Make another one (gavel mirror admit); if it says the same, it is the other volume that can be demoted",
            mirror.local
        ));
    }
    if !past.is_whole(departed) {
        return Err(format!(
            "state {departed} of {name}, at which the other volume departed, was pruned: what has changed in {name} since can't be told any more\nHint: {anew}"
        ));
    }
    Ok(lineage)
}

/// The name of a clone that has what a volume had behind a state.
fn clone_name(volume: &str, departed: Tid) -> String {
    let begin: String = volume.chars().take(NAME_BYTES_MAX).collect();
    format!("{begin}-diverged-{departed}")
}

/// What has changed a volume behind a state.
struct Behind {
    transactions: u32,
    more: bool,
    /// As far as this transaction.
    as_of: Tid,
}

impl Behind {
    /// Up to now, with all that this node has answered.
    async fn look(daemon: &Daemon, volume: VolumeId, after: Tid) -> Result<Behind, String> {
        let as_of = daemon.tree(volume, false).last().await.map_err(|error| error.to_string())?;
        let node = daemon.node.clone();
        let counted = tokio::task::spawn_blocking(move || count(&node.records.past(as_of), volume, (after, as_of)));
        let counted = counted.await.map_err(|error| error.to_string())?;
        let (transactions, more) = counted.map_err(|error| error.to_string())?;
        Ok(Behind { transactions, more, as_of })
    }
}

/// How many transactions have changed a volume; whether there are more. None are missed: rows of other volumes are passed over, however many there are.
fn count(past: &dyn Past, volume: VolumeId, (after, upto): (Tid, Tid)) -> Result<(u32, bool), ViewError> {
    let range = KeyRange::of_objects(volume);
    let (mut count, mut last, mut rows) = (0, after, 0);
    for touched in past.touched(after, upto) {
        let touched = touched?;
        if !range.contains(&touched.key) {
            continue;
        }
        rows += 1;
        if rows > COUNTED_MAX {
            return Ok((count, true));
        }
        if touched.tid > last {
            (count, last) = (count + 1, touched.tid);
        }
    }
    Ok((count, false))
}

/// Demotes the volume. Gives what the clone is called, if one was made.
async fn carry_out(
    daemon: &Arc<Daemon>,
    volume: VolumeId,
    (source, lineage): (MirrorSource, Lineage),
    save_as: &str,
) -> Result<Option<String>, String> {
    let (begun, Lineage { departed: own, state, .. }) = (Instant::now(), lineage);
    loop {
        let behind = Behind::look(daemon, volume, own).await?;
        let save = (behind.transactions > 0).then(|| save_as.to_owned());
        let demotion =
            Demotion { volume, source, own, state, save: save.as_deref().map(Into::into), as_of: behind.as_of };
        let asked = request(&daemon.node, RequestBody::DemoteMirror(demotion), PATIENCE, "gavel mirror list").await;
        match asked {
            Ok(()) => return Ok(save),
            // Somebody has written meanwhile, or was about to.
            Err(Asked::Refused(Refusal::Leased | Refusal::Behind)) if begun.elapsed() < TRIES => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(asked) => return Err(refused(asked, save_as)),
        }
        // Another node may have been quicker.
        judge(daemon, volume, Some(lineage))?;
    }
}

fn refused(asked: Asked, save_as: &str) -> String {
    match asked {
        Asked::Failed(cause) => cause,
        Asked::Refused(Refusal::Leased | Refusal::Behind) => {
            "others go on writing to the volume\nHint: unmount it, on all nodes, and try again".into()
        }
        Asked::Refused(Refusal::Exists) => format!(
            "there is a volume {save_as} already, and what is to be saved would be called so\nHint: give another name: --save-as NAME"
        ),
        Asked::Refused(Refusal::BadName) => format!(
            "{save_as:?} is no name for a volume: letters, digits, - _ and ., 64 bytes at most, not like a time or a number\nHint: give another name: --save-as NAME"
        ),
        Asked::Refused(Refusal::Full) => "what is to be saved can't be cloned: there are too many volumes, too many origins behind this one, or too many open files without a name\nHint: gavel volume list; unmount the volume, and try again".into(),
        Asked::Refused(Refusal::Missing) => "the volume was destroyed meanwhile".into(),
        Asked::Refused(Refusal::ReadOnly) => "the volume is a mirror already".into(),
        Asked::Refused(Refusal::Pruned) => "the state at which the other volume departed was pruned meanwhile".into(),
        Asked::Refused(refusal) => format!("refused: {refusal:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::volume::is_volume_name;
    use gavel_types::{ClusterId, Selection};

    #[test]
    fn the_clone_has_a_name_that_a_volume_may_have() {
        for name in ["main", "_", &"long".repeat(16)] {
            let made = clone_name(name, Tid(u64::MAX));
            assert!(is_volume_name(&made) && made.starts_with(&name[..name.len().min(NAME_BYTES_MAX)]), "{made}");
        }
    }

    #[test]
    fn who_does_not_descend_is_told_apart_by_history() {
        let own = MirrorSource { cluster: ClusterId([1; 16]), volume: VolumeId(1), made: Tid(100) };
        let mut state = gavel_txn::State { tid: Tid(50), ..Default::default() };
        let entry = gavel_wire::Entry {
            tid: Tid(100),
            items: vec![gavel_wire::Item::CreateVolume { volume: VolumeId(1), mode: 0o755, uid: 0, gid: 0 }],
        };
        let records = gavel_store::records::Records::open(
            Arc::new(gavel_store::engine::MemEngine::new()),
            gavel_store::records::Identity { cluster: own.cluster, node: gavel_types::NodeId(1) },
        );
        let records = records.unwrap().0;
        gavel_txn::apply(&mut state, &records.live(Tid(50)), gavel_types::LogIndex(1), Some(&entry)).unwrap();
        let past = state.past.of(VolumeId(1)).unwrap().clone();
        let lineage = Lineage { source: own, departed: Tid(200), state: Tid(900) };
        let judged = |past: &VolumePast, lineage, now| is_descendant(past, own, lineage, Tid(now));
        let refused = |past: &VolumePast, lineage, now, phrases: &[&str]| {
            let said = judged(past, lineage, now).unwrap_err();
            assert!(phrases.iter().all(|phrase| said.contains(phrase)) && said.contains("\nHint: "), "{said}");
        };
        assert_eq!(judged(&past, Some(lineage), 300), Ok(lineage));
        refused(&past, None, 300, &["departed from no other one", "promote it first"]);
        for other in [
            MirrorSource { made: Tid(101), ..own },
            MirrorSource { volume: VolumeId(2), ..own },
            MirrorSource { cluster: ClusterId([2; 16]), ..own },
        ] {
            refused(&past, Some(Lineage { source: other, ..lineage }), 300, &["does not descend from main"]);
        }
        refused(&past, Some(lineage), 199, &["has lost what was committed since"]);
        let pruned = VolumePast { horizon: Tid(201), ..past.clone() };
        refused(&pruned, Some(lineage), 300, &["was pruned", "make a new mirror"]);
        assert_eq!(judged(&VolumePast { kept: vec![Tid(200)], ..pruned }, Some(lineage), 300), Ok(lineage));
        let source = MirrorSource { cluster: ClusterId([2; 16]), ..own };
        let mirror = gavel_txn::Mirror {
            source,
            local: Tid(250),
            state: Tid(950),
            single: false,
            step: None,
            promoted: Some(Tid(260)),
            ids_from: gavel_types::ObjectId(1),
            follow: None,
            former: None,
            selection: Selection::default(),
        };
        let promoted = VolumePast { mirror: Some(mirror.clone()), ..past.clone() };
        refused(&promoted, Some(lineage), 300, &["has followed another one since", "0x104"]);
        let later = Lineage { departed: Tid(250), ..lineage };
        assert_eq!(judged(&promoted, Some(later), 300), Ok(later), "it departed where this one was promoted");
        let follows = VolumePast { mirror: Some(gavel_txn::Mirror { promoted: None, ..mirror }), ..past };
        refused(&follows, Some(later), 300, &["is a mirror already"]);
    }
}
