//! Mixers that keep a state of fixed size instead of keys and values.

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Delta, Linear, Norm, Ssm};

use crate::decoder::Pass;

/// A Mamba mixer. Source: arXiv:2312.00752; Jamba's norms of `dt`, `b` and `c`: arXiv:2403.19887.
pub struct Mamba<B: Backend> {
    /// `[2 * d_inner, d_model]`: x, then its gate.
    pub input: Linear<B>,
    pub conv: B::Tensor,
    pub conv_bias: Option<B::Tensor>,
    /// `[rank + 2 * d_state, d_inner]`: dt, b, c.
    pub select: Linear<B>,
    /// `[d_inner, rank]`.
    pub dt: Linear<B>,
    /// Of dt, b and c.
    pub norms: Option<[Norm<B>; 3]>,
    /// `[d_inner, d_state]`, negative.
    pub a: B::Tensor,
    /// `[1, d_inner]`.
    pub d: B::Tensor,
    pub out: Linear<B>,
    pub shape: Ssm,
    pub rank: usize,
}

impl<B: Backend> Mamba<B> {
    pub fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, seqs) = (&mut *pass.backend, &pass.seqs);
        let (d_inner, d_state) = (self.shape.n_head, self.shape.d_state);
        let [all] = b.linears(x, norm, [&self.input]);
        let z = b.columns(&all, d_inner, 2 * d_inner);
        let x = b.columns(&all, 0, d_inner);
        let x = b.conv(pass.kv, i, &x, &self.conv, self.conv_bias.as_ref(), seqs);
        let x = b.act(x, Act::Silu);
        let [select] = b.linears(&x, None, [&self.select]);
        let from = [0, self.rank, self.rank + d_state, self.rank + 2 * d_state];
        let mut parts = [0, 1, 2].map(|p| b.columns(&select, from[p], from[p + 1]));
        if let Some(norms) = &self.norms {
            for (part, norm) in parts.iter_mut().zip(norms) {
                *part = b.norm(part, norm);
            }
        }
        let [dt, write, read] = parts;
        let [dt] = b.linears(&dt, None, [&self.dt]);
        let dt = b.act(dt, Act::Softplus);
        let input = b.concat_heads(&write, &read, 1, 1);
        let input = b.concat_heads(&x, &input, 1, 1);
        let y = b.ssm_scan(pass.kv, i, &self.shape, [&input, &dt, &self.a], seqs);
        let skip = b.mul(x, &self.d);
        let y = b.add(y, &skip);
        b.glu(z, &y, Act::Silu)
    }
}

/// A Mamba-2 mixer. Source: arXiv:2405.21060.
pub struct Mamba2<B: Backend> {
    pub input: Linear<B>,
    /// `[1, n_out]` factors on the projected input (Falcon-H1's Hugging Face files).
    pub input_scale: Option<B::Tensor>,
    pub conv: B::Tensor,
    pub conv_bias: Option<B::Tensor>,
    pub dt_bias: B::Tensor,
    /// `[n_head, 1]`, negative.
    pub a: B::Tensor,
    /// `[1, d_inner]`: a head's factor repeated for its channels.
    pub d: B::Tensor,
    pub norm: Option<Norm<B>>,
    pub norm_groups: usize,
    /// Whether the norm comes before the gate.
    pub norm_first: bool,
    pub out: Linear<B>,
    pub shape: Ssm,
    pub d_inner: usize,
}

impl<B: Backend> Mamba2<B> {
    pub fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, seqs) = (&mut *pass.backend, &pass.seqs);
        let [mut all] = b.linears(x, norm, [&self.input]);
        if let Some(scale) = &self.input_scale {
            all = b.mul(all, scale);
        }
        let [_, n_all] = b.shape(&all);
        let z = b.columns(&all, 0, self.d_inner);
        let input = b.columns(&all, self.d_inner, n_all - self.shape.n_head);
        let dt = b.columns(&all, n_all - self.shape.n_head, n_all);
        let input = b.conv(pass.kv, i, &input, &self.conv, self.conv_bias.as_ref(), seqs);
        let input = b.act(input, Act::Silu);
        let dt = b.add(dt, &self.dt_bias);
        let dt = b.act(dt, Act::Softplus);
        let y = b.ssm_scan(pass.kv, i, &self.shape, [&input, &dt, &self.a], seqs);
        let skip = b.columns(&input, 0, self.d_inner);
        let skip = b.mul(skip, &self.d);
        let y = b.add(y, &skip);
        match &self.norm {
            Some(norm) if self.norm_first => {
                let y = b.head_norm(y, self.norm_groups, norm);
                b.glu(z, &y, Act::Silu)
            }
            Some(norm) => {
                let y = b.glu(z, &y, Act::Silu);
                b.head_norm(y, self.norm_groups, norm)
            }
            None => b.glu(z, &y, Act::Silu),
        }
    }
}

