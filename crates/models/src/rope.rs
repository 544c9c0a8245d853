//! Rotation frequencies under every scaling: plain, linear, NTK, dynamic NTK, YaRN, llama3, longrope.
//!
//! Each scaling ends in one list of frequencies and one factor ([`Rope`]), since an angle is linear in the position.

use mlxr_compute::op::{Rope, RopePairs};

use crate::LoadError;
use crate::config::{self, Config};

/// A scaling with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// Positions divided by the factor. Source: arXiv:2306.15595.
    Linear(f32),
    /// Base grown for a context beyond the original. Source: transformers `_compute_dynamic_ntk_parameters`.
    Ntk(f32),
    /// Source: arXiv:2309.00071.
    Yarn(Yarn),
    /// Source: transformers `_compute_llama3_parameters`.
    Llama3 {
        /// Divides low frequencies.
        factor: f32,
        /// Wavelengths above `original / low` are low frequencies.
        low: f32,
        /// Wavelengths below `original / high` are kept.
        high: f32,
    },
    /// A divisor for each pair, short and long contexts apart. Source: arXiv:2402.13753.
    Long {
        /// Divisors within the original context.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
    },
}

/// YaRN's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Divides low frequencies.
    pub factor: f32,
    /// Rotations in the original context from which a frequency is kept.
    pub beta_fast: f32,
    /// Rotations in the original context up to which a frequency is divided.
    pub beta_slow: f32,
    /// Whether the bounds of the ramp are rounded to whole pairs.
    pub truncate: bool,
}

/// What the rotation of a model's layers is computed from.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Rotated dimensions of a head.
    pub n_rot: usize,
    /// Rotated dimensions in layers with a window.
    pub n_rot_window: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Base of layers with a window.
    pub base_window: f32,
    /// Whether layers with a window are scaled too.
    pub scale_window: bool,
    /// The scaling.
    pub scaling: Scaling,
    /// Context the model was trained with before scaling.
    pub original: usize,
    /// Factor on rotated dimensions.
    pub mscale: f32,
    /// Factor on attention's scale that goes with the scaling (DeepSeek's `mscale_all_dim`).
    pub attn_scale: f32,
    /// A divisor for each pair from the file (`rope_freqs`, llama3 in GGUF); empty for none.
    pub divisors: Vec<f32>,
}

impl RopeSpec {
    /// The rotation of layers, with a window or without, in a context of `n_ctx` tokens.
    pub fn rope(&self, window: bool, n_ctx: usize, pairs: RopePairs) -> Rope {
        let scaled = !window || self.scale_window;
        let base = f64::from(if window { self.base_window } else { self.base });
        let n_rot = if window { self.n_rot_window } else { self.n_rot };
        let n = n_rot as f64;
        let plain = |base: f64, i: usize| base.powf(-2.0 * i as f64 / n);
        let divisor = |list: &[f32], i: usize| list.get(i).map_or(1.0, |&d| f64::from(d));
        let original = self.original as f64;
        let freq = |i: usize| -> f64 {
            let f = plain(base, i) / divisor(&self.divisors, i);
            match &self.scaling {
                _ if !scaled => plain(base, i),
                Scaling::None => f,
                Scaling::Linear(factor) => f / f64::from(*factor),
                Scaling::Ntk(factor) => {
                    let beyond = f64::from(*factor) * n_ctx as f64 / original - (f64::from(*factor) - 1.0);
                    plain(base * beyond.max(1.0).powf(n / (n - 2.0)), i)
                }
                Scaling::Yarn(yarn) => f * yarn.keep(base, n, original, i),
                Scaling::Llama3 { factor, low, high } => {
                    let rotations = original * f / std::f64::consts::TAU;
                    let (low, high) = (f64::from(*low), f64::from(*high));
                    let smooth = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * f / f64::from(*factor) + smooth * f
                }
                Scaling::Long { short, long } => f / divisor(if n_ctx > self.original { long } else { short }, i),
            }
        };
        let freqs = (0..n_rot / 2).map(|i| freq(i) as f32).collect();
        Rope { freqs, scale: if scaled { self.mscale } else { 1.0 }, pairs, offset: 0 }
    }
}

