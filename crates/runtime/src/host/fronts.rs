//! What the fronts of this node keep, and how they are told to forget it.

use gavel_client::{Forget, Keep, Kept, ToForget, What};
use gavel_lease::RangeSet;
use gavel_lease::range::whole_objects;
use gavel_types::{KeyRange, ObjectId, VolumeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// An answer may take so long on its way to whoever keeps it: that much sooner it stops being kept.
pub const ON_ITS_WAY: Duration = Duration::from_millis(100);
/// Objects that the fronts are told one by one to forget; of more than these, the times to live are waited for.
const OBJECTS_MAX: u64 = 8192;
/// Files whose bytes may be kept; bytes of more are not.
const FILES_MAX: usize = 64 * 1024;

/// A file whose bytes may be kept.
#[derive(Debug, Default)]
struct File {
    /// Bytes were read since the last forgetting began.
    read: bool,
}

/// All fronts of a node.
#[derive(Default)]
pub struct Fronts {
    attached: Mutex<Vec<(VolumeId, Weak<dyn Forget>)>>,
    files: Mutex<BTreeMap<(VolumeId, ObjectId), File>>,
    /// Names may be kept since they were last forgotten.
    names: AtomicBool,
}

impl Fronts {
    /// A front that keeps answers about `volume`, as long as it lives.
    pub fn attach(&self, volume: VolumeId, front: Weak<dyn Forget>) {
        let mut attached = self.attached.lock();
        attached.retain(|(_, front)| front.strong_count() > 0);
        attached.push((volume, front));
    }

    /// How many fronts keep answers about `volume`.
    pub fn count(&self, volume: VolumeId) -> usize {
        let attached = self.attached.lock();
        attached.iter().filter(|(of, front)| *of == volume && front.strong_count() > 0).count()
    }

    /// What of `keep` is handed out: less the time that an answer may take on its way; no bytes of too many files.
    pub fn hand_out(&self, volume: VolumeId, object: Option<ObjectId>, keep: Keep) -> Keep {
        let less = |ns: u64| ns.saturating_sub(ON_ITS_WAY.as_nanos() as u64);
        let bytes = keep.bytes && object.is_some_and(|object| self.keep_bytes(volume, object));
        let keep = Keep { names_ns: less(keep.names_ns), attrs_ns: less(keep.attrs_ns), bytes };
        if keep.names_ns > 0 && !self.names.load(Ordering::Relaxed) {
            self.names.store(true, Ordering::SeqCst);
        }
        keep
    }

    /// True if there is room to remember one more file; if not, some others are forgotten, to make room.
    fn keep_bytes(&self, volume: VolumeId, object: ObjectId) -> bool {
        let mut files = self.files.lock();
        if files.len() < FILES_MAX || files.contains_key(&(volume, object)) {
            files.entry((volume, object)).or_default();
            return true;
        }
        let oldest: Vec<_> = files.keys().take(FILES_MAX / 8).copied().collect();
        for file in &oldest {
            files.remove(file);
        }
        drop(files);
        let mut kept: BTreeMap<VolumeId, Vec<Kept>> = BTreeMap::new();
        for (volume, object) in oldest {
            kept.entry(volume).or_default().push(Kept::Object(object));
        }
        self.tell(kept, || {});
        false
    }

    /// Bytes of a file are about to be handed out. True if they may be kept.
    pub fn reading(&self, volume: VolumeId, object: ObjectId) -> bool {
        self.files.lock().get_mut(&(volume, object)).is_some_and(|file| {
            file.read = true;
            true
        })
    }

    /// Has the fronts forget, and calls `forgotten` then. `term` is the longest time for which anything is kept.
    pub fn forget(
        self: &Arc<Self>,
        to_forget: &ToForget,
        term: Duration,
        tokio: &tokio::runtime::Handle,
        forgotten: impl FnOnce() + Send + 'static,
    ) {
        let objects: Vec<_> = to_forget.ranges.iter().filter_map(whole_objects).collect();
        let count =
            objects.iter().fold(0u64, |sum, (_, first, last)| sum.saturating_add(last.0 - first.0).saturating_add(1));
        let ranges: RangeSet = to_forget.ranges.iter().cloned().collect();
        let wide = count > OBJECTS_MAX;
        let mut kept: BTreeMap<VolumeId, Vec<Kept>> = BTreeMap::new();
        for (volume, first, last) in objects.into_iter().filter(|_| !wide && to_forget.what != What::Rest) {
            let each = (first.0..=last.0).map(|object| match to_forget.what {
                What::Own => Kept::Attributes(ObjectId(object)),
                _ => Kept::Object(ObjectId(object)),
            });
            kept.entry(volume).or_default().extend(each);
        }
        if to_forget.what != What::Own {
            for (volume, object) in self.take_files(&ranges, wide, to_forget.what) {
                kept.entry(volume).or_default().push(Kept::Object(object));
            }
        }
        if to_forget.what != What::Rest && self.names.swap(false, Ordering::SeqCst) {
            let volumes: Vec<VolumeId> = self.attached.lock().iter().map(|(volume, _)| *volume).collect();
            volumes.into_iter().for_each(|volume| kept.entry(volume).or_default().push(Kept::Names));
        }
        let wait = (wide && to_forget.what == What::All).then_some(term);
        let tokio = tokio.clone();
        self.tell(kept, move || match wait {
            None => forgotten(),
            Some(term) => {
                tokio.spawn(async move {
                    tokio::time::sleep(term).await;
                    forgotten();
                });
            }
        });
    }

    /// Nobody can say any more that what is kept is right: names and bytes go. Attributes have their times to live.
    pub fn forget_all(self: &Arc<Self>) {
        let mut kept: BTreeMap<VolumeId, Vec<Kept>> = BTreeMap::new();
        for (volume, object) in std::mem::take(&mut *self.files.lock()).into_keys() {
            kept.entry(volume).or_default().push(Kept::Object(object));
        }
        for (volume, _) in self.attached.lock().iter() {
            kept.entry(*volume).or_default().push(Kept::Names);
        }
        self.tell(kept, || {});
    }

    /// The volume is not used any more: names and bytes of it go. Attributes have their times to live.
    pub fn forget_volume(self: &Arc<Self>, volume: VolumeId) {
        let within = (volume, ObjectId(0))..=(volume, ObjectId(u64::MAX));
        let mut files = self.files.lock();
        let objects: Vec<ObjectId> = files.range(within).map(|((_, object), _)| *object).collect();
        for object in &objects {
            files.remove(&(volume, *object));
        }
        drop(files);
        let kept = objects.into_iter().map(Kept::Object).chain([Kept::Names]).collect();
        self.tell(BTreeMap::from([(volume, kept)]), || {});
    }

    /// Attributes or bytes of this object may have been kept without a right to.
    pub fn forget_object(self: &Arc<Self>, volume: VolumeId, object: ObjectId) {
        self.tell(BTreeMap::from([(volume, vec![Kept::Object(object)])]), || {});
    }

    /// These have lost their last names, and stay because the fronts have them open.
    pub fn orphaned(&self, orphans: impl IntoIterator<Item = (VolumeId, ObjectId)>) {
        let mut of: BTreeMap<VolumeId, Vec<ObjectId>> = BTreeMap::new();
        orphans.into_iter().for_each(|(volume, object)| of.entry(volume).or_default().push(object));
        let attached = self.attached.lock().clone();
        for (volume, front) in attached {
            if let (Some(objects), Some(front)) = (of.get(&volume), front.upgrade()) {
                front.orphaned(objects.clone());
            }
        }
    }

    /// Bytes that were read with no lease are not to stay in a front that keeps this file's bytes. (It drops them when it has
    /// the answer, which it is waiting for.)
    pub fn drop_bytes_soon(self: &Arc<Self>, volume: VolumeId, object: ObjectId) {
        if self.reading(volume, object) {
            self.forget_object(volume, object);
        }
    }

    /// An answer that may be kept, and describes this object, was out so late that its time to live began too late.
    pub fn was_late(self: &Arc<Self>, volume: VolumeId, described: Option<ObjectId>) {
        self.forget_all();
        if let Some(object) = described {
            self.forget_object(volume, object);
        }
    }

    /// The files within the ranges whose bytes have to be forgotten by name: all of them if the ranges are too wide to name their
    /// objects; of the rest, those with bytes read since. After the rest, nothing more of these ranges is kept.
    fn take_files(&self, ranges: &RangeSet, wide: bool, what: What) -> Vec<(VolumeId, ObjectId)> {
        let mut files = self.files.lock();
        let met = files.iter_mut().filter(|((volume, object), _)| ranges.touches(&KeyRange::object(*volume, *object)));
        let mut taken = Vec::new();
        let mut met_all = Vec::new();
        for (name, file) in met {
            let read = std::mem::take(&mut file.read);
            met_all.push(*name);
            if (what == What::All && wide) || (what == What::Rest && read) {
                taken.push(*name);
            }
        }
        if what == What::Rest {
            for name in met_all {
                files.remove(&name);
            }
        }
        taken
    }

    fn tell(&self, kept: BTreeMap<VolumeId, Vec<Kept>>, forgotten: impl FnOnce() + Send + 'static) {
        let attached = self.attached.lock().clone();
        let fronts = attached.into_iter().filter_map(|(volume, front)| {
            let kept = kept.get(&volume)?.clone();
            Some((front.upgrade()?, kept))
        });
        let fronts: Vec<(Arc<dyn Forget>, Vec<Kept>)> = fronts.collect();
        let left = Arc::new(AtomicUsize::new(fronts.len() + 1));
        let forgotten = Arc::new(Mutex::new(Some(forgotten)));
        let done = move || {
            if left.fetch_sub(1, Ordering::AcqRel) == 1
                && let Some(forgotten) = forgotten.lock().take()
            {
                forgotten();
            }
        };
        for (front, kept) in fronts {
            front.forget(kept, Box::new(done.clone()));
        }
        done();
    }
}
