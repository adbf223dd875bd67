//! Random logs: sessions that come and go, requests in any order, plans good and bad, on several replicas.

use super::memory::Memory;
use super::model::Model;
use super::world::*;
use gavel_lease::range::guarded;
use gavel_txn::State;
use gavel_types::limits::OBJECT_BLOCK;
use gavel_types::{Key, KeyParts, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, Timestamp};
use gavel_wire::{
    AttrDelta, Content, Entry, Guard, Item, Mutation, Outcome, Plan, Record, Refusal, Request, RequestBody, View,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::{BTreeMap, BTreeSet};

/// An item in the making: what depends on the log so far is filled in later.
#[derive(Clone, Debug)]
enum Step {
    Request { who: usize, skew: i64, unseen: u64, body: Body },
    Open { node: u64, incarnation: u64 },
    Expire { who: usize },
    Reap { object: ObjectId },
}

#[derive(Clone, Debug)]
enum Body {
    Commit { guards: Vec<(u8, usize, u64)>, mutations: Vec<Mutation> },
    Allocate,
    Release(Vec<ObjectId>),
}

fn object() -> impl Strategy<Value = ObjectId> {
    prop_oneof![4 => 20u64..22, 1 => 22u64..24].prop_map(ObjectId)
}

fn content(len: u64) -> impl Strategy<Value = Content> {
    prop_oneof![
        proptest::collection::vec(b'a'..=b'z', len as usize).prop_map(|bytes| Content::Inline(bytes.into())),
        (0..40u32).prop_map(|offset| blob(100, offset)),
        Just(Content::Zeros),
    ]
}

fn extent() -> impl Strategy<Value = Mutation> {
    let bounds = (object(), 0u64..40, 1u64..12);
    bounds.prop_flat_map(|(object, start, len)| {
        content(len).prop_map(move |content| put_extent(object, start, len, content))
    })
}

/// As writes do it: the place is cleared first.
fn overwrite(put: Mutation) -> Vec<Mutation> {
    let Mutation::Put { key, record: Record::Extent(extent) } = &put else { unreachable!("an extent") };
    let KeyParts::Extent { end } = key.parts() else { unreachable!("an extent") };
    vec![carve(key.object(), end - extent.len, end), put]
}

fn delta() -> impl Strategy<Value = AttrDelta> {
    let size = prop_oneof![8 => -3i64..10, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    let nlink = prop_oneof![8 => -1i32..=1, 1 => Just(i32::MAX), 1 => Just(i32::MIN)];
    (nlink, size, 0u64..50, any::<bool>()).prop_map(|(nlink, size, size_min, touch)| {
        let mtime = touch.then_some(Timestamp::COMMIT);
        AttrDelta { nlink, size, size_min, atime: None, mtime, ctime: mtime }
    })
}

fn mutation() -> impl Strategy<Value = Vec<Mutation>> {
    let name = || proptest::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        3 => (object(), 0u32..3, 0u16..2).prop_map(|(object, nlink, mode)| {
            let mut attr = file(nlink);
            attr.firm.mode = mode;
            vec![put_attr(object, attr)]
        }),
        6 => extent().prop_map(|extent| vec![extent]),
        4 => (object(), 0u64..50, 0u64..50).prop_map(|(object, start, end)| vec![carve(object, start, end)]),
        3 => extent().prop_map(overwrite),
        3 => (object(), "[a-c]{1,9}").prop_map(|(object, text)| vec![append(object, &text)]),
        3 => (object(), delta()).prop_map(|(object, delta)| vec![adjust(object, delta)]),
        2 => object().prop_map(unlink),
        1 => object().prop_map(|object| vec![orphan(object)]),
        2 => (object(), name()).prop_map(|(object, name)| vec![put_name(ROOT, name, object)]),
        1 => name().prop_map(|name| vec![Mutation::Delete { key: Key::dirent(V, ROOT, name.as_bytes()) }]),
        2 => (object(), name()).prop_map(|(object, name)| vec![put_xattr(object, name, b"1")]),
        1 => (object(), name()).prop_map(|(o, name)| vec![Mutation::Delete { key: Key::xattr(V, o, name.as_bytes()) }]),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let guards = proptest::collection::vec((0u8..4, 0usize..6, 0u64..8), 0..2);
    let mutations = proptest::collection::vec(mutation(), 0..5);
    prop_oneof![
        8 => (guards, mutations).prop_map(|(guards, mutations)| Body::Commit { guards, mutations: mutations.concat() }),
        1 => Just(Body::Allocate),
        3 => proptest::collection::vec(object(), 1..4).prop_map(Body::Release),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let skew = prop_oneof![10 => Just(0i64), 1 => Just(-1), 1 => Just(1)];
    prop_oneof![
        12 => (0usize..6, skew, 0u64..4, body())
            .prop_map(|(who, skew, unseen, body)| Step::Request { who, skew, unseen, body }),
        2 => (1u64..4, 1u64..3).prop_map(|(node, incarnation)| Step::Open { node, incarnation }),
        1 => (0usize..6).prop_map(|who| Step::Expire { who }),
        1 => object().prop_map(|object| Step::Reap { object }),
    ]
}

fn log() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(step(), 0..7), 1..14)
}

/// What guards of random logs look at.
fn watched(which: usize) -> (Key, KeyRange) {
    let names = || KeyRange::dirents(V, ROOT);
    match which {
        0 => (Key::attr(V, FILE), KeyRange::object(V, FILE)),
        1 => (Key::attr(V, OTHER), KeyRange::extents_behind(V, OTHER, 10)),
        2 => (Key::dirent(V, ROOT, b"a"), names()),
        3 => (Key::xattr(V, FILE, b"a"), KeyRange::xattrs(V, FILE)),
        4 => (Key::attr(V, ObjectId(22)), KeyRange::one(&Key::attr(V, ObjectId(22)))),
        _ => (Key::orphan(V, FILE), KeyRange::orphans_from(V, ObjectId(0))),
    }
}

/// Turns steps into the next entry. `sessions` are all that ever were.
fn entry(world: &World, sessions: &[SessionId], steps: &[Step]) -> Entry {
    let mut next: BTreeMap<SessionId, i64> = BTreeMap::new();
    let item = |step: &Step| match step {
        Step::Request { who, skew, unseen, body } => {
            let session = sessions[who % sessions.len()];
            let known = world.state.sessions.get(&session).map_or(1, |session| session.next.0 as i64);
            let next = next.entry(session).or_insert(known);
            let seq = (*next + skew).max(1) as u64;
            *next += i64::from(*skew == 0);
            let body = match body {
                Body::Commit { guards, mutations } => {
                    commit(guards.iter().map(|guard| guarding(world, guard)).collect(), mutations.clone())
                }
                Body::Allocate => RequestBody::AllocateObjects,
                Body::Release(objects) => {
                    RequestBody::Release { orphans: objects.iter().map(|object| (V, *object)).collect() }
                }
            };
            Item::Request(Request { session, seq: Seq(seq), seen: Seq(seq.saturating_sub(*unseen)), body })
        }
        Step::Open { node, incarnation } => {
            Item::SessionOpen { node: NodeId(*node), incarnation: *incarnation, term_ms: 5_000, instead_of: None }
        }
        Step::Expire { who } => Item::SessionExpire { session: sessions[who % sessions.len()] },
        Step::Reap { object } => Item::Reap { volume: V, object: *object },
    };
    Entry { tid: Tid(world.state.tid.0 + 1000), items: steps.iter().map(item).collect() }
}

fn guarding(world: &World, (kind, which, ago): &(u8, usize, u64)) -> Guard {
    let (key, range) = watched(*which);
    let at = Tid(world.state.tid.0 - ago * 700);
    match kind {
        0 => Guard::Unchanged { key, at },
        1 => Guard::Firm { key, at },
        2 => Guard::Empty { range },
        _ => Guard::Stable { range, at },
    }
}

/// What the guard says, by the state just before the commit.
fn holds(memory: &Memory, before: Tid, guard: &Guard) -> bool {
    let view = memory.at(before);
    match guard {
        Guard::Unchanged { key, at } => view.get(key).unwrap().is_some_and(|version| version.create <= *at),
        Guard::Firm { key, at } => view.get(key).unwrap().is_some_and(|version| version.firm <= *at),
        Guard::Empty { range } => view.scan(range, 1).unwrap().is_empty(),
        Guard::Stable { range, at } => {
            let rows = memory.changes_after(*at);
            !rows.iter().any(|row| row.tid <= before && range.contains(&row.key))
        }
    }
}

/// Judges what `entry` did, item by item: by the records just before each item, and just after it.
struct Judge {
    sessions: BTreeMap<SessionId, (NodeId, u64, Seq)>,
    /// The latest life of each node.
    lives: BTreeMap<NodeId, u64>,
    /// The blocks of ids that sessions were given, by the first: they hold them exclusively.
    blocks: BTreeMap<ObjectId, SessionId>,
    /// What each open session has been told.
    outcomes: BTreeMap<(SessionId, Seq), Outcome>,
    committed: usize,
    refused: usize,
}

impl Judge {
    fn of(world: &World) -> Judge {
        let sessions = world.state.sessions.iter();
        let sessions = sessions.map(|(id, session)| (*id, (session.node, session.incarnation, session.next))).collect();
        let (lives, blocks, outcomes) = (world.state.incarnations.clone(), BTreeMap::new(), BTreeMap::new());
        Judge { sessions, lives, blocks, outcomes, committed: 0, refused: 0 }
    }

    fn judge(&mut self, world: &World, entry: &Entry, outcomes: &[(SessionId, Seq, Outcome)]) {
        let mut outcomes = outcomes.iter();
        for (i, item) in entry.items.iter().enumerate() {
            let tid = Tid(entry.tid.0 + i as u64);
            let before = Model::of(&world.memory.at(Tid(tid.0 - 1)));
            let after = Model::of(&world.memory.at(tid));
            let expected = match item {
                Item::Request(request) => self.request(world, tid, request, &before, &mut outcomes),
                Item::SessionOpen { node, incarnation, .. } => self.open(tid, *node, *incarnation, before.clone()),
                Item::SessionExpire { session } => self.end(*session, before.clone()),
                _ => before,
            };
            assert_eq!(after, expected, "{item:?}");
        }
        assert_eq!(outcomes.next(), None);
    }

    fn request<'a>(
        &mut self,
        world: &World,
        tid: Tid,
        request: &Request,
        before: &Model,
        outcomes: &mut impl Iterator<Item = &'a (SessionId, Seq, Outcome)>,
    ) -> Model {
        let open: BTreeSet<SessionId> = self.sessions.keys().copied().collect();
        let Some((_, _, next)) = self.sessions.get_mut(&request.session) else { return before.clone() };
        if request.seq != *next {
            return before.clone();
        }
        next.0 += 1;
        let (session, seq, outcome) = outcomes.next().expect("invariant 2: it was the session's next");
        assert_eq!((*session, *seq), (request.session, request.seq));
        assert_eq!(self.outcomes.insert((*session, *seq), outcome.clone()), None, "invariant 2: once");
        match &request.body {
            RequestBody::AllocateObjects => {
                let Outcome::Allocated { first, .. } = outcome else { panic!("{outcome:?}") };
                self.blocks.insert(*first, *session);
                before.clone()
            }
            RequestBody::Lease { .. } | RequestBody::Yield { .. } | RequestBody::Downgrade { .. } => before.clone(),
            RequestBody::Snapshot { .. } | RequestBody::DropSnapshot { .. } | RequestBody::RenameSnapshot { .. } => {
                before.clone()
            }
            RequestBody::NoteSnapshot { .. } => before.clone(),
            RequestBody::SetRetention { .. } | RequestBody::DefineClass { .. } | RequestBody::SetSchedule { .. } => {
                before.clone()
            }
            RequestBody::Prune { .. } => before.clone(),
            RequestBody::Stage { .. } | RequestBody::Adopt { .. } | RequestBody::Unstage { .. } => before.clone(),
            RequestBody::Pin { .. } | RequestBody::Unpin { .. } => before.clone(),
            RequestBody::CreateVolume { .. } | RequestBody::CloneVolume { .. } => before.clone(),
            RequestBody::RenameVolume { .. }
            | RequestBody::DestroyVolume { .. }
            | RequestBody::RestoreVolume { .. } => before.clone(),
            RequestBody::CreateMirror { .. } | RequestBody::MirrorStep(_) | RequestBody::PromoteMirror { .. } => {
                before.clone()
            }
            RequestBody::AdmitFollower { .. }
            | RequestBody::DismissFollower { .. }
            | RequestBody::FollowerReached { .. }
            | RequestBody::FollowMirror { .. }
            | RequestBody::DemoteMirror(_) => before.clone(),
            RequestBody::Lock { .. } | RequestBody::Unlock { .. } | RequestBody::CancelLock { .. } => before.clone(),
            RequestBody::Release { orphans } => {
                let mut after = before.clone();
                orphans.iter().for_each(|(_, object)| after.release(*object, *session));
                after
            }
            RequestBody::Commit { guards, plan, .. } => {
                let broken = guards.iter().position(|guard| !holds(&world.memory, Tid(tid.0 - 1), guard));
                let after = before.after(&plan.mutations, &open);
                let expected = match (broken, &after) {
                    _ if self.is_leased(*session, guards, plan) => Outcome::Refused { refusal: Refusal::Leased },
                    (Some(guard), _) => Outcome::Refused { refusal: Refusal::Conflict { guard: guard as u32 } },
                    (None, None) => Outcome::Refused { refusal: Refusal::BadPlan },
                    (None, Some(_)) => Outcome::Committed { tid },
                };
                assert_eq!(*outcome, expected, "{request:?}");
                let applies = matches!(expected, Outcome::Committed { .. });
                self.committed += usize::from(applies);
                self.refused += usize::from(!applies);
                after.filter(|_| applies).unwrap_or_else(|| before.clone())
            }
        }
    }

    fn open(&mut self, tid: Tid, node: NodeId, incarnation: u64, mut model: Model) -> Model {
        if self.lives.get(&node).is_some_and(|latest| incarnation < *latest) {
            return model;
        }
        self.lives.insert(node, incarnation);
        let known = self.sessions.iter().find(|(_, (at, _, _))| *at == node).map(|(id, (_, life, _))| (*id, *life));
        match known {
            Some((_, life)) if life == incarnation => return model,
            Some((session, _)) => model = self.end(session, model),
            None => {}
        }
        self.sessions.insert(SessionId(tid.0), (node, incarnation, Seq(1)));
        model
    }

    /// Does another session hold, as a block of its ids, what is read or written?
    fn is_leased(&self, session: SessionId, guards: &[Guard], plan: &Plan) -> bool {
        let touched = guards.iter().map(guarded).chain(gavel_lease::written(plan)).filter(|range| !range.is_empty());
        let others: Vec<KeyRange> = self
            .blocks
            .iter()
            .filter(|(_, holder)| **holder != session)
            .map(|(first, _)| KeyRange::objects(V, *first, ObjectId(first.0 + OBJECT_BLOCK - 1)))
            .collect();
        touched.into_iter().any(|range| others.iter().any(|block| block.overlaps(&range)))
    }

    fn end(&mut self, session: SessionId, mut model: Model) -> Model {
        self.blocks.retain(|_, holder| *holder != session);
        if self.sessions.remove(&session).is_some() {
            let orphans: Vec<ObjectId> = model.orphans.keys().copied().collect();
            orphans.into_iter().for_each(|object| model.release(object, session));
        }
        model
    }
}

