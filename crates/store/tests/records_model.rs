//! Records against a model that keeps every past state.
#![allow(clippy::unwrap_used)]

mod records_support;

use gavel_store::engine::{Batch, Engine, MemEngine, Snapshot};
use gavel_store::records::{AheadView, Identity, ReadAhead, Records, RecordsError};
use gavel_types::{BlobId, Class, ClusterId, Key, KeyRange, NodeId, ObjectId, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::past::{Lived, Past, Touched};
use gavel_wire::{
    Attr, Change, ChangeRow, Content, Dirent, Extent, Firm, Kind, Live, Orphan, Record, Version, View, ViewError,
};
use records_support::{Dice, LsmRig, MemRig, Rig, dump};
use std::collections::BTreeMap;
use std::sync::Arc;

const V: VolumeId = VolumeId(1);
const WHO: Identity = Identity { cluster: ClusterId([3; 16]), node: NodeId(5) };

type State = BTreeMap<Key, Version>;

/// All states that ever were, by the Tid that made them, and all changes.
#[derive(Clone, Default)]
struct Model {
    states: BTreeMap<Tid, State>,
    changes: Vec<ChangeRow>,
}

impl Model {
    fn tid(&self) -> Tid {
        self.states.last_key_value().map_or(Tid::ZERO, |(tid, _)| *tid)
    }

    fn at(&self, tid: Tid) -> State {
        self.states.range(..=tid).next_back().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    fn scan(&self, tid: Tid, range: &KeyRange, limit: usize) -> Vec<(Key, Version)> {
        self.at(tid).into_iter().filter(|(key, _)| range.contains(key)).take(limit).collect()
    }
}

fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    for object in [ObjectId(1), ObjectId(16), ObjectId(17)] {
        keys.extend([Key::attr(V, object), Key::target(V, object), Key::orphan(V, object)]);
        keys.extend([b"a", b"b", b"c"].map(|name| Key::dirent(V, object, name)));
        keys.extend([1, 255, 256, 65536].map(|end| Key::extent(V, object, end)));
        keys.extend([&b"user.a"[..], b"user.aa"].map(|name| Key::xattr(V, object, name)));
    }
    keys
}

fn record(key: &Key, dice: &mut Dice) -> Record {
    let number = dice.next();
    let bytes = || vec![number as u8; number as usize % 40].into_boxed_slice();
    match key.as_bytes()[12] {
        1 => Record::Attr(attr(number)),
        2 => Record::Dirent(Dirent { object: ObjectId(number), kind: Kind::File }),
        3 => Record::Extent(Extent { len: 1 + number % 40, content: content(number) }),
        4 => Record::Xattr(bytes()),
        5 => Record::Target(bytes()),
        _ => Record::Orphan(Orphan { holders: vec![SessionId(number)] }),
    }
}

fn content(number: u64) -> Content {
    match number % 3 {
        0 => Content::Zeros,
        1 => Content::Inline(vec![number as u8; 1 + number as usize % 40].into()),
        _ => Content::Blob { id: BlobId([number as u8; 32]), blob_len: 70_000, offset: number as u32 },
    }
}

fn attr(number: u64) -> Attr {
    let time = Timestamp { secs: number as i64 >> 30, nanos: number as u32 % 1_000_000_000 };
    let firm = Firm {
        kind: Kind::File,
        mode: 0o644,
        uid: number as u32,
        gid: 0,
        rdev: 0,
        parent: ObjectId::VOLUME,
        birth: time,
        class: Class::VOLUME,
    };
    Attr { firm, nlink: 1, size: number, allocated: 0, atime: time, mtime: time, ctime: time }
}

/// The changes of one log entry of up to 5 items, each changing up to 6 keys, and the attributes of what these are filed under; the model follows.
fn entry(dice: &mut Dice, model: &mut Model) -> Vec<Change> {
    let keys = keys();
    // A few keys change often, so that some histories are long.
    let busy = &keys[..6];
    let mut changes = Vec::new();
    let first = model.tid().0 + 1 + dice.next() % 300;
    for item in 0..1 + dice.next() % 5 {
        let tid = Tid(first + item);
        let mut state = model.at(tid);
        let mut touched: Vec<&Key> =
            (0..dice.below(7)).map(|_| if dice.below(2) == 0 { dice.pick(busy) } else { dice.pick(&keys) }).collect();
        let attributes = |key: &&Key| keys.iter().find(|attr| **attr == Key::attr(V, key.object()));
        let attributes: Vec<&Key> =
            touched.iter().filter_map(attributes).filter(|key| state.contains_key(*key)).collect();
        touched.extend(attributes);
        touched.sort();
        touched.dedup();
        for key in touched {
            let old = state.get(key).cloned();
            let new = (old.is_none() || dice.below(3) > 0).then(|| {
                let firm = if dice.below(2) == 0 { tid } else { old.as_ref().map_or(tid, |old| old.firm) };
                Version { create: tid, firm, record: record(key, dice) }
            });
            match &new {
                Some(new) => drop(state.insert(key.clone(), new.clone())),
                None => drop(state.remove(key)),
            }
            model.changes.push(ChangeRow { tid, key: key.clone(), version: new.clone() });
            changes.push(Change { tid, key: key.clone(), old, new });
        }
        model.states.insert(tid, state);
    }
    changes
}

fn range(dice: &mut Dice) -> KeyRange {
    let keys = keys();
    let one = dice.pick(&keys).clone();
    let object = one.object();
    match dice.below(8) {
        0 => KeyRange::one(&one),
        1 => KeyRange { start: KeyRange::one(&one).end, end: KeyRange::object(V, object).end },
        2 => KeyRange { start: KeyRange::object(V, object).start, end: KeyRange::one(&one).end },
        3 => KeyRange { start: one.as_bytes().into(), end: dice.pick(&keys).as_bytes().into() },
        4 => KeyRange::dirents(V, object),
        5 => KeyRange::extents_behind(V, object, dice.next() % 70_000),
        6 => KeyRange::orphans_from(V, object),
        _ => KeyRange { start: Box::new([0]), end: Box::new([255; 20]) },
    }
}

fn verify<E: Engine>(records: &Records<E>, model: &Model, dice: &mut Dice) {
    let now = model.tid();
    let live = records.live(now);
    assert_eq!(live.tid(), now);
    for _ in 0..6 {
        // Often of late: objects that have not changed since are read in another way.
        let back = dice.next() % if dice.below(2) == 0 { now.0 + 2 } else { 900 };
        let tid = Tid((now.0 + 1).saturating_sub(back)).min(now);
        let past = records.at(tid);
        let keys = keys();
        let key = dice.pick(&keys);
        assert_eq!(live.get(key).unwrap(), model.at(now).get(key).cloned());
        assert_eq!(past.get(key).unwrap(), model.at(tid).get(key).cloned(), "{key:?} at {tid}");
        let (range, limit) = (range(dice), *dice.pick(&[0, 1, 2, 5, 1000]));
        assert_eq!(live.scan(&range, limit).unwrap(), model.scan(now, &range, limit));
        assert_eq!(past.scan(&range, limit).unwrap(), model.scan(tid, &range, limit), "{range:?} at {tid}");
        verify_ahead(records, model, tid, dice);
        let changed = model.changes.iter().any(|row| row.tid > tid && range.contains(&row.key));
        assert_eq!(live.changed_after(&range, tid).unwrap(), changed, "{range:?} after {tid}");
    }
}

/// What is read ahead of a past state is that state, however often the view below it is renewed.
fn verify_ahead<E: Engine>(records: &Records<E>, model: &Model, tid: Tid, dice: &mut Dice) {
    let mut read = ReadAhead::default();
    for _ in 0..dice.below(4) {
        let ahead = AheadView::new(records.at(tid), read);
        for _ in 0..dice.below(10) {
            let keys = keys();
            let key = dice.pick(&keys);
            assert_eq!(ahead.get(key).unwrap(), model.at(tid).get(key).cloned(), "{key:?} at {tid}, read ahead");
            let (range, limit) = (range(dice), *dice.pick(&[0, 1, 2, 5, 1000]));
            assert_eq!(
                ahead.scan(&range, limit).unwrap(),
                model.scan(tid, &range, limit),
                "{range:?} at {tid}, read ahead"
            );
        }
        read = ahead.into_read();
    }
}

/// Every version that ever was of the keys in a range, and when it ended.
fn lived(model: &Model, range: &KeyRange) -> Vec<Lived> {
    let mut all: BTreeMap<Key, Vec<Lived>> = BTreeMap::new();
    for ChangeRow { tid, key, version } in model.changes.iter().filter(|row| range.contains(&row.key)) {
        let versions = all.entry(key.clone()).or_default();
        if let Some(last) = versions.last_mut()
            && last.delete.is_none()
        {
            last.delete = Some(*tid);
        }
        versions.extend(version.clone().map(|version| Lived { key: key.clone(), version, delete: None }));
    }
    all.into_values().flatten().collect()
}

/// The whole past, as history reads it.
fn verify_past<E: Engine>(records: &Records<E>, model: &Model, dice: &mut Dice) {
    let now = model.tid();
    let past = records.past(now);
    assert_eq!(past.tid(), now);
    let range = range(dice);
    let versions: Vec<Lived> = past.versions(&range).collect::<Result<_, _>>().unwrap();
    assert_eq!(versions, lived(model, &range), "{range:?}");
    let back: Vec<(Key, Version)> = past.live_back(&range).collect::<Result<_, _>>().unwrap();
    let mut live = model.scan(now, &range, usize::MAX);
    live.reverse();
    assert_eq!(back, live, "{range:?}");
    let upto = Tid(dice.next() % (now.0 + 1));
    let after = Tid(dice.next() % (upto.0 + 1));
    let wanted: Vec<_> = model.changes.iter().filter(|row| row.tid > after && row.tid <= upto).cloned().collect();
    assert_eq!(past.changes(after, upto).collect::<Result<Vec<_>, _>>().unwrap(), wanted);
    let touched: Vec<Touched> = past.touched(after, upto).collect::<Result<_, _>>().unwrap();
    let index = |row: ChangeRow| Touched { tid: row.tid, key: row.key, made: row.version.is_some() };
    assert_eq!(touched, wanted.into_iter().map(index).collect::<Vec<_>>());
    if let Some(ChangeRow { tid, .. }) = model.changes.get(dice.below(model.changes.len().max(1))) {
        let own = model.changes.iter().filter(|row| row.tid == *tid && range.contains(&row.key));
        let found: Vec<Touched> = past.touched_at(*tid, &range).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, own.cloned().map(index).collect::<Vec<_>>(), "{range:?} at {tid}");
    }
    let view = past.at(upto);
    assert_eq!((view.tid(), view.scan(&range, 5).unwrap()), (upto, model.scan(upto, &range, 5)));
}

