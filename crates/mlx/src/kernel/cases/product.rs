//! Launches of the kernels of products.

use mlxr_compute::conformance::{Random, random_matrix};
use mlxr_compute::matrix::MlxFloat;
use mlxr_compute::op::{Act, Linear, Norm, NormKind};
use mlxr_compute::scalar::{Matrix, Scalar, Tensor};
use mlxr_compute::{Backend, Bytes, DType, Encoding, MatrixData};

use super::{BFLOAT, Case, Finish, HALF, Limit, SINGLE, bytes, halves, sizes};
use crate::kernel::Instance;
use crate::kernel::blocks::{Blocks, Format};
use crate::kernel::pack::SUPER;
use crate::kernel::source::Launch;
use crate::own::blocks::blocks_constants;
use crate::own::form;

/// The order of a word's weights in `rows_half`, by layout: where each of eight columns goes.
fn order(layout: u32) -> [usize; 8] {
    match layout {
        4 => [0, 2, 4, 6, 1, 3, 5, 7],
        8 => [0, 2, 1, 3, 4, 6, 5, 7],
        _ => [0, 1, 2, 3, 4, 5, 6, 7],
    }
}

/// Where column `column` of row `token` lies among the numbers of `rows_half`.
fn place(layout: u32, n_in: usize, token: usize, column: usize) -> usize {
    let within = order(layout)[column % 8];
    if layout < 2 {
        return token * n_in + column / 8 * 8 + within;
    }
    let (block, quad, step) = (column / 128, column % 128 / 32, column % 32 / 8);
    ((((token / 8 * n_in.div_ceil(128) + block) * 4 + step) * 8 + token % 8) * 4 + quad) * 8 + within
}

/// The rows that outputs of `rows_half` stand for.
pub(super) fn rows(pairs: &[f32], scales: &[f32], layout: u32, n_in: usize) -> Vec<f32> {
    let numbers = match layout {
        1 => pairs.iter().flat_map(|p| [p.to_bits() << 16, p.to_bits() & 0xffff_0000].map(f32::from_bits)).collect(),
        _ => halves(pairs),
    };
    let row = |(token, scale): (usize, &f32)| {
        let scale = *scale;
        let numbers = &numbers;
        (0..n_in).map(move |column| numbers[place(layout, n_in, token, column)] * scale).collect::<Vec<f32>>()
    };
    scales.iter().enumerate().flat_map(row).collect()
}

/// `x` `[n_tok, n_in]` as `rows_half` makes it.
pub(super) fn laid_out(x: &[f32], [n_tok, n_in]: [usize; 2], layout: u32) -> Vec<u8> {
    let [n_row, n_col] =
        if layout < 2 { [n_tok, n_in] } else { [n_tok.next_multiple_of(8), n_in.next_multiple_of(128)] };
    let mut numbers = vec![0u16; n_row * n_col];
    for token in 0..n_tok {
        for column in 0..n_in {
            numbers[place(layout, n_in, token, column)] = half::f16::from_f32(x[token * n_in + column]).to_bits();
        }
    }
    bytes(&numbers)
}

/// Products of rows `x` with a matrix, and how far each may be off.
pub(super) struct Sums {
    pub y: Vec<f32>,
    pub off: Vec<f32>,
}

/// The definition's products. A weight of the kernel is off by `weight` of its magnitude, and the numbers summed are rounded as
/// they are added, in any order: an error of at most `n 2^-23` of the sum of magnitudes.
pub(super) fn sums(x: &Tensor, data: &MatrixData, weight: f32) -> Sums {
    let matrix = Scalar.matrix(std::slice::from_ref(data)).expect("a random matrix is sound");
    let positive = |numbers: &[f32]| numbers.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let magnitudes = Matrix { data: positive(&matrix.data), ..matrix.clone() };
    let x_magnitudes = Tensor { shape: x.shape, data: positive(&x.data) };
    let [y] = Scalar.linears(x, None, [&Linear { matrix, bias: None, scale: 1.0 }]);
    let [all] = Scalar.linears(&x_magnitudes, None, [&Linear { matrix: magnitudes, bias: None, scale: 1.0 }]);
    let part = weight + x.shape[1] as f32 * f32::EPSILON;
    Sums { y: y.data, off: all.data.iter().map(|all| all * part).collect() }
}

