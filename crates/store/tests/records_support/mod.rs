//! What the tests of engine and records share: a seeded generator, and rigs that open, crash and reopen an engine.
#![allow(dead_code, clippy::unwrap_used)]

use gavel_store::engine::{Engine, LsmConfig, LsmEngine, MemEngine, Snapshot};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// An engine that can lose its power.
pub trait Rig {
    type E: Engine + Clone;
    fn start() -> Self;
    fn engine(&self) -> Self::E;
    fn crash(&mut self);
}

pub struct MemRig(Arc<MemEngine>);

impl Rig for MemRig {
    type E = Arc<MemEngine>;

    fn start() -> MemRig {
        MemRig(Arc::new(MemEngine::new()))
    }

    fn engine(&self) -> Arc<MemEngine> {
        self.0.clone()
    }

    fn crash(&mut self) {
        self.0.crash();
    }
}

pub struct LsmRig {
    pub dir: TempDir,
    engine: Option<Arc<LsmEngine>>,
}

pub fn open(dir: &Path) -> LsmEngine {
    LsmEngine::open(dir, SMALL).unwrap()
}

/// Small enough that blocks and files are read again and again.
pub const SMALL: LsmConfig = LsmConfig { block_cache_bytes: 64 * 1024, open_files_max: 4 };

impl Rig for LsmRig {
    type E = Arc<LsmEngine>;

    fn start() -> LsmRig {
        let dir = TempDir::new().unwrap();
        let engine = Some(Arc::new(open(dir.path())));
        LsmRig { dir, engine }
    }

    fn engine(&self) -> Arc<LsmEngine> {
        self.engine.clone().unwrap()
    }

    /// Nothing in this engine writes to disk when it is dropped, so dropping it is losing its memory.
    fn crash(&mut self) {
        let engine = Arc::into_inner(self.engine.take().unwrap());
        assert!(engine.is_some(), "nobody else holds the engine");
        drop(engine);
        self.engine = Some(Arc::new(open(self.dir.path())));
    }
}

/// All rows of an engine.
pub fn dump<S: Snapshot>(snapshot: &S) -> Vec<(Vec<u8>, Vec<u8>)> {
    snapshot.range(&[0], &[255; 400]).map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}
