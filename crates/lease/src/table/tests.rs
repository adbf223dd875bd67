use super::*;
use proptest::prelude::*;

const V: VolumeId = VolumeId(3);
const OBJECTS: u64 = 16;

fn objects(first: u64, last: u64) -> KeyRange {
    KeyRange::objects(V, ObjectId(first), ObjectId(last))
}

fn existing(first_free: u64) -> Existing<'static> {
    Existing { first_free: ObjectId(first_free), theirs: &[] }
}

fn want(first: u64, last: u64, mode: Mode) -> Want {
    Want { range: objects(first, last), mode, urgent: false }
}

fn granted(table: &mut LeaseTable, session: u64, want: &Want) -> Result<KeyRange, Refused> {
    table.grant(SessionId(session), want, Tid(1), existing(OBJECTS))
}

#[test]
fn a_lone_reader_gets_all_that_exists() {
    let mut table = LeaseTable::default();
    let all = KeyRange { start: KeyRange::volume(V).start, end: objects(0, OBJECTS - 1).end };
    assert_eq!(granted(&mut table, 1, &want(5, 5, Mode::Shared)), Ok(all.clone()));
    assert_eq!(granted(&mut table, 2, &want(7, 9, Mode::Shared)), Ok(all));
    assert_eq!(table.len(), 1);
    assert_eq!(table.in_the_way(SessionId(1), &objects(3, 3), Mode::Exclusive), [SessionId(2)]);
    assert!(table.is_free(SessionId(1), &objects(3, 3), Mode::Shared));
}

#[test]
fn a_yield_splits_and_cools() {
    let mut table = LeaseTable::default();
    granted(&mut table, 1, &want(5, 5, Mode::Shared)).unwrap();
    table.give_up(SessionId(1), &[objects(5, 5)], Some(Tid(1))).unwrap();
    assert_eq!(table.len(), 2);
    assert!(table.is_free(SessionId(2), &objects(5, 5), Mode::Exclusive));
    assert!(!table.is_free(SessionId(2), &objects(5, 6), Mode::Exclusive));
    assert_eq!(granted(&mut table, 1, &want(5, 5, Mode::Shared)), Err(Refused::Cooling));
    assert_eq!(granted(&mut table, 1, &want(6, 6, Mode::Shared)).unwrap().start, objects(6, 6).start);
    let urgent = Want { urgent: true, ..want(5, 5, Mode::Shared) };
    assert_eq!(granted(&mut table, 2, &urgent), Ok(objects(5, 5)));
    let later = Tid(2 + COOLING_NS);
    let merged = table.grant(SessionId(1), &want(5, 5, Mode::Shared), later, existing(OBJECTS)).unwrap();
    assert_eq!(merged.start, KeyRange::volume(V).start);
    table.end(SessionId(2));
    assert_eq!(table.len(), 1);
    table.end(SessionId(1));
    assert!(table.is_empty());
}

#[test]
fn a_downgrade_lets_others_read_at_once_and_write_alone_later() {
    let mut table = LeaseTable::default();
    granted(&mut table, 1, &want(5, 5, Mode::Exclusive)).unwrap();
    assert_eq!(table.in_the_way(SessionId(2), &objects(5, 5), Mode::Shared), [SessionId(1)]);
    table.downgrade(SessionId(1), &[objects(5, 5)], Some(Tid(1))).unwrap();
    assert_eq!(table.len(), 3);
    assert!(table.is_free(SessionId(2), &objects(5, 5), Mode::Shared));
    assert!(!table.held_exclusively_by(SessionId(1)).touches(&objects(5, 5)));
    assert!(table.held_by(SessionId(1)).covers(&objects(0, 10)), "it may still read everything");
    assert_eq!(granted(&mut table, 1, &want(5, 5, Mode::Exclusive)), Err(Refused::Cooling));
    assert_eq!(granted(&mut table, 2, &want(5, 5, Mode::Shared)), Ok(objects(5, 5)), "reading does not wait");
    table.downgrade(SessionId(2), &[objects(0, 10)], None).unwrap();
    assert!(table.held_exclusively_by(SessionId(1)).covers(&objects(6, 10)), "nobody downgrades another's");
}

#[test]
fn objects_that_do_not_exist_are_leased_to_nobody() {
    let mut table = LeaseTable::default();
    granted(&mut table, 1, &want(1, 1, Mode::Shared)).unwrap();
    assert!(table.is_free(SessionId(2), &objects(OBJECTS, u64::MAX), Mode::Exclusive));
}

#[test]
fn where_others_make_objects_only_a_few_more_are_granted() {
    let mut table = LeaseTable::default();
    let theirs = [(ObjectId(1000), ObjectId(1999))];
    let existing = Existing { first_free: ObjectId(5000), theirs: &theirs };
    let granted = table.grant(SessionId(1), &want(2500, 2500, Mode::Shared), Tid(1), existing).unwrap();
    assert_eq!(granted, objects(2000, 4999));
    let granted = table.grant(SessionId(1), &want(1100, 1100, Mode::Shared), Tid(1), existing).unwrap();
    assert_eq!(granted, objects(1088, 1151));
}

