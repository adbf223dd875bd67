//! Which decoded messages may reach raft-rs in the present state.
//!
//! raft-rs trusts its peers: it panics on a heartbeat that commits what it does not have, on an answer to a
//! question that it has not asked, and on a call to campaign while its log is being replaced. Each rule here
//! names the panic, or the stalled protocol, that it excludes. The rules see plain facts, so that they can
//! be read, and tested, without a running group.

use crate::codec::sender;
use crate::error::Refused;
use crate::outbox::Campaign;
use gavel_types::{LogIndex, NodeId, Term};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

/// What the rules need to know of this replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) me: NodeId,
    pub(crate) state: StateRole,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) last_index: u64,
    /// A snapshot is held, and the owner is bringing its records up to it.
    pub(crate) holds_snapshot: bool,
    /// What entries cost that are in the window already, and the bound for it.
    pub(crate) window_bytes: u64,
    pub(crate) window_bytes_max: u64,
    /// raft-rs may be told to campaign.
    pub(crate) may_take_over: bool,
    /// It has promised its leader to help nobody else.
    pub(crate) is_bound: bool,
}

/// What to do with a message that is not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Let raft-rs have it.
    Step,
    /// Late, doubled or unwanted now: forget it.
    Drop,
    /// A snapshot: the records come first.
    Hold,
}

/// Judges a message by `from`. `is_member` knows the group; `has_asked` whether votes were asked for.
pub(crate) fn judge(
    message: &Message,
    from: NodeId,
    facts: &Facts,
    is_member: impl Fn(NodeId) -> bool,
    has_asked: impl Fn(Campaign) -> bool,
) -> Result<Verdict, Refused> {
    if from == facts.me || !is_member(from) {
        return Err(Refused::Stranger(from));
    }
    if sender(message) != from {
        return Err(Refused::WrongSender { from, claimed: sender(message) });
    }
    if message.to != facts.me.0 {
        return Err(Refused::WrongRecipient(NodeId(message.to)));
    }
    match message.get_msg_type() {
        MessageType::MsgAppend => judge_append(message, facts),
        MessageType::MsgHeartbeat => judge_heartbeat(message, facts),
        MessageType::MsgSnapshot => judge_snapshot(message, facts),
        MessageType::MsgAppendResponse => judge_append_response(message, facts),
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            Ok(judge_vote_response(message, facts, has_asked))
        }
        // A candidate that the leader hands over to says so.
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
            if facts.is_bound && message.context.is_empty() =>
        {
            Ok(Verdict::Drop)
        }
        MessageType::MsgTimeoutNow => {
            // raft-rs panics if it campaigns while its log starts after what it has applied; whoever lacks records could
            // only hand leadership back; and only the leader hands it over.
            let asked = message.term == facts.term && message.from == facts.leader && facts.may_take_over;
            Ok(if asked { Verdict::Step } else { Verdict::Drop })
        }
        _ => Ok(Verdict::Step),
    }
}

/// One term has one leader; raft-rs would follow a second one.
fn refuse_second_leader(message: &Message, facts: &Facts) -> Result<(), Refused> {
    if message.term == facts.term && facts.leader != 0 && facts.leader != message.from {
        let (from, leader) = (sender(message), NodeId(facts.leader));
        return Err(Refused::SecondLeader { from, leader, term: Term(facts.term) });
    }
    Ok(())
}

fn judge_append(message: &Message, facts: &Facts) -> Result<Verdict, Refused> {
    refuse_second_leader(message, facts)?;
    // Entries that were applied below records that are being brought to a later position would undo them.
    if facts.holds_snapshot && message.term >= facts.term {
        return Ok(Verdict::Drop);
    }
    if !message.entries.is_empty() && facts.window_bytes > facts.window_bytes_max {
        return Err(Refused::WindowFull { bytes: facts.window_bytes });
    }
    Ok(Verdict::Step)
}

/// raft-rs panics when told to commit beyond its last entry. An honest leader never does: it tells what
/// this replica acknowledged, and an acknowledged entry is durable.
fn judge_heartbeat(message: &Message, facts: &Facts) -> Result<Verdict, Refused> {
    refuse_second_leader(message, facts)?;
    if message.term >= facts.term && message.commit > facts.last_index {
        return Err(Refused::LogLost { commit: LogIndex(message.commit), last: LogIndex(facts.last_index) });
    }
    Ok(Verdict::Step)
}

fn judge_snapshot(message: &Message, facts: &Facts) -> Result<Verdict, Refused> {
    refuse_second_leader(message, facts)?;
    let stale = message.term < facts.term || facts.holds_snapshot;
    Ok(if stale { Verdict::Drop } else { Verdict::Hold })
}

/// A leader's log only grows, so nobody can acknowledge, or ask for, more than it holds; raft-rs would
/// believe it and never send what is missing.
fn judge_append_response(message: &Message, facts: &Facts) -> Result<Verdict, Refused> {
    if facts.state != StateRole::Leader || message.term != facts.term {
        return Ok(Verdict::Step);
    }
    let claims = [
        ("acknowledged index", if message.reject { 0 } else { message.index }),
        ("requested snapshot", message.request_snapshot),
    ];
    match claims.into_iter().find(|(_, value)| *value > facts.last_index) {
        Some((what, value)) => Err(Refused::Impossible { what, value, bound: facts.last_index }),
        None => Ok(Verdict::Step),
    }
}