fn replay_of_random_changes<R: Rig>(seed: u64, entries: usize) {
    let mut dice = Dice::new(seed);
    let mut rig = R::start();
    let mut model = Model::default();
    let (mut sealed, mut durable) = (None, (Model::default(), None));
    let (mut records, state) = Records::open(rig.engine(), WHO).unwrap();
    assert_eq!(state, None);
    for _ in 0..entries {
        match dice.below(20) {
            0..2 => {
                let state = model.tid().0.to_be_bytes().to_vec();
                records.seal(&state).unwrap();
                sealed = Some((model.clone(), Some(state)));
            }
            2 => {
                records.flush().unwrap();
                durable = sealed.take().unwrap_or(durable);
            }
            3 => drop(records.maintain().unwrap()),
            4 => {
                drop(records);
                rig.crash();
                let (reopened, state) = Records::open(rig.engine(), WHO).unwrap();
                assert_eq!(state, durable.1, "the state is the one of the cut");
                (records, model, sealed) = (reopened, durable.0.clone(), None);
            }
            _ => records.apply(&entry(&mut dice, &mut model), &[]).unwrap(),
        }
        verify(&records, &model, &mut dice);
        verify_past(&records, &model, &mut dice);
    }
    let report = records.check().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.live, model.at(Tid::MAX).len() as u64);
    assert_eq!(report.changes, model.changes.len() as u64);
    catch_up(&records, &model, &mut dice);
}

