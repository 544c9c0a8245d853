//! Which instructions the kernels may use: a value chosen once and passed down, never a global.

use std::fmt;

/// An instruction set that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust; the same layouts and the same integer arithmetic as the others.
    Scalar,
    /// x86-64: AVX2, FMA, F16C.
    Avx2,
    /// x86-64: AVX-512 F, BW, VL, DQ, VNNI, VBMI.
    Avx512Vnni,
    /// x86-64: those, and products of bf16 pairs.
    Avx512Bf16,
    /// aarch64: NEON.
    Neon,
    /// aarch64: NEON with `sdot`.
    NeonDotprod,
    /// aarch64: NEON with `sdot` and `smmla`.
    NeonI8mm,
    /// aarch64: those, and products of bf16 pairs.
    NeonBf16,
}

/// One row of [`ROWS`].
struct Row {
    isa: Isa,
    name: &'static str,
    available: fn() -> bool,
}

const ROWS: [Row; 8] = [
    Row { isa: Isa::Scalar, name: "scalar", available: || true },
    Row { isa: Isa::Avx2, name: "avx2", available: has_avx2 },
    Row { isa: Isa::Avx512Vnni, name: "avx512", available: has_avx512 },
    Row { isa: Isa::Avx512Bf16, name: "avx512bf16", available: has_avx512_bf16 },
    Row { isa: Isa::Neon, name: "neon", available: has_neon },
    Row { isa: Isa::NeonDotprod, name: "dotprod", available: has_dotprod },
    Row { isa: Isa::NeonI8mm, name: "i8mm", available: has_i8mm },
    Row { isa: Isa::NeonBf16, name: "bf16", available: has_bf16 },
];

impl Isa {
    /// Every instruction set, of every architecture, in rising order of preference.
    pub const ALL: [Isa; 8] = {
        let mut all = [Isa::Scalar; 8];
        let mut i = 0;
        while i < all.len() {
            all[i] = ROWS[i].isa;
            i += 1;
        }
        all
    };

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Name in `--isa` and messages.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The instruction set of this name, in any case.
    pub fn from_name(name: &str) -> Option<Isa> {
        ROWS.iter().find(|r| r.name.eq_ignore_ascii_case(name)).map(|r| r.isa)
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        (self.row().available)()
    }

    /// Whether it multiplies pairs of bf16, so that inputs of bf16 weights are rounded to bf16. [`Isa::Scalar`] does so
    /// to be the reference.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Scalar | Isa::Avx512Bf16 | Isa::NeonBf16)
    }

    /// The best that this machine has.
    pub fn detect() -> Isa {
        Isa::best(|_| true)
    }

    /// The best that this machine has of those that round no inputs of bf16 weights, for comparisons with f32 arithmetic.
    pub fn detect_f32() -> Isa {
        Isa::best(|isa| !isa.multiplies_bf16())
    }

    fn best(fits: impl Fn(Isa) -> bool) -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.available() && fits(*isa)).unwrap_or(Isa::Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vbmi")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_bf16() -> bool {
    false
}

#[cfg(target_arch = "aarch64")]
fn has_neon() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

#[cfg(target_arch = "aarch64")]
fn has_dotprod() -> bool {
    has_neon() && std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(target_arch = "aarch64")]
fn has_i8mm() -> bool {
    has_dotprod() && std::arch::is_aarch64_feature_detected!("i8mm")
}

#[cfg(target_arch = "aarch64")]
fn has_bf16() -> bool {
    has_i8mm() && std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(target_arch = "aarch64"))]
fn has_neon() -> bool {
    false
}

#[cfg(not(target_arch = "aarch64"))]
fn has_dotprod() -> bool {
    false
}

#[cfg(not(target_arch = "aarch64"))]
fn has_i8mm() -> bool {
    false
}

#[cfg(not(target_arch = "aarch64"))]
fn has_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_in_the_order_of_the_enum() {
        for (i, row) in ROWS.iter().enumerate() {
            assert_eq!(row.isa as usize, i);
            assert_eq!(Isa::from_name(&row.name.to_uppercase()), Some(row.isa));
        }
        assert!(Isa::Scalar.available() && Isa::detect().available());
        assert_eq!(Isa::from_name("sse9"), None);
    }
}
