//! Acknowledgements that are not said twice.
//!
//! A leader tells its followers how far the log is committed by appends without entries, and raft-rs answers each with what was acknowledged before: a
//! message for each commit and follower that changes nothing at the leader. It is needed only if the one before was lost. Then the leader asks again with
//! a heartbeat; so what was said is not said again for half of their interval.

use gavel_types::Moment;
use raft::eraftpb::{Message, MessageType};

/// To whom, in which term, up to which index.
type Said = (u64, u64, u64);

/// What this replica has acknowledged last.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    quiet_ns: u64,
    last: Option<(Said, Moment)>,
}

impl Acknowledged {
    /// What was said is not repeated for `quiet_ns`.
    pub(crate) fn new(quiet_ns: u64) -> Acknowledged {
        Acknowledged { quiet_ns, last: None }
    }

    /// Is the message an acknowledgement that was on its way a moment before `now`? If it is another one, it is remembered.
    pub(crate) fn says_again(&mut self, now: Moment, message: &Message) -> bool {
        // One that rejects, or asks for a snapshot, says more than an index.
        let is_plain = !message.reject && message.request_snapshot == 0;
        if message.get_msg_type() != MessageType::MsgAppendResponse || !is_plain {
            return false;
        }
        let said = (message.to, message.term, message.index);
        let is_said = |(before, at): &(Said, Moment)| *before == said && now.since_ns(*at) < self.quiet_ns;
        if self.last.as_ref().is_some_and(is_said) {
            return true;
        }
        self.last = Some((said, now));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(index: u64) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppendResponse);
        (message.to, message.term, message.index) = (2, 3, index);
        message
    }

    #[test]
    fn the_same_is_said_once_and_again_after_a_while() {
        let mut acknowledged = Acknowledged::new(50);
        assert!(!acknowledged.says_again(Moment(100), &response(7)));
        assert!(acknowledged.says_again(Moment(149), &response(7)));
        assert!(!acknowledged.says_again(Moment(150), &response(7)), "the one before may be lost");
        assert!(acknowledged.says_again(Moment(151), &response(7)));
        assert!(!acknowledged.says_again(Moment(152), &response(8)));
        assert!(
            !acknowledged.says_again(Moment(153), &response(7)),
            "an older one is told as well: it may be what the leader probes"
        );
    }

    #[test]
    fn what_says_more_is_said() {
        let mut acknowledged = Acknowledged::new(50);
        assert!(!acknowledged.says_again(Moment(100), &response(7)));
        let mut later_term = response(7);
        later_term.term = 4;
        assert!(!acknowledged.says_again(Moment(101), &later_term));
        let mut rejects = later_term.clone();
        rejects.reject = true;
        assert!(!acknowledged.says_again(Moment(102), &rejects));
        let mut asks = later_term.clone();
        asks.request_snapshot = 9;
        assert!(!acknowledged.says_again(Moment(103), &asks));
        assert!(acknowledged.says_again(Moment(104), &later_term));
        let mut heartbeat = later_term;
        heartbeat.set_msg_type(MessageType::MsgHeartbeatResponse);
        assert!(!acknowledged.says_again(Moment(105), &heartbeat));
    }
}
