//! Checksums made good again, so that a mutated file is not refused at its first checksum: what lies behind must stand
//! arbitrary values as well. Written from docs/formats/log.md, docs/formats/blobs.md and docs/formats/transactions.md, not with the code under test.

use crc_fast::{CrcAlgorithm, Digest, crc64_nvme};

const SECTOR: usize = 512;
const SUM_AT: usize = SECTOR - 8;
const LOG_RECORD_BYTES: usize = 40;
const BLOB_RECORD_BYTES: usize = 72;
const BLOCK_BYTES: usize = 4096;
const BLOCK_ENTRIES: usize = 85;

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn set_word(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn placed_sum(first: u64, second: u64, fields: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&first.to_le_bytes());
    digest.update(&second.to_le_bytes());
    digest.update(fields);
    digest.finalize()
}

/// Makes the first sector's checksum good. Gives it as it was, and as it is now.
fn header(file: &mut [u8]) -> Option<(u64, u64)> {
    if file.len() < SECTOR {
        return None;
    }
    let (before, now) = (word(file, SUM_AT), crc64_nvme(&file[..SUM_AT]));
    set_word(file, SUM_AT, now);
    Some((before, now))
}

/// Makes all checksums of a log segment good, up to the first record that has no mark of one.
pub(crate) fn log_segment(file: &mut [u8]) {
    let Some((old_salt, salt)) = header(file) else { return };
    let (mut at, mut chain) = (SECTOR, salt);
    while file.get(at..at + LOG_RECORD_BYTES).is_some_and(|header| header[..4] == *b"GLR1") {
        let length = (word(file, at + 8) as u32 as usize).next_multiple_of(8);
        let body = at + LOG_RECORD_BYTES;
        let Some(end) = body.checked_add(length).filter(|end| *end <= file.len()) else { return };
        mask(&mut file[body..end], old_salt, at as u64);
        mask(&mut file[body..end], salt, at as u64);
        set_word(file, at + 16, chain);
        let body_sum = crc64_nvme(&file[body..end]);
        set_word(file, at + 24, body_sum);
        chain = placed_sum(salt, at as u64, &file[at..at + 32]);
        set_word(file, at + 32, chain);
        at = end;
    }
}

fn mask(body: &mut [u8], salt: u64, offset: u64) {
    for (number, word) in body.chunks_exact_mut(8).enumerate() {
        let mut noise = salt ^ (offset + 8 * number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        noise = (noise ^ (noise >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        noise = (noise ^ (noise >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        noise ^= noise >> 31;
        word.iter_mut().zip(noise.to_le_bytes()).for_each(|(byte, noise)| *byte ^= noise);
    }
}

/// Makes the checksums of a blob segment's header and of its records' headers good. Bodies, and the checksums of bodies, stay what they are.
pub(crate) fn blob_segment(file: &mut [u8], sequence: u64) {
    header(file);
    for at in (SECTOR..file.len()).step_by(64) {
        let Some(record) = file.get_mut(at..at + BLOB_RECORD_BYTES) else { return };
        if record[..4] == *b"GBL1" {
            let sum = placed_sum(sequence, at as u64, &record[..64]);
            set_word(record, 64, sum);
        }
    }
}

/// Makes the checksums of a blob index good: of its summary, its blocks and its header.
pub(crate) fn blob_index(file: &mut [u8], sequence: u64) {
    if file.len() < SECTOR {
        return;
    }
    let entries = word(file, 32) as usize;
    let filter_words = entries.saturating_mul(12).div_ceil(64).max(1);
    let summary_end =
        SECTOR.saturating_add(entries.div_ceil(BLOCK_ENTRIES).saturating_add(filter_words).saturating_mul(8));
    if let Some(summary) = file.get(SECTOR..summary_end) {
        let sum = crc64_nvme(summary);
        set_word(file, 56, sum);
        let first = summary_end.next_multiple_of(BLOCK_BYTES).min(file.len());
        for (number, block) in file[first..].chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let sum = placed_sum(sequence, number as u64, &block[..BLOCK_BYTES - 8]);
            set_word(block, BLOCK_BYTES - 8, sum);
        }
    }
    header(file);
}

/// Makes the checksums of a transaction's journal good, up to the first record that has no mark of one.
pub(crate) fn journal(file: &mut [u8]) {
    let (mut at, mut salt) = (16, 0);
    while file.get(at..at + 24).is_some_and(|header| header[..4] == *b"GTR1") {
        let body = at + 24;
        let Some(end) = body.checked_add(word(file, at + 4) as u32 as usize).filter(|end| *end <= file.len()) else {
            return;
        };
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(&u64::to_le_bytes(salt));
        digest.update(&file[at + 4..at + 16]);
        digest.update(&file[body..end]);
        let sum = digest.finalize();
        set_word(file, at + 16, sum);
        if at == 16 {
            salt = sum;
        }
        at = end;
    }
}
