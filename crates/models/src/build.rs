//! Layers from their tensors: which parts a layer has is read from what the checkpoint has.

use mlxr_compute::op::{Norm, Ssm, Window};
use mlxr_compute::{Backend, MatrixData};
use mlxr_weights::Kind;

use crate::LoadError;
use crate::arch::{Fused, Norms, Parallel};
use crate::hyper::Mla;
use crate::layer::{Attn, Dense, Ffn, Latent, LatentHeads, LatentQuery, Layer, Mamba2, Mixer, MoeFfn, QkNorm};
use crate::load::{Loader, Raw, transpose};
use crate::names::Role;

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
        if pre && attn_norm.is_none() {
            attn_norm = Some(self.plain_norm(Role::AttnNorm, i)?);
            ffn_norm = Some(self.plain_norm(Role::FfnNorm, i)?);
        }
        Ok(Layer {
            attn_norm,
            attn_norm_2: self.norm(Role::AttnNorm2, i)?,
            mixer,
            post_attn_norm: if post { self.norm(Role::PostAttnNorm, i)? } else { None },
            ffn_norm,
            ffn,
            post_ffn_norm: if post { self.norm(Role::PostFfnNorm, i)? } else { None },
            parallel,
        })
    }

    /// OLMo's norms have no weights; every other architecture's must be there.
    pub(crate) fn plain_norm(&self, role: Role, i: usize) -> Result<Norm<B>, LoadError> {
        if self.arch.norm == mlxr_compute::op::NormKind::Layer && self.names.find(Role::OutputNorm, 0).is_none() {
            return Ok(Norm { kind: self.arch.norm, weight: None, bias: None, eps: self.hyper.eps });
        }
        Err(self.missing(role, i))
    }

    fn mixer(&mut self, i: usize) -> Result<Mixer<B>, LoadError> {
        if self.names.find(Role::SsmIn, i).is_some() {
            return Ok(Mixer::Ssm(Box::new(self.mamba2(i)?)));
        }
        match self.hyper.mla {
            Some(mla) => Ok(Mixer::Latent(Box::new(self.latent(i, mla)?))),
            None => Ok(Mixer::Attention(Box::new(self.attention(i)?))),
        }
    }

    fn attention(&mut self, i: usize) -> Result<Attn<B>, LoadError> {
        let (n_head, n_kv_head) = (self.hyper.n_head[i], self.hyper.n_kv_head[i]);
        let (d_model, d_k, d_v) = (self.hyper.d_model, self.hyper.d_k, self.hyper.d_v);
        let [q, k, v] = match self.optional(Role::AttnQkv, i)? {
            Some(fused) => self.split_qkv(i, &fused)?,
            None => [self.raw(Role::AttnQ, i)?, self.raw(Role::AttnK, i)?, self.raw(Role::AttnV, i)?],
        };
        for (raw, n_out) in [(&q, n_head * d_k), (&k, n_kv_head * d_k), (&v, n_kv_head * d_v)] {
            self.expect(&raw.matrix, [n_out, d_model])?;
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
        let plain = self.arch.qk_norm_plain && rope.is_some();
        Ok(Attn {
            q_norm: self.qk_norm(Role::QNorm, i, [n_head, d_k], plain)?,
            k_norm: self.qk_norm(Role::KNorm, i, [n_kv_head, d_k], plain)?,
            norm_late: self.arch.qk_norm_late || plain,
            sub_norm: self.norm(Role::AttnSubNorm, i)?,
            out: self.need(Role::AttnOut, i, [d_model, n_head * d_v])?,
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
        self.expect(&fused.matrix, [n_head * d_k + n_kv * (d_k + d_v), self.hyper.d_model])?;
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
                kind: self.arch.norm,
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
        Ok(Some(QkNorm::Head(Norm { kind: self.arch.norm, weight: Some(weight), bias: None, eps: self.hyper.eps })))
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

    fn latent(&mut self, i: usize, mla: Mla) -> Result<Latent<B>, LoadError> {
        let n_head = self.hyper.n_head[i];
        let (d_model, rank) = (self.hyper.d_model, mla.kv_rank);
        let q = if self.names.find(Role::QA, i).is_some() {
            let a = self.raw(Role::QA, i)?;
            let q_rank = a.matrix.n_out;
            self.expect(&a.matrix, [q_rank, d_model])?;
            let norm = self.need_norm(Role::QANorm, i, q_rank)?;
            LatentQuery::LowRank { a: self.linear(a)?, norm, b: self.latent_heads(Role::QB, i, mla, q_rank)? }
        } else {
            LatentQuery::Full(self.latent_heads(Role::AttnQ, i, mla, d_model)?)
        };
        let [k_b, v_b] = self.absorbed(i, mla)?;
        let kv_a = self.raw(Role::KvA, i)?;
        self.expect(&kv_a.matrix, [rank + mla.d_rope, d_model])?;
        let [latent, key] = [0..rank, rank..rank + mla.d_rope].map(|rows| self.take(&kv_a, rows));
        Ok(Latent {
            q,
            kv_latent: self.linear(latent?)?,
            kv_key: self.linear(key?)?,
            kv_norm: self.need_norm(Role::KvANorm, i, rank)?,
            k_b: self.backend.experts(&k_b)?,
            v_b: self.backend.experts(&v_b)?,
            out: self.need(Role::AttnOut, i, [d_model, n_head * mla.d_v])?,
            rope: self.hyper.rope.rope(false, self.hyper.n_ctx, self.hyper.pairs),
            n_head,
        })
    }

    /// A query projection whose heads are `d_nope` rows of content and `d_rope` rotated rows.
    fn latent_heads(&mut self, role: Role, i: usize, mla: Mla, n_in: usize) -> Result<LatentHeads<B>, LoadError> {
        let (n_head, stride) = (self.hyper.n_head[i], mla.d_nope + mla.d_rope);
        let q = self.raw(role, i)?;
        self.expect(&q.matrix, [n_head * stride, n_in])?;
        let rows = |from: usize, n: usize| (0..n_head).flat_map(move |h| h * stride + from..h * stride + from + n);
        let content = self.take(&q, rows(0, mla.d_nope))?;
        let rotated = self.take(&q, rows(mla.d_nope, mla.d_rope))?;
        Ok(LatentHeads { content: self.linear(content)?, rotated: self.linear(rotated)? })
    }

    /// A head's matrices `[kv_rank, d_nope]` and `[d_v, kv_rank]`: given, or cut from the joint `[d_nope + d_v, kv_rank]`.
    fn absorbed(&self, i: usize, mla: Mla) -> Result<[Vec<MatrixData>; 2], LoadError> {
        let n_head = self.hyper.n_head[i];
        let given = |role| -> Result<Option<Vec<MatrixData>>, LoadError> {
            let Some(stem) = self.names.find(role, i) else { return Ok(None) };
            // A file of one head may drop the dimension of heads.
            if self.checkpoint.tensor(&format!("{stem}.weight")).is_some_and(|t| t.shape.len() == 2) {
                return Ok(self.checkpoint.matrix(&stem)?.map(|m| vec![m]));
            }
            Ok(self.checkpoint.experts(&stem)?)
        };
        let (k_b, v_b) = match (given(Role::KB)?, given(Role::VB)?) {
            (Some(k_b), Some(v_b)) => (k_b, v_b),
            _ => {
                let joint = self.raw(Role::KvB, i)?.matrix;
                let stride = mla.d_nope + mla.d_v;
                self.expect(&joint, [n_head * stride, mla.kv_rank])?;
                let heads = 0..n_head;
                let rows = |h: usize, from: usize, n: usize| {
                    joint.take_rows(&(h * stride + from..h * stride + from + n).collect::<Vec<_>>())
                };
                let k = heads.clone().map(|h| transpose(&rows(h, 0, mla.d_nope)?));
                let k = k.collect::<Result<Vec<_>, LoadError>>()?;
                let v = heads.map(|h| Ok(rows(h, mla.d_nope, mla.d_v)?)).collect::<Result<Vec<_>, LoadError>>()?;
                (k, v)
            }
        };
        for (list, shape) in [(&k_b, [mla.kv_rank, mla.d_nope]), (&v_b, [mla.d_v, mla.kv_rank])] {
            if list.len() != n_head {
                return Err(self.missing(Role::KB, i));
            }
            for matrix in list {
                self.expect(matrix, shape)?;
            }
        }
        Ok([k_b, v_b])
    }

    fn mamba2(&mut self, i: usize) -> Result<Mamba2<B>, LoadError> {
        let s = self.hyper.ssm.ok_or_else(|| self.missing(Role::SsmIn, i))?;
        let d_model = self.hyper.d_model;
        let n_channel = s.d_inner + 2 * s.n_group * s.d_state;
        let need = |this: &Self, role, suffix: &str, n: usize| -> Result<Vec<f32>, LoadError> {
            let (stem, v) = this.vector(role, i, suffix)?.ok_or_else(|| this.missing(role, i))?;
            if v.len() == n { Ok(v) } else { Err(this.shape_error(&stem, v.len().to_string(), n.to_string())) }
        };
        let conv = need(self, Role::SsmConv, ".weight", n_channel * s.n_conv)?;
        let conv_bias = self.vector(Role::SsmConv, i, ".bias")?.map(|(_, b)| b);
        let gguf = self.checkpoint.kind == Kind::Gguf;
        let dt_bias = need(self, Role::SsmDt, if gguf { ".bias" } else { "_bias" }, s.n_head);
        let dt_bias = match dt_bias {
            Err(_) if !gguf => self.beside(i, "mixer.dt_bias", s.n_head)?,
            other => other?,
        };
        let mut a = need(self, Role::SsmA, "", s.n_head)?;
        if !gguf {
            a.iter_mut().for_each(|a| *a = -a.exp()); // stored as the logarithm of its negative
        }
        let d_head = s.d_inner / s.n_head;
        let d: Vec<f32> =
            need(self, Role::SsmD, "", s.n_head)?.iter().flat_map(|&d| std::iter::repeat_n(d, d_head)).collect();
        // Each group is normed by itself, with its part of the weights.
        let groups = s.n_group;
        let norm = self.vector(Role::SsmNorm, i, ".weight")?.map(|(stem, w)| match w.len() == s.d_inner {
            true => Ok(w),
            false => Err(self.shape_error(&stem, w.len().to_string(), s.d_inner.to_string())),
        });
        let norm = norm.transpose()?.map(|w| Norm {
            kind: mlxr_compute::op::NormKind::Rms,
            weight: Some(self.backend.tensor([groups, s.d_inner / groups], &w)),
            bias: None,
            eps: self.hyper.eps,
        });
        Ok(Mamba2 {
            input: self.need(Role::SsmIn, i, [s.d_inner + n_channel + s.n_head, d_model])?,
            conv: self.backend.tensor([n_channel, s.n_conv], &conv),
            conv_bias: conv_bias.map(|b| self.backend.tensor([1, b.len()], &b)),
            dt_bias: self.backend.tensor([1, s.n_head], &dt_bias),
            a: self.backend.tensor([s.n_head, 1], &a),
            d: self.backend.tensor([1, s.d_inner], &d),
            norm,
            norm_groups: groups,
            out: self.need(Role::SsmOut, i, [d_model, s.d_inner])?,
            shape: Ssm { n_head: s.n_head, d_head, d_state: s.d_state, n_group: s.n_group },
            d_inner: s.d_inner,
        })
    }

    /// A parameter that has a name of its own beside another role's.
    fn beside(&self, i: usize, name: &str, n: usize) -> Result<Vec<f32>, LoadError> {
        let Some(stem) = self.names.find(Role::SsmIn, i) else { return Err(self.missing(Role::SsmDt, i)) };
        let full = stem.replace("mixer.in_proj", name);
        match self.checkpoint.vector(&full)? {
            Some((_, v)) if v.len() == n => Ok(v),
            Some((_, v)) => Err(self.shape_error(&full, v.len().to_string(), n.to_string())),
            None => Err(self.missing(Role::SsmDt, i)),
        }
    }

    fn ffn(&mut self, i: usize) -> Result<Ffn<B>, LoadError> {
        if self.hyper.moe.n_expert > 0 && self.names.find(Role::Router, i).is_some() {
            return Ok(Ffn::Moe(Box::new(self.moe(i)?)));
        }
        let roles = [Role::FfnGate, Role::FfnUp, Role::FfnDown];
        let has = self.names.find(Role::FfnUp, i).is_some() || self.names.find(Role::FfnGateUp, i).is_some();
        if !has && self.hyper.ssm.is_some() {
            return Ok(Ffn::None);
        }
        Ok(Ffn::Dense(Box::new(self.dense(roles, i)?)))
    }

    fn dense(&mut self, [gate, up, down]: [Role; 3], i: usize) -> Result<Dense<B>, LoadError> {
        let d_model = self.hyper.d_model;
        let down_raw = self.raw(down, i)?;
        let d_ff = down_raw.matrix.n_in;
        self.expect(&down_raw.matrix, [d_model, d_ff])?;
        let fused = if gate == Role::FfnGate { self.optional(Role::FfnGateUp, i)? } else { None };
        let up_raw = match fused {
            Some(raw) => raw,
            None => self.raw(up, i)?,
        };
        // Phi 3, GLM 4: gate and up in one matrix, the gate first.
        let (gate, up) = if up_raw.matrix.n_out == 2 * d_ff {
            let halves = [self.take(&up_raw, 0..d_ff)?, self.take(&up_raw, d_ff..2 * d_ff)?];
            let [g, u] = halves;
            (Some(self.linear(g)?), self.linear(u)?)
        } else {
            let gate = self.optional(gate, i)?;
            if let Some(raw) = &gate {
                self.expect(&raw.matrix, [d_ff, d_model])?;
            }
            self.expect(&up_raw.matrix, [d_ff, d_model])?;
            (gate.map(|raw| self.linear(raw)).transpose()?, self.linear(up_raw)?)
        };
        let sub_norm = if down == Role::FfnDown { self.norm(Role::FfnSubNorm, i)? } else { None };
        Ok(Dense { gate, up, down: self.linear(down_raw)?, sub_norm, act: self.hyper.act })
    }

    fn moe(&mut self, i: usize) -> Result<MoeFfn<B>, LoadError> {
        let (d_model, n_expert) = (self.hyper.d_model, self.hyper.moe.n_expert);
        let router = self.need(Role::Router, i, [n_expert, d_model])?;
        let d_ff = self.expert_width(i)?;
        let merged = self.names.find(Role::ExpGateUp, i).is_some();
        let (gate, up) = if merged {
            (None, self.experts(Role::ExpGateUp, i, [2 * d_ff, d_model])?)
        } else {
            (self.experts(Role::ExpGate, i, [d_ff, d_model])?, self.experts(Role::ExpUp, i, [d_ff, d_model])?)
        };
        let select = self.vector(Role::SelectBias, i, "")?.or(self.vector(Role::SelectBias, i, ".bias")?);
        let select_bias = match select {
            Some((stem, b)) if b.len() != n_expert => {
                return Err(self.shape_error(&stem, b.len().to_string(), n_expert.to_string()));
            }
            found => found.map(|(_, b)| self.backend.tensor([1, n_expert], &b)),
        };
        let has_shared = self.names.find(Role::ShDown, i).is_some();
        let shared = has_shared.then(|| self.dense([Role::ShGate, Role::ShUp, Role::ShDown], i)).transpose()?;
        let shared_router = self.optional(Role::ShRouter, i)?.map(|raw| self.linear(raw)).transpose()?;
        Ok(MoeFfn {
            router,
            select_bias,
            gate,
            up: up.ok_or_else(|| self.missing(Role::ExpUp, i))?,
            merged,
            down: self.experts(Role::ExpDown, i, [d_model, d_ff])?.ok_or_else(|| self.missing(Role::ExpDown, i))?,
            act: self.hyper.act,
            weight_input: self.arch.weight_input,
            shared,
            shared_router,
        })
    }

    /// Width of an expert, from its down projection.
    fn expert_width(&self, i: usize) -> Result<usize, LoadError> {
        let stem = self.names.find(Role::ExpDown, i).ok_or_else(|| self.missing(Role::ExpDown, i))?;
        let first = if stem.contains("{e}") {
            self.checkpoint.matrix(&stem.replace("{e}", "0"))?
        } else {
            self.checkpoint.experts(&stem)?.and_then(|e| e.into_iter().next())
        };
        let first = first.map(|m| self.arrange(Role::ExpDown, vec![m])).transpose()?;
        first.and_then(|m| m.first().map(|m| m.n_in)).ok_or_else(|| self.missing(Role::ExpDown, i))
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
