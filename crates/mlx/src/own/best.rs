//! The largest logits of each row, found where they are: MLX's CUDA build moves what the host reads page by page, about a
//! gigabyte a second.

use super::Own;
use crate::ffi::{Array, Device};
use crate::kernel::Instance;
use crate::tensor::Tensor;

/// How many `best` finds; what is asked for is rounded up to one of them.
const COUNTS: [usize; 3] = [1, 8, 64];
/// Threads of a group.
const THREADS: usize = 256;
/// Numbers of a lane when rows are read first.
const FIRST: usize = 8;
/// Most numbers of a lane when what the slices left is read.
const MOST: usize = 64;
/// Stands for no number, and for minus infinity.
const NONE: f32 = -3e38;

/// The `n_best` largest numbers of each row or some more: `[n_row, 1, k, 2]`, numbers and places; `None` where that does not
/// pay.
pub(crate) fn best(own: &Own, d: &Device, x: &Tensor, n_best: usize) -> Option<Array> {
    let [n_row, n] = x.shape;
    let k = COUNTS.into_iter().find(|k| *k >= n_best)?;
    let n_slice = n.div_ceil(THREADS * FIRST);
    let each = (n_slice * k).div_ceil(THREADS).next_power_of_two();
    if n_row == 0 || n < 4 * THREADS * FIRST || each > MOST {
        return None;
    }
    let pass = |from: &Array, [n, n_slice, each]: [usize; 3], paired: u32| {
        let instance = Instance::new("best", &[k as u32, each as u32, paired], "float");
        let sizes = own.sizes(d, &[n, n_slice]);
        let [found] = own.launch(d, instance, &[from, &sizes], &[&[n_row, n_slice, k, 2]], [n_slice, n_row, 1]);
        found
    };
    let slices = pass(&x.array, [n, n_slice, FIRST], 0);
    Some(pass(&slices, [n_slice * k, 1, each], 1))
}

/// Appends rows that have the numbers found at their places and minus infinity elsewhere.
pub(crate) fn spread(found: &[u8], [n_row, n]: [usize; 2], out: &mut Vec<f32>) {
    let first = out.len();
    out.resize(first + n_row * n, f32::NEG_INFINITY);
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(found);
    for (row, found) in out[first..].chunks_exact_mut(n).zip(found.chunks_exact(found.len() / n_row)) {
        for pair in found.chunks_exact(2).filter(|pair| pair[0] > NONE) {
            row[pair[1] as usize] = pair[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_numbers_lie_at_their_places() {
        let found: [f32; 8] = [2.0, 3.0, 1.5, 0.0, 7.0, 1.0, NONE, 0.0];
        let mut out = vec![9.0];
        spread(bytemuck::cast_slice(&found), [2, 4], &mut out);
        let none = f32::NEG_INFINITY;
        assert_eq!(out, [9.0, 1.5, none, none, 2.0, none, 7.0, none, none]);
    }
}