/// What becomes of sums and their errors at a gate: `act(y) z`. No gate is steeper than 1.13.
pub(super) fn through(gate: Act, y: &Sums, z: &Sums) -> Sums {
    const STEEPEST: f32 = 1.13;
    let n = y.y.len();
    let tensor = |data: &[f32]| Tensor { shape: [1, n], data: data.to_vec() };
    let acted = Scalar.act(tensor(&y.y), gate).data;
    let out = Scalar.glu(tensor(&y.y), &tensor(&z.y), gate).data;
    let off = |i: usize| {
        let of_gate = STEEPEST * y.off[i] + SINGLE * acted[i].abs();
        of_gate * (z.y[i].abs() + z.off[i]) + acted[i].abs() * z.off[i] + f32::EPSILON * out[i].abs()
    };
    Sums { off: (0..n).map(off).collect(), y: out }
}

/// Sums of one added number each.
pub(super) fn plus(y: Sums, added: &[f32]) -> Sums {
    let sum: Vec<f32> = y.y.iter().zip(added).map(|(y, x)| y + x).collect();
    let off = y.off.iter().zip(&y.y).zip(added).map(|((off, y), x)| off + f32::EPSILON * (y.abs() + x.abs()));
    Sums { off: off.collect(), y: sum }
}

/// What of rows [`rows_half`] rounds: they, their norm, or they as a gate of as many, or of what follows each in the same array.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Rows,
    Norm,
    Gate(Act),
    Merged(Act),
}

pub(super) fn rows_half(random: &mut Random, [n_tok, n_in]: [usize; 2], layout: u32, of: Of) -> Case {
    let merged = matches!(of, Of::Merged(_));
    let (stride, begin) = if merged { (2 * n_in, n_in) } else { (n_in, 0) };
    let x = random.normals(n_tok * stride);
    let other = if merged { x.clone() } else { random.normals(n_tok * n_in) };
    let weight = random.normals(n_in);
    let (norm, glu, factors) = match of {
        Of::Rows => (0, 0, [0.0; 2]),
        Of::Norm => (1, 0, [1e-5, 0.0]),
        Of::Gate(act @ Act::SwigluOai { alpha, limit }) => (0, form::glu(act).expect("a gate"), [alpha, limit]),
        Of::Gate(act) | Of::Merged(act) => (0, form::glu(act).expect("a gate"), [0.0; 2]),
    };
    let instance = Instance::new("rows_half", &[norm, layout, glu], "float");
    let title = format!("{}, [{n_tok}, {n_in}]", instance.name());
    let inputs = vec![bytes(&x), bytes(&weight), bytes(&other), sizes(&[n_in, stride, begin]), bytes::<f32>(&factors)];
    let [n_row, n_col] =
        if layout < 2 { [n_tok, n_in] } else { [n_tok.next_multiple_of(8), n_in.next_multiple_of(128)] };
    let outputs = vec![n_row * n_col / 2, n_tok];
    let launch = Launch { instance, grid: [n_tok as u32, 1, 1], inputs, outputs };
    let tensor = |numbers: &[f32], begin: usize| {
        let rows = numbers.chunks_exact(stride).flat_map(|row| &row[begin..begin + n_in]);
        Tensor { shape: [n_tok, n_in], data: rows.copied().collect() }
    };
    let weight = Some(Tensor { shape: [1, n_in], data: weight });
    let want = match of {
        Of::Rows => x,
        Of::Norm => Scalar.norm(&tensor(&x, 0), &Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5 }).data,
        Of::Gate(act) | Of::Merged(act) => Scalar.glu(tensor(&x, 0), &tensor(&other, begin), act).data,
    };
    let limit = Limit::Row(if layout == 1 { BFLOAT } else { HALF });
    Case { launch, title, want, n_col: n_in, finish: Finish::Rows(layout, n_in), limit }
}

/// The gate of a kernel's constant.
pub(super) fn act(glu: u32) -> Option<Act> {
    [None, Some(Act::Silu), Some(Act::GeluTanh)][glu as usize]
}

