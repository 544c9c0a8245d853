//! The one decoder: every architecture's forward pass, over any backend.

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Attention, Moe, Norm, Seqs};
use mlxr_engine::runner::{Batch, Want};

use crate::hyper::Hyper;
use crate::layer::{Attn, Dense, Ffn, Latent, LatentQuery, Layer, Mamba2, Mixer, MoeFfn, QkNorm};

/// A loaded model's weights.
pub struct Decoder<B: Backend> {
    pub embed: B::Matrix,
    /// Learned positions (GPT-2).
    pub positions: Option<B::Matrix>,
    pub embed_norm: Option<Norm<B>>,
    pub layers: Vec<Layer<B>>,
    pub output_norm: Norm<B>,
    pub output: mlxr_compute::op::Linear<B>,
    pub n_vocab: usize,
}

/// What a pass works with besides weights.
pub struct Pass<'a, B: Backend> {
    pub backend: &'a mut B,
    pub kv: &'a mut B::Kv,
    pub hyper: &'a Hyper,
    pub seqs: Seqs<'a>,
}

impl<B: Backend> Decoder<B> {
    /// Hidden states of `tokens` after the last layer, not normed: `[n_tok, d_model]`. Only `rows` of them, if given:
    /// the last layer's feed-forward is computed for these alone.
    pub fn hidden(&self, pass: &mut Pass<'_, B>, tokens: &[u32], rows: Option<&[usize]>) -> B::Tensor {
        let mut x = pass.backend.embed(&self.embed, tokens);
        if pass.hyper.embed_scale != 1.0 {
            x = pass.backend.scale(x, pass.hyper.embed_scale);
        }
        if let Some(table) = &self.positions {
            let ids: Vec<u32> = pass.seqs.positions.iter().map(|&p| p.max(0) as u32).collect();
            let positions = pass.backend.embed(table, &ids);
            x = pass.backend.add(x, &positions);
        }
        if let Some(norm) = &self.embed_norm {
            x = pass.backend.norm(&x, norm);
        }
        let last = self.layers.len().saturating_sub(1);
        for (i, layer) in self.layers.iter().enumerate() {
            let rows = rows.filter(|_| i == last);
            x = layer.forward(pass, i, x, rows);
        }
        x
    }

    /// Logits of hidden states: `[n_row, n_vocab]`.
    pub fn logits(&self, pass: &mut Pass<'_, B>, hidden: &B::Tensor) -> B::Tensor {
        let [mut logits] = pass.backend.linears(hidden, Some(&self.output_norm), [&self.output]);
        if pass.hyper.logit_scale != 1.0 {
            logits = pass.backend.scale(logits, pass.hyper.logit_scale);
        }
        match pass.hyper.final_softcap {
            Some(cap) => pass.backend.softcap(logits, cap),
            None => logits,
        }
    }
}

impl<B: Backend> Layer<B> {
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: B::Tensor, rows: Option<&[usize]>) -> B::Tensor {
        let pick = |pass: &mut Pass<'_, B>, t: B::Tensor| match rows {
            Some(rows) => pass.backend.rows(&t, rows),
            None => t,
        };
        let factor = pass.hyper.residual_scale;
        let norm = self.attn_norm_2.as_ref().or(self.attn_norm.as_ref());
        let mixed = self.mixer.forward(pass, i, &x, norm);
        let mixed = pick(pass, mixed);
        let x = pick(pass, x);
        if self.parallel {
            let norm = self.ffn_norm.as_ref().or(self.attn_norm.as_ref());
            let begun = self.ffn.begin(pass, &x, norm);
            let attended = self.mixer.project(pass, &mixed, factor, x);
            return self.ffn.finish(pass, begun, factor, attended);
        }
        let x = match &self.post_attn_norm {
            None => self.mixer.project(pass, &mixed, factor, x),
            Some(norm) => {
                let out = self.mixer.output(pass, &mixed);
                let out = pass.backend.norm(&out, norm);
                pass.backend.add(x, &out)
            }
        };
        let begun = self.ffn.begin(pass, &x, self.ffn_norm.as_ref());
        match &self.post_ffn_norm {
            None => self.ffn.finish(pass, begun, factor, x),
            Some(norm) => {
                let Some(out) = self.ffn.output(pass, begun) else { return x };
                let out = pass.backend.norm(&out, norm);
                pass.backend.add(x, &out)
            }
        }
    }
}

