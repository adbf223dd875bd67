//! The promises of the engine, kept by both engines.
#![allow(clippy::unwrap_used)]

mod records_support;

use gavel_store::engine::{Batch, Engine, EngineError, FlushFault, LsmEngine, Snapshot};
use records_support::{Dice, LsmRig, MemRig, Rig, SMALL, dump, open};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of different lengths, some of them prefixes of others: nine times `kinds`.
fn key(dice: &mut Dice, kinds: usize) -> Vec<u8> {
    let mut key = vec![b'a' + dice.below(3) as u8; 1 + dice.below(3)];
    key.extend((dice.below(kinds) as u16).to_be_bytes());
    key
}

fn batch(dice: &mut Dice, kinds: usize, model: &mut Map) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..dice.below(20) {
        let key = key(dice, kinds);
        if dice.below(3) == 0 {
            model.remove(&key);
            batch.delete(&key);
        } else {
            // Some are longer than what shares its memory with the rest of the batch.
            let most = if dice.below(8) == 0 { 2000 } else { 200 };
            let value = vec![dice.next() as u8; dice.below(most)];
            model.insert(key.clone(), value.clone());
            batch.put(&key, &value);
        }
        if dice.below(20) == 0 {
            let key = [&b"n"[..], &dice.next().to_be_bytes()].concat();
            model.insert(key.clone(), key.clone());
            batch.put_new_with(&key, |bytes| bytes.extend_from_slice(&key));
        }
    }
    batch
}

fn put(engine: &impl Engine, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(key, value);
    engine.write(&batch).unwrap();
}

fn same<S: Snapshot>(snapshot: &S, model: &Map, dice: &mut Dice, kinds: usize) {
    assert_eq!(dump(snapshot), model.clone().into_iter().collect::<Vec<_>>());
    for _ in 0..5 {
        let wanted = key(dice, kinds);
        assert_eq!(snapshot.get(&wanted).unwrap().map(|v| v.to_vec()), model.get(&wanted).cloned());
        let (from, to) = (key(dice, kinds), key(dice, kinds));
        let found: Vec<_> = snapshot.range(&from, &to).map(|row| row.unwrap().0.to_vec()).collect();
        let wanted: Vec<_> =
            if from < to { model.range(from.clone()..to.clone()).map(|r| r.0.clone()).collect() } else { vec![] };
        assert_eq!(found, wanted);
        let mut back: Vec<_> = snapshot.range(&from, &to).rev().map(|row| row.unwrap().0.to_vec()).collect();
        back.reverse();
        assert_eq!(back, wanted);
        from_both_ends(snapshot.range(&from, &to).map(|row| row.unwrap().0.to_vec()), wanted.into(), dice);
    }
}

fn from_both_ends(mut rows: impl DoubleEndedIterator<Item = Vec<u8>>, mut wanted: VecDeque<Vec<u8>>, dice: &mut Dice) {
    loop {
        let (found, wanted) = match dice.below(2) {
            0 => (rows.next(), wanted.pop_front()),
            _ => (rows.next_back(), wanted.pop_back()),
        };
        assert_eq!(found, wanted);
        if found.is_none() {
            assert_eq!((rows.next(), rows.next_back()), (None, None));
            return;
        }
    }
}

fn random_work_matches_a_model<R: Rig>(seed: u64, steps: usize, kinds: usize) {
    let mut dice = Dice::new(seed);
    let mut rig = R::start();
    let (mut now, mut sealed, mut durable) = (Map::new(), None, Map::new());
    let mut kept = Vec::new();
    for _ in 0..steps {
        let engine = rig.engine();
        match dice.below(100) {
            0..60 => {
                let before = dump(&engine.snapshot());
                assert_eq!(before, now.clone().into_iter().collect::<Vec<_>>());
                engine.write(&batch(&mut dice, kinds, &mut now)).unwrap();
            }
            60..70 => {
                engine.seal().unwrap();
                sealed = Some(now.clone());
            }
            70..80 => {
                engine.flush().unwrap();
                durable = sealed.take().unwrap_or(durable);
            }
            80..85 => while engine.maintain().unwrap() {},
            85..92 => kept.push((engine.snapshot(), now.clone())),
            92..97 => {
                drop(engine);
                kept.clear();
                rig.crash();
                now = durable.clone();
                sealed = None;
            }
            97 => {
                engine.wipe().unwrap();
                (now, sealed, durable) = (Map::new(), None, Map::new());
            }
            _ => {
                let gone = dice.below(kept.len() + 1);
                kept.drain(..gone);
            }
        }
        same(&rig.engine().snapshot(), &now, &mut dice, kinds);
        for (snapshot, then) in &kept {
            same(snapshot, then, &mut dice, kinds);
        }
    }
    rig.engine().stats();
}

