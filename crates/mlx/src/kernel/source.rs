//! A kernel's text for each target.
//!
//! A program (CUDA, processor) holds every instance that its launches need, reads the launches from one file and writes
//! the outputs to another, all little endian:
//!
//! ```text
//! in    u32 n_launch, then each: u32 instance, u32 grid[3], u32 n_in, (u32 written, u64 bytes, bytes) n_in times,
//!       u32 n_out, u64 bytes n_out times
//! out   the bytes of the outputs, then of the written inputs, launch after launch
//! ```

use std::collections::HashSet;

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
    /// Numbers of 32 bits in each output.
    pub outputs: Vec<usize>,
}

impl Launch {
    /// Places of the inputs that are written.
    pub fn written(&self) -> Vec<usize> {
        let Kernel { inputs, written, .. } = self.instance.kernel();
        (0..inputs.len()).filter(|&i| written.contains(&inputs[i].0)).collect()
    }

    /// Numbers of 32 bits in each output and each written input.
    pub fn results(&self) -> Vec<usize> {
        let written = self.written().into_iter().map(|i| self.inputs[i].len() / 4);
        self.outputs.iter().copied().chain(written).collect()
    }
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `nvcc program.cu`.
    Cuda,
    /// `c++ -std=c++17 program.cpp`.
    Host,
}

/// Where MLX runs a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// `metal_kernel`.
    Metal,
    /// `cuda_kernel`.
    Cuda,
}

/// Header and text that MLX takes: it declares the arrays itself, and on Metal finds the names of attributes in the text.
pub fn for_mlx(platform: Platform, instance: &Instance) -> [String; 2] {
    let kernel = instance.kernel();
    let (header, places) = match platform {
        Platform::Metal => (
            include_str!("../../kernels/prelude.metal"),
            "const uint group_x = threadgroup_position_in_grid.x, group_y = threadgroup_position_in_grid.y;\n\
             const uint group_z = threadgroup_position_in_grid.z;\n\
             const uint lane = thread_index_in_simdgroup, wave = simdgroup_index_in_threadgroup;\n",
        ),
        Platform::Cuda => (
            include_str!("../../kernels/prelude.cuda.h"),
            "const uint group_x = blockIdx.x, group_y = blockIdx.y, group_z = blockIdx.z;\n\
             const uint lane = threadIdx.x % 32, wave = threadIdx.x / 32;\n",
        ),
    };
    let used = "(void)group_x; (void)group_y; (void)group_z; (void)lane; (void)wave;\n";
    let text = format!("{places}{used}{}{}", constants(kernel, instance), active(&bare(kernel.body)));
    [needed(&bare(header), &text), text]
}

/// A text without the parts that its own definitions leave out, and without definitions that it does not use.
fn active(text: &str) -> String {
    let defined = |line: &str| Some(line.strip_prefix("#define ")?.split([' ', '(']).next()?.to_owned());
    let mut lines: Vec<&str> = Vec::new();
    let mut left_out = false;
    for line in text.lines() {
        if let Some(condition) = line.strip_prefix("#if ") {
            let (name, value) = condition.split_once(" == ").expect("a condition of a kernel is NAME == VALUE");
            left_out = !lines.contains(&&format!("#define {name} {value}")[..]);
        } else if let Some(name) = line.strip_prefix("#ifndef ") {
            left_out = lines.iter().any(|line| defined(line).is_some_and(|other| other == name));
        } else if line == "#endif" {
            left_out = false;
        } else if !left_out && !line.starts_with("#undef ") {
            lines.push(line);
        }
    }
    loop {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let uses = |name: &str| lines.iter().filter(|l| l.split(|c| !is_word(c)).any(|word| word == name)).count();
        let unused = lines.iter().position(|line| defined(line).is_some_and(|name| uses(&name) == 1));
        match unused {
            Some(i) => lines.remove(i),
            None => break,
        };
    }
    lines.into_iter().flat_map(|line| [line, "\n"]).collect()
}

/// What of a prelude without comments `text` needs: MLX copies and hashes all of it at every launch.
fn needed(prelude: &str, text: &str) -> String {
    let begins = |line: &str| ["#define ", "inline ", "__device__ inline "].iter().any(|word| line.starts_with(word));
    let mut items: Vec<String> = Vec::new();
    for line in prelude.lines() {
        match items.last_mut() {
            Some(item) if !begins(line) && begins(item) && !line.starts_with('#') && !line.starts_with("typedef") => {
                *item += line;
                item.push('\n');
            }
            _ => items.push(format!("{line}\n")),
        }
    }
    let name = |item: &str| {
        let found = match item.strip_prefix("#define ") {
            Some(rest) => rest.split([' ', '(', '\n']).next(),
            None => item.split('(').next().and_then(|head| head.split(' ').next_back()),
        };
        found.unwrap_or_default().to_owned()
    };
    let mut kept: Vec<bool> = items.iter().map(|item| !begins(item)).collect();
    let mut all = text.to_owned();
    loop {
        let words: HashSet<&str> = all.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let wanted = |i: usize| !kept[i] && words.contains(&name(&items[i])[..]);
        let Some(i) = (0..items.len()).find(|&i| wanted(i)) else { break };
        kept[i] = true;
        all += &items[i];
    }
    items.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(item, _)| item.as_str()).collect()
}

/// A text without comments, a definition of several lines as one: what is left out is left out whole.
fn bare(text: &str) -> String {
    let text = text.replace("\\\n", " ");
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    code.filter(|line| !line.is_empty()).flat_map(|line| [line, "\n"]).collect()
}

