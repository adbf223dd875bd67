//! Numbers: what was measured, in which unit, and how samples become a line of a table.

/// The unit of a measurement. It decides what is better and how a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
    PerSecond,
    MegabytesPerSecond,
}

/// One number of one workload of one round.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measure {
    /// What of the workload, such as `p99`; empty when there is only one number.
    pub(super) metric: &'static str,
    pub(super) unit: Unit,
    pub(super) value: f64,
}

/// What the samples of one line say together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Unit {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::PerSecond => "/s",
            Self::MegabytesPerSecond => "MB/s",
        }
    }

    /// How many times as much this costs as the baseline: 2 is twice as slow, in any unit.
    pub(super) fn cost_ratio(self, value: f64, baseline: f64) -> f64 {
        match self {
            Self::Seconds | Self::Milliseconds | Self::Microseconds => value / baseline,
            Self::PerSecond | Self::MegabytesPerSecond => baseline / value,
        }
    }
}

impl Measure {
    pub(super) fn new(metric: &'static str, unit: Unit, value: f64) -> Self {
        Self { metric, unit, value }
    }

    /// `operations` in `seconds`, as a rate.
    pub(super) fn rate(metric: &'static str, operations: usize, seconds: f64) -> Self {
        Self::new(metric, Unit::PerSecond, operations as f64 / seconds)
    }

    /// `bytes` in `seconds`, in 10^6 bytes a second.
    pub(super) fn bandwidth(metric: &'static str, bytes: u64, seconds: f64) -> Self {
        Self::new(metric, Unit::MegabytesPerSecond, bytes as f64 / seconds / 1e6)
    }

    /// `seconds` for `operations`, as microseconds for each.
    pub(super) fn each(metric: &'static str, operations: usize, seconds: f64) -> Self {
        Self::new(metric, Unit::Microseconds, seconds * 1e6 / operations as f64)
    }

    /// The median and the 99th percentile of latencies in seconds, in microseconds.
    pub(super) fn percentiles(metrics: [&'static str; 2], mut seconds: Vec<f64>) -> [Self; 2] {
        seconds.sort_by(f64::total_cmp);
        [(metrics[0], 50), (metrics[1], 99)]
            .map(|(metric, percent)| Self::new(metric, Unit::Microseconds, percentile(&seconds, percent) * 1e6))
    }
}

impl Summary {
    /// What the samples say together; `None` without any.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

/// The smallest value that `percent` of the sorted values do not exceed (nearest rank); 0 of nothing.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// A number with three digits that count.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => {
            let whole = format!("{value:.0}");
            let with_commas = |(at, digit)| if at > 0 && at % 3 == 0 { vec![',', digit] } else { vec![digit] };
            whole.chars().rev().enumerate().flat_map(with_commas).collect::<Vec<_>>().into_iter().rev().collect()
        }
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_none() {
        let summary = |samples: &[f64]| Summary::of(samples).map(|s| (s.median, s.min, s.max));
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(summary(&[4.0, 1.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 50), 2.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }

    #[test]
    fn twice_as_slow_is_two_in_any_unit() {
        assert_eq!(Unit::Seconds.cost_ratio(4.0, 2.0), 2.0);
        assert_eq!(Unit::PerSecond.cost_ratio(50.0, 100.0), 2.0);
    }

    #[test]
    fn numbers_are_readable() {
        let written: Vec<_> = [0.01234, 1.2345, 12.345, 123.4, 1234567.0].into_iter().map(digits).collect();
        assert_eq!(written, ["0.012", "1.23", "12.3", "123", "1,234,567"]);
    }
}
