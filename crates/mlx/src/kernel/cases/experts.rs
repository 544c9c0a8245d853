//! Launches of the kernels of mixtures of experts.

use mlxr_compute::MatrixData;
use mlxr_compute::conformance::Random;
use mlxr_compute::op::{Act, Experts, Gating, Moe, SPARSE_MIXER_SPAN};
use mlxr_compute::scalar::{Matrix, Scalar, Tensor, route as definition};

use super::product::{Sums, coded, halves_of, laid_out, rounding, sums};
use super::{Case, Finish, Limit, SINGLE, bytes, sizes};
use crate::kernel::Instance;
use crate::kernel::blocks::Blocks;
use crate::kernel::source::Launch;
use crate::own::blocks::experts_constants;
use crate::own::experts::route_constants;

/// Products with experts.
#[derive(Clone, Copy)]
pub(super) struct Products {
    pub(super) n_product: usize,
    pub(super) n_expert: usize,
    /// Neighbours of one row; as many as divide the products.
    pub(super) share: usize,
    /// Whether they are computed in an order in which neighbours have one expert; else each has another while there are any.
    pub(super) sorted: bool,
    /// Whether of a second matrix, too.
    pub(super) pair: bool,
}

impl Products {
    fn chosen(self, random: &mut Random) -> Vec<u32> {
        let order = random.shuffled(self.n_expert);
        let one = |i: usize| if self.sorted { random.below(self.n_expert) as u32 } else { order[i % self.n_expert] };
        (0..self.n_product).map(one).collect()
    }

    fn n_row(self) -> usize {
        self.n_product / self.share
    }
}

/// Random rows, and the products of each with its experts.
pub(super) fn products(random: &mut Random, of: Products, row: &Blocks, shape: [usize; 2]) -> Case {
    let ([n_out, n_in], n_row) = (shape, of.n_row());
    let n_matrix = 1 + usize::from(of.pair);
    let matrices: Vec<MatrixData> = (0..n_matrix * of.n_expert).map(|_| coded(random, row, shape)).collect();
    let numbers = halves_of(random, n_row * n_in);
    let chosen = of.chosen(random);
    let x = Tensor { shape: [n_row, n_in], data: numbers.clone() };
    let all: Vec<Sums> = matrices.iter().map(|data| sums(&x, data, rounding(row))).collect();
    let each = |part: fn(&Sums) -> &Vec<f32>| {
        let line = |all: &[Sums], i: usize| part(&all[chosen[i] as usize])[i / of.share * n_out..][..n_out].to_vec();
        let of_matrix = |all| (0..of.n_product).flat_map(|i| line(all, i)).collect::<Vec<f32>>();
        all.chunks_exact(of.n_expert).flat_map(of_matrix).collect::<Vec<f32>>()
    };
    let (want, off) = (each(|sums| &sums.y), each(|sums| &sums.off));
    let packed: Vec<Vec<u8>> = matrices.chunks_exact(of.n_expert).map(|matrices| row.packed(matrices)).collect();
    let launch = launch((row, &matrices[0], &packed), &numbers, &chosen, of);
    let title = format!("{}, {} of {n_matrix} times [{n_out}, {n_in}]", launch.instance.name(), of.n_product);
    let finish = if of.pair { Finish::Parts } else { Finish::First };
    Case { launch, title, want, n_col: n_out, finish, limit: Limit::Each(off) }
}

/// Large ones, of which only the time is asked: all of the same weights, in places of their own.
pub(super) fn products_to_time(random: &mut Random, of: Products, row: &Blocks, shape: [usize; 2]) -> Case {
    let data = coded(random, row, shape);
    let chosen = of.chosen(random);
    let numbers = halves_of(random, of.n_row() * shape[1]);
    let bytes = row.packed([&data]).repeat(of.n_expert);
    let launch = launch((row, &data, &[bytes]), &numbers, &chosen, of);
    let title = format!("{}, {} of {} times {shape:?}", launch.instance.name(), of.n_product, of.n_expert);
    Case { launch, title, want: Vec::new(), n_col: shape[0], finish: Finish::First, limit: Limit::None }
}

/// A launch on rows that f16 holds, with the expert of each product: one of them, and all laid out, of each matrix.
fn launch(
    (row, one, packed): (&Blocks, &MatrixData, &[Vec<u8>]),
    numbers: &[f32],
    chosen: &[u32],
    of: Products,
) -> Launch {
    let (n, n_row, [n_out, n_in]) = (of.n_product, of.n_row(), [one.n_out, one.n_in]);
    let [n_tile, r, tile] = experts_constants(row, [n, of.n_expert, 32], of.sorted);
    let constants = [n_tile, r, n_in as u32, n_out as u32, tile, of.share as u32, row.group()];
    let instance = Instance::new(&format!("{}_experts", row.name), &constants, "float");
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_by_key(|&i| chosen[i as usize]);
    let inputs = vec![
        laid_out(numbers, [n_row, n_in], 4),
        bytes(&vec![1.0f32; n_row]),
        packed[0].clone(),
        packed[packed.len() - 1].clone(),
        bytes(&row.codes(one)),
        bytes(chosen),
        bytes(&order),
        sizes(&[n, n_in, n_out]),
    ];
    let grid = [n_out.div_ceil(16 * r as usize), n.div_ceil(tile as usize), packed.len()].map(|n| n as u32);
    Launch { instance, grid, inputs, outputs: vec![n * n_out, if of.pair { n * n_out } else { 1 }] }
}

