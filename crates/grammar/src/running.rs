//! A grammar while a sequence is made.

use std::sync::Arc;

use llguidance::Matcher;
use mlxr_engine::TokenId;
use mlxr_engine::constraint::{Constraint, ConstraintError, Progress};
use mlxr_engine::sampler::Mask;

use crate::compile::plain;

/// See the module.
pub(crate) struct Running {
    matcher: Matcher,
    ends: Arc<[TokenId]>,
    /// End tokens since the last one that the matcher knows of.
    n_end: usize,
}

impl Running {
    pub(crate) fn new(matcher: Matcher, ends: Arc<[TokenId]>) -> Running {
        Running { matcher, ends, n_end: 0 }
    }
}

fn failed(error: impl std::fmt::Display) -> ConstraintError {
    ConstraintError(plain(&error.to_string()))
}

impl Constraint for Running {
    fn allowed(&mut self, mask: &mut Mask) -> Result<(), ConstraintError> {
        let bits = self.matcher.compute_mask_or_eos().map_err(failed)?;
        mask.set_bits(bits.as_slice());
        Ok(())
    }

    fn push(&mut self, token: TokenId) -> Result<Progress, ConstraintError> {
        if self.ends.contains(&token) {
            self.n_end += 1;
            return Ok(Progress::Complete);
        }
        self.matcher.consume_token(token).map_err(failed)?;
        Ok(if self.matcher.is_stopped() { Progress::Complete } else { Progress::Open })
    }

    fn pop(&mut self, n: usize) -> Result<(), ConstraintError> {
        let n_end = self.n_end.min(n);
        self.n_end -= n_end;
        self.matcher.rollback(n - n_end).map_err(failed)
    }

    fn n_allowed(&mut self, tokens: &[TokenId]) -> usize {
        // A failed matcher tells of it when the next mask is asked for.
        self.matcher.validate_tokens(tokens).unwrap_or(0)
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) {
        out.clear();
        out.extend(self.matcher.compute_ff_tokens());
    }
}
