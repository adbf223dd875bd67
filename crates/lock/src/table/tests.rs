//! The table against a model that keeps one lock for each byte, and what only examples show.

use super::*;
use gavel_types::{ObjectId, VolumeId};
use gavel_wire::lock::LockKind;
use proptest::prelude::*;

const READ: LockKind = LockKind::Read;
const WRITE: LockKind = LockKind::Write;

fn file(object: u64, family: Family) -> LockFile {
    LockFile { volume: VolumeId(1), object: ObjectId(object), family }
}

fn owner(session: u64, id: u64) -> LockOwner {
    LockOwner { session: SessionId(session), id }
}

fn lock(owner: LockOwner, first: u64, last: u64, kind: LockKind) -> Lock {
    Lock { owner, span: Span { first, last }, kind, pid: 7 }
}

/// The model knows so many bytes; the last one stands for all that follow.
const BYTES: u64 = 10;

fn byte_of(at: u64) -> u64 {
    at.min(BYTES - 1)
}

/// What is held: one entry for each owner and byte. What waits: one line for all files.
#[derive(Default)]
struct Model {
    held: BTreeMap<(LockFile, u64, LockOwner), LockKind>,
    line: Vec<(LockFile, Waiter, Lock, u32)>,
}

impl Model {
    fn bytes(lock: &Lock) -> impl Iterator<Item = u64> + use<> {
        byte_of(lock.span.first)..=byte_of(lock.span.last)
    }

    fn holders_in_the_way(&self, file: &LockFile, lock: &Lock) -> BTreeSet<LockOwner> {
        let all = Self::bytes(lock).flat_map(|byte| {
            self.held.iter().filter(move |((f, b, o), _)| f == file && *b == byte && *o != lock.owner)
        });
        all.filter(|(_, kind)| **kind == WRITE || lock.kind == WRITE).map(|((_, _, owner), _)| *owner).collect()
    }

    fn clash(a: &Lock, b: &Lock) -> bool {
        let common = Self::bytes(a).any(|byte| Self::bytes(b).any(|other| other == byte));
        common && a.owner != b.owner && (a.kind == WRITE || b.kind == WRITE)
    }

    /// Owners of the first `places` of the whole line that must not be passed.
    fn not_to_pass(&self, file: &LockFile, lock: &Lock, places: usize) -> BTreeSet<LockOwner> {
        let before = self.line[..places]
            .iter()
            .filter(|(f, _, other, passed)| f == file && *passed >= PASSED_MAX && Self::clash(other, lock));
        let patient = before.filter(|(_, _, other, _)| !self.holders_in_the_way(file, other).contains(&lock.owner));
        patient.map(|(_, _, other, _)| other.owner).collect()
    }

    fn waits_for(&self, file: &LockFile, lock: &Lock, places: usize) -> BTreeSet<LockOwner> {
        &self.holders_in_the_way(file, lock) | &self.not_to_pass(file, lock, places)
    }

    fn put(&mut self, file: LockFile, lock: &Lock, places: usize) {
        Self::bytes(lock).for_each(|byte| {
            self.held.insert((file, byte, lock.owner), lock.kind);
        });
        for (f, _, other, passed) in &mut self.line[..places] {
            *passed += u32::from(*f == file && Self::clash(other, lock));
        }
    }

    fn settle(&mut self) -> Vec<Waiter> {
        let mut granted = Vec::new();
        let free = |model: &Model| {
            (0..model.line.len()).find(|i| model.waits_for(&model.line[*i].0, &model.line[*i].2, *i).is_empty())
        };
        while let Some(place) = free(self) {
            let (file, waiter, lock, _) = self.line.remove(place);
            self.put(file, &lock, place);
            granted.push(waiter);
        }
        granted
    }

    /// Every owner that is waited for, over any number of others.
    fn reached(&self, from: BTreeSet<LockOwner>) -> BTreeSet<LockOwner> {
        let mut reached = from;
        loop {
            let posix = self.line.iter().enumerate().filter(|(_, (file, ..))| file.family == Family::Posix);
            let more: BTreeSet<_> = posix
                .filter(|(_, (_, _, lock, _))| reached.contains(&lock.owner))
                .flat_map(|(i, (file, _, lock, _))| self.waits_for(file, lock, i))
                .collect();
            if more.is_subset(&reached) {
                return reached;
            }
            reached.extend(more);
        }
    }

