//! Speed of the CPU backend's operations other than products with weights: attention over a past of several lengths
//! (decode, in bytes of keys and values a second; prefill, in multiply-accumulates a second), and operations on rows
//! (in numbers a second).
//!
//! `cargo run --release -p mlxr-compute --example ops_bench -- [--threads N] [--isa NAME] [--only TEXT]`
//!
//! Each figure is the best of many runs. With one thread the clock is the processor time of this program, so that other
//! programs hardly disturb; with more it is the time that passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlxr_compute::Backend;
use mlxr_compute::conformance::Random;
use mlxr_compute::cpu::{Cpu, Isa, Pool, tensor::Tensor};
use mlxr_compute::op::*;

const WINDOW: Duration = Duration::from_millis(300);
const PAGE_TOKENS: usize = 16;

struct Options {
    threads: usize,
    isa: Isa,
    only: String,
}

fn main() {
    let mut o = Options {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        isa: Isa::detect(),
        only: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--threads" => o.threads = value.parse().expect("a number"),
            "--isa" => o.isa = Isa::from_name(&value).expect("an instruction set"),
            "--only" => o.only = value,
            _ => panic!("unknown option {arg}"),
        }
    }
    println!("{} threads, {}", o.threads, o.isa);
    let cpu = || Cpu::new(Arc::new(Pool::new(o.threads).expect("threads")), o.isa).expect("available");
    let run = |name: &str| name.contains(&o.only);
    for (dtype, n_kv_head, group, d_head) in
        [(KvType::F16, 8, 4, 128), (KvType::F16, 8, 4, 64), (KvType::Q8, 8, 4, 128), (KvType::BF16, 8, 1, 128)]
    {
        let name = format!("attention {dtype:?} {n_kv_head} x {group} x {d_head}");
        if run(&name) {
            for (start, n_tok) in [(512, 1), (4096, 1), (16384, 1), (4096, 4), (0, 512), (4096, 512)] {
                attention(&mut cpu(), &name, (dtype, n_kv_head, group, d_head), (start, n_tok));
            }
        }
    }
    for n_tok in [1, 512] {
        if run("rows") {
            rows(&mut cpu(), n_tok);
        }
    }
}

/// Seconds of the best run.
fn best(cpu: &mut Cpu, mut f: impl FnMut(&mut Cpu)) -> f64 {
    let one = cpu.pool().n_threads() == 1;
    let begin = Instant::now();
    let now = || if one { processor_seconds() } else { begin.elapsed().as_secs_f64() };
    let mut best = f64::INFINITY;
    while begin.elapsed() < WINDOW || best == f64::INFINITY {
        let start = now();
        f(cpu);
        best = best.min(now() - start);
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

fn tensor(cpu: &mut Cpu, shape: [usize; 2]) -> Tensor {
    let block = Random::new(1).normals(1 << 12);
    let data: Vec<f32> = block.iter().copied().cycle().take(shape[0] * shape[1]).collect();
    cpu.tensor(shape, &data)
}

fn attention(
    cpu: &mut Cpu,
    name: &str,
    (dtype, n_kv_head, group, d_head): (KvType, usize, usize, usize),
    (start, n_tok): (usize, usize),
) {
    let (total, n_head) = (start + n_tok, n_kv_head * group);
    let layer = LayerState::Kv { n_kv_head, d_k: d_head, d_v: d_head, d_latent: 0 };
    let n_page = total.div_ceil(PAGE_TOKENS);
    let spec = KvSpec { layers: vec![layer], page_tokens: PAGE_TOKENS, n_page, n_slot: 0, dtype };
    let mut kv = cpu.kv(&spec).expect("memory");
    let pages: Vec<u32> = (0..n_page as u32).rev().collect();
    let row = |n_tok, start| SeqRow { first: 0, n_tok, start, pages: (0, n_page), slot: 0, tree: false };
    let (past, now) = ([row(total, 0)], [row(n_tok, start)]);
    let all: Vec<i32> = (0..total as i32).collect();
    let seqs = Seqs { rows: &past, pages: &pages, positions: &all, parents: &[] };
    let k = tensor(cpu, [total, n_kv_head * d_head]);
    let append = best(cpu, |cpu| cpu.kv_append(&mut kv, 0, &k, Some(&k), &seqs));
    let seqs = Seqs { rows: &now, pages: &pages, positions: &all[start..], parents: &[] };
    let q = tensor(cpu, [n_tok, n_head * d_head]);
    let scale = 1.0 / (d_head as f32).sqrt();
    let (sinks, alibi) = (None, None);
    let attention = Attention { n_head, scale, window: Window::Full, softcap: None, sinks, alibi, causal: true };
    let seconds = best(cpu, |cpu| drop(cpu.attention(&q, &kv, 0, &attention, &seqs)));
    let size = if dtype == KvType::Q8 { 1 } else { 2 };
    let bytes = (total * n_kv_head * d_head * 2 * size) as f64;
    let seen: usize = (start + 1..=total).sum();
    let macs = (seen * n_head * d_head * 2) as f64;
    println!(
        "{name}: {n_tok} after {start}: {:9.1} us {:6.1} GB/s {:6.1} GMAC/s; append {:.0} M numbers/s",
        seconds * 1e6,
        bytes / seconds / 1e9,
        macs / seconds / 1e9,
        (2 * k.data.len()) as f64 / append / 1e6
    );
}

fn rows(cpu: &mut Cpu, n_tok: usize) {
    let (d_model, d_head) = (4096, 128);
    let norm = Norm { kind: NormKind::Rms, weight: Some(tensor(cpu, [1, d_model])), bias: None, eps: 1e-5 };
    let freqs = (0..d_head / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / d_head as f32)).collect();
    let half = Rope { freqs, scale: 1.0, pairs: RopePairs::HalfSplit, offset: 0 };
    let interleaved = Rope { pairs: RopePairs::Interleaved, ..half.clone() };
    let positions: Vec<i32> = (0..n_tok as i32).collect();
    let x = tensor(cpu, [n_tok, d_model]);
    let mut report = |name: &str, f: &mut dyn FnMut(&mut Cpu)| {
        let seconds = best(cpu, |cpu| f(cpu));
        let rate = (n_tok * d_model) as f64 / seconds / 1e6;
        println!("{name}, {n_tok} rows of {d_model}: {:8.2} us {rate:8.0} M numbers/s", seconds * 1e6);
    };
    report("norm", &mut |cpu| drop(cpu.norm(&x, &norm)));
    let mut y = None;
    let mut in_place = |name: &str, f: &mut dyn FnMut(&mut Cpu, Tensor) -> Tensor| {
        report(name, &mut |cpu| {
            let input = y.take().unwrap_or_else(|| tensor(cpu, [n_tok, d_model]));
            y = Some(f(cpu, input));
        });
    };
    in_place("rope, half split", &mut |cpu, x| cpu.rope(x, 32, &positions, &half));
    in_place("rope, interleaved", &mut |cpu, x| cpu.rope(x, 32, &positions, &interleaved));
    in_place("add", &mut |cpu, y| cpu.add(y, &x));
    in_place("silu * up", &mut |cpu, y| cpu.glu(y, &x, Act::Silu));
    in_place("gelu", &mut |cpu, y| cpu.act(y, Act::GeluTanh));
}
