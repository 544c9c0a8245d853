//! f32 to MLX's formats. Without importance the parts equal MLX's own, bit for bit; with it, scales are searched for.
//!
//! Source: MLX 0.32 `mlx/backend/cpu/quantized.cpp` (`quantize`, `fp_quantize`), checked against its results.

use super::super::float;
use super::super::mlx::pack_bits;
use super::codebook::fp4_code;
use super::search::nearest;
use crate::matrix::MlxFloat;
use crate::{DType, Encoding, Error};

/// Scales tried with importance, as parts of the group's range.
const SHRINKS: [f32; 9] = [1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8, 0.75, 0.7];
/// What one float adds to the next tried with importance: exponents, or bytes of e4m3.
const SCALE_STEPS: [i32; 4] = [0, -1, 1, -2];

/// Appends `weights`, whole rows of `n_in`, to the parts that `encoding` has. `importance` has a weight per column.
///
/// # Errors
/// If the encoding is none that is written here, rows are not whole groups, importance does not fit, or a number is not
/// finite. The parts are as before then.
pub fn encode_parts(
    encoding: Encoding,
    weights: &[f32],
    n_in: usize,
    importance: Option<&[f32]>,
    parts: &mut [Vec<u8>; 3],
) -> Result<(), Error> {
    let group = match encoding {
        Encoding::Blocks(dtype) => return super::encode(dtype, weights, importance, &mut parts[0]),
        _ => check(encoding, weights, n_in, importance)?,
    };
    let mut errors = vec![1.0; group];
    for (i, x) in weights.chunks_exact(group).enumerate() {
        let columns = importance.map(|columns| &columns[i * group % n_in..][..group]);
        if let Some(columns) = columns {
            errors.copy_from_slice(columns);
        }
        let searched = columns.is_some_and(|columns| columns.iter().any(|w| *w > 0.0)).then_some(errors.as_slice());
        match encoding {
            Encoding::MlxAffine { bits, scale, .. } => affine(x, searched, (bits, scale), parts),
            Encoding::MlxFloat(kind) => floats(x, searched, kind, parts),
            _ => unreachable!("other encodings were refused above"),
        }
    }
    Ok(())
}

/// Weights of a group of an MLX encoding that can be made of such weights.
pub(super) fn check(
    encoding: Encoding,
    weights: &[f32],
    n_in: usize,
    importance: Option<&[f32]>,
) -> Result<usize, Error> {
    let refused =
        |found: String, expected: &'static str| Err(Error::Encode { dtype: "an MLX encoding", found, expected });
    let group = match encoding {
        Encoding::MlxAffine { group, .. } => usize::from(group),
        Encoding::MlxFloat(kind) => kind.group(),
        other => return refused(other.to_string(), "blocks, MLX affine or MLX floats"),
    };
    if n_in == 0 || !n_in.is_multiple_of(group) || !weights.len().is_multiple_of(n_in) {
        return refused(format!("{} weights in rows of {n_in}", weights.len()), "rows of whole groups");
    }
    if importance.is_some_and(|columns| columns.len() != n_in) {
        return refused("importance of other columns".to_owned(), "a weight for each column");
    }
    if let Some(i) = weights.iter().position(|w| w.abs() > 65504.0 || w.is_nan()) {
        return refused(format!("weight {i} is {:e}", weights[i]), "finite numbers that f16 can hold");
    }
    Ok(group)
}

