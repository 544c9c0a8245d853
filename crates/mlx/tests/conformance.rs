//! The MLX backend against the definition of every operation, where MLX is there.

use std::path::PathBuf;

use mlxr_compute::conformance::{self, Options};
use mlxr_mlx::{Kernels, Mlx, Precision, find};

/// A backend, or `None` with a loud word.
fn backend(precision: Precision) -> Option<Mlx> {
    let Some(folder) = std::env::var_os("MLXR_MLX_DIR").map(PathBuf::from) else {
        eprintln!("SKIPPED: run `cargo xtask mlx` and set MLXR_MLX_DIR to target/mlx to test the MLX backend");
        return None;
    };
    let device = find::open(find::places(None, Some(&folder))).expect("MLXR_MLX_DIR names a folder with MLX");
    // On a GPU, ours; the processor has none.
    Some(Mlx::new(device, precision, Kernels::Own, Box::new(|_| ())))
}

/// Of operations whose name has the text of `MLXR_CONFORMANCE_ON` in it, of all without it: what MLX compiles takes a GPU minutes.
fn options(options: Options) -> Options {
    Options { only: std::env::var("MLXR_CONFORMANCE_ON").unwrap_or_default(), ..options }
}

#[test]
fn full_precision_equals_the_definitions() {
    let Some(mut backend) = backend(Precision::Full) else { return };
    for seed in [1, 2] {
        let report = conformance::run(&mut backend, &options(Options { seed, ..Options::default() }));
        eprintln!("{report}");
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        report.assert_clean();
    }
}

#[test]
fn half_precision_is_as_near_as_16_bits_allow() {
    let Some(mut backend) = backend(Precision::Half) else { return };
    // bf16 has 8 bits: inputs and products are rounded by up to 2^-9 of each, a few 1e-6 in square.
    let report = conformance::run(&mut backend, &options(Options { slack: 2000.0, ..Options::default() }));
    eprintln!("{report}");
    report.assert_clean();
}
