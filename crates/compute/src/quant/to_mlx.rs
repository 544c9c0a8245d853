//! GGUF blocks, GPTQ and AWQ in MLX's packed formats, whose products Apple's kernels compute.
//!
//! ```text
//! from             to                         w = scale * q + bias
//! Q4_0 Q5_0 Q8_0   affine 4, 5, 8 bits g32    d * q - 8 d, - 16 d, - 128 d
//! Q4_1 Q5_1        affine 4, 5 bits g32       d * q + m
//! Q4_K Q5_K        affine 4, 5 bits g32       d sc * q - dmin m
//! TQ1_0 TQ2_0      affine 2 bits g128         d * q - d
//! Q1_0 Q2_0        affine 2 bits g128, g64    d * q - d
//! MXFP4 NVFP4      mxfp4, nvfp4               the same codes in another order
//! GPTQ AWQ         affine, their bits         scale * q - zero * scale    no act-order, groups of a multiple of 32
//! ```
//!
//! Every value is equal (a zero may change its sign), but that scales of type F16 round the products `d sc` and
//! `dmin m` of Q4_K and Q5_K and `zero * scale` of GPTQ and AWQ, where they do not have them: to 2^-11 of them
//! ([`MatrixData::rounds_in_mlx`]). Where GPTQ's or AWQ's scales are f32, f32 rounds those products.
//!
//! Source: MLX `mlx/backend/cpu/quantized.cpp` @ 0.32; the same repack of Q4_0, Q4_1 and Q8_0 in `mlx/io/gguf_quants.cpp`,
//! of GPTQ and AWQ in mlx-lm's `utils.py`.

use super::float::Half;
use super::mlx::pack_bits;
use super::parts::groups;
use super::transposed::grid_line;
use super::{Block, BlockMXFP4, BlockNVFP4, BlockQ4_0, BlockQ4_1, BlockQ4_K, BlockQ5_0, BlockQ5_1, BlockQ5_K};
use super::{BlockQ1_0, BlockQ2_0, BlockQ8_0, BlockTQ1_0, BlockTQ2_0, awq, gptq, k};
use crate::matrix::MlxFloat;
use crate::{DType, Encoding, MatrixData};

/// An affine matrix while it is made.
struct Affine {
    bits: u8,
    group: usize,
    weights: Vec<u8>,
    scales: Vec<f32>,
    biases: Vec<f32>,
}

impl Affine {
    fn new(bits: u8, group: usize) -> Affine {
        Affine { bits, group, weights: Vec::new(), scales: Vec::new(), biases: Vec::new() }
    }

    /// Appends a block whose weights share `scale` and `bias`.
    fn push(&mut self, codes: &[u8], scale: f32, bias: f32) {
        pack_bits(self.bits, codes, &mut self.weights);
        let n = codes.len() / self.group;
        self.scales.extend(std::iter::repeat_n(scale, n));
        self.biases.extend(std::iter::repeat_n(bias, n));
    }
}

/// Blocks of one scale: `unit` makes a block one of scale 1 without a minimum, and returns the scale and bias that it
/// had; `offset` makes the weights of such a block codes.
fn blocks<B: Block<N>, const N: usize>(
    bytes: &[u8],
    [bits, offset]: [u8; 2],
    unit: impl Fn(&mut B) -> (f32, f32),
) -> Affine {
    let mut affine = Affine::new(bits, N.min(128));
    let mut weights = [0.0; N];
    for block in bytemuck::cast_slice::<u8, B>(bytes) {
        let mut block = *block;
        let (scale, bias) = unit(&mut block);
        block.decode(&mut weights);
        affine.push(&weights.map(|w| (w + f32::from(offset)) as u8), scale, bias);
    }
    affine
}

/// Q4_K or Q5_K: `unit` makes a block one of `d = 1`, `dmin = 0` and returns what they were; `packed` finds the scales.
fn k_blocks<B: Block<256>>(
    bytes: &[u8],
    bits: u8,
    unit: impl Fn(&mut B) -> (f32, f32),
    packed: impl Fn(&B) -> &[u8; 12],
) -> Affine {
    let mut affine = Affine::new(bits, 32);
    let mut weights = [0.0; 256];
    for block in bytemuck::cast_slice::<u8, B>(bytes) {
        let mut block = *block;
        let (d, dmin) = unit(&mut block);
        let (scales, mins) = k::scales_mins(packed(&block));
        block.decode(&mut weights);
        for ((weights, &scale), &min) in weights.as_chunks::<32>().0.iter().zip(&scales).zip(&mins) {
            // A group of scale 0 is its minimum, whatever its codes.
            let codes = weights.map(|w| (w / f32::from(scale.max(1))) as u8);
            affine.push(&codes, d * f32::from(scale), -(dmin * f32::from(min)));
        }
    }
    affine
}