/// `x` as the type that scales are stored in.
fn stored(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_f32(x).to_f32(),
        DType::BF16 => half::bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn push(x: f32, dtype: DType, out: &mut Vec<u8>) {
    match dtype {
        DType::F16 => out.extend(half::f16::from_f32(x).to_le_bytes()),
        DType::BF16 => out.extend(half::bf16::from_f32(x).to_le_bytes()),
        _ => out.extend(x.to_le_bytes()),
    }
}

/// MLX's scale and bias: the end of the range with the larger magnitude is met exactly, and so is 0.
fn affine_range(x: &[f32], top: f32) -> [f32; 2] {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let by_low = low.abs() > high.abs();
    let scale = ((high - low) / top).max(1e-7);
    let (scale, edge) = if by_low { (scale, low) } else { (-scale, high) };
    let code = (edge / scale).round_ties_even();
    if code == 0.0 { [scale, 0.0] } else { [edge / code, edge] }
}

fn affine_codes(x: &[f32], [scale, bias]: [f32; 2], top: f32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        *code = ((x - bias) / scale).round_ties_even().clamp(0.0, top) as u8;
    }
}

/// How a group of affine integers is rounded: scale and bias as they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    range: [f32; 2],
    bits: u8,
    dtype: DType,
}

impl Affine {
    /// The best for a group under the importance of its columns.
    pub(super) fn new(x: &[f32], importance: &[f32], bits: u8, dtype: DType) -> Affine {
        let top = top(bits);
        let mut range = affine_range(x, top);
        if importance.iter().any(|w| *w > 0.0) {
            range = affine_search(x, importance, range, (top, dtype));
        }
        Affine { range: range.map(|x| stored(x, dtype)), bits, dtype }
    }

    fn code(&self, x: f32) -> f32 {
        let [scale, bias] = self.range;
        if scale == 0.0 { 0.0 } else { nearest((x - bias) / scale, 0.0, top(self.bits)) }
    }

    /// The value nearest to `x`.
    pub(super) fn round(&self, x: f32) -> f32 {
        self.range[0] * self.code(x) + self.range[1]
    }

    /// Appends a group of values that were rounded so.
    pub(super) fn push(&self, x: &[f32], parts: &mut [Vec<u8>; 3]) {
        let mut codes = [0; 128];
        codes.iter_mut().zip(x).for_each(|(code, x)| *code = self.code(*x) as u8);
        pack_bits(self.bits, &codes[..x.len()], &mut parts[0]);
        push(self.range[0], self.dtype, &mut parts[1]);
        push(self.range[1], self.dtype, &mut parts[2]);
    }
}

/// The largest code.
fn top(bits: u8) -> f32 {
    ((1u32 << bits) - 1) as f32
}

fn affine(x: &[f32], errors: Option<&[f32]>, (bits, dtype): (u8, DType), parts: &mut [Vec<u8>; 3]) {
    let top = top(bits);
    let mut codes = [0; 128];
    let codes = &mut codes[..x.len()];
    let mut chosen = affine_range(x, top);
    if let Some(errors) = errors {
        chosen = affine_search(x, errors, chosen, (top, dtype));
    }
    affine_codes(x, chosen, top, codes);
    pack_bits(bits, codes, &mut parts[0]);
    push(chosen[0], dtype, &mut parts[1]);
    push(chosen[1], dtype, &mut parts[2]);
}

/// Scale and bias, of the type that they are stored in, with a small weighted error: MLX's own and narrower ranges, each
/// solved for by regression on its codes.
fn affine_search(x: &[f32], errors: &[f32], start: [f32; 2], (top, dtype): (f32, DType)) -> [f32; 2] {
    let error = |[scale, bias]: [f32; 2]| -> f32 {
        let miss = |x: f32| scale * nearest((x - bias) / scale, 0.0, top) + bias - x;
        x.iter().zip(errors).map(|(x, w)| w * miss(*x) * miss(*x)).sum()
    };
    let mut best = start.map(|x| stored(x, dtype));
    let mut best_error = if best[0] == 0.0 { f32::INFINITY } else { error(best) };
    let middle = start[1] + start[0] * top / 2.0;
    for shrink in SHRINKS {
        let mut tried = [start[0] * shrink, middle - start[0] * shrink * top / 2.0];
        for _ in 0..2 {
            let Some(solved) = regression(x, errors, tried, top) else { break };
            tried = solved.map(|x| stored(x, dtype));
            if tried[0] == 0.0 {
                break;
            }
            let found = error(tried);
            if found < best_error {
                (best, best_error) = (tried, found);
            }
        }
    }
    if best[0] == 0.0 { start } else { best }
}

