//! What multiplies a few rows by affine weights, by what it takes on this GPU.
//!
//! On CUDA `affine_tiles` does, by measurements of GPUs of that kind. Of Apple's no measurement is at hand, and they differ: matrices of
//! 16 x 16 may cost one row more than they gain. There a process tries all ways when it first needs one, see [`Trial`].

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mlxr_compute::conformance::{Random, random_matrix};
use mlxr_compute::{Bytes, DType, Encoding, Error, MatrixData};

use super::{Own, product};
use crate::ffi::{Array, Device, Dtype};
use crate::kernel::source::Platform;
use crate::matrix::{Matrix, Prepared};
use crate::tensor::Tensor;

/// A way to multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `affine_tiles` and what is fused with it: 16 x 16 weights at a time, in f16.
    Tiles,
    /// `affine_matmul`: each weight times each row, in f32.
    Vectors,
    /// MLX's `quantized_matmul`.
    Mlx,
}

impl Way {
    /// Every way, with its name.
    pub const NAMES: [(&str, Way); 3] = [("tiles", Way::Tiles), ("vectors", Way::Vectors), ("mlx", Way::Mlx)];
}

/// Numbers of rows that are tried. Those between go the way of the next.
pub const TRIED: [usize; 5] = [1, 2, 4, 8, 16];

/// The way of each number of rows of [`TRIED`].
pub type Ways = [Way; TRIED.len()];

/// The way of so many rows.
pub(crate) fn way(ways: &Ways, n_tok: usize) -> Way {
    TRIED.iter().position(|&n| n_tok <= n).map_or(Way::Tiles, |i| ways[i])
}

/// What products of a 4096 x 4096 matrix of 4 bits took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trial {
    /// By rows of [`TRIED`], each way's time in the order of [`Way::NAMES`].
    pub times: [[Duration; Way::NAMES.len()]; TRIED.len()],
}

/// Rows and columns of the matrices.
const SIDE: usize = 4096;
/// Matrices, so that no cache holds what is read again: 75 MB, which are freed after.
const N_MATRIX: usize = 8;
/// Times that all are multiplied; the fastest counts, as whatever else runs only ever adds.
const RUNS: usize = 5;

impl Trial {
    /// Multiplies by every way: by estimate a tenth of a second, and what compiling kernels takes.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn run(own: &Own, device: &Device) -> Result<Trial, Error> {
        let before = own.ways.get();
        let trial = Trial::of_all(own, device);
        own.ways.set(before);
        trial
    }

    /// As [`Trial::run`]; some way stays set.
    fn of_all(own: &Own, device: &Device) -> Result<Trial, Error> {
        let matrices: Vec<Matrix> = copies().map(|copy| Matrix::stacked(device, &[copy])).collect::<Result<_, _>>()?;
        let mut trial = Trial::default();
        for (rows, times) in TRIED.into_iter().zip(&mut trial.times) {
            let numbers: Vec<f32> = (0..rows * SIDE).map(|i| (i % 17) as f32 - 8.0).collect();
            let x = Tensor::new(device.from_slice(&numbers, &[rows, SIDE], Dtype::F32), [rows, SIDE]);
            for ((_, way), time) in Way::NAMES.into_iter().zip(times) {
                own.ways.set([way; TRIED.len()]);
                let once = || {
                    let start = Instant::now();
                    let products: Vec<Array> = matrices.iter().map(|matrix| one(own, device, &x, matrix)).collect();
                    device.eval(&products.iter().collect::<Vec<_>>())?;
                    Ok::<Duration, Error>(start.elapsed() / N_MATRIX as u32)
                };
                // The first compiles.
                once()?;
                *time = (0..RUNS).map(|_| once()).collect::<Result<Vec<_>, _>>()?.into_iter().min().expect("some runs");
            }
        }
        Ok(trial)
    }

    /// The fastest way for each number of rows, of equal ones the first.
    pub fn ways(&self) -> Ways {
        self.times.map(|times| {
            let fastest = (0..times.len()).min_by_key(|&i| times[i]).expect("several ways");
            Way::NAMES[fastest].1
        })
    }
}

/// The ways where nobody chose: by trial on Metal, once a process.
///
/// # Errors
/// If the device fails.
pub(crate) fn preferred(own: &Own, device: &Device) -> Result<Ways, Error> {
    static FOUND: OnceLock<Ways> = OnceLock::new();
    match (own.platform, FOUND.get()) {
        (Platform::Cuda, _) => Ok([Way::Tiles; TRIED.len()]),
        (Platform::Metal, Some(ways)) => Ok(*ways),
        (Platform::Metal, None) => {
            let ways = Trial::run(own, device)?.ways();
            Ok(*FOUND.get_or_init(|| ways))
        }
    }
}

/// As the backend multiplies.
fn one(own: &Own, device: &Device, x: &Tensor, matrix: &Matrix) -> Array {
    let rows = product::Rows::new(x, None);
    let made = rows.and_then(|rows| product::product(own, device, &rows, matrix, None));
    made.expect("our kernels know such a matrix")
}

/// Matrices of 4 bits in groups of 64, each in memory of its own.
fn copies() -> impl Iterator<Item = Prepared> {
    let encoding = Encoding::MlxAffine { bits: 4, group: 64, scale: DType::F16 };
    let data = random_matrix(&mut Random::new(1), encoding, [SIDE, SIDE]);
    (0..N_MATRIX).map(move |_| {
        let parts = data.parts.iter().map(|part| Bytes::from(part.to_vec())).collect();
        Prepared::plain(MatrixData { parts, ..data.clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_between_two_tried_numbers_go_the_way_of_the_larger() {
        let ways = [Way::Mlx, Way::Vectors, Way::Vectors, Way::Tiles, Way::Mlx];
        let want =
            [(1, Way::Mlx), (2, Way::Vectors), (3, Way::Vectors), (4, Way::Vectors), (5, Way::Tiles), (16, Way::Mlx)];
        assert!(want.into_iter().all(|(n, want)| way(&ways, n) == want));
        assert_eq!(way(&ways, 17), Way::Tiles, "more rows than are tried");
    }

    #[test]
    fn the_fastest_way_is_taken() {
        let times = |times: [u64; 3]| times.map(Duration::from_micros);
        let trial = Trial { times: [[3, 2, 1], [1, 2, 3], [2, 1, 3], [1, 1, 1], [2, 2, 1]].map(times) };
        assert_eq!(trial.ways(), [Way::Mlx, Way::Tiles, Way::Vectors, Way::Tiles, Way::Mlx]);
    }
}