impl Yarn {
    /// How much of frequency `i` is left: from `1 / factor` for low frequencies to 1 for high ones.
    fn keep(&self, base: f64, n: f64, original: f64, i: usize) -> f64 {
        let bound = |beta: f32| n * (original / (f64::from(beta) * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
        let (mut from, mut to) = (bound(self.beta_fast), bound(self.beta_slow));
        if self.truncate {
            (from, to) = (from.floor(), to.ceil());
        }
        let (from, to) = (from.max(0.0), to.min(n - 1.0));
        let ramp = ((i as f64 - from) / (to - from).max(0.001)).clamp(0.0, 1.0);
        ramp / f64::from(self.factor) + (1.0 - ramp)
    }
}

/// `0.1 * mscale * ln(factor) + 1`. Source: arXiv:2309.00071, equation 22.
pub fn yarn_mscale(factor: f32, mscale: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Reads the scaling, its `mscale` and its factor on attention's scale.
///
/// # Errors
/// If the scaling is not known or its numbers are invalid.
pub fn scaling(
    config: &Config<'_>,
    n_rot: usize,
    n_ctx: usize,
    original: usize,
) -> Result<(Scaling, f32, f32), LoadError> {
    let kind = config.text(config::ROPE_KIND).unwrap_or("none").to_owned();
    let factor = config.nonzero(config::ROPE_FACTOR)?.unwrap_or(1.0);
    let attn_factor = config.nonzero(config::ROPE_ATTN_FACTOR)?;
    if !(factor.is_finite() && factor > 0.0) {
        return Err(config.error(config::ROPE_FACTOR, factor, "a positive number"));
    }
    let plain = attn_factor.filter(|_| !config.is_json()).unwrap_or(1.0);
    match kind.as_str() {
        "none" | "default" | "mrope" | "proportional" => Ok((Scaling::None, plain, 1.0)),
        "linear" if factor == 1.0 => Ok((Scaling::None, plain, 1.0)),
        "linear" => Ok((Scaling::Linear(factor), plain, 1.0)),
        "dynamic" | "ntk" => Ok((Scaling::Ntk(factor), plain, 1.0)),
        "yarn" => yarn(config, factor, attn_factor),
        "llama3" => {
            let low = config.f32(config::ROPE_LOW)?.unwrap_or(1.0);
            let high = config.f32(config::ROPE_HIGH)?.unwrap_or(4.0);
            if high <= low {
                return Err(config.error(config::ROPE_HIGH, high, &format!("more than {low}")));
            }
            Ok((Scaling::Llama3 { factor, low, high }, 1.0, 1.0))
        }
        "longrope" | "su" => longrope(config, n_rot, n_ctx, original, attn_factor),
        _ => Err(config.error(config::ROPE_KIND, kind, "none, linear, dynamic, yarn, llama3 or longrope")),
    }
}

fn yarn(config: &Config<'_>, factor: f32, attn_factor: Option<f32>) -> Result<(Scaling, f32, f32), LoadError> {
    let yarn = Yarn {
        factor,
        beta_fast: config.nonzero(config::ROPE_BETA_FAST)?.unwrap_or(32.0),
        beta_slow: config.nonzero(config::ROPE_BETA_SLOW)?.unwrap_or(1.0),
        truncate: config.flag(config::ROPE_TRUNCATE).unwrap_or(true),
    };
    // GGUF has mscale_all_dim as a multiplier of the logarithm, of which 0.1 is part.
    let log_mul = config.nonzero(config::ROPE_LOG_MUL)?.map(|x| x / 0.1);
    let all = config.nonzero(config::ROPE_MSCALE_ALL)?.or(log_mul);
    let one = config.nonzero(config::ROPE_MSCALE)?.or(log_mul);
    let mscale = match (attn_factor, one, all) {
        (Some(given), ..) if config.is_json() => given,
        (_, Some(one), Some(all)) => yarn_mscale(factor, one) / yarn_mscale(factor, all),
        (given, ..) => yarn_mscale(factor, 1.0) * given.filter(|_| !config.is_json()).unwrap_or(1.0),
    };
    let attn = all.map_or(1.0, |all| yarn_mscale(factor, all).powi(2));
    Ok((Scaling::Yarn(yarn), mscale, attn))
}

fn longrope(
    config: &Config<'_>,
    n_rot: usize,
    n_ctx: usize,
    original: usize,
    attn_factor: Option<f32>,
) -> Result<(Scaling, f32, f32), LoadError> {
    let short = config.numbers(config::ROPE_SHORT).unwrap_or_default();
    let long = config.numbers(config::ROPE_LONG).unwrap_or_default();
    for (key, list) in [(config::ROPE_SHORT, &short), (config::ROPE_LONG, &long)] {
        if config.is_json() && list.len() != n_rot / 2 {
            return Err(config.error(key, format!("{} numbers", list.len()), &format!("{} numbers", n_rot / 2)));
        }
    }
    let trained = config.count(config::N_CTX)?.unwrap_or(original).max(original);
    let growth = trained as f32 / original as f32;
    let computed = if growth <= 1.0 { 1.0 } else { (1.0 + growth.ln() / (original as f32).ln()).sqrt() };
    let key = if n_ctx > original { config::ROPE_LONG_MSCALE } else { config::ROPE_SHORT_MSCALE };
    let given = config.nonzero(key)?.or(attn_factor);
    let mscale = if config.is_json() { given.unwrap_or(computed) } else { given.unwrap_or(1.0) };
    Ok((Scaling::Long { short, long }, mscale, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: Scaling) -> RopeSpec {
        RopeSpec {
            n_rot: 8,
            n_rot_window: 8,
            base: 10000.0,
            base_window: 10000.0,
            scale_window: true,
            scaling,
            original: 2048,
            mscale: 1.0,
            attn_scale: 1.0,
            divisors: Vec::new(),
        }
    }

    /// Expected values computed by `transformers` 5.x `ROPE_INIT_FUNCTIONS` for head_dim 8, base 10000, original 2048.
    fn check(scaling: Scaling, n_ctx: usize, expect: [f32; 4]) {
        let rope = spec(scaling.clone()).rope(false, n_ctx, RopePairs::HalfSplit);
        for (got, want) in rope.freqs.iter().zip(expect) {
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{scaling:?}: {:?} is not {expect:?}", rope.freqs);
        }
    }

    #[test]
    fn frequencies_follow_their_papers() {
        check(Scaling::None, 2048, [1.0, 0.1, 0.01, 0.001]);
        check(Scaling::Linear(4.0), 2048, [0.25, 0.025, 0.0025, 0.00025]);
        check(
            Scaling::Long { short: vec![1.0, 2.0, 4.0, 8.0], long: vec![2.0; 4] },
            2048,
            [1.0, 0.05, 0.0025, 0.000125],
        );
        check(Scaling::Long { short: vec![1.0; 4], long: vec![2.0; 4] }, 4096, [0.5, 0.05, 0.005, 0.0005]);
        // Wavelengths 6.28, 62.8, 628, 6283 against 2048 / 4 = 512 and 2048 / 1: kept, kept, mixed, divided by 8.
        check(Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0 }, 16384, [1.0, 0.1, 0.007_840_19, 0.000_125]);
        // The ramp runs from floor(1.006) = 1 to ceil(2.512) = 3.
        let yarn = Yarn { factor: 4.0, beta_fast: 32.0, beta_slow: 1.0, truncate: true };
        check(Scaling::Yarn(yarn), 8192, [1.0, 0.1, 0.00625, 0.00025]);
        // Twice the context at factor 2: base * 3^(8/6).
        check(Scaling::Ntk(2.0), 4096, [1.0, 0.069_336_13, 0.004_807_499, 0.000_333_333]);
    }
}