/// The whole change scan, in parts of random size that may break off in the middle of a transaction.
fn scan_all<E: Engine>(records: &Records<E>, mut after: Tid, upto: Tid, dice: &mut Dice) -> Vec<ChangeRow> {
    let (mut all, mut skip) = (Vec::new(), 0);
    loop {
        let (part, done) = records.changes(after, upto, skip, *dice.pick(&[0, 300, 5000])).unwrap();
        assert!(done || !part.is_empty());
        for row in &part {
            if all.last().is_some_and(|last: &ChangeRow| last.tid == row.tid) {
                skip += 1;
            } else {
                after = all.last().map_or(after, |last| last.tid);
                skip = 1;
            }
            all.push(row.clone());
        }
        if done {
            return all;
        }
    }
}

fn catch_up<E: Engine>(source: &Records<E>, model: &Model, dice: &mut Dice) {
    let now = model.tid();
    let upto = Tid(dice.next() % (now.0 + 1));
    let after = Tid(dice.next() % (upto.0 + 1));
    let wanted: Vec<_> = model.changes.iter().filter(|row| row.tid > after && row.tid <= upto).cloned().collect();
    assert_eq!(scan_all(source, after, upto, dice), wanted);

    let all = scan_all(source, Tid::ZERO, now, dice);
    assert_eq!(all, model.changes);
    let target = Records::open(Arc::new(MemEngine::new()), WHO).unwrap().0;
    let mut installed = 0;
    while installed < all.len() {
        // Rows that were sent already come again.
        let from = installed - dice.below(installed.min(20) + 1);
        let to = (installed + 1 + dice.below(30)).min(all.len());
        let made = target.install(&all[from..to]).unwrap();
        assert_eq!(made.len(), to - installed, "what was there is passed over");
        for (change, row) in made.iter().zip(&all[installed..to]) {
            let before = Tid(row.tid.0 - 1);
            assert_eq!((&change.key, change.tid, &change.new), (&row.key, row.tid, &row.version));
            assert_eq!(change.old, model.at(before).get(&row.key).cloned());
        }
        installed = to;
    }
    assert_eq!(tables(&target), tables(source), "both replicas hold the same bytes");
    assert_eq!(target.check().unwrap().problems, Vec::<String>::new());
}