/// Keys of one kind or two are overwritten many times between two cuts; of 360 keys, few are.
const KINDS: [usize; 3] = [1, 2, 40];

#[test]
fn random_work_matches_a_model_in_memory() {
    (0..21).for_each(|seed| random_work_matches_a_model::<MemRig>(seed, 150, KINDS[seed as usize % 3]));
}

#[test]
fn random_work_matches_a_model_on_disk() {
    (0..12).for_each(|seed| random_work_matches_a_model::<LsmRig>(seed, 150, KINDS[seed as usize % 3]));
}

#[test]
fn what_is_overwritten_again_and_again_takes_no_memory() {
    let mut rig = LsmRig::start();
    let engine = rig.engine();
    for round in 0..10_000u32 {
        put(&engine, b"k", &[&round.to_be_bytes()[..], &[7; 4096]].concat());
    }
    assert!(engine.stats().memory_bytes < 64 * 1024, "{:?}", engine.stats());
    engine.seal().unwrap();
    put(&engine, b"k", b"behind the cut");
    engine.flush().unwrap();
    drop(engine);
    rig.crash();
    let left = rig.engine().snapshot().get(b"k").unwrap().map(|value| value[..4].to_vec());
    assert_eq!(left, Some(9_999u32.to_be_bytes().to_vec()), "the last one before the cut");
}

fn batches_are_never_seen_in_part<R: Rig>(rounds: u64)
where
    R::E: Sync,
{
    let rig = R::start();
    let engine = rig.engine();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                let mut batch = Batch::new();
                (0..50u8).for_each(|i| batch.put(&[b'k', i], &round.to_be_bytes()));
                engine.write(&batch).unwrap();
                if round % 10 == 0 {
                    engine.seal().unwrap();
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                engine.flush().unwrap();
                engine.maintain().unwrap();
            }
        });
        while !done.load(Ordering::SeqCst) {
            let snapshot = engine.snapshot();
            let first = snapshot.get(b"k\0").unwrap().map(|v| v.to_vec());
            let all: Vec<_> = dump(&snapshot).into_iter().map(|row| row.1).collect();
            assert_eq!(all.len(), if first.is_some() { 50 } else { 0 });
            assert!(all.iter().all(|value| Some(value) == first.as_ref()), "a batch was seen in part");
            assert_eq!(snapshot.get(&[b'k', 49]).unwrap().map(|v| v.to_vec()), first);
        }
    });
    let mut rig = rig;
    engine.flush().unwrap();
    drop(engine);
    rig.crash();
    let rows = dump(&rig.engine().snapshot());
    let cut = u64::from_be_bytes(rows[0].1.clone().try_into().unwrap());
    assert_eq!(cut, rounds / 10 * 10, "the last cut was durable");
    assert!(rows.iter().all(|row| row.1 == rows[0].1));
}

#[test]
fn batches_are_never_seen_in_part_in_memory() {
    batches_are_never_seen_in_part::<MemRig>(3000);
}

#[test]
fn batches_are_never_seen_in_part_on_disk() {
    batches_are_never_seen_in_part::<LsmRig>(1000);
}

#[test]
fn memory_flush_that_fails_stops_until_the_crash() {
    for (fault, left) in [(FlushFault::Lost, b"old"), (FlushFault::Kept, b"new")] {
        let mut rig = MemRig::start();
        let engine = rig.engine();
        put(&engine, b"k", b"old");
        engine.seal().unwrap();
        engine.flush().unwrap();
        put(&engine, b"k", b"new");
        engine.seal().unwrap();
        engine.fail_next_flush(fault);
        assert!(matches!(engine.flush(), Err(EngineError::Io { .. })));
        stopped(&engine);
        rig.crash();
        assert_eq!(rig.engine().snapshot().get(b"k").unwrap().as_deref(), Some(&left[..]));
        put(&engine, b"k", b"newer");
    }
}