/// Sets a block's scale to 1 and returns it with `factor` times it.
fn symmetric(d: &mut Half, factor: f32) -> (f32, f32) {
    let scale = d.f32();
    *d = Half::new(1.0);
    (scale, factor * scale)
}

/// Sets a block's scale to 1 and its minimum to 0 and returns both.
fn shifted(d: &mut Half, m: &mut Half) -> (f32, f32) {
    let both = (d.f32(), m.f32());
    (*d, *m) = (Half::new(1.0), Half::new(0.0));
    both
}

fn affine(dtype: DType, bytes: &[u8]) -> Option<Affine> {
    Some(match dtype {
        DType::Q4_0 => blocks(bytes, [4, 8], |b: &mut BlockQ4_0| symmetric(&mut b.d, -8.0)),
        DType::Q5_0 => blocks(bytes, [5, 16], |b: &mut BlockQ5_0| symmetric(&mut b.d, -16.0)),
        DType::Q8_0 => blocks(bytes, [8, 128], |b: &mut BlockQ8_0| symmetric(&mut b.d, -128.0)),
        DType::Q4_1 => blocks(bytes, [4, 0], |b: &mut BlockQ4_1| shifted(&mut b.d, &mut b.m)),
        DType::Q5_1 => blocks(bytes, [5, 0], |b: &mut BlockQ5_1| shifted(&mut b.d, &mut b.m)),
        DType::Q4_K => k_blocks(bytes, 4, |b: &mut BlockQ4_K| shifted(&mut b.d, &mut b.dmin), |b| &b.scales),
        DType::Q5_K => k_blocks(bytes, 5, |b: &mut BlockQ5_K| shifted(&mut b.d, &mut b.dmin), |b| &b.scales),
        DType::TQ1_0 => blocks(bytes, [2, 1], |b: &mut BlockTQ1_0| symmetric(&mut b.d, -1.0)),
        DType::TQ2_0 => blocks(bytes, [2, 1], |b: &mut BlockTQ2_0| symmetric(&mut b.d, -1.0)),
        DType::Q1_0 => blocks(bytes, [2, 1], |b: &mut BlockQ1_0| symmetric(&mut b.d, -1.0)),
        DType::Q2_0 => blocks(bytes, [2, 1], |b: &mut BlockQ2_0| symmetric(&mut b.d, -1.0)),
        _ => return None,
    })
}

/// Scales and zeros of a GPTQ or AWQ matrix whose groups lie one after another: `[n_group, n_out]` each.
struct Grids {
    bits: u8,
    /// Columns of a group.
    group: usize,
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

impl Grids {
    fn of(matrix: &MatrixData) -> Option<Grids> {
        let (bits, group, scale) = match matrix.encoding {
            Encoding::Gptq { bits, group, scale, .. } if gptq::in_order(matrix, group) => (bits, group, scale),
            Encoding::Awq { group, scale } => (4, group, scale),
            _ => return None,
        };
        let (n_group, rows) = (groups(matrix.n_in, group), [0, matrix.n_out]);
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        for g in 0..n_group {
            scales.extend(grid_line(matrix, scale, g, rows));
            zeros.extend(match matrix.encoding {
                Encoding::Gptq { bits, group, zero_plus_one, scale } => {
                    gptq::zeros(matrix, gptq::Gptq { bits, group, zero_plus_one, scale }, g, rows)
                }
                _ => awq::line(&matrix.parts[1], matrix.n_out, g, rows),
            });
        }
        let group = if n_group == 1 { matrix.n_in } else { group as usize };
        Some(Grids { bits, group, scales, zeros })
    }

    /// Scale and bias of group `g` of a row.
    fn line(&self, at: usize) -> (f32, f32) {
        (self.scales[at], -(f32::from(self.zeros[at]) * self.scales[at]))
    }
}

/// GPTQ or AWQ, in the largest of MLX's groups of which theirs are multiples.
fn transposed(matrix: &MatrixData) -> Option<Affine> {
    let grids = Grids::of(matrix)?;
    let fits = |group: &usize| matrix.n_in.is_multiple_of(*group) && grids.group.is_multiple_of(*group);
    let mut affine = Affine::new(grids.bits, [128, 64, 32].into_iter().find(fits)?);
    let mut codes = vec![0; matrix.n_in];
    for row in 0..matrix.n_out {
        for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            *codes = match matrix.encoding {
                Encoding::Gptq { bits, .. } => gptq::codes(matrix, bits, run, row),
                _ => awq::codes(matrix, run, row),
            };
        }
        for (g, codes) in codes.chunks(grids.group).enumerate() {
            let (scale, bias) = grids.line(g * matrix.n_out + row);
            affine.push(codes, scale, bias);
        }
    }
    Some(affine)
}