impl<B: Backend> Mixer<B> {
    /// What attention computes, before its output projection.
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        match self {
            Mixer::Attention(attn) => attn.forward(pass, i, x, norm),
            Mixer::Latent(latent) => latent.forward(pass, i, x, norm),
            Mixer::Ssm(mamba) => mamba.forward(pass, i, x, norm),
        }
    }

    fn out(&self) -> &mlxr_compute::op::Linear<B> {
        match self {
            Mixer::Attention(attn) => &attn.out,
            Mixer::Latent(latent) => &latent.out,
            Mixer::Ssm(mamba) => &mamba.out,
        }
    }

    /// The output projection, added to the residual.
    fn project(&self, pass: &mut Pass<'_, B>, mixed: &B::Tensor, factor: f32, residual: B::Tensor) -> B::Tensor {
        pass.backend.linear_add(mixed, self.out(), factor, residual)
    }

    /// The output projection alone.
    fn output(&self, pass: &mut Pass<'_, B>, mixed: &B::Tensor) -> B::Tensor {
        let [out] = pass.backend.linears(mixed, None, [self.out()]);
        out
    }
}

impl<B: Backend> Attn<B> {
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, hyper, seqs) = (&mut *pass.backend, pass.hyper, &pass.seqs);
        let [mut q, mut k, mut v] = b.linears(x, norm, [&self.q, &self.k, &self.v]);
        if let Some(limit) = hyper.clamp_qkv {
            [q, k, v] = [q, k, v].map(|t| b.act(t, Act::Clamp(limit)));
        }
        if !self.norm_late {
            q = qk_norm(b, q, self.n_head, self.q_norm.as_ref());
            k = qk_norm(b, k, self.n_kv_head, self.k_norm.as_ref());
        }
        if let Some(rope) = &self.rope {
            q = b.rope(q, self.n_head, seqs.positions, rope);
            k = b.rope(k, self.n_kv_head, seqs.positions, rope);
        }
        if self.norm_late {
            q = qk_norm(b, q, self.n_head, self.q_norm.as_ref());
            k = qk_norm(b, k, self.n_kv_head, self.k_norm.as_ref());
        }
        b.kv_append(pass.kv, i, &k, Some(&v), seqs);
        let attention = Attention {
            n_head: self.n_head,
            scale: hyper.attn_scale,
            window: self.window,
            softcap: hyper.attn_softcap,
            sinks: self.sinks.as_ref(),
            alibi: self.alibi.as_ref(),
            causal: true,
        };
        let out = b.attention(&q, pass.kv, i, &attention, seqs);
        match &self.sub_norm {
            Some(norm) => b.norm(&out, norm),
            None => out,
        }
    }
}

fn qk_norm<B: Backend>(b: &mut B, x: B::Tensor, n_head: usize, norm: Option<&QkNorm<B>>) -> B::Tensor {
    match norm {
        None => x,
        Some(QkNorm::Head(norm)) => b.head_norm(x, n_head, norm),
        Some(QkNorm::Row(norm)) => b.norm(&x, norm),
    }
}

impl<B: Backend> Latent<B> {
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, hyper, seqs) = (&mut *pass.backend, pass.hyper, &pass.seqs);
        let [content, rotated, latent, key] = match &self.q {
            LatentQuery::Full(q) => b.linears(x, norm, [&q.content, &q.rotated, &self.kv_latent, &self.kv_key]),
            LatentQuery::LowRank { a, norm: low_norm, b: q } => {
                let [low, latent, key] = b.linears(x, norm, [a, &self.kv_latent, &self.kv_key]);
                let [content, rotated] = b.linears(&low, Some(low_norm), [&q.content, &q.rotated]);
                [content, rotated, latent, key]
            }
        };
        let rotated = b.rope(rotated, self.n_head, seqs.positions, &self.rope);
        let absorbed = b.head_linear(&content, &self.k_b);
        let q = b.concat_heads(&absorbed, &rotated, self.n_head, self.n_head);
        let latent = b.norm(&latent, &self.kv_norm);
        let key = b.rope(key, 1, seqs.positions, &self.rope);
        let key = b.concat_heads(&latent, &key, 1, 1);
        b.kv_append(pass.kv, i, &key, None, seqs);
        let attention = Attention {
            n_head: self.n_head,
            scale: hyper.attn_scale,
            window: hyper.window[i],
            softcap: None,
            sinks: None,
            alibi: None,
            causal: true,
        };
        let out = b.attention(&q, pass.kv, i, &attention, seqs);
        b.head_linear(&out, &self.v_b)
    }
}

