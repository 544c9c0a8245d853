//! The CPU backend against the definitions, on every instruction set that this machine has.

use std::sync::Arc;

use mlxr_compute::conformance::{Options, run};
use mlxr_compute::cpu::{Cpu, Isa, Pool};

/// Instruction sets whose kernels for all but products with weights are the same as those of the one before.
const SAME_VECTORS: [Isa; 4] = [Isa::Avx512Bf16, Isa::NeonDotprod, Isa::NeonI8mm, Isa::NeonBf16];

/// Runs the operations whose name contains `only` on the instruction sets that this machine has, the best one also with
/// several threads.
fn check(only: &str, isas: impl Iterator<Item = Isa>) {
    let run = |isa: Isa, n_threads: usize, seed: u64| {
        let pool = Arc::new(Pool::new(n_threads).expect("few threads"));
        let mut cpu = Cpu::new(pool, isa).expect("available");
        let report = run(&mut cpu, &Options { seed, only: only.to_owned(), ..Options::default() });
        println!("{isa}, {n_threads} threads, seed {seed}\n{report}");
        report.assert_clean();
        assert!(report.refused.is_empty() && report.cases.iter().all(|(_, n)| *n > 0), "{report}");
    };
    isas.filter(|isa| isa.available()).for_each(|isa| run(isa, 1, 11));
    run(Isa::detect(), 3, 12);
}

fn check_products(only: &str) {
    check(only, Isa::ALL.into_iter());
}

fn check_vectors(only: &str) {
    check(only, Isa::ALL.into_iter().filter(|isa| !SAME_VECTORS.contains(isa)));
}

#[test]
fn linears() {
    check_products("linears");
}

#[test]
fn gate_up() {
    check_products("gate_up");
}

#[test]
fn head_linear() {
    check_products("head_linear");
}

#[test]
fn embed() {
    check_products("embed");
}

#[test]
fn norm() {
    check_vectors("norm");
}

#[test]
fn rope() {
    check_vectors("rope");
}

#[test]
fn act() {
    check_vectors("act");
}

#[test]
fn arithmetic() {
    check_vectors("arithmetic");
}

#[test]
fn moving() {
    check_vectors("moving");
}

#[test]
fn attention() {
    check_vectors("attention");
}

#[test]
fn conv() {
    check_vectors("conv");
}

#[test]
fn ssm_scan() {
    check_vectors("ssm_scan");
}

#[test]
fn delta_scan() {
    check_vectors("delta_scan");
}

#[test]
fn moe() {
    check_products("moe");
}

#[test]
fn pages() {
    check_vectors("pages");
}
