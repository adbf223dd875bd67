//! Identifiers. Each is a newtype, so that a log index cannot be taken for a transaction id.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    };
}

number_id!(
    /// Transaction id: nanoseconds since the Unix epoch on the leader's clock, made strictly
    /// increasing. Names one commit for ever; also a point in time to read as of.
    Tid, u64, "{:#x}"
);
number_id!(
    /// Inode number: unique for the life of the cluster, never reused. 0 names no object.
    ObjectId, u64, "{}"
);
number_id!(
    /// One tree with its own root. 0 is never a volume.
    VolumeId, u32, "{}"
);
number_id!(
    /// One replica or client of the cluster. A node whose disk was wiped gets a new id. 0 is never a node.
    NodeId, u64, "{}"
);
number_id!(
    /// A node's standing with the quorum: the Tid of the transaction that opened it, so never reused.
    SessionId, u64, "{:#x}"
);
number_id!(
    /// The number of a request within its session; the first is 1.
    Seq, u64, "{}"
);
number_id!(
    /// Position in the replicated log; the first entry is 1.
    LogIndex, u64, "{}"
);
number_id!(
    /// Election term of the replicated log.
    Term, u64, "{}"
);

impl Tid {
    /// Before every transaction.
    pub const ZERO: Tid = Tid(0);
    /// After every transaction.
    pub const MAX: Tid = Tid(u64::MAX);

    /// The next Tid for a leader whose clock shows `wall_ns` and whose last Tid was `self`.
    pub fn advance(self, wall_ns: u64) -> Tid {
        Tid(wall_ns.max(self.0 + 1))
    }
}

impl NodeId {
    /// Clients, which have no replica and no vote, have ids from here on; peers have smaller ones.
    pub const CLIENTS_FROM: NodeId = NodeId(1 << 32);

    /// Is it a client's?
    pub fn is_client(self) -> bool {
        self >= NodeId::CLIENTS_FROM
    }
}

impl ObjectId {
    /// The root directory of every volume.
    pub const ROOT: ObjectId = ObjectId(1);
    /// Holds the records of a volume that belong to no file (such as its orphans).
    pub const VOLUME: ObjectId = ObjectId(0);
    /// The first id that is handed out.
    pub const FIRST_FREE: ObjectId = ObjectId(16);
}

impl VolumeId {
    /// The volume that every cluster starts with.
    pub const FIRST: VolumeId = VolumeId(1);
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits = text.as_bytes();
                if digits.len() != 2 * $len {
                    return Err(ParseIdError);
                }
                let mut bytes = [0; $len];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let high = (pair[0] as char).to_digit(16).ok_or(ParseIdError)?;
                    let low = (pair[1] as char).to_digit(16).ok_or(ParseIdError)?;
                    *byte = (high * 16 + low) as u8;
                }
                Ok($name(bytes))
            }
        }
    };
}

hex_id!(
    /// The name of a blob: the BLAKE3 hash of its bytes.
    BlobId, 32
);
hex_id!(
    /// Names a cluster; made once at random by `gavel init`.
    ClusterId, 16
);

impl BlobId {
    /// The name that `bytes` must have.
    pub fn of(bytes: &[u8]) -> BlobId {
        BlobId(*blake3::hash(bytes).as_bytes())
    }
}

/// A text that is not the hexadecimal form of the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: hexadecimal digits of the right number were expected")]
pub struct ParseIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_ids_round_trip_and_refuse_other_text() {
        let id = ClusterId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("ab".parse::<ClusterId>(), Err(ParseIdError));
        assert_eq!("zz".repeat(16).parse::<ClusterId>(), Err(ParseIdError));
    }

    #[test]
    fn tids_never_go_back_with_the_clock() {
        assert_eq!(Tid(10).advance(5), Tid(11));
        assert_eq!(Tid(10).advance(50), Tid(50));
    }
}