/// Nibbles of a block (the first half in low nibbles) as MLX packs them: two neighbours a byte.
fn neighbours<const N: usize>(qs: &[u8; N], bytes: &mut Vec<u8>) {
    let code = |i: usize| if i < N { qs[i] & 15 } else { qs[i - N] >> 4 };
    bytes.extend((0..N).map(|i| code(2 * i) | code(2 * i + 1) << 4));
}

/// Weights and scales of mxfp4.
fn mxfp4(bytes: &[u8]) -> Option<[Vec<u8>; 2]> {
    let (mut weights, mut scales) = (Vec::new(), Vec::new());
    for block in bytemuck::cast_slice::<u8, BlockMXFP4>(bytes) {
        if block.e == 255 {
            return None;
        }
        neighbours(&block.qs, &mut weights);
        scales.push(block.e);
    }
    Some([weights, scales])
}

/// Weights and scales of nvfp4.
fn nvfp4(bytes: &[u8]) -> Option<[Vec<u8>; 2]> {
    let (mut weights, mut scales) = (Vec::new(), Vec::new());
    for block in bytemuck::cast_slice::<u8, BlockNVFP4>(bytes) {
        // ggml ignores bit 7 of a scale and reads 127 as 0; 255 it reads as 240, where e4m3 has a NaN.
        if block.d.contains(&255) {
            return None;
        }
        block.qs.iter().for_each(|qs| neighbours(qs, &mut weights));
        scales.extend(block.d.map(|d| if d == 127 { 0 } else { d & 127 }));
    }
    Some([weights, scales])
}

/// Scales as type `dtype`, or `None` where one is too large for it.
fn scales(dtype: DType, scales: &[f32]) -> Option<Vec<u8>> {
    if dtype == DType::F32 {
        return Some(scales.iter().flat_map(|s| s.to_le_bytes()).collect());
    }
    let halves: Option<Vec<[u8; 2]>> = scales
        .iter()
        .map(|&s| Half::new(s))
        .zip(scales)
        .map(|(h, s)| (h.f32().is_finite() || !s.is_finite()).then_some(h.0))
        .collect();
    Some(halves?.concat())
}

impl MatrixData {
    /// The matrix in one of MLX's packed formats, affine scales of type `scale` (F16 or F32), or `None` where the table
    /// above has none for its encoding. A matrix in such a format is returned as it is.
    pub fn to_mlx(&self, scale: DType) -> Option<MatrixData> {
        let bytes = &self.parts[0];
        let affine = match self.encoding {
            Encoding::MlxAffine { .. } | Encoding::MlxFloat(_) => return Some(self.clone()),
            Encoding::Blocks(DType::MXFP4) => return Some(self.of_floats(MlxFloat::Mxfp4, mxfp4(bytes)?)),
            Encoding::Blocks(DType::NVFP4) => return Some(self.of_floats(MlxFloat::Nvfp4, nvfp4(bytes)?)),
            Encoding::Blocks(dtype) => affine(dtype, bytes)?,
            _ => transposed(self)?,
        };
        let encoding = Encoding::MlxAffine { bits: affine.bits, group: affine.group as u16, scale };
        let parts = [affine.weights, scales(scale, &affine.scales)?, scales(scale, &affine.biases)?];
        Some(self.packed(encoding, parts))
    }

    fn of_floats(&self, kind: MlxFloat, parts: [Vec<u8>; 2]) -> MatrixData {
        self.packed(Encoding::MlxFloat(kind), parts)
    }

    fn packed<const N: usize>(&self, encoding: Encoding, parts: [Vec<u8>; N]) -> MatrixData {
        let parts = parts.into_iter().map(Into::into).collect();
        MatrixData { name: self.name.clone(), n_out: self.n_out, n_in: self.n_in, encoding, parts }
    }

    /// Whether [`MatrixData::to_mlx`] with f16 scales has to round some of them.
    pub fn rounds_in_mlx(&self) -> bool {
        if let Some(grids) = Grids::of(self) {
            let inexact = |x: f32| Half::new(x).f32() != x;
            let line = |at: usize| grids.line(at);
            return (0..grids.scales.len()).map(line).any(|(scale, bias)| inexact(scale) || inexact(bias));
        }
        matches!(self.encoding, Encoding::Blocks(DType::Q4_K | DType::Q5_K))
    }
}
