//! A running digest of every change that was ever applied.
//!
//! The digest is the sum, modulo 2^256, of the BLAKE3 hashes of all changes (Tid, key, version or its absence):
//! the set hash AdHash of Bellare and Micciancio ("A New Paradigm for Collision-Free Hashing", 1997, section 4).
//! A sum does not depend on order, so a replica that caught up by a change scan has the digest of one that applied
//! the log. It guards against faults, not against an adversary who may choose records.

use gavel_types::{Key, Tid};
use gavel_wire::Version;
use serde::{Deserialize, Serialize};

/// The sum; 256 bits, least significant word first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds one change.
    pub fn add(&mut self, tid: Tid, key: &Key, version: Option<&Version>) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&tid.0.to_be_bytes());
        hasher.update(&(key.as_bytes().len() as u32).to_be_bytes());
        hasher.update(key.as_bytes());
        if let Some(version) = version {
            hasher.update(&version.encode());
        }
        let hash = hasher.finalize();
        let mut carry = false;
        for (word, bytes) in self.0.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            let addend = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
            let (sum, over) = word.overflowing_add(addend);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = over || over_again;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::{ObjectId, VolumeId};

    #[test]
    fn order_does_not_matter_but_content_does() {
        let keys: Vec<Key> = (1..50).map(|n| Key::attr(VolumeId(1), ObjectId(n))).collect();
        let (mut there, mut back, mut other) = (Digest::default(), Digest::default(), Digest::default());
        keys.iter().for_each(|key| there.add(Tid(7), key, None));
        keys.iter().rev().for_each(|key| back.add(Tid(7), key, None));
        keys.iter().for_each(|key| other.add(Tid(8), key, None));
        assert_eq!(there, back);
        assert_ne!(there, other);
    }
}
