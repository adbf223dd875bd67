//! Numbers: how they are spread, what processes have used, and how both are told.

use std::time::Duration;

/// `/proc/PID/stat` counts in these.
const TICKS_PER_SECOND: f64 = 100.0;

/// Samples of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// One more.
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The smallest one that is not exceeded by so many of a hundred.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> f64 {
        let (low, high) = (self.percentile(50.0), self.percentile(50.0 + 1e-9));
        if self.0.len().is_multiple_of(2) { (low + high) / 2.0 } else { low }
    }

    /// The median, the smallest and the largest.
    pub(crate) fn spread(&self) -> String {
        format!("{:.3} ({:.3} to {:.3})", self.median(), self.percentile(0.0), self.percentile(100.0))
    }
}

/// User and system time that these processes have used so far, in seconds; those that are gone count nothing.
pub(crate) fn cpu_seconds(pids: &[u32]) -> f64 {
    let of = |pid: &u32| cpu_of(&std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
    pids.iter().filter_map(of).sum()
}

/// Fields 14 and 15 of proc_pid_stat(5). The command's name, field 2, may hold spaces and brackets.
fn cpu_of(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// How busy the machine is.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("?").to_owned()
}

/// Seconds, as a number.
pub(crate) fn secs(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends_are_found() {
        let samples = |count: u32| Samples((1..=count).rev().map(f64::from).collect());
        assert_eq!((samples(5).median(), samples(4).median()), (3.0, 2.5));
        assert_eq!((samples(200).percentile(99.0), samples(200).percentile(0.0)), (198.0, 1.0));
        assert_eq!(samples(3).spread(), "2.000 (1.000 to 3.000)");
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn fields_are_found_behind_an_odd_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 99 1000 10";
        assert_eq!(cpu_of(stat), Some(2.0));
        assert_eq!(cpu_of("42 (gone"), None);
    }
}
