//! Mixture of experts: the tokens of each expert side by side, so that its weights are read once.
//!
//! ```text
//! route     logits -> of each token the experts used, best first, and their weights
//! sort      pairs (token, rank) by expert
//! hidden    one product an expert over its tokens' columns, gate and activation on the way out: a row a pair
//! down      one product an expert over its rows: a row a pair
//! sum       of each token, its rows times their weights, best expert first
//! ```

use std::ops::Range;

use super::Cpu;
use super::elementwise::{Activate, Arithmetic, Compute};
use super::linear::{Context, Lists};
use super::matmul::{Columns, Epilogue, Out, Place, Product, Weights, matmul};
use super::shared::Shared;
use super::tensor::Tensor;
use crate::Error;
use crate::op::{Experts, Gating, Moe, SPARSE_MIXER_SPAN};

/// Numbers below which one thread routes or sums all.
const ALONE: usize = 4096;

/// Memory kept between calls.
#[derive(Default)]
pub(super) struct Router {
    lists: Lists,
    /// `[n_tok, n_used]`: experts, best first.
    experts: Vec<u32>,
    /// `[n_tok, n_used]`.
    weights: Vec<f32>,
    /// `[n_tok, n_used]`: the row of each pair among those sorted by expert.
    places: Vec<usize>,
    /// `[n_pair]`: the pair of each row.
    pairs: Vec<usize>,
    /// The experts that have tokens; as many as `lists.groups`, less one.
    active: Vec<usize>,
    /// Pairs of each expert, then the next free row of each.
    counts: Vec<usize>,
}

impl Router {
    /// The experts' feed-forward of each row, weighted and summed.
    pub(super) fn moe(
        &mut self,
        mut context: Context<'_>,
        x: &Tensor,
        logits: &Tensor,
        moe: &Moe<'_, Cpu>,
    ) -> Result<Tensor, Error> {
        let ([n_tok, d_model], n_expert) = (x.shape, moe.up.matrix.n_expert());
        assert_eq!(logits.shape, [n_tok, n_expert], "moe: router logits for {n_expert} experts");
        assert!((1..=n_expert).contains(&moe.n_used), "moe: {} of {n_expert} experts", moe.n_used);
        if n_tok == 0 {
            return Ok(context.memory.tensor([0, moe.down.matrix.n_out()]));
        }
        self.route(&context, logits, moe)?;
        self.sort(n_expert);
        let scaled = moe.weight_input.then(|| self.scaled(&context, x, moe.n_used));
        let (input, per_row) = scaled.as_ref().map_or((x, moe.n_used), |scaled| (scaled, 1));
        self.lists.starts.clear();
        self.lists.starts.extend(self.pairs.iter().map(|pair| pair / per_row * d_model));
        let hidden = self.hidden(&mut context, input, moe)?;
        self.lists.starts.clear();
        self.lists.starts.extend((0..self.pairs.len()).map(|row| row * hidden.shape[1]));
        self.load(&mut context, &hidden, &[moe.down])?;
        let rows = self.multiply(&context, moe.down)?;
        self.sum(&context, &rows, moe)
    }

    /// Fills `experts` and `weights`.
    fn route(&mut self, context: &Context<'_>, logits: &Tensor, moe: &Moe<'_, Cpu>) -> Result<(), Error> {
        let ([n_tok, n_expert], n_used) = (logits.shape, moe.n_used);
        self.experts.resize(n_tok * n_used, 0);
        self.weights.resize(n_tok * n_used, 0.0);
        let (experts, weights) = (Shared::new(&mut self.experts), Shared::new(&mut self.weights));
        let choice = Choice::new(moe, n_expert);
        let token = |token: usize, scratch: &mut [f32]| {
            // SAFETY: each token has its own part.
            let (experts, weights) =
                unsafe { (experts.part(token * n_used, n_used), weights.part(token * n_used, n_used)) };
            choice.choose(logits.row(token), scratch, experts, weights);
        };
        let each = |worker: &super::pool::Worker<'_>, i: usize| worker.scratch(choice.scratch(), |s| token(i, s));
        if n_tok * n_expert <= ALONE {
            let mut scratch = context.memory.buffer(choice.scratch());
            (0..n_tok).for_each(|i| token(i, &mut scratch));
            return Ok(());
        }
        context.pool.run(n_tok, each)
    }

