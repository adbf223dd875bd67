//! Volumes that become mirrors of what was their mirror: when they may, what is saved, and what comes before the first step.

use super::world::*;
use gavel_txn::past::VolumePast;
use gavel_txn::{Former, Lineage, Mirror};
use gavel_types::{Class, ClusterId, Key, KeyRange, MirrorSource, ObjectId, Retention, Tid, VolumeId};
use gavel_wire::{
    Author, Boundary, Demotion, Item, MirrorStep, Mode, Outcome, Plan, Record, Refusal, RequestBody, View, Want,
};

/// The state of the other volume at which it departed.
const STATE: Tid = Tid(9_000);

fn source() -> MirrorSource {
    MirrorSource { cluster: ClusterId([9; 16]), volume: VolumeId(3), made: Tid(5) }
}

fn past(world: &World) -> &VolumePast {
    world.state.past.of(V).unwrap()
}

fn mirror(world: &World) -> &Mirror {
    past(world).mirror.as_ref().unwrap()
}

fn demotion(own: Tid) -> Demotion {
    Demotion { volume: V, source: source(), own, state: STATE, save: Some("saved".into()), as_of: Tid::ZERO }
}

fn demote(world: &mut World, own: Tid) -> Result<(), Refusal> {
    ask(world, RequestBody::DemoteMirror(demotion(own)))
}

fn unsaved(world: &mut World, own: Tid, as_of: Tid) -> Result<(), Refusal> {
    ask(world, RequestBody::DemoteMirror(Demotion { save: None, as_of, ..demotion(own) }))
}

fn step(world: &World, to: Tid, part: u32, last: bool, rows: Vec<(Key, Option<Record>)>) -> RequestBody {
    let (from, author) = (mirror(world).state, Author::user(0));
    let (single, stored_as_of) = (false, Tid::MAX);
    RequestBody::MirrorStep(MirrorStep {
        volume: V,
        from,
        to,
        part,
        last,
        single,
        resumes: None,
        rows,
        author,
        stored_as_of,
    })
}

fn go_back(world: &mut World, rows: Vec<(Key, Option<Record>)>) -> Result<(), Refusal> {
    let body = step(world, mirror(world).state, 0, true, rows);
    ask(world, body)
}

fn boundary(world: &World) -> Boundary {
    match world.version(&Key::boundary(V)).map(|version| version.record) {
        Some(Record::Boundary(boundary)) => boundary,
        other => panic!("{other:?}"),
    }
}

fn write(world: &mut World, value: &[u8]) {
    world.committed(vec![put_xattr(FILE, "user.a", value)]);
}

#[test]
fn a_demoted_volume_shows_what_both_have_had_and_its_clone_shows_the_rest() {
    let mut world = World::new();
    write(&mut world, b"both");
    let own = world.state.tid;
    write(&mut world, b"mine");
    assert_eq!(demote(&mut world, own), Ok(()));
    let at = world.state.tid;
    let Mirror { local, state, step, former, .. } = mirror(&world).clone();
    assert_eq!((local, state, past(&world).boundary()), (own, STATE, Some(own)));
    assert_eq!((step.map(|step| step.at.to), former), (Some(STATE), Some(Former { own, state: STATE, at })));
    // What lies there is half of a step.
    assert!(boundary(&world).is_within_step() && boundary(&world).local == own);
    let key = |volume| Key::xattr(volume, FILE, b"user.a");
    let shown = |world: &World, volume| match world.memory.at(world.state.tid).get(&key(volume)).unwrap() {
        Some(version) => version.record,
        None => panic!("nothing in {volume}"),
    };
    let saved = world.state.past.named("saved").unwrap();
    let (mine, both) = (Record::Xattr(b"mine"[..].into()), Record::Xattr(b"both"[..].into()));
    assert_eq!(shown(&world, saved), mine);
    let (outcome, _) = world.commit(Vec::new(), vec![put_xattr(FILE, "user.a", b"late")]);
    assert_eq!(outcome, Outcome::Refused { refusal: Refusal::ReadOnly });
    // Nothing else may begin before the way back, and nothing that was taken back changes the clone.
    let next = step_to(&world, Tid(STATE.0 + 1));
    assert_eq!(ask(&mut world, next), Err(Refusal::Behind));
    assert_eq!(ask(&mut world, RequestBody::PromoteMirror { volume: V }), Err(Refusal::Behind));
    let rows = vec![(Key::attr(V, FILE), Some(Record::Attr(file(1)))), (key(V), Some(both.clone()))];
    assert_eq!(go_back(&mut world, rows), Ok(()));
    assert_eq!((shown(&world, V), shown(&world, saved)), (both, mine));
    assert_eq!((mirror(&world).local, mirror(&world).state), (world.state.tid, STATE));
    assert!(!boundary(&world).is_within_step());
    let next = step_to(&world, Tid(STATE.0 + 1));
    assert_eq!(ask(&mut world, next), Ok(()));
    let again = world.state.tid;
    assert_eq!(demote(&mut world, again), Err(Refusal::ReadOnly));
}

