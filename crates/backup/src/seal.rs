//! Keys, and what they seal.
//!
//! Each file has a key of its own, which follows from the folder's key and the file's salt; the salt follows from the folder's key, the file's name and its
//! bytes. So a key seals one text only, and its nonce is always 0: there is no counter, and no random number, that could come again. The same bytes under the
//! same name look the same when they are sealed; that a file is written again can be seen by its name anyway.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

/// Bytes of a key, of a salt, of the id of a folder.
pub const KEY_BYTES: usize = 32;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 32;
/// Bytes that sealing adds behind the text.
pub const TAG_BYTES: usize = 16;

/// The keys of a folder.
#[derive(Clone)]
pub struct Keys {
    names: [u8; KEY_BYTES],
    salts: [u8; KEY_BYTES],
    files: [u8; KEY_BYTES],
    check: [u8; KEY_BYTES],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// The keys that follow from a secret, for the folder with this id.
    pub fn new(secret: &[u8], folder: &[u8; 16]) -> Keys {
        let key = |context: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(folder).update(secret);
            *hasher.finalize().as_bytes()
        };
        Keys {
            names: key("gavel backup 1: names of files"),
            salts: key("gavel backup 1: salts of files"),
            files: key("gavel backup 1: keys of files"),
            check: key("gavel backup 1: check of the key"),
        }
    }

    /// What tells these keys from others.
    pub fn check(&self) -> [u8; 16] {
        *blake3::keyed_hash(&self.check, b"").as_bytes().first_chunk().expect("a hash has 32 bytes")
    }

    /// What stands for a hash in the name of a file.
    pub fn name(&self, hash: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&self.names, hash).as_bytes()
    }

    /// Appends salt and sealed text to `out`. `about` is what must be known to open it.
    pub fn seal(&self, about: &[u8], text: &[u8], out: &mut Vec<u8>) {
        let mut hasher = blake3::Hasher::new_keyed(&self.salts);
        hasher.update(&(about.len() as u64).to_be_bytes()).update(about).update(text);
        let salt = *hasher.finalize().as_bytes();
        out.extend(salt);
        let mut sealed = text.to_vec();
        let sealing = self.key(&salt).seal_in_place_append_tag(nonce(), Aad::from(about), &mut sealed);
        sealing.expect("a text is shorter than the cipher's limit of 256 GiB");
        out.extend(sealed);
    }

    /// The text that was sealed; none if this is not what was sealed, or was not sealed about this.
    pub fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (salt, rest) = sealed.split_first_chunk::<SALT_BYTES>()?;
        let mut text = rest.to_vec();
        let len = self.key(salt).open_in_place(nonce(), Aad::from(about), &mut text).ok()?.len();
        text.truncate(len);
        Some(text)
    }

    fn key(&self, salt: &[u8; SALT_BYTES]) -> LessSafeKey {
        let key = blake3::keyed_hash(&self.files, salt);
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_bytes());
        LessSafeKey::new(key.expect("a hash has as many bytes as the cipher's key"))
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_what_was_sealed_is_opened() {
        let keys = Keys::new(b"secret", &[1; 16]);
        let mut sealed = Vec::new();
        keys.seal(b"about", b"the text", &mut sealed);
        assert_eq!(keys.open(b"about", &sealed).as_deref(), Some(&b"the text"[..]));
        assert_eq!(keys.open(b"another", &sealed), None);
        for other in [Keys::new(b"secret", &[2; 16]), Keys::new(b"secrets", &[1; 16])] {
            assert_eq!(other.open(b"about", &sealed), None);
            assert_ne!(other.check(), keys.check());
        }
        for len in 0..sealed.len() {
            assert_eq!(keys.open(b"about", &sealed[..len]), None);
        }
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.open(b"about", &flipped), None);
        }
    }

    #[test]
    fn no_two_texts_have_the_same_key() {
        let keys = Keys::new(b"secret", &[1; 16]);
        let mut salts = std::collections::BTreeSet::new();
        for (about, text) in [("a", "b"), ("a", "c"), ("ab", ""), ("", "ab"), ("b", "b")] {
            let mut sealed = Vec::new();
            keys.seal(about.as_bytes(), text.as_bytes(), &mut sealed);
            assert!(salts.insert(sealed[..SALT_BYTES].to_vec()));
        }
    }
}
