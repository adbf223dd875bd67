//! The engine in memory: for the simulator and for tests. It keeps the promises of the real one, and can crash and
//! fail on demand.

use super::{Batch, Engine, EngineError, Row, Snapshot, Stats};
use imbl::OrdMap;
use parking_lot::Mutex;
use std::ops::Bound;
use std::sync::Arc;

type Bytes = Arc<[u8]>;
type Rows = OrdMap<Bytes, Bytes>;

/// What a row costs beside its key and its value, about: what the real engine counts.
const ROW_BYTES: u64 = 64;

/// How a flush fails. The caller is told the same in both cases, as by a real disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushFault {
    /// The cut does not become durable.
    Lost,
    /// The cut becomes durable, and an error is reported nevertheless.
    Kept,
}

/// An engine in memory. "Durable" is what [`MemEngine::crash`] leaves.
#[derive(Debug, Default)]
pub struct MemEngine {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is visible.
    rows: Rows,
    /// The newest cut; none if nothing was sealed since the last flush.
    sealed: Option<Rows>,
    sealed_cuts: usize,
    /// What survives a crash.
    durable: Rows,
    /// Bytes written since the last flush, about.
    unflushed_bytes: u64,
    /// Of these, what was written since the last cut.
    unsealed_bytes: u64,
    /// The first failure; until a crash.
    stopped: Option<String>,
    /// What the next flush does.
    fault: Option<FlushFault>,
}

impl State {
    fn check_running(&self) -> Result<(), EngineError> {
        match &self.stopped {
            Some(cause) => Err(EngineError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }
}

impl MemEngine {
    /// An empty engine.
    pub fn new() -> MemEngine {
        MemEngine::default()
    }

    /// The power fails and comes back: the engine is at its last durable cut, and runs again if it had stopped.
    /// Snapshots taken before stay as they are.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.rows = state.durable.clone();
        state.sealed = None;
        state.sealed_cuts = 0;
        state.unflushed_bytes = 0;
        state.unsealed_bytes = 0;
        state.stopped = None;
        state.fault = None;
    }

    /// The next flush fails in this way.
    pub fn fail_next_flush(&self, fault: FlushFault) {
        self.state.lock().fault = Some(fault);
    }

    /// It does not.
    pub fn mend(&self) {
        self.state.lock().fault = None;
    }
}

impl Engine for MemEngine {
    type Snapshot = MemSnapshot;

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        state.check_running()?;
        for Row { key, value, .. } in batch.rows() {
            let bytes = (key.len() + value.map_or(0, <[u8]>::len)) as u64 + ROW_BYTES;
            state.unflushed_bytes += bytes;
            state.unsealed_bytes += bytes;
            match value {
                Some(value) => state.rows.insert(key.into(), value.into()),
                None => state.rows.remove(key),
            };
        }
        Ok(())
    }

    fn snapshot(&self) -> MemSnapshot {
        MemSnapshot { rows: self.state.lock().rows.clone() }
    }

    fn seal(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        state.check_running()?;
        state.sealed = Some(state.rows.clone());
        state.sealed_cuts += 1;
        state.unsealed_bytes = 0;
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        state.check_running()?;
        let fault = state.fault.take();
        if fault != Some(FlushFault::Lost)
            && let Some(cut) = state.sealed.take()
        {
            state.durable = cut;
            state.sealed_cuts = 0;
            state.unflushed_bytes = state.unsealed_bytes;
        }
        if fault.is_some() {
            let cause = "the disk failed on demand".to_string();
            let failure = EngineError::Io { doing: "flushing the record engine".into(), cause };
            state.stopped = Some(failure.to_string());
            return Err(failure);
        }
        Ok(())
    }

    fn maintain(&self) -> Result<bool, EngineError> {
        self.state.lock().check_running().map(|()| false)
    }

    fn wipe(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        state.check_running()?;
        *state = State::default();
        Ok(())
    }

    fn unsealed_bytes(&self) -> u64 {
        self.state.lock().unsealed_bytes
    }

    fn stats(&self) -> Stats {
        let state = self.state.lock();
        Stats { memory_bytes: state.unflushed_bytes, sealed_cuts: state.sealed_cuts, ..Stats::default() }
    }
}

/// A view of a [`MemEngine`].
#[derive(Clone, Debug)]
pub struct MemSnapshot {
    rows: Rows,
}

impl Snapshot for MemSnapshot {
    type Bytes = Bytes;

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.rows.get(key).cloned())
    }

    fn range<'s>(
        &'s self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Bytes, Bytes), EngineError>> + use<'s> {
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(start), Bound::Excluded(end));
        // A range that ends before it starts would make the map panic.
        let found = (start < end).then(|| self.rows.range::<_, [u8]>(bounds));
        found.into_iter().flatten().map(|(key, value)| Ok((key.clone(), value.clone())))
    }
}
