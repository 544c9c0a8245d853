//! Launches of the kernels made of `affine_tiles`.

use mlxr_compute::conformance::{Random, random_matrix};
use mlxr_compute::op::{Norm, NormKind, RopePairs};
use mlxr_compute::scalar::{Scalar, Tensor};
use mlxr_compute::{Backend, DType, Encoding, MatrixData};

use super::product::{Sums, act, laid_out, plus, sums, through};
use super::{Case, Finish, HALF, Limit, attention, bytes, sizes};
use crate::kernel::Instance;
use crate::kernel::source::{Launch, Platform};
use crate::own::product::{Shape, tile_constants};

/// How far a weight is off: the product of scale and code with the bias added is rounded to f16 once, and scales of this size are
/// f16 themselves.
const WEIGHT: f32 = 1.0 / 2048.0;
/// What gated products are divided by to be f16.
const DIVISOR: f32 = 16.0;

/// Bits, group and type of the scales.
pub(super) type Packing = (u8, u16, DType);

/// Rows as they are given, and what they stand for.
struct Rows {
    inputs: Vec<Vec<u8>>,
    x: Tensor,
}

/// Rows that f16 holds, each with a scale, such that products with weights of about 1 to 10 are about 1.
fn rows(random: &mut Random, [m, n_in]: [usize; 2], bits: u8) -> Rows {
    let scales: Vec<f32> = (0..m).map(|_| (0.2 + random.unit()) / 8.0 / (n_in as f32).sqrt()).collect();
    let numbers: Vec<f32> = random.normals(m * n_in).iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
    let inputs = vec![laid_out(&numbers, [m, n_in], u32::from(bits)), bytes(&scales), sizes(&[m])];
    let data = numbers.iter().enumerate().map(|(i, x)| x * scales[i / n_in]).collect();
    Rows { inputs, x: Tensor { shape: [m, n_in], data } }
}

/// One row that the kernel normalizes itself, and its norm.
fn normed_row(random: &mut Random, n_in: usize) -> Rows {
    let (x, eps) = (Tensor { shape: [1, n_in], data: random.normals(n_in) }, 1e-5f32);
    let weight: Vec<f32> = (0..n_in).map(|_| (0.2 + random.unit()) / 8.0 / (n_in as f32).sqrt()).collect();
    let mut factors = vec![eps];
    factors.resize(8, 0.0);
    let inputs = vec![bytes(&x.data), bytes(&weight), bytes(&factors)];
    let weight = Some(Tensor { shape: [1, n_in], data: weight });
    Rows { inputs, x: Scalar.norm(&x, &Norm { kind: NormKind::Rms, weight, bias: None, eps }) }
}

/// Rows for a kernel of this name, by whether it normalizes, and how far products are off by their roundings.
fn rows_for(random: &mut Random, name: &str, [m, n_in]: [usize; 2], bits: u8) -> (Rows, f32) {
    match name.ends_with("_normed") {
        // The row is rounded to f16 too.
        true => (normed_row(random, n_in), 2.0 * WEIGHT),
        false => (rows(random, [m, n_in], bits), WEIGHT),
    }
}

fn matrix(random: &mut Random, (bits, group, scale): Packing, shape: [usize; 2]) -> MatrixData {
    random_matrix(random, Encoding::MlxAffine { bits, group, scale }, shape)
}

fn parts(data: &MatrixData) -> Vec<Vec<u8>> {
    data.parts.iter().map(|part| part.to_vec()).collect()
}

fn parameter((_, _, scale): Packing) -> &'static str {
    if scale == DType::F16 { "half" } else { "bfloat" }
}

/// Constants of `affine_tiles` for `m` rows; of one platform or the other, by the columns.
fn constants(m: usize, shape: Shape<'_>, (bits, group, _): Packing) -> [u32; 7] {
    let platform = if shape.n_in.is_multiple_of(256) { Platform::Cuda } else { Platform::Metal };
    tile_constants(platform, m, shape, [u32::from(bits), u32::from(group)])
}

pub(super) fn plain(random: &mut Random, m: usize, packing: Packing, [n_out, n_in]: [usize; 2], add: bool) -> Case {
    let (rows, data) = (rows(random, [m, n_in], packing.0), matrix(random, packing, [n_out, n_in]));
    let residual = random.normals(m * n_out);
    let mut made = sums(&rows.x, &data, WEIGHT);
    if add {
        made = plus(made, &residual);
    }
    let tiling = constants(m, Shape { n_in, n_outs: &[n_out], gated: false }, packing);
    let instance =
        Instance::new("affine_tiles", &[&tiling[..], &[n_out as u32, u32::from(add)]].concat(), parameter(packing));
    let title = format!("{}, {m} of [{n_out}, {n_in}]", instance.name());
    let inputs = [rows.inputs, parts(&data), vec![bytes(&residual)]].concat();
    let grid = [n_out.div_ceil(16 * tiling[1] as usize) as u32, 1, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![m * n_out] };
    Case { launch, title, want: made.y, n_col: n_out, finish: Finish::First, limit: Limit::Each(made.off) }
}

