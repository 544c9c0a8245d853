//! How long a step takes, by how many tokens it computes. Measured, never guessed.
//!
//! Weights are read once a step, so that the first token of a step is dear and further ones are cheap; how cheap depends
//! on machine, model and number. The measures are kept by ranges of token counts and interpolated between them.

use std::time::Duration;

/// Ranges: one for each count up to 8, then four for each doubling.
const N_RANGE: usize = 8 + 4 * 14;
/// Weights of a new measure that is below what is known, and of one that is above.
pub(crate) type Weights = (f64, f64);
/// The mean: what steps will take, other programs that disturb them included.
pub(crate) const MEAN: Weights = (0.2, 0.2);
/// What steps take that nothing disturbs, which tells how numbers of tokens compare: others only ever make them slower.
pub(crate) const UNDISTURBED: Weights = (0.4, 0.04);
/// The part of what more tokens are expected to take that they are supposed to take where their number was never tried:
/// kernels are made for some numbers, so that a step of eight may take no longer than one of seven.
const UNTRIED: f64 = 0.75;
/// Steps of a number of tokens that are made before it counts as tried, and of which the least counts.
const FEW: u32 = 3;
/// Measures of which the least counts: the first ones may be of a model whose weights are read for the first time.
const FIRST: u32 = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Measure {
    /// Means of tokens and seconds; 0 while nothing was measured.
    n_tok: f64,
    seconds: f64,
    n_step: u32,
}

/// Step times of one model.
#[derive(Debug, Clone)]
pub(crate) struct StepTimes {
    ranges: [Measure; N_RANGE],
    weights: Weights,
}

impl StepTimes {
    /// Nothing measured.
    pub fn new(weights: Weights) -> StepTimes {
        StepTimes { ranges: [Measure::default(); N_RANGE], weights }
    }

    /// Learns from a step.
    pub fn learn(&mut self, n_tok: usize, took: Duration) {
        if n_tok == 0 {
            return;
        }
        let measure = &mut self.ranges[range(n_tok)];
        let is_first = measure.n_tok == 0.0;
        let weight = if is_first { 1.0 } else { self.weights.0.max(self.weights.1) };
        measure.n_tok += weight * (n_tok as f64 - measure.n_tok);
        measure.n_step += 1;
        measure.seconds = match is_first {
            true => took.as_secs_f64(),
            // Of the first few one may have been disturbed, and drafts that do not pay are not measured again.
            false if self.weights.0 > self.weights.1 && measure.n_step <= FEW => {
                measure.seconds.min(took.as_secs_f64())
            }
            false => blend(measure.seconds, took, self.weights),
        };
    }

    /// Seconds of a step of `n_tok` tokens; `None` if nothing was measured. Never less for more tokens.
    pub fn seconds(&self, n_tok: usize) -> Option<f64> {
        let n = n_tok as f64;
        let (mut below, mut before_below, mut above) = (None::<Measure>, None::<Measure>, None::<Measure>);
        for measure in self.ranges.iter().filter(|measure| measure.n_tok > 0.0) {
            if measure.n_tok <= n {
                before_below = below;
                let least = below.map_or(0.0, |below| below.seconds);
                below = Some(Measure { seconds: measure.seconds.max(least), ..*measure });
            } else {
                above = Some(*measure);
                break;
            }
        }
        match (below, above) {
            (Some(a), Some(b)) => Some(a.seconds + slope(a, b) * (n - a.n_tok)),
            // Beyond what was measured, as the last two measures go on; after a single one, as if nothing were shared.
            (Some(a), None) => {
                let more = before_below.map_or(a.seconds / a.n_tok, |before| slope(before, a));
                Some(a.seconds + more * (n - a.n_tok))
            }
            (None, Some(b)) => Some(b.seconds),
            (None, None) => None,
        }
    }

    /// As [`StepTimes::seconds`], but hopeful of numbers of tokens that were not tried yet, so that they are tried, and
    /// without what a disturbed step took: no number takes longer than a larger one.
    pub fn tried(&self, n_tok: usize) -> Option<f64> {
        let (range, expected) = (range(n_tok), self.seconds(n_tok)?);
        let tried = |measure: &&Measure| measure.n_tok > 0.0;
        let mut hope = self.ranges[range].seconds;
        if self.ranges[range].n_tok == 0.0 {
            let fewer = self.ranges[..range].iter().rfind(tried).map_or(0.0, |measure| measure.seconds);
            hope = fewer + UNTRIED * (expected - fewer).max(0.0);
        }
        let larger = self.ranges[range + 1..].iter().filter(tried);
        Some(larger.fold(hope, |seconds, measure| seconds.min(measure.seconds)))
    }

