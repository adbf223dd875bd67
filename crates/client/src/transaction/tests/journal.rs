//! Journals of random operations, cut, torn and damaged: what is replayed is the transaction as it was behind some operation.

use super::*;
use crate::transaction::journal::{Entry, Event, Header, Journal, JournalError, Stage, Writer, glimpse, replay};

/// A transaction on its way, as a host has it.
struct Host {
    base: Base,
    transaction: Transaction,
    writer: Writer,
    file: Vec<u8>,
    /// How long the file was behind each operation, and what the transaction was.
    was: Vec<(usize, Transaction)>,
}

fn header(base: &Base) -> Header {
    Header {
        id: "1-abc".into(),
        volume: V,
        start: base.tid,
        place: b"/mnt/work"[..].into(),
        own_place: false,
        uid: 1000,
        began_ns: 7 * SECOND,
        message: "why".into(),
        anew: false,
    }
}

impl Host {
    fn new(base: Base) -> Host {
        let (writer, file) = Writer::begin(&header(&base)).unwrap();
        let mut transaction = Transaction::new(V, base.tid);
        transaction.keep_events();
        let was = vec![(file.len(), transaction.clone())];
        Host { base, transaction, writer, file, was }
    }

    fn append(&mut self, entry: &Entry) {
        self.file.extend(self.writer.record(entry).unwrap());
        self.writer.written();
        self.was.push((self.file.len(), self.transaction.clone()));
    }

    fn operate(&mut self, request: &TreeRequest, fresh: ObjectId) -> bool {
        let before = (self.transaction.guards().clone(), self.transaction.plans);
        let full = matches!(
            run(&mut self.transaction, &self.base, request, fresh),
            Err(TreeError::Storage { full: true, .. })
        );
        let events = self.transaction.take_events();
        let after = (self.transaction.guards().clone(), self.transaction.plans);
        assert_eq!(events.is_empty(), before == after, "only what changes it is told: {request:?} {events:?}");
        if !events.is_empty() {
            self.append(&Entry::Did { events, store: Box::default() });
        }
        full
    }

    fn forget(&mut self, object: ObjectId) {
        self.transaction.forget_nameless(object);
        let events = self.transaction.take_events();
        if !events.is_empty() {
            self.append(&Entry::Did { events, store: Box::default() });
        }
    }

    /// The journal is written anew.
    fn compact(&mut self) {
        let (writer, file) = Writer::begin(&Header { anew: true, ..header(&self.base) }).unwrap();
        (self.writer, self.file) = (writer, file);
        self.was.clear();
        self.append(&Entry::Whole(Box::new(self.transaction.to_whole())));
    }

    /// What a file with these bytes replays to is what was behind the last operation that is in it.
    fn check(&self, bytes: &[u8], upto: usize, context: &str) {
        let expected = self.was.iter().rev().find(|(len, _)| *len <= upto);
        let (Some((len, expected)), Ok(found)) = (expected, replay(bytes, &self.base)) else {
            assert!(expected.is_none() || upto < self.was[0].0, "{context}: no transaction");
            return;
        };
        assert_eq!(found.whole as usize, *len, "{context}");
        same(expected, &found.transaction, context);
    }
}

/// All of the two is the same.
fn same(a: &Transaction, b: &Transaction, context: &str) {
    assert_eq!(a.to_whole(), b.to_whole(), "{context}");
    assert_eq!(a.guards(), b.guards(), "{context}");
    assert_eq!((a.made.clone(), a.written.clone()), (b.made.clone(), b.written.clone()), "{context}");
    let weight = |t: &Transaction| (t.runs, t.made_runs, t.weighed, t.bytes());
    assert_eq!(weight(a), weight(b), "{context}");
}

fn random(seed: u64, operations: u64) -> Host {
    let mut dice = Dice(seed);
    let (base, mut next) = tree(&mut dice);
    let mut host = Host::new(base);
    for _ in 0..operations {
        match dice.roll(20) {
            0 => {
                let object = dice.object(&Layered::new(&host.base, host.transaction.layer().clone()), None);
                host.forget(object);
            }
            1 => host.compact(),
            _ => {
                let request = dice.request(&Layered::new(&host.base, host.transaction.layer().clone()));
                host.operate(&request, ObjectId(next));
                next += 1;
            }
        }
    }
    host
}

#[test]
fn cut_anywhere_it_replays_to_what_was_behind_some_operation() {
    for seed in 1..30 {
        let host = random(seed, 40);
        for cut in 0..=host.file.len() {
            let bytes = &host.file[..cut];
            host.check(bytes, cut, &format!("seed {seed}, cut at {cut}"));
            if let Ok(glimpse) = glimpse(bytes) {
                assert!(!glimpse.damaged, "seed {seed}, cut at {cut}: nothing lies behind");
                assert_eq!(glimpse.whole + glimpse.rest, cut as u64);
            }
        }
        let Ok(all) = replay(&host.file, &host.base) else { panic!("seed {seed}: all of it") };
        same(&all.transaction, &host.transaction, &format!("seed {seed}"));
    }
}

