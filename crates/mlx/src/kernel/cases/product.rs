//! Launches of the kernels of products.

use mlxr_compute::conformance::{Random, random_matrix};
use mlxr_compute::op::{Act, Linear, Norm, NormKind};
use mlxr_compute::scalar::{Scalar, Tensor};
use mlxr_compute::{Backend, DType, Encoding};

use super::{BFLOAT, Case, Finish, HALF, LIMIT, bytes, halves, sizes};
use crate::kernel::Instance;
use crate::kernel::source::Launch;

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
    ((((token / 8 * (n_in / 128) + block) * 4 + step) * 8 + token % 8) * 4 + quad) * 8 + within
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

/// `x` `[n_tok, n_in]` as `rows_half` makes it, and scales of 1.
fn laid_out(x: &[f32], [n_tok, n_in]: [usize; 2], layout: u32) -> [Vec<u8>; 2] {
    let n_row = if layout < 2 { n_tok } else { n_tok.next_multiple_of(8) };
    let mut numbers = vec![0u16; n_row * n_in];
    for token in 0..n_tok {
        for column in 0..n_in {
            numbers[place(layout, n_in, token, column)] = half::f16::from_f32(x[token * n_in + column]).to_bits();
        }
    }
    [bytes(&numbers), bytes(&vec![1.0f32; n_tok])]
}

pub(super) fn rows_half(random: &mut Random, [n_tok, n_in]: [usize; 2], layout: u32, norm: bool) -> Case {
    let x = Tensor { shape: [n_tok, n_in], data: random.normals(n_tok * n_in) };
    let weight = random.normals(n_in);
    let instance = Instance::new("rows_half", &[u32::from(norm), layout], "float");
    let title = format!("{}, [{n_tok}, {n_in}]", instance.name());
    let inputs = vec![bytes(&x.data), bytes(&weight), sizes(&[n_in]), bytes(&[1e-5f32])];
    let n_row = if layout < 2 { n_tok } else { n_tok.next_multiple_of(8) };
    let outputs = vec![n_row * n_in / 2, n_tok];
    let launch = Launch { instance, grid: [n_tok as u32, 1, 1], inputs, outputs };
    let weight = Some(Tensor { shape: [1, n_in], data: weight });
    let norm = norm.then_some(Norm { kind: NormKind::Rms, weight, bias: None, eps: 1e-5 });
    let want = match &norm {
        Some(norm) => Scalar.norm(&x, norm).data,
        None => x.data,
    };
    let limit = if layout == 1 { BFLOAT } else { HALF };
    Case { launch, title, want, n_col: n_in, finish: Finish::Rows(layout, n_in), limit }
}

/// The gate of a kernel's constant.
fn act(glu: u32) -> Option<Act> {
    [None, Some(Act::Silu), Some(Act::GeluTanh)][glu as usize]
}

pub(super) fn rows_finish(
    random: &mut Random,
    [n_tok, n_out]: [usize; 2],
    [glu, add]: [u32; 2],
    parameter: &'static str,
) -> Case {
    let [y, z] = [(); 2].map(|()| random.normals(n_tok * n_out));
    let scales: Vec<f32> = (0..n_tok).map(|_| 0.5 + random.unit()).collect();
    let residual = random.normals(n_tok * n_out);
    let packed = |numbers: &[f32]| -> Vec<u8> {
        let word = |x: &f32| match parameter {
            "bfloat" => half::bf16::from_f32(*x).to_bits(),
            _ => half::f16::from_f32(*x).to_bits(),
        };
        bytes(&numbers.iter().map(word).collect::<Vec<u16>>())
    };
    let instance = Instance::new("rows_finish", &[glu, add], parameter);
    let title = format!("{}, [{n_tok}, {n_out}]", instance.name());
    let inputs = vec![packed(&y), packed(&z), bytes(&scales), bytes(&residual), sizes(&[n_out])];
    let grid = [n_out.div_ceil(256) as u32, n_tok as u32, 1];
    let launch = Launch { instance, grid, inputs, outputs: vec![n_tok * n_out] };
    let scaled = |numbers: Vec<f32>| Tensor {
        shape: [n_tok, n_out],
        data: numbers.iter().enumerate().map(|(i, x)| x * scales[i / n_out]).collect(),
    };
    let (y, z) = (scaled(y), scaled(z));
    let mut want = match act(glu) {
        Some(act) => Scalar.glu(y, &z, act),
        None => y,
    };
    if add == 1 {
        want = Scalar.add(want, &Tensor { shape: [n_tok, n_out], data: residual });
    }
    let limit = if parameter == "half" { HALF } else { BFLOAT };
    Case { launch, title, want: want.data, n_col: n_out, finish: Finish::First, limit }
}

