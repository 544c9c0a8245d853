//! What a request may ask of the sampler, and the ranges it must keep to.

use crate::TokenId;

/// Most entries of [`Params::logit_bias`].
pub const MAX_LOGIT_BIAS: usize = 4096;
/// Most sequence breakers of [`Dry`]. Text such as `:` is in many tokens, each of which is one.
pub const MAX_BREAKERS: usize = 65_536;
/// Most tokens of one sequence breaker.
pub const MAX_BREAKER_TOKENS: usize = 32;

/// A sampler in the chain. Each reads the candidates that the one before left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Repetition, frequency and presence penalties.
    Penalties,
    /// "Don't repeat yourself": penalizes the token that would continue a repetition.
    Dry,
    /// Keeps logits within `n` standard deviations of the largest.
    TopNSigma,
    /// Keeps the `k` most likely.
    TopK,
    /// Keeps the tokens whose surprise is closest to the expected one.
    Typical,
    /// Keeps the fewest most likely tokens that together have probability `p`.
    TopP,
    /// Keeps tokens at least `p` times as likely as the most likely one.
    MinP,
    /// Excludes top choices at random.
    Xtc,
    /// Divides logits by the (dynamic) temperature.
    Temperature,
}

impl Stage {
    /// All stages in their usual order, which is llama.cpp's (`common_params_sampling`).
    pub const DEFAULT_ORDER: [Stage; 9] = [
        Stage::Penalties,
        Stage::Dry,
        Stage::TopNSigma,
        Stage::TopK,
        Stage::Typical,
        Stage::TopP,
        Stage::MinP,
        Stage::Xtc,
        Stage::Temperature,
    ];

    /// Names as llama.cpp's `samplers` option has them.
    const NAMES: [(&'static str, Stage); 9] = [
        ("penalties", Stage::Penalties),
        ("dry", Stage::Dry),
        ("top_n_sigma", Stage::TopNSigma),
        ("top_k", Stage::TopK),
        ("typ_p", Stage::Typical),
        ("top_p", Stage::TopP),
        ("min_p", Stage::MinP),
        ("xtc", Stage::Xtc),
        ("temperature", Stage::Temperature),
    ];

    /// The stage of this name, or `None`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::NAMES.iter().find(|(known, _)| *known == name).map(|(_, stage)| *stage)
    }

    /// The stage's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let row = Stage::NAMES.iter().find(|(_, stage)| *stage == self);
        row.expect("NAMES lists every stage").0
    }
}

/// Settings of the DRY sampler. Source: p-e-w, text-generation-webui pull request 5677; names as llama.cpp's.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// Penalty of a repetition of `allowed_length` tokens; 0 switches DRY off.
    pub multiplier: f32,
    /// Factor for each token more.
    pub base: f32,
    /// Repetitions shorter than this go unpenalized.
    pub allowed_length: usize,
    /// Tokens looked back at; `usize::MAX` for all, 0 for none.
    pub last_n: usize,
    /// Token sequences that end a repetition.
    pub breakers: Vec<Vec<TokenId>>,
}

impl Default for Dry {
    fn default() -> Dry {
        Dry { multiplier: 0.0, base: 1.75, allowed_length: 2, last_n: usize::MAX, breakers: Vec::new() }
    }
}

/// Which version of mirostat replaces the truncating stages. Source: arXiv:2007.14966.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MirostatVersion {
    /// None.
    #[default]
    Off,
    /// The paper's, which estimates the exponent of a Zipf distribution.
    V1,
    /// The authors' simpler second version, which truncates by surprise.
    V2,
}

/// Settings of mirostat, which holds the surprise of the text at a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat {
    /// Version.
    pub version: MirostatVersion,
    /// Target surprise in bits.
    pub tau: f32,
    /// Learning rate.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Mirostat {
        Mirostat { version: MirostatVersion::Off, tau: 5.0, eta: 0.1 }
    }
}

