//! `cargo xtask kernels [BINARY]`: the compiled hot kernels are what they are meant to be.
//!
//! A compiler's change of mind (an accumulator in memory, a broadcast as an instruction of its own) costs speed that no
//! test of results sees. This reads the disassembly of the inner loops instead of timing them. Needs `nm` and `objdump`
//! (binutils, which come with a C compiler) and an x86-64 binary.

use std::process::Command;

/// What the loops of a family of kernels must look like.
struct Rule {
    /// Part of the symbol's name.
    symbol: &'static str,
    /// Its multiply-and-add instructions; a loop has at least one.
    products: &'static [&'static str],
    /// Share of them that read their activation by embedded broadcast, in percent, at least.
    broadcast_percent: usize,
    /// Vectors read back from the stack in the loops, at most.
    reloads: usize,
}

/// Kernels of super-blocks keep a group's small scales and minima on the stack and read them once for many products.
/// AVX2 has 16 registers and no broadcast in an operand, so its widest kernels keep codes on the stack.
const RULES: &[Rule] = &[
    Rule { symbol: "matmul::table::avx512::run_int", products: &["vpdpbusd"], broadcast_percent: 80, reloads: 8 },
    Rule { symbol: "matmul::table::avx512::run_wide", products: &["vpdpbusd"], broadcast_percent: 80, reloads: 12 },
    Rule {
        symbol: "matmul::table::avx512_unpacked::run_unpacked",
        products: &["vpdpbusd"],
        broadcast_percent: 100,
        reloads: 0,
    },
    Rule { symbol: "matmul::table::avx512::run_float", products: &["vfmadd"], broadcast_percent: 100, reloads: 0 },
    Rule {
        symbol: "matmul::table::avx512_pairs::run_pairs",
        products: &["vdpbf16ps"],
        broadcast_percent: 100,
        reloads: 0,
    },
    Rule { symbol: "matmul::table::avx2::run_int", products: &["vpmaddubsw"], broadcast_percent: 0, reloads: 40 },
    Rule { symbol: "matmul::table::avx2::run_wide", products: &["vpmaddubsw"], broadcast_percent: 0, reloads: 40 },
    Rule {
        symbol: "matmul::table::avx2_unpacked::run_unpacked",
        products: &["vpmaddubsw"],
        broadcast_percent: 0,
        reloads: 40,
    },
    Rule { symbol: "matmul::table::avx2::run_float", products: &["vfmadd"], broadcast_percent: 0, reloads: 0 },
];

/// What was found in the loops of one function.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    products: usize,
    broadcasts: usize,
    reloads: usize,
}

/// Checks every kernel in `binary`; the error lists what is wrong.
pub fn run(binary: &str) -> Result<String, String> {
    let symbols = text("nm", &["-S", "-C", binary])?;
    let (mut wrong, mut n) = (Vec::new(), 0);
    for rule in RULES {
        let mut seen = 0;
        for line in symbols.lines().filter(|line| line.contains(rule.symbol)) {
            let mut fields = line.split_whitespace();
            let (Some(start), Some(size)) = (hex(fields.next()), hex(fields.next())) else { continue };
            let range = [format!("--start-address={start}"), format!("--stop-address={}", start + size)];
            let code = text("objdump", &["-d", "--no-show-raw-insn", &range[0], &range[1], binary])?;
            let found = inspect(&code, start, rule.products);
            if !fits(&found, rule) {
                wrong.push(format!("{} at {start:#x}: {found:?}", rule.symbol));
            }
            seen += 1;
        }
        if seen == 0 {
            wrong.push(format!("no function `{}` in {binary}: was it renamed or inlined?", rule.symbol));
        }
        n += seen;
    }
    if wrong.is_empty() { Ok(format!("kernels: {n} as intended")) } else { Err(wrong.join("\n")) }
}

fn fits(found: &Found, rule: &Rule) -> bool {
    let enough = found.broadcasts * 100 >= found.products * rule.broadcast_percent;
    found.products > 0 && enough && found.reloads <= rule.reloads
}

/// Counts in what lies between a jump backwards and its target.
fn inspect(code: &str, start: u64, products: &[&str]) -> Found {
    let lines = code.lines().filter_map(|line| {
        let (address, instruction) = line.split_once(":\t")?;
        Some((hex(Some(address.trim()))?, instruction.trim()))
    });
    let lines: Vec<(u64, &str)> = lines.collect();
    let loops: Vec<(u64, u64)> = lines
        .iter()
        .filter(|(_, text)| text.starts_with('j'))
        .filter_map(|(at, text)| Some((hex(text.split_whitespace().nth(1))?, *at)))
        .filter(|(target, at)| (start..=*at).contains(target))
        .collect();
    let mut found = Found::default();
    for (at, text) in lines {
        if !loops.iter().any(|(first, last)| (*first..=*last).contains(&at)) {
            continue;
        }
        let broadcast = text.contains("{1to");
        if products.iter().any(|name| text.starts_with(name)) {
            found.products += 1;
            found.broadcasts += usize::from(broadcast);
        }
        let from_stack = text.find("(%rsp)").or_else(|| text.find("(%rbp)"));
        let read = from_stack.is_some_and(|stack| text[stack..].contains("mm"));
        found.reloads += usize::from(read && !broadcast);
    }
    found
}

fn hex(text: Option<&str>) -> Option<u64> {
    u64::from_str_radix(text?, 16).ok()
}

fn text(program: &str, args: &[&str]) -> Result<String, String> {
    let run = Command::new(program).args(args).output();
    let run = run.map_err(|error| format!("{program}: {error}; install binutils"))?;
    if !run.status.success() {
        return Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&run.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_counted_and_the_rest_is_not() {
        let code = "\
  10:\tvmovaps 0x40(%rsp),%zmm1
  20:\tvpdpbusd 0x8(%rdi){1to16},%zmm2,%zmm3
  28:\tvpdpbusd %zmm4,%zmm2,%zmm3
  30:\tvpaddd 0x40(%rsp),%zmm1,%zmm1
  38:\tvmovaps %zmm1,0x40(%rsp)
  40:\tjne    20 <x+0x10>
  48:\tvpdpbusd %zmm4,%zmm2,%zmm3
";
        let found = inspect(code, 0x10, &["vpdpbusd"]);
        assert_eq!(found, Found { products: 2, broadcasts: 1, reloads: 1 });
        let rule = |broadcast_percent, reloads| Rule { symbol: "", products: &[], broadcast_percent, reloads };
        for (percent, reloads, want) in [(50, 1, true), (51, 1, false), (50, 0, false)] {
            assert_eq!(fits(&found, &rule(percent, reloads)), want, "{percent} {reloads}");
        }
    }
}
