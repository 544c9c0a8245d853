//! `cargo xtask gpu-kernels`: our kernels as a CUDA program, and what it computed.

use std::path::Path;

use mlxr_mlx::kernel::Instance;
use mlxr_mlx::kernel::cases::{self, Case};
use mlxr_mlx::kernel::source::{self, Launch, Target};

/// Writes the program and its launches into `folder`, or judges its outputs there.
pub fn run(folder: &Path, judge: bool, (large, only): (bool, &str), seed: u64) -> Result<(), String> {
    let mut cases = if large { cases::large(seed, only) } else { cases::all(seed) };
    cases.retain(|case| case.launch.instance.kernel().name.contains(only));
    let launches: Vec<Launch> = cases.iter().map(|c| c.launch.clone()).collect();
    if judge {
        return judged(folder, &cases, &launches);
    }
    let mut instances: Vec<Instance> = Vec::new();
    for launch in &launches {
        if !instances.contains(&launch.instance) {
            instances.push(launch.instance.clone());
        }
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    write("kernels.cu", source::program(Target::Cuda, &instances).as_bytes())?;
    write("in", &source::input_file(&instances, &launches))?;
    for (i, case) in cases.iter().enumerate() {
        let bytes: usize = case.launch.inputs.iter().map(Vec::len).sum::<usize>();
        println!("launch {i}: {}, {bytes} bytes read", case.title);
    }
    Ok(())
}

fn judged(folder: &Path, cases: &[Case], launches: &[Launch]) -> Result<(), String> {
    let path = folder.join("out");
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let outputs = source::output_file(launches, &bytes)
        .ok_or_else(|| format!("{}: {} bytes are not the outputs of these launches", path.display(), bytes.len()))?;
    let failures: Vec<String> = cases.iter().zip(&outputs).filter_map(|(case, outputs)| case.judge(outputs)).collect();
    if failures.is_empty() {
        println!("{} launches compute what the definitions say", cases.len());
        return Ok(());
    }
    Err(format!("{}\n{} of {} launches fail", failures.join("\n"), failures.len(), cases.len()))
}