/// The rows of live, history and change index.
fn tables<E: Engine>(records: &Records<E>) -> Vec<(Vec<u8>, Vec<u8>)> {
    dump(&records.engine().snapshot()).into_iter().filter(|row| row.0[0] != b'M').collect()
}

#[test]
fn replay_of_random_changes_in_memory() {
    (0..20).for_each(|seed| replay_of_random_changes::<MemRig>(seed, 150));
}

#[test]
fn replay_of_random_changes_on_disk() {
    (100..104).for_each(|seed| replay_of_random_changes::<LsmRig>(seed, 150));
}

fn filled() -> (Records<Arc<MemEngine>>, Model) {
    let records = Records::open(Arc::new(MemEngine::new()), WHO).unwrap().0;
    let (mut dice, mut model) = (Dice::new(7), Model::default());
    (0..40).for_each(|_| records.apply(&entry(&mut dice, &mut model), &[]).unwrap());
    (records, model)
}

#[test]
fn a_past_does_not_change_while_it_is_read() {
    let (records, mut model) = filled();
    let (all, before) = (KeyRange { start: Box::new([0]), end: Box::new([255; 20]) }, model.tid());
    let (past, kept) = (records.past(before), model.clone());
    (0..10).for_each(|_| records.apply(&entry(&mut Dice::new(11), &mut model), &[]).unwrap());
    assert_eq!(past.versions(&all).collect::<Result<Vec<_>, _>>().unwrap(), lived(&kept, &all));
    assert_eq!(past.changes(Tid::ZERO, Tid::MAX).collect::<Result<Vec<_>, _>>().unwrap(), kept.changes);
}

