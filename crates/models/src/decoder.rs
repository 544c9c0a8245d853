//! The one decoder: every architecture's forward pass, over any backend.

mod ffn;

use mlxr_compute::Backend;
use mlxr_compute::op::{Act, Attention, Linear, Norm, Seqs};
use mlxr_engine::runner::{Batch, Want};

use crate::arch::Temperature;
use crate::hyper::Hyper;
use crate::layer::{Attn, Gate, Latent, LatentQuery, Layer, Mixer, QkNorm};
use crate::next::Join;

/// A loaded model's weights.
pub struct Decoder<B: Backend> {
    pub embed: B::Matrix,
    /// Learned positions (GPT-2).
    pub positions: Option<B::Matrix>,
    pub embed_norm: Option<Norm<B>>,
    /// Of a model that reads another's hidden states.
    pub join: Option<Join<B>>,
    pub layers: Vec<Layer<B>>,
    /// `None`: the output reads hidden states as they are.
    pub output_norm: Option<Norm<B>>,
    pub output: Linear<B>,
    /// Of each logit, the token that it is of, where the output has only some.
    pub spoken: Option<Vec<u32>>,
    pub n_vocab: usize,
}

/// What a pass works with besides weights.
pub struct Pass<'a, B: Backend> {
    pub backend: &'a mut B,
    pub kv: &'a mut B::Kv,
    pub hyper: &'a Hyper,
    pub seqs: Seqs<'a>,
    /// Hidden states of another model, where this one reads them: `Join::apply`.
    pub features: &'a [f32],
    /// Layers whose input is to be kept, in order.
    pub taps: &'a [usize],
    /// What came to them: `[n_tok, d_model]` each.
    pub tapped: Vec<B::Tensor>,
    /// `[n_tok, 1]`: how much each token's query grows, where a model's queries do and a position is far enough.
    pub growth: Option<B::Tensor>,
}

/// What a mixer's parts computed.
type Mixed<T> = [Option<T>; 2];

impl<B: Backend> Decoder<B> {
    /// Hidden states of `tokens` after the last layer, not normed: `[n_tok, d_model]`. Only `rows` of them, if given:
    /// the last layer's feed-forward is computed for these alone.
    pub fn hidden(&self, pass: &mut Pass<'_, B>, tokens: &[u32], rows: Option<&[usize]>) -> B::Tensor {
        pass.growth = growth(pass);
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
        let mut wide = None;
        if let Some(join) = &self.join {
            (x, wide) = join.apply(pass, x);
        }
        let last = self.layers.len().saturating_sub(1);
        for (i, layer) in self.layers.iter().enumerate() {
            pass.tap(i, &x);
            let rows = rows.filter(|_| i == last);
            x = layer.forward(pass, i, (x, wide.take()), rows);
        }
        pass.tap(self.layers.len(), &x);
        x
    }

    /// Appends to `out` what another model reads of hidden states: those of the tapped layers, side by side; else normed, but
    /// for those that stand for another model's.
    pub fn states(
        &self,
        pass: &mut Pass<'_, B>,
        hidden: &B::Tensor,
        out: &mut Vec<f32>,
    ) -> Result<(), mlxr_compute::Error> {
        let tapped = std::mem::take(&mut pass.tapped);
        if let Some(all) = tapped.into_iter().reduce(|a, b| pass.backend.concat_heads(&a, &b, 1, 1)) {
            return pass.backend.read(&all, out);
        }
        if self.join.is_some() {
            return pass.backend.read(hidden, out);
        }
        self.normed(pass, hidden, out)
    }

    fn normed(
        &self,
        pass: &mut Pass<'_, B>,
        hidden: &B::Tensor,
        out: &mut Vec<f32>,
    ) -> Result<(), mlxr_compute::Error> {
        match &self.output_norm {
            Some(norm) => {
                let normed = pass.backend.norm(hidden, norm);
                pass.backend.read(&normed, out)
            }
            None => pass.backend.read(hidden, out),
        }
    }

    /// Logits of hidden states: `[n_row, n_vocab]`.
    pub fn logits(&self, pass: &mut Pass<'_, B>, hidden: &B::Tensor) -> B::Tensor {
        let [mut logits] = pass.backend.linears(hidden, self.output_norm.as_ref(), [&self.output]);
        if pass.hyper.logit_scale != 1.0 {
            logits = pass.backend.scale(logits, pass.hyper.logit_scale);
        }
        match pass.hyper.final_softcap {
            Some(cap) => pass.backend.softcap(logits, cap),
            None => logits,
        }
    }
}

impl<B: Backend> Pass<'_, B> {
    /// Keeps what comes to layer `i`, if that is wanted.
    fn tap(&mut self, i: usize, x: &B::Tensor) {
        if self.taps.contains(&i) {
            let all: Vec<usize> = (0..self.backend.shape(x)[0]).collect();
            self.tapped.push(self.backend.rows(x, &all));
        }
    }
}

