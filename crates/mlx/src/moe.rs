//! Mixture of experts. Routing stays on the device: reading logits back would stop the step in every layer.

use mlxr_compute::op::{Experts, Gating, Moe, SPARSE_MIXER_SPAN};

use crate::backend::Mlx;
use crate::ffi::{Array, Device, Dtype};
use crate::matrix::Matrix;
use crate::own::Own;
use crate::own::experts::{self, Made};
use crate::rows;
use crate::tensor::Tensor;

/// Products from which sorting them by expert pays: each expert's weights are then read once.
const SORT_FROM: usize = 64;

/// The experts' feed-forward of each row, weighted and summed.
pub(crate) fn moe(own: Option<&Own>, d: &Device, x: &Tensor, logits: &Tensor, moe: &Moe<'_, Mlx>) -> Tensor {
    let (n_tok, n_expert, n_used) = (x.shape[0], moe.up.matrix.n_matrix, moe.n_used);
    assert_eq!(logits.shape, [n_tok, n_expert], "moe: router logits for {n_expert} experts");
    assert!((1..=n_expert).contains(&n_used), "moe: {n_used} of {n_expert} experts");
    if let Some((n_group, _)) = moe.groups {
        assert!(n_group > 0 && n_expert.is_multiple_of(n_group), "moe: {n_expert} experts in {n_group} groups");
    }
    let shape = [n_tok, moe.down.matrix.n_out];
    if n_tok == 0 {
        return Tensor::new(d.zeros(&shape, Dtype::F32), shape);
    }
    let routed = own.and_then(|own| experts::route(own, d, logits, moe));
    let (chosen, weights) = routed.unwrap_or_else(|| route(d, &logits.array, n_tok, moe));
    if let Some(sum) = own.and_then(|own| experts::by_mlx(own, d, x, (&chosen, &weights), moe)) {
        return Tensor::new(sum, shape);
    }
    let in_blocks = own.and_then(|own| experts::feed_forward(own, d, x, (&chosen, &weights), moe));
    let y = in_blocks.unwrap_or_else(|| feed_forward(d, x, (&chosen, &weights), moe));
    if let (Some(own), false) = (own, moe.weight_input) {
        let made = Made { y, scales: None, place: None };
        return Tensor::new(experts::sum(own, d, &made, &weights, n_used, shape), shape);
    }
    let mut y = d.reshape(&y, &[n_tok, n_used, shape[1]]);
    if !moe.weight_input {
        y = d.multiply(&y, &d.reshape(&weights, &[n_tok, n_used, 1]));
    }
    Tensor::new(d.sum(&y, 1, false), shape)
}

/// The chosen experts of each token, best first, and their weights: `[n_tok, n_used]` each.
fn route(d: &Device, logits: &Array, n_tok: usize, moe: &Moe<'_, Mlx>) -> (Array, Array) {
    let (n_expert, n_used) = (moe.up.matrix.n_matrix, moe.n_used);
    let probabilities = match moe.gating {
        Gating::Softmax => d.softmax(logits),
        Gating::Sigmoid => d.sigmoid(logits),
        Gating::SoftmaxOfChosen | Gating::SparseMixer => logits.clone(),
    };
    let mut merits = probabilities.clone();
    if let Some(bias) = moe.select_bias {
        merits = d.add(&merits, &bias.array);
    }
    if let Some((n_group, n_group_used)) = moe.groups {
        merits = limit_groups(d, &merits, [n_tok, n_group, n_expert / n_group], n_group_used);
    }
    let order = d.argsort(&d.negative(&merits));
    let chosen = d.slice(&order, &[0, 0], &[n_tok, n_used]);
    let mut weights = d.take_along(&probabilities, &chosen);
    match moe.gating {
        Gating::Softmax | Gating::Sigmoid => {}
        Gating::SoftmaxOfChosen => weights = d.softmax(&weights),
        Gating::SparseMixer => weights = shares(d, &d.take_along(logits, &order), [n_tok, n_expert], n_used),
    }
    if moe.normalize {
        let sum = d.maximum(&d.sum(&weights, -1, true), &d.scalar(f32::MIN_POSITIVE));
        weights = d.divide(&weights, &sum);
    }
    if moe.scale != 1.0 {
        weights = d.multiply(&weights, &d.scalar(moe.scale));
    }
    (chosen, weights)
}

/// What each of the best has of a softmax over those logits, from its own on, that are near it. `logits` descend.
fn shares(d: &Device, logits: &Array, [n_tok, n_expert]: [usize; 2], n_used: usize) -> Array {
    let share = |i: usize| {
        let max = d.slice(logits, &[0, i], &[n_tok, i + 1]);
        let left = d.slice(logits, &[0, i], &[n_tok, n_expert]);
        let behind = d.subtract(&max, &left);
        let near = d.less_equal(&d.divide(&behind, &d.maximum(&d.abs(&left), &max)), &d.scalar(SPARSE_MIXER_SPAN));
        let mass = d.select(&near, &d.exp(&d.negative(&behind)), &d.scalar(0.0));
        d.divide(&d.scalar(1.0), &d.sum(&mass, -1, true))
    };
    let shares: Vec<Array> = (0..n_used).map(share).collect();
    d.concatenate(&shares.iter().collect::<Vec<_>>(), -1)
}

