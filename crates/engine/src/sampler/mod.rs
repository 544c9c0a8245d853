//! Choosing a token from logits.
//!
//! ```text
//! logits -> bias, mask -> penalties -> dry -> top_n_sigma -> top_k -> typ_p -> top_p -> min_p -> xtc -> temperature -> draw
//! ```
//! The order is [`Params::order`]. Nothing sorts the vocabulary: a stage finds its border by partial selection.

mod logprobs;
mod mask;
mod mirostat;
mod params;
mod penalties;
mod pool;
mod rng;
mod scan;
mod stages;

pub use logprobs::logprobs;
pub(crate) use logprobs::{Guess, likeliest};
pub use mask::Mask;
pub use params::{
    Dry, MAX_BREAKER_TOKENS, MAX_BREAKERS, MAX_LOGIT_BIAS, Mirostat, MirostatVersion, ParamError, Params, Stage,
};
pub use pool::Scratch;
pub use rng::Rng;

use crate::TokenId;
use penalties::{DryState, Window};
use pool::Pool;

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model's largest logit is not a number or infinite.
    #[error("the model computed no usable logits (the largest is NaN or infinite): its file may be damaged")]
    NotFinite,
    /// Bias or mask forbid every token.
    #[error("every token is forbidden by the logit bias or the constraint")]
    NothingAllowed,
}

/// Logits of a vocabulary.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// `[n_vocab]`.
    pub all: &'a [f32],
    /// The largest of each [`MAXIMA_BLOCK`](crate::runner::MAXIMA_BLOCK); empty if nobody has looked yet.
    pub maxima: &'a [f32],
}

impl<'a, T: AsRef<[f32]> + ?Sized> From<&'a T> for Logits<'a> {
    fn from(all: &'a T) -> Logits<'a> {
        Logits { all: all.as_ref(), maxima: &[] }
    }
}

/// Chooses the tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: Params,
    rng: Rng,
    window: Window,
    dry: DryState,
    mu: f64,
}

impl Sampler {
    /// A sampler for checked parameters. `seed` counts where [`Params::seed`] is `None`.
    #[must_use]
    pub fn new(params: Params, seed: u64) -> Sampler {
        let rng = Rng::new(params.seed.unwrap_or(seed));
        let mu = 2.0 * f64::from(params.mirostat.tau);
        let dry = DryState::new(&params.dry);
        Sampler { params, rng, window: Window::default(), dry, mu }
    }

    /// [`Params::n_best`] of its parameters.
    #[must_use]
    pub fn n_best(&self) -> Option<usize> {
        self.params.n_best()
    }

    /// Chooses the next token.
    ///
    /// | argument  | shape       | meaning                                                                   |
    /// |-----------|-------------|---------------------------------------------------------------------------|
    /// | `logits`  | `[n_vocab]` | the model's, after the last token of `history`; with maxima, if it gave some |
    /// | `history` | tokens      | the whole sequence, prompt included; it continues that of the last call   |
    /// | `mask`    | `[n_vocab]` | tokens that may come next; `None` for all                                 |
    ///
    /// # Errors
    /// If the logits are unusable or no token is allowed.
    pub fn sample<'a>(
        &mut self,
        scratch: &mut Scratch,
        logits: impl Into<Logits<'a>>,
        history: &[TokenId],
        mask: Option<&Mask>,
    ) -> Result<TokenId, SampleError> {
        let logits: Logits<'_> = logits.into();
        let mut pool = Pool::new(logits, scratch);
        let params = &self.params;
        if !params.logit_bias.is_empty() {
            // One token may have several entries: they add up.
            for (token, bias) in &params.logit_bias {
                pool.edit(std::iter::once(*token), |_, logit| logit + bias);
            }
        }
        if let Some(mask) = mask {
            pool.keep_allowed(mask);
        }
        let token = self.choose(&mut pool, logits.all.len(), history);
        token.ok_or_else(|| {
            let finite = Pool::new(logits, scratch).best().is_some_and(|best| best.logit.is_finite());
            if finite { SampleError::NothingAllowed } else { SampleError::NotFinite }
        })
    }

    fn choose(&mut self, pool: &mut Pool, n_vocab: usize, history: &[TokenId]) -> Option<TokenId> {
        let params = &self.params;
        let is_greedy = self.is_greedy();
        let is_mirostat = params.mirostat.version != MirostatVersion::Off;
        self.window.advance(history, params.repeat_last_n);
        for stage in &params.order {
            match stage {
                Stage::Penalties => self.window.penalize(pool, params),
                Stage::Dry => self.dry.penalize(pool, &params.dry, history),
                _ if is_greedy => {}
                Stage::Temperature => stages::apply(*stage, pool, params, &mut self.rng),
                _ if is_mirostat => {}
                _ => stages::apply(*stage, pool, params, &mut self.rng),
            }
        }
        let best = pool.best().filter(|best| best.logit.is_finite())?;
        if is_greedy {
            Some(best.id)
        } else if is_mirostat {
            mirostat::draw(pool, params.mirostat, n_vocab, &mut self.mu, &mut self.rng)
        } else {
            pool.draw(self.rng.next_unit()).map(|drawn| drawn.id)
        }
    }

    /// Whether the likeliest token is always chosen.
    pub(crate) fn is_greedy(&self) -> bool {
        self.params.temperature <= 0.0 && self.params.temperature_range <= 0.0
    }

    /// The random numbers of the tokens to come, to guess those.
    pub(crate) fn ahead(&self) -> Rng {
        self.rng.clone()
    }

    /// The token that would be drawn if the model's logits were these, with the numbers that `ahead` gives next, and how far
    /// those are from another token: a model that is nearly the same draws the same. Penalties are left out. For samplers
    /// that are not greedy.
    ///
    /// Source: Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant speculative decoding",
    /// arXiv:2408.07978; here with the inverse of the distribution function in the order of ids.
    pub(crate) fn guess(&self, ahead: &mut Rng, scratch: &mut Scratch, logits: &[f32]) -> Guess {
        // A margin below which another token is named, and how far beyond the border that is drawn: borders move.
        const NEAR: f64 = 0.1;
        const BEYOND: f64 = 0.02;
        let mut pool = Pool::new(logits, scratch);
        let is_mirostat = self.params.mirostat.version != MirostatVersion::Off;
        for stage in &self.params.order {
            match stage {
                Stage::Penalties | Stage::Dry => {}
                Stage::Temperature => stages::apply(*stage, &mut pool, &self.params, ahead),
                _ if is_mirostat => {}
                _ => stages::apply(*stage, &mut pool, &self.params, ahead),
            }
        }
        let unit = ahead.next_unit();
        let Some(drawn) = pool.draw(unit) else { return Guess::default() };
        let far = drawn.margin + BEYOND;
        let other = if drawn.is_low { unit - far } else { unit + far };
        let is_near = drawn.margin < NEAR && (0.0..1.0).contains(&other);
        let second = if is_near { pool.draw(other).map(|other| other.id) } else { None };
        Guess { token: drawn.id, sure: drawn.margin as f32, second: second.filter(|id| *id != drawn.id) }
    }
}

#[cfg(test)]
mod tests;
