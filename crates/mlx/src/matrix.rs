//! Weights in MLX's packed formats, and products with them.
//!
//! | encoding | as |
//! |---|---|
//! | MLX's own, and GGUF blocks, GPTQ and AWQ that [`MatrixData::to_mlx`] packs | `quantized_matmul` |
//! | F32, F16, BF16 | `matmul` |
//! | [`Blocks`] of GGUF and bitsandbytes, on GPUs with our kernels | these |
//! | [`Blocks`] of MLX's formats, of experts and where `affine_tiles` does not read them, on CUDA | these |
//! | the rest | decoded to plain numbers when loaded, and reported |

use mlxr_compute::matrix::{self, MlxFloat};
use mlxr_compute::{Bytes, DType, Encoding, Error, MatrixData, quant};

use crate::choice::Precision;
use crate::ffi::{Array, Device, Dtype, Packing};
use crate::kernel::blocks::{Blocks, Reads};
use crate::own::Own;
use crate::own::blocks::{self, Chosen};
use crate::own::form::{Form, Of};

/// A weight matrix, stacked ones, or those of all experts or heads.
pub struct Matrix {
    /// Matrices: 1, the number of experts, or the number of heads.
    pub(crate) n_matrix: usize,
    /// Rows of each.
    pub(crate) n_out: usize,
    /// Columns of each.
    pub(crate) n_in: usize,
    /// Parts along rows, each of one format. Experts have one.
    pub(crate) parts: Vec<Part>,
}

/// Rows of one format: `[n_out, ..]`, or `[n_matrix, n_out, ..]`.
pub(crate) struct Part {
    pub(crate) weights: Array,
    pub(crate) packed: Option<Packed>,
    /// What reads the weights if they are blocks, u32 `[n_out, ..]`: only our kernels do.
    pub(crate) blocks: Option<Coded>,
    /// What the input is converted to, and in which the product is computed.
    pub(crate) dtype: Dtype,
}

/// What unpacks quantized weights.
pub(crate) struct Packed {
    pub(crate) scales: Array,
    pub(crate) biases: Option<Array>,
    pub(crate) packing: Packing,
}

/// A format of blocks and its codebook.
pub(crate) struct Coded {
    pub(crate) row: &'static Blocks,
    pub(crate) codes: Array,
}

/// A matrix in a format that these kernels compute with.
pub(crate) struct Prepared {
    pub(crate) data: MatrixData,
    /// How our kernels read it, if they do.
    pub(crate) blocks: Option<&'static Blocks>,
    /// Whether it had to be decoded.
    pub(crate) decoded: bool,
}

impl Prepared {
    /// A matrix that MLX reads as it is.
    pub(crate) fn plain(data: MatrixData) -> Prepared {
        Prepared { data, blocks: None, decoded: false }
    }

    /// Bytes that it takes.
    pub(crate) fn device_bytes(&self) -> u64 {
        match self.blocks {
            Some(row) => (self.data.n_out * row.planes.row_bytes(self.data.n_in)) as u64,
            None => self.data.bytes() as u64,
        }
    }

    /// If two are of one format, whose tables too are the same.
    pub(crate) fn like(&self, other: &Prepared) -> bool {
        let name = |prepared: &Prepared| prepared.blocks.map(|row| row.name);
        alike(&self.data, &other.data) && name(self) == name(other)
    }
}

/// `data` in a format that these kernels compute with; `reads` says what ours read.
pub(crate) fn prepare(data: &MatrixData, precision: Precision, reads: Reads) -> Result<Prepared, Error> {
    data.check()?;
    let scale = match precision {
        Precision::Full => DType::F32,
        Precision::Rounded | Precision::Half => DType::F16,
    };
    if let Some(packed) = data.to_mlx(scale) {
        let data = with_scales(packed, precision);
        let blocks = Blocks::of(data.encoding, data.n_in, reads).filter(|row| row.holds(&data));
        return Ok(Prepared { data, blocks, decoded: false });
    }
    if let Some(row) = Blocks::of(data.encoding, data.n_in, reads) {
        return Ok(Prepared { data: data.clone(), blocks: Some(row), decoded: false });
    }
    Ok(match (data.encoding, precision) {
        (Encoding::Blocks(DType::F32), _) | (Encoding::Blocks(DType::F16 | DType::BF16), Precision::Half) => {
            Prepared::plain(data.clone())
        }
        (Encoding::Blocks(DType::F16 | DType::BF16), _) => Prepared::plain(data.to_blocks(DType::F32)?),
        (_, Precision::Half) => Prepared { decoded: true, ..Prepared::plain(data.to_blocks(DType::F16)?) },
        _ => Prepared { decoded: true, ..Prepared::plain(data.to_blocks(DType::F32)?) },
    })
}

