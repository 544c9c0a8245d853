//! A kernel's text for each target.
//!
//! A program (CUDA, processor) holds every instance that its launches need, reads the launches from one file and writes
//! the outputs to another, all little endian:
//!
//! ```text
//! in    u32 n_launch, then each: u32 instance, u32 grid[3], u32 n_in, (u64 bytes, bytes) n_in times,
//!       u32 n_out, u64 bytes n_out times
//! out   the outputs' bytes, launch after launch
//! ```

use super::{Instance, Kernel};

/// A run of an instance.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What runs.
    pub instance: Instance,
    /// Groups in x, y, z.
    pub grid: [u32; 3],
    /// Bytes of the inputs.
    pub inputs: Vec<Vec<u8>>,
    /// Numbers in each output.
    pub outputs: Vec<usize>,
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `nvcc program.cu`.
    Cuda,
    /// `c++ -std=c++17 program.cpp`.
    Host,
}

/// What MLX puts before a Metal kernel.
pub const METAL_HEADER: &str = include_str!("../../kernels/prelude.metal");

/// The text that MLX's `metal_kernel` takes: it finds the names of attributes in it and declares the arrays itself.
pub fn metal(instance: &Instance) -> String {
    let kernel = instance.kernel();
    format!(
        "const uint group_x = threadgroup_position_in_grid.x, group_y = threadgroup_position_in_grid.y;\n\
         const uint group_z = threadgroup_position_in_grid.z;\n\
         const uint lane = thread_index_in_simdgroup, wave = simdgroup_index_in_threadgroup;\n\
         (void)group_y; (void)group_z; (void)lane; (void)wave;\n{}{}",
        constants(kernel, instance),
        kernel.body
    )
}

fn constants(kernel: &Kernel, instance: &Instance) -> String {
    let line = |(name, value): (&&str, &u32)| format!("constexpr uint {name} = {value};\n");
    kernel.constants.iter().zip(&instance.constants).map(line).collect()
}

/// A program of these instances, each once.
pub fn program(target: Target, instances: &[Instance]) -> String {
    let (prelude, driver) = match target {
        Target::Cuda => (include_str!("../../kernels/prelude.cuda.h"), include_str!("../../kernels/driver.cuda.h")),
        Target::Host => (include_str!("../../kernels/prelude.host.h"), include_str!("../../kernels/driver.host.h")),
    };
    let functions: String = instances.iter().enumerate().map(|(i, x)| function(target, i, x)).collect();
    let calls: String = instances.iter().enumerate().map(|(i, x)| call(i, x)).collect();
    format!("{prelude}\n{functions}\n{driver}\nvoid launch(Launch& l) {{\n  switch (l.instance) {{\n{calls}  }}\n}}\n")
}

fn function(target: Target, i: usize, instance: &Instance) -> String {
    let kernel = instance.kernel();
    let typed = |t: &str| if t == "T" { instance.parameter.to_owned() } else { t.to_owned() };
    let inputs = kernel.inputs.iter().map(|(name, t)| format!("const {}* {name}", typed(t)));
    let arrays: Vec<String> = inputs.chain(kernel.outputs.iter().map(|name| format!("float* {name}"))).collect();
    let (head, places) = match target {
        Target::Cuda => (
            format!("__global__ void kernel_{i}({})", arrays.join(", ")),
            "const uint group_x = blockIdx.x, group_y = blockIdx.y, group_z = blockIdx.z, thread = threadIdx.x;\n",
        ),
        Target::Host => (
            format!(
                "static void kernel_{i}(uint group_x, uint group_y, uint group_z, uint thread, {})",
                arrays.join(", ")
            ),
            "",
        ),
    };
    format!(
        "// {}\n{head} {{\n{places}const uint lane = thread % 32, wave = thread / 32;\n\
         (void)group_y; (void)group_z; (void)lane; (void)wave;\n{}{}}}\n\n",
        instance.name(),
        constants(kernel, instance),
        kernel.body
    )
}

fn call(i: usize, instance: &Instance) -> String {
    let kernel = instance.kernel();
    let typed = |t: &str| if t == "T" { instance.parameter.to_owned() } else { t.to_owned() };
    let inputs = kernel.inputs.iter().enumerate().map(|(j, (_, t))| format!("l.input<{}>({j})", typed(t)));
    let outputs = (0..kernel.outputs.len()).map(|j| format!("l.output({j})"));
    let arguments: Vec<String> = inputs.chain(outputs).collect();
    format!("    case {i}: RUN(kernel_{i}, {}, {}); break;\n", 32 * kernel.n_wave, arguments.join(", "))
}

/// The file that a program of `instances` reads.
///
/// # Panics
/// If a launch's instance is not among them.
pub fn input_file(instances: &[Instance], launches: &[Launch]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let word = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u32).to_le_bytes());
    let long = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u64).to_le_bytes());
    word(&mut bytes, launches.len());
    for launch in launches {
        let instance = instances.iter().position(|i| *i == launch.instance).expect("the program has the instance");
        word(&mut bytes, instance);
        launch.grid.iter().for_each(|&n| word(&mut bytes, n as usize));
        word(&mut bytes, launch.inputs.len());
        for input in &launch.inputs {
            long(&mut bytes, input.len());
            bytes.extend_from_slice(input);
        }
        word(&mut bytes, launch.outputs.len());
        launch.outputs.iter().for_each(|&n| long(&mut bytes, 4 * n));
    }
    bytes
}

/// The outputs of each launch in the file that a program wrote, or `None` if it has another size.
pub fn output_file(launches: &[Launch], bytes: &[u8]) -> Option<Vec<Vec<Vec<f32>>>> {
    let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(bytes.get(..bytes.len() / 4 * 4)?);
    let n: usize = launches.iter().flat_map(|l| &l.outputs).sum();
    if 4 * n != bytes.len() {
        return None;
    }
    let mut rest = &numbers[..];
    let mut take = |n: &usize| {
        let (taken, left) = rest.split_at(*n);
        rest = left;
        taken.to_vec()
    };
    Some(launches.iter().map(|l| l.outputs.iter().map(&mut take).collect()).collect())
}
