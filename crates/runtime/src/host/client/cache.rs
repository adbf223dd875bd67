//! What a client keeps on its disk: blobs, by name, and what was read of past states, by what was asked. Neither ever changes: what is here is
//! good for as long as it is whole, which is looked at whenever it is read. Nothing is synced, for nothing is lost with it.
//!
//! | path | what |
//! |---|---|
//! | `blobs/<name>` | the bytes of the blob of this name, in hexadecimal digits |
//! | `past/<hash of the question>` | the hash of the answer (32 bytes), and the answer |
//! | `.../<name>.new` | the same, while they are written; removed at the next start |

use bytes::Bytes;
use gavel_types::BlobId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// What is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Blobs: their names say what they are.
    Blobs,
    /// Answers: what they are, they say themselves.
    Past,
}

impl What {
    /// Where it is, within the client's data directory.
    fn dir(self) -> &'static str {
        match self {
            What::Blobs => "blobs",
            What::Past => "past",
        }
    }

    /// What is in a file of this name, if it is whole.
    fn opened(self, id: BlobId, bytes: Vec<u8>) -> Option<Bytes> {
        let bytes = Bytes::from(bytes);
        match self {
            What::Blobs => (BlobId::of(&bytes) == id).then_some(bytes),
            What::Past => {
                let content = bytes.slice(HASH_BYTES.min(bytes.len())..);
                (bytes.get(..HASH_BYTES)? == BlobId::of(&content).0).then_some(content)
            }
        }
    }
}

/// Bytes of the hash in front of an answer.
const HASH_BYTES: usize = 32;

/// The cache. Its calls wait for the disk.
pub struct Cache {
    what: What,
    dir: PathBuf,
    bytes_max: u64,
    inner: Mutex<Inner>,
    hits: AtomicU64,
    damaged: AtomicU64,
    complained: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// When each was put here or used last, counted, and how large it is.
    by_name: HashMap<BlobId, (u64, u64)>,
    by_use: BTreeMap<u64, BlobId>,
    next: u64,
    bytes: u64,
}

impl Inner {
    fn enter(&mut self, id: BlobId, bytes: u64) {
        self.leave(id);
        self.next += 1;
        self.by_name.insert(id, (self.next, bytes));
        self.by_use.insert(self.next, id);
        self.bytes += bytes;
    }

    fn leave(&mut self, id: BlobId) -> bool {
        let Some((used, bytes)) = self.by_name.remove(&id) else { return false };
        self.by_use.remove(&used);
        self.bytes -= bytes;
        true
    }

    /// The ones used longest ago, until no more than `bytes_max` are left.
    fn too_many(&mut self, bytes_max: u64) -> Vec<BlobId> {
        let mut gone = Vec::new();
        while self.bytes > bytes_max
            && let Some((_, id)) = self.by_use.pop_first()
        {
            if let Some((_, bytes)) = self.by_name.remove(&id) {
                self.bytes -= bytes;
            }
            gone.push(id);
        }
        gone
    }
}

/// What a cache holds, and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct CacheStatus {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most bytes.
    pub bytes_max: u64,
    /// How often something was found here.
    pub hits: u64,
    /// How many were not whole.
    pub damaged: u64,
}

