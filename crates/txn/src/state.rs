//! The replicated state that is not records: sessions, counters, digest.

use crate::collect::Collection;
use crate::digest::Digest;
use crate::past::Past;
use crate::staged::Staged;
use gavel_lease::LeaseTable;
use gavel_lock::LockTable;
use gavel_types::limits::{SESSION_WINDOW_MAX, SESSIONS_MAX};
use gavel_types::{LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, VolumeId};
use gavel_wire::Outcome;
use gavel_wire::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Format of the encoded state.
pub const STATE_FORMAT: u8 = 8;
/// Largest encoded state: every session's window full of outcomes, with room to spare.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A digest is kept for every entry whose index is a multiple of this.
pub const DIGEST_EVERY: u64 = 256;
/// So many of these digests are kept, for checkpoints to be compared with.
const DIGESTS_KEPT: usize = 64;

/// A node's standing with the quorum.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The node.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: u64,
    /// How long it lives without a refresh, in milliseconds. It stands here because the node and every leader to come must mean the same.
    pub term_ms: u32,
    /// The last blocks of object ids that it was given, the first id of each: it makes objects there.
    pub blocks: Vec<ObjectId>,
    /// The number that its next request must have.
    pub next: Seq,
    /// Outcomes that it has not acknowledged.
    pub outcomes: BTreeMap<Seq, Outcome>,
    /// What it had answered was refused: nothing that it sends is applied any more. Its leases stay until its node says that it knows, for the node
    /// answers under them until then.
    pub broken: bool,
}

/// What a volume holds now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VolumeCounts {
    /// Live objects.
    pub objects: u64,
    /// Bytes of live extents.
    pub bytes: u64,
}

/// Replicated state besides records. Equal on all replicas that have applied the same entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The last entry that was applied.
    pub applied: LogIndex,
    /// The last Tid that was used.
    pub tid: Tid,
    /// Open sessions.
    pub sessions: BTreeMap<SessionId, Session>,
    /// The latest life of each node that had a session.
    pub incarnations: BTreeMap<NodeId, u64>,
    /// The next object id that nobody was given.
    pub next_object: ObjectId,
    /// The volumes.
    pub volumes: BTreeMap<VolumeId, VolumeCounts>,
    /// Who may answer for which records.
    pub leases: LeaseTable,
    /// Who has locked which bytes of which file.
    pub locks: LockTable,
    /// Which past states of the volumes can be read, and the names that some of them have.
    pub past: Past,
    /// Blobs that nothing names any more.
    pub collection: Collection,
    /// Objects that were written before the commit that ties them in.
    pub staged: Staged,
    /// Sum over all changes of records that are known.
    pub records: Digest,
    /// Digests of the whole state behind some of the last entries.
    pub digests: VecDeque<(LogIndex, [u8; 32])>,
}

impl Default for State {
    fn default() -> State {
        State {
            applied: LogIndex(0),
            tid: Tid::ZERO,
            sessions: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            next_object: ObjectId::FIRST_FREE,
            volumes: BTreeMap::new(),
            leases: LeaseTable::default(),
            locks: LockTable::default(),
            past: Past::default(),
            collection: Collection::default(),
            staged: Staged::default(),
            records: Digest::default(),
            digests: VecDeque::new(),
        }
    }
}

impl State {
    /// The state's bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(STATE_FORMAT, self)
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not a state within its bounds.
    pub fn decode(bytes: &[u8]) -> Result<State, DecodeError> {
        codec::decode("replicated state", STATE_FORMAT, STATE_BYTES_MAX, bytes)
    }

    /// The digest of everything that is replicated.
    pub fn digest(&self) -> [u8; 32] {
        let tables = (&self.leases, &self.locks, &self.past, &self.collection, &self.staged);
        let rest =
            (self.tid, &self.sessions, &self.incarnations, self.next_object, &self.volumes, tables, self.records);
        *blake3::hash(&codec::encode(STATE_FORMAT, &rest)).as_bytes()
    }

    /// Remembers the digest behind the entry that was just applied, if it is one of those that are kept.
    pub(crate) fn keep_digest(&mut self) {
        if self.applied.0.is_multiple_of(DIGEST_EVERY) {
            self.digests.push_back((self.applied, self.digest()));
            if self.digests.len() > DIGESTS_KEPT {
                self.digests.pop_front();
            }
        }
    }

    /// Asserts what the state itself shows of the invariants.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        assert!(self.sessions.len() <= SESSIONS_MAX, "{} sessions", self.sessions.len());
        assert!(self.digests.len() <= DIGESTS_KEPT, "{} digests", self.digests.len());
        let nodes: BTreeSet<NodeId> = self.sessions.values().map(|session| session.node).collect();
        assert!(nodes.len() == self.sessions.len(), "a node has two sessions");
        for (id, session) in &self.sessions {
            assert!(id.0 <= self.tid.0, "session {id} is from the future");
            assert!(session.outcomes.len() as u64 <= SESSION_WINDOW_MAX, "session {id} has too many outcomes");
            assert!(session.outcomes.keys().all(|seq| *seq < session.next), "session {id} has outcomes of the future");
        }
        self.leases.check_invariants();
        for (range, _, holders) in self.leases.rows() {
            let open = holders.iter().all(|holder| self.sessions.contains_key(holder));
            assert!(open, "a session that has ended holds {range:?}");
        }
        self.locks.check_invariants();
        self.past.check_invariants(self.tid);
        self.collection.check_invariants(self.tid);
        self.staged.check_invariants();
        for session in self.staged.sessions() {
            assert!(self.sessions.contains_key(&session), "session {session} has ended and has staged something");
        }
        for session in self.past.pinning() {
            assert!(self.sessions.contains_key(&session), "session {session} has ended and needs a state");
        }
        for session in self.locks.sessions() {
            assert!(self.sessions.contains_key(&session), "session {session} has ended and has locks");
        }
    }
}