/// How much the queries of the batch grow; `None` when none does.
fn growth<B: Backend>(pass: &mut Pass<'_, B>) -> Option<B::Tensor> {
    let Temperature { scale, floor, offset, .. } = pass.hyper.temperature?;
    let step = |p: i32| ((p as f32 + offset) / floor).floor();
    if pass.seqs.positions.iter().all(|&p| step(p) < 1.0) {
        return None;
    }
    let factors: Vec<f32> = pass.seqs.positions.iter().map(|&p| 1.0 + scale * (1.0 + step(p)).ln()).collect();
    Some(pass.backend.tensor([factors.len(), 1], &factors))
}

impl<B: Backend> Layer<B> {
    /// Of `x`, to which each part adds; what mixes tokens reads `wide`, if there is one, which is normed.
    fn forward(
        &self,
        pass: &mut Pass<'_, B>,
        i: usize,
        (x, wide): (B::Tensor, Option<B::Tensor>),
        rows: Option<&[usize]>,
    ) -> B::Tensor {
        let pick = |pass: &mut Pass<'_, B>, t: B::Tensor| match rows {
            Some(rows) => pass.backend.rows(&t, rows),
            None => t,
        };
        let factor = pass.hyper.residual_scale;
        let norm = self.attn_norm_2.as_ref().or(self.attn_norm.as_ref());
        let mixed = match &wide {
            Some(wide) => self.mixer.forward(pass, i, wide, None),
            None => self.mixer.forward(pass, i, &x, norm),
        };
        let mixed = mixed.map(|part| part.map(|part| pick(pass, part)));
        let x = pick(pass, x);
        let routed = self.ffn.route_early(pass, &x);
        if self.parallel {
            let norm = self.ffn_norm.as_ref().or(self.attn_norm.as_ref());
            let begun = self.ffn.begin(pass, &x, norm, routed);
            let attended = self.mixer.project(pass, &mixed, factor, x);
            return self.ffn.finish(pass, begun, factor, attended);
        }
        let x = match &self.post_attn_norm {
            None => self.mixer.project(pass, &mixed, factor, x),
            Some(norm) => match self.mixer.output(pass, &mixed) {
                Some(out) => {
                    let out = pass.backend.norm(&out, norm);
                    pass.backend.add(x, &out)
                }
                None => x,
            },
        };
        let begun = self.ffn.begin(pass, &x, self.ffn_norm.as_ref(), routed);
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
    /// What the parts of the mixer compute, before their output projections.
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> Mixed<B::Tensor> {
        let one = match self {
            Mixer::None => return [None, None],
            Mixer::Attention(attn) => attn.forward(pass, i, x, norm),
            Mixer::Latent(latent) => latent.forward(pass, i, x, norm),
            Mixer::Mamba(mamba) => mamba.forward(pass, i, x, norm),
            Mixer::Ssm(mamba) => mamba.forward(pass, i, x, norm),
            Mixer::Delta(delta) => delta.forward(pass, i, x, norm),
            Mixer::Conv(conv) => conv.forward(pass, i, x, norm),
            Mixer::Both(attn, mamba, state) => {
                let first = attn.forward(pass, i, x, norm);
                return [Some(first), Some(mamba.forward(pass, *state, x, norm))];
            }
        };
        [Some(one), None]
    }

    fn outs(&self) -> [Option<&Linear<B>>; 2] {
        match self {
            Mixer::None => [None, None],
            Mixer::Attention(attn) => [Some(&attn.out), None],
            Mixer::Latent(latent) => [Some(&latent.out), None],
            Mixer::Mamba(mamba) => [Some(&mamba.out), None],
            Mixer::Ssm(mamba) => [Some(&mamba.out), None],
            Mixer::Delta(delta) => [Some(&delta.out), None],
            Mixer::Conv(conv) => [Some(&conv.out), None],
            Mixer::Both(attn, mamba, _) => [Some(&attn.out), Some(&mamba.out)],
        }
    }

    /// The output projections, added to the residual.
    fn project(&self, pass: &mut Pass<'_, B>, mixed: &Mixed<B::Tensor>, factor: f32, residual: B::Tensor) -> B::Tensor {
        let parts = mixed.iter().zip(self.outs()).filter_map(|(mixed, out)| Some((mixed.as_ref()?, out?)));
        parts.fold(residual, |x, (mixed, out)| pass.backend.linear_add(mixed, out, factor, x))
    }

    /// The output projections alone; `None` when nothing mixes.
    fn output(&self, pass: &mut Pass<'_, B>, mixed: &Mixed<B::Tensor>) -> Option<B::Tensor> {
        let mut sum = None;
        for (mixed, out) in mixed.iter().zip(self.outs()) {
            let (Some(mixed), Some(out)) = (mixed, out) else { continue };
            sum = Some(match sum {
                None => {
                    let [x] = pass.backend.linears(mixed, None, [out]);
                    x
                }
                Some(x) => pass.backend.linear_add(mixed, out, 1.0, x),
            });
        }
        sum
    }
}