#[test]
fn a_full_table_refuses_and_still_lets_go() {
    let mut table = LeaseTable::default();
    let free = existing(u64::MAX);
    for i in 0..LEASES_MAX as u64 {
        let want = Want { urgent: true, ..want(10 + 4 * i, 10 + 4 * i, Mode::Exclusive) };
        assert_eq!(table.grant(SessionId(i + 2), &want, Tid(1), free), Ok(want.range), "not widened: there are gaps");
    }
    assert_eq!(table.len(), LEASES_MAX);
    assert_eq!(table.grant(SessionId(1), &want(12, 12, Mode::Shared), Tid(1), free), Err(Refused::Full));
    table.end(SessionId(2));
    assert!(table.grant(SessionId(1), &want(12, 12, Mode::Shared), Tid(1), free).is_ok());
    table.check_invariants();
}

#[derive(Clone, Debug)]
enum Step {
    Grant { session: u64, first: u64, last: u64, mode: Mode, urgent: bool },
    GiveUp { session: u64, first: u64, last: u64, cool: bool },
    Downgrade { session: u64, first: u64, last: u64, cool: bool },
    End { session: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![3 => Just(Mode::Shared), 1 => Just(Mode::Exclusive)];
    prop_oneof![
        6 => (1u64..5, 0..OBJECTS, 0u64..4, mode, any::<bool>())
            .prop_map(|(session, first, more, mode, urgent)| Step::Grant { session, first, last: first + more, mode, urgent }),
        3 => (1u64..5, 0..OBJECTS, 0u64..6, any::<bool>())
            .prop_map(|(session, first, more, cool)| Step::GiveUp { session, first, last: first + more, cool }),
        2 => (1u64..5, 0..OBJECTS, 0u64..6, any::<bool>())
            .prop_map(|(session, first, more, cool)| Step::Downgrade { session, first, last: first + more, cool }),
        1 => (1u64..5).prop_map(|session| Step::End { session }),
    ]
}

/// Who holds an object, and how.
type Model = BTreeMap<u64, BTreeMap<u64, Mode>>;

fn of_model(model: &Model, object: u64) -> BTreeMap<u64, Mode> {
    model.get(&object).cloned().unwrap_or_default()
}

fn of_table(table: &LeaseTable, object: u64) -> BTreeMap<u64, Mode> {
    let range = KeyRange::object(V, ObjectId(object));
    let mode = |session| match table.held_exclusively_by(session).covers(&range) {
        true => Mode::Exclusive,
        false => Mode::Shared,
    };
    let holders = (1..5).filter(|session| table.held_by(SessionId(*session)).covers(&range));
    holders.map(|session| (session, mode(SessionId(session)))).collect()
}

proptest! {
    #[test]
    fn the_table_is_what_it_stands_for(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut table, mut model) = (LeaseTable::default(), Model::new());
        for (now, step) in steps.into_iter().enumerate() {
            let now = Tid(1 + now as u64 * (COOLING_NS / 4));
            match step {
                Step::Grant { session, first, last, mode, urgent } => {
                    let asked = Want { urgent, ..want(first, last, mode) };
                    let conflict = |model: &Model, object: u64| model.get(&object).is_some_and(|holders| holders.iter().any(|(other, held)| {
                        *other != session && (mode == Mode::Exclusive || *held == Mode::Exclusive)
                    }));
                    let held = (first..=last).any(|object| conflict(&model, object));
                    match table.grant(SessionId(session), &asked, now, existing(OBJECTS)) {
                        Ok(range) => {
                            prop_assert!(!held, "granted over another's lease");
                            prop_assert!(range.start <= asked.range.start && asked.range.end <= range.end);
                            let covered = (0..OBJECTS + 10).filter(|object| {
                                let object = KeyRange::object(V, ObjectId(*object));
                                range.start <= object.start && object.end <= range.end
                            });
                            for object in covered.collect::<Vec<_>>() {
                                prop_assert!(!conflict(&model, object), "widened over another's lease");
                                let holders = model.entry(object).or_default();
                                let before = holders.get(&session).copied();
                                let mode = if before == Some(Mode::Exclusive) { Mode::Exclusive } else { mode };
                                holders.insert(session, mode);
                            }
                        }
                        Err(Refused::Held) => prop_assert!(held),
                        Err(Refused::Cooling) => prop_assert!(!urgent),
                        Err(other) => prop_assert!(false, "{other:?}"),
                    }
                }
                Step::GiveUp { session, first, last, cool } => {
                    table.give_up(SessionId(session), &[objects(first, last)], cool.then_some(now)).unwrap();
                    for object in first..=last {
                        model.entry(object).or_default().remove(&session);
                    }
                }
                Step::Downgrade { session, first, last, cool } => {
                    table.downgrade(SessionId(session), &[objects(first, last)], cool.then_some(now)).unwrap();
                    for object in first..=last {
                        model.entry(object).or_default().entry(session).and_modify(|mode| *mode = Mode::Shared);
                    }
                }
                Step::End { session } => {
                    table.end(SessionId(session));
                    model.values_mut().for_each(|holders| { holders.remove(&session); });
                }
            }
            table.check_invariants();
            for object in 0..OBJECTS + 10 {
                prop_assert_eq!(of_table(&table, object), of_model(&model, object), "object {}", object);
            }
        }
    }
}