/// raft-rs asserts, on winning, that its log is durable. That holds from when the requests for votes were
/// sent, because they wait for it; so an answer counts only if its question was sent.
fn judge_vote_response(message: &Message, facts: &Facts, has_asked: impl Fn(Campaign) -> bool) -> Verdict {
    let pre = message.get_msg_type() == MessageType::MsgRequestPreVoteResponse;
    // A granted pre-vote carries the term that is being considered; all else the sender's own.
    let asked_in = if pre && !message.reject { message.term - 1 } else { message.term };
    if message.reject && message.term > facts.term {
        return Verdict::Step;
    }
    let campaigns = matches!(facts.state, StateRole::Candidate | StateRole::PreCandidate);
    let asked = has_asked(Campaign { pre, term: facts.term });
    if campaigns && (!asked || (asked_in != facts.term && !message.reject)) { Verdict::Drop } else { Verdict::Step }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        me: NodeId(1),
        state: StateRole::Follower,
        term: 5,
        leader: 2,
        last_index: 10,
        holds_snapshot: false,
        window_bytes: 0,
        window_bytes_max: 100,
        may_take_over: true,
        is_bound: false,
    };

    fn message(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.to, message.from, message.term) = (1, 2, 5);
        message
    }

    fn judged(message: &Message, facts: Facts) -> Result<Verdict, Refused> {
        judge(message, NodeId(2), &facts, |id| id.0 <= 3, |_| false)
    }

    #[test]
    fn only_members_speak_for_themselves_to_this_node() {
        let heartbeat = message(MessageType::MsgHeartbeat);
        let from = |from| judge(&heartbeat, NodeId(from), &FACTS, |id| id.0 <= 3, |_| false);
        assert_eq!(from(2), Ok(Verdict::Step));
        assert_eq!(from(9), Err(Refused::Stranger(NodeId(9))));
        assert_eq!(from(1), Err(Refused::Stranger(NodeId(1))));
        assert_eq!(from(3), Err(Refused::WrongSender { from: NodeId(3), claimed: NodeId(2) }));
        let mut other = message(MessageType::MsgHeartbeat);
        other.to = 3;
        assert_eq!(judged(&other, FACTS), Err(Refused::WrongRecipient(NodeId(3))));
    }

    #[test]
    fn a_heartbeat_that_commits_what_was_never_stored_is_refused() {
        let mut heartbeat = message(MessageType::MsgHeartbeat);
        heartbeat.commit = 11;
        assert!(matches!(judged(&heartbeat, FACTS), Err(Refused::LogLost { .. })));
        heartbeat.term = 4;
        assert_eq!(judged(&heartbeat, FACTS), Ok(Verdict::Step), "of an older term: answered, not obeyed");
    }

    #[test]
    fn a_second_leader_of_a_term_is_refused() {
        for kind in [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot] {
            let facts = Facts { leader: 3, ..FACTS };
            assert!(matches!(judged(&message(kind), facts), Err(Refused::SecondLeader { .. })));
        }
    }

    #[test]
    fn while_a_snapshot_is_held_entries_wait_and_heartbeats_count() {
        let facts = Facts { holds_snapshot: true, ..FACTS };
        assert_eq!(judged(&message(MessageType::MsgAppend), facts), Ok(Verdict::Drop));
        assert_eq!(judged(&message(MessageType::MsgSnapshot), facts), Ok(Verdict::Drop));
        assert_eq!(judged(&message(MessageType::MsgHeartbeat), facts), Ok(Verdict::Step));
        assert_eq!(judged(&message(MessageType::MsgRequestVote), facts), Ok(Verdict::Step));
    }

    #[test]
    fn votes_count_only_when_they_were_asked_for() {
        let facts = Facts { state: StateRole::Candidate, leader: 0, ..FACTS };
        let vote = message(MessageType::MsgRequestVoteResponse);
        assert_eq!(judged(&vote, facts), Ok(Verdict::Drop));
        let asked = |campaign| campaign == Campaign { pre: false, term: 5 };
        assert_eq!(judge(&vote, NodeId(2), &facts, |_| true, asked), Ok(Verdict::Step));
        let mut pre = message(MessageType::MsgRequestPreVoteResponse);
        let asked = |campaign| campaign == Campaign { pre: true, term: 5 };
        let facts = Facts { state: StateRole::PreCandidate, ..facts };
        assert_eq!(judge(&pre, NodeId(2), &facts, |_| true, asked), Ok(Verdict::Drop), "for another term");
        pre.term = 6;
        assert_eq!(judge(&pre, NodeId(2), &facts, |_| true, asked), Ok(Verdict::Step));
    }

    #[test]
    fn nobody_acknowledges_more_than_the_leader_has() {
        let facts = Facts { state: StateRole::Leader, leader: 1, ..FACTS };
        let mut response = message(MessageType::MsgAppendResponse);
        response.index = 11;
        assert!(matches!(judged(&response, facts), Err(Refused::Impossible { .. })));
        response.index = 10;
        assert_eq!(judged(&response, facts), Ok(Verdict::Step));
        response.request_snapshot = 11;
        assert!(matches!(judged(&response, facts), Err(Refused::Impossible { .. })));
    }
}
