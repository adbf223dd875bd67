//! The greeting: who is at the other end, and why not. Pure functions.
//!
//! | offset | bytes | field of Hello and Welcome |
//! |---|---|---|
//! | 0 | 4 | `GVLH`, for ever |
//! | 4 | 2 | protocol version, for ever at this place |
//! | 6 | 1 | purpose: 1 log, 2 bulk |
//! | 7 | 1 | reserved, 0 |
//! | 8 | 16 | cluster id |
//! | 24 | 8 | node id |
//! | 32 | 8 | incarnation |
//!
//! Refused: reason u8, then a sentence in UTF-8. Numbers are little-endian.

use bytes::{Buf, Bytes, BytesMut};
use gavel_types::{ClusterId, NodeId};
use std::fmt;

/// The version of everything after the greeting.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes of a Hello or Welcome.
pub const HELLO_BYTES: usize = 40;
const MAGIC: [u8; 4] = *b"GVLH";
/// Longest sentence of a refusal that is kept, in bytes.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 512;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Ordered one-way messages.
    Log,
    /// Requests and responses.
    Bulk,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Log => "log",
            Purpose::Bulk => "bulk",
        })
    }
}

/// What each side says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// The sender.
    pub node: NodeId,
    /// Which run of that node this is; told, not judged.
    pub incarnation: u64,
}

/// Why a node will not talk. The number is the code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The greeting is not one.
    Malformed = 1,
    /// Another version of the protocol.
    Version = 2,
    /// Another cluster.
    Cluster = 3,
    /// The greeting names another node than the certificate, or than the one that was dialled.
    Node = 4,
    /// A node of the cluster that this node has not been told about.
    UnknownNode = 5,
    /// A reason of a later version.
    Other = 255,
}

/// A refusal: the reason, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal for `reason`.
    pub fn new(reason: Reason, text: impl Into<String>) -> Refusal {
        Refusal { reason, text: text.into() }
    }

    /// The payload of a Refused frame.
    pub fn encode(&self) -> Bytes {
        let mut end = self.text.len().min(REFUSAL_TEXT_BYTES_MAX);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = BytesMut::with_capacity(1 + end);
        bytes.extend_from_slice(&[self.reason as u8]);
        bytes.extend_from_slice(&self.text.as_bytes()[..end]);
        bytes.freeze()
    }

    /// Reads a Refused frame; whatever it holds, it is a refusal. Control characters do not reach a log.
    pub fn decode(payload: &[u8]) -> Refusal {
        use Reason::*;
        let code = payload.first().copied().unwrap_or(Other as u8);
        let reason =
            [Malformed, Version, Cluster, Node, UnknownNode].into_iter().find(|r| *r as u8 == code).unwrap_or(Other);
        let text = payload.get(1..payload.len().min(1 + REFUSAL_TEXT_BYTES_MAX)).unwrap_or_default();
        let text = String::from_utf8_lossy(text).replace(char::is_control, " ");
        Refusal { reason, text }
    }
}

impl Hello {
    /// The payload of a Hello or Welcome frame.
    pub fn encode(&self) -> Bytes {
        self.encode_as(PROTOCOL_VERSION)
    }

    pub(super) fn encode_as(&self, version: u16) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HELLO_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&version.to_le_bytes());
        let purpose = match self.purpose {
            Purpose::Log => 1,
            Purpose::Bulk => 2,
        };
        bytes.extend_from_slice(&[purpose, 0]);
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.node.0.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.freeze()
    }

    /// Reads a greeting. The version is looked at before anything that a later one may change.
    pub fn decode(mut payload: &[u8]) -> Result<Hello, Refusal> {
        let malformed = |text: &str| Refusal::new(Reason::Malformed, text);
        if payload.len() < 6 || payload[..4] != MAGIC {
            return Err(malformed("the greeting is not one of a Gavel node"));
        }
        payload.advance(4);
        let version = payload.get_u16_le();
        if version != PROTOCOL_VERSION {
            return Err(Refusal::new(
                Reason::Version,
                format!(
                    "one node speaks protocol version {version}, the other {PROTOCOL_VERSION}; run the same release of gavel on both"
                ),
            ));
        }
        if payload.len() != HELLO_BYTES - 6 {
            return Err(malformed("the greeting has the wrong length"));
        }
        let purpose = match payload.get_u8() {
            1 => Purpose::Log,
            2 => Purpose::Bulk,
            other => return Err(malformed(&format!("the greeting asks for an unknown purpose {other}"))),
        };
        if payload.get_u8() != 0 {
            return Err(malformed("a reserved byte of the greeting is not zero"));
        }
        let mut cluster = [0; 16];
        payload.copy_to_slice(&mut cluster);
        let node = NodeId(payload.get_u64_le());
        Ok(Hello { purpose, cluster: ClusterId(cluster), node, incarnation: payload.get_u64_le() })
    }

    /// Whether this greeting may come from a connection whose certificate speaks for `certified`, in `cluster`.
    pub fn check(&self, cluster: ClusterId, certified: NodeId) -> Result<(), Refusal> {
        if self.cluster != cluster {
            let text = format!("the greeting is of cluster {}, this is cluster {cluster}", self.cluster);
            return Err(Refusal::new(Reason::Cluster, text));
        }
        if self.node != certified {
            let text = format!("the greeting says node {}, the certificate says node {certified}", self.node);
            return Err(Refusal::new(Reason::Node, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello =
        Hello { purpose: Purpose::Bulk, cluster: ClusterId([7; 16]), node: NodeId(3), incarnation: 0x0102 };

    #[test]
    fn golden_bytes() {
        let mut expected = b"GVLH\x01\x00\x02\x00".to_vec();
        expected.extend_from_slice(&[7; 16]);
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(HELLO.encode(), expected);
        assert_eq!(Hello::decode(&expected), Ok(HELLO));
        let refusal = Refusal::new(Reason::Cluster, "no");
        assert_eq!(&refusal.encode()[..], b"\x03no");
        assert_eq!(Refusal::decode(b"\x03no"), refusal);
    }

    #[test]
    fn another_version_is_named_whatever_follows_it() {
        let mut later = HELLO.encode_as(2).to_vec();
        later.truncate(9);
        assert_eq!(Hello::decode(&later).unwrap_err().reason, Reason::Version);
    }

    #[test]
    fn mismatches_are_named() {
        assert_eq!(HELLO.check(ClusterId([7; 16]), NodeId(3)), Ok(()));
        assert_eq!(HELLO.check(ClusterId([8; 16]), NodeId(3)).unwrap_err().reason, Reason::Cluster);
        assert_eq!(HELLO.check(ClusterId([7; 16]), NodeId(4)).unwrap_err().reason, Reason::Node);
    }

    #[test]
    fn a_refusals_text_is_bounded_and_has_no_control_characters() {
        let long = Refusal::new(Reason::Node, "é".repeat(1000));
        assert!(Refusal::decode(&long.encode()).text.len() <= REFUSAL_TEXT_BYTES_MAX);
        assert_eq!(Refusal::decode(b"\x02a\x1b[31mb\n").text, "a [31mb ");
        assert_eq!(Refusal::decode(b"").reason, Reason::Other);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, at in 0usize..HELLO_BYTES, byte: u8) {
            let _ = Hello::decode(&bytes);
            let _ = Refusal::decode(&bytes);
            let mut hello = HELLO.encode().to_vec();
            hello[at] = byte;
            if let Ok(read) = Hello::decode(&hello) {
                proptest::prop_assert_eq!(read.encode(), hello);
            }
        }
    }
}
