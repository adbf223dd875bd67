//! What a client without a replica asks a peer about its own session, and is told. `docs/protocols/client.md` has the protocol.

use crate::codec::{self, DecodeError};
use crate::entry::Outcome;
use crate::message::Message;
use gavel_types::{BlobId, KeyRange, LogIndex, ObjectId, Seq, SessionId, Tid, VolumeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Format of what clients and peers ask each other.
pub const CLIENT_FORMAT: u8 = 1;
/// Largest question, and largest answer: what a bulk request of the transport carries.
pub const CLIENT_BYTES_MAX: usize = 8 << 20;

/// Encodes a question of a client, or its answer.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(CLIENT_FORMAT, value)
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// [`DecodeError`] for anything else.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    codec::decode(what, CLIENT_FORMAT, CLIENT_BYTES_MAX, bytes)
}

/// What a client knows of its session. It is told when the peer knows more, or after a while.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchAsk {
    /// This life of the client.
    pub incarnation: u64,
    /// Its session, if it knows of one.
    pub session: Option<SessionId>,
    /// It knows what the state said of its session as of this transaction.
    pub tid: Tid,
    /// The number of its oldest request without an outcome.
    pub oldest: Seq,
    /// What it holds: [`leases_digest`] of it.
    pub leases: [u8; 8],
    /// The numbers of its requests for locks that stand in line.
    pub in_line: Vec<Seq>,
}

/// The answer to a [`WatchAsk`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WatchAnswer {
    /// What the state says; nothing while the peer catches up.
    pub news: Option<SessionNews>,
    /// Messages for the client, from this peer.
    pub messages: Vec<Message>,
}

/// What the replicated state says of a client's session.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SessionNews {
    /// As of this transaction.
    pub tid: Tid,
    /// As of this entry.
    pub index: LogIndex,
    /// The session of this life of the client, if it is open.
    pub session: Option<Standing>,
    /// Objects that have lost their last name behind the transaction that was asked with; perhaps some before it, too.
    pub orphaned: Vec<(VolumeId, ObjectId)>,
}

/// An open session.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// Its id.
    pub id: SessionId,
    /// The number that its next request must have.
    pub next: Seq,
    /// Outcomes of its requests, from the oldest that was asked for on.
    pub outcomes: Vec<(Seq, Outcome)>,
    /// What it holds, unless that is what it was asked with.
    pub leases: Option<HeldLeases>,
    /// Which of the requests that were asked for stand in line no more.
    pub left_line: Vec<Seq>,
}

/// What a session holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HeldLeases {
    /// In any mode.
    pub held: Vec<KeyRange>,
    /// Exclusively.
    pub exclusive: Vec<KeyRange>,
}

/// Names what a session holds, so that it need not be told again.
pub fn leases_digest(held: &[KeyRange], exclusive: &[KeyRange]) -> [u8; 8] {
    let hash = BlobId::of(&encode(&(held, exclusive))).0;
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let ask = WatchAsk {
            incarnation: 7,
            session: Some(SessionId(5)),
            tid: Tid(9),
            oldest: Seq(3),
            leases: [1, 2, 3, 4, 5, 6, 7, 8],
            in_line: vec![Seq(2)],
        };
        let bytes = [CLIENT_FORMAT, 7, 1, 5, 9, 3, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2];
        assert_eq!(encode(&ask), bytes);
        assert_eq!(decode("ask", &bytes), Ok(ask));
        let outcomes = vec![(Seq(3), Outcome::Committed { tid: Tid(8) })];
        let leases = Some(HeldLeases { held: Vec::new(), exclusive: Vec::new() });
        let session = Some(Standing { id: SessionId(5), next: Seq(4), outcomes, leases, left_line: vec![Seq(2)] });
        let orphaned = vec![(VolumeId(1), ObjectId(16))];
        let news = Some(SessionNews { tid: Tid(9), index: LogIndex(6), session, orphaned });
        let answer = WatchAnswer { news, messages: vec![Message::NotLeader { leader: None }] };
        let Message::NotLeader { .. } = &answer.messages[0] else { unreachable!() };
        let bytes = encode(&answer);
        let head = [CLIENT_FORMAT, 1, 9, 6, 1, 5, 4, 1, 3, 0, 8, 1, 0, 0, 1, 2, 1, 1, 16, 1];
        assert_eq!(bytes[..head.len()], head);
        assert_eq!(decode("answer", &bytes), Ok(answer));
    }

    #[test]
    fn who_holds_more_is_told() {
        let range = |object| KeyRange::object(VolumeId(1), ObjectId(object));
        let one = leases_digest(&[range(1)], &[]);
        assert_eq!(one, leases_digest(&[range(1)], &[]));
        assert!(one != leases_digest(&[range(1), range(3)], &[]) && one != leases_digest(&[range(1)], &[range(1)]));
    }
}
