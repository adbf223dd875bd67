//! Clocks that are not quite right.

use gavel_server::Clock;
use gavel_types::Moment;

/// One millisecond, in nanoseconds.
pub const MS: u64 = 1_000_000;
/// Where wall clocks stand when a world begins: a day in 2027.
const EPOCH_NS: u64 = 1_800_000_000_000_000_000;

/// The clocks of one machine, as functions of the true time.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// How much faster than time they run, in millionths.
    drift_ppm: i64,
    /// Where the monotonic clock stood when the machine was started.
    base_ns: u64,
    /// How far the wall clock is ahead.
    ahead_ns: i64,
    /// How far it is wrong besides, for a while.
    wrong_ns: i64,
}

impl Clocks {
    /// Clocks that run `drift_ppm` millionths too fast.
    pub fn new(drift_ppm: i64, base_ns: u64) -> Clocks {
        Clocks { drift_ppm, base_ns, ahead_ns: 0, wrong_ns: 0 }
    }

    fn passed(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add_signed((i128::from(now_ns) * i128::from(self.drift_ppm) / 1_000_000) as i64)
    }

    /// What they show at `now_ns`.
    pub fn read(&self, now_ns: u64) -> Clock {
        let passed = self.passed(now_ns);
        let wall_ns = EPOCH_NS.saturating_add(passed).saturating_add_signed(self.ahead_ns + self.wrong_ns);
        Clock { now: Moment(self.base_ns + passed), wall_ns }
    }

    /// The wall clock jumps.
    pub fn jump(&mut self, by_ns: i64) {
        self.ahead_ns += by_ns;
    }

    /// The wall clock is wrong by this until the next call.
    pub fn set_wrong(&mut self, by_ns: i64) {
        self.wrong_ns = by_ns;
    }
}
