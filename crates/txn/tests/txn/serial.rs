//! Operations that were evaluated on old views, against the same operations one after the other.
//!
//! Each operation reads through the recorder, as those of the filesystem do, and plans from what it read alone. What
//! committed at a Tid must be what the operation plans on the state just before that Tid.

use super::world::*;
use gavel_types::{Key, KeyRange, ObjectId, Seq, SessionId, Tid};
use gavel_wire::{
    AttrDelta, Entry, Guard, Item, Kind, Mutation, Outcome, Record, Recorder, Refusal, Request, RequestBody, View,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    /// Takes one from a counter and gives it to another.
    Move { from: ObjectId, to: ObjectId },
    /// Makes a name that is not there, in a directory that is open to it.
    Create { name: u8, object: ObjectId },
    /// Takes a name away; the object becomes an orphan with its last one.
    Unlink { name: u8 },
    /// Closes the root to new names if it has none.
    CloseIfEmpty,
    /// Opens or closes it.
    Chmod { open: bool },
    /// Writes down how many names there are, of so many at most.
    Count { limit: usize, into: ObjectId },
    /// Writes without having read.
    Write { object: ObjectId, start: u64, text: String },
    /// Writes behind the end.
    Append { object: ObjectId, text: String },
}

const OPEN: u16 = 0o755;
const CLOSED: u16 = 0o555;

fn counter(object: ObjectId) -> Key {
    Key::xattr(V, object, b"user.n")
}

fn name_of(name: u8) -> [u8; 1] {
    [b'a' + name]
}

/// What the operation does, by what it reads; nothing if it has nothing to do.
fn plan(tree: &Recorder<'_>, op: &Op) -> Vec<Mutation> {
    try_plan(tree, op).unwrap_or_default()
}

fn try_plan(tree: &Recorder<'_>, op: &Op) -> Option<Vec<Mutation>> {
    let number = |key: &Key| match tree.get(key).unwrap() {
        Some(Record::Xattr(value)) => value.len(),
        _ => 0,
    };
    let set = |key: Key, n: usize| put(key, Record::Xattr(vec![b'1'; n].into()));
    match op {
        Op::Move { from, to } => {
            let (a, b) = (number(&counter(*from)), number(&counter(*to)));
            (a > 0 && from != to).then(|| vec![set(counter(*from), a - 1), set(counter(*to), b + 1)])
        }
        Op::Create { name, object } => {
            let key = Key::dirent(V, ROOT, &name_of(*name));
            let free = tree.get(&key).unwrap().is_none();
            let open = tree.firm(V, ROOT).unwrap()?.mode == OPEN;
            let named =
                tree.get(&Key::orphan(V, *object)).unwrap().is_none() && tree.firm(V, *object).unwrap().is_some();
            (free && open && named).then(|| {
                let dirent = gavel_wire::Dirent { object: *object, kind: Kind::File };
                let one = AttrDelta { nlink: 1, ..Default::default() };
                let more = AttrDelta { size: 1, ..Default::default() };
                vec![put(key, Record::Dirent(dirent)), adjust(*object, one), adjust(ROOT, more)]
            })
        }
        Op::Unlink { name } => {
            let key = Key::dirent(V, ROOT, &name_of(*name));
            let Some(Record::Dirent(dirent)) = tree.get(&key).unwrap() else { return None };
            let attr = tree.attr(V, dirent.object).unwrap()?;
            let less = AttrDelta { size: -1, ..Default::default() };
            let mut plan = vec![Mutation::Delete { key }, adjust(ROOT, less)];
            if attr.nlink == 1 {
                plan.extend(unlink(dirent.object));
            } else {
                plan.push(adjust(dirent.object, AttrDelta { nlink: -1, ..Default::default() }));
            }
            Some(plan)
        }
        Op::CloseIfEmpty => {
            let empty = tree.is_empty(&KeyRange::dirents(V, ROOT)).unwrap();
            empty.then(|| chmod(tree, CLOSED)).flatten()
        }
        Op::Chmod { open } => chmod(tree, if *open { OPEN } else { CLOSED }),
        Op::Count { limit, into } => {
            let names = tree.scan(&KeyRange::dirents(V, ROOT), *limit).unwrap();
            Some(vec![set(Key::xattr(V, *into, b"user.count"), names.len())])
        }
        Op::Write { object, start, text } => {
            tree.firm(V, *object).unwrap()?;
            let end = start + text.len() as u64;
            let delta = AttrDelta { size_min: end, ..Default::default() };
            Some(vec![carve(*object, *start, end), put_text(*object, *start, text), adjust(*object, delta)])
        }
        Op::Append { object, text } => {
            let attr = tree.attr(V, *object).unwrap()?;
            let end = attr.size + text.len() as u64;
            let attr = gavel_wire::Attr { size: end, ..attr };
            Some(vec![
                carve(*object, attr.size, end),
                put_text(*object, end - text.len() as u64, text),
                put_attr(*object, attr),
            ])
        }
    }
}

fn chmod(tree: &Recorder<'_>, mode: u16) -> Option<Vec<Mutation>> {
    let mut attr = tree.attr(V, ROOT).unwrap()?;
    attr.firm.mode = mode;
    Some(vec![put_attr(ROOT, attr)])
}

fn ops() -> impl Strategy<Value = Op> {
    let object = || (20u64..23).prop_map(ObjectId);
    prop_oneof![
        3 => (object(), object()).prop_map(|(from, to)| Op::Move { from, to }),
        3 => (0u8..4, object()).prop_map(|(name, object)| Op::Create { name, object }),
        3 => (0u8..4).prop_map(|name| Op::Unlink { name }),
        1 => Just(Op::CloseIfEmpty),
        2 => any::<bool>().prop_map(|open| Op::Chmod { open }),
        2 => (1usize..4, object()).prop_map(|(limit, into)| Op::Count { limit, into }),
        3 => (object(), 0u64..20, "[a-z]{1,8}").prop_map(|(object, start, text)| Op::Write { object, start, text }),
        2 => (object(), "[a-z]{1,4}").prop_map(|(object, text)| Op::Append { object, text }),
    ]
}