fn stopped(engine: &impl Engine) {
    let is_stopped = |result: Result<(), EngineError>| assert!(matches!(result, Err(EngineError::Stopped { .. })));
    let mut batch = Batch::new();
    batch.put(b"x", &[]);
    is_stopped(engine.write(&batch));
    is_stopped(engine.seal());
    is_stopped(engine.flush());
    is_stopped(engine.maintain().map(drop));
    is_stopped(engine.wipe());
    assert!(engine.snapshot().get(b"k").is_ok(), "what is there can be read");
    assert!(engine.snapshot().get(b"x").unwrap().is_none());
}

#[test]
fn disk_flush_that_fails_stops_until_the_engine_is_opened_again() {
    let mut rig = LsmRig::start();
    let engine = rig.engine();
    put(&engine, b"k", b"old");
    engine.seal().unwrap();
    engine.flush().unwrap();
    put(&engine, b"k", b"new");
    engine.seal().unwrap();
    let (tables, away) = (rig.dir.path().join("tables"), rig.dir.path().join("away"));
    fs::rename(&tables, &away).unwrap();
    assert!(engine.flush().is_err());
    fs::rename(&away, &tables).unwrap();
    stopped(&engine);
    drop(engine);
    rig.crash();
    assert_eq!(rig.engine().snapshot().get(b"k").unwrap().as_deref(), Some(&b"old"[..]));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target))
        }
    }
}