/// Weights of a matrix of plain numbers, at most, that are kept in f32 beside our kernels: of a router and its like reading twice the bytes
/// costs less than the launches that convert rows.
const FEW_WEIGHTS: usize = 1 << 20;

/// Few plain weights in f32 where our kernels read anything, others as they are.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn few_in_f32(prepared: Vec<Prepared>, reads: Reads) -> Result<Vec<Prepared>, Error> {
    let n_weight: usize = prepared.iter().map(|p| p.data.n_out * p.data.n_in).sum();
    let plain = prepared.iter().all(|p| matches!(p.data.encoding, Encoding::Blocks(_)) && p.blocks.is_none());
    if reads == Reads::Nothing || n_weight > FEW_WEIGHTS || !plain {
        return Ok(prepared);
    }
    let in_f32 = |p: Prepared| Ok(Prepared { data: p.data.to_blocks(DType::F32)?, ..p });
    prepared.into_iter().map(in_f32).collect()
}

/// Matrices of experts, which one launch reads: where our kernels do not hold all, MLX's read those that it has a format for.
pub(crate) fn agreed(mut experts: Vec<Prepared>) -> Vec<Prepared> {
    if experts.iter().any(|expert| expert.blocks.is_none()) {
        for expert in &mut experts {
            expert.blocks = expert.blocks.filter(|row| !row.is_mlx());
        }
    }
    experts
}

/// Bytes that a matrix, or stacked ones with `n_row` rows in all, takes once it is loaded in half precision: of `stored_bytes` in its file.
pub fn loaded_bytes(encoding: Encoding, [n_row, n_col]: [usize; 2], stored_bytes: u64, reads: Reads) -> u64 {
    let in_blocks = |encoding| Some((n_row * Blocks::of(encoding, n_col, reads)?.planes.row_bytes(n_col)) as u64);
    if let Some(bytes) = in_blocks(encoding) {
        return bytes;
    }
    let few = reads != Reads::Nothing && n_row * n_col <= FEW_WEIGHTS;
    let plain_bytes = if few { 4 } else { 2 };
    let dtype = match encoding {
        Encoding::Blocks(dtype) => dtype,
        Encoding::Bnb4 { .. } | Encoding::Fp8 { .. } => return plain_bytes * (n_row * n_col) as u64,
        // GPTQ and AWQ are taken as they are: zeros become numbers of 16 bits, and with act-order all is decoded, but to know of that takes
        // reading the file.
        _ => return stored_bytes,
    };
    let row = vec![0; n_col.div_ceil(dtype.block()) * dtype.block_bytes()];
    let row = MatrixData::blocks("a row", [1, n_col], dtype, row.into());
    // Zeros may be scales that our kernels do not hold.
    let prepared = row.and_then(|row| prepare(&row, Precision::Half, Reads::Nothing));
    let each = |row: Prepared| match row.data.encoding {
        Encoding::Blocks(_) if few => plain_bytes * n_col as u64,
        _ => row.device_bytes(),
    };
    // What cannot be a matrix is not loaded as one.
    prepared.map_or(stored_bytes, |row| in_blocks(row.data.encoding).unwrap_or_else(|| n_row as u64 * each(row)))
}

/// An affine matrix whose scales and biases have the type to compute in; 16-bit ones stay as they are in half precision.
fn with_scales(mut data: MatrixData, precision: Precision) -> MatrixData {
    if let Encoding::MlxAffine { bits, group, scale } = data.encoding {
        if scale == DType::F32 || precision == Precision::Half {
            return data;
        }
        for part in &mut data.parts[1..] {
            let mut numbers = vec![0.0; part.len() / scale.block_bytes()];
            quant::decode(scale, part, &mut numbers);
            *part = Bytes::from(bytemuck::cast_slice::<f32, u8>(&numbers).to_vec());
        }
        data.encoding = Encoding::MlxAffine { bits, group, scale: DType::F32 };
    }
    data
}