fn step_to(world: &World, to: Tid) -> RequestBody {
    step(world, to, 0, true, Vec::new())
}

#[test]
fn only_what_descends_is_demoted() {
    let mut world = World::new();
    write(&mut world, b"1");
    let own = world.state.tid;
    write(&mut world, b"2");
    let missing = Demotion { volume: VolumeId(7), ..demotion(own) };
    assert_eq!(ask(&mut world, RequestBody::DemoteMirror(missing)), Err(Refusal::Missing));
    let ahead = Tid(world.state.tid.0 + 100_000);
    assert_eq!(demote(&mut world, ahead), Err(Refusal::Pruned), "a state that has not come");
    let before = Tid(past(&world).made.0 - 1);
    assert_eq!(demote(&mut world, before), Err(Refusal::Pruned), "before the volume");
    let clone = RequestBody::CloneVolume { from: V, at: None, name: "saved".into() };
    ask(&mut world, clone).unwrap();
    assert_eq!(demote(&mut world, own), Err(Refusal::Exists));
    assert!(!past(&world).is_mirror() && world.state.past.last_volume() == VolumeId(2));
    // What is not whole of every object is not whole.
    ask(&mut world, RequestBody::DestroyVolume { volume: VolumeId(2), now: true }).unwrap();
    let less = Retention { whole_ns: Some(1000), rules: Vec::new() };
    ask(&mut world, RequestBody::DefineClass { volume: V, policy: less }).unwrap();
    (0..5).for_each(|value| write(&mut world, &[value]));
    let all = Retention { whole_ns: Some(1_000_000_000), rules: Vec::new() };
    ask(&mut world, RequestBody::SetRetention { volume: V, policy: all }).unwrap();
    ask(&mut world, RequestBody::Prune { volume: V }).unwrap();
    assert!(past(&world).can_read(own) && !past(&world).is_whole(own));
    assert_eq!(demote(&mut world, own), Err(Refusal::Pruned));
    let kept = past(&world).classes.values().next().unwrap().horizon;
    assert_eq!(demote(&mut world, kept), Ok(()));
    // And it stays whole for as long as it is shown.
    ask(&mut world, RequestBody::Prune { volume: V }).unwrap();
    assert!(past(&world).is_whole(kept));
}

#[test]
fn what_was_promoted_is_not_taken_back_behind_that() {
    let mut world = World::new();
    write(&mut world, b"1");
    let early = world.state.tid;
    write(&mut world, b"2");
    let own = world.state.tid;
    unsaved(&mut world, own, own).unwrap();
    go_back(&mut world, Vec::new()).unwrap();
    let next = step_to(&world, Tid(STATE.0 + 5));
    ask(&mut world, next).unwrap();
    let departed = world.state.tid;
    assert_eq!(mirror(&world).lineage(), None, "it is a mirror still");
    ask(&mut world, RequestBody::PromoteMirror { volume: V }).unwrap();
    let lineage = Lineage { source: source(), departed: Tid(STATE.0 + 5), state: departed };
    assert_eq!(mirror(&world).lineage(), Some(lineage));
    assert_eq!(past(&world).turned(), world.state.tid);
    for own in [early, own, Tid(departed.0 - 1)] {
        assert_eq!(demote(&mut world, own), Err(Refusal::Behind), "{own}");
    }
    assert_eq!(demote(&mut world, departed), Ok(()));
    assert_eq!(past(&world).turned(), world.state.tid);
}

