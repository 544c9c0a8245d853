//! What the logits of one token say: surprise, and distance from a base model's probabilities.

use std::thread;

use super::logits_file::Row;

/// Base probabilities below e^-16 add nothing.
const LEAST_LOG_PROB: f32 = -16.0;

/// The normalizer of a row of logits: `log p[t] = logits[t] - max - log_sum`.
#[derive(Debug, Clone, Copy)]
pub struct LogSum {
    pub max: f32,
    pub log_sum: f64,
}

/// The normalizer of a row.
pub fn log_sum(logits: &[f32]) -> LogSum {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    LogSum { max, log_sum: sum.ln() }
}

/// Minus the log probability of `token`.
pub fn surprise(logits: &[f32], sum: &LogSum, token: usize) -> f64 {
    sum.log_sum - f64::from(logits[token] - sum.max)
}

/// A token's distance from the base.
#[derive(Debug, Clone, Copy)]
pub struct Distance {
    /// Minus the log probability of the token that comes.
    pub surprise: f64,
    /// The same in the base.
    pub base_surprise: f64,
    /// Kullback-Leibler divergence of the base's probabilities from the model's, in nats.
    pub divergence: f64,
    /// Probability of the token that comes less that in the base.
    pub delta_p: f64,
    /// Whether both find the same token the likeliest.
    pub same_top: bool,
}

/// Compares a row of logits with the base's.
pub fn distance(logits: &[f32], base: Row<'_>, token: usize) -> Distance {
    let sum = log_sum(logits);
    let shift = sum.max + sum.log_sum as f32;
    let mut divergence = 0.0;
    let (mut top, mut base_top) = ((0, f32::NEG_INFINITY), (0, f32::NEG_INFINITY));
    for (i, logit) in logits.iter().enumerate() {
        let log_prob = base.log_prob(i);
        if *logit > top.1 {
            top = (i, *logit);
        }
        if log_prob > base_top.1 {
            base_top = (i, log_prob);
        }
        if log_prob > LEAST_LOG_PROB {
            divergence += f64::from(log_prob.exp() * (log_prob - logit + shift));
        }
    }
    let surprise = surprise(logits, &sum, token);
    let base_surprise = -f64::from(base.log_prob(token));
    let delta_p = (-surprise).exp() - (-base_surprise).exp();
    Distance { surprise, base_surprise, divergence, delta_p, same_top: top.0 == base_top.0 }
}

/// `job(i, rows[i])` for all rows, on `n_thread` threads; results in the order of rows, whatever the threads.
pub fn parallel<R: Send, T: Send>(n_thread: usize, mut rows: Vec<R>, job: impl Fn(usize, R) -> T + Sync) -> Vec<T> {
    let n_part = rows.len().div_ceil(n_thread.max(1)).max(1);
    let mut parts = Vec::new();
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(n_part));
        parts.push(std::mem::replace(&mut rows, rest));
    }
    let job = &job;
    thread::scope(|scope| {
        let run = |(part, rows): (usize, Vec<R>)| {
            let start = part * n_part;
            scope.spawn(move || rows.into_iter().enumerate().map(|(i, row)| job(start + i, row)).collect::<Vec<T>>())
        };
        let threads: Vec<_> = parts.into_iter().enumerate().map(run).collect();
        let finish = |thread: thread::ScopedJoinHandle<'_, Vec<T>>| thread.join().expect("a score does not panic");
        threads.into_iter().flat_map(finish).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_rows() {
        for n_thread in [1, 2, 3, 16] {
            for n_row in [0, 1, 5, 16] {
                let got = parallel(n_thread, (0..n_row).collect(), |i, row: usize| (i, row * 10));
                assert_eq!(got, (0..n_row).map(|i| (i, i * 10)).collect::<Vec<_>>());
            }
        }
    }
}
