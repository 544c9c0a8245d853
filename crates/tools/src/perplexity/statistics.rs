//! Means with their errors, and percentiles.

use serde::Serialize;

/// A figure and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// The mean of numbers that do not depend on one another.
    pub(super) fn mean(values: &[f64]) -> Estimate {
        let value = mean(values.iter().copied(), values.len());
        Estimate { value, error: covariance(values, values).max(0.0).sqrt() }
    }

    /// `f(value)` where `f` has this slope there.
    pub(super) fn map(self, value: f64, slope: f64) -> Estimate {
        Estimate { value, error: self.error * slope.abs() }
    }

    /// `e^value`.
    pub(super) fn exp(self) -> Estimate {
        let value = self.value.exp();
        self.map(value, value)
    }

    /// The difference of two means, whose covariance is given.
    pub(super) fn less(self, other: Estimate, covariance: f64) -> Estimate {
        let variance = self.error.powi(2) + other.error.powi(2) - 2.0 * covariance;
        Estimate { value: self.value - other.value, error: variance.max(0.0).sqrt() }
    }
}

/// Covariance of the means of two series.
pub(super) fn covariance(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len();
    if n < 2 {
        return 0.0;
    }
    let (mean_a, mean_b) = (mean(a.iter().copied(), n), mean(b.iter().copied(), n));
    mean(a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)), n) / (n - 1) as f64
}

fn mean(values: impl Iterator<Item = f64>, n: usize) -> f64 {
    values.sum::<f64>() / n.max(1) as f64
}

/// A value below which a part of all values lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentile {
    /// The part, 0 for the least value, 100 for the greatest.
    pub percent: f64,
    /// The value, interpolated between its neighbours.
    pub value: f64,
}

/// The percentiles that are reported, greatest first.
const PERCENTS: [f64; 13] = [100.0, 99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1, 0.0];

/// The percentiles of at least one value.
pub(super) fn percentiles(values: &[f64]) -> Vec<Percentile> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |percent: f64| {
        let place = percent / 100.0 * (sorted.len() - 1) as f64;
        let (low, part) = (place as usize, place.fract());
        let high = (low + 1).min(sorted.len() - 1);
        Percentile { percent, value: (1.0 - part) * sorted[low] + part * sorted[high] }
    };
    PERCENTS.iter().map(|percent| at(*percent)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_the_error_of_their_spread() {
        let estimate = Estimate::mean(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(estimate.value, 2.5);
        assert!((estimate.error - (1.25_f64 / 3.0).sqrt()).abs() < 1e-12);
        let same = estimate.less(estimate, estimate.error.powi(2));
        assert_eq!((same.value, same.error), (0.0, 0.0));
        assert_eq!(Estimate::mean(&[7.0]), Estimate { value: 7.0, error: 0.0 });
    }

    #[test]
    fn percentiles_are_interpolated() {
        let found = percentiles(&[4.0, 0.0, 1.0, 2.0]);
        let at = |percent: f64| found.iter().find(|p| p.percent == percent).expect("reported").value;
        assert_eq!((at(0.0), at(50.0), at(75.0), at(100.0)), (0.0, 1.5, 2.5, 4.0));
        assert!(percentiles(&[3.0]).iter().all(|p| p.value == 3.0));
    }
}