impl Matrix {
    /// Matrices stacked along rows; neighbours of one format become one part.
    ///
    /// # Errors
    /// If they disagree in columns, or MLX fails.
    pub(crate) fn stacked(device: &Device, data: &[Prepared]) -> Result<Matrix, Error> {
        let [n_out, n_in] = matrix::stacked(&plain_data(data))?;
        let parts = data.chunk_by(Prepared::like).map(|d| Part::new(device, d, None));
        let matrix = Matrix { n_matrix: 1, n_out, n_in, parts: parts.collect() };
        matrix.loaded(device)
    }

    /// The matrices of experts or heads, all of one format.
    ///
    /// # Errors
    /// If they disagree in shape or format, or MLX fails.
    pub(crate) fn experts(device: &Device, data: &[Prepared]) -> Result<Matrix, Error> {
        if data.is_empty() {
            return Err(Error::Shape {
                tensor: "experts".to_owned(),
                found: "no experts".to_owned(),
                expected: "at least one".to_owned(),
            });
        }
        let [n_out, n_in] = matrix::side_by_side(&plain_data(data))?;
        let part = Part::new(device, data, Some(data.len()));
        let matrix = Matrix { n_matrix: data.len(), n_out, n_in, parts: vec![part] };
        matrix.loaded(device)
    }

    /// Brings the arrays into the device's memory, so that nothing of the file's copies stays behind.
    fn loaded(mut self, device: &Device) -> Result<Matrix, Error> {
        for part in &mut self.parts {
            part.weights = device.resident(&part.weights)?;
            if let Some(packed) = &mut part.packed {
                packed.scales = device.resident(&packed.scales)?;
                packed.biases = packed.biases.as_ref().map(|biases| device.resident(biases)).transpose()?;
            }
        }
        Ok(self)
    }

    /// `x` `[n_tok, n_in]` f32 times the transposed matrix: `[n_tok, n_out]` f32. `own` reads blocks.
    pub(crate) fn product(&self, own: Option<&Own>, device: &Device, x: &Array) -> Array {
        assert_eq!(self.n_matrix, 1, "linear: a matrix of experts needs `moe` or `head_linear`");
        let product = |part: &Part| match &part.blocks {
            Some(blocks) => {
                let plain = self.plain(own, device, (&part.weights, blocks));
                part.computed(device, x, |x| device.matmul(x, &device.transpose(&plain, &[1, 0])))
            }
            None => part.product(device, x, &[1, 0]),
        };
        let products: Vec<Array> = self.parts.iter().map(product).collect();
        match &products[..] {
            [one] => one.clone(),
            many => device.concatenate(&many.iter().collect::<Vec<_>>(), -1),
        }
    }

    /// `x` `[n_tok, n_matrix * n_in]`, heads side by side, times the transposed matrices: `[n_tok, n_matrix * n_out]`. `own` reads blocks.
    pub(crate) fn of_heads(&self, own: Option<&Own>, d: &Device, x: &Array, n_tok: usize) -> Array {
        /// Tokens whose heads are rows of experts; of more, the matrices are decoded.
        const FEW: usize = 8;
        let (n, part, shape) = (self.n_matrix, &self.parts[0], [n_tok, self.n_matrix * self.n_out]);
        if let (true, Some(own), 1..=FEW) = (part.blocks.is_some(), own, n_tok) {
            let n_product = n_tok * n;
            let every = |place: fn(usize, [usize; 2]) -> usize| {
                own.sizes(d, &(0..n_product).map(|i| place(i, [n_tok, n])).collect::<Vec<_>>())
            };
            let order = blocks::shared(n_product, n).then(|| every(|i, [n_tok, n]| i % n_tok * n + i / n_tok));
            let chosen = Chosen { experts: every(|i, [_, n]| i % n), order, n_product };
            let form = Form::of(own, d, (x, [n_product, self.n_in]), Of::Rows, blocks::BLOCKS_LAYOUT);
            let [y, _] = blocks::experts(own, d, (&form, 1), (self, None), &chosen);
            return d.reshape(&y, &shape);
        }
        let heads = d.transpose(&d.reshape(x, &[n_tok, n, self.n_in]), &[1, 0, 2]);
        let product = match &part.blocks {
            Some(blocks) => {
                let plain = self.plain(own, d, (&part.weights, blocks));
                let plain = d.reshape(&plain, &[n, self.n_out, self.n_in]);
                part.computed(d, &heads, |x| d.matmul(x, &d.transpose(&plain, &[0, 2, 1])))
            }
            None => part.product(d, &heads, &[0, 2, 1]),
        };
        d.reshape(&d.transpose(&product, &[1, 0, 2]), &shape)
    }