pub(super) fn rows_finish(
    random: &mut Random,
    ([n_tok, n_out], share): ([usize; 2], usize),
    [glu, add]: [u32; 2],
    parameter: &'static str,
) -> Case {
    let word = |x: f32| match parameter {
        "bfloat" => half::bf16::from_f32(x).to_bits(),
        _ => half::f16::from_f32(x).to_bits(),
    };
    let number = |word: &u16| match parameter {
        "bfloat" => half::bf16::from_bits(*word).to_f32(),
        _ => half::f16::from_bits(*word).to_f32(),
    };
    let words = [(); 2].map(|()| random.normals(n_tok * n_out).into_iter().map(word).collect::<Vec<u16>>());
    let scales: Vec<f32> = (0..n_tok / share).map(|_| 0.5 + random.unit()).collect();
    let residual = random.normals(n_tok * n_out);
    let instance = Instance::new("rows_finish", &[glu, add], parameter);
    let title = format!("{}, [{n_tok}, {n_out}]", instance.name());
    let inputs = vec![bytes(&words[0]), bytes(&words[1]), bytes(&scales), bytes(&residual), sizes(&[n_out, share])];
    let grid = [n_out.div_ceil(256) as u32, n_tok as u32, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![n_tok * n_out] };
    let [y, z] = words.map(|words| {
        let y: Vec<f32> = words.iter().enumerate().map(|(i, word)| number(word) * scales[i / n_out / share]).collect();
        Sums { off: y.iter().map(|y| SINGLE * y.abs()).collect(), y }
    });
    let made = match act(glu) {
        Some(act) => through(act, &y, &z),
        None => y,
    };
    let made = if add == 1 { plus(made, &residual) } else { made };
    Case { launch, title, want: made.y, n_col: n_out, finish: Finish::First, limit: Limit::Each(made.off) }
}

/// `m` random rows times a random matrix: the rows, the matrix's parts, the products.
fn product(random: &mut Random, m: usize, encoding: Encoding, shape: [usize; 2]) -> (Vec<f32>, Vec<Vec<u8>>, Sums) {
    let data = random_matrix(random, encoding, shape);
    let x = Tensor { shape: [m, shape[1]], data: random.normals(m * shape[1]) };
    // The kernels unpack in f32, where a scale times a code is rounded before a bias is added.
    let made = sums(&x, &data, 4.0 * f32::EPSILON);
    (x.data, data.parts.iter().map(|p| p.to_vec()).collect(), made)
}

pub(super) fn affine(random: &mut Random, m: usize, (bits, group, scale): (u8, u16, DType), shape: [usize; 2]) -> Case {
    let [n_out, n_in] = shape;
    let (x, parts, made) = product(random, m, Encoding::MlxAffine { bits, group, scale }, shape);
    let parameter = if scale == DType::F16 { "half" } else { "float" };
    let constants = [m as u32, u32::from(bits), u32::from(group)];
    let instance = Instance::new("affine_matmul", &constants, parameter);
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let inputs = [vec![bytes(&x)], parts, vec![sizes(&[n_in, n_out])]].concat();
    let launch = Launch { instance, grid: [n_out.div_ceil(16) as u32, 1, 1], inputs, outputs: vec![m * n_out] };
    Case { launch, title, want: made.y, n_col: n_out, finish: Finish::First, limit: Limit::Each(made.off) }
}

/// A random matrix of a format, and its encoding.
pub(super) fn coded(random: &mut Random, row: &Blocks, shape: [usize; 2]) -> MatrixData {
    let nested = Encoding::Bnb4 { block: 64, nested_block: 256, nested_offset: 0.1 };
    let encoding = match row.format {
        Format::Gguf(dtype) => Encoding::Blocks(dtype),
        Format::Bnb4 => nested,
        Format::Affine(bits, group) => {
            Encoding::MlxAffine { bits, group, scale: [DType::F16, DType::BF16][shape[0] % 2] }
        }
        Format::Float(kind) => Encoding::MlxFloat(kind),
    };
    let mut data = random_matrix(random, encoding, shape);
    if let Format::Float(kind) = row.format {
        data.parts = of_floats(random, kind, shape);
    }
    assert!(row.holds(&data), "{}: random scales that its kernels have", row.name);
    data
}

/// Any codes but NaN, and all scales that the kernels have.
fn of_floats(random: &mut Random, kind: MlxFloat, [n_out, n_in]: [usize; 2]) -> Vec<Bytes> {
    let (first, n_scale) = match kind {
        MlxFloat::Mxfp4 => (106, 25),
        MlxFloat::Mxfp8 => (102, 23),
        MlxFloat::Nvfp4 => (0, 127),
    };
    let mut codes = random.bytes(n_out * n_in * kind.bits() / 8);
    if kind == MlxFloat::Mxfp8 {
        codes.iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code = 0);
    }
    let scales: Vec<u8> = (0..n_out * n_in / kind.group()).map(|_| first + random.below(n_scale) as u8).collect();
    vec![codes.into(), scales.into()]
}

