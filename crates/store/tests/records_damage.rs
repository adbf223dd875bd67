//! Every file of a tree's directory, damaged byte by byte: what is read is right, or an error; never a wrong or
//! missing value, and no panic that gets out.
#![allow(clippy::unwrap_used)]

mod records_support;

use gavel_store::engine::{Batch, Engine, EngineError, LsmEngine, Snapshot};
use records_support::{Dice, SMALL, dump, open};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Two tables in the first level, one of them below; values larger than a block, deletes, and a memtable that is lost.
fn build(dir: &Path) -> Rows {
    let engine = open(dir);
    let mut dice = Dice::new(1);
    let mut durable = Rows::new();
    for round in 0..7u8 {
        let mut batch = Batch::new();
        for i in 0..60u8 {
            let key = vec![b'k', i, dice.below(3) as u8];
            if dice.below(5) == 0 { batch.delete(&key) } else { batch.put(&key, &vec![round; dice.below(60)]) }
        }
        batch.put(b"big", &[round; 6000]);
        engine.write(&batch).unwrap();
        engine.seal().unwrap();
        engine.flush().unwrap();
        while round < 6 && engine.maintain().unwrap() {}
        durable = dump(&engine.snapshot());
    }
    let mut lost = Batch::new();
    lost.put(b"lost", &[1]);
    engine.write(&lost).unwrap();
    assert!(engine.stats().tables >= 2);
    durable
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// How often damage was found at opening, and at reading; and how often it made no difference.
#[derive(Default, Debug)]
struct Tally {
    opening: usize,
    reading: usize,
    harmless: usize,
}

/// Opens and reads everything in every way; counts how it ended.
fn verify(dir: &Path, wanted: &Rows, tally: &mut Tally, what: &str) {
    let engine = match LsmEngine::open(dir, SMALL) {
        Ok(engine) => engine,
        Err(error) => {
            assert!(matches!(error, EngineError::Damaged { .. }), "{what}: {error}");
            tally.opening += 1;
            return;
        }
    };
    let snapshot = engine.snapshot();
    let mut errors = Vec::new();
    for (key, value) in wanted {
        match snapshot.get(key) {
            Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{what}: a wrong value"),
            Err(error) => errors.push(error),
        }
        let absent = [&key[..], b"absent"].concat();
        assert!(matches!(snapshot.get(&absent), Ok(None) | Err(_)), "{what}: something from nothing");
    }
    for backwards in [false, true] {
        let mut rows = snapshot.range(&[0], &[255]);
        let mut expected = wanted.iter();
        loop {
            let (row, want) = match backwards {
                false => (rows.next(), expected.next()),
                true => (rows.next_back(), expected.next_back()),
            };
            match (row, want) {
                (Some(Ok((key, value))), Some(want)) => assert_eq!((&key[..], &value[..]), (&want.0[..], &want.1[..])),
                (None, None) => break,
                (Some(Err(error)), _) => {
                    errors.push(error);
                    assert!(rows.next().is_none(), "{what}: nothing follows an error");
                    break;
                }
                (Some(Ok(_)), None) => panic!("{what}: a row too many"),
                (None, Some(_)) => panic!("{what}: a row is missing"),
            }
        }
    }
    for error in &errors {
        let EngineError::Damaged { what: blamed, .. } = error else { panic!("{what}: {error}") };
        assert!(what.starts_with(&**blamed), "{what}: {blamed} was blamed");
    }
    if errors.is_empty() { tally.harmless += 1 } else { tally.reading += 1 }
}

fn damage(step: usize) -> Tally {
    std::panic::set_hook(Box::new(|info| {
        if info.location().is_some_and(|at| at.file().contains("records_damage")) {
            eprintln!("{info}");
        }
    }));
    let source = tempfile::tempdir().unwrap();
    let wanted = build(source.path());
    let mut tally = Tally::default();
    for file in files(source.path()) {
        let bytes = fs::read(&file).unwrap();
        let name = file.strip_prefix(source.path()).unwrap().to_path_buf();
        for at in positions(bytes.len(), step) {
            for bit in [0x01, 0x80] {
                let mut flipped = bytes.clone();
                flipped[at] ^= bit;
                attempt(source.path(), &name, &flipped, &wanted, &mut tally, &format!("byte {at} flipped by {bit:#x}"));
            }
        }
        for len in positions(bytes.len(), step * 3) {
            attempt(source.path(), &name, &bytes[..len], &wanted, &mut tally, &format!("cut to {len} bytes"));
        }
        let mut zeros = bytes.clone();
        let half = zeros.len() / 2;
        zeros[half..].fill(0);
        attempt(source.path(), &name, &zeros, &wanted, &mut tally, "second half zeros");
        attempt(source.path(), &name, &[&bytes[..], &[0; 100]].concat(), &wanted, &mut tally, "100 zeros more");
    }
    tally
}

/// The head and the tail of a file byte by byte, the middle in steps.
fn positions(len: usize, step: usize) -> impl Iterator<Item = usize> {
    const EDGE: usize = 40;
    let edge = move |range: Range<usize>, at: usize| range.contains(&at);
    (0..len).filter(move |&at| {
        step == 1 || at % step == 0 || edge(0..EDGE.min(step * 8), at) || edge(len.saturating_sub(EDGE)..len, at)
    })
}

fn attempt(source: &Path, name: &Path, bytes: &[u8], wanted: &Rows, tally: &mut Tally, how: &str) {
    let dir = tempfile::tempdir().unwrap();
    for file in files(source) {
        let target = dir.path().join(file.strip_prefix(source).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    fs::write(dir.path().join(name), bytes).unwrap();
    verify(dir.path(), wanted, tally, &format!("{} {how}", dir.path().join(name).display()));
}

#[test]
fn damaged_bytes_are_never_served() {
    let tally = damage(307);
    println!("{tally:?}");
    assert!(tally.opening > 100 && tally.reading > 100, "damage was found: {tally:?}");
}

/// The tree takes this number for the size of an allocation; the allocator's refusal would end the process.
#[test]
fn a_table_of_contents_without_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path());
    let table = files(&dir.path().join("tables")).remove(0);
    let mut bytes = fs::read(&table).unwrap();
    let contents = bytes.windows(4).rposition(|window| window == b"TOC!").unwrap();
    bytes[contents + 4..contents + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&table, bytes).unwrap();
    let Err(EngineError::Damaged { what, .. }) = LsmEngine::open(dir.path(), SMALL) else { panic!("opened") };
    assert_eq!(what, table.display().to_string());
}

/// Every single byte, two bits of each: minutes.
#[test]
#[ignore = "takes minutes"]
fn damaged_bytes_are_never_served_exhaustive() {
    println!("{:?}", damage(1));
}
