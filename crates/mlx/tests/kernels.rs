//! Our kernels, compiled for the processor, against the definitions; the shapes differ from run to run.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Command, Stdio};

use mlxr_mlx::kernel::cases::{self, Case};
use mlxr_mlx::kernel::source::{self, Launch, Platform, Target};
use mlxr_mlx::kernel::{Instance, KERNELS};

/// The outputs of the launches, run as a program by a C++ compiler; `None` with a loud word where there is none.
fn run(folder: &Path, launches: &[Launch]) -> Option<Vec<Vec<Vec<f32>>>> {
    let compiler = ["c++", "g++", "clang++"].into_iter().find(|name| {
        let version = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    });
    let Some(compiler) = compiler else {
        eprintln!("SKIPPED: install a C++ compiler (apt-get install g++) to test the kernels of the MLX backend");
        return None;
    };
    let mut instances: Vec<Instance> = Vec::new();
    for launch in launches {
        if !instances.contains(&launch.instance) {
            instances.push(launch.instance.clone());
        }
    }
    let file = |name: &str| folder.join(name);
    std::fs::write(file("kernels.cpp"), source::program(Target::Host, &instances)).expect("a folder to write to");
    std::fs::write(file("in"), source::input_file(&instances, launches)).expect("a folder to write to");
    let mut compile = Command::new(compiler);
    compile.args(["-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unused-function", "-o"]);
    let status = compile.arg(file("kernels")).arg(file("kernels.cpp")).status().expect("the compiler starts");
    assert!(status.success(), "{}: does not compile", file("kernels.cpp").display());
    let status = Command::new(file("kernels")).args([file("in"), file("out")]).status().expect("the program starts");
    assert!(status.success(), "{}: {status}", file("kernels").display());
    let outputs = std::fs::read(file("out")).expect("the program's outputs");
    Some(source::output_file(launches, &outputs).expect("outputs of every launch"))
}

#[test]
fn kernels_compute_what_the_definitions_say() {
    let seed = RandomState::new().hash_one("kernels");
    println!("seed {seed}");
    let cases = cases::all(seed);
    for kernel in &KERNELS {
        let n = cases.iter().filter(|c| c.launch.instance.kernel().name == kernel.name).count();
        assert!(n > 0, "no case of {}", kernel.name);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&folder).expect("a folder to write to");
    let launches: Vec<Launch> = cases.iter().map(|c| c.launch.clone()).collect();
    let Some(outputs) = run(&folder, &launches) else { return };
    let judge = |(case, outputs): (&Case, &Vec<Vec<f32>>)| case.judge(outputs);
    let failures: Vec<String> = cases.iter().zip(&outputs).filter_map(judge).collect();
    assert!(failures.is_empty(), "seed {seed}: {failures:#?}");
}

/// Calls that the subset has, besides types.
const CALLS: [&str; 78] = [
    "PRODUCT",
    "EXPERT",
    "NUMBER",
    "GATED",
    "UNDER",
    "SCALED",
    "E2M1",
    "FETCH",
    "bytes_even",
    "bytes_odd",
    "zip_even",
    "zip_odd",
    "ROWS_OF",
    "LAST",
    "JOIN",
    "FINISH",
    "bytes_low",
    "bytes_high",
    "zip_low",
    "zip_high",
    "twice",
    "rint",
    "INTEGERS",
    "simd_shuffle",
    "exp",
    "tanh",
    "sqrt",
    "sin",
    "cos",
    "simd_sum",
    "simd_max",
    "lanes_sum",
    "lanes_max",
    "half_bits",
    "float_bits",
    "half_pair",
    "bfloat_pair",
    "pair_low",
    "pair_high",
    "pair_fma",
    "LOAD4",
    "WRITE",
    "AS_WORDS",
    "MATRIX",
    "MULTIPLY",
    "PICK",
    "OUT",
    "ADDED",
    "PAIRS",
    "SCALE",
    "INPUT",
    "DONE",
    "KEEP",
    "TURN",
    "PLACE",
    "POSITION",
    "BYTE",
    "NIBBLE",
    "SIGNED",
    "WHOLE",
    "EVEN",
    "SIGN",
    "SPREAD",
    "TIMES",
    "TO",
    "TAKE",
    "FACTORS",
    "EIGHT",
    "CODE",
    "LOOKED",
    "TABLE",
    "PICKED",
    "ones",
    "masked",
    "LOAD",
    "READ",
    "SHARED",
    "BARRIER",
];