/// `ending` 0: the product, 1 and 2: gated, 3: with a residual.
pub(super) fn tiles(
    random: &mut Random,
    m: usize,
    (bits, group, scale): (u8, u16, DType),
    shape: [usize; 2],
    ending: u32,
) -> Case {
    let [n_out, n_in] = shape;
    let (glu, add) = (ending % 3, ending == 3);
    let encoding = Encoding::MlxAffine { bits, group, scale };
    // What f16 holds, so that the definition multiplies the same numbers.
    let x: Vec<f32> = random.normals(m * n_in).iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
    let x = Tensor { shape: [m, n_in], data: x };
    let matrices = [(); 2].map(|()| random_matrix(random, encoding, shape));
    let [y, z] = matrices.each_ref().map(|data| {
        let matrix = Scalar.matrix(std::slice::from_ref(data)).expect("a random matrix is sound");
        let [y] = Scalar.linears(&x, None, [&Linear { matrix, bias: None, scale: 1.0 }]);
        y
    });
    let residual = Tensor { shape: [m, n_out], data: random.normals(m * n_out) };
    let mut want = match act(glu) {
        Some(act) => Scalar.glu(y, &z, act),
        None => y,
    };
    if add {
        want = Scalar.add(want, &residual);
    }
    let n = m.div_ceil(8);
    let r = if glu > 0 || n > 1 { 2 } else { 1 };
    let constants = [n as u32, r, u32::from(bits), u32::from(group), glu, u32::from(add)];
    let instance = Instance::new("affine_tiles", &constants, if scale == DType::F16 { "half" } else { "bfloat" });
    let title = format!("{}, {m} of [{n_out}, {n_in}]", instance.name());
    let [first, gated] = matrices.each_ref().map(|data| data.parts.iter().map(|p| p.to_vec()).collect::<Vec<_>>());
    let second = if glu > 0 { gated } else { vec![vec![0; 32]; 3] };
    let ends = vec![bytes(&residual.data), sizes(&[n_in, n_out, m])];
    let inputs = [laid_out(&x.data, [m, n_in], u32::from(bits)).to_vec(), first, second, ends].concat();
    let rows = if glu > 0 { 16 } else { 16 * r as usize };
    let launch = Launch { instance, grid: [n_out.div_ceil(rows) as u32, 1, 1], inputs, outputs: vec![m * n_out] };
    // Weights are rounded to f16, in both factors of a gated product.
    let limit = if glu > 0 { 20.0 * HALF } else { 4.0 * HALF };
    Case { launch, title, want: want.data, n_col: n_out, finish: Finish::First, limit }
}

/// `m` random rows times a random matrix, with the definition's product.
fn product(random: &mut Random, m: usize, encoding: Encoding, shape: [usize; 2]) -> (Vec<f32>, Vec<Vec<u8>>, Vec<f32>) {
    let [n_out, n_in] = shape;
    let data = random_matrix(random, encoding, shape);
    let x = Tensor { shape: [m, n_in], data: random.normals(m * n_in) };
    let matrix = Scalar.matrix(std::slice::from_ref(&data)).expect("a random matrix is sound");
    let [y] = Scalar.linears(&x, None, [&Linear { matrix, bias: None, scale: 1.0 }]);
    debug_assert_eq!(y.shape, [m, n_out]);
    (x.data, data.parts.iter().map(|p| p.to_vec()).collect(), y.data)
}

pub(super) fn affine(random: &mut Random, m: usize, (bits, group, scale): (u8, u16, DType), shape: [usize; 2]) -> Case {
    let [n_out, n_in] = shape;
    let (x, parts, want) = product(random, m, Encoding::MlxAffine { bits, group, scale }, shape);
    let parameter = if scale == DType::F16 { "half" } else { "float" };
    let constants = [m as u32, u32::from(bits), u32::from(group)];
    let instance = Instance::new("affine_matmul", &constants, parameter);
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let inputs = [vec![bytes(&x)], parts, vec![sizes(&[n_in, n_out])]].concat();
    let launch = Launch { instance, grid: [n_out.div_ceil(16) as u32, 1, 1], inputs, outputs: vec![m * n_out] };
    Case { launch, title, want, n_col: n_out, finish: Finish::First, limit: LIMIT }
}

pub(super) fn q6_k(random: &mut Random, m: usize, shape: [usize; 2]) -> Case {
    let [n_out, n_in] = shape;
    let (x, parts, want) = product(random, m, Encoding::Blocks(DType::Q6_K), shape);
    let instance = Instance::new("q6_k_matmul", &[m as u32], "float");
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let inputs = [vec![bytes(&x)], parts, vec![sizes(&[n_in, n_out])]].concat();
    let launch = Launch { instance, grid: [n_out.div_ceil(8) as u32, 1, 1], inputs, outputs: vec![m * n_out] };
    Case { launch, title, want, n_col: n_out, finish: Finish::First, limit: LIMIT }
}

pub(super) fn q6_k_decode(random: &mut Random, [n_out, n_in]: [usize; 2]) -> Case {
    let data = random_matrix(random, Encoding::Blocks(DType::Q6_K), [n_out, n_in]);
    let mut want = vec![0.0; n_out * n_in];
    data.decode_rows(0, n_out, &mut want);
    let instance = Instance::new("q6_k_decode", &[], "float");
    let title = format!("{}, [{n_out}, {n_in}]", instance.name());
    let grid = [(n_out * n_in / 256) as u32, 1, 1];
    let launch = Launch { instance, grid, inputs: vec![data.parts[0].to_vec()], outputs: vec![want.len()] };
    Case { launch, title, want, n_col: n_in, finish: Finish::First, limit: LIMIT }
}