#[test]
fn nothing_is_saved_only_if_there_is_nothing() {
    let mut world = World::new();
    write(&mut world, b"1");
    let own = world.state.tid;
    write(&mut world, b"2");
    let (before, ahead) = (Tid(own.0 - 1), Tid(own.0 + 1_000_000));
    for as_of in [Tid::ZERO, before, own, ahead] {
        assert_eq!(unsaved(&mut world, own, as_of), Err(Refusal::Behind), "as of {as_of}");
    }
    let (own, volumes) = (world.state.tid, world.state.past.last_volume());
    // What has changed elsewhere is not in the way.
    ask(&mut world, RequestBody::CreateVolume { name: "other".into(), mode: 0o755, uid: 0, gid: 0 }).unwrap();
    assert_eq!(unsaved(&mut world, own, own), Ok(()));
    assert_eq!(world.state.past.last_volume(), VolumeId(volumes.0 + 1), "no clone");
}

#[test]
fn no_lease_is_held_in_what_was_demoted() {
    let mut world = World::new();
    let (own, two) = (world.state.tid, world.open(2, 1));
    let want = |object| Want { range: KeyRange::object(V, object), mode: Mode::Shared, urgent: true };
    let lease = |object| RequestBody::Lease { wants: vec![want(object)] };
    ask_as(&mut world, two, lease(OTHER)).unwrap();
    assert_eq!(demote(&mut world, own), Err(Refusal::Leased));
    // Widened, it begins with the volume; by objects, it is not given up there.
    let wide = Want { range: KeyRange::object(V, OTHER), mode: Mode::Shared, urgent: false };
    ask_as(&mut world, two, RequestBody::Lease { wants: vec![wide] }).unwrap();
    let ranges = vec![KeyRange::objects(V, ObjectId::VOLUME, ObjectId(u64::MAX))];
    ask_as(&mut world, two, RequestBody::Yield { ranges, cool: false }).unwrap();
    assert!(!world.state.leases.is_empty(), "nothing is left of it in which no key is");
    // Its own are no hindrance, and end.
    ask(&mut world, lease(FILE)).unwrap();
    assert!(!world.state.leases.is_empty());
    assert_eq!(demote(&mut world, own), Ok(()));
    assert!(world.state.leases.is_empty());
    ask(&mut world, lease(FILE)).unwrap();
    assert!(world.state.leases.is_empty(), "a lease was granted in a mirror");
}

/// What has lost its name must not be reaped when it has it again.
#[test]
fn what_has_no_name_is_gone_before_the_way_back_begins() {
    let mut world = World::new();
    world.committed(vec![put_text(FILE, 0, "text")]);
    let own = world.state.tid;
    world.committed(unlink(FILE));
    let item = world.request(world.session, RequestBody::AllocateObjects);
    let Outcome::Allocated { first, .. } = world.item(item).outcomes[0].2 else { panic!() };
    let plan = Plan { mutations: vec![put_attr(first, file(1))] };
    let stage = RequestBody::Stage { group: 1, volume: V, runs: vec![(first, first)], plan, stored_as_of: Tid::MAX };
    ask(&mut world, stage).unwrap();
    assert_eq!(world.holders(FILE), Some(vec![world.session]));
    let request = world.request(world.session, RequestBody::DemoteMirror(demotion(own)));
    let applied = world.item(request);
    let saved = world.state.past.named("saved").unwrap();
    assert_eq!(world.holders(FILE), Some(Vec::new()));
    assert!(applied.to_reap.contains(&(V, FILE)) && applied.to_reap.contains(&(saved, FILE)));
    assert_eq!(go_back(&mut world, Vec::new()), Err(Refusal::Behind));
    world.item(Item::Reap { volume: V, object: FILE });
    assert_eq!(world.version(&Key::attr(V, FILE)), None);
    assert_eq!(go_back(&mut world, Vec::new()), Err(Refusal::Behind), "something is staged");
    while world.state.staged.has_abandoned() {
        world.item(Item::ReapStaged);
    }
    let extent = put_text(FILE, 0, "text");
    let gavel_wire::Mutation::Put { key, record } = extent else { panic!() };
    let rows = vec![(Key::attr(V, FILE), Some(Record::Attr(file(1)))), (key, Some(record))];
    assert_eq!(go_back(&mut world, rows), Ok(()));
    // Whoever held it does not end it any more, whatever comes late.
    world.release(world.session, &[FILE]);
    world.item(Item::Reap { volume: V, object: FILE });
    world.item(Item::SessionExpire { session: world.session });
    assert_eq!((world.attr(FILE).nlink, world.extents(FILE)), (1, "0..4 text".to_owned()));
}