/// How to choose a token. [`Params::default`] is the usual chat setting, [`Params::neutral`] changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Divides the logits; 0 takes the largest logit and skips the truncating stages.
    pub temperature: f32,
    /// Half the range of the dynamic temperature, which follows the entropy; 0 switches it off.
    pub temperature_range: f32,
    /// Exponent of the normalized entropy for the dynamic temperature.
    pub temperature_exponent: f32,
    /// Keeps the `top_k` most likely; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens with this probability together; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this times as likely as the most likely; 0 keeps all.
    pub min_p: f32,
    /// Keeps the most typical tokens with this probability together; 1 keeps all.
    pub typical_p: f32,
    /// Keeps logits within this many standard deviations of the largest; 0 or less keeps all.
    pub top_n_sigma: f32,
    /// Chance that XTC acts on a token; 0 switches it off.
    pub xtc_probability: f32,
    /// Of the tokens at least this likely, XTC leaves the least likely; above 0.5 it cannot act.
    pub xtc_threshold: f32,
    /// Divides positive and multiplies negative logits of seen tokens; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Subtracted for each time that a token was seen.
    pub frequency_penalty: f32,
    /// Subtracted once if a token was seen.
    pub presence_penalty: f32,
    /// Tokens that the penalties look back at; `usize::MAX` for all, 0 for none.
    pub repeat_last_n: usize,
    /// DRY.
    pub dry: Dry,
    /// Mirostat. Where it is on, only penalties, DRY and temperature of the chain run before it.
    pub mirostat: Mirostat,
    /// Added to the logits of these tokens; minus infinity forbids one.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Equal seeds, parameters and logits give equal tokens; `None` lets the engine choose.
    pub seed: Option<u64>,
    /// The chain.
    pub order: Vec<Stage>,
}

impl Default for Params {
    /// Temperature 0.8, top-k 40, top-p 0.95, min-p 0.05: llama.cpp's defaults.
    fn default() -> Params {
        Params { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Params::neutral() }
    }
}

impl Params {
    /// How many of the largest logits decide the next token, where that is known before they are: with nothing that changes
    /// logits first, the largest alone or the `top_k`.
    #[must_use]
    pub fn n_best(&self) -> Option<usize> {
        let penalizes = self.repeat_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0;
        let changes = penalizes || self.dry.multiplier != 0.0 || !self.logit_bias.is_empty();
        if changes || self.mirostat.version != MirostatVersion::Off {
            return None;
        }
        if self.temperature <= 0.0 && self.temperature_range <= 0.0 {
            return Some(1);
        }
        let acts = |stage: &&Stage| match stage {
            Stage::Penalties | Stage::Dry => false,
            Stage::TopNSigma => self.top_n_sigma > 0.0,
            Stage::TopK => self.top_k > 0,
            Stage::Typical => self.typical_p < 1.0,
            Stage::TopP => self.top_p < 1.0,
            Stage::MinP => self.min_p > 0.0,
            Stage::Xtc => self.xtc_probability > 0.0,
            Stage::Temperature => self.temperature_range > 0.0,
        };
        let first = self.order.iter().find(acts);
        first.filter(|stage| **stage == Stage::TopK).map(|_| self.top_k)
    }

    /// The model's own distribution: temperature 1, nothing cut off, nothing penalized.
    #[must_use]
    pub fn neutral() -> Params {
        Params {
            temperature: 1.0,
            temperature_range: 0.0,
            temperature_exponent: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            dry: Dry::default(),
            mirostat: Mirostat::default(),
            logit_bias: Vec::new(),
            seed: None,
            order: Stage::DEFAULT_ORDER.to_vec(),
        }
    }