/// `glu`: the gate, `layout`: of the pairs.
pub(super) fn gated(
    random: &mut Random,
    (name, m): (&str, usize),
    packing: Packing,
    [n_out, n_in]: [usize; 2],
    [glu, layout]: [u32; 2],
) -> Case {
    let (rows, off) = rows_for(random, name, [m, n_in], packing.0);
    let both = [(); 2].map(|()| matrix(random, packing, [n_out, n_in]));
    let [y, z] = both.each_ref().map(|data| sums(&rows.x, data, off));
    let mut made = through(act(glu).expect("a gate"), &y, &z);
    let tiling = constants(m, Shape { n_in, n_outs: &[n_out], gated: true }, packing);
    let all = [&tiling[..], &[n_out as u32, glu, layout]].concat();
    let instance = Instance::new(name, &all, parameter(packing));
    let title = format!("{}, {m} of [{n_out}, {n_in}]", instance.name());
    let inputs = [rows.inputs, parts(&both[0]), parts(&both[1])].concat();
    let (finish, n_pair) = match layout {
        0 => (Finish::First, 1),
        _ => (Finish::Beside(layout, n_out, DIVISOR), m.next_multiple_of(8) * n_out / 2),
    };
    if layout > 0 {
        // Rounded once more, to f16 of a sixteenth.
        let off = made.off.iter().zip(&made.y).map(|(off, y)| off + y.abs() * WEIGHT + DIVISOR * 2f32.powi(-25));
        made = Sums { off: made.off.iter().copied().chain(off).collect(), y: [&made.y[..], &made.y].concat() };
    }
    let grid = [n_out.div_ceil(16) as u32, 1, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![m * n_out, n_pair] };
    Case { launch, title, want: made.y, n_col: n_out, finish, limit: Limit::Each(made.off) }
}

/// Queries, keys and values of `n_kv_head` heads of `d`, rotated and appended.
pub(super) fn append(
    random: &mut Random,
    (name, m): (&str, usize),
    packing: Packing,
    [d, group, n_kv_head, n_in]: [usize; 4],
    (dims, pairs): (usize, RopePairs),
) -> Case {
    let (rows, off) = rows_for(random, name, [m, n_in], packing.0);
    let n_outs = [n_kv_head * group * d, n_kv_head * d, n_kv_head * d];
    let all = n_outs.map(|n_out| matrix(random, packing, [n_out, n_in]));
    let made = all.each_ref().map(|data| sums(&rows.x, data, off));
    let next = attention::next(random, [d, n_kv_head, m], (dims, pairs));
    let tiling = constants(m, Shape { n_in, n_outs: &n_outs, gated: false }, packing);
    // Where nothing turns there are no halves.
    let paired = dims == 0 || pairs == RopePairs::Interleaved;
    let constants = [&tiling[..], &n_outs.map(|n| n as u32), &[d as u32, dims as u32, u32::from(paired)]].concat();
    let instance = Instance::new(name, &constants, parameter(packing));
    let title = format!("{}, {m} of [{n_outs:?}, {n_in}]", instance.name());
    let empty = vec![0u16; next.n];
    let rest = vec![bytes(&empty), bytes(&empty), bytes(&next.table), bytes(&next.turns), bytes(&[0i32])];
    let inputs = [rows.inputs, all.iter().flat_map(parts).collect(), rest].concat();
    let groups = n_outs.iter().map(|n_out| n_out / (16 * tiling[1] as usize)).sum::<usize>() as u32;
    let launch = Launch { instance, grid: [groups, 1, 1], inputs, outputs: vec![m * n_outs[0], 1] };
    let tensor = |i: usize| Tensor { shape: [m, n_outs[i]], data: made[i].y.clone() };
    let want = next.stored([0, 1, 2].map(tensor));
    // Both of a pair are off, and keys and values are rounded to f16.
    let off = made.iter().flat_map(|sums| &sums.off).fold(0.0f32, |most, off| most.max(*off));
    let limit = want.iter().map(|x| 2.0 * off + 1e-5 + x.abs() * HALF).collect();
    Case { launch, title, want, n_col: d, finish: Finish::Stores, limit: Limit::Each(limit) }
}

/// Three matrices of `n_out` rows and `n_in` columns.
pub(super) fn three(random: &mut Random, m: usize, packing: Packing, [a, b, c, n_in]: [usize; 4]) -> Case {
    let rows = rows(random, [m, n_in], packing.0);
    let all = [a, b, c].map(|n_out| matrix(random, packing, [n_out, n_in]));
    let made = all.each_ref().map(|data| sums(&rows.x, data, WEIGHT));
    let tiling = constants(m, Shape { n_in, n_outs: &[a, b, c], gated: false }, packing);
    let instance =
        Instance::new("affine_tiles_three", &[&tiling[..], &[a, b, c].map(|n| n as u32)].concat(), parameter(packing));
    let title = format!("{}, {m} of [{a} + {b} + {c}, {n_in}]", instance.name());
    let inputs = [rows.inputs, all.iter().flat_map(parts).collect()].concat();
    let groups = [a, b, c].iter().map(|n_out| n_out.div_ceil(16 * tiling[1] as usize) as u32).sum();
    let launch = Launch { instance, grid: [groups, 1, 1], inputs, outputs: [a, b, c].map(|n| m * n).to_vec() };
    let want = made.iter().flat_map(|sums| sums.y.iter().copied()).collect();
    let limit = Limit::Each(made.iter().flat_map(|sums| sums.off.iter().copied()).collect());
    Case { launch, title, want, n_col: m, finish: Finish::Parts, limit }
}
