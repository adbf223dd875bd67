//! What a server is told, and what it seals with its records.

use gavel_txn::State;
use gavel_txn::state::STATE_BYTES_MAX;
use gavel_types::{LogIndex, NodeId, Term, Tid};
use gavel_wire::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

/// Format of what is sealed with the records.
pub const SEALED_FORMAT: u8 = 8;

// A state that could not travel in a snapshot would leave a replica behind for ever.
const _: () = assert!(STATE_BYTES_MAX <= gavel_quorum::SNAPSHOT_BYTES_MAX);
const _: () = assert!(gavel_quorum::MESSAGE_BYTES_MAX < codec::MESSAGE_BYTES_MAX);

/// So much of the log is applied between two flushes of the records. What is flushed at a time is what compaction later merges with the records that it meets: with
/// twice as much at a time it writes half as often over the same ones. Unpacking 100,000 small files wrote 3.4 times the log with 16 MiB, 2.2 times with this.
/// As much is applied again when a node starts after a crash, which takes a quarter of a second, and the rows of two such pieces are in memory.
const FLUSH_LOG_BYTES: u64 = 32 << 20;
/// The records are flushed, too, when they have so much in memory as [`Engine::unsealed_bytes`](gavel_store::engine::Engine::unsealed_bytes) counts. Bytes of files
/// are about as large in a record as in the log, but names and attributes become many small rows: of what making empty files writes to the log, they would have three
/// times as much in memory.
const FLUSH_MEMORY_BYTES: u64 = 32 << 20;

/// How a server behaves. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log's part.
    pub quorum: gavel_quorum::Config,
    /// What the clocks' rates may make of a session's term.
    pub drift_ns: u64,
    /// The records are flushed when this many bytes of log have been applied since the last flush.
    pub flush_log_bytes: u64,
    /// The records are flushed when they hold this many bytes in memory that no flush has been asked for.
    pub flush_memory_bytes: u64,
    /// The records are flushed at least this often, if anything was applied.
    pub flush_interval_ns: u64,
    /// A leader whose wall clock is further than this from the median of a majority's does not lead.
    pub clock_skew_max_ns: u64,
    /// Most bytes of changes in one answer to a change scan.
    pub scan_bytes_max: usize,
    /// A catch-up makes a cut each time that this many changes have been taken in, so that memory stays bounded.
    pub catch_up_seal_changes: u64,
    /// A leader looks so often whether past states are to be pruned.
    pub prune_look_ns: u64,
    /// A leader lets so much time pass from one sweep to the next, so that they use a small part of the log; under load, more.
    pub sweep_pace_ns: u64,
    /// A sweep looks at so many rows.
    pub sweep_rows: u32,
    /// A blob that nothing names is collected so long after it was marked.
    pub collect_grace_ns: u64,
}

impl Config {
    /// The defaults around a quorum's configuration.
    pub fn new(quorum: gavel_quorum::Config) -> Config {
        Config {
            quorum,
            drift_ns: 250_000_000,
            flush_log_bytes: FLUSH_LOG_BYTES,
            flush_memory_bytes: FLUSH_MEMORY_BYTES,
            flush_interval_ns: 30_000_000_000,
            clock_skew_max_ns: 5_000_000_000,
            scan_bytes_max: 1024 * 1024,
            catch_up_seal_changes: 100_000,
            prune_look_ns: 60_000_000_000,
            sweep_pace_ns: 50_000_000,
            sweep_rows: gavel_txn::prune_step::SWEEP_ROWS_MAX as u32,
            collect_grace_ns: 60_000_000_000,
        }
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.quorum.id
    }
}

/// What is sealed with the records, so that a restart knows what they are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one at a time, made once for each flush")]
pub enum Sealed {
    /// Records and state are those behind this entry.
    At {
        /// The entry's term.
        term: Term,
        /// The state; it names the entry's index.
        state: State,
    },
    /// A change scan was under way: the records are between two states, nothing may be applied to them or read from
    /// them until the scan has been finished.
    CatchingUp {
        /// The entry that the records last stood at.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The last Tid that the records hold whole.
        after: Tid,
        /// How many changes of the next commit they hold.
        skip: u64,
        /// The running digest of the records.
        records: gavel_txn::Digest,
        /// How many sweeps have changed the records.
        sweeps: u64,
    },
}

impl Sealed {
    /// The bytes to seal.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(SEALED_FORMAT, self)
    }

    /// # Errors
    /// [`DecodeError`] if the bytes are not what [`Sealed::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Sealed, DecodeError> {
        codec::decode("sealed state", SEALED_FORMAT, STATE_BYTES_MAX + 1024, bytes)
    }
}