/// The scale and bias that are best for the codes that a scale and a bias give.
fn regression(x: &[f32], errors: &[f32], [scale, bias]: [f32; 2], top: f32) -> Option<[f32; 2]> {
    let [mut sw, mut sx, mut sq, mut sqq, mut sxq] = [0.0f32; 5];
    for (x, w) in x.iter().zip(errors) {
        let q = nearest((x - bias) / scale, 0.0, top);
        (sw, sx, sq, sqq, sxq) = (sw + w, sx + w * x, sq + w * q, sqq + w * q * q, sxq + w * x * q);
    }
    let determinant = sw * sqq - sq * sq;
    let solved = [(sw * sxq - sx * sq) / determinant, (sqq * sx - sq * sxq) / determinant];
    solved.iter().all(|x| x.is_finite()).then_some(solved)
}

/// The byte of the least power of two that is not below `x`; 1 for 0.
fn e8m0_ceil(x: f32) -> u8 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) + u32::from(bits & 0x7f_ffff != 0);
    if x == 0.0 { 127 } else { exponent.min(254) as u8 }
}

/// The byte of the e4m3 nearest to `x`, ties to even; the largest where `x` is beyond it.
fn e4m3(x: f32) -> u8 {
    let sign = u8::from(x.is_sign_negative()) << 7;
    let magnitude = x.abs().min(448.0);
    if magnitude < 0.015_625 {
        return sign | (magnitude * 512.0).round_ties_even() as u8; // steps of 2^-9 below 2^-6
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

fn floats(x: &[f32], errors: Option<&[f32]>, kind: MlxFloat, parts: &mut [Vec<u8>; 3]) {
    let largest = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    let (byte, decode): (u8, fn(u8) -> f32) = match kind {
        MlxFloat::Mxfp4 => (e8m0_ceil(largest / 6.0), float::e8m0),
        MlxFloat::Mxfp8 => (e8m0_ceil(largest / 448.0), float::e8m0),
        MlxFloat::Nvfp4 => (e4m3(largest / 6.0), float::e4m3),
    };
    let byte = match errors {
        Some(errors) if largest > 0.0 => float_search(x, errors, kind, (byte, decode)),
        _ => byte,
    };
    let scale = decode(byte);
    let code = |x: f32| float_code(x, scale, kind);
    if kind == MlxFloat::Mxfp8 {
        parts[0].extend(x.iter().map(|x| code(*x)));
    } else {
        parts[0].extend(x.as_chunks::<2>().0.iter().map(|[a, b]| code(*a) | code(*b) << 4));
    }
    parts[1].push(byte);
}

fn float_code(x: f32, scale: f32, kind: MlxFloat) -> u8 {
    let x = if scale > 0.0 { x / scale } else { 0.0 };
    if kind == MlxFloat::Mxfp8 { e4m3(x) } else { fp4_code(2.0 * x) }
}

/// The scale near `byte` with the least weighted error.
fn float_search(x: &[f32], errors: &[f32], kind: MlxFloat, (byte, decode): (u8, fn(u8) -> f32)) -> u8 {
    let top = if kind == MlxFloat::Nvfp4 { 0x7e } else { 254 };
    let error = |byte: u8| -> f32 {
        let scale = decode(byte);
        let value = |x: f32| match kind {
            MlxFloat::Mxfp8 => scale * float::e4m3(float_code(x, scale, kind)),
            _ => scale * float::E2M1[usize::from(float_code(x, scale, kind))],
        };
        x.iter().zip(errors).map(|(x, w)| w * (value(*x) - x).powi(2)).sum()
    };
    let near = SCALE_STEPS.map(|step| (i32::from(byte) + step).clamp(1, top) as u8);
    near.into_iter().min_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(byte)
}