    /// Sorts the pairs by expert.
    fn sort(&mut self, n_expert: usize) {
        self.counts.clear();
        self.counts.resize(n_expert, 0);
        self.experts.iter().for_each(|&e| self.counts[e as usize] += 1);
        self.active.clear();
        self.lists.groups.clear();
        self.lists.groups.push(0);
        let mut next = 0;
        for (expert, count) in self.counts.iter_mut().enumerate() {
            let n = std::mem::replace(count, next);
            next += n;
            if n > 0 {
                self.active.push(expert);
                self.lists.groups.push(next);
            }
        }
        self.places.clear();
        self.pairs.resize(self.experts.len(), 0);
        for (pair, &expert) in self.experts.iter().enumerate() {
            let row = &mut self.counts[expert as usize];
            self.places.push(*row);
            self.pairs[*row] = pair;
            *row += 1;
        }
    }

    /// Each token's row times each of its weights: a row a pair.
    fn scaled(&self, context: &Context<'_>, x: &Tensor, n_used: usize) -> Tensor {
        let d_model = x.shape[1];
        let mut scaled = context.memory.tensor([self.weights.len(), d_model]);
        for (pair, row) in scaled.data.chunks_exact_mut(d_model).enumerate() {
            row.copy_from_slice(x.row(pair / n_used));
            context.kernels.run(Compute { a: row, with: Arithmetic::Scale(self.weights[pair]) });
        }
        scaled
    }

    fn load(&self, context: &mut Context<'_>, x: &Tensor, experts: &[&Experts<Cpu>]) -> Result<(), Error> {
        let columns = Columns::Starts { starts: &self.lists.starts, groups: &self.lists.groups };
        let first = &experts[0].matrix;
        let matrices = [first, experts.last().map_or(first, |e| &e.matrix)];
        context.activations.load(context.pool, &x.data, first.n_in(), columns, &matrices)
    }

    /// `act(gate(x)) * up(x)`, or `act(up(x))`: a row a pair.
    fn hidden(&mut self, context: &mut Context<'_>, x: &Tensor, moe: &Moe<'_, Cpu>) -> Result<Tensor, Error> {
        let (d_ff, n_up, act, kernels) = (moe.down.matrix.n_in(), moe.up.matrix.n_out(), moe.act, context.kernels);
        assert_eq!(n_up, if moe.merged { 2 * d_ff } else { d_ff }, "moe: up and down do not fit each other");
        let gate = moe.gate.unwrap_or(moe.up);
        self.load(context, x, &[moe.up, gate])?;
        if moe.gate.is_none() && !moe.merged {
            let mut up = self.multiply(context, moe.up)?;
            kernels.run(Activate { x: &mut up.data, up: None, act });
            return Ok(up);
        }
        let up_rows = if moe.merged { d_ff..2 * d_ff } else { 0..d_ff };
        assert_eq!(gate.matrix.n_out(), n_up, "moe: gate and up differ in rows");
        if rows_of(gate, 0, 0..d_ff).pairs_with(&rows_of(moe.up, 0, up_rows.clone())) {
            return self.fused(context, (gate, 0..d_ff), (moe.up, up_rows), moe);
        }
        let up = self.multiply(context, moe.up)?;
        let gates = if moe.merged { None } else { Some(self.multiply(context, gate)?) };
        let mut hidden = context.memory.tensor([self.pairs.len(), d_ff]);
        for (i, row) in hidden.data.chunks_exact_mut(d_ff).enumerate() {
            let gate = gates.as_ref().map_or(&up.row(i)[..d_ff], |g| g.row(i));
            row.copy_from_slice(gate);
            kernels.run(Activate { x: row, up: Some(&up.row(i)[up_rows.clone()]), act });
        }
        Ok(hidden)
    }