/// Runs a log; gives the replica and the entries.
fn run(steps: &[Vec<Step>]) -> (World, Vec<Entry>, Judge) {
    let mut world = World::new();
    let mut judge = Judge::of(&world);
    let mut sessions = vec![world.session];
    let mut entries = Vec::new();
    for steps in steps {
        let entry = entry(&world, &sessions, steps);
        let applied = world.apply(Some(&entry));
        judge.judge(&world, &entry, &applied.outcomes);
        let new = applied.opened.iter().map(|(session, _, _)| *session).filter(|session| !sessions.contains(session));
        sessions.extend(new.collect::<Vec<_>>());
        entries.push(entry);
    }
    (world, entries, judge)
}

fn replay(entries: &[Entry], from: World) -> World {
    let mut world = from;
    entries.iter().for_each(|entry| drop(world.apply(Some(entry))));
    world
}

proptest! {
    #[test]
    fn any_log_does_what_its_items_say(steps in log()) {
        run(&steps);
    }

    #[test]
    fn replicas_of_one_log_are_equal(steps in log(), cut in 0usize..14) {
        let (world, entries, _) = run(&steps);
        let (early, late) = entries.split_at(cut.min(entries.len()));
        let mut other = replay(early, World::new());
        // A restart in the middle of the log.
        let state = State::decode(&other.state.encode()).unwrap();
        prop_assert_eq!(&state, &other.state);
        other.state = state;
        let other = replay(late, other);
        prop_assert_eq!(&other.memory, &world.memory);
        prop_assert_eq!(other.state.digest(), world.state.digest());
        prop_assert_eq!(other.state, world.state);
    }

    #[test]
    fn a_replica_that_caught_up_is_equal_and_goes_on(steps in log(), away in 0usize..14, back in 0usize..14) {
        let (world, entries, _) = run(&steps);
        let away = away.min(entries.len());
        let back = (away + back).min(entries.len());
        let mut lagging = replay(&entries[..away], World::new());
        let source = replay(&entries[away..back], lagging.clone());
        let rows = source.memory.changes_after(lagging.state.tid);
        rows.iter().for_each(|row| lagging.state.records.add(row.tid, &row.key, row.version.as_ref()));
        prop_assert_eq!(lagging.state.records, source.state.records, "what catching up compares");
        let view = lagging.memory.clone();
        let changes: Vec<_> = rows.iter().scan(view, |memory, row| {
            let old = memory.at(Tid(row.tid.0 - 1)).get(&row.key).unwrap();
            let change = gavel_wire::Change { tid: row.tid, key: row.key.clone(), old, new: row.version.clone() };
            memory.absorb(std::slice::from_ref(&change));
            Some(change)
        }).collect();
        lagging.memory.absorb(&changes);
        lagging.state = State::decode(&source.state.encode()).unwrap();
        let lagging = replay(&entries[back..], lagging);
        prop_assert_eq!(lagging.memory, world.memory);
        prop_assert_eq!(lagging.state.digest(), world.state.digest());
    }
}

/// The random logs are worth something: much of what they ask for is done, and much is refused.
#[test]
fn random_logs_commit_and_refuse() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut committed, mut refused, mut ended) = (0, 0, 0);
    for _ in 0..100 {
        let steps = log().new_tree(&mut runner).unwrap().current();
        let (world, entries, judge) = run(&steps);
        committed += judge.committed;
        refused += judge.refused;
        ended += usize::from(!world.state.sessions.contains_key(&world.session));
        assert_eq!(world.state.applied, LogIndex(entries.len() as u64 + 3));
    }
    assert!(committed > 200 && refused > 200 && ended > 5, "{committed} committed, {refused} refused, {ended} ended");
}
