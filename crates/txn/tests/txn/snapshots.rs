//! Names for states.

use super::world::*;
use gavel_txn::past::Past;
use gavel_types::Tid;
use gavel_types::VolumeId;
use gavel_types::limits::{NOTE_BYTES_MAX, SNAPSHOTS_MAX};
use gavel_wire::{Refusal, RequestBody};

fn name(world: &mut World, name: &str, at: Option<Tid>) -> Result<(), Refusal> {
    ask(world, RequestBody::Snapshot { volume: V, name: name.into(), note: "".into(), at })
}

fn rename(world: &mut World, from: &str, to: &str) -> Result<(), Refusal> {
    ask(world, RequestBody::RenameSnapshot { volume: V, from: from.into(), to: to.into() })
}

fn drop_name(world: &mut World, name: &str) -> Result<(), Refusal> {
    ask(world, RequestBody::DropSnapshot { volume: V, name: name.into() })
}

fn named(world: &World) -> Vec<(String, Tid)> {
    let past: &Past = &world.state.past;
    let snapshots = &past.of(V).unwrap().snapshots;
    snapshots.iter().map(|(name, snapshot)| (name.to_string(), snapshot.tid)).collect()
}

fn note(world: &mut World, name: &str, note: &str) -> Result<(), Refusal> {
    ask(world, RequestBody::NoteSnapshot { volume: V, name: name.into(), note: note.into() })
}

#[test]
fn a_note_can_be_written_anew() {
    let mut world = World::new();
    assert_eq!(name(&mut world, "a", None), Ok(()));
    let before = world.state.past.of(V).unwrap().snapshots["a"].clone();
    assert_eq!(note(&mut world, "a", "last good state"), Ok(()));
    assert_eq!(note(&mut world, "b", "none"), Err(Refusal::Missing));
    assert_eq!(note(&mut world, "a", &"n".repeat(NOTE_BYTES_MAX + 1)), Err(Refusal::BadName));
    let after = world.state.past.of(V).unwrap().snapshots["a"].clone();
    assert_eq!((&*after.note, after.tid, after.named), ("last good state", before.tid, before.named));
    assert_eq!(note(&mut world, "a", ""), Ok(()));
    assert_eq!(&*world.state.past.of(V).unwrap().snapshots["a"].note, "");
}

#[test]
fn a_snapshot_is_the_state_that_its_entry_finds() {
    let mut world = World::new();
    assert_eq!(name(&mut world, "now", None), Ok(()));
    let now = world.state.tid;
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    assert_eq!(name(&mut world, "then", Some(now)), Ok(()));
    assert_eq!(named(&world), [("now".into(), now), ("then".into(), now)]);
}

#[test]
fn names_are_taken_given_and_gone() {
    let mut world = World::new();
    let state = world.state.tid;
    assert_eq!(name(&mut world, "a", Some(state)), Ok(()));
    assert_eq!(name(&mut world, "a", None), Err(Refusal::Exists));
    assert_eq!(rename(&mut world, "a", "b"), Ok(()));
    assert_eq!(rename(&mut world, "a", "c"), Err(Refusal::Missing));
    assert_eq!(name(&mut world, "a", None), Ok(()));
    assert_eq!(rename(&mut world, "a", "b"), Err(Refusal::Exists));
    assert_eq!(drop_name(&mut world, "a"), Ok(()));
    assert_eq!(drop_name(&mut world, "a"), Err(Refusal::Missing));
    assert_eq!(named(&world), [("b".into(), state)]);
}

#[test]
fn what_is_no_name_or_no_state_is_refused() {
    let mut world = World::new();
    let revision = world.state.past.revision();
    for text in ["", "2h", "0x1", "2026-11-28", "a/b", "a b", &"x".repeat(65)] {
        assert_eq!(name(&mut world, text, None), Err(Refusal::BadName), "{text:?}");
    }
    let long = "x".repeat(NOTE_BYTES_MAX + 1);
    let with_note =
        |volume, note: &str| RequestBody::Snapshot { volume, name: "a".into(), note: note.into(), at: None };
    assert_eq!(ask(&mut world, with_note(V, &long)), Err(Refusal::BadName));
    assert_eq!(ask(&mut world, with_note(VolumeId(77), "")), Err(Refusal::Missing));
    assert_eq!(name(&mut world, "a", Some(Tid::MAX)), Err(Refusal::Pruned), "it has not come yet");
    assert_eq!(name(&mut world, "a", Some(Tid(1))), Err(Refusal::Pruned), "there was no volume");
    assert_eq!(world.state.past.revision(), revision, "nothing has changed");
}

#[test]
fn there_are_so_many_snapshots_and_no_more() {
    let mut world = World::new();
    for number in 0..SNAPSHOTS_MAX {
        assert_eq!(name(&mut world, &format!("s{number}"), None), Ok(()));
    }
    assert_eq!(name(&mut world, "more", None), Err(Refusal::Full));
    assert_eq!(drop_name(&mut world, "s7"), Ok(()));
    assert_eq!(name(&mut world, "more", None), Ok(()));
}