    /// Gate and up of each expert in one product.
    fn fused(
        &mut self,
        context: &mut Context<'_>,
        (gate, gate_rows): (&Experts<Cpu>, Range<usize>),
        (up, up_rows): (&Experts<Cpu>, Range<usize>),
        moe: &Moe<'_, Cpu>,
    ) -> Result<Tensor, Error> {
        let (kernels, act) = (context.kernels, moe.act);
        let combine = |y: &mut [f32], u: &[f32]| kernels.run(Activate { x: y, up: Some(u), act });
        let mut hidden = context.memory.tensor([self.pairs.len(), gate_rows.len()]);
        let (mut products, mut ups) = self.lists.take();
        ups.extend(self.active.iter().map(|&e| rows_of(up, e, up_rows.clone())));
        products.extend(self.active.iter().zip(&ups).enumerate().map(|(group, (&expert, up))| Product {
            weights: rows_of(gate, expert, gate_rows.clone()),
            group,
            epilogue: Epilogue::Gate { up, combine: &combine },
            place: Place { out: 0, row: self.lists.groups[group], col: 0 },
        }));
        let mut outs = [Out { stride: hidden.shape[1], data: &mut hidden.data }];
        let result = matmul(context.pool, context.activations, &products, &mut outs);
        self.lists.give_products(products);
        self.lists.give_weights(ups);
        result.map(|()| hidden)
    }

    /// All rows of each active expert times its columns: a row a pair.
    fn multiply(&mut self, context: &Context<'_>, experts: &Experts<Cpu>) -> Result<Tensor, Error> {
        let n_out = experts.matrix.n_out();
        let mut out = context.memory.tensor([self.pairs.len(), n_out]);
        let (mut products, weights) = self.lists.take();
        products.extend(self.active.iter().enumerate().map(|(group, &expert)| Product {
            weights: rows_of(experts, expert, 0..n_out),
            group,
            epilogue: Epilogue::Store,
            place: Place { out: 0, row: self.lists.groups[group], col: 0 },
        }));
        let mut outs = [Out { stride: n_out, data: &mut out.data }];
        let result = matmul(context.pool, context.activations, &products, &mut outs);
        self.lists.give_products(products);
        self.lists.give_weights(weights);
        result.map(|()| out)
    }

    /// Sums each token's rows.
    fn sum(&self, context: &Context<'_>, rows: &Tensor, moe: &Moe<'_, Cpu>) -> Result<Tensor, Error> {
        let (n_used, d_out) = (moe.n_used, rows.shape[1]);
        let mut out = context.memory.tensor([self.places.len() / n_used, d_out]);
        let n_tok = out.shape[0];
        let shared = Shared::new(&mut out.data);
        let token = |token: usize| {
            // SAFETY: each token has its own row.
            let a = unsafe { shared.part(token * d_out, d_out) };
            a.fill(0.0);
            for pair in token * n_used..(token + 1) * n_used {
                let weight = if moe.weight_input { 1.0 } else { self.weights[pair] };
                let with = Arithmetic::AddScaled(weight, rows.row(self.places[pair]));
                context.kernels.run(Compute { a: &mut *a, with });
            }
        };
        if rows.data.len() <= ALONE {
            (0..n_tok).for_each(token);
        } else {
            context.pool.run(n_tok, |_, i| token(i))?;
        }
        Ok(out)
    }
}

/// Some rows of an expert.
fn rows_of(experts: &Experts<Cpu>, expert: usize, rows: Range<usize>) -> Weights<'_> {
    let bias = experts.bias.as_ref().map(|bias| {
        let shape = [experts.matrix.n_expert(), experts.matrix.n_out()];
        assert_eq!(bias.shape, shape, "moe: the experts' bias has another shape");
        &bias.row(expert)[rows.clone()]
    });
    let scale = experts.scale.get(expert).copied().unwrap_or(1.0);
    Weights { matrix: &experts.matrix, expert, rows, scale, bias }
}

/// How a token's experts are chosen and weighed.
struct Choice<'a> {
    gating: Gating,
    bias: Option<&'a [f32]>,
    groups: Option<(usize, usize)>,
    normalize: bool,
    scale: f32,
    n_expert: usize,
}

