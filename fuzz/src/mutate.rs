//! Inputs made of seeds: the same ones for the same number, on every machine.

/// Longest input that is made, in bytes.
pub const INPUT_BYTES_MAX: usize = 256 * 1024;
/// Numbers at which decoders break: ends of ranges, and lengths just above small ones.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, u32::MAX as u64, i64::MAX as u64, 1 << 62, u64::MAX];

/// Numbers that look random (SplitMix64; Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }
}

/// Input number `round`: a seed with some changes, parts of two seeds, or now and then nothing but noise.
pub fn input(seeds: &[Vec<u8>], round: u64) -> Vec<u8> {
    let mut dice = Dice(round);
    if seeds.is_empty() || dice.below(16) == 0 {
        return noise(&mut dice, 300);
    }
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    if dice.below(8) == 0 {
        let other = &seeds[dice.below(seeds.len())];
        bytes.truncate(dice.below(bytes.len() + 1));
        bytes.extend_from_slice(&other[dice.below(other.len() + 1)..]);
    }
    for _ in 0..1 + dice.below(4) {
        change(&mut bytes, &mut dice);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn noise(dice: &mut Dice, length_max: usize) -> Vec<u8> {
    let length = dice.below(length_max);
    (0..length).map(|_| dice.roll() as u8).collect()
}

fn change(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    let rest = bytes.len() - at;
    match dice.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, noise(dice, 20))),
        2 => drop(bytes.drain(at..at + dice.below(rest.min(20) + 1))),
        3 => {
            // A part of it twice.
            let copy = bytes[at..at + dice.below(rest.min(200) + 1)].to_vec();
            drop(bytes.splice(at..at, copy));
        }
        4 | 5 => {
            let edge = EDGES[dice.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][dice.below(4)].min(rest);
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        6 if rest > 0 => bytes[at] = dice.roll() as u8,
        _ if rest > 0 => bytes[at] ^= 1 << dice.below(8),
        _ => {}
    }
}