#[test]
fn an_object_keeps_the_class_that_it_has_here() {
    let mut world = World::new();
    let less = Retention { whole_ns: Some(1_000_000_000_000), rules: Vec::new() };
    ask(&mut world, RequestBody::DefineClass { volume: V, policy: less }).unwrap();
    let class = *past(&world).classes.keys().next().unwrap();
    let of = |class| {
        let mut attr = file(1);
        attr.firm.class = class;
        attr
    };
    world.committed(vec![put_attr(FILE, of(class))]);
    let own = world.state.tid;
    world.committed(vec![put_attr(FILE, of(Class::VOLUME)), put_attr(OTHER, of(class))]);
    demote(&mut world, own).unwrap();
    let row = |object, class| (Key::attr(V, object), Some(Record::Attr(of(class))));
    go_back(&mut world, vec![row(FILE, class), row(OTHER, Class::VOLUME)]).unwrap();
    assert_eq!((world.attr(FILE).firm.class, world.attr(OTHER).firm.class), (class, Class::VOLUME));
    let (new, unknown) = (ObjectId(40), Class(class.0 + 1));
    let rows = vec![row(FILE, Class::VOLUME), row(OTHER, class), row(new, class)];
    let body = step(&world, Tid(STATE.0 + 1), 0, true, rows);
    ask(&mut world, body).unwrap();
    let classes = [FILE, OTHER, new].map(|object| world.attr(object).firm.class);
    assert_eq!(classes, [class, Class::VOLUME, Class::VOLUME]);
    go_back(&mut world, vec![row(FILE, unknown)]).unwrap();
    assert_eq!(world.attr(FILE).firm.class, Class::VOLUME, "a class that nobody has defined");
}

/// A part of the way back that is not the last one leaves half of a step, as any other part does.
#[test]
fn the_way_back_is_half_of_a_step_until_it_ends() {
    let mut world = World::new();
    let own = world.state.tid;
    demote(&mut world, own).unwrap();
    let first = step(&world, STATE, 0, false, Vec::new());
    ask(&mut world, first).unwrap();
    assert!(boundary(&world).is_within_step());
    let last = step(&world, STATE, 1, true, Vec::new());
    ask(&mut world, last).unwrap();
    assert!(!boundary(&world).is_within_step() && boundary(&world).local == world.state.tid);
}

/// What the two make from then on has numbers that do not meet.
#[test]
fn a_promotion_passes_over_many_ids() {
    let mut world = World::new();
    let own = world.state.tid;
    demote(&mut world, own).unwrap();
    go_back(&mut world, vec![(Key::attr(V, ObjectId(70)), Some(Record::Attr(file(1))))]).unwrap();
    let before = world.state.next_object;
    ask(&mut world, RequestBody::PromoteMirror { volume: V }).unwrap();
    let gap = gavel_txn::mirrors::PROMOTED_IDS_GAP;
    assert_eq!(world.state.next_object, ObjectId(before.0 + gap));
    assert_eq!(world.state.past.all_ids_from(), world.state.next_object);
}