impl<'a> Choice<'a> {
    fn new(moe: &Moe<'a, Cpu>, n_expert: usize) -> Choice<'a> {
        let bias = moe.select_bias.map(|b| &*b.data);
        assert!(bias.is_none_or(|b| b.len() == n_expert), "moe: the bias of the choice does not fit the experts");
        if let Some((n, used)) = moe.groups {
            let fits = n > 0 && n_expert.is_multiple_of(n) && moe.n_used <= n_expert / n * used;
            assert!(fits, "moe: {n_expert} experts in {n} groups, {used} of them used");
        }
        let Moe { gating, groups, normalize, scale, .. } = *moe;
        Choice { gating, bias, groups, normalize, scale, n_expert }
    }

    /// Floats that [`Choice::choose`] needs.
    fn scratch(&self) -> usize {
        2 * self.n_expert + self.groups.map_or(0, |(n, _)| n)
    }

    /// Overwrites the chosen experts, best first, and their weights.
    fn choose(&self, logits: &[f32], scratch: &mut [f32], experts: &mut [u32], weights: &mut [f32]) {
        let (merits, rest) = scratch.split_at_mut(self.n_expert);
        let (chances, sums) = rest.split_at_mut(self.n_expert);
        chances.copy_from_slice(logits);
        match self.gating {
            Gating::Softmax => softmax(chances),
            Gating::Sigmoid => chances.iter_mut().for_each(|c| *c = 1.0 / (1.0 + (-*c).exp())),
            Gating::SoftmaxOfChosen | Gating::SparseMixer => (),
        }
        merits.copy_from_slice(chances);
        if let Some(bias) = self.bias {
            merits.iter_mut().zip(bias).for_each(|(m, b)| *m += b);
        }
        if let Some((n, used)) = self.groups {
            limit_groups(merits, sums, self.n_expert / n, used);
        }
        for (expert, weight) in experts.iter_mut().zip(weights.iter_mut()) {
            let best = take_best(merits);
            (*expert, *weight) = (best as u32, chances[best]);
            if self.gating == Gating::SparseMixer {
                *weight = share(merits, chances[best]);
            }
        }
        if self.gating == Gating::SoftmaxOfChosen {
            softmax(weights);
        }
        let sum = if self.normalize { weights.iter().sum::<f32>().max(f32::MIN_POSITIVE) } else { 1.0 };
        weights.iter_mut().for_each(|w| *w = *w / sum * self.scale);
    }
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum = x.iter().sum::<f32>();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// What an expert of logit `max` has of a softmax over itself and those logits near it that are `left`.
fn share(left: &[f32], max: f32) -> f32 {
    let near = left.iter().filter(|&&l| l.is_finite() && (max - l) / l.abs().max(max) <= SPARSE_MIXER_SPAN);
    1.0 / (1.0 + near.map(|l| (l - max).exp()).sum::<f32>())
}

/// The place of the greatest number, the first where equal, which becomes the least. NaNs lose.
fn take_best(x: &mut [f32]) -> usize {
    let (mut best, mut greatest) = (None, f32::NEG_INFINITY);
    for (i, &x) in x.iter().enumerate() {
        if x > greatest {
            (best, greatest) = (Some(i), x);
        }
    }
    // Only numbers that no model should compute are left: take any that was not taken.
    let best = best.or_else(|| x.iter().position(|x| x.is_nan())).unwrap_or(0);
    x[best] = f32::NEG_INFINITY;
    best
}

/// Excludes experts outside the groups whose two best sum highest.
fn limit_groups(merits: &mut [f32], sums: &mut [f32], group: usize, used: usize) {
    for (sum, group) in sums.iter_mut().zip(merits.chunks_exact(group)) {
        let mut best = [f32::NEG_INFINITY; 2];
        for &m in group {
            if m > best[0] {
                best = [m, best[0]];
            } else if m > best[1] {
                best[1] = m;
            }
        }
        *sum = if group.len() == 1 { best[0] } else { best[0] + best[1] };
    }
    for _ in 0..used.min(sums.len()) {
        let best = take_best(sums);
        sums[best] = f32::NAN; // kept; cannot be taken again while others are left
    }
    for (sum, group) in sums.iter().zip(merits.chunks_exact_mut(group)) {
        if !sum.is_nan() {
            group.fill(f32::NEG_INFINITY);
        }
    }
}