/// How far a weight may be off, of its magnitude: one in units of its super-block is rounded to f16; of bitsandbytes value and absmax are,
/// too; floats are as they are.
pub(super) fn rounding(row: &Blocks) -> f32 {
    match row.format {
        Format::Bnb4 => 2f32.powi(-10),
        Format::Float(_) => 0.0,
        Format::Gguf(_) | Format::Affine(..) => 2f32.powi(-11),
    }
}

/// A launch on rows that f16 holds, each with a scale, and what it adds.
fn blocks_launch(row: &Blocks, data: &MatrixData, [numbers, scales, residual]: [&[f32]; 3], add: bool) -> Launch {
    let (m, [n_out, n_in]) = (scales.len(), [data.n_out, data.n_in]);
    let [n, r] = blocks_constants(row, m);
    let instance = Instance::new(
        &format!("{}_matmul", row.name),
        &[n, r, n_in as u32, n_out as u32, u32::from(add), row.group()],
        "float",
    );
    let inputs = vec![
        laid_out(numbers, [m, n_in], 4),
        bytes(scales),
        row.packed([data]),
        bytes(&row.codes(data)),
        bytes(residual),
        sizes(&[m, n_in, n_out]),
    ];
    Launch { instance, grid: [n_out.div_ceil(16 * r as usize) as u32, 1, 1], inputs, outputs: vec![m * n_out] }
}

/// Random numbers that f16 holds.
pub(super) fn halves_of(random: &mut Random, n: usize) -> Vec<f32> {
    random.normals(n).iter().map(|x| half::f16::from_f32(*x).to_f32()).collect()
}

pub(super) fn blocks(random: &mut Random, m: usize, row: &Blocks, shape: [usize; 2], add: bool) -> Case {
    let [n_out, n_in] = shape;
    let (data, numbers) = (coded(random, row, shape), halves_of(random, m * n_in));
    let scales: Vec<f32> = (0..m).map(|_| 0.5 + random.unit()).collect();
    let residual = random.normals(m * n_out);
    let scaled = numbers.iter().enumerate().map(|(i, x)| x * scales[i / n_in]).collect();
    let weight = rounding(row);
    let mut made = sums(&Tensor { shape: [m, n_in], data: scaled }, &data, weight);
    if add {
        made = plus(made, &residual);
    }
    let launch = blocks_launch(row, &data, [&numbers, &scales, &residual], add);
    let title = format!("{}, {m} of [{n_out}, {n_in}]", launch.instance.name());
    Case { launch, title, want: made.y, n_col: n_out, finish: Finish::First, limit: Limit::Each(made.off) }
}

/// A large one, of which only the time is asked: its definition would take minutes.
pub(super) fn blocks_to_time(random: &mut Random, m: usize, row: &Blocks, shape: [usize; 2]) -> Case {
    let (data, numbers) = (coded(random, row, shape), halves_of(random, m * shape[1]));
    let launch = blocks_launch(row, &data, [&numbers, &vec![1.0; m], &[0.0; 8]], false);
    let title = format!("{}, {m} of {shape:?}", launch.instance.name());
    Case { launch, title, want: Vec::new(), n_col: shape[0], finish: Finish::First, limit: Limit::None }
}

pub(super) fn blocks_decode(random: &mut Random, row: &Blocks, [n_out, n_in]: [usize; 2]) -> Case {
    let data = coded(random, row, [n_out, n_in]);
    let mut want = vec![0.0; n_out * n_in];
    data.decode_rows(0, n_out, &mut want);
    let instance = Instance::new(&format!("{}_decode", row.name), &[row.group()], "float");
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let inputs = vec![row.packed([&data]), bytes(&row.codes(&data)), sizes(&[n_out, n_in])];
    let grid = [(4 * n_out * n_in.div_ceil(SUPER)).div_ceil(256) as u32, 1, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![want.len() / 2] };
    Case { launch, title, want, n_col: n_in, finish: Finish::Halves, limit: Limit::Row(HALF) }
}
