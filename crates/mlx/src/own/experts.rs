//! Mixtures of experts: routing, the feed-forward of experts in blocks and of those that MLX multiplies, and their sum.

use std::cell::LazyCell;

use mlxr_compute::op::{Experts, Gating, Moe, SPARSE_MIXER_SPAN};

use super::Own;
use super::blocks::{self, BLOCKS_LAYOUT, Chosen};
use super::form::{self, Form, Of};
use crate::backend::Mlx;
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::Instance;
use crate::moe::{Order, finished, hidden, repeated};
use crate::tensor::Tensor;

/// Lanes of a wave, of which each keeps a chosen expert and adds up a group.
const LANES: usize = 32;
/// Experts of a lane of `route`, at most.
const MAX_EACH: usize = 16;

/// The constants E, GATING, BIAS, GROUPED and NORMALIZE of `route`; `None` of what it does not compute.
pub(crate) fn route_constants<B: mlxr_compute::Backend + ?Sized>(
    n_expert: usize,
    moe: &Moe<'_, B>,
) -> Option<[u32; 5]> {
    let (each, n_group) = (n_expert.div_ceil(LANES), moe.groups.map_or(1, |groups| groups.0));
    let gating = match moe.gating {
        Gating::Softmax => 0,
        Gating::Sigmoid => 1,
        Gating::SoftmaxOfChosen => 2,
        Gating::SparseMixer => 3,
    };
    let fits = each <= MAX_EACH && moe.n_used <= LANES && n_group <= LANES;
    let [bias, grouped, normalize] = [moe.select_bias.is_some(), moe.groups.is_some(), moe.normalize].map(u32::from);
    fits.then_some([each as u32, gating, bias, grouped, normalize])
}

/// The chosen experts of each token, best first, and their weights: `[n_tok, n_used]` each; `None` where no kernel chooses so.
pub(crate) fn route(own: &Own, d: &Device, logits: &Tensor, moe: &Moe<'_, Mlx>) -> Option<(Array, Array)> {
    let [n_tok, n_expert] = logits.shape;
    let constants = route_constants(n_expert, moe)?;
    let (n_group, n_group_used) = moe.groups.unwrap_or((1, 1));
    let factors = own.floats(d, &[moe.scale, SPARSE_MIXER_SPAN]);
    let sizes = own.sizes(d, &[n_expert, moe.n_used, n_group, n_group_used]);
    let bias = moe.select_bias.map_or(&factors, |bias| &bias.array);
    let shape: &[usize] = &[n_tok, moe.n_used];
    let instance = Instance::new("route", &constants, "float");
    let inputs = [&logits.array, bias, &factors, &sizes];
    let [experts, weights] = own.launch(d, instance, &inputs, &[shape, shape], [n_tok, 1, 1]);
    Some((experts, weights))
}

fn in_blocks(e: &Experts<Mlx>) -> bool {
    e.matrix.parts[0].blocks.is_some()
}

/// `down(act(gate(x)) * up(x))` of each token's experts, neighbours: `[n_tok * n_used, n_out]`; `None` where none of these are in blocks.
/// MLX multiplies those that are not.
pub(crate) fn feed_forward(
    own: &Own,
    d: &Device,
    x: &Tensor,
    (experts, weights): (&Array, &Array),
    moe: &Moe<'_, Mlx>,
) -> Option<Array> {
    let first = [Some(moe.up), moe.gate].into_iter().flatten().any(in_blocks);
    if !first && !in_blocks(moe.down) {
        return None;
    }
    let ([n_tok, n_in], n_used) = (x.shape, moe.n_used);
    let n = n_tok * n_used;
    let experts = d.reshape(experts, &[n]);
    let order = blocks::shared(n, moe.up.matrix.n_matrix).then(|| d.argsort(&experts));
    let chosen = Chosen { experts, order, n_product: n };
    let halved = |x: &Array, shape: [usize; 2], of: Of<'_>| Form::of(own, d, (x, shape), of, BLOCKS_LAYOUT);
    let finished = |e: &Experts<Mlx>, y| finished(d, e, y, &chosen.experts);
    let sorted = LazyCell::new(|| Order::of(d, &chosen.experts));
    let left = |e: &Experts<Mlx>, x: &Array| sorted.back(d, sorted.products(d, &e.matrix, &sorted.take(d, x)));
    let (x, share) = if moe.weight_input {
        let x = d.multiply(&d.reshape(&x.array, &[n_tok, 1, n_in]), &d.reshape(weights, &[n_tok, n_used, 1]));
        (d.reshape(&x, &[n, n_in]), 1)
    } else {
        (x.array.clone(), n_used)
    };
    let form = first.then(|| halved(&x, [n / share, n_in], Of::Rows));
    let apply = |e: &Experts<Mlx>| match &form {
        Some(form) if in_blocks(e) => {
            let [y, _] = blocks::experts(own, d, (form, share), (&e.matrix, None), &chosen);
            finished(e, y)
        }
        _ => finished(e, left(e, &repeated(d, &x, [n / share, share, n_in]))),
    };
    let (gate, up) = match (moe.gate, &form) {
        (Some(gate), Some(form)) if blocks::alike(&gate.matrix, &moe.up.matrix) => {
            let [y, z] = blocks::experts(own, d, (form, share), (&gate.matrix, Some(&moe.up.matrix)), &chosen);
            (Some(finished(gate, y)), finished(moe.up, z))
        }
        (gate, _) => (gate.map(apply), apply(moe.up)),
    };
    let n_ff = moe.down.matrix.n_in;
    if !in_blocks(moe.down) {
        let hidden = hidden(d, moe, gate.as_ref(), &up);
        return Some(finished(moe.down, left(moe.down, &hidden)));
    }
    let gated = match &gate {
        Some(gate) => Some((gate, [n_ff, 0])),
        None => moe.merged.then_some((&up, [2 * n_ff, n_ff])),
    };
    let form = match gated {
        Some((gate, from)) if form::glu(moe.act).is_some() => halved(gate, [n, n_ff], Of::Gate(moe.act, &up, from)),
        _ => halved(&hidden(d, moe, gate.as_ref(), &up), [n, n_ff], Of::Rows),
    };
    let [y, _] = blocks::experts(own, d, (&form, 1), (&moe.down.matrix, None), &chosen);
    Some(finished(moe.down, y))
}

