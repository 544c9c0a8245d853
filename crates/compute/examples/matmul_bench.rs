//! Speed of products with weight matrices: decode (one column) in bytes of weights a second, beside the memory's read
//! bandwidth, and prefill (many columns) in multiply-accumulates a second, beside the peak of the int8 instruction.
//!
//! `cargo run --release -p mlxr-compute --example matmul_bench -- [--threads N] [--isa NAME] [--type NAME]...
//! [--columns N,N,...] [--shape OUTxIN]`
//!
//! Each figure is the best of several windows of 4 ms, since other programs may run beside; with one thread of 4 ms of
//! processor time. Weights of decode
//! are several matrices of together at least 256 MiB, so that no cache holds them.

use std::time::Instant;

use mlxr_compute::cpu::matmul::{Activations, Columns, Epilogue, Out, PackedMatrix, Place, Product, Weights, matmul};
use mlxr_compute::cpu::{Bandwidth, Isa, Pool};
use mlxr_compute::{Bytes, DType, MatrixData};

/// Seconds.
const WINDOW: f64 = 0.004;
const N_WINDOW: usize = 60;
const DECODE_BYTES: usize = 256 << 20;

struct Options {
    threads: usize,
    isas: Vec<Isa>,
    types: Vec<DType>,
    columns: Vec<usize>,
    shape: [usize; 2],
}

fn main() {
    let o = options();
    let pool = Pool::new(o.threads).expect("threads");
    let bandwidth = Bandwidth::new(o.threads).and_then(|b| b.measure()).expect("memory and threads");
    println!(
        "{} threads, read bandwidth {:.1} GB/s, int8 peak {:.0} GMAC/s",
        o.threads,
        bandwidth / 1e9,
        int8_peak(&pool) / 1e9
    );
    print!("{:10} {:8}", "type", "isa");
    o.columns.iter().for_each(|n| print!(" {:>15}", format!("{n} columns")));
    println!("\n{:19} {}", "", "   GB/s  GMAC/s".repeat(o.columns.len()) + "  pack GB/s");
    for &dtype in &o.types {
        for &isa in &o.isas {
            print!("{:10} {:8}", dtype.name(), isa.name());
            let (matrices, pack_seconds) = matrices(dtype, isa, o.shape, &pool);
            for &n in &o.columns {
                let seconds = product_seconds(&matrices, n, &pool);
                let bytes = matrices[0].bytes() as f64;
                let macs = (o.shape[0] * o.shape[1] * n) as f64;
                print!(" {:7.1} {:7.1}", bytes / seconds / 1e9, macs / seconds / 1e9);
            }
            println!(" {:7.2}", matrices.iter().map(|m| m.bytes() as f64).sum::<f64>() / pack_seconds / 1e9);
        }
    }
}

fn options() -> Options {
    let mut o = Options {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        isas: Isa::ALL.into_iter().filter(|i| i.available()).collect(),
        types: Vec::new(),
        columns: vec![1, 2, 4, 8, 16, 512],
        shape: [2048, 2048],
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().expect("every flag takes a value");
        match flag.as_str() {
            "--threads" => o.threads = value.parse().expect("a number"),
            "--isa" => o.isas = vec![Isa::from_name(&value).expect("an instruction set")],
            "--type" => o.types.push(DType::from_name(&value).expect("a type")),
            "--columns" => o.columns = value.split(',').map(|n| n.parse().expect("a number")).collect(),
            "--shape" => {
                let (n_out, n_in) = value.split_once('x').expect("OUTxIN");
                o.shape = [n_out.parse().expect("a number"), n_in.parse().expect("a number")];
            }
            _ => panic!("unknown flag {flag}"),
        }
    }
    if o.types.is_empty() {
        let names = ["q4_0", "q4_K", "q5_K", "q6_K", "q8_0", "f16", "bf16", "f32"];
        o.types = names.iter().filter_map(|n| DType::from_name(n)).collect();
    }
    o
}

/// Seconds of the fastest window's mean run of `f`, by the clock of the pool.
fn best(pool: &Pool, mut f: impl FnMut()) -> f64 {
    let (one, begin) = (pool.n_threads() == 1, Instant::now());
    let now = || if one { processor_seconds() } else { begin.elapsed().as_secs_f64() };
    f();
    let mut best = f64::INFINITY;
    for _ in 0..N_WINDOW {
        let (start, mut runs) = (now(), 0);
        while now() - start < WINDOW {
            f();
            runs += 1;
        }
        best = best.min((now() - start) / f64::from(runs));
    }
    best
}

/// Processor time of this program.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "every Unix has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Enough matrices that a round over them leaves every cache, packed, and how long packing took.
fn matrices(dtype: DType, isa: Isa, [n_out, n_in]: [usize; 2], pool: &Pool) -> (Vec<PackedMatrix>, f64) {
    let bytes = dtype.bytes_of(n_in).expect("a multiple of the block") * n_out;
    let n = (DECODE_BYTES / bytes).clamp(1, 200);
    let matrix = |_| {
        // Bytes of 0x2c make small positive scales in every format.
        let data = MatrixData::blocks("w", [n_out, n_in], dtype, Bytes::from(vec![0x2c; bytes])).expect("fits");
        PackedMatrix::new(&[data], isa).expect("available")
    };
    let matrices: Vec<_> = (0..n).map(matrix).collect();
    let start = Instant::now();
    matrices.iter().for_each(|m| m.pack(pool).expect("memory"));
    (matrices, start.elapsed().as_secs_f64())
}

/// Seconds of a product of one matrix, each run taking the next one.
fn product_seconds(matrices: &[PackedMatrix], n_col: usize, pool: &Pool) -> f64 {
    let (n_out, n_in) = (matrices[0].n_out(), matrices[0].n_in());
    let x: Vec<f32> = (0..n_col * n_in).map(|i| (i % 127) as f32 / 64.0 - 1.0).collect();
    let mut inputs = Activations::new(matrices[0].isa());
    inputs.load(pool, &x, n_in, Columns::Rows, &[&matrices[0]]).expect("no panic");
    let mut y = vec![0.0; n_col * n_out];
    let mut next = 0;
    best(pool, || {
        let product = Product {
            weights: Weights::all(&matrices[next]),
            group: 0,
            epilogue: Epilogue::Store,
            place: Place { out: 0, row: 0, col: 0 },
        };
        next = (next + 1) % matrices.len();
        matmul(pool, &inputs, &[product], &mut [Out { data: &mut y, stride: n_out }]).expect("no panic");
    })
}

/// Multiply-accumulates a second of `vpdpbusd` on registers, all threads together; 0 where there is none.
fn int8_peak(pool: &Pool) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512Vnni.available() {
        const ROUNDS: usize = 100_000;
        let seconds = best(pool, || {
            // SAFETY: the instruction set is available.
            pool.run(pool.n_threads(), |_, _| unsafe { dpbusd(ROUNDS) }).expect("no panic");
        });
        return (ROUNDS * 16 * 64 * pool.n_threads()) as f64 / seconds;
    }
    let _ = pool;
    0.0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpbusd(rounds: usize) {
    use std::arch::x86_64::*;
    let (w, a) = std::hint::black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
    let mut acc = [_mm512_setzero_si512(); 16];
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm512_dpbusd_epi32(*acc, w, a);
        }
    }
    std::hint::black_box(acc);
}
