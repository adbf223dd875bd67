//! When a flush of the records is asked for.
#![allow(clippy::unwrap_used)]

use gavel_server::{Clock, Config, Effect, Server};
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Records};
use gavel_types::{ClusterId, Key, Moment, NodeId, ObjectId, Tid, VolumeId};
use gavel_wire::{Change, Record, Version};
use std::sync::Arc;

const NODE: NodeId = NodeId(1);
const CLOCK: Clock = Clock { now: Moment(1_000_000_000), wall_ns: 1_720_000_000_000_000_000 };
/// The bound of the test.
const MEMORY_BYTES: u64 = 64 * 1024;

/// A change that leaves so many bytes in memory, and a little more.
fn change(tid: u64, bytes: u64) -> Change {
    let tid = Tid(tid);
    let record = Record::Xattr(vec![7; bytes as usize].into());
    let key = Key::xattr(VolumeId::FIRST, ObjectId(20), &tid.0.to_string().into_bytes());
    Change { tid, key, old: None, new: Some(Version { create: tid, firm: tid, record }) }
}

fn flushes(server: &mut Server<MemEngine>) -> usize {
    server.on_tick(CLOCK);
    server.take_effects().iter().filter(|effect| matches!(effect, Effect::Flush)).count()
}

/// What is applied may be much larger than the log that says so: a removed file's bytes move into history.
#[test]
fn records_are_flushed_by_what_they_have_in_memory() {
    let identity = Identity { cluster: ClusterId([7; 16]), node: NODE };
    let records = Arc::new(Records::open(MemEngine::new(), identity).unwrap().0);
    let mut config = Config::new(gavel_quorum::Config::new(NODE, vec![NODE], 1));
    config.flush_memory_bytes = MEMORY_BYTES;
    let mut server = Server::new(config, records.clone(), None, Default::default(), CLOCK).unwrap();
    records.apply(&[change(1, MEMORY_BYTES / 2)], &[]).unwrap();
    assert_eq!(flushes(&mut server), 0);
    records.apply(&[change(2, MEMORY_BYTES / 2)], &[]).unwrap();
    assert_eq!(flushes(&mut server), 1);
    records.apply(&[change(3, MEMORY_BYTES)], &[]).unwrap();
    assert_eq!(flushes(&mut server), 0, "one is under way");
    records.flush().unwrap();
    server.on_flushed(CLOCK, Ok(()));
    assert_eq!(flushes(&mut server), 1, "what came meanwhile");
    assert_eq!(flushes(&mut server), 0);
}
