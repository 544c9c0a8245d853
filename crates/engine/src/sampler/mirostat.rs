//! Mirostat: holds the surprise of the text at a target by cutting the candidates down more or less. arXiv:2007.14966.

use super::params::{Mirostat, MirostatVersion};
use super::pool::Pool;
use super::rng::Rng;
use crate::TokenId;

/// Candidates from which version 1 estimates the exponent, as in the paper.
const N_ESTIMATE: usize = 100;

/// Chooses a token. `mu`, the largest surprise allowed in bits, starts as `2 tau` and is moved towards the target.
pub fn draw(pool: &mut Pool, params: Mirostat, n_vocab: usize, mu: &mut f64, rng: &mut Rng) -> Option<TokenId> {
    match params.version {
        MirostatVersion::Off => {}
        MirostatVersion::V1 => {
            let k = rank_limit(pool, n_vocab, *mu)?;
            pool.keep_top(k);
        }
        MirostatVersion::V2 => {
            let max = pool.best()?.logit;
            let floor = f64::from(max) + pool.weight_sum(max).ln() - *mu * std::f64::consts::LN_2;
            pool.keep_at_least((floor as f32).min(max));
        }
    }
    let drawn = pool.draw(rng.next_unit())?;
    *mu -= f64::from(params.eta) * (-drawn.probability.log2() - f64::from(params.tau));
    Some(drawn.id)
}

/// The `k` of a top-k whose expected surprise is `mu`, if probabilities follow Zipf's law with the exponent `s` that the
/// likeliest candidates show: `k = (e 2^mu / (1 - N^-e))^(1/s)`, `e = s - 1` (equation 30).
fn rank_limit(pool: &mut Pool, n_vocab: usize, mu: f64) -> Option<usize> {
    pool.best()?;
    let mut top: Vec<f32> = pool.top_logits(N_ESTIMATE);
    top.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut dot, mut square) = (0.0, 0.0);
    for (i, pair) in top.windows(2).enumerate() {
        let t = ((i + 2) as f64 / (i + 1) as f64).ln();
        let b = f64::from(pair[0] - pair[1]);
        dot += t * b;
        square += t * t;
    }
    let s = if square > 0.0 { dot / square } else { 1.0 };
    let e = s - 1.0;
    let k = (e * mu.exp2() / (1.0 - (n_vocab as f64).powf(-e))).powf(1.0 / s);
    // e = 0 and s = 0 make k NaN or infinite: then all candidates stay.
    let limit = pool.len();
    Some(if k.is_finite() { (k as usize).clamp(1, limit) } else { limit })
}
