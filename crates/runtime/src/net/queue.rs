//! Frames that wait to be written to one connection, bounded by bytes.

use super::frame::{self, FrameKind, HEADER_BYTES};
use super::limits::FRAME_OVERHEAD_BYTES;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// A frame to be written: its header, its envelope if any, and its payload.
pub(super) struct Outgoing {
    kind: FrameKind,
    envelope: Option<[u8; frame::ENVELOPE_BYTES]>,
    payload: Bytes,
    /// Given back when the frame is written or dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub(super) fn plain(kind: FrameKind, payload: Bytes) -> Outgoing {
        Outgoing { kind, envelope: None, payload, _permit: None }
    }

    pub(super) fn enveloped(
        kind: FrameKind,
        envelope: [u8; frame::ENVELOPE_BYTES],
        payload: Bytes,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Outgoing {
        Outgoing { kind, envelope: Some(envelope), payload, _permit: permit }
    }

    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.envelope.map_or(0, |envelope| envelope.len()) + self.payload.len()
    }

    /// Everything before the payload.
    pub(super) fn put_head(&self, out: &mut BytesMut) {
        out.put_slice(&frame::header(self.kind, self.bytes() - HEADER_BYTES));
        if let Some(envelope) = &self.envelope {
            out.put_slice(envelope);
        }
    }

    pub(super) fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// What one queue has let go of because its bound was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// A queue for one writer. When full, the oldest frames are dropped and counted: the newest say
/// more about the present, and the protocol above repeats what matters.
pub(super) struct SendQueue {
    bytes_max: usize,
    waiting: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Outgoing>,
    bytes: usize,
    dropped: Dropped,
}

impl SendQueue {
    /// A queue of at most `bytes_max` bytes, each frame costing [`FRAME_OVERHEAD_BYTES`] more than it has.
    pub(super) fn new(bytes_max: usize) -> SendQueue {
        SendQueue { bytes_max, waiting: Mutex::default(), ready: Notify::new() }
    }

    pub(super) fn push(&self, frame: Outgoing) {
        // Dropped frames are freed after the lock is released.
        let mut displaced = Vec::new();
        {
            let mut waiting = self.waiting.lock();
            waiting.bytes += frame.bytes() + FRAME_OVERHEAD_BYTES;
            waiting.frames.push_back(frame);
            while waiting.bytes > self.bytes_max
                && let Some(oldest) = waiting.frames.pop_front()
            {
                waiting.bytes -= oldest.bytes() + FRAME_OVERHEAD_BYTES;
                waiting.dropped.frames += 1;
                waiting.dropped.bytes += oldest.bytes() as u64;
                displaced.push(oldest);
            }
        }
        self.ready.notify_one();
    }

    /// Takes frames, oldest first, until they have `bytes` or the queue is empty.
    pub(super) fn take(&self, bytes: usize, into: &mut Vec<Outgoing>) {
        let mut waiting = self.waiting.lock();
        let mut taken = 0;
        while taken < bytes
            && let Some(frame) = waiting.frames.pop_front()
        {
            waiting.bytes -= frame.bytes() + FRAME_OVERHEAD_BYTES;
            taken += frame.bytes();
            into.push(frame);
        }
    }

    /// Returns when frames may have come since the last [`SendQueue::take`].
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    pub(super) fn clear(&self) {
        let old = {
            let mut waiting = self.waiting.lock();
            waiting.bytes = 0;
            std::mem::take(&mut waiting.frames)
        };
        drop(old);
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.lock().bytes
    }

    pub(super) fn dropped(&self) -> Dropped {
        self.waiting.lock().dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize, mark: u8) -> Outgoing {
        Outgoing::plain(FrameKind::Message, Bytes::from(vec![mark; bytes]))
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts_it() {
        let each = 100 + HEADER_BYTES + FRAME_OVERHEAD_BYTES;
        let queue = SendQueue::new(3 * each);
        for mark in 0..5 {
            queue.push(message(100, mark));
            assert!(queue.waiting_bytes() <= 3 * each);
        }
        assert_eq!(queue.dropped(), Dropped { frames: 2, bytes: 2 * (100 + HEADER_BYTES as u64) });
        let mut taken = Vec::new();
        queue.take(usize::MAX, &mut taken);
        assert_eq!(taken.iter().map(|frame| frame.payload()[0]).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(queue.waiting_bytes(), 0);
    }

    #[test]
    fn empty_frames_are_bounded_too() {
        let queue = SendQueue::new(10_000);
        for _ in 0..100_000 {
            queue.push(message(0, 0));
        }
        assert!(queue.waiting.lock().frames.len() < 100);
    }

    #[test]
    fn take_stops_at_its_size() {
        let queue = SendQueue::new(usize::MAX);
        (0..10).for_each(|mark| queue.push(message(100, mark)));
        let mut taken = Vec::new();
        queue.take(250, &mut taken);
        assert_eq!(taken.len(), 3);
    }
}