/// Metal's documented limits, as far as a text shows them.
#[test]
fn kernels_keep_to_the_subset() {
    for kernel in &KERNELS {
        let code: Vec<&str> = kernel.body.lines().map(|l| l.split("//").next().unwrap_or_default()).collect();
        for word in code.join("\n").split(|c: char| !c.is_alphanumeric() && c != '_' && c != '(') {
            assert_ne!(word, "thread", "{}: `thread` is an address space of Metal", kernel.name);
            let Some((name, _)) = word.split_once('(') else { continue };
            let known =
                name.is_empty() || CALLS.contains(&name) || ["for", "if", "float", "uint", "int", "T"].contains(&name);
            assert!(known, "{}: calls `{name}`, which the subset has not", kernel.name);
        }
        assert!(!kernel.body.contains("double") && !kernel.body.contains("64_t"), "{}: no 64-bit types", kernel.name);
    }
}

/// A threadgroup has 32 KiB on Metal.
#[test]
fn kernels_fit_a_threadgroup() {
    for case in cases::all(1) {
        let instance = &case.launch.instance;
        let c = &instance.constants;
        let name = instance.kernel().name;
        let has = |words: &[&str]| words.iter().any(|word| instance.kernel().body.contains(word));
        let numbers = match name.trim_end_matches("_q8") {
            "paged_attention" => {
                let wide = if name.ends_with("_q8") { 512 } else { 256 };
                let teams = if [64, 128, 256].contains(&c[0]) { wide / c[0] } else { 1 };
                4 * teams * c[0] + 8 * teams
            }
            "paged_attention_tiles" => 4 * c[1] * c[0] + 65 + 4 * 320,
            "prompt_attention" => {
                let (d, n_key) = (c[0], if c[0] > 128 { 16 } else { 32 });
                let line = if d / 8 % 8 == 4 { d / 8 } else { d / 8 + 4 };
                4 * (n_key * line + 4 * d) + 4 * 320 + if name.ends_with("_q8") { 2 * n_key } else { 0 }
            }
            // The parts, a gate's results, and what a simdgroup matrix goes through; on Metal up to 16 rows.
            name if name.starts_with("affine_tiles") => {
                let beside = match name.trim_end_matches("_normed") {
                    "affine_tiles_gated" => 128 * c[0],
                    "affine_tiles_append" => 128 * c[0] * c[1],
                    _ => 1,
                };
                let row = if name.ends_with("_normed") { c[5] / 2 + 2 * instance.n_wave() } else { 4 };
                instance.n_wave() * (c[1] * c[0] * 128 + if c[0] <= 2 { 320 } else { 0 }) + beside + row
            }
            // The parts, the codebook or none of it, tables; on Metal up to 16 rows.
            name if name.ends_with("_experts") || name.ends_with("_matmul") && name != "affine_matmul" => {
                let place = instance.kernel().inputs.iter().position(|(name, _)| *name == "codes").expect("codes");
                let products = if name.ends_with("_experts") { 64 } else { 0 };
                let codes = (case.launch.inputs[place].len() as u32 / 4).max(8) + products;
                instance.n_wave() * (c[1] * c[0] * 128 + if c[0] <= 2 { 320 } else { 0 }) + codes
            }
            name if name.ends_with("_decode") => 8 * u32::from(has(&["TABLES 1", "TABLES 2"])),
            "best" => 32,
            "route" => 32 * c[0],
            "rows_half" => 16,
            _ => 0,
        };
        // Metal multiplies at most 16 rows at once, see `own::product`.
        let tiles = ["affine_tiles", "_experts", "_matmul"].iter().any(|part| name.contains(part));
        let on_metal = instance.runs_on(Platform::Metal) && (!tiles || c[0] <= 2);
        assert!(!on_metal || 4 * numbers <= 32 << 10, "{}: more than 32 KiB of a threadgroup", case.title);
        let shared = has(&["SHARED(", "TABLES 1", "TABLES 2"]);
        assert_eq!(numbers > 0, shared, "{}: count its numbers here", case.title);
    }
}
