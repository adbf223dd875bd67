//! Messages that wait for durability.
//!
//! A follower's acknowledgement and a voter's vote are promises about what its disk holds (invariant 7), so
//! they wait for the write that they depend on. A leader's messages promise nothing and go at once: its own
//! disk is one among the majority's (Ongaro: Consensus, section 10.2.1).

use crate::codec;
use gavel_types::NodeId;
use raft::eraftpb::{Message, MessageType};
use std::collections::VecDeque;

/// Most messages that wait. With a disk that stalls the oldest are dropped: losing messages is tolerated.
pub(crate) const HELD_MESSAGES_MAX: usize = 4096;
/// Most bytes of messages that wait.
pub(crate) const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// That votes for `term` were asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Campaign {
    pub(crate) pre: bool,
    /// The candidate's own term while it asks.
    pub(crate) term: u64,
}

struct Packet {
    /// The ticket that has to be durable first.
    gate: u64,
    to: NodeId,
    bytes: Vec<u8>,
    campaign: Option<Campaign>,
}

/// A write that is under way, and raft-rs' number for it.
struct Write {
    ticket: u64,
    raft_number: u64,
}

/// Tickets, and what waits for them.
#[derive(Default)]
pub(crate) struct Outbox {
    tickets: u64,
    writes: VecDeque<Write>,
    held: VecDeque<Packet>,
    held_bytes: usize,
    released: Vec<(NodeId, Vec<u8>)>,
    campaign: Option<Campaign>,
}

impl Outbox {
    /// A ticket for a write. `Some(number)` if others wait for it to be durable.
    pub(crate) fn issue(&mut self, raft_number: Option<u64>) -> u64 {
        self.tickets += 1;
        if let Some(raft_number) = raft_number {
            self.writes.push_back(Write { ticket: self.tickets, raft_number });
        }
        self.tickets
    }

    /// Whether a write that others wait for is under way.
    pub(crate) fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    pub(crate) fn tickets(&self) -> u64 {
        self.tickets
    }

    /// Notes that all writes up to `ticket` are durable; gives raft-rs' number of the last of them.
    pub(crate) fn on_durable(&mut self, ticket: u64) -> Option<u64> {
        let mut number = None;
        while self.writes.front().is_some_and(|write| write.ticket <= ticket) {
            number = self.writes.pop_front().map(|write| write.raft_number);
        }
        let gate = self.writes.front().map_or(u64::MAX, |write| write.ticket);
        while self.held.front().is_some_and(|packet| packet.gate < gate) {
            if let Some(packet) = self.held.pop_front() {
                self.held_bytes -= packet.bytes.len();
                self.release(packet);
            }
        }
        number
    }

    /// Sends `message` now, or when all writes issued so far are durable.
    pub(crate) fn push(&mut self, message: Message, waits: bool, append_bytes_max: u64) {
        let campaign = match message.get_msg_type() {
            MessageType::MsgRequestVote => Some(Campaign { pre: false, term: message.term }),
            MessageType::MsgRequestPreVote => Some(Campaign { pre: true, term: message.term - 1 }),
            _ => None,
        };
        let to = NodeId(message.to);
        let gate = self.writes.back().map(|write| write.ticket).filter(|_| waits);
        for bytes in codec::encode(message, append_bytes_max) {
            let packet = Packet { gate: gate.unwrap_or(0), to, bytes, campaign };
            match gate {
                Some(_) => self.hold(packet),
                None => self.release(packet),
            }
        }
    }

    fn hold(&mut self, packet: Packet) {
        self.held_bytes += packet.bytes.len();
        self.held.push_back(packet);
        while self.held.len() > HELD_MESSAGES_MAX || self.held_bytes > HELD_BYTES_MAX {
            let Some(oldest) = self.held.pop_front() else { break };
            self.held_bytes -= oldest.bytes.len();
        }
    }

    fn release(&mut self, packet: Packet) {
        self.campaign = packet.campaign.or(self.campaign);
        self.released.push((packet.to, packet.bytes));
    }

    /// Whether votes for `campaign` have been asked for, so that answers can exist.
    pub(crate) fn has_asked(&self, campaign: Campaign) -> bool {
        self.campaign == Some(campaign)
    }

    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    pub(crate) fn take_released(&mut self) -> Vec<(NodeId, Vec<u8>)> {
        std::mem::take(&mut self.released)
    }

    /// What is wrong with the outbox, if anything (invariant 7).
    pub(crate) fn broken(&self) -> Option<&'static str> {
        let oldest = self.writes.front().map_or(u64::MAX, |write| write.ticket);
        if self.held.iter().any(|packet| packet.gate < oldest) {
            return Some("a message waits for a write that is durable");
        }
        let ordered = self.held.iter().zip(self.held.iter().skip(1)).all(|(one, next)| one.gate <= next.gate);
        let bytes: usize = self.held.iter().map(|packet| packet.bytes.len()).sum();
        if !ordered || bytes != self.held_bytes {
            Some("messages that wait are out of order or miscounted")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(to: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppendResponse);
        (message.to, message.from, message.term) = (to, 1, 1);
        message
    }

    #[test]
    fn a_promise_waits_for_its_write_and_no_longer() {
        let mut outbox = Outbox::default();
        let first = outbox.issue(Some(1));
        outbox.push(response(2), true, 1024);
        let second = outbox.issue(Some(2));
        outbox.push(response(3), true, 1024);
        outbox.push(response(4), false, 1024);
        let sent = |outbox: &mut Outbox| outbox.take_released().into_iter().map(|(to, _)| to.0).collect::<Vec<_>>();
        assert_eq!(sent(&mut outbox), [4], "only what promises nothing");
        assert_eq!(outbox.broken(), None);
        assert_eq!(outbox.on_durable(first), Some(1));
        assert_eq!(sent(&mut outbox), [2]);
        assert_eq!(outbox.on_durable(second), Some(2));
        assert_eq!(sent(&mut outbox), [3]);
        assert!(!outbox.is_writing());
    }

    #[test]
    fn a_stalled_disk_holds_a_bounded_number_of_messages() {
        let mut outbox = Outbox::default();
        let ticket = outbox.issue(Some(1));
        (0..2 * HELD_MESSAGES_MAX as u64).for_each(|to| outbox.push(response(to), true, 1024));
        assert_eq!(outbox.broken(), None);
        outbox.on_durable(ticket);
        let sent = outbox.take_released();
        assert_eq!(sent.len(), HELD_MESSAGES_MAX);
        assert_eq!(sent[0].0, NodeId(HELD_MESSAGES_MAX as u64), "the oldest went first");
    }
}