    /// `x` `[n, n_in]` times the transposed matrices `indices` `[n]`, by MLX: `[n, n_out]`.
    pub(crate) fn gathered(&self, d: &Device, x: &Array, (indices, sorted): (&Array, bool)) -> Array {
        let part = &self.parts[0];
        assert!(part.blocks.is_none(), "experts in blocks are multiplied by our kernels alone");
        let n = indices.shape()[0];
        let y = part.computed(d, &d.reshape(x, &[n, 1, self.n_in]), |x| part.gather(d, x, (indices, sorted)));
        d.reshape(&y, &[n, self.n_out])
    }

    /// Rows of blocks as f16.
    fn plain(&self, own: Option<&Own>, device: &Device, (weights, coded): (&Array, &Coded)) -> Array {
        let own = own.expect("blocks are loaded only where our kernels are");
        blocks::plain(own, device, (weights, coded), self.n_in)
    }

    /// Rows `ids` `[n]`: `[n, n_in]` f32. `own` reads blocks.
    pub(crate) fn rows(&self, own: Option<&Own>, device: &Device, ids: &Array) -> Array {
        assert_eq!(self.parts.len(), 1, "embed: a table of parts of several formats");
        let part = &self.parts[0];
        let take = |array: &Array| device.take(array, ids, 0);
        let weights = take(&part.weights);
        if let Some(blocks) = &part.blocks {
            return device.astype(&self.plain(own, device, (&weights, blocks)), Dtype::F32);
        }
        match &part.packed {
            Some(Packed { scales, biases, packing }) => {
                device.dequantize([&weights, &take(scales)], biases.as_ref().map(take).as_ref(), *packing, Dtype::F32)
            }
            None => device.astype(&weights, Dtype::F32),
        }
    }
}

impl Part {
    /// Rows of one encoding, prepared; `n_matrix` of them side by side if given.
    fn new(device: &Device, prepared: &[Prepared], n_matrix: Option<usize>) -> Part {
        let data: Vec<&MatrixData> = prepared.iter().map(|one| &one.data).collect();
        let n_out: usize = data.iter().map(|d| d.n_out).sum();
        let array = |part: usize, dtype: Dtype| {
            let n_col = data[0].parts[part].len() / data[0].n_out / dtype.size();
            let shape = match n_matrix {
                Some(n) => vec![n, n_out / n, n_col],
                None => vec![n_out, n_col],
            };
            match &data[..] {
                [one] => device.from_bytes(&one.parts[part], &shape, dtype),
                many => {
                    let all: Vec<u8> = many.iter().flat_map(|d| d.parts[part].iter().copied()).collect();
                    device.from_bytes(&Bytes::from(all), &shape, dtype)
                }
            }
        };
        if let Some(row) = prepared[0].blocks {
            let codes = row.codes(data[0]);
            let blocks = Coded { row, codes: device.from_slice(&codes, &[codes.len()], Dtype::U32) };
            let n_word = row.planes.row_bytes(data[0].n_in) / 4;
            let weights = device.from_bytes(&Bytes::from(row.packed(data)), &[n_out, n_word], Dtype::U32);
            return Part { weights, packed: None, blocks: Some(blocks), dtype: Dtype::F16 };
        }
        let (packing, scale) = match data[0].encoding {
            Encoding::MlxAffine { bits, group, scale } => {
                (Packing { bits: i32::from(bits), group: i32::from(group), mode: c"affine" }, plain(scale))
            }
            Encoding::MlxFloat(kind) => {
                let mode = match kind {
                    MlxFloat::Mxfp4 => c"mxfp4",
                    MlxFloat::Mxfp8 => c"mxfp8",
                    MlxFloat::Nvfp4 => c"nvfp4",
                };
                (Packing { bits: kind.bits() as i32, group: kind.group() as i32, mode }, Dtype::U8)
            }
            Encoding::Blocks(dtype) => {
                return Part { weights: array(0, plain(dtype)), packed: None, blocks: None, dtype: plain(dtype) };
            }
            other => unreachable!("`prepare` leaves no {other}"),
        };
        let (scales, biases) = (array(1, scale), (scale != Dtype::U8).then(|| array(2, scale)));
        let dtype = if scale == Dtype::U8 { Dtype::F32 } else { scale };
        Part { weights: array(0, Dtype::U32), packed: Some(Packed { scales, biases, packing }), blocks: None, dtype }
    }