/// Constants, and the parameter where there is one.
fn constants(kernel: &Kernel, instance: &Instance) -> String {
    let line = |(name, value): (&&str, &u32)| format!("constexpr uint {name} = {value};\n");
    let mut words = kernel.body.split(|c: char| !c.is_alphanumeric() && c != '_');
    let typed =
        if words.any(|word| word == "T") { format!("typedef {} T;\n", instance.parameter) } else { String::new() };
    typed + &kernel.constants.iter().zip(&instance.constants).map(line).collect::<String>()
}

/// A program of these instances, each once.
pub fn program(target: Target, instances: &[Instance]) -> String {
    let (prelude, driver) = match target {
        Target::Cuda => (include_str!("../../kernels/prelude.cuda.h"), include_str!("../../kernels/driver.cuda.h")),
        Target::Host => (include_str!("../../kernels/prelude.host.h"), include_str!("../../kernels/driver.host.h")),
    };
    let main = include_str!("../../kernels/driver.h");
    let functions: String = instances.iter().enumerate().map(|(i, x)| function(target, i, x)).collect();
    let calls: String = instances.iter().enumerate().map(|(i, x)| call(i, x)).collect();
    format!(
        "{prelude}\n{functions}\n{driver}\n{main}\nvoid launch(Launch& l) {{\n  switch (l.instance) {{\n{calls}  }}\n}}\n"
    )
}

fn function(target: Target, i: usize, instance: &Instance) -> String {
    let kernel = instance.kernel();
    let typed = |t: &str| if t == "T" { instance.parameter.to_owned() } else { t.to_owned() };
    let inputs = kernel.inputs.iter().map(|(name, t)| format!("const {}* {name}", typed(t)));
    let arrays: Vec<String> = inputs.chain(kernel.outputs.iter().map(|(name, t)| format!("{t}* {name}"))).collect();
    let (head, places) = match target {
        Target::Cuda => (
            format!("__global__ void {}kernel_{i}({})", instance.bounds(), arrays.join(", ")),
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
    let outputs = kernel.outputs.iter().enumerate().map(|(j, (_, t))| format!("l.output<{t}>({j})"));
    let arguments: Vec<String> = inputs.chain(outputs).collect();
    format!("    case {i}: RUN(kernel_{i}, {}, {}); break;\n", 32 * instance.n_wave(), arguments.join(", "))
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
        let written = launch.written();
        for (i, input) in launch.inputs.iter().enumerate() {
            word(&mut bytes, usize::from(written.contains(&i)));
            long(&mut bytes, input.len());
            bytes.extend_from_slice(input);
        }
        word(&mut bytes, launch.outputs.len());
        launch.outputs.iter().for_each(|&n| long(&mut bytes, 4 * n));
    }
    bytes
}

/// The outputs and written inputs of each launch in the file that a program wrote, or `None` if it has another size.
pub fn output_file(launches: &[Launch], bytes: &[u8]) -> Option<Vec<Vec<Vec<f32>>>> {
    let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(bytes.get(..bytes.len() / 4 * 4)?);
    let n: usize = launches.iter().flat_map(Launch::results).sum();
    if 4 * n != bytes.len() {
        return None;
    }
    let mut rest = &numbers[..];
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at(n);
        rest = left;
        taken.to_vec()
    };
    Some(launches.iter().map(|l| l.results().into_iter().map(&mut take).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prelude_is_cut_to_what_a_kernel_needs() {
        let prelude = "#include <x>\n#define A() B()\n#define B() 1\ninline float f(float x) {\nreturn g(x);\n}\n\
                       typedef int i;\ninline float g(float x) {\nreturn x;\n}\n#define C 2\n";
        let kept = "#include <x>\n#define A() B()\n#define B() 1\ntypedef int i;\n";
        assert_eq!(needed(prelude, "y = A();"), kept);
        let f = needed(prelude, "y = f(1);");
        assert!(f.contains("return g(x)") && f.contains("float g(") && !f.contains("#define C"), "{f}");
    }

    #[test]
    fn a_text_is_cut_to_what_is_active() {
        let text = "#define A 0\n#define B 1\n#define C(x) x\n#define D B\n#if A == 1\nno;\n#endif\n#if B == 1\nC(1);\n#endif\n\
                    #ifndef B\n#define B 0\n#endif\n#ifndef E\n#define E 2\n#endif\n#undef A\nend(B, E);\n";
        assert_eq!(active(text), "#define B 1\n#define C(x) x\nC(1);\n#define E 2\nend(B, E);\n");
    }

    #[test]
    fn a_definition_of_several_lines_is_left_out_whole() {
        let text = "#define A(x) \\\n  f(x); // no\n#define B(x) \\\n  g(x)\nB(1);\n";
        assert_eq!(active(&bare(text)), "#define B(x)    g(x)\nB(1);\n");
    }

    #[test]
    fn texts_for_mlx_define_what_they_use() {
        for case in super::super::cases::all(1) {
            for (platform, prelude) in [
                (Platform::Cuda, include_str!("../../kernels/prelude.cuda.h")),
                (Platform::Metal, include_str!("../../kernels/prelude.metal")),
            ] {
                let [header, text] = for_mlx(platform, &case.launch.instance);
                for word in ["SHARED", "BARRIER", "LOAD4", "WRITE", "AS_WORDS", "MULTIPLY", "MATRIX", "UNROLL"] {
                    // On Metal a table is read by a definition that meets at a barrier.
                    let uses = text.contains(word) || header.matches(word).count() > 1;
                    assert!(prelude.contains(&format!("#define {word}")));
                    assert_eq!(header.contains(&format!("#define {word}")), uses, "{}: {word}", case.title);
                }
            }
        }
    }
}