impl<B: Backend> Gate<B> {
    /// `out * act(gate(x))`.
    fn apply(&self, pass: &mut Pass<'_, B>, x: &B::Tensor, norm: Option<&Norm<B>>, out: B::Tensor) -> B::Tensor {
        let b = &mut *pass.backend;
        let [gate] = b.linears(x, norm, [&self.linear]);
        let gate = match &self.spread {
            Some(ones) => {
                let gate = b.act(gate, self.act);
                b.head_linear(&gate, ones)
            }
            None => b.act(gate, self.act),
        };
        b.mul(out, &gate)
    }
}

impl<B: Backend> Attn<B> {
    fn forward(&self, pass: &mut Pass<'_, B>, i: usize, x: &B::Tensor, norm: Option<&Norm<B>>) -> B::Tensor {
        let attention = Attention {
            n_head: self.n_head,
            scale: pass.hyper.attn_scale,
            window: self.window,
            softcap: pass.hyper.attn_softcap,
            sinks: self.sinks.as_ref(),
            alibi: self.alibi.as_ref(),
            causal: true,
        };
        let grows = pass.growth.is_some() && self.temperature;
        let normed = self.q_norm.is_some() || self.k_norm.is_some() || self.norm_late;
        let out = if pass.hyper.clamp_qkv.is_some() || normed || grows {
            self.attend_apart(pass, (i, x, norm), &attention)
        } else {
            let (linears, rope) = ([&self.q, &self.k, &self.v], self.rope.as_ref());
            pass.backend.linears_attend((x, norm), linears, (&mut *pass.kv, i), rope, &attention, &pass.seqs)
        };
        let out = match &self.gate {
            Some(gate) => gate.apply(pass, x, norm, out),
            None => out,
        };
        match &self.sub_norm {
            Some(norm) => pass.backend.norm(&out, norm),
            None => out,
        }
    }

    /// Attention where something comes between products and rotation, or after that.
    fn attend_apart(
        &self,
        pass: &mut Pass<'_, B>,
        (i, x, norm): (usize, &B::Tensor, Option<&Norm<B>>),
        attention: &Attention<'_, B>,
    ) -> B::Tensor {
        let (b, hyper, seqs) = (&mut *pass.backend, pass.hyper, &pass.seqs);
        let [mut q, mut k, mut v] = b.linears(x, norm, [&self.q, &self.k, &self.v]);
        if let Some(limit) = hyper.clamp_qkv {
            [q, k, v] = [q, k, v].map(|t| b.act(t, Act::Clamp(limit)));
        }
        if !self.norm_late {
            q = qk_norm(b, q, self.n_head, self.q_norm.as_ref());
            k = qk_norm(b, k, self.n_kv_head, self.k_norm.as_ref());
        }
        let growth = pass.growth.as_ref().filter(|_| self.temperature);
        // What comes between rotation and append.
        let between = self.norm_late || growth.is_some();
        if let Some(rope) = self.rope.as_ref().filter(|_| between) {
            q = b.rope(q, self.n_head, seqs.positions, rope);
            k = b.rope(k, self.n_kv_head, seqs.positions, rope);
        }
        if self.norm_late {
            q = qk_norm(b, q, self.n_head, self.q_norm.as_ref());
            k = qk_norm(b, k, self.n_kv_head, self.k_norm.as_ref());
        }
        if let Some(growth) = growth {
            q = b.mul(q, growth);
        }
        let rope = self.rope.as_ref().filter(|_| !between);
        b.attend([q, k, v], pass.kv, i, rope, attention, seqs)
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
        let (mut rotated, mut key) = (rotated, key);
        if let Some(rope) = &self.rope {
            rotated = b.rope(rotated, self.n_head, seqs.positions, rope);
            key = b.rope(key, 1, seqs.positions, rope);
        }
        let absorbed = b.head_linear(&content, &self.k_b);
        let mut q = b.concat_heads(&absorbed, &rotated, self.n_head, self.n_head);
        if let Some(growth) = pass.growth.as_ref().filter(|_| self.temperature) {
            q = b.mul(q, growth);
        }
        let latent = b.norm(&latent, &self.kv_norm);
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
        let out = b.head_linear(&out, &self.v_b);
        match &self.gate {
            Some(gate) => gate.apply(pass, x, norm, out),
            None => out,
        }
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
            match row.want {
                Want::Hidden => self.normed(pass, &part, output)?,
                _ => {
                    let logits = self.logits(pass, &part);
                    pass.backend.read(&logits, output)?;
                }
            }
        }
        Ok(())
    }
}
