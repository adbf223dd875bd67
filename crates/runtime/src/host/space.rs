//! Where the bytes of a volume are, or of what lies below a path in it: what lives, what only the past shows, and what the disk of this node holds.
//!
//! Each row of the records, and each blob, is counted once, in the first class that it belongs to: what lives, then what ended last. So the classes add up to
//! the whole. A blob counts with all its bytes, however little of it is named.
//!
//! - `below`: what lies below a path

mod below;

use crate::host::daemon::Daemon;
use crate::host::node::NodeHandle;
use gavel_history::walk;
use gavel_txn::VolumePast;
use gavel_txn::prune::{Readable, Span};
use gavel_types::{BlobId, KeyRange, Tid, Timestamp, VolumeId};
use gavel_wire::past::{Lived, Past};
use gavel_wire::{Content, Extent, Record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// No longer than this is looked; what was found by then is told.
const LOOK_TIME: Duration = Duration::from_secs(40);
/// The clock is read once in so many rows.
const LOOK_ROWS: u64 = 1024;
/// Most objects that are looked at below a path: each is kept in mind until the end, in some 16 bytes.
const OBJECTS_MAX: usize = 1_000_000;
/// Most blobs that are counted below a path: each is kept in mind in some 120 bytes.
const BLOBS_MAX: usize = 250_000;
/// Ages of what has ended, each up to so many hours; behind the last one everything else.
const AGES: [(&str, u64); 4] = [("hour", 1), ("day", 24), ("week", 7 * 24), ("month", 30 * 24)];
const OLDER: &str = "older";
const HOUR_NS: u64 = 3_600_000_000_000;

/// Bytes of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Held {
    /// Rows of versions.
    pub versions: u64,
    /// Their bytes, before compression.
    pub record_bytes: u64,
    /// Blobs that belong to no class before this one.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
}

/// What ended within some time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Aged {
    /// `hour`, `day`, `week`, `month`: it ended within that, and not within the one before; `older`.
    pub within: String,
    /// Its bytes.
    #[serde(flatten)]
    pub held: Held,
}

/// Blobs that are named more than once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Shared {
    /// Blobs that two live versions or more name.
    pub blobs: u64,
    /// Bytes that live versions name, without those that an earlier one names too: what is stored once instead of several times.
    pub saved_bytes: u64,
    /// Bytes of blobs that something else names, too: another volume, or, of what lies below a path, another place of the volume.
    pub elsewhere_bytes: u64,
}

/// What this node's disk holds, for all volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OnDisk {
    /// Files of the records: compressed, with what compactions have not returned yet.
    pub record_bytes: u64,
    /// Files of the blobs.
    pub blob_bytes: u64,
    /// Of these, what was collected, and comes back when enough of a segment is.
    pub returning_bytes: u64,
    /// Blobs that nothing names, and that are collected in a moment.
    pub condemned: u64,
    /// Blobs that were collected, and of which this node has not let go yet.
    pub collected: u64,
}

/// Where the bytes of a volume are, or of what lies below a path in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Space {
    /// The volume.
    pub volume: u32,
    /// The path within it, without a slash at either end, as far as it can be shown; empty: all of the volume.
    pub path: String,
    /// As of which transaction.
    pub tid: String,
    /// When that was.
    pub time: String,
    /// What the present shows.
    pub live: Held,
    /// What only the past shows, by when it ended.
    pub history: Vec<Aged>,
    /// What nothing but snapshots and mounts of past states keep.
    pub snapshots: Held,
    /// What no state shows that can be read: it is being removed.
    pub going: Held,
    /// The sum of all these.
    pub total: Held,
    /// Blobs that are named more than once.
    pub shared: Shared,
    /// What this node's disk holds.
    pub disk: OnDisk,
    /// There is more than could be looked at in time: there is at least so much.
    pub partial: bool,
}

/// Classes, in their order: the present, the ages, what snapshots keep, what is going.
const CLASSES: usize = AGES.len() + 4;
const SNAPSHOTS: usize = CLASSES - 2;
const GOING: usize = CLASSES - 1;

/// Says which class a version belongs to.
struct Classes {
    now: Tid,
    horizon: Tid,
    kept: Vec<Tid>,
    /// Those of them that the policy keeps, and not a snapshot or a pin alone.
    by_policy: Vec<Tid>,
}

impl Classes {
    fn new(past: &VolumePast, now: Tid) -> Classes {
        let needed: BTreeSet<Tid> =
            past.snapshots.values().map(|snapshot| snapshot.tid).chain(past.pins.keys().copied()).collect();
        let by_policy: BTreeSet<Tid> = past.policy.kept(now, past.horizon).into_iter().collect();
        let kept = past.kept.clone();
        let by_policy = kept.iter().copied().filter(|tid| !needed.contains(tid) || by_policy.contains(tid)).collect();
        Classes { now, horizon: past.horizon, kept, by_policy }
    }

