//! The CPU backend against the definitions, on every instruction set that this machine has.

use std::sync::Arc;

use mlxr_compute::conformance::{Options, run};
use mlxr_compute::cpu::{Cpu, Isa, Pool};

/// Runs the operations whose name contains `only`, on every instruction set and with one thread and three.
fn check(only: &str) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for (n_threads, seed) in [(1, 11), (3, 12)] {
            let pool = Arc::new(Pool::new(n_threads).expect("few threads"));
            let mut cpu = Cpu::new(pool, isa).expect("available");
            let report = run(&mut cpu, &Options { seed, only: only.to_owned(), ..Options::default() });
            println!("{isa}, {n_threads} threads, seed {seed}\n{report}");
            report.assert_clean();
            assert!(report.refused.is_empty() && report.cases.iter().all(|(_, n)| *n > 0), "{report}");
        }
    }
}

#[test]
fn linears() {
    check("linears");
}

#[test]
fn gate_up() {
    check("gate_up");
}

#[test]
fn head_linear() {
    check("head_linear");
}

#[test]
fn embed() {
    check("embed");
}

#[test]
fn norm() {
    check("norm");
}

#[test]
fn rope() {
    check("rope");
}

#[test]
fn act() {
    check("act");
}

#[test]
fn arithmetic() {
    check("arithmetic");
}

#[test]
fn moving() {
    check("moving");
}

#[test]
fn attention() {
    check("attention");
}

#[test]
fn conv() {
    check("conv");
}

#[test]
fn ssm_scan() {
    check("ssm_scan");
}

#[test]
fn moe() {
    check("moe");
}

#[test]
fn pages() {
    check("pages");
}
