//! A running digest of every change that is known.
//!
//! The digest is the sum, modulo 2^256, of the BLAKE3 hashes of all rows of the change index (Tid, key, version made or its absence):
//! the set hash AdHash of Bellare and Micciancio ("A New Paradigm for Collision-Free Hashing", 1997, section 4).
//! A sum does not depend on order, so a replica that caught up by a change scan has the digest of one that applied
//! the log, and what a sweep removes is subtracted. It guards against faults, not against an adversary who may choose records.

use gavel_types::{Key, Tid};
use gavel_wire::Version;
use serde::{Deserialize, Serialize};

/// Room for the bytes of most rows.
const ROW_BYTES_USUAL: usize = 256;

/// The sum; 256 bits, least significant word first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds one change.
    pub fn add(&mut self, tid: Tid, key: &Key, version: Option<&Version>) {
        self.add_words(words(tid, key, version));
    }

    /// Takes one change away that was added before.
    pub fn subtract(&mut self, tid: Tid, key: &Key, version: Option<&Version>) {
        // The number that makes 2^256 together with it: all bits turned over, and one.
        self.add_words(words(tid, key, version).map(|word| !word));
        self.add_words([1, 0, 0, 0]);
    }

    fn add_words(&mut self, addend: [u64; 4]) {
        let mut carry = false;
        for (word, addend) in self.0.iter_mut().zip(addend) {
            let (sum, over) = word.overflowing_add(addend);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            *word = sum;
            carry = over || over_again;
        }
    }
}

fn words(tid: Tid, key: &Key, version: Option<&Version>) -> [u64; 4] {
    // All in one piece: most are shorter than a block of the hash, and each piece would be copied into one.
    let mut bytes = Vec::with_capacity(ROW_BYTES_USUAL);
    bytes.extend_from_slice(&tid.0.to_be_bytes());
    bytes.extend_from_slice(&(key.as_bytes().len() as u32).to_be_bytes());
    bytes.extend_from_slice(key.as_bytes());
    if let Some(version) = version {
        version.encode_to(&mut bytes);
    }
    let hash = blake3::hash(&bytes);
    let (words, _) = hash.as_bytes().as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
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

    #[test]
    fn what_is_taken_away_was_never_there() {
        let keys: Vec<Key> = (1..50).map(|n| Key::attr(VolumeId(1), ObjectId(n))).collect();
        let mut digest = Digest::default();
        keys.iter().for_each(|key| digest.add(Tid(7), key, None));
        let all = digest;
        digest.add(Tid(8), &keys[3], None);
        digest.subtract(Tid(8), &keys[3], None);
        assert_eq!(digest, all);
        keys.iter().for_each(|key| digest.subtract(Tid(7), key, None));
        assert_eq!(digest, Digest::default());
    }
}