    fn of(&self, create: Tid, delete: Option<Tid>) -> usize {
        let Some(ended) = delete else { return 0 };
        let span = Span { create, delete };
        if !(Readable { horizon: self.horizon, kept: &self.kept }).shows(span) {
            return GOING;
        }
        if !(Readable { horizon: self.horizon, kept: &self.by_policy }).shows(span) {
            return SNAPSHOTS;
        }
        let age = self.now.0.saturating_sub(ended.0);
        1 + AGES.iter().position(|(_, hours)| age < hours * HOUR_NS).unwrap_or(AGES.len())
    }
}

/// Counts.
#[derive(Default)]
struct Tally {
    held: [Held; CLASSES],
    shared: Shared,
    /// The blob whose names are coming.
    blob: Option<Named>,
}

/// What is known of a blob so far.
struct Named {
    id: BlobId,
    bytes: u64,
    /// The first class in which the volume names it.
    class: Option<usize>,
    /// Live versions of the volume that name it, and the bytes of it that they name.
    live: u64,
    live_bytes: u64,
    elsewhere: bool,
}

impl Named {
    /// The blob of this version, if it has one; nothing is counted yet.
    fn of(lived: &Lived) -> Option<Named> {
        match &lived.version.record {
            Record::Extent(Extent { content: Content::Blob { id, blob_len, .. }, .. }) => Some(Named {
                id: *id,
                bytes: u64::from(*blob_len),
                class: None,
                live: 0,
                live_bytes: 0,
                elsewhere: false,
            }),
            _ => None,
        }
    }

    /// This version names it.
    fn add(&mut self, class: usize, lived: &Lived) {
        let len = match &lived.version.record {
            Record::Extent(extent) => extent.len,
            _ => 0,
        };
        self.class = Some(self.class.map_or(class, |before| before.min(class)));
        self.live += u64::from(class == 0);
        self.live_bytes += if class == 0 { len } else { 0 };
    }
}

impl Tally {
    fn version(&mut self, class: usize, lived: &Lived) {
        let held = &mut self.held[class];
        held.versions += 1;
        held.record_bytes += (lived.key.as_bytes().len() + lived.version.encode().len()) as u64;
    }

    fn name(&mut self, class: Option<usize>, lived: &Lived) {
        let Some(named) = Named::of(lived) else { return };
        if self.blob.as_ref().is_none_or(|before| before.id != named.id) {
            self.end_blob();
        }
        let named = self.blob.get_or_insert(named);
        match class {
            None => named.elsewhere = true,
            Some(class) => named.add(class, lived),
        }
    }

    fn end_blob(&mut self) {
        if let Some(named) = self.blob.take() {
            self.add(&named);
        }
    }

    /// Counts a blob all names of which are known.
    fn add(&mut self, named: &Named) {
        let Some(class) = named.class else { return };
        self.held[class].blobs += 1;
        self.held[class].blob_bytes += named.bytes;
        self.shared.blobs += u64::from(named.live > 1);
        self.shared.saved_bytes += named.live_bytes.saturating_sub(named.bytes);
        self.shared.elsewhere_bytes += if named.elsewhere { named.bytes } else { 0 };
    }
}

/// How long may still be looked.
struct Pace {
    until: Instant,
    rows: u64,
    over: bool,
}

impl Pace {
    /// One row more was read: is there time for the next?
    fn in_time(&mut self) -> bool {
        self.rows += 1;
        self.over |= self.rows.is_multiple_of(LOOK_ROWS) && Instant::now() >= self.until;
        !self.over
    }

    /// There is more than can be kept in mind.
    fn give_up(&mut self) {
        self.over = true;
    }
}

/// Says where the bytes of a volume are, or of what lies below `path` in it, which is empty for the whole volume.
///
/// # Errors
/// What went wrong, in words.
pub async fn ask(daemon: &Daemon, volume: VolumeId, path: Vec<u8>) -> Result<Space, String> {
    // What others have done so far counts, too; without a quorum, what is known here.
    daemon.tree(volume, false).present().await.map_err(|error| error.to_string())?;
    let past = daemon.node.past.read().of(volume).cloned().ok_or_else(|| format!("there is no volume {volume}"))?;
    let blobs = daemon.blobs.stats();
    let (condemned, collected) = daemon.blobs.leaving();
    let disk = OnDisk {
        record_bytes: daemon.node.records.stats().disk_bytes,
        blob_bytes: blobs.disk_bytes,
        returning_bytes: blobs.dead_bytes,
        condemned,
        collected,
    };
    let node = daemon.node.clone();
    let looked = tokio::task::spawn_blocking(move || look(&node, volume, within(&path), &past, disk)).await;
    looked.map_err(|error| error.to_string())?
}