#[test]
fn it_goes_on_behind_a_torn_tail() {
    for seed in 1..40 {
        let mut host = random(seed, 20);
        let mut dice = Dice(seed + 1000);
        let cut = host.was[0].0 + dice.roll((host.file.len() - host.was[0].0) as u64 + 1) as usize;
        let found = replay(&host.file[..cut], &host.base).unwrap();
        host.file.truncate(found.whole as usize);
        host.was.retain(|(len, _)| *len <= cut);
        (host.transaction, host.writer) = (found.transaction, found.writer);
        host.transaction.keep_events();
        for id in 5000..5020 {
            let request = dice.request(&Layered::new(&host.base, host.transaction.layer().clone()));
            host.operate(&request, ObjectId(id));
        }
        host.check(&host.file, host.file.len(), &format!("seed {seed}, cut at {cut}"));
    }
}

#[test]
fn damage_before_the_end_is_told_and_what_is_in_front_of_it_is_whole() {
    let mut told = 0;
    for seed in 1..200 {
        let host = random(seed, 30);
        let mut dice = Dice(seed * 7);
        let mut bytes = host.file.clone();
        let at = dice.roll(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.roll(8);
        if (12..16).contains(&at) {
            continue;
        }
        let mut read = Journal::open(&host.file).unwrap();
        let mut starts = vec![read.position() as usize];
        while read.next().is_some() {
            starts.push(read.position() as usize);
        }
        // Behind the last record there is none; the last record begins behind the one before.
        let (header, last) = (starts[0], starts[starts.len().saturating_sub(2)]);
        match glimpse(&bytes) {
            Err(_) => assert!(at < header, "seed {seed}: only the header is needed"),
            Ok(found) => {
                host.check(&bytes, at, &format!("seed {seed}, damage at {at}"));
                assert_eq!(found.damaged, at < last, "seed {seed}: damage at {at}, the last record at {last}");
                told += u32::from(found.damaged);
            }
        }
    }
    assert!(told > 100, "{told} were told");
}

#[test]
fn a_journal_without_its_whole_is_refused() {
    let mut host = random(3, 30);
    host.compact();
    for id in 7000..7010 {
        created(&mut host.transaction, &host.base, &format!("n{id}"), id);
        let events = host.transaction.take_events();
        host.append(&Entry::Did { events, store: Box::default() });
    }
    let header = Journal::open(&host.file).unwrap().position() as usize;
    let mut bytes = host.file.clone();
    assert_eq!(replay(&bytes[..header], &host.base).err(), Some(JournalError::Beginning), "nor cut off in front of it");
    bytes[header + 40] ^= 1;
    assert_eq!(replay(&bytes, &host.base).err(), Some(JournalError::Beginning));
    assert!(glimpse(&bytes).unwrap().damaged);
}

#[test]
fn guards_that_were_made_fewer_are_so_again() {
    let mut host = Host::new(Base::new());
    let (mut id, mut full) = (100, false);
    while !full {
        let name = format!("{id:0200}").into_bytes().into();
        full = host.operate(&TreeRequest::Lookup { parent: ROOT, name }, ObjectId(id));
        let name = format!("{id:0199}").into_bytes().into();
        let operation =
            Operation::Create { parent: ROOT, name, mode: 0o644, umask: 0, exclusive: true, truncate: false };
        full |= host.operate(&TreeRequest::Operation(operation), ObjectId(id));
        id += 1;
    }
    assert!(host.transaction.guards().is_whole(ROOT), "there was room to be made");
    let found = replay(&host.file, &host.base).unwrap();
    same(&found.transaction, &host.transaction, "full");
}

#[test]
fn a_plan_that_was_refused_after_guards_were_made_fewer_is_refused_again() {
    let mut base = Base::new();
    // What is done to a file that was there has to fit into the last request.
    file(&mut base, "f", 100);
    let mut host = Host::new(base);
    for number in 0..80 {
        let name = format!("{number:0200}").into_bytes().into();
        host.operate(&TreeRequest::Lookup { parent: ROOT, name }, ROOT);
    }
    let set = |host: &mut Host, number: usize, bytes: usize| {
        let (name, value) = (format!("user.{number}").into_bytes().into(), vec![1; bytes].into());
        let set = Operation::Setxattr { object: ObjectId(100), name, value, mode: XattrMode::Set };
        host.operate(&TreeRequest::Operation(set), ROOT)
    };
    let mut number = 0;
    while host.transaction.bytes() + 21_000 < COMMIT_BYTES_MAX {
        assert!(!set(&mut host, number, 20_000));
        number += 1;
    }
    assert!(!host.transaction.guards().is_whole(ROOT), "there was room so far");
    assert!(set(&mut host, number, 60_000), "there is not, with fewer guards neither");
    assert!(host.transaction.guards().is_whole(ROOT));
    let found = replay(&host.file, &host.base).unwrap();
    same(&found.transaction, &host.transaction, "refused");
}

#[test]
fn stages_blobs_and_holds_are_what_the_last_records_say() {
    let base = Base::new();
    let (mut writer, mut file) = Writer::begin(&header(&base)).unwrap();
    let (one, two) = (vec![1u8; 20_000], vec![2u8; 30_000]);
    let (first, second) = (BlobId::of(&one), BlobId::of(&two));
    let mut append = |entry: &Entry| {
        file.extend(writer.record(entry).unwrap());
        writer.written();
        (glimpse(&file).unwrap(), replay(&file, &base).unwrap())
    };
    append(&Entry::Did { events: Vec::new(), store: one.into() });
    append(&Entry::Held(vec![BlobId([9; 32])]));
    let (seen, found) = append(&Entry::Did { events: Vec::new(), store: two.clone().into() });
    assert_eq!(seen.held, BTreeSet::from([first, second, BlobId([9; 32])]));
    assert_eq!((found.held, found.storing.len(), found.stored_as_of), (seen.held, 2, Tid::MAX));
    let (_, found) = append(&Entry::Stored { blob: first, as_of: Tid(70) });
    assert_eq!(found.storing.into_iter().collect::<Vec<_>>(), [(second, two.into())]);
    assert_eq!(found.stored_as_of, Tid(70));
    let stages = [
        (Entry::Committing, Stage::Committing),
        (Entry::Open, Stage::Open),
        (Entry::Committing, Stage::Committing),
        (Entry::Committed { tid: Tid(99) }, Stage::Committed(Tid(99))),
    ];
    for (entry, stage) in stages {
        assert_eq!(append(&entry).0.stage, stage);
    }
}

#[test]
fn bytes_are_golden() {
    let base = Base::new();
    let (mut writer, mut file) = Writer::begin(&header(&base)).unwrap();
    let mut host = Host::new(base);
    created(&mut host.transaction, &host.base, "a", 100);
    let data = b"bytes".to_vec();
    let write = TreeRequest::Write { object: ObjectId(100), offset: 0, append: false, data, kill_suidgid: false };
    run(&mut host.transaction, &host.base, &write, ROOT).unwrap();
    let events = host.transaction.take_events();
    let entries = [
        Entry::Did { events: [events, vec![Event::Forgot(ObjectId(100))]].concat(), store: b"blob"[..].into() },
        Entry::Stored { blob: BlobId([7; 32]), as_of: Tid(300) },
        Entry::Whole(Box::new(host.transaction.to_whole())),
        Entry::Committing,
        Entry::Open,
        Entry::Committed { tid: Tid(301) },
        Entry::Held(vec![BlobId([8; 32])]),
    ];
    for entry in &entries {
        file.extend(writer.record(entry).unwrap());
        writer.written();
    }
    let mut read = Journal::open(&file).unwrap();
    assert_eq!(read.by_ref().collect::<Vec<_>>(), entries);
    assert_eq!((read.position(), read.is_damaged()), (file.len() as u64, false));
    let hash = BlobId::of(&file);
    assert_eq!(
        (file.len(), format!("{hash}")),
        (1158, "c857ee2cf8284db2edd3cc59da7c0bd3f7f868a1c4e23d8f40fc47ac9823a45d".into()),
        "the format has changed: give it another version, and say so in docs/formats/transactions.md"
    );
}

#[test]
fn another_version_is_refused_by_its_name() {
    let (_, mut file) = Writer::begin(&header(&Base::new())).unwrap();
    file[8] = 2;
    assert_eq!(glimpse(&file).err(), Some(JournalError::Version { found: 2 }));
    assert_eq!(glimpse(b"something else").err(), Some(JournalError::NotOne));
    assert_eq!(glimpse(&[]).err(), Some(JournalError::NotOne));
}

#[test]
fn what_was_spilled_is_spilled_again() {
    let mut host = Host::new(Base::new());
    let create = |name: &str| {
        let name = name.as_bytes().into();
        let (parent, mode, umask) = (ROOT, 0o644, 0);
        TreeRequest::Operation(Operation::Create { parent, name, mode, umask, exclusive: true, truncate: false })
    };
    host.operate(&create("f"), ObjectId(30));
    let write = |offset| TreeRequest::Write {
        object: ObjectId(30),
        offset,
        append: false,
        data: vec![offset as u8; 100],
        kill_suidgid: false,
    };
    for round in 0..3 {
        for number in 0..5 {
            host.operate(&write(round * 50 + number * 100), ObjectId(40));
        }
        let blobs = host.transaction.spill();
        assert_eq!(blobs.len(), 1, "round {round}");
        host.append(&Entry::Did { events: vec![Event::Spilled], store: blobs[0][..].into() });
    }
    host.check(&host.file, host.file.len(), "three times");
    let replayed = replay(&host.file, &host.base).unwrap();
    assert_eq!(
        (replayed.storing.len(), replayed.held.len()),
        (3, 3),
        "their bytes are there until they are on a majority"
    );
}
