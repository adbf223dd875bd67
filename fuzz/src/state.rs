//! The replicated state, and what is sealed with the records.

use gavel_server::Sealed;
use gavel_txn::{Digest, Past, Session, State, VolumeCounts};
use gavel_types::{Key, LogIndex, NodeId, ObjectId, Seq, SessionId, Term, Tid, VolumeId};
use gavel_wire::{Outcome, Refusal};
use std::collections::{BTreeMap, VecDeque};

/// Decodes `bytes` as both.
///
/// # Panics
/// If a decoder panics, or a value that it accepted does not survive being written and read again.
pub fn run(bytes: &[u8]) -> bool {
    let state = State::decode(bytes).inspect(|state| {
        assert_eq!(State::decode(&state.encode()).as_ref(), Ok(state));
        // It must not panic, whatever the state says.
        let _ = state.digest();
    });
    let sealed = Sealed::decode(bytes).inspect(|sealed| {
        assert_eq!(Sealed::decode(&sealed.encode()).as_ref(), Ok(sealed));
    });
    state.is_ok() || sealed.is_ok()
}

/// A small state, and both kinds of seal.
pub fn seeds() -> Vec<Vec<u8>> {
    let records = state().records;
    let at = Sealed::At { term: Term(3), state: state() };
    let between =
        Sealed::CatchingUp { index: LogIndex(9), term: Term(3), after: Tid(70_000), skip: 2, records, sweeps: 5 };
    vec![State::default().encode(), state().encode(), at.encode(), between.encode()]
}

fn state() -> State {
    let outcomes = [
        Outcome::Committed { tid: Tid(300) },
        Outcome::Allocated { first: ObjectId(4096), count: 4096 },
        Outcome::Refused { refusal: Refusal::Conflict { guard: 1 } },
        Outcome::Refused { refusal: Refusal::BadPlan },
    ];
    let outcomes: BTreeMap<Seq, Outcome> = (1..).map(Seq).zip(outcomes).collect();
    let session = Session {
        node: NodeId(2),
        incarnation: 0x1234,
        term_ms: 5_000,
        blocks: vec![ObjectId(4096)],
        next: Seq(5),
        outcomes,
        broken: false,
    };
    let mut records = Digest::default();
    records.add(Tid(300), &Key::target(VolumeId::FIRST, ObjectId(300)), None);
    State {
        past: Past::default(),
        collection: Default::default(),
        staged: Default::default(),
        applied: LogIndex(256),
        tid: Tid(70_000),
        sessions: BTreeMap::from([(SessionId(7), session)]),
        incarnations: BTreeMap::from([(NodeId(2), 0x1234)]),
        next_object: ObjectId(8192),
        volumes: BTreeMap::from([(VolumeId::FIRST, VolumeCounts { objects: 3, bytes: 700 })]),
        leases: Default::default(),
        locks: Default::default(),
        records,
        digests: VecDeque::from([(LogIndex(256), [9; 32])]),
    }
}