/// How experts are chosen.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) gating: Gating,
    pub(super) bias: bool,
    pub(super) groups: Option<(usize, usize)>,
    pub(super) normalize: bool,
}

/// The chosen experts of rows of logits. Of few different numbers, so that many are equal, and others far apart: roundings choose no
/// expert.
pub(super) fn route(random: &mut Random, [n_tok, n_expert, n_used]: [usize; 3], how: Choice) -> Case {
    let halves =
        |random: &mut Random, n: usize| (0..n).map(|_| 0.5 * (1 + random.below(8)) as f32).collect::<Vec<f32>>();
    let logits = halves(random, n_tok * n_expert);
    let bias = Tensor { shape: [1, n_expert], data: halves(random, n_expert).iter().map(|x| x / 4.0).collect() };
    let none = || Experts {
        matrix: Matrix { n_matrix: n_expert, n_out: 0, n_in: 0, data: Vec::new() },
        bias: None,
        scale: Vec::new(),
    };
    let (up, down) = (none(), none());
    let moe = Moe::<Scalar> {
        gating: how.gating,
        select_bias: how.bias.then_some(&bias),
        groups: how.groups,
        n_used,
        normalize: how.normalize,
        scale: 1.5,
        weight_input: false,
        act: Act::Silu,
        gate: None,
        up: &up,
        merged: false,
        down: &down,
    };
    let rows = logits.chunks_exact(n_expert);
    let chosen: Vec<(usize, f32)> =
        rows.flat_map(|row| definition(row, &moe, how.bias.then_some(&bias.data[..]))).collect();
    // Places are whole numbers, compared by their bits.
    let places = chosen.iter().map(|(expert, _)| f32::from_bits(*expert as u32));
    let want: Vec<f32> = places.chain(chosen.iter().map(|(_, weight)| *weight)).collect();
    let off = want.iter().enumerate().map(|(i, x)| if i < chosen.len() { 0.0 } else { SINGLE * x.abs() }).collect();
    let instance = Instance::new("route", &route_constants(n_expert, &moe).expect("few enough"), "float");
    let title = format!("{}, {n_used} of {n_expert} for each of {n_tok}, {:?}", instance.name(), how.groups);
    let (n_group, n_group_used) = how.groups.unwrap_or((1, 1));
    let inputs = vec![
        bytes(&logits),
        bytes(&bias.data),
        bytes(&[moe.scale, SPARSE_MIXER_SPAN]),
        sizes(&[n_expert, n_used, n_group, n_group_used]),
    ];
    let launch = Launch { instance, grid: [n_tok as u32, 1, 1], inputs, outputs: vec![n_tok * n_used; 2] };
    Case { launch, title, want, n_col: n_used, finish: Finish::Parts, limit: Limit::Each(off) }
}

/// Sums of what experts made of rows, of numbers of this type; those of 16 bits with scales, and `placed` anywhere.
pub(super) fn sum(
    random: &mut Random,
    [n_tok, n_used, n_out]: [usize; 3],
    parameter: &'static str,
    placed: bool,
) -> Case {
    let n = n_tok * n_used;
    let round = |x: &f32| match parameter {
        "half" => half::f16::from_f32(*x).to_f32(),
        "bfloat" => half::bf16::from_f32(*x).to_f32(),
        _ => *x,
    };
    let y: Vec<f32> = random.normals(n * n_out).iter().map(round).collect();
    let scaled = parameter != "float";
    let scales: Vec<f32> = (0..n).map(|_| if scaled { 0.5 + random.unit() } else { 1.0 }).collect();
    let place = if placed { random.shuffled(n) } else { (0..n as u32).collect() };
    let weights = random.normals(n);
    let number = |i: usize| {
        let (token, column) = (i / n_out, i % n_out);
        let part = |k: usize| {
            let at = place[k] as usize;
            f64::from(weights[k]) * f64::from(scales[at]) * f64::from(y[at * n_out + column])
        };
        (token * n_used..(token + 1) * n_used).map(part).fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
    };
    let sums: Vec<(f64, f64)> = (0..n_tok * n_out).map(number).collect();
    let off = sums.iter().map(|(_, size)| (n_used + 1) as f32 * f32::EPSILON * *size as f32).collect();
    let want = sums.iter().map(|(sum, _)| *sum as f32).collect();
    let instance = Instance::new("experts_sum", &[u32::from(scaled), u32::from(placed)], parameter);
    let title = format!("{}, {n_used} of {n_out} for each of {n_tok}", instance.name());
    let y = match parameter {
        "half" => bytes(&y.iter().map(|x| half::f16::from_f32(*x).to_bits()).collect::<Vec<u16>>()),
        "bfloat" => bytes(&y.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect::<Vec<u16>>()),
        _ => bytes(&y),
    };
    let inputs = vec![y, bytes(&scales), bytes(&weights), bytes(&place), sizes(&[n_used, n_out])];
    let grid = [n_out.div_ceil(256) as u32, n_tok as u32, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![n_tok * n_out] };
    Case { launch, title, want, n_col: n_out, finish: Finish::First, limit: Limit::Each(off) }
}