#[test]
fn past_of_a_key_that_changed_a_thousand_times() {
    let records = Records::open(Arc::new(MemEngine::new()), WHO).unwrap().0;
    let (busy, quiet) = (Key::attr(V, ObjectId(1)), Key::target(V, ObjectId(1)));
    let version = |tid: u64| Version { create: Tid(tid), firm: Tid(tid), record: Record::Attr(attr(tid)) };
    let target = Version { create: Tid(1), firm: Tid(1), record: Record::Target(Box::new([1])) };
    records.apply(&[Change { tid: Tid(1), key: quiet.clone(), old: None, new: Some(target) }], &[]).unwrap();
    for tid in 1..=1000 {
        let old = (tid > 1).then(|| version(tid - 1));
        records.apply(&[Change { tid: Tid(tid), key: busy.clone(), old, new: Some(version(tid)) }], &[]).unwrap();
    }
    for tid in [0, 1, 2, 500, 999, 1000] {
        let found = records.at(Tid(tid)).scan(&KeyRange::object(V, ObjectId(1)), 10).unwrap();
        assert_eq!(found.len(), if tid == 0 { 0 } else { 2 }, "at {tid}");
        assert_eq!(found.first().map(|row| row.1.create), (tid > 0).then_some(Tid(tid)));
    }
}

#[test]
fn other_owners_and_layouts_are_refused() {
    let (records, _) = filled();
    records.seal(b"state").unwrap();
    let engine = records.engine().clone();
    let other = Identity { node: NodeId(6), ..WHO };
    assert!(matches!(Records::open(engine.clone(), other), Err(RecordsError::ForeignIdentity { .. })));
    let other = Identity { cluster: ClusterId([4; 16]), ..WHO };
    assert!(matches!(Records::open(engine.clone(), other), Err(RecordsError::ForeignIdentity { .. })));
    assert_eq!(Records::open(engine.clone(), WHO).unwrap().1.as_deref(), Some(&b"state"[..]));

    let tamper = |key: &[u8], value: Option<Vec<u8>>| {
        let mut batch = Batch::new();
        match value {
            Some(value) => batch.put(key, &value),
            None => batch.delete(key),
        }
        engine.write(&batch).unwrap();
        Records::open(engine.clone(), WHO).unwrap_err()
    };
    assert_eq!(tamper(b"M\x00", Some(vec![0, 0, 0, 9])), RecordsError::UnknownLayout { found: 9, known: 3 });
    assert!(matches!(tamper(b"M\x00", Some(vec![1])), RecordsError::Damaged { .. }));
    assert!(matches!(tamper(b"M\x00", None), RecordsError::Damaged { .. }));
    tamper(b"M\x00", Some(vec![0, 0, 0, 9]));
    tamper(b"M\x01", Some(vec![1]));
}

#[test]
fn what_is_cleared_can_be_filled_again() {
    let (records, model) = filled();
    let rows = scan_all(&records, Tid::ZERO, model.tid(), &mut Dice::new(1));
    let before = tables(&records);
    records.clear_all().unwrap();
    assert_eq!(tables(&records), []);
    assert_eq!(records.live(Tid::ZERO).scan(&KeyRange::object(V, ObjectId(1)), 10).unwrap(), []);
    records.install(&rows).unwrap();
    assert_eq!(tables(&records), before);
    assert_eq!(Records::open(records.engine().clone(), WHO).unwrap().1, None, "the old state is gone");
}

