//! Names that states get by themselves.

use super::world::*;
use gavel_types::limits::SNAPSHOTS_MAX;
use gavel_types::{Schedule, Tid, VolumeId};
use gavel_wire::{Entry, Item, Refusal, RequestBody};

const SECOND: u64 = 1_000_000_000;
/// The beginning of the hour behind the first Tid of worlds: 10:00.
const HOUR: Tid = Tid(DAWN.0 - DAWN.0 % (3_600 * SECOND) + 3_600 * SECOND);

fn set(world: &mut World, text: &str) -> Result<(), Refusal> {
    let schedule: Schedule = if text.is_empty() { Schedule::default() } else { text.parse().unwrap() };
    ask(world, RequestBody::SetSchedule { volume: V, schedule })
}

/// A leader finds it due so many seconds behind the hour.
fn due(world: &mut World, secs: u64) -> Tid {
    let tid = Tid(HOUR.0 + secs * SECOND);
    world.apply(Some(&Entry { tid, items: vec![Item::NameScheduled { volume: V }] }));
    tid
}

fn name(world: &mut World, name: &str) -> Result<(), Refusal> {
    ask(world, RequestBody::Snapshot { volume: V, name: name.into(), note: "".into(), at: None })
}

fn names(world: &World) -> Vec<String> {
    world.state.past.of(V).unwrap().snapshots.keys().map(ToString::to_string).collect()
}

/// The part of names that tells hour, minute and second.
fn clocks(world: &World) -> Vec<String> {
    names(world).iter().map(|name| name.split_once('T').unwrap().1.to_owned()).collect()
}

#[test]
fn each_period_has_one_and_the_newest_stay() {
    let mut world = World::new();
    assert_eq!(set(&mut world, "every 10s keep 2"), Ok(()));
    let made = due(&mut world, 0);
    assert_eq!(clocks(&world), ["100000Z"]);
    let snapshot = world.state.past.of(V).unwrap().snapshots.values().next().unwrap();
    assert_eq!((snapshot.tid, snapshot.named), (made, made), "the state that the entry finds");
    // Asked for again in the same period, by this leader or the next.
    due(&mut world, 3);
    due(&mut world, 9);
    assert_eq!(clocks(&world), ["100000Z"]);
    due(&mut world, 12);
    due(&mut world, 20);
    assert_eq!(clocks(&world), ["100010Z", "100020Z"]);
    // Nobody led for a while: one, not many.
    due(&mut world, 67);
    assert_eq!(clocks(&world), ["100020Z", "100100Z"]);
}

#[test]
fn what_a_person_made_or_renamed_stays() {
    let mut world = World::new();
    assert_eq!(name(&mut world, "mine"), Ok(()));
    assert_eq!(set(&mut world, "every 10s keep 1"), Ok(()));
    due(&mut world, 0);
    let first = names(&world).into_iter().find(|name| name != "mine").unwrap();
    assert_eq!(
        ask(&mut world, RequestBody::RenameSnapshot { volume: V, from: first.as_str().into(), to: "kept".into() }),
        Ok(())
    );
    // Somebody has taken a name that is to come: it is theirs, and the period has none of its own.
    let taken = first.replace("T100000Z", "T100020Z");
    assert_eq!(name(&mut world, &taken), Ok(()));
    due(&mut world, 10);
    due(&mut world, 20);
    due(&mut world, 30);
    due(&mut world, 40);
    let last = first.replace("T100000Z", "T100040Z");
    assert_eq!(names(&world), [taken, last, "kept".into(), "mine".into()]);
}

#[test]
fn the_first_is_made_when_a_period_begins_and_a_rule_that_stays_goes_on() {
    let mut world = World::new();
    due(&mut world, 0);
    assert_eq!(set(&mut world, "every 10s keep 3; every 30s keep 1"), Ok(()));
    due(&mut world, 5);
    assert!(names(&world).is_empty(), "without a schedule, and in the period in which it is set");
    due(&mut world, 10);
    assert_eq!(set(&mut world, "every 10s keep 2"), Ok(()));
    due(&mut world, 19);
    due(&mut world, 30);
    due(&mut world, 40);
    assert_eq!(clocks(&world), ["100030Z", "100040Z"], "the other rule has gone, and fewer are kept");
    assert_eq!(set(&mut world, ""), Ok(()));
    due(&mut world, 50);
    assert_eq!(clocks(&world), ["100030Z", "100040Z"], "what was made stays");
    assert_eq!(set(&mut world, "every 10s keep 2"), Ok(()));
    due(&mut world, 60);
    assert_eq!(clocks(&world), ["100040Z", "100100Z"], "and is the rule's again");
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let mut world = World::new();
    let revision = world.state.past.revision();
    for rules in [vec![(0, 1)], vec![(1, 1)], vec![(SECOND, 0)], vec![(SECOND, 1025)], vec![(SECOND, 1); 2]] {
        let every = |(every_ns, keep)| gavel_types::schedule::Every { every_ns, keep };
        let schedule = Schedule { rules: rules.into_iter().map(every).collect() };
        let said = ask(&mut world, RequestBody::SetSchedule { volume: V, schedule: schedule.clone() });
        assert_eq!(said, Err(Refusal::BadPolicy), "{schedule:?}");
    }
    let schedule = Schedule::default();
    assert_eq!(ask(&mut world, RequestBody::SetSchedule { volume: VolumeId(77), schedule }), Err(Refusal::Missing));
    world.item(Item::NameScheduled { volume: VolumeId(77) });
    assert_eq!(world.state.past.revision(), revision, "nothing has changed");
}

#[test]
fn without_room_a_period_has_none_and_that_is_known() {
    let mut world = World::new();
    assert_eq!(set(&mut world, "every 10s keep 1; every 20s keep 1"), Ok(()));
    for number in 0..SNAPSHOTS_MAX - 1 {
        assert_eq!(name(&mut world, &format!("s{number}")), Ok(()));
    }
    due(&mut world, 0);
    let missed = |world: &World| -> Vec<bool> {
        world.state.past.of(V).unwrap().schedule.iter().map(|scheduled| scheduled.missed).collect()
    };
    assert_eq!(missed(&world), [false, true], "the last place is taken");
    // A rule that has its number makes room for the next one.
    due(&mut world, 10);
    assert_eq!((missed(&world), names(&world).len()), (vec![false, true], SNAPSHOTS_MAX));
    assert_eq!(ask(&mut world, RequestBody::DropSnapshot { volume: V, name: "s7".into() }), Ok(()));
    due(&mut world, 20);
    assert_eq!(missed(&world), [false, false]);
}