impl<B: Backend> Mamba2<B> {
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let (b, seqs) = (&mut *pass.backend, &pass.seqs);
        let [all] = b.linears(x, norm, [&self.input]);
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
        let y = b.glu(z, &y, Act::Silu);
        match &self.norm {
            Some(norm) => b.head_norm(y, self.norm_groups, norm),
            None => y,
        }
    }
}

impl<B: Backend> Ffn<B> {
    /// What is computed before the residual is needed: the inner activations of a dense part, the output of a mixture.
    fn begin(&self, pass: &mut Pass<'_, B>, x: &B::Tensor, norm: Option<&Norm<B>>) -> Option<B::Tensor> {
        match self {
            Ffn::None => None,
            Ffn::Dense(dense) => Some(dense.inner(pass, x, norm)),
            Ffn::Moe(moe) => Some(moe.output(pass, x, norm)),
        }
    }

    /// `residual + factor * ffn`.
    fn finish(&self, pass: &mut Pass<'_, B>, begun: Option<B::Tensor>, factor: f32, residual: B::Tensor) -> B::Tensor {
        match (self, begun) {
            (Ffn::Dense(dense), Some(inner)) => pass.backend.linear_add(&inner, &dense.down, factor, residual),
            (_, Some(out)) if factor != 1.0 => {
                let out = pass.backend.scale(out, factor);
                pass.backend.add(residual, &out)
            }
            (_, Some(out)) => pass.backend.add(residual, &out),
            (_, None) => residual,
        }
    }

    /// The feed-forward without its residual, or `None` when the layer has none.
    fn output(&self, pass: &mut Pass<'_, B>, begun: Option<B::Tensor>) -> Option<B::Tensor> {
        match (self, begun) {
            (Ffn::Dense(dense), Some(inner)) => {
                let [out] = pass.backend.linears(&inner, None, [&dense.down]);
                Some(out)
            }
            (_, begun) => begun,
        }
    }
}

impl<B: Backend> Dense<B> {
    fn inner(&self, pass: &mut Pass<'_, B>, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let b = &mut *pass.backend;
        let inner = match &self.gate {
            Some(gate) => b.gate_up(x, norm, gate, &self.up, self.act),
            None => {
                let [up] = b.linears(x, norm, [&self.up]);
                b.act(up, self.act)
            }
        };
        match &self.sub_norm {
            Some(norm) => b.norm(&inner, norm),
            None => inner,
        }
    }
}

impl<B: Backend> MoeFfn<B> {
    fn output(&self, pass: &mut Pass<'_, B>, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let normed = norm.map(|norm| pass.backend.norm(x, norm));
        let x = normed.as_ref().unwrap_or(x);
        let [logits] = pass.backend.linears(x, None, [&self.router]);
        let routing = &pass.hyper.moe;
        let moe = Moe {
            gating: routing.gating,
            select_bias: self.select_bias.as_ref(),
            groups: routing.groups,
            n_used: routing.n_used,
            normalize: routing.normalize,
            scale: routing.scale,
            weight_input: self.weight_input,
            act: self.act,
            gate: self.gate.as_ref(),
            up: &self.up,
            merged: self.merged,
            down: &self.down,
        };
        let out = pass.backend.moe(x, &logits, &moe);
        let Some(shared) = &self.shared else { return out };
        let inner = shared.inner(pass, x, None);
        let [mut always] = pass.backend.linears(&inner, None, [&shared.down]);
        if let Some(router) = &self.shared_router {
            let [gate] = pass.backend.linears(x, None, [router]);
            let gate = pass.backend.act(gate, Act::Sigmoid);
            always = pass.backend.mul(always, &gate);
        }
        pass.backend.add(out, &always)
    }
}

impl<B: Backend> Decoder<B> {
    /// For a batch that wants logits of some rows and hidden states of others: each row's vectors in order.
    pub fn mixed(
        &self,
        pass: &mut Pass<'_, B>,
        hidden: &B::Tensor,
        batch: &Batch,
        output: &mut Vec<f32>,
    ) -> Result<(), mlxr_compute::Error> {
        let mut from = 0;
        for row in &batch.rows {
            let n = match row.want {
                Want::Nothing => continue,
                Want::Last => 1,
                Want::All | Want::Hidden => row.tokens.1 - row.tokens.0,
            };
            let indices: Vec<usize> = (from..from + n).collect();
            from += n;
            let part = pass.backend.rows(hidden, &indices);
            let vectors = match row.want {
                Want::Hidden => pass.backend.norm(&part, &self.output_norm),
                _ => self.logits(pass, &part),
            };
            pass.backend.read(&vectors, output)?;
        }
        Ok(())
    }
}