#[test]
fn rows_that_do_not_fit_are_refused_whole() {
    let (source, model) = filled();
    let rows = scan_all(&source, Tid::ZERO, model.tid(), &mut Dice::new(1));
    let refused = |rows: &[ChangeRow]| {
        let target = Records::open(Arc::new(MemEngine::new()), WHO).unwrap().0;
        assert!(matches!(target.install(rows), Err(RecordsError::Unfit { .. })));
        assert_eq!(tables(&target), []);
    };
    let with = |change: &dyn Fn(&mut ChangeRow)| {
        let mut rows = rows.clone();
        let at = rows.iter().position(|row| row.version.is_some()).unwrap();
        change(&mut rows[at]);
        rows
    };
    refused(&with(&|row| row.version.as_mut().unwrap().create.0 += 1));
    refused(&with(&|row| row.version.as_mut().unwrap().firm.0 += 1));
    refused(&with(&|row| row.version = None));
    refused(&with(&|row| {
        let wrong =
            if row.key.as_bytes()[12] == 5 { Record::Xattr(Box::new([])) } else { Record::Target(Box::new([])) };
        row.version.as_mut().unwrap().record = wrong;
    }));
    let mut reversed = rows.clone();
    reversed.reverse();
    refused(&reversed);
    let gap = rows.iter().position(|row| row.version.is_none()).unwrap();
    refused(&rows[gap..]);

    let target = Records::open(Arc::new(MemEngine::new()), WHO).unwrap().0;
    let (first, rest): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(|row| row.key == rows[0].key);
    target.install(&first[1..].iter().filter(|row| row.version.is_some()).cloned().collect::<Vec<_>>()).unwrap();
    assert!(matches!(target.install(&first[..1]), Err(RecordsError::Unfit { .. })), "a later version is here already");
    drop(rest);
}

/// Reads of the past rely on it: what is filed under attributes that are as old as the state is read from the live rows.
#[test]
fn what_changes_without_its_attributes_is_found_by_the_check() {
    let (records, _) = Records::open(Arc::new(MemEngine::new()), WHO).unwrap();
    let (attributes, name) = (Key::attr(V, ObjectId(16)), Key::dirent(V, ObjectId(16), b"a"));
    let mut dice = Dice::new(5);
    let mut change = |tid: u64, key: &Key, old: Option<Version>| {
        let new = Version { create: Tid(tid), firm: Tid(tid), record: record(key, &mut dice) };
        Change { tid: Tid(tid), key: key.clone(), old, new: Some(new) }
    };
    let (first, made) = (change(7, &attributes, None), change(7, &name, None));
    records.apply(&[first.clone(), made.clone()], &[]).unwrap();
    assert_eq!(records.check().unwrap().problems, Vec::<String>::new());
    let renamed = change(8, &name, made.new);
    records.apply(std::slice::from_ref(&renamed), &[]).unwrap();
    let problems = records.check().unwrap().problems;
    assert_eq!(problems.len(), 2, "its live version and its end: {problems:?}");
    assert!(problems.iter().all(|problem| problem.contains("changed at 0x8, and the attributes")), "{problems:?}");
    let (attributes, renamed) = (change(9, &attributes, first.new), change(9, &name, renamed.new));
    records.apply(&[attributes, renamed], &[]).unwrap();
    assert_eq!(records.check().unwrap().problems, Vec::<String>::new());
}

#[test]
fn damaged_rows_are_named_and_found_by_the_check() {
    let (records, model) = filled();
    let engine = records.engine();
    let rows = tables(&records);
    let original = engine.snapshot();
    for (index, (row, value)) in rows.iter().enumerate().step_by(7) {
        for change in 0..2 {
            let mut batch = Batch::new();
            match (change, row[0]) {
                (0, b'C') | (1, _) => batch.delete(row),
                _ => batch.put(row, &[&value[..], b"x"].concat()),
            }
            engine.write(&batch).unwrap();
            let report = records.check().unwrap();
            assert!(!report.problems.is_empty(), "row {index} {}", row.escape_ascii());
            if change == 0 && row[0] == b'L' {
                let key = Key::from_bytes(&row[1..]).unwrap();
                let Err(ViewError::Damaged { what }) = records.live(model.tid()).get(&key) else { panic!("served") };
                assert!(what.contains(&format!("{key:?}")), "{what}");
            }
            let mut batch = Batch::new();
            batch.put(row, &original.get(row).unwrap().unwrap());
            engine.write(&batch).unwrap();
        }
    }
    assert_eq!(records.check().unwrap().problems, Vec::<String>::new());
}