fn look(node: &NodeHandle, volume: VolumeId, path: &[u8], past: &VolumePast, disk: OnDisk) -> Result<Space, String> {
    let tid = node.tid();
    let mut pace = Pace { until: Instant::now() + LOOK_TIME, rows: 0, over: false };
    let classes = Classes::new(past, Tid(node.cluster_ns()).max(tid));
    let tally = match path {
        [] => whole(node, volume, &classes, &mut pace)?,
        path => below::count(node, volume, path, &classes, &mut pace)?,
    };
    let names = AGES.iter().map(|(name, _)| *name).chain([OLDER]);
    let history = names.zip(&tally.held[1..]).map(|(within, held)| Aged { within: within.into(), held: *held });
    Ok(Space {
        volume: volume.0,
        path: walk::shown(path),
        tid: tid.to_string(),
        time: Timestamp::of_tid(tid).to_string(),
        live: tally.held[0],
        history: history.collect(),
        snapshots: tally.held[SNAPSHOTS],
        going: tally.held[GOING],
        total: sum(&tally.held),
        shared: tally.shared,
        disk,
        partial: pace.over,
    })
}

/// A path without slashes at its ends.
fn within(path: &[u8]) -> &[u8] {
    let is_name = |byte: &u8| *byte != b'/';
    match (path.iter().position(is_name), path.iter().rposition(is_name)) {
        (Some(first), Some(last)) => &path[first..=last],
        _ => &[],
    }
}

/// Counts all of a volume.
fn whole(node: &NodeHandle, volume: VolumeId, classes: &Classes, pace: &mut Pace) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for lived in node.records.past(node.tid()).versions(&KeyRange::volume(volume)) {
        let lived = lived.map_err(|error| error.to_string())?;
        tally.version(classes.of(lived.version.create, lived.delete), &lived);
        if !pace.in_time() {
            break;
        }
    }
    let named = node.records.each_name(|_, lived| {
        let ours = lived.key.volume() == volume;
        tally.name(ours.then(|| classes.of(lived.version.create, lived.delete)), &lived);
        pace.in_time()
    });
    named.map_err(|error| error.to_string())?;
    tally.end_blob();
    Ok(tally)
}

fn sum(held: &[Held]) -> Held {
    held.iter().fold(Held::default(), |sum, held| Held {
        versions: sum.versions + held.versions,
        record_bytes: sum.record_bytes + held.record_bytes,
        blobs: sum.blobs + held.blobs,
        blob_bytes: sum.blob_bytes + held.blob_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::{Key, ObjectId};
    use gavel_wire::Version;

    fn lived(object: u64, blob: u8, len: u64, delete: Option<u64>) -> Lived {
        let content = Content::Blob { id: BlobId([blob; 32]), blob_len: 100, offset: 0 };
        let record = Record::Extent(Extent { len, content });
        let version = Version { create: Tid(1), firm: Tid(1), record };
        let key = Key::extent(VolumeId(1), ObjectId(object), len);
        Lived { key, version, delete: delete.map(Tid) }
    }

    #[test]
    fn a_blob_counts_once_in_the_first_class_that_names_it() {
        let mut tally = Tally::default();
        for (class, lived) in [
            (Some(3), lived(20, 1, 100, Some(9))),
            (Some(0), lived(21, 1, 60, None)),
            (Some(0), lived(22, 1, 100, None)),
            (Some(GOING), lived(20, 2, 100, Some(9))),
            (None, lived(20, 2, 100, Some(9))),
            (None, lived(20, 3, 100, None)),
        ] {
            tally.name(class, &lived);
        }
        tally.end_blob();
        let total = sum(&tally.held);
        assert_eq!((total.blobs, total.blob_bytes), (2, 200), "the third is another volume's alone");
        assert_eq!((tally.held[0].blobs, tally.held[3].blobs, tally.held[GOING].blobs), (1, 0, 1));
        assert_eq!(tally.shared, Shared { blobs: 1, saved_bytes: 60, elsewhere_bytes: 100 });
    }

    #[test]
    fn what_ended_is_classed_by_when_and_by_who_keeps_it() {
        let now = Tid(1000 * HOUR_NS);
        let ago = |hours: u64| Tid(now.0 - hours * HOUR_NS);
        let (kept, by_policy) = (vec![ago(900), ago(800)], vec![ago(900)]);
        let classes = Classes { now, horizon: ago(760), kept, by_policy };
        for (create, delete, class) in [
            (ago(10), None, 0),
            (ago(10), Some(Tid(now.0 - 1)), 1),
            (ago(10), Some(ago(2)), 2),
            (ago(100), Some(ago(30)), 3),
            (ago(300), Some(ago(200)), 4),
            (ago(759), Some(ago(750)), 5),
            (ago(901), Some(ago(850)), 5),
            (ago(850), Some(ago(799)), SNAPSHOTS),
            (ago(799), Some(ago(770)), GOING),
        ] {
            assert_eq!(classes.of(create, delete), class, "[{create}, {delete:?})");
        }
    }
}