fn world() -> World {
    let mut world = World::new();
    let third = ObjectId(22);
    let counters = [FILE, OTHER, third].map(|object| put_xattr(object, "user.n", b"111"));
    world.committed([vec![put_attr(third, file(1))], counters.into()].concat());
    for node in 2..5 {
        world.open(node, 1);
    }
    world
}

/// One operation on a view that is so many commits old; `who` ships it.
#[derive(Clone, Debug)]
struct Try {
    who: usize,
    age: usize,
    op: Op,
}

fn tries() -> impl Strategy<Value = Vec<Vec<Try>>> {
    let one = (0usize..4, 0usize..5, ops()).prop_map(|(who, age, op)| Try { who, age, op });
    proptest::collection::vec(proptest::collection::vec(one, 1..6), 1..20)
}

fn evaluate(world: &World, at: Tid, op: &Op) -> (Vec<Guard>, Vec<Mutation>) {
    let view = world.memory.at(at);
    let recorder = Recorder::new(&view);
    let mutations = plan(&recorder, op);
    (recorder.into_guards(), mutations)
}

struct Ran {
    world: World,
    committed: Vec<(Tid, SessionId, Op)>,
    conflicts: usize,
}

/// Ships every operation, evaluated on its old view; those of one entry did not see each other.
fn run(tries: &[Vec<Try>]) -> Ran {
    let mut world = world();
    let sessions: Vec<SessionId> = world.state.sessions.keys().copied().collect();
    let mut tids = vec![world.state.tid];
    let (mut committed, mut conflicts) = (Vec::new(), 0);
    for tries in tries {
        let mut next: BTreeMap<SessionId, Seq> = BTreeMap::new();
        let items = tries.iter().map(|Try { who, age, op }| {
            let at = tids[tids.len().saturating_sub(1 + age)];
            let (guards, mutations) = evaluate(&world, at, op);
            let session = sessions[*who];
            let seq = next.entry(session).or_insert(super::world::next(&world, session));
            let request = Request { session, seq: *seq, seen: *seq, body: commit(guards, mutations) };
            seq.0 += 1;
            Item::Request(request)
        });
        let entry = Entry { tid: Tid(world.state.tid.0 + 1000), items: items.collect() };
        let applied = world.apply(Some(&entry));
        for ((i, (_, _, outcome)), Try { who, op, .. }) in applied.outcomes.iter().enumerate().zip(tries) {
            let tid = Tid(entry.tid.0 + i as u64);
            match outcome {
                Outcome::Committed { .. } => {
                    committed.push((tid, sessions[*who], op.clone()));
                    let Item::Request(Request { body: RequestBody::Commit { plan, .. }, .. }) = &entry.items[i] else {
                        unreachable!("only commits were shipped")
                    };
                    let alone = evaluate(&world, Tid(tid.0 - 1), op).1;
                    assert_eq!(plan.mutations, alone, "{op:?} at {tid} is not what it would be just before");
                }
                Outcome::Refused { refusal: Refusal::Conflict { .. } } => conflicts += 1,
                other => panic!("{op:?}: {other:?}"),
            }
        }
        tids.push(world.state.tid);
    }
    Ran { world, committed, conflicts }
}

proptest! {
    #[test]
    fn what_committed_is_what_the_operations_do_one_after_the_other(tries in tries()) {
        let ran = run(&tries);
        let mut alone = world();
        for (tid, session, op) in &ran.committed {
            let (guards, mutations) = evaluate(&alone, alone.state.tid, op);
            let item = alone.request(*session, commit(guards, mutations));
            let applied = alone.apply(Some(&Entry { tid: *tid, items: vec![item] }));
            prop_assert_eq!(&applied.outcomes[0].2, &Outcome::Committed { tid: *tid });
        }
        prop_assert_eq!(alone.memory.live(), ran.world.memory.live());
        prop_assert_eq!(alone.memory, ran.world.memory, "and so is the past");
    }

    #[test]
    fn on_the_newest_view_nothing_collides(tries in tries(), last in ops()) {
        let mut world = run(&tries).world;
        let (guards, mutations) = evaluate(&world, world.state.tid, &last);
        let (outcome, _) = world.commit(guards, mutations);
        prop_assert_eq!(outcome, Outcome::Committed { tid: world.state.tid });
    }
}

/// Counters are conserved, names and links agree: what a lost update would spoil.
#[test]
fn nothing_is_lost_between_old_views() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut committed, mut conflicts) = (0, 0);
    for _ in 0..200 {
        let ran = run(&tries().new_tree(&mut runner).unwrap().current());
        committed += ran.committed.len();
        conflicts += ran.conflicts;
        let view = ran.world.memory.at(ran.world.state.tid);
        let names = view.scan(&KeyRange::dirents(V, ROOT), usize::MAX).unwrap().len() as u64;
        assert_eq!(ran.world.attr(ROOT).size, names);
        let counters = [FILE, OTHER, ObjectId(22)].map(|object| match view.get(&counter(object)).unwrap() {
            Some(version) => match version.record {
                Record::Xattr(value) => value.len(),
                other => panic!("{other:?}"),
            },
            None => panic!("a counter is gone"),
        });
        assert_eq!(counters.iter().sum::<usize>(), 9);
    }
    assert!(committed > 1000 && conflicts > 1000, "{committed} committed, {conflicts} collided");
}