    /// Whether a few steps of more than `n_tok` tokens were measured.
    pub fn knows_beyond(&self, n_tok: usize) -> bool {
        self.ranges.iter().filter(|measure| measure.n_tok > n_tok as f64).map(|measure| measure.n_step).sum::<u32>()
            >= FEW
    }

    /// The most tokens, at least `low` and at most `high`, of which a step takes no longer than `seconds`.
    pub fn fits(&self, seconds: f64, low: usize, high: usize) -> Option<usize> {
        self.seconds(low)?;
        let (mut low, mut high) = (low, high.max(low));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.seconds(middle)? <= seconds {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Some(low)
    }
}

/// What something takes that nothing disturbs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Least {
    /// 0 before the first measure.
    pub seconds: f64,
    n: u32,
}

impl Least {
    /// Learns from a measure.
    pub fn learn(&mut self, took: Duration) {
        self.n = self.n.saturating_add(1);
        self.seconds = match self.n {
            1 => took.as_secs_f64(),
            n if n <= FIRST => self.seconds.min(took.as_secs_f64()),
            _ => blend(self.seconds, took, UNDISTURBED),
        };
    }
}

/// What is known of a time after a new measure. Where only undisturbed ones count, one that took more than twice as long as
/// known counts as twice: a program that runs in between takes many times a step of a small model, and one such measure would
/// end all drafts, so that no other is made.
fn blend(known: f64, took: Duration, (below, above): Weights) -> f64 {
    let more = took.as_secs_f64() - known;
    match more < 0.0 {
        true => known + more * below,
        false if below > above => known + more.min(known) * above,
        false => known + more * above,
    }
}

fn slope(a: Measure, b: Measure) -> f64 {
    ((b.seconds - a.seconds) / (b.n_tok - a.n_tok).max(0.5)).max(0.0)
}

fn range(n_tok: usize) -> usize {
    if n_tok <= 8 {
        return n_tok - 1;
    }
    let doubling = n_tok.ilog2() as usize;
    let quarter = (n_tok >> (doubling - 2)) & 3;
    (8 + (doubling - 3) * 4 + quarter).min(N_RANGE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_rise_with_the_count() {
        let all: Vec<usize> = (1..100_000).map(range).collect();
        assert!(all.is_sorted() && all[0] == 0 && *all.last().expect("many") < N_RANGE);
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] <= 1));
    }

    #[test]
    fn a_first_measure_that_is_slow_is_soon_forgotten() {
        let mut least = Least::default();
        [900, 12, 10, 30].into_iter().for_each(|ms| least.learn(Duration::from_millis(ms)));
        assert!((least.seconds - 0.010).abs() < 1e-9, "{least:?}");
        // Later ones move it: down soon, up slowly.
        (0..5).for_each(|_| least.learn(Duration::from_millis(5)));
        assert!(least.seconds < 0.006, "{least:?}");
        least.learn(Duration::from_millis(100));
        assert!(least.seconds < 0.006 * 1.05, "{least:?}");
    }

    #[test]
    fn untried_numbers_are_hoped_to_take_less() {
        let mut times = StepTimes::new(MEAN);
        let ms = |times: &StepTimes, n| (times.tried(n).expect("measured") * 1e3).round() as u64;
        times.learn(1, Duration::from_millis(40));
        times.learn(5, Duration::from_millis(80));
        assert_eq!([1, 3, 5, 7].map(|n| ms(&times, n)), [40, 55, 80, 95]);
        // A step that was disturbed does not make smaller ones look slow, nor itself where a larger one is known.
        times.learn(3, Duration::from_millis(900));
        assert_eq!([2, 3, 5].map(|n| ms(&times, n)), [80, 80, 80]);
    }

    #[test]
    fn times_are_interpolated_and_continued() {
        let mut times = StepTimes::new(MEAN);
        assert_eq!(times.seconds(1), None);
        let ms = |times: &StepTimes, n| (times.seconds(n).expect("measured") * 1e3).round() as u64;
        times.learn(4, Duration::from_millis(40));
        assert_eq!([1, 4, 8].map(|n| ms(&times, n)), [40, 40, 80]);
        times.learn(104, Duration::from_millis(140));
        assert_eq!([1, 4, 54, 104, 204].map(|n| ms(&times, n)), [40, 40, 90, 140, 240]);
        // More tokens never take less.
        times.learn(2, Duration::from_millis(60));
        assert_eq!([2, 4, 104].map(|n| ms(&times, n)), [60, 60, 140]);
        assert_eq!(times.fits(0.1, 1, 512), Some(54));
        assert_eq!(times.fits(0.001, 7, 512), Some(7), "at least as many as it must be");
        assert_eq!(times.fits(9.0, 1, 512), Some(512));
    }
}
