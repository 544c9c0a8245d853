//! Mixers with a recurrent state from their tensors.

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Delta, Norm, NormKind, Ssm};
use mlxr_weights::Kind;

use crate::LoadError;
use crate::hyper::SsmShape;
use crate::load::{Loader, Raw};
use crate::names::Role;
use crate::recurrent::{DeltaNet, Mamba, Mamba2, Projection, ShortConv};

impl<B: Backend> Loader<'_, B> {
    fn gguf(&self) -> bool {
        self.checkpoint.kind == Kind::Gguf
    }

    /// `n` numbers that must be there.
    fn numbers(&self, role: Role, i: usize, suffix: &str, n: usize) -> Result<Vec<f32>, LoadError> {
        let (stem, v) = self.vector(role, i, suffix)?.ok_or_else(|| self.missing(role, i))?;
        if v.len() == n { Ok(v) } else { Err(self.shape_error(&stem, v.len().to_string(), n.to_string())) }
    }

    /// A convolution's weights and bias.
    fn filter(
        &mut self,
        role: Role,
        i: usize,
        [n_channel, n_conv]: [usize; 2],
    ) -> Result<(B::Tensor, Option<B::Tensor>), LoadError> {
        let weight = self.numbers(role, i, ".weight", n_channel * n_conv)?;
        let bias = match self.vector(role, i, ".bias")? {
            Some(_) => Some(self.numbers(role, i, ".bias", n_channel)?),
            None => None,
        };
        let weight = self.backend.tensor([n_channel, n_conv], &weight);
        Ok((weight, bias.map(|b| self.backend.tensor([1, n_channel], &b))))
    }

    /// The negative factors of a decay; Hugging Face files store the logarithm of their magnitude.
    fn decays(&self, i: usize, n: usize) -> Result<Vec<f32>, LoadError> {
        let mut a = self.numbers(Role::SsmA, i, "", n)?;
        if !self.gguf() {
            a.iter_mut().for_each(|a| *a = -a.exp());
        }
        Ok(a)
    }

    fn ssm_shape(&self, i: usize) -> Result<SsmShape, LoadError> {
        self.hyper.ssm.ok_or_else(|| self.missing(Role::SsmIn, i))
    }

    pub(crate) fn mamba(&mut self, i: usize) -> Result<Mamba<B>, LoadError> {
        let SsmShape { n_conv, d_inner, d_state, .. } = self.ssm_shape(i)?;
        let d_model = self.hyper.d_model;
        let dt = self.raw(Role::SsmDt, i)?;
        let rank = dt.matrix.n_in;
        self.expect(&dt.matrix, [d_inner, rank])?;
        let (conv, conv_bias) = self.filter(Role::SsmConv, i, [d_inner, n_conv])?;
        let eps = self.config.nonzero(crate::config::SSM_EPS)?.unwrap_or(self.hyper.eps);
        let plain = self.config.flag(crate::config::SSM_NORMED) == Some(true) || self.arch.ssm_normed;
        let roles = [(Role::SsmDtNorm, rank), (Role::SsmBNorm, d_state), (Role::SsmCNorm, d_state)];
        let norms = if self.names.find(Role::SsmDtNorm, i).is_some() {
            let [a, b, c] = roles.map(|(role, n)| self.need_norm(role, i, n));
            Some([a?, b?, c?])
        } else {
            plain.then(|| [0; 3].map(|_| Norm { kind: NormKind::Rms, weight: None, bias: None, eps }))
        };
        let (a, d) = (self.decays(i, d_inner * d_state)?, self.numbers(Role::SsmD, i, "", d_inner)?);
        Ok(Mamba {
            input: self.need(Role::SsmIn, i, [2 * d_inner, d_model])?,
            conv,
            conv_bias,
            select: self.need(Role::SsmX, i, [rank + 2 * d_state, d_inner])?,
            dt: self.linear(dt)?,
            norms,
            a: self.backend.tensor([d_inner, d_state], &a),
            d: self.backend.tensor([1, d_inner], &d),
            out: self.need(Role::SsmOut, i, [d_model, d_inner])?,
            shape: Ssm { n_head: d_inner, d_head: 1, d_state, n_group: 1 },
            rank,
        })
    }

    pub(crate) fn mamba2(&mut self, i: usize) -> Result<Mamba2<B>, LoadError> {
        let s = self.ssm_shape(i)?;
        if s.n_head == 0 || !s.d_inner.is_multiple_of(s.n_head) || !s.n_head.is_multiple_of(s.n_group) {
            let expected = format!("a divisor of {}, in {} groups", s.d_inner, s.n_group);
            return Err(self.config.error(crate::config::SSM_HEADS, s.n_head, &expected));
        }
        let d_model = self.hyper.d_model;
        let n_channel = s.d_inner + 2 * s.n_group * s.d_state;
        let (conv, conv_bias) = self.filter(Role::SsmConv, i, [n_channel, s.n_conv])?;
        let dt_bias = self.numbers(Role::SsmDtBias, i, "", s.n_head)?;
        let a = self.decays(i, s.n_head)?;
        let d_head = s.d_inner / s.n_head;
        let d = self.numbers(Role::SsmD, i, "", s.n_head)?;
        let d: Vec<f32> = d.iter().flat_map(|&d| std::iter::repeat_n(d, d_head)).collect();
        // Each group is normed by itself, with its part of the weights.
        let groups = s.n_group;
        let norm = match self.vector(Role::SsmNorm, i, ".weight")? {
            Some(_) => Some(self.numbers(Role::SsmNorm, i, ".weight", s.d_inner)?),
            None => None,
        };
        let norm = norm.map(|w| Norm {
            kind: NormKind::Rms,
            weight: Some(self.backend.tensor([groups, s.d_inner / groups], &w)),
            bias: None,
            eps: self.hyper.eps,
        });
        let factors = self.hyper.factors;
        let mut input = self.need(Role::SsmIn, i, [s.d_inner + n_channel + s.n_head, d_model])?;
        input.scale *= factors.ssm_in;
        let widths = [s.d_inner, s.d_inner, s.n_group * s.d_state, s.n_group * s.d_state, s.n_head];
        let parts = widths.into_iter().zip(factors.ssm_parts).flat_map(|(n, f)| std::iter::repeat_n(f, n));
        let parts: Vec<f32> = parts.collect();
        let scaled = parts.iter().any(|&f| f != 1.0);
        let mut out = self.need(Role::SsmOut, i, [d_model, s.d_inner])?;
        out.scale *= factors.ssm_out;
        Ok(Mamba2 {
            input,
            input_scale: scaled.then(|| self.backend.tensor([1, parts.len()], &parts)),
            norm_first: self.config.flag(crate::config::SSM_NORM_FIRST) == Some(true),
            conv,
            conv_bias,
            dt_bias: self.backend.tensor([1, s.n_head], &dt_bias),
            a: self.backend.tensor([s.n_head, 1], &a),
            d: self.backend.tensor([1, s.d_inner], &d),
            norm,
            norm_groups: groups,
            out,
            shape: Ssm { n_head: s.n_head, d_head, d_state: s.d_state, n_group: s.n_group },
            d_inner: s.d_inner,
        })
    }

    pub(crate) fn short_conv(&mut self, i: usize) -> Result<ShortConv<B>, LoadError> {
        let n_conv = self.hyper.n_short_conv.ok_or_else(|| self.missing(Role::ShortConv, i))?;
        let d_model = self.hyper.d_model;
        let (conv, conv_bias) = self.filter(Role::ShortConv, i, [d_model, n_conv])?;
        Ok(ShortConv {
            input: self.need(Role::ShortConvIn, i, [3 * d_model, d_model])?,
            conv,
            conv_bias,
            out: self.need(Role::ShortConvOut, i, [d_model, d_model])?,
            d_model,
        })
    }

    pub(crate) fn delta(&mut self, i: usize) -> Result<DeltaNet<B>, LoadError> {
        let kda = self.names.find(Role::DeltaConvQ, i).is_some();
        let d = self.hyper.delta.ok_or_else(|| self.missing(Role::SsmConv, i))?;
        let d_model = self.hyper.d_model;
        let (d_k, d_v) = (d.d_k, d.d_v);
        let [qkv, beta, decay, gate] = if kda { self.kda_inputs(i)? } else { self.delta_inputs(i)? };
        let all: usize = qkv.iter().map(|raw| raw.matrix.n_out).sum();
        let (n_head, n_key_head) = if kda { (all / d_k / 3, all / d_k / 3) } else { (d.n_head, d.n_key_head) };
        let n_channel = 2 * n_key_head * d_k + n_head * d_v;
        let n_decay = if kda { n_head * d_k } else { n_head };
        for raw in &qkv {
            self.expect(&raw.matrix, [n_channel / qkv.len(), d_model])?;
        }
        for (raws, n) in [(&beta, n_head), (&decay, n_decay), (&gate, n_head * d_v)] {
            let low_rank = raws.len() > 1;
            let inner = if low_rank { raws[0].matrix.n_out } else { n };
            self.expect(&raws[0].matrix, [inner, d_model])?;
            self.expect(&raws[raws.len() - 1].matrix, [n, if low_rank { inner } else { d_model }])?;
        }
        let conv = match kda {
            true => self.kda_filter(i, [n_head * d_k, d.n_conv])?,
            false => self.filter(Role::SsmConv, i, [n_channel, d.n_conv])?.0,
        };
        let a = self.decays(i, n_head)?;
        let a: Vec<f32> = a.iter().flat_map(|&a| std::iter::repeat_n(a, n_decay / n_head)).collect();
        let dt_bias = self.numbers(Role::SsmDtBias, i, "", n_decay)?;
        let norm = self.numbers(Role::SsmNorm, i, ".weight", d_v)?;
        let qkv = qkv.into_iter().map(|raw| self.linear(raw)).collect::<Result<_, _>>()?;
        let mut out = self.need(if kda { Role::AttnOut } else { Role::SsmOut }, i, [d_model, n_head * d_v])?;
        if kda && self.gguf() {
            out.scale = 1.0; // GGUF's runtime leaves it out
        }
        let root = (d_k as f32).sqrt();
        let eps = if self.gguf() { self.hyper.eps } else { 1e-6 };
        Ok(DeltaNet {
            qkv,
            conv,
            q_norm: self.unit_norm(d_k, 1.0 / root / root, eps),
            k_norm: self.unit_norm(d_k, 1.0 / root, eps),
            beta: self.projection(beta)?,
            decay: self.projection(decay)?,
            dt_bias: self.backend.tensor([1, n_decay], &dt_bias),
            a: self.backend.tensor([1, n_decay], &a),
            bound: d.bound,
            gate: self.projection(gate)?,
            gate_act: if self.arch.delta_sigmoid { Act::Sigmoid } else { Act::Silu },
            norm: Norm {
                kind: NormKind::Rms,
                weight: Some(self.backend.tensor([1, d_v], &norm)),
                bias: None,
                eps: self.hyper.eps,
            },
            out,
            shape: Delta { n_head, n_key_head, d_k, d_v, tiled: self.gguf() && self.arch.delta_tiled },
        })
    }

    /// A norm to length `root(d) * factor`: `x * rsqrt(sum(x^2) + eps)` is a root mean square norm but for factors.
    fn unit_norm(&mut self, d: usize, factor: f32, eps: f32) -> Norm<B> {
        let weight = self.backend.tensor([1, d], &vec![factor; d]);
        Norm { kind: NormKind::Rms, weight: Some(weight), bias: None, eps: eps / d as f32 }
    }

    fn projection(&mut self, mut raws: Vec<Raw>) -> Result<Projection<B>, LoadError> {
        let last = raws.pop();
        match (raws.pop(), last) {
            (Some(first), Some(second)) => Ok(Projection::LowRank(self.linear(first)?, self.linear(second)?)),
            (None, Some(only)) => Ok(Projection::Full(self.linear(only)?)),
            _ => Err(self.missing(Role::DeltaAlpha, 0)),
        }
    }

    /// q with k with v, beta, decay and gate of a delta net whose heads decay as a whole.
    fn delta_inputs(&mut self, i: usize) -> Result<[Vec<Raw>; 4], LoadError> {
        let d = self.hyper.delta.ok_or_else(|| self.missing(Role::SsmConv, i))?;
        let (n_key, each) = (d.n_key_head.max(1), d.n_head / d.n_key_head.max(1));
        // Groups of a key head: its rows, then those of the heads that share it.
        let parts = |sizes: [usize; 4], part: usize| {
            let (stride, from) = (sizes.iter().sum::<usize>(), sizes[..part].iter().sum::<usize>());
            (0..n_key).flat_map(move |g| g * stride + from..g * stride + from + sizes[part])
        };
        let (qkv, z) = match self.optional(Role::DeltaQkv, i)? {
            Some(qkv) => {
                // Files may hold both arrangements.
                self.names.find(Role::SsmIn, i);
                (qkv, self.raw(Role::DeltaGate, i)?)
            }
            None => {
                let all = self.raw(Role::SsmIn, i)?;
                let sizes = [d.d_k, d.d_k, each * d.d_v, each * d.d_v];
                self.expect(&all.matrix, [n_key * sizes.iter().sum::<usize>(), self.hyper.d_model])?;
                let qkv = [0, 1, 2].into_iter().flat_map(|p| parts(sizes, p));
                (self.take(&all, qkv)?, self.take(&all, parts(sizes, 3))?)
            }
        };
        let (beta, alpha) = match self.optional(Role::DeltaBetaAlpha, i)? {
            Some(both) => {
                self.expect(&both.matrix, [2 * d.n_head, self.hyper.d_model])?;
                let sizes = [each, each, 0, 0];
                (self.take(&both, parts(sizes, 0))?, self.take(&both, parts(sizes, 1))?)
            }
            None => (self.raw(Role::DeltaBeta, i)?, self.raw(Role::DeltaAlpha, i)?),
        };
        Ok([vec![qkv], vec![beta], vec![alpha], vec![z]])
    }

    /// The same of Kimi's, whose channels decay each for itself.
    fn kda_inputs(&mut self, i: usize) -> Result<[Vec<Raw>; 4], LoadError> {
        let qkv = match self.optional(Role::AttnQkv, i)? {
            Some(qkv) => vec![qkv],
            None => {
                let parts = [Role::AttnQ, Role::AttnK, Role::AttnV].into_iter().map(|role| self.raw(role, i));
                parts.collect::<Result<_, _>>()?
            }
        };
        let low_rank = |this: &Self, a, b| -> Result<Vec<Raw>, LoadError> {
            let first = this.raw(a, i)?;
            Ok(std::iter::once(first).chain(this.optional(b, i)?).collect())
        };
        let decay = low_rank(self, Role::DeltaDecayA, Role::DeltaDecayB)?;
        let gate = low_rank(self, Role::DeltaGateA, Role::DeltaGateB)?;
        Ok([qkv, vec![self.raw(Role::DeltaBeta, i)?], decay, gate])
    }

    fn kda_filter(&mut self, i: usize, [n, n_conv]: [usize; 2]) -> Result<B::Tensor, LoadError> {
        let mut all = Vec::with_capacity(3 * n * n_conv);
        for role in [Role::DeltaConvQ, Role::DeltaConvK, Role::DeltaConvV] {
            all.extend(self.numbers(role, i, ".weight", n * n_conv)?);
        }
        Ok(self.backend.tensor([3 * n, n_conv], &all))
    }
}