    fn lock(&mut self, file: LockFile, lock: Lock, wait: Option<Seq>) -> (Locking, Vec<Waiter>) {
        let mut granted = Vec::new();
        if file.family == Family::Flock && self.held.get(&(file, 0, lock.owner)).is_some_and(|kind| *kind != lock.kind)
        {
            self.held.retain(|(f, _, o), _| *f != file || *o != lock.owner);
            granted = self.settle();
        }
        let in_the_way = self.waits_for(&file, &lock, self.line.len());
        if in_the_way.is_empty() {
            self.put(file, &lock, self.line.len());
            granted.extend(self.settle());
            return (Locking::Granted, granted);
        }
        let Some(seq) = wait else { return (Locking::Locked, granted) };
        if file.family == Family::Posix && self.reached(in_the_way).contains(&lock.owner) {
            return (Locking::Deadlock, granted);
        }
        self.line.push((file, (lock.owner.session, seq), lock, 0));
        (Locking::Waits, granted)
    }

    fn unlock(&mut self, file: LockFile, owner: LockOwner, span: Span) -> Vec<Waiter> {
        let bytes = byte_of(span.first)..=byte_of(span.last);
        self.held.retain(|(f, b, o), _| *f != file || *o != owner || !bytes.contains(b));
        self.settle()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lock { file: LockFile, lock: Lock, wait: bool },
    Unlock { file: LockFile, owner: LockOwner, span: Span },
    Cancel(prop::sample::Index),
    End(u64),
}

fn spans() -> impl Strategy<Value = Span> {
    let ends = (0..BYTES, 0..BYTES).prop_map(|(a, b)| {
        let last = a.max(b);
        Span { first: a.min(b), last: if last == BYTES - 1 { gavel_wire::lock::LAST_BYTE } else { last } }
    });
    prop_oneof![4 => ends, 1 => Just(Span::ALL)]
}

fn steps() -> impl Strategy<Value = Step> {
    let files = prop_oneof![
        3 => (1..=2u64).prop_map(|object| file(object, Family::Posix)),
        2 => Just(file(1, Family::Flock)),
    ];
    let owners = (1..=3u64, 1..=2u64).prop_map(|(session, id)| owner(session, id));
    let kinds = prop_oneof![Just(READ), Just(WRITE)];
    let locking =
        (files.clone(), owners.clone(), spans(), kinds, any::<bool>()).prop_map(|(file, owner, span, kind, wait)| {
            let span = if file.family == Family::Flock { Span::ALL } else { span };
            Step::Lock { file, lock: Lock { owner, span, kind, pid: 7 }, wait }
        });
    let unlocking = (files, owners, spans()).prop_map(|(file, owner, span)| {
        let span = if file.family == Family::Flock { Span::ALL } else { span };
        Step::Unlock { file, owner, span }
    });
    let cancel = any::<prop::sample::Index>().prop_map(Step::Cancel);
    prop_oneof![8 => locking, 3 => unlocking, 1 => cancel, 1 => (1..=3u64).prop_map(Step::End)]
}

/// What is held, byte by byte, as the model keeps it.
fn bytes_of(table: &LockTable) -> BTreeMap<(LockFile, u64, LockOwner), LockKind> {
    let all = table.files.iter().flat_map(|(file, found)| {
        found.held.iter().flat_map(|lock| Model::bytes(lock).map(|byte| ((*file, byte, lock.owner), lock.kind)))
    });
    all.collect()
}

fn check(table: &LockTable, model: &Model) {
    table.check_invariants();
    assert_eq!(bytes_of(table), model.held);
    for (file, found) in &table.files {
        let line: Vec<_> = found.line.iter().map(|waiting| (waiting.name(), waiting.lock, waiting.passed)).collect();
        let expected: Vec<_> = model
            .line
            .iter()
            .filter(|(f, ..)| f == file)
            .map(|(_, name, lock, passed)| (*name, *lock, *passed))
            .collect();
        assert_eq!(line, expected, "{file:?}");
    }
    assert_eq!(table.waiters(), model.line.len());
    for (file, _, lock, _) in &model.line {
        let named = table.in_the_way(file, lock).map(|held| held.owner);
        assert_eq!(named.is_some(), !model.holders_in_the_way(file, lock).is_empty());
    }
}

/// In which order files are settled does not matter to anybody: each has its own line.
fn sorted(mut waiters: Vec<Waiter>) -> Vec<Waiter> {
    waiters.sort_unstable();
    waiters
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn does_what_one_lock_for_each_byte_would(steps in prop::collection::vec(steps(), 1..60)) {
        let (mut table, mut model) = (LockTable::default(), Model::default());
        // Sessions number their requests alike.
        let mut numbers = BTreeMap::<SessionId, u64>::new();
        for step in steps {
            let mut granted = Vec::new();
            let expected = match step {
                Step::Lock { file, lock, wait } => {
                    let number = numbers.entry(lock.owner.session).or_default();
                    *number += 1;
                    let wait = wait.then_some(Seq(*number));
                    let (locking, expected) = model.lock(file, lock, wait);
                    prop_assert_eq!(table.lock(file, lock, wait, &mut granted), locking);
                    expected
                }
                Step::Unlock { file, owner, span } => {
                    prop_assert!(table.unlock(file, owner, span, &mut granted));
                    model.unlock(file, owner, span)
                }
                Step::Cancel(_) if model.line.is_empty() => {
                    prop_assert!(!table.cancel((SessionId(1), Seq(1)), &mut granted));
                    Vec::new()
                }
                Step::Cancel(which) => {
                    let (_, waiter, ..) = model.line.remove(which.index(model.line.len()));
                    prop_assert!(table.waits(waiter) && table.cancel(waiter, &mut granted) && !table.waits(waiter));
                    model.settle()
                }
                Step::End(session) => {
                    model.held.retain(|(_, _, owner), _| owner.session != SessionId(session));
                    model.line.retain(|(_, (of, _), ..)| *of != SessionId(session));
                    table.end(SessionId(session), &mut granted);
                    prop_assert!(table.sessions().all(|of| of != SessionId(session)));
                    model.settle()
                }
            };
            prop_assert_eq!(sorted(granted), sorted(expected));
            check(&table, &model);
        }
    }
}

const POSIX: Family = Family::Posix;

#[test]
fn locks_of_one_owner_are_split_and_merged() {
    let (mut table, name, a) = (LockTable::default(), file(1, POSIX), owner(1, 1));
    let mut take = |first, last, kind| table.lock(name, lock(a, first, last, kind), None, &mut Vec::new());
    assert_eq!(take(0, 9, READ), Locking::Granted);
    assert_eq!(take(4, 5, WRITE), Locking::Granted);
    assert_eq!(take(10, 12, READ), Locking::Granted);
    let spans: Vec<_> = table.held(&name).iter().map(|l| (l.span.first, l.span.last, l.kind)).collect();
    assert_eq!(spans, [(0, 3, READ), (4, 5, WRITE), (6, 12, READ)]);
    assert_eq!(table.len(), 3);
    let read = lock(owner(2, 1), 0, 20, READ);
    assert_eq!(table.in_the_way(&name, &read).map(|l| l.span.first), Some(4));
    assert!(table.unlock(name, a, Span::ALL, &mut Vec::new()));
    assert!(table.is_empty());
    table.check_invariants();
}

#[test]
fn two_that_want_more_of_each_others_deadlock_over_two_files_and_a_third_owner() {
    let mut table = LockTable::default();
    let (a, b, c) = (owner(1, 1), owner(2, 1), owner(3, 1));
    let mut take =
        |object, who, seq| table.lock(file(object, POSIX), lock(who, 0, 0, WRITE), Some(Seq(seq)), &mut Vec::new());
    for (object, who) in [(1, a), (2, b), (3, c)] {
        assert_eq!(take(object, who, 1), Locking::Granted);
    }
    assert_eq!(take(2, a, 2), Locking::Waits);
    assert_eq!(take(3, b, 2), Locking::Waits);
    assert_eq!(take(1, c, 2), Locking::Deadlock);
    // Two readers that both want to write.
    let (d, e) = (owner(4, 1), owner(5, 1));
    let mut upgrade =
        |who, kind, seq| table.lock(file(9, POSIX), lock(who, 0, 9, kind), Some(Seq(seq)), &mut Vec::new());
    assert_eq!((upgrade(d, READ, 1), upgrade(e, READ, 1)), (Locking::Granted, Locking::Granted));
    assert_eq!((upgrade(d, WRITE, 2), upgrade(e, WRITE, 2)), (Locking::Waits, Locking::Deadlock));
}

#[test]
fn a_writer_is_passed_by_readers_so_often_and_no_more() {
    let (mut table, name) = (LockTable::default(), file(1, POSIX));
    let mut take =
        |who, kind, wait: Option<u64>| table.lock(name, lock(who, 0, 9, kind), wait.map(Seq), &mut Vec::new());
    assert_eq!(take(owner(1, 1), READ, None), Locking::Granted);
    assert_eq!(take(owner(2, 1), WRITE, Some(1)), Locking::Waits);
    for reader in 0..u64::from(PASSED_MAX) {
        assert_eq!(take(owner(3, reader), READ, None), Locking::Granted);
    }
    assert_eq!(take(owner(4, 1), READ, None), Locking::Locked);
    assert_eq!(take(owner(4, 1), READ, Some(2)), Locking::Waits);
    assert_eq!(take(owner(1, 1), READ, None), Locking::Granted, "the writer waits for this one");
    let mut granted = Vec::new();
    assert!(table.unlock(name, owner(1, 1), Span::ALL, &mut granted));
    for reader in 0..u64::from(PASSED_MAX) {
        assert_eq!(granted, []);
        assert!(table.unlock(name, owner(3, reader), Span::ALL, &mut granted));
    }
    assert_eq!(granted, [(SessionId(2), Seq(1))]);
    assert!(table.unlock(name, owner(2, 1), Span::ALL, &mut granted));
    assert_eq!(granted[1..], [(SessionId(4), Seq(2))]);
    table.check_invariants();
}

#[test]
fn a_flock_that_changes_its_kind_is_given_back_first() {
    let (mut table, name, mut granted) = (LockTable::default(), file(1, Family::Flock), Vec::new());
    let (a, b, c) = (owner(1, 1), owner(1, 2), owner(2, 1));
    for who in [a, b] {
        assert_eq!(table.lock(name, lock(who, 0, 0, READ), None, &mut granted), Locking::Granted);
    }
    assert_eq!(table.lock(name, lock(a, 0, 0, WRITE), None, &mut granted), Locking::Locked);
    assert_eq!(table.held(&name).len(), 1, "it is gone although the new one was refused");
    assert_eq!(table.lock(name, lock(c, 0, 0, WRITE), Some(Seq(1)), &mut granted), Locking::Waits);
    assert_eq!(table.lock(name, lock(b, 0, 0, WRITE), Some(Seq(2)), &mut granted), Locking::Waits);
    assert_eq!(granted, [(SessionId(2), Seq(1))], "who waited longer has it now");
    table.check_invariants();
}

#[test]
fn nothing_grows_without_bound() {
    let (mut table, name, a) = (LockTable::default(), file(1, POSIX), owner(1, 1));
    let none = &mut Vec::new();
    for i in 0..FILE_LOCKS_MAX as u64 {
        assert_eq!(table.lock(name, lock(a, 3 * i, 3 * i + 1, WRITE), None, none), Locking::Granted);
    }
    assert_eq!(table.lock(name, lock(a, 1 << 40, 1 << 40, WRITE), None, none), Locking::Full);
    assert_eq!(table.lock(name, lock(a, 0, 9, WRITE), None, none), Locking::Granted, "it makes room");
    assert_eq!(table.lock(name, lock(a, 1 << 40, (1 << 40) + 9, WRITE), None, none), Locking::Granted);
    for i in 0..2 {
        assert_eq!(
            table.lock(name, lock(a, (1 << 50) + 2 * i, (1 << 50) + 2 * i, WRITE), None, none),
            Locking::Granted
        );
    }
    assert!(!table.unlock(name, a, Span { first: (1 << 40) + 3, last: (1 << 40) + 4 }, none), "no room for two ends");
    for i in 0..FILE_WAITERS_MAX as u64 {
        assert_eq!(table.lock(name, lock(owner(2, i), 0, 0, WRITE), Some(Seq(i)), none), Locking::Full, "no room");
    }
    assert!(table.unlock(name, a, Span { first: 12, last: 1 << 39 }, none));
    for i in 0..FILE_WAITERS_MAX as u64 {
        assert_eq!(table.lock(name, lock(owner(2, i), 0, 0, WRITE), Some(Seq(i)), none), Locking::Waits);
    }
    assert_eq!(table.lock(name, lock(owner(2, 1 << 20), 0, 0, WRITE), Some(Seq(1 << 20)), none), Locking::Full);
    table.check_invariants();
    table.end(SessionId(1), none);
    assert_eq!(none.len(), 1);
    table.end(SessionId(2), none);
    assert!(table.is_empty() && table.sessions().next().is_none());
    table.check_invariants();
}