/// The directory before and after the flush of a second cut: `k` is old in the first, new in the second.
fn before_and_after_a_flush() -> (tempfile::TempDir, tempfile::TempDir) {
    let rig = LsmRig::start();
    let engine = rig.engine();
    put(&engine, b"k", b"old");
    engine.seal().unwrap();
    engine.flush().unwrap();
    let before = tempfile::tempdir().unwrap();
    copy(rig.dir.path(), before.path());
    put(&engine, b"k", b"new");
    put(&engine, b"m", b"more");
    engine.seal().unwrap();
    engine.flush().unwrap();
    let after = tempfile::tempdir().unwrap();
    copy(rig.dir.path(), after.path());
    (before, after)
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn names(dir: &Path) -> Vec<String> {
    files(dir).iter().map(|path| path.strip_prefix(dir).unwrap().display().to_string()).collect()
}

/// A flush writes tables, then the version file, then `current`. Each prefix of that, torn at its end, is the old cut.
#[test]
fn crash_at_each_step_of_a_flush_leaves_the_old_cut() {
    let (before, after) = before_and_after_a_flush();
    let new: Vec<_> = names(after.path()).into_iter().filter(|name| !before.path().join(name).exists()).collect();
    let (tables, versions): (Vec<_>, Vec<_>) = new.into_iter().partition(|name| name.starts_with("tables/"));
    assert_eq!((tables.len(), versions.len()), (1, 1));
    let steps: Vec<_> = tables.into_iter().chain(versions).collect();
    for done in 1..=steps.len() {
        for torn in [false, true] {
            let crashed = tempfile::tempdir().unwrap();
            copy(before.path(), crashed.path());
            for name in &steps[..done] {
                fs::copy(after.path().join(name), crashed.path().join(name)).unwrap();
            }
            if torn {
                let last = crashed.path().join(&steps[done - 1]);
                let bytes = fs::read(&last).unwrap();
                fs::write(last, &bytes[..bytes.len() / 2]).unwrap();
            }
            fs::write(crashed.path().join(".tmpA1b2C3"), b"half of current").unwrap();
            let engine = open(crashed.path());
            assert_eq!(dump(&engine.snapshot()), [(b"k".to_vec(), b"old".to_vec())]);
            assert_eq!(names(crashed.path()), names(before.path()), "leftovers are removed");
            put(&engine, b"k", b"newer");
            engine.seal().unwrap();
            engine.flush().unwrap();
            drop(engine);
            assert_eq!(dump(&open(crashed.path()).snapshot()), [(b"k".to_vec(), b"newer".to_vec())]);
        }
    }
    assert_eq!(dump(&open(after.path()).snapshot()).len(), 2);
}

#[test]
fn crash_while_the_directory_is_made_leaves_an_empty_engine() {
    let made = LsmRig::start();
    let crashed = tempfile::tempdir().unwrap();
    copy(made.dir.path(), crashed.path());
    fs::remove_file(crashed.path().join("current")).unwrap();
    assert_eq!(dump(&open(crashed.path()).snapshot()), []);
}

fn refused(dir: &Path) -> String {
    match LsmEngine::open(dir, SMALL) {
        Err(EngineError::Damaged { what, .. }) => what,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn lost_files_are_refused_by_name() {
    for name in names(before_and_after_a_flush().1.path()) {
        let (_, after) = before_and_after_a_flush();
        fs::remove_file(after.path().join(&name)).unwrap();
        if name.starts_with('v') && !fs::read(after.path().join("current")).unwrap().starts_with(&number_of(&name)) {
            open(after.path());
            continue;
        }
        let what = refused(after.path());
        // Which table a version misses is not found out.
        assert!(name.starts_with("tables/") || what.ends_with(&name), "{name} is gone, and {what} was blamed");
        assert!(after.path().join("tables").read_dir().unwrap().count() > 0, "nothing was deleted");
    }
}

fn number_of(version_file: &str) -> [u8; 8] {
    version_file[1..].parse::<u64>().unwrap().to_le_bytes()
}

#[test]
fn tables_without_any_version_are_not_taken_for_an_empty_engine() {
    let (_, after) = before_and_after_a_flush();
    for name in names(after.path()).iter().filter(|name| !name.starts_with("tables/")) {
        fs::remove_file(after.path().join(name)).unwrap();
    }
    assert!(refused(after.path()).ends_with("current"));
}

#[test]
fn an_older_version_file_is_not_taken_for_the_newest() {
    let (before, after) = before_and_after_a_flush();
    let old_current = fs::read(before.path().join("current")).unwrap();
    let old_version = format!("v{}", u64::from_le_bytes(old_current[..8].try_into().unwrap()));
    fs::copy(before.path().join(&old_version), after.path().join(&old_version)).unwrap();
    let mut current = fs::read(after.path().join("current")).unwrap();
    current[..8].copy_from_slice(&old_current[..8]);
    fs::write(after.path().join("current"), current).unwrap();
    assert!(refused(after.path()).ends_with(&old_version));
}

#[test]
fn a_wiped_engine_gives_its_files_back() {
    let rig = LsmRig::start();
    let engine = rig.engine();
    (0..2000u32).for_each(|i| put(&engine, &i.to_be_bytes(), &[7; 100]));
    engine.seal().unwrap();
    engine.flush().unwrap();
    let full = engine.stats();
    assert!(full.disk_bytes > 100_000 && full.tables == 1, "{full:?}");
    engine.wipe().unwrap();
    assert_eq!(engine.stats().disk_bytes, 0);
    engine.maintain().unwrap();
    put(&engine, b"k", b"v");
    engine.seal().unwrap();
    engine.flush().unwrap();
    let left: u64 = files(rig.dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(left < 10_000, "{left} bytes in {:?}", names(rig.dir.path()));
}

fn what_no_cut_has_is_counted<R: Rig>() {
    let rig = R::start();
    let engine = rig.engine();
    assert_eq!(engine.unsealed_bytes(), 0);
    put(&engine, b"key", &[7; 1000]);
    assert!((1003..1200).contains(&engine.unsealed_bytes()), "{}", engine.unsealed_bytes());
    engine.seal().unwrap();
    assert_eq!(engine.unsealed_bytes(), 0, "it is in a cut, and in memory");
    assert!(engine.stats().memory_bytes >= 1003);
    put(&engine, b"another", &[7; 100]);
    engine.flush().unwrap();
    assert!((107..300).contains(&engine.unsealed_bytes()), "{}", engine.unsealed_bytes());
    assert_eq!(engine.stats().memory_bytes, engine.unsealed_bytes());
}

#[test]
fn what_no_cut_has_is_counted_by_both() {
    what_no_cut_has_is_counted::<MemRig>();
    what_no_cut_has_is_counted::<LsmRig>();
}

#[test]
fn compaction_bounds_the_runs_and_drops_what_was_overwritten() {
    let rig = LsmRig::start();
    let engine = rig.engine();
    for round in 0..12u8 {
        let mut batch = Batch::new();
        (0..500u32).for_each(|i| batch.put(&i.to_be_bytes(), &[round; 100]));
        engine.write(&batch).unwrap();
        engine.seal().unwrap();
        engine.flush().unwrap();
        while engine.maintain().unwrap() {}
        assert!(engine.stats().unsorted_runs <= 4, "{:?}", engine.stats());
    }
    assert_eq!(dump(&engine.snapshot()).len(), 500);
    assert!(engine.stats().disk_bytes < 5 * 500 * 120, "{:?}", engine.stats());
}