/// Excludes the experts outside the groups whose two best sum highest; of equal groups the first.
fn limit_groups(d: &Device, merits: &Array, [n_tok, n_group, n]: [usize; 3], n_group_used: usize) -> Array {
    let grouped = d.reshape(merits, &[n_tok, n_group, n]);
    let sums = d.sum(&d.topk(&grouped, n.min(2)), -1, false);
    let order = d.argsort(&d.negative(&sums));
    // The rank of each group is the place of its number in the order.
    let rank = d.reshape(&d.argsort(&order), &[n_tok, n_group, 1]);
    let used = d.less(&rank, &d.from_slice(&[n_group_used as u32], &[], Dtype::U32));
    let kept = d.select(&used, &grouped, &d.scalar(f32::NEG_INFINITY));
    d.reshape(&kept, &[n_tok, n_group * n])
}

/// Products with experts as MLX computes them: sorted by expert where that pays.
pub(crate) struct Order {
    /// Of each, `[n]` u32.
    pub(crate) experts: Array,
    /// Which product each is, and where each product is, `[n]` u32; `None` where they are as they were.
    pub(crate) sorted: Option<[Array; 2]>,
}

impl Order {
    /// Of the experts of products, `[n]` u32.
    pub(crate) fn of(d: &Device, experts: &Array) -> Order {
        if experts.shape()[0] < SORT_FROM {
            return Order { experts: experts.clone(), sorted: None };
        }
        let order = d.argsort(experts);
        let place = d.argsort(&order);
        Order { experts: d.take(experts, &order, 0), sorted: Some([order, place]) }
    }

    /// The token of each, where they are sorted; `n_used` neighbouring products have one.
    pub(crate) fn tokens(&self, d: &Device, n_used: usize) -> Option<Array> {
        let [order, _] = self.sorted.as_ref()?;
        Some(d.floor_divide(order, &d.from_slice(&[n_used as u32], &[], Dtype::U32)))
    }

    /// Rows of products in this order.
    pub(crate) fn take(&self, d: &Device, x: &Array) -> Array {
        self.sorted.as_ref().map_or_else(|| x.clone(), |[order, _]| d.take(x, order, 0))
    }

    /// Rows in this order `[n, n_in]` times each one's matrix by MLX: `[n, n_out]`.
    pub(crate) fn products(&self, d: &Device, matrix: &Matrix, x: &Array) -> Array {
        matrix.gathered(d, x, (&self.experts, self.sorted.is_some()))
    }

    /// Rows in this order as the products were.
    pub(crate) fn back(&self, d: &Device, y: Array) -> Array {
        match &self.sorted {
            Some([_, place]) => d.take(&y, place, 0),
            None => y,
        }
    }
}

/// Rows `[n_row, n_col]`, each as many times: `[n_row * times, n_col]`.
pub(crate) fn repeated(d: &Device, x: &Array, [n_row, times, n_col]: [usize; 3]) -> Array {
    let each = d.broadcast(&d.reshape(x, &[n_row, 1, n_col]), &[n_row, times, n_col]);
    d.reshape(&each, &[n_row * times, n_col])
}

/// `down(act(gate(x)) * up(x))` of each token's experts, neighbours: `[n_tok * n_used, n_out]`.
fn feed_forward(d: &Device, x: &Tensor, (experts, weights): (&Array, &Array), moe: &Moe<'_, Mlx>) -> Array {
    let ([n_tok, d_model], n_used) = (x.shape, moe.n_used);
    let n = n_tok * n_used;
    let order = Order::of(d, &d.reshape(experts, &[n]));
    let mut inputs = match order.tokens(d, n_used) {
        Some(tokens) => d.take(&x.array, &tokens, 0),
        None => repeated(d, &x.array, [n_tok, n_used, d_model]),
    };
    if moe.weight_input {
        inputs = d.multiply(&inputs, &order.take(d, &d.reshape(weights, &[n, 1])));
    }
    let apply = |e: &Experts<Mlx>, x: &Array| finished(d, e, order.products(d, &e.matrix, x), &order.experts);
    let gate = moe.gate.map(|gate| apply(gate, &inputs));
    let hidden = hidden(d, moe, gate.as_ref(), &apply(moe.up, &inputs));
    order.back(d, apply(moe.down, &hidden))
}

/// `act(gate) * up` of rows of experts.
pub(crate) fn hidden(d: &Device, moe: &Moe<'_, Mlx>, gate: Option<&Array>, up: &Array) -> Array {
    match gate {
        Some(gate) => rows::glu(d, gate, up, moe.act),
        None if moe.merged => {
            let (n, half) = (up.shape()[0], moe.up.matrix.n_out / 2);
            let gate = d.slice(up, &[0, 0], &[n, half]);
            rows::glu(d, &gate, &d.slice(up, &[0, half], &[n, 2 * half]), moe.act)
        }
        None => rows::act(d, up, moe.act),
    }
}

/// `scale * y + bias` of each row's expert.
pub(crate) fn finished(d: &Device, e: &Experts<Mlx>, mut y: Array, experts: &Array) -> Array {
    if !e.scale.is_empty() {
        let scales = d.from_slice(&e.scale, &[e.scale.len(), 1], Dtype::F32);
        y = d.multiply(&y, &d.take(&scales, experts, 0));
    }
    if let Some(bias) = &e.bias {
        assert_eq!(bias.shape, [e.matrix.n_matrix, e.matrix.n_out], "moe: the experts' bias has another shape");
        y = d.add(&y, &d.take(&bias.array, experts, 0));
    }
    y
}