impl Cache {
    /// Opens the cache in `data_dir`, with what an earlier life has left.
    ///
    /// # Errors
    /// If there can't be a directory.
    pub fn open(data_dir: &Path, what: What, bytes_max: u64) -> std::io::Result<Cache> {
        let dir = data_dir.join(what.dir());
        std::fs::create_dir_all(&dir)?;
        let mut found: Vec<(SystemTime, BlobId, u64)> = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name: Option<BlobId> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            match (name, entry.metadata()) {
                (Some(id), Ok(meta)) if meta.is_file() => {
                    found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), id, meta.len()));
                }
                // Half written, or nothing of ours.
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
        found.sort();
        let mut inner = Inner::default();
        found.into_iter().for_each(|(_, id, bytes)| inner.enter(id, bytes));
        let (hits, damaged, complained) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let cache = Cache { what, dir, bytes_max, inner: Mutex::new(inner), hits, damaged, complained };
        cache.make_room();
        Ok(cache)
    }

    fn path(&self, id: BlobId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// What has this name, if it is here and whole.
    pub fn get(&self, id: BlobId) -> Option<Bytes> {
        self.inner.lock().by_name.get(&id)?;
        match std::fs::read(self.path(id)).ok().and_then(|bytes| self.what.opened(id, bytes)) {
            Some(bytes) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                self.inner.lock().enter(id, bytes.len() as u64);
                Some(bytes)
            }
            None => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%id, "what was cached under this name is damaged: dropped it");
                self.inner.lock().leave(id);
                let _ = std::fs::remove_file(self.path(id));
                None
            }
        }
    }

    /// Keeps something, if there is room for it. That it can't be kept is said once.
    pub fn put(&self, id: BlobId, bytes: &[u8]) {
        if bytes.len() as u64 > self.bytes_max || self.inner.lock().by_name.contains_key(&id) {
            return;
        }
        let (path, new) = (self.path(id), self.dir.join(format!("{id}.new")));
        let sealed = match self.what {
            What::Blobs => Vec::new(),
            What::Past => [&BlobId::of(bytes).0, bytes].concat(),
        };
        let written = if sealed.is_empty() { bytes } else { &sealed };
        match std::fs::write(&new, written).and_then(|()| std::fs::rename(&new, path)) {
            Ok(()) => {
                self.inner.lock().enter(id, bytes.len() as u64);
                self.make_room();
            }
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(dir = %self.dir.display(), %error, "nothing can be cached; it comes from the peers");
                }
            }
        }
    }

    fn make_room(&self) {
        let gone = self.inner.lock().too_many(self.bytes_max);
        gone.into_iter().for_each(|id| drop(std::fs::remove_file(self.path(id))));
    }

    /// What it holds.
    pub fn status(&self) -> CacheStatus {
        let inner = self.inner.lock();
        CacheStatus {
            blobs: inner.by_name.len() as u64,
            bytes: inner.bytes,
            bytes_max: self.bytes_max,
            hits: self.hits.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str) -> (BlobId, Vec<u8>) {
        (BlobId::of(text.as_bytes()), text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_cached_is_there_after_a_restart_and_what_was_half_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (id, bytes) = blob("one");
        Cache::open(dir.path(), What::Blobs, 100).unwrap().put(id, &bytes);
        let half = dir.path().join("blobs").join(format!("{}.new", blob("two").0));
        std::fs::write(&half, "tw").unwrap();
        let cache = Cache::open(dir.path(), What::Blobs, 100).unwrap();
        assert_eq!(cache.get(id).as_deref(), Some(&bytes[..]));
        assert_eq!((cache.status().blobs, cache.status().hits, half.exists()), (1, 1, false));
    }

    #[test]
    fn what_is_not_what_its_name_says_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (id, bytes) = blob("one");
        let cache = Cache::open(dir.path(), What::Blobs, 100).unwrap();
        cache.put(id, &bytes);
        std::fs::write(cache.path(id), "onf").unwrap();
        assert_eq!(cache.get(id), None);
        assert_eq!((cache.status().blobs, cache.status().bytes, cache.status().damaged), (0, 0, 1));
        assert!(!cache.path(id).exists());
    }

    #[test]
    fn an_answer_is_believed_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let question = blob("what was it?").0;
        let cache = Cache::open(dir.path(), What::Past, 100).unwrap();
        cache.put(question, b"the answer");
        assert_eq!(cache.get(question).as_deref(), Some(&b"the answer"[..]));
        let mut bytes = std::fs::read(cache.path(question)).unwrap();
        for cut in [0, 31, 32, bytes.len() - 1] {
            std::fs::write(cache.path(question), &bytes[..cut]).unwrap();
            assert_eq!(cache.get(question), None, "cut to {cut} bytes");
            cache.put(question, b"the answer");
        }
        bytes[40] ^= 1;
        std::fs::write(cache.path(question), bytes).unwrap();
        assert_eq!(cache.get(question), None);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), What::Blobs, 10).unwrap();
        let blobs: Vec<_> = ["aaaa", "bbbb", "cccc"].map(blob).into();
        cache.put(blobs[0].0, &blobs[0].1);
        cache.put(blobs[1].0, &blobs[1].1);
        assert!(cache.get(blobs[0].0).is_some());
        cache.put(blobs[2].0, &blobs[2].1);
        let here: Vec<bool> = blobs.iter().map(|(id, _)| cache.get(*id).is_some()).collect();
        assert_eq!((here, cache.status().bytes), (vec![true, false, true], 8));
        let large = blob("more than there is room for");
        cache.put(large.0, &large.1);
        assert_eq!(cache.status().blobs, 2);
    }
}
