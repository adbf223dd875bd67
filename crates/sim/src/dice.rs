//! The one source of chance: xoshiro256** (Blackman, Vigna: Scrambled Linear Pseudorandom Number Generators, 2018).
//!
//! Each concern draws from a stream of its own, so that one more fault does not shift the workload.

/// A stream of numbers that a seed and a concern decide.
#[derive(Clone, Debug)]
pub struct Dice([u64; 4]);

impl Dice {
    /// The stream of `concern` (and `number`, where there are many of a kind) in the world of `seed`.
    pub fn new(seed: u64, concern: &str, number: u64) -> Dice {
        let mut state = seed ^ 0x6761_7665_6c00_0000;
        for byte in concern.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        state = mix(state ^ number);
        Dice([0; 4].map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        }))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let rolled = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        rolled
    }

    /// A number from 0 up to and without `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64 }
    }

    /// A number from `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, odds: u32) -> bool {
        self.below(1000) < u64::from(odds)
    }

    /// One of `choices`, of which there is at least one.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// The place of one of `weights`, each as likely as it is heavy; 0 if all are 0.
    pub fn weigh(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (place, weight) in weights.iter().enumerate() {
            match left.checked_sub(u64::from(*weight)) {
                None => return place,
                Some(less) => left = less,
            }
        }
        0
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_decided_by_seed_concern_and_number() {
        let first = |seed, concern, number| Dice::new(seed, concern, number).roll();
        assert_eq!(first(1, "net", 0), first(1, "net", 0));
        let others = [first(2, "net", 0), first(1, "work", 0), first(1, "net", 1)];
        assert!(!others.contains(&first(1, "net", 0)));
    }

    #[test]
    fn bounds_are_kept_and_reached() {
        let mut dice = Dice::new(7, "bounds", 0);
        let rolled: Vec<u64> = (0..1000).map(|_| dice.between(3, 5)).collect();
        assert_eq!((rolled.iter().min(), rolled.iter().max()), (Some(&3), Some(&5)));
        assert_eq!(dice.below(0), 0);
        let picked: Vec<usize> = (0..1000).map(|_| dice.weigh(&[0, 1, 0, 3])).collect();
        assert!(picked.iter().all(|place| [1, 3].contains(place)) && picked.contains(&1) && picked.contains(&3));
    }
}