/// A gated delta net. Source: arXiv:2412.06464; with a decay for each channel: arXiv:2510.26692.
pub struct DeltaNet<B: Backend> {
    /// q, k, v, in one matrix `[2 * n_key_head * d_k + n_head * d_v, d_model]` or one each.
    pub qkv: Vec<Linear<B>>,
    pub conv: B::Tensor,
    /// Length 1 of q (and the factor of scores) and of k, heads of `n_key_head`.
    pub q_norm: Norm<B>,
    pub k_norm: Norm<B>,
    pub beta: Projection<B>,
    pub decay: Projection<B>,
    /// `[1, n]`, added to the decay's projection.
    pub dt_bias: B::Tensor,
    /// `[1, n]`, negative: a head's factor, repeated where each channel has a decay.
    pub a: B::Tensor,
    /// Where set, the decay is `bound * sigmoid(a * x)` instead of `a * softplus(x)`.
    pub bound: Option<f32>,
    pub gate: Projection<B>,
    pub gate_act: Act,
    pub norm: Norm<B>,
    pub out: Linear<B>,
    pub shape: Delta,
}

/// A projection, of low rank or not.
pub enum Projection<B: Backend> {
    Full(Linear<B>),
    LowRank(Linear<B>, Linear<B>),
}

impl<B: Backend> Projection<B> {
    fn first(&self) -> &Linear<B> {
        match self {
            Projection::Full(linear) | Projection::LowRank(linear, _) => linear,
        }
    }

    fn rest(&self, b: &mut B, x: B::Tensor) -> B::Tensor {
        match self {
            Projection::Full(_) => x,
            Projection::LowRank(_, second) => {
                let [x] = b.linears(&x, None, [second]);
                x
            }
        }
    }
}

impl<B: Backend> DeltaNet<B> {
    pub fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, seqs) = (&mut *pass.backend, &pass.seqs);
        let Delta { n_head, n_key_head, d_k, d_v, .. } = self.shape;
        let inputs = [self.beta.first(), self.decay.first(), self.gate.first()];
        let (qkv, [beta, decay, gate]) = match self.qkv.as_slice() {
            [qkv] => {
                let [qkv, rest @ ..] = b.linears(x, norm, [qkv, inputs[0], inputs[1], inputs[2]]);
                (qkv, rest)
            }
            [q, k, v] => {
                let [q, k, v, rest @ ..] = b.linears(x, norm, [q, k, v, inputs[0], inputs[1], inputs[2]]);
                let qk = b.concat_heads(&q, &k, 1, 1);
                (b.concat_heads(&qk, &v, 1, 1), rest)
            }
            other => unreachable!("a delta net has one matrix of q, k and v or three, not {}", other.len()),
        };
        let (decay, gate) = (self.decay.rest(b, decay), self.gate.rest(b, gate));
        let qkv = b.conv(pass.kv, i, &qkv, &self.conv, None, seqs);
        let qkv = b.act(qkv, Act::Silu);
        let key = n_key_head * d_k;
        let q = b.columns(&qkv, 0, key);
        let q = b.head_norm(q, n_key_head, &self.q_norm);
        let k = b.columns(&qkv, key, 2 * key);
        let k = b.head_norm(k, n_key_head, &self.k_norm);
        let v = b.columns(&qkv, 2 * key, 2 * key + n_head * d_v);
        let beta = b.act(beta, Act::Sigmoid);
        let decay = b.add(decay, &self.dt_bias);
        let decay = match self.bound {
            None => {
                let decay = b.act(decay, Act::Softplus);
                b.mul(decay, &self.a)
            }
            Some(bound) => {
                let decay = b.mul(decay, &self.a);
                let decay = b.act(decay, Act::Sigmoid);
                b.scale(decay, bound)
            }
        };
        let y = b.delta_scan(pass.kv, i, &self.shape, [&q, &k, &v, &decay, &beta], seqs);
        let y = b.head_norm(y, n_head, &self.norm);
        b.glu(gate, &y, self.gate_act)
    }
}

/// A gated short convolution. Source: modeling_lfm2.py.
pub struct ShortConv<B: Backend> {
    /// `[3 * d_model, d_model]`: the gate of the input, that of the output, the input.
    pub input: Linear<B>,
    pub conv: B::Tensor,
    pub conv_bias: Option<B::Tensor>,
    pub out: Linear<B>,
    pub d_model: usize,
}

impl<B: Backend> ShortConv<B> {
    pub fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, d) = (&mut *pass.backend, self.d_model);
        let [all] = b.linears(x, norm, [&self.input]);
        let [before, after, x] = [0, d, 2 * d].map(|from| b.columns(&all, from, from + d));
        let x = b.mul(x, &before);
        let x = b.conv(pass.kv, i, &x, &self.conv, self.conv_bias.as_ref(), &pass.seqs);
        b.mul(x, &after)
    }
}