/// The feed-forward of experts that MLX multiplies, in 16 bits, weighted and summed: `[n_tok, n_out]`. Rows are rounded once for gate and
/// up. `None` where it is not so that they are multiplied.
pub(crate) fn by_mlx(
    own: &Own,
    d: &Device,
    x: &Tensor,
    (experts, weights): (&Array, &Array),
    moe: &Moe<'_, Mlx>,
) -> Option<Array> {
    let (gate, dtype) = (moe.gate?, moe.up.matrix.parts[0].dtype);
    let glu = form::glu(moe.act).filter(|glu| *glu < form::OF_ROWS_ALONE)?;
    let like = |e: &Experts<Mlx>| {
        let part = &e.matrix.parts[0];
        !in_blocks(e) && part.dtype == dtype && e.scale.is_empty() && e.bias.is_none()
    };
    let all = [gate, moe.up, moe.down];
    // `rows_half` takes eight columns at a time.
    let whole = all.iter().all(|e| e.matrix.n_in.is_multiple_of(8));
    if moe.weight_input || dtype == Dtype::F32 || !whole || !all.into_iter().all(like) {
        return None;
    }
    let ([n_tok, n_in], n_used) = (x.shape, moe.n_used);
    let [n, n_ff, n_out] = [n_tok * n_used, moe.down.matrix.n_in, moe.down.matrix.n_out];
    let halved = |x: &Array, shape: [usize; 2]| {
        let form = Form::of(own, d, (x, shape), Of::Rows, form::layout_of(dtype));
        (d.view(&form.x, dtype), form.scales)
    };
    let (rows, scales) = halved(&x.array, x.shape);
    let order = Order::of(d, &d.reshape(experts, &[n]));
    let (rows, scales, share, chosen) = match order.tokens(d, n_used) {
        Some(tokens) => {
            let rows = d.reshape(&d.take(&rows, &tokens, 0), &[n, 1, n_in]);
            (rows, d.take(&scales, &tokens, 0), 1, &order.experts)
        }
        None => (d.reshape(&rows, &[n_tok, 1, 1, n_in]), scales, n_used, experts),
    };
    let sorted = order.sorted.is_some();
    let [y, z] = [gate, moe.up].map(|e| e.matrix.parts[0].gather(d, &rows, (chosen, sorted)));
    let hidden = form::finish(own, d, [&y, &z], (dtype, [n, n_ff]), (&scales, share), (glu, None));
    let (rows, scales) = halved(&hidden, [n, n_ff]);
    let rows = d.reshape(&rows, &[n, 1, n_ff]);
    let y = moe.down.matrix.parts[0].gather(d, &rows, (&order.experts, sorted));
    let made = Made { y, scales: Some((scales, dtype)), place: order.sorted.map(|[_, place]| place) };
    Some(sum(own, d, &made, weights, n_used, [n_tok, n_out]))
}

/// What the experts of tokens made: `[n_tok * n_used, n_out]`.
pub(crate) struct Made {
    /// f32, neighbours of a token, where nothing else is said.
    pub(crate) y: Array,
    /// By which these are to be multiplied, and what they are.
    pub(crate) scales: Option<(Array, Dtype)>,
    /// Where each is, `[n_tok * n_used]` u32.
    pub(crate) place: Option<Array>,
}

/// What was made, weighted and summed: `[n_tok, n_out]`, as `shape` says.
pub(crate) fn sum(own: &Own, d: &Device, made: &Made, weights: &Array, n_used: usize, shape: [usize; 2]) -> Array {
    let [n_tok, n_out] = shape;
    let parameter = made.scales.as_ref().map_or("float", |(_, dtype)| form::parameter(*dtype));
    let scales = made.scales.as_ref().map_or(weights, |(scales, _)| scales);
    let constants = [made.scales.is_some(), made.place.is_some()].map(u32::from);
    let sizes = own.sizes(d, &[n_used, n_out]);
    let inputs = [&made.y, scales, weights, made.place.as_ref().unwrap_or(&sizes), &sizes];
    let instance = Instance::new("experts_sum", &constants, parameter);
    let [out] = own.launch(d, instance, &inputs, &[&shape], [n_out.div_ceil(256), n_tok, 1]);
    out
}
