//! What every target does with a checkpoint that opens: asks for everything in it.

use mlxr_weights::Checkpoint;

/// More weights than this are not decoded, so that a run stays short.
const MAX_WEIGHTS: usize = 1 << 14;

/// Reads every tensor in every way. Errors are fine; panics and large allocations are what the fuzzer looks for.
pub fn everything(model: &Checkpoint) {
    for tensor in model.tensors() {
        let name = tensor.name.as_str();
        let bytes = model.bytes(name).expect("a listed tensor has bytes");
        assert_eq!(bytes.len(), tensor.bytes);
        let endings = [".weight", ".qweight", "_blocks", ""];
        let stem = endings.iter().find_map(|e| name.strip_suffix(e)).expect("every name ends in nothing");
        let matrices = model.matrix(stem).ok().flatten().into_iter();
        for matrix in matrices.chain(model.experts(stem).ok().flatten().into_iter().flatten().take(4)) {
            if let Some(n) = matrix.n_out.checked_mul(matrix.n_in).filter(|&n| n <= MAX_WEIGHTS) {
                matrix.decode_rows(0, matrix.n_out, &mut vec![0.0; n]);
            }
        }
        if tensor.elements() <= MAX_WEIGHTS {
            let numbers = model.vector(name).expect("a small tensor decodes").expect("it is there").1;
            assert_eq!(numbers.len(), tensor.elements());
        }
    }
}