    /// `product` of the input in the type that this part computes in; the result as f32.
    ///
    /// f16 ends at 65504, which sums of real models pass: rows are divided by their largest magnitude before and
    /// multiplied by it after.
    fn computed(&self, device: &Device, x: &Array, product: impl FnOnce(&Array) -> Array) -> Array {
        match self.dtype {
            Dtype::F32 => product(x),
            Dtype::F16 => {
                let largest = device.maximum(&device.max_last(&device.abs(x)), &device.scalar(f32::MIN_POSITIVE));
                let x = device.astype(&device.divide(x, &largest), Dtype::F16);
                device.multiply(&device.astype(&product(&x), Dtype::F32), &largest)
            }
            dtype => device.astype(&product(&device.astype(x, dtype)), Dtype::F32),
        }
    }

    /// `x` `[.., 1, n_in]`, in this part's type, times the transposed matrices `indices`, one for each or several: `[.., 1, n_out]`.
    pub(crate) fn gather(&self, d: &Device, x: &Array, (indices, sorted): (&Array, bool)) -> Array {
        match &self.packed {
            Some(Packed { scales, biases, packing }) => {
                d.gather_qmm(x, [&self.weights, scales], biases.as_ref(), *packing, indices, sorted)
            }
            None => d.gather_mm(x, &d.transpose(&self.weights, &[0, 2, 1]), indices, sorted),
        }
    }

    /// `axes` transpose the weights.
    fn product(&self, device: &Device, x: &Array, axes: &[usize]) -> Array {
        self.computed(device, x, |x| match &self.packed {
            Some(Packed { scales, biases, packing }) => {
                device.quantized_matmul(x, [&self.weights, scales], biases.as_ref(), *packing)
            }
            None => device.matmul(x, &device.transpose(&self.weights, axes)),
        })
    }
}

/// What is prepared, without its bytes being copied.
fn plain_data(prepared: &[Prepared]) -> Vec<MatrixData> {
    prepared.iter().map(|one| one.data.clone()).collect()
}

/// If two matrices are of one format, whose tables too are the same.
fn alike(a: &MatrixData, b: &MatrixData) -> bool {
    let table = |data: &MatrixData| match data.encoding {
        Encoding::Bnb4 { .. } => Some(data.parts[2].to_vec()),
        _ => None,
    };
    a.encoding == b.encoding && table(a) == table(b)
}

/// A plain type of numbers in MLX.
fn plain(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        other => unreachable!("`prepare` leaves no numbers of type {}", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use mlxr_compute::conformance::{Random, Sample, random_matrix};

    use super::*;

    #[test]
    fn what_weights_take_is_told_before_they_are_prepared() {
        let (random, mut n_compared) = (&mut Random::new(1), 0);
        let guessed = |s: &Sample| matches!(s.encoding, Encoding::Gptq { .. } | Encoding::Awq { .. });
        for Sample { encoding, n_in_of, .. } in Sample::all().into_iter().filter(|sample| !guessed(sample)) {
            for n_col in [1, 3, 8, 24].map(|n| n * n_in_of) {
                let data = random_matrix(random, encoding, [3, n_col]);
                for reads in [Reads::Nothing, Reads::Foreign, Reads::Dense, Reads::All] {
                    let told = loaded_bytes(encoding, [data.n_out, n_col], data.bytes() as u64, reads);
                    let prepared = prepare(&data, Precision::Half, reads).expect("a matrix");
                    let row = Blocks::of(prepared.data.encoding, n_col, reads);
                    let prepared = few_in_f32(vec![prepared], reads).expect("a matrix").remove(0);
                    // Random floats may have scales beyond f16, which those of models do not.
                    if row.is_none_or(|row| row.holds(&prepared.data)) {
                        assert_eq!(told, prepared.device_bytes(), "{encoding} {n_col} {reads:?}");
                        n_compared += 1;
                    }
                }
            }
        }
        assert!(n_compared > 500, "only {n_compared} compared");
    }
}