    /// The most likely token, always.
    #[must_use]
    pub fn greedy() -> Params {
        Params { temperature: 0.0, ..Params::neutral() }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field out of its range, what it is and what it may be.
    pub fn check(&self) -> Result<(), ParamError> {
        for row in RANGES {
            let found = (row.value)(self);
            if !(row.low..=row.high).contains(&found) {
                let expected = format!("a number from {} to {}", row.low, row.high);
                return Err(ParamError { field: row.field, found: found.to_string(), expected });
            }
        }
        self.check_lists()
    }

    fn check_lists(&self) -> Result<(), ParamError> {
        let error = |field, found: String, expected: String| Err(ParamError { field, found, expected });
        if self.logit_bias.len() > MAX_LOGIT_BIAS {
            return error(
                "logit_bias",
                format!("{} entries", self.logit_bias.len()),
                format!("at most {MAX_LOGIT_BIAS}"),
            );
        }
        if let Some((token, bias)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            return error("logit_bias", format!("{bias} for token {token}"), "a number or minus infinity".into());
        }
        if self.dry.breakers.len() > MAX_BREAKERS {
            let found = format!("{} sequences", self.dry.breakers.len());
            return error("dry_sequence_breakers", found, format!("at most {MAX_BREAKERS}"));
        }
        if let Some(breaker) = self.dry.breakers.iter().find(|b| b.is_empty() || b.len() > MAX_BREAKER_TOKENS) {
            let found = format!("a sequence of {} tokens", breaker.len());
            return error("dry_sequence_breakers", found, format!("1 to {MAX_BREAKER_TOKENS} tokens each"));
        }
        let twice = self.order.iter().enumerate().find(|(i, stage)| self.order[..*i].contains(stage));
        if let Some((_, stage)) = twice {
            return error("samplers", format!("`{}` twice", stage.name()), "each sampler at most once".into());
        }
        Ok(())
    }
}

/// A field out of range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {found}, expected {expected}")]
pub struct ParamError {
    /// The field.
    pub field: &'static str,
    /// What it holds.
    pub found: String,
    /// What it may hold.
    pub expected: String,
}

struct Range {
    field: &'static str,
    value: fn(&Params) -> f32,
    low: f32,
    high: f32,
}

const fn range(field: &'static str, value: fn(&Params) -> f32, low: f32, high: f32) -> Range {
    Range { field, value, low, high }
}

const RANGES: &[Range] = &[
    range("temperature", |p| p.temperature, 0.0, 100.0),
    range("temperature_range", |p| p.temperature_range, 0.0, 100.0),
    range("temperature_exponent", |p| p.temperature_exponent, 0.0, 100.0),
    range("top_p", |p| p.top_p, 0.0, 1.0),
    range("min_p", |p| p.min_p, 0.0, 1.0),
    range("typical_p", |p| p.typical_p, 0.0, 1.0),
    range("top_n_sigma", |p| p.top_n_sigma, -1.0, 1000.0),
    range("xtc_probability", |p| p.xtc_probability, 0.0, 1.0),
    range("xtc_threshold", |p| p.xtc_threshold, 0.0, 1.0),
    range("repeat_penalty", |p| p.repeat_penalty, 0.01, 100.0),
    range("frequency_penalty", |p| p.frequency_penalty, -100.0, 100.0),
    range("presence_penalty", |p| p.presence_penalty, -100.0, 100.0),
    range("dry_multiplier", |p| p.dry.multiplier, 0.0, 1000.0),
    range("dry_base", |p| p.dry.base, 1.0, 1000.0),
    range("mirostat_tau", |p| p.mirostat.tau, 0.0, 1000.0),
    range("mirostat_eta", |p| p.mirostat.eta, 0.0, 10.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_out_of_range_is_named() {
        type Change = fn(&mut Params);
        let rows: &[(&str, Change)] = &[
            ("`temperature` is -1, expected a number from 0 to 100", |p| p.temperature = -1.0),
            ("`temperature` is NaN, expected a number from 0 to 100", |p| p.temperature = f32::NAN),
            ("`top_p` is 1.5, expected a number from 0 to 1", |p| p.top_p = 1.5),
            ("`min_p` is inf, expected a number from 0 to 1", |p| p.min_p = f32::INFINITY),
            ("`repeat_penalty` is 0, expected a number from 0.01 to 100", |p| p.repeat_penalty = 0.0),
            ("`dry_base` is 0.5, expected a number from 1 to 1000", |p| p.dry.base = 0.5),
            ("`logit_bias` is NaN for token 3, expected a number or minus infinity", |p| {
                p.logit_bias = vec![(3, f32::NAN)];
            }),
            ("`logit_bias` is 5000 entries, expected at most 4096", |p| p.logit_bias = vec![(0, 0.0); 5000]),
            ("`dry_sequence_breakers` is a sequence of 0 tokens, expected 1 to 32 tokens each", |p| {
                p.dry.breakers = vec![vec![]];
            }),
            ("`samplers` is `top_k` twice, expected each sampler at most once", |p| p.order = vec![Stage::TopK; 2]),
        ];
        for (expect, change) in rows {
            let mut params = Params::default();
            assert_eq!(params.check(), Ok(()));
            change(&mut params);
            assert_eq!(params.check().expect_err(expect).to_string(), *expect);
        }
    }

    #[test]
    fn every_stage_has_a_name_of_its_own() {
        for stage in Stage::DEFAULT_ORDER {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
        }
        assert_eq!(Stage::from_name("top_q"), None);
    }
}
