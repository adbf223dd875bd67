//! One file of a [`super::SimDisk`]: what is durable, and what is only written, kept apart.

use super::super::SECTOR_BYTES;
use super::chance::Chance;
use std::collections::BTreeMap;

const SECTOR: u64 = SECTOR_BYTES as u64;

type Sector = Box<[u8; SECTOR_BYTES]>;

/// A sector as a reader sees it, over the durable one.
#[derive(Debug)]
struct Cached {
    bytes: Sector,
    /// The next sync makes it durable. False after a failed sync that lost it: readers still see it, the disk does not.
    dirty: bool,
}

/// The sectors of one file. Sectors that nobody wrote are zeros and take no memory.
#[derive(Debug, Default)]
pub(super) struct Node {
    durable: BTreeMap<u64, Sector>,
    durable_length: u64,
    cached: BTreeMap<u64, Cached>,
    length: u64,
    /// Every length since the last sync: a crash leaves any of them.
    lengths: Vec<u64>,
    /// Bytes that count against the disk's capacity.
    pub(super) allocated: u64,
}

impl Node {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    fn sector(&self, number: u64) -> Option<&[u8; SECTOR_BYTES]> {
        match self.cached.get(&number) {
            Some(cached) => Some(&cached.bytes),
            None => self.durable.get(&number).map(|bytes| &**bytes),
        }
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = self.length.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let (number, start) = (at / SECTOR, (at % SECTOR) as usize);
            let piece = (SECTOR_BYTES - start).min(count - done);
            match self.sector(number) {
                Some(bytes) => buffer[done..done + piece].copy_from_slice(&bytes[start..start + piece]),
                None => buffer[done..done + piece].fill(0),
            }
            done += piece;
        }
        count
    }

    /// Writes the sectors of `bytes` for which `keep` says so.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], mut keep: impl FnMut() -> bool) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (number, start) = (at / SECTOR, (at % SECTOR) as usize);
            let piece = (SECTOR_BYTES - start).min(bytes.len() - done);
            if keep() {
                let mut sector = self.sector(number).map_or_else(|| Box::new([0; SECTOR_BYTES]), |old| Box::new(*old));
                sector[start..start + piece].copy_from_slice(&bytes[done..done + piece]);
                self.cached.insert(number, Cached { bytes: sector, dirty: true });
                self.set_length(self.length.max(at + piece as u64));
            }
            done += piece;
        }
    }

    fn set_length(&mut self, length: u64) {
        if length != self.length {
            self.length = length;
            self.lengths.push(length);
        }
        self.allocated = self.allocated.max(length.next_multiple_of(SECTOR));
    }

    pub(super) fn truncate(&mut self, length: u64) {
        let first_cut = length / SECTOR;
        let mut cut: Vec<u64> = self.durable.range(first_cut..).map(|(number, _)| *number).collect();
        cut.extend(self.cached.range(first_cut..).map(|(number, _)| *number));
        for number in cut {
            let kept = length.saturating_sub(number * SECTOR).min(SECTOR) as usize;
            let mut bytes: Sector = Box::new([0; SECTOR_BYTES]);
            if let Some(old) = self.sector(number) {
                bytes[..kept].copy_from_slice(&old[..kept]);
            }
            self.cached.insert(number, Cached { bytes, dirty: true });
        }
        self.set_length(length);
        self.allocated = length.next_multiple_of(SECTOR);
    }

    pub(super) fn allocate(&mut self, length: u64) {
        self.set_length(self.length.max(length));
    }

    pub(super) fn sync(&mut self) {
        let dirty: Vec<u64> =
            self.cached.iter().filter(|(_, cached)| cached.dirty).map(|(number, _)| *number).collect();
        for number in dirty {
            self.persist(number);
        }
        self.durable_length = self.length;
        self.lengths.clear();
    }

    fn persist(&mut self, number: u64) {
        if let Some(cached) = self.cached.remove(&number) {
            self.durable.insert(number, cached.bytes);
        }
    }

    /// A sync that failed: some sectors reached the disk, and the rest never will, though they read back.
    pub(super) fn sync_failed(&mut self, chance: &mut Chance) {
        let numbers: Vec<u64> = self.cached.keys().copied().collect();
        for number in numbers {
            let dirty = self.cached.get(&number).is_some_and(|cached| cached.dirty);
            if dirty && chance.one_in(2) {
                self.persist(number);
            } else if let Some(cached) = self.cached.get_mut(&number) {
                cached.dirty = false;
            }
        }
    }

    /// The machine stopped: each unsynced sector survives with `odds` of 8, or reads as it was before.
    pub(super) fn crash(&mut self, chance: &mut Chance, odds: u64) {
        for (number, cached) in std::mem::take(&mut self.cached) {
            if cached.dirty && chance.below(8) < odds {
                self.durable.insert(number, cached.bytes);
            }
        }
        let lengths = std::mem::take(&mut self.lengths);
        let pick = chance.below(lengths.len() as u64 + 1) as usize;
        self.length = lengths.get(pick).copied().unwrap_or(self.durable_length);
        self.durable_length = self.length;
        self.allocated = self.length.next_multiple_of(SECTOR);
        let end = self.length.div_ceil(SECTOR);
        self.durable.split_off(&end);
        let tail = (self.length % SECTOR) as usize;
        if tail != 0
            && let Some(last) = self.durable.get_mut(&(end - 1))
        {
            last[tail..].fill(0);
        }
    }

    /// Turns one bit over, on the disk and in what readers see.
    pub(super) fn flip(&mut self, bit: u64) -> bool {
        let (byte, mask) = (bit / 8, 1u8 << (bit % 8));
        if byte >= self.length {
            return false;
        }
        let (number, at) = (byte / SECTOR, (byte % SECTOR) as usize);
        match self.cached.get_mut(&number) {
            Some(cached) => cached.bytes[at] ^= mask,
            None => self.durable.entry(number).or_insert_with(|| Box::new([0; SECTOR_BYTES]))[at] ^= mask,
        }
        true
    }
}
