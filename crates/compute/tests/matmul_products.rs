//! What products can do besides one matrix times rows: stacked parts, experts, groups, epilogues, look-ups; and that
//! results depend on nothing but the weights and the column.

mod matmul_support;

use matmul_support::{Inputs, Rng, decoded, dot, inputs_of, matrix, rounded};
use mlxr_compute::cpu::matmul::{Activations, Columns, Epilogue, Out, PackedMatrix, Place, Product, Weights, matmul};
use mlxr_compute::cpu::{Isa, Pool};
use mlxr_compute::{DType, Encoding, MatrixData};

const N_IN: usize = 256;

fn data(dtype: DType, n_out: usize, seed: u64) -> MatrixData {
    matrix(Encoding::Blocks(dtype), [n_out, N_IN], &mut Rng(seed)).expect("a multiple of the block")
}

fn inputs(n: usize, seed: u64) -> Vec<f32> {
    let rng = &mut Rng(seed);
    (0..n).map(|_| rng.float()).collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

fn close(found: f32, (expected, tolerance): (f64, f64), what: &str) {
    assert!((f64::from(found) - expected).abs() <= tolerance, "{what}: {found} for {expected}");
}

/// Row `r` of `weights` times column `c` of `x`, inputs rounded to int8.
fn expected(weights: &[f32], r: usize, x: &[f32], c: usize) -> (f64, f64) {
    dot(&weights[r * N_IN..][..N_IN], &x[c * N_IN..][..N_IN], Inputs::Int8(32))
}

#[test]
fn parts_of_different_types_are_stacked() {
    let pool = Pool::new(2).expect("threads");
    let types = [(DType::Q4_K, 40), (DType::Q6_K, 16), (DType::F16, 8), (DType::IQ2_S, 20), (DType::BF16, 8)];
    let parts = types.map(|(dtype, n_out)| data(dtype, n_out, n_out as u64));
    let x = inputs(3 * N_IN, 5);
    for isa in isas() {
        let packed = PackedMatrix::new(&parts, isa).expect("available");
        assert_eq!([packed.n_out(), packed.n_in(), packed.n_expert()], [92, N_IN, 1]);
        let starts: Vec<_> = (0..=92).filter(|&r| packed.starts_panel(r)).collect();
        assert_eq!(starts, [0, 16, 32, 40, 56, 64, 80, 84, 92]);
        let mut y = vec![0.0; 3 * 92];
        run(&pool, &packed, &x, &mut y);
        let mut first = 0;
        for part in &parts {
            let (weights, how) = (decoded(part), inputs_of(part.encoding, isa, N_IN));
            let seen = rounded(&x, how);
            for (c, r) in (0..3).flat_map(|c| (0..part.n_out).map(move |r| (c, r))) {
                let column = &seen[c * N_IN..][..N_IN];
                close(y[c * 92 + first + r], dot(&weights[r * N_IN..][..N_IN], column, how), "stacked");
            }
            first += part.n_out;
        }
    }
}

fn run(pool: &Pool, packed: &PackedMatrix, x: &[f32], y: &mut [f32]) {
    let mut inputs = Activations::new(packed.isa());
    inputs.load(pool, x, packed.n_in(), Columns::Rows, &[packed]).expect("no panic");
    let place = Place { out: 0, row: 0, col: 0 };
    let product = Product { weights: Weights::all(packed), group: 0, epilogue: Epilogue::Store, place };
    matmul(pool, &inputs, &[product], &mut [Out { data: y, stride: packed.n_out() }]).expect("no panic");
}

#[test]
fn a_column_does_not_depend_on_its_batch_nor_on_threads() {
    let x = inputs(70 * N_IN, 6);
    // Panels of the first four are unpacked for 64 columns and more on AVX-512; on AVX2 most are for 32.
    let merged = [DType::Q2_K, DType::Q3_K, DType::IQ1_S, DType::TQ2_0];
    let scaled = [DType::Q5_K, DType::IQ2_XS, DType::IQ4_XS, DType::IQ1_M];
    let others = [DType::Q4_K, DType::Q6_K, DType::F16, DType::BF16, DType::IQ3_S];
    for isa in isas() {
        for dtype in merged.into_iter().chain(scaled).chain(others) {
            let packed = PackedMatrix::new(&[data(dtype, 50, 7)], isa).expect("available");
            let mut all = vec![0.0; 70 * 50];
            run(&Pool::new(1).expect("threads"), &packed, &x, &mut all);
            let pool = Pool::new(3).expect("threads");
            for n in [1, 2, 3, 5, 8, 13, 21, 40, 64, 70] {
                let mut y = vec![0.0; n * 50];
                run(&pool, &packed, &x[..n * N_IN], &mut y);
                assert_eq!(y, all[..n * 50], "{} {isa}: {n} columns", dtype.name());
            }
        }
    }
}

#[test]
fn experts_take_their_own_columns() {
    let pool = Pool::new(2).expect("threads");
    let experts: Vec<_> = (0..5).map(|e| data(DType::Q4_K, 24, 10 + e)).collect();
    let x = inputs(6 * N_IN, 8);
    let seen = rounded(&x, Inputs::Int8(128));
    // Tokens of experts 4, 0 and 2.
    let (used, lists) = ([4, 0, 2], [vec![1, 3], vec![0, 2, 4, 5], vec![3]]);
    let starts: Vec<_> = lists.iter().flatten().map(|t| t * N_IN).collect();
    for isa in isas() {
        let packed = PackedMatrix::experts(&experts, isa).expect("available");
        assert_eq!([packed.n_out(), packed.n_expert()], [24, 5]);
        let mut inputs = Activations::new(isa);
        let columns = Columns::Starts { starts: &starts, groups: &[0, 2, 6, 7] };
        inputs.load(&pool, &x, N_IN, columns, &[&packed]).expect("no panic");
        assert_eq!([0, 1, 2].map(|g| inputs.n_col(g)), [2, 4, 1]);
        let products: Vec<_> = (0..3)
            .map(|g| Product {
                weights: Weights { expert: used[g], ..Weights::all(&packed) },
                group: g,
                epilogue: Epilogue::Store,
                place: Place { out: 0, row: [0, 2, 6][g], col: 0 },
            })
            .collect();
        let mut y = vec![0.0; 7 * 24];
        matmul(&pool, &inputs, &products, &mut [Out { data: &mut y, stride: 24 }]).expect("no panic");
        let mut row = 0;
        for (expert, tokens) in used.iter().zip(&lists) {
            let weights = decoded(&experts[*expert]);
            for &token in tokens {
                (0..24).for_each(|r| close(y[row * 24 + r], expected(&weights, r, &seen, token), "expert"));
                row += 1;
            }
        }
    }
}

#[test]
fn epilogues_scale_add_and_gate() {
    let pool = Pool::new(2).expect("threads");
    let (gate, up) = (data(DType::Q8_0, 40, 20), data(DType::Q5_K, 72, 21));
    let (x, bias) = (inputs(5 * N_IN, 22), inputs(40, 23));
    let [seen, seen_up] = [32, 128].map(|n| rounded(&x, Inputs::Int8(n)));
    let (gate_weights, up_weights) = (decoded(&gate), decoded(&up));
    for isa in isas() {
        let gate = PackedMatrix::new(std::slice::from_ref(&gate), isa).expect("available");
        let up = PackedMatrix::new(std::slice::from_ref(&up), isa).expect("available");
        let mut inputs = Activations::new(isa);
        inputs.load(&pool, &x, N_IN, Columns::Rows, &[&gate, &up]).expect("no panic");
        let up = Weights { rows: 32..72, ..Weights::all(&up) };
        let gate = Weights { scale: 0.5, bias: Some(&bias), ..Weights::all(&gate) };
        assert!(gate.pairs_with(&up) && !gate.pairs_with(&Weights { rows: 16..72, ..up.clone() }));
        let combine = |y: &mut [f32], u: &[f32]| y.iter_mut().zip(u).for_each(|(y, u)| *y = y.max(0.0) * u);
        let product = |epilogue, out| {
            let place = Place { out, row: 0, col: 3 };
            Product { weights: gate.clone(), group: 0, epilogue, place }
        };
        let products = [product(Epilogue::Add(2.0), 0), product(Epilogue::Gate { up: &up, combine: &combine }, 1)];
        let (mut sums, mut gated) = (vec![7.0; 5 * 45], vec![7.0; 5 * 45]);
        let mut outs = [Out { data: &mut sums, stride: 45 }, Out { data: &mut gated, stride: 45 }];
        matmul(&pool, &inputs, &products, &mut outs).expect("no panic");
        for (c, r) in (0..5).flat_map(|c| (0..40).map(move |r| (c, r))) {
            let (y, tolerance) = expected(&gate_weights, r, &seen, c);
            let (u, tolerance_up) = expected(&up_weights, 32 + r, &seen_up, c);
            let y = 0.5 * y + f64::from(bias[r]);
            close(sums[c * 45 + 3 + r], (7.0 + 2.0 * y, tolerance + 1e-5), "add");
            let both = tolerance * u.abs() + tolerance_up * y.abs() + 1e-6;
            close(gated[c * 45 + 3 + r], (y.max(0.0) * u, both), "gate");
        }
        let outside = (0..5 * 45).filter(|i| !(3..43).contains(&(i % 45)));
        outside.for_each(|i| assert_eq!((sums[i], gated[i]), (7.0, 7.0), "beside the results"));
    }
}

#[test]
fn a_row_looked_up_is_the_row_decoded() {
    let pool = Pool::new(2).expect("threads");
    for dtype in [DType::Q6_K, DType::BF16, DType::IQ1_M] {
        let parts = [data(dtype, 20, 30), data(dtype, 30, 31)];
        let weights: Vec<f32> = parts.iter().flat_map(decoded).collect();
        let packed = PackedMatrix::new(&parts, Isa::detect()).expect("available");
        for packed_first in [false, true] {
            if packed_first {
                packed.pack(&pool).expect("memory");
            }
            for ids in [vec![49], vec![0, 19, 20, 3, 3, 44]] {
                let mut out = vec![0.0; ids.len() * N_IN];
                packed.embed(&pool, &ids, &mut out).expect("no panic");
                for (row, id) in out.chunks_exact(N_IN).zip(ids) {
                    assert_eq!(row, &weights[id as usize * N_IN..][..N_IN], "{} row {id}", dtype.name());
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let a = data(DType::Q8_0, 16, 40);
    let narrow = matrix(Encoding::Blocks(DType::Q8_0), [16, 128], &mut Rng(41)).expect("fits");
    let short = MatrixData { parts: vec![a.parts[0].slice(0..100).expect("within")], ..a.clone() };
    let tall = data(DType::Q8_0, 32, 42);
    let error = |result: Result<PackedMatrix, mlxr_compute::Error>| result.err().expect("an error").to_string();
    assert!(error(PackedMatrix::new(&[a.clone(), narrow], Isa::Scalar)).contains("128 columns"));
    assert!(error(PackedMatrix::new(&[short], Isa::Scalar)).contains("100 bytes"));
    assert!(error(PackedMatrix::experts(&[a.clone(), tall], Isa::Scalar)).contains("32 rows"));
    let absent = Isa::ALL.into_iter().find(|isa| !isa.available()).expect("no machine has all");
    assert!(error(PackedMatrix::new(&[a], absent)).contains(absent.name()));
}

#[test]
fn a_nan_or_infinity_reaches_the_result() {
    let pool = Pool::new(1).expect("threads");
    for isa in isas() {
        for dtype in [DType::Q4_K, DType::BF16] {
            let packed = PackedMatrix::new(&[data(dtype, 16, 50)], isa).expect("available");
            for bad in [f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY] {
                let mut x = inputs(N_IN, 51);
                x[100] = bad;
                let mut y = vec![0.0; 16];
                run(&pool, &packed, &x, &mut y);
                assert!(y.iter().all(|y| !y.is_finite()), "{} {isa} {bad}: {y:?}", dtype.name());
            }
        }
    }
}
