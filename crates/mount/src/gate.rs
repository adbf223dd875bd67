//! How many requests may be under way.
//!
//! The kernel sends one request for each thread that waits (and a bounded number in the background), so what is under
//! way is bounded by the number of threads on the machine; this gate is the hard bound behind that. A request that
//! finds it full is refused: a thread of ours that waited here could be the one that has to read what the requests
//! under way are waiting for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most requests of one mount that wait for an answer.
pub(crate) const REQUESTS_MAX: usize = 16 * 1024;
/// Most bytes that these write or ask to read.
pub(crate) const BYTES_MAX: usize = 1 << 30;

const _: () = assert!(gavel_types::limits::WRITE_BYTES_MAX * 64 <= BYTES_MAX);

/// Counts what is under way on one mount.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// One request's leave to be under way; given back when dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    /// Lets a request with so many bytes in, if there is room.
    pub(crate) fn enter(self: &Arc<Gate>, bytes: usize) -> Option<Pass> {
        // Counted first and given back by the pass's drop if that was one too many: two that come at once can both be
        // refused, but never both be let in.
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let pass = Pass { gate: self.clone(), bytes };
        (requests <= REQUESTS_MAX && total <= BYTES_MAX).then_some(pass)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.requests.fetch_sub(1, Ordering::Relaxed);
        self.gate.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_above_either_bound_and_takes_back_what_it_gave() {
        let gate = Arc::new(Gate::default());
        let passes: Vec<_> = (0..REQUESTS_MAX).map(|_| gate.enter(0).expect("room")).collect();
        assert!(gate.enter(0).is_none());
        drop(passes);
        let half = gate.enter(BYTES_MAX / 2).expect("room");
        assert!(gate.enter(BYTES_MAX / 2 + 1).is_none());
        drop(half);
        assert!(gate.enter(BYTES_MAX).is_some());
        assert_eq!(gate.requests.load(Ordering::Relaxed), 0);
        assert_eq!(gate.bytes.load(Ordering::Relaxed), 0);
    }
}
