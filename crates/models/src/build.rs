//! Layers from their tensors: which parts a layer has is read from what the checkpoint has.

use mlxr_compute::op::{Norm, Window};
use mlxr_compute::{Backend, DType, MatrixData};
use mlxr_weights::Kind;

use crate::LoadError;
use crate::arch::{Fused, Norms, Parallel};
use crate::layer::{Attn, Gate, Layer, Mixer, QkNorm};
use crate::load::{Loader, Raw};
use crate::names::Role;
use crate::table;

impl<B: Backend> Loader<'_, B> {
    pub(crate) fn layer(&mut self, i: usize) -> Result<Layer<B>, LoadError> {
        let post = self.arch.norms != Norms::Pre;
        let pre = self.arch.norms != Norms::Post;
        let mixer = self.mixer(i)?;
        let ffn = self.ffn(i)?;
        let mut ffn_norm = if pre { self.norm(Role::FfnNorm, i)? } else { None };
        let parallel = match self.arch.parallel {
            Parallel::No => false,
            Parallel::WithoutFfnNorm => ffn_norm.is_none(),
            Parallel::Yes | Parallel::Config => self.hyper.parallel == Parallel::Yes,
        };
        let mut attn_norm = if pre { self.norm(Role::AttnNorm, i)? } else { None };
        if matches!(mixer, Mixer::None) {
            ffn_norm = ffn_norm.or(attn_norm.take());
        } else if pre && attn_norm.is_none() {
            attn_norm = Some(self.plain_norm(Role::AttnNorm, i)?);
            ffn_norm = Some(self.plain_norm(Role::FfnNorm, i)?);
        }
        Ok(Layer {
            attn_norm,
            attn_norm_2: self.norm(Role::AttnNorm2, i)?,
            mixer,
            post_attn_norm: if post { self.post_norm(Role::PostAttnNorm, i)? } else { None },
            ffn_norm,
            ffn,
            post_ffn_norm: if post { self.post_norm(Role::PostFfnNorm, i)? } else { None },
            parallel,
        })
    }

    /// OLMo's norms have no weights; every other architecture's must be there.
    pub(crate) fn plain_norm(&self, role: Role, i: usize) -> Result<Norm<B>, LoadError> {
        if self.hyper.norm == mlxr_compute::op::NormKind::Layer && self.names.find(Role::OutputNorm, 0).is_none() {
            return Ok(Norm { kind: self.hyper.norm, weight: None, bias: None, eps: self.hyper.eps });
        }
        Err(self.missing(role, i))
    }

    fn post_norm(&mut self, role: Role, i: usize) -> Result<Option<Norm<B>>, LoadError> {
        let eps = self.arch.post_eps.unwrap_or(self.hyper.eps);
        let norm = self.norm(role, i)?.ok_or_else(|| self.missing(role, i))?;
        Ok(Some(Norm { eps, ..norm }))
    }

    /// Whether the architecture is known by its name, so that parts beyond LLaMA's mean what they mean there.
    pub(crate) fn named(&self) -> bool {
        !std::ptr::eq(self.arch, table::GENERIC)
    }

    /// What mixes tokens is known by its tensors.
    pub(crate) fn mixer(&mut self, i: usize) -> Result<Mixer<B>, LoadError> {
        let has = |role| self.named() && self.names.find(role, i).is_some();
        let attention = has(Role::AttnQ) || has(Role::AttnQkv);
        if has(Role::ShortConvIn) {
            return Ok(Mixer::Conv(Box::new(self.short_conv(i)?)));
        }
        if has(Role::DeltaBetaAlpha) || has(Role::DeltaBeta) {
            return Ok(Mixer::Delta(Box::new(self.delta(i)?)));
        }
        if has(Role::SsmX) {
            return Ok(Mixer::Mamba(Box::new(self.mamba(i)?)));
        }
        if has(Role::SsmIn) && attention {
            self.n_second += 1;
            let (attn, mamba) = (self.attention(i)?, self.mamba2(i)?);
            let state = self.hyper.n_layer + self.n_second - 1;
            return Ok(Mixer::Both(Box::new(attn), Box::new(mamba), state));
        }
        if has(Role::SsmIn) {
            return Ok(Mixer::Ssm(Box::new(self.mamba2(i)?)));
        }
        match self.hyper.mla {
            Some(mla) => Ok(Mixer::Latent(Box::new(self.latent(i, mla)?))),
            None if !attention && self.arch.single_part => Ok(Mixer::None),
            None => Ok(Mixer::Attention(Box::new(self.attention(i)?))),
        }
    }

    /// The gate of attention's output: a number for each of `n_head` heads, or for each of their dimensions.
    pub(crate) fn gate(&mut self, i: usize, heads: [usize; 2]) -> Result<Option<Gate<B>>, LoadError> {
        if !self.named() {
            return Ok(None);
        }
        self.optional(Role::AttnGate, i)?.map(|raw| self.make_gate(raw, heads)).transpose()
    }

    fn make_gate(&mut self, raw: Raw, [n_head, d_v]: [usize; 2]) -> Result<Gate<B>, LoadError> {
        let n = if raw.matrix.n_out == n_head { n_head } else { n_head * d_v };
        self.expect(&raw.matrix, [n, self.hyper.d_model])?;
        let mut ones = || {
            let bytes: Vec<u8> = (0..d_v).flat_map(|_| 1f32.to_le_bytes()).collect();
            let one = MatrixData::blocks("ones", [d_v, 1], DType::F32, bytes.into())?;
            Ok::<_, LoadError>(self.backend.experts(&vec![one; n_head])?)
        };
        let spread = if n == n_head && d_v != 1 { Some(ones()?) } else { None };
        Ok(Gate { linear: self.linear(raw)?, act: self.arch.gate_act, spread })
    }

    fn attention(&mut self, i: usize) -> Result<Attn<B>, LoadError> {
        let (n_head, n_kv_head) = (self.hyper.n_head[i], self.hyper.n_kv_head[i]);
        let (d_model, d_k, d_v) = (self.hyper.d_model, self.hyper.d_k, self.hyper.d_v);
        let [mut q, mut k, mut v] = match self.optional(Role::AttnQkv, i)? {
            Some(fused) => self.split_qkv(i, &fused)?,
            None => [self.raw(Role::AttnQ, i)?, self.raw(Role::AttnK, i)?, self.raw(Role::AttnV, i)?],
        };
        let factors = self.hyper.factors;
        for (raw, factor) in [(&mut q, 1.0), (&mut k, factors.attn_key), (&mut v, 1.0)] {
            raw.scale *= factor * factors.attn_in;
        }
        let mut gate = self.gate(i, [n_head, d_v])?;
        if gate.is_none() && d_k == d_v && q.matrix.n_out == 2 * n_head * d_k {
            // Qwen3-Next: each head's query is followed by its gate.
            let rows = |from: usize| (0..n_head).flat_map(move |h| (2 * h + from) * d_k..(2 * h + from + 1) * d_k);
            let gates = self.take(&q, rows(1))?;
            q = self.take(&q, rows(0))?;
            gate = Some(self.make_gate(gates, [n_head, d_v])?);
        }
        for (raw, n_out) in [(&q, n_head * d_k), (&k, n_kv_head * d_k), (&v, n_kv_head * d_v)] {
            self.expect(&raw.matrix, [n_out, self.hyper.d_attn])?;
        }
        let window = self.hyper.window[i];
        let sinks = match self.vector(Role::Sinks, i, ".weight")?.or(self.vector(Role::Sinks, i, "")?) {
            Some((stem, s)) if s.len() != n_head => {
                return Err(self.shape_error(&stem, s.len().to_string(), n_head.to_string()));
            }
            sinks => sinks.map(|(_, s)| self.backend.tensor([1, n_head], &s)),
        };
        let rope = self.hyper.rotates[i].then(|| {
            let pairs = self.hyper.pairs;
            self.hyper.rope.rope(window != Window::Full, self.hyper.n_ctx, pairs)
        });
        let plain = self.hyper.qk_norm_plain && rope.is_some();
        let q_norm = self.qk_norm(Role::QNorm, i, [n_head, d_k], plain)?;
        let mut k_norm = self.qk_norm(Role::KNorm, i, [n_kv_head, d_k], plain)?;
        if self.arch.qk_norm_pair && q_norm.is_none() {
            k_norm = None;
        }
        let mut out = self.need(Role::AttnOut, i, [d_model, n_head * d_v])?;
        out.scale *= self.hyper.value_scale * factors.attn_out;
        Ok(Attn {
            q_norm,
            k_norm,
            norm_late: self.arch.qk_norm_late || plain,
            sub_norm: self.norm(Role::AttnSubNorm, i)?,
            out,
            gate,
            temperature: self.hyper.temperature.is_some_and(|t| !t.unrotated || rope.is_none()),
            q: self.linear(q)?,
            k: self.linear(k)?,
            v: self.linear(v)?,
            alibi: self.hyper.alibi.map(|bias| self.backend.tensor([1, n_head], &slopes(n_head, bias))),
            rope,
            sinks,
            n_head,
            n_kv_head,
            window,
        })
    }

    fn split_qkv(&self, i: usize, fused: &Raw) -> Result<[Raw; 3], LoadError> {
        let (n_head, n_kv) = (self.hyper.n_head[i], self.hyper.n_kv_head[i]);
        let (d_k, d_v) = (self.hyper.d_k, self.hyper.d_v);
        self.expect(&fused.matrix, [n_head * d_k + n_kv * (d_k + d_v), self.hyper.d_attn])?;
        let grouped = self.arch.qkv == Fused::Grouped && self.checkpoint.kind != Kind::Gguf;
        let groups = if grouped { n_kv } else { 1 };
        let sizes = [n_head * d_k / groups, n_kv * d_k / groups, n_kv * d_v / groups];
        let stride: usize = sizes.iter().sum();
        let mut from = 0;
        let mut parts = Vec::with_capacity(3);
        for size in sizes {
            parts.push(self.take(fused, (0..groups).flat_map(|g| g * stride + from..g * stride + from + size))?);
            from += size;
        }
        <[Raw; 3]>::try_from(parts).map_err(|_| self.missing(Role::AttnQkv, i))
    }

    fn qk_norm(
        &mut self,
        role: Role,
        i: usize,
        [n_head, d_head]: [usize; 2],
        plain: bool,
    ) -> Result<Option<QkNorm<B>>, LoadError> {
        if plain {
            return Ok(Some(QkNorm::Head(Norm {
                kind: self.hyper.norm,
                weight: None,
                bias: None,
                eps: self.hyper.eps,
            })));
        }
        let Some((stem, weight)) = self.head_weights(role, i, n_head)? else { return Ok(None) };
        if weight.len() == d_head {
            return Ok(self.norm(role, i)?.map(QkNorm::Head));
        }
        if weight.len() != n_head * d_head {
            let expected = format!("{d_head} or {}", n_head * d_head);
            return Err(self.shape_error(&stem, weight.len().to_string(), expected));
        }
        // One weight for each head: of a norm over each head (two dimensions) or over the row (one).
        let two = stem.contains("{e}")
            || self.checkpoint.tensor(&format!("{stem}.weight")).is_some_and(|t| t.shape.len() > 1);
        if !two {
            return Ok(self.norm(role, i)?.map(QkNorm::Row));
        }
        let weight = self.backend.tensor([n_head, d_head], &weight);
        Ok(Some(QkNorm::Head(Norm { kind: self.hyper.norm, weight: Some(weight), bias: None, eps: self.hyper.eps })))
    }

    /// Norm weights of all heads, which StableLM's Hugging Face files keep in a tensor each.
    fn head_weights(&self, role: Role, i: usize, n_head: usize) -> Result<Option<(String, Vec<f32>)>, LoadError> {
        let Some(stem) = self.names.find(role, i) else { return Ok(None) };
        let heads = if stem.contains("{e}") { n_head } else { 1 };
        let mut all = Vec::new();
        for h in 0..heads {
            let name = format!("{}.weight", stem.replace("{e}", &h.to_string()));
            let (_, w) = self.checkpoint.vector(&name)?.ok_or_else(|| self.missing(role, i))?;
            all.extend_from_slice(&w);
        }
        Ok(Some((stem, all)))
    }
}

/// ALiBi's slopes of all heads. Source: arXiv:2108.12409; other than powers of two as in its reference code.
fn slopes(n_head: usize, bias: f32) -> Vec<f32> {
    let whole = 1usize << n_head.ilog2();
    let step = |divisor: f32| (-bias / divisor).exp2();
    let (first, between) = (step(whole as f32), step(2.0 * whole as f32));
    let slope = |h: usize| match h.checked_sub(whole) {
        None => first.powi(h as i32 + 1),
        Some(extra) => between.powi(2 * extra as i32 + 1),
    };
    (0..n_head).map(slope).collect()
}
