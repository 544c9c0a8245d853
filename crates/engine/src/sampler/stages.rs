//! The samplers that cut the candidates down or scale them: one row each, in [`apply`].
//!
//! Definitions are those of llama.cpp's `llama-sampler.cpp`; `p` is the softmax over the candidates that are left.

use super::params::{Params, Stage};
use super::pool::{Candidate, Key, Pool, border, key_order};
use super::rng::Rng;

/// Runs one stage other than the penalties.
pub fn apply(stage: Stage, pool: &mut Pool, params: &Params, rng: &mut Rng) {
    match stage {
        Stage::Penalties | Stage::Dry => unreachable!("the sampler runs the penalties, which need the history"),
        Stage::TopNSigma => top_n_sigma(pool, params.top_n_sigma),
        Stage::TopK => top_k(pool, params.top_k),
        Stage::Typical => typical(pool, params.typical_p),
        Stage::TopP => top_p(pool, params.top_p),
        Stage::MinP => min_p(pool, params.min_p),
        Stage::Xtc => xtc(pool, params, rng),
        Stage::Temperature => temperature(pool, params),
    }
}

fn top_k(pool: &mut Pool, k: usize) {
    if k > 0 {
        pool.keep_top(k);
    }
}

/// Keeps logits of at least `max - n * sigma`, sigma the standard deviation of the logits above minus infinity.
/// Source: arXiv:2411.07641.
fn top_n_sigma(pool: &mut Pool, n: f32) {
    if n <= 0.0 || pool.len() <= 1 {
        return;
    }
    let Some(best) = pool.best() else { return };
    let deviation = pool.deviation(best.logit);
    pool.keep_at_least(best.logit - n * deviation as f32);
}

/// Keeps the fewest likeliest tokens whose probabilities reach `p`, at least one. Source: arXiv:1904.09751.
fn top_p(pool: &mut Pool, p: f32) {
    if p >= 1.0 {
        return;
    }
    let Some(best) = pool.best() else { return };
    let target = f64::from(p) * pool.weight_sum(best.logit);
    // Of a whole vocabulary the likeliest few usually reach p. Only when they do not are more taken.
    let sizes: &[usize] = if pool.is_picked() { &[] } else { &[64, 1024] };
    for &k in sizes {
        if pool.top_reaches(k, best.logit, target) {
            break;
        }
    }
    let (picks, keys) = pool.picks_and_keys();
    keys.clear();
    keys.extend(picks.iter().map(|pick| likelihood_key(pick, best.logit)));
    if let Some(last) = border(keys, target) {
        picks.retain(|pick| key_order(&likelihood_key(pick, best.logit), &last).is_le());
    }
}

fn likelihood_key(pick: &Candidate, max: f32) -> Key {
    Key { rank: -pick.logit, id: pick.id, weight: f64::from(pick.logit - max).exp() }
}

/// Keeps tokens at least `p` times as likely as the likeliest. Source: arXiv:2407.01082.
fn min_p(pool: &mut Pool, p: f32) {
    if p > 0.0
        && let Some(best) = pool.best()
    {
        pool.keep_at_least((best.logit + p.ln()).min(best.logit));
    }
}

/// Keeps the tokens whose surprise `-ln p` is closest to the entropy, until their probabilities reach `p`, at least one.
/// Source: arXiv:2202.00666.
fn typical(pool: &mut Pool, p: f32) {
    if p >= 1.0 {
        return;
    }
    let Some(best) = pool.best() else { return };
    let (sum, entropy) = pool.entropy(best.logit);
    let target = f64::from(p) * sum;
    // Whatever is as close to the entropy as the likeliest token, or a little further, has logits above a threshold and
    // usually reaches p. Only when it does not are more taken.
    let nearest = (entropy - sum.ln()).max(0.0);
    for reach in [nearest + 1.0, 2.0 * nearest + 4.0] {
        if pool.at_least_reaches(best.logit + (sum.ln() - entropy - reach) as f32, best.logit, target) {
            break;
        }
    }
    let (picks, keys) = pool.picks_and_keys();
    let key = |pick: &Candidate| {
        let shifted = f64::from(pick.logit - best.logit);
        Key { rank: (sum.ln() - shifted - entropy).abs() as f32, id: pick.id, weight: shifted.exp() }
    };
    keys.clear();
    keys.extend(picks.iter().map(key));
    if let Some(last) = border(keys, target) {
        picks.retain(|pick| key_order(&key(pick), &last).is_le());
    }
}

/// With chance `xtc_probability`: of the tokens with probability `xtc_threshold` or more, drops all but the least likely.
/// Source: p-e-w, text-generation-webui pull request 6335.
fn xtc(pool: &mut Pool, params: &Params, rng: &mut Rng) {
    if params.xtc_probability <= 0.0 || params.xtc_threshold > 0.5 || pool.len() < 2 {
        return;
    }
    if rng.next_unit() > f64::from(params.xtc_probability) {
        return;
    }
    let Some(best) = pool.best() else { return };
    let least = f64::from(params.xtc_threshold) * pool.weight_sum(best.logit);
    let (picks, keys) = pool.picks_and_keys();
    keys.clear();
    keys.extend(picks.iter().map(|pick| likelihood_key(pick, best.logit)).filter(|key| key.weight >= least));
    if let Some(last) = keys.iter().copied().max_by(key_order) {
        picks.retain(|pick| key_order(&likelihood_key(pick, best.logit), &last).is_ge());
    }
}

/// Divides the logits by the temperature. With a range, the temperature goes from `t - range` (never below 0) at entropy 0
/// to `t + range` at the most entropy that so many candidates can have. Source: arXiv:2309.02772; names as llama.cpp's.
fn temperature(pool: &mut Pool, params: &Params) {
    let mut t = params.temperature;
    if params.temperature_range > 0.0 {
        let Some(best) = pool.best() else { return };
        let count = pool.count();
        if count < 2 {
            return;
        }
        let (_, entropy) = pool.entropy(best.logit);
        let normal = (entropy / (count as f64).ln()).clamp(0.0, 1.0) as f32;
        let (low, high) = ((t - params.temperature_range).max(0.0), t + params.temperature_range);
        t = low + (high - low) * normal.powf(params.temperature_exponent);
    }
    if t > 0.0 {
        // Below this the largest logit has all the weight, and the factor would overflow.
        pool.scale(1.0 / t.max(1e-6));
    } else {
        pool.keep_top(1);
    }
}
