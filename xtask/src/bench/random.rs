//! The generator behind all inputs: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
//! Ours, so that the inputs stay the same whatever libraries do.

/// The seed of everything. Changing it makes old figures incomparable.
pub(super) const SEED: u64 = 0x6761_7665_6c00_2008;

/// A stream of numbers that depends on its seed only.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// The stream for one purpose (any number that names it) in one round.
    pub(super) fn new(purpose: u64, round: u64) -> Self {
        let mut mixed = Self(SEED ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let start = mixed.number() ^ round;
        Self(start)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from `0..limit`; the bias of the shortcut is below 2^-32 for the limits used here.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(limit)) >> 64) as u64
    }

    /// Evenly from `(0, 1]`.
    fn fraction(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// From the standard normal distribution (Box and Muller, 1958).
    pub(super) fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.fraction(), self.fraction());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// Bytes that no compressor makes smaller.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.number().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_for_ever() {
        // From the reference implementation with seed 1234567.
        let mut random = Random(1_234_567);
        assert_eq!(random.number(), 6_457_827_717_110_365_317);
        assert_eq!(random.number(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn purposes_and_rounds_differ() {
        let first = |purpose, round| Random::new(purpose, round).number();
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
    }

    #[test]
    fn normal_is_about_normal() {
        let mut random = Random::new(0, 0);
        let samples: Vec<f64> = (0..10_000).map(|_| random.normal()).collect();
        let mean = samples.iter().sum::<f64>() / 10_000.0;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 10_000.0;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
    }
}
