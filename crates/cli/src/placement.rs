//! Where a model runs, and how much memory it gets there, computed before anything of it is loaded.
//!
//! ```text
//! weights      as the backend holds them: MLX repacks some types and decodes others
//! step         what the tokens of one step take while a layer is computed, and logits: less where memory is short
//! arena        keys and values, half of what is left
//! ```
//!
//! `--backend`, `--kv-memory` or `--kv-tokens` and `--step-tokens` override each.

use std::fmt;
use std::num::NonZeroUsize;

use mlxr_compute::op::KvType;
use mlxr_engine::Config as EngineConfig;
use mlxr_engine::runner::PAGE_TOKENS;
use mlxr_mlx::kernel::blocks::Reads;
use mlxr_mlx::kernel::source::Platform;
use mlxr_mlx::{Kind, loaded_bytes};
use mlxr_models::{Arena, LoadOptions, Need};
use mlxr_weights::Checkpoint;

use crate::CliError;
use crate::args::{BackendName, LoadArgs};
use crate::backend;
use crate::command::size_text;
use crate::memory::{LEAST_BYTES, arena_of, available};

/// Where MLX computes on a GPU of this system.
const PLATFORM: Platform = if cfg!(target_os = "macos") { Platform::Metal } else { Platform::Cuda };
/// Fewest tokens of a step that memory is shared out for.
const LEAST_STEP: usize = 64;
/// The part of what is left after the weights that a step may take.
const STEP_PART: u64 = 4;
/// A backend frees what a step took a layer later.
const LAYERS_AT_ONCE: u64 = 2;

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Its weights on the processor.
    pub cpu_bytes: u64,
    /// Its weights on MLX.
    pub mlx_bytes: u64,
    /// The rest.
    pub need: Need,
}

/// Bytes that may be taken; `None` where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    /// Of the processor's memory.
    pub cpu_bytes: Option<u64>,
    /// Of a GPU's; `None` where none is to be used.
    pub gpu_bytes: Option<u64>,
}

/// What is asked for in place of the heuristics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Where.
    pub backend: BackendName,
    /// Keys and values.
    pub arena: Option<Arena>,
    /// Most tokens of a step.
    pub step_tokens: Option<usize>,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Sequences at once.
    pub n_running: usize,
}

/// Where a model runs and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Where; [`BackendName::Auto`]: MLX, and where that fails to load it the processor.
    pub backend: BackendName,
    /// Bytes of its weights there.
    pub weights_bytes: u64,
    /// Keys and values.
    pub arena: Arena,
    /// Most tokens of a step.
    pub step_tokens: usize,
    /// Bytes that such a step takes.
    pub step_bytes: u64,
    /// Why a GPU that is there is not used.
    pub refusal: Option<String>,
}

impl Default for Asked {
    /// Nothing, for one sequence.
    fn default() -> Asked {
        Asked { backend: BackendName::Auto, arena: None, step_tokens: None, kv_type: KvType::F16, n_running: 1 }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [cpu, mlx] = [self.cpu_bytes, self.mlx_bytes].map(size_text);
        let kv = size_text(self.need.page_bytes / PAGE_TOKENS as u64);
        write!(f, "weights {cpu} on the processor, {mlx} on MLX; {kv} of keys and values a token")?;
        match self.need.state_bytes {
            0 => Ok(()),
            n => write!(f, ", {} of states a conversation", size_text(n)),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arena = match self.arena {
            Arena::Bytes(n) => size_text(n as u64),
            Arena::Tokens(n) => format!("{n} tokens"),
        };
        let step = size_text(self.step_bytes);
        write!(f, "{arena} for keys and values, {} tokens a step in {step}", self.step_tokens)
    }
}

/// Shares out memory.
pub fn place(sizes: &Sizes, asked: &Asked, machine: &Machine) -> Placement {
    let step_bytes = |n: usize| {
        let activations = (n as u64).saturating_mul(sizes.need.token_bytes).saturating_mul(LAYERS_AT_ONCE);
        activations.saturating_add((asked.n_running as u64).saturating_mul(sizes.need.logits_bytes))
    };
    let states_bytes = (asked.n_running as u64).saturating_mul(sizes.need.state_bytes);
    let least_step = asked.step_tokens.unwrap_or(LEAST_STEP).max(asked.n_running);
    let refusal = match (asked.backend, machine.gpu_bytes) {
        (BackendName::Auto, Some(left)) => {
            let arena = match asked.arena {
                Some(Arena::Bytes(n)) => n as u64,
                Some(Arena::Tokens(n)) => (n as u64).div_ceil(PAGE_TOKENS as u64).saturating_mul(sizes.need.page_bytes),
                None => LEAST_BYTES,
            };
            let least = [sizes.mlx_bytes, step_bytes(least_step), states_bytes, arena];
            refusal(least.into_iter().fold(0, u64::saturating_add), left, asked.kv_type)
        }
        _ => None,
    };
    let backend = match (asked.backend, machine.gpu_bytes) {
        (BackendName::Auto, None) => BackendName::Cpu,
        (BackendName::Auto, Some(_)) if refusal.is_some() => BackendName::Cpu,
        (name, _) => name,
    };
    let (weights_bytes, left) = match backend {
        BackendName::Auto | BackendName::Mlx => (sizes.mlx_bytes, machine.gpu_bytes),
        BackendName::Cpu | BackendName::Scalar => (sizes.cpu_bytes, machine.cpu_bytes),
    };
    let beside = left.map(|left| left.saturating_sub(weights_bytes.saturating_add(states_bytes)));
    let most = asked.step_tokens.unwrap_or(EngineConfig::default().step_tokens).max(asked.n_running);
    let mut step_tokens = most;
    while step_tokens > least_step && beside.is_some_and(|left| step_bytes(step_tokens) > left / STEP_PART) {
        step_tokens = (step_tokens / 2).max(least_step);
    }
    let arena = asked.arena.unwrap_or_else(|| {
        let rest = beside.map(|left| left.saturating_sub(step_bytes(step_tokens)));
        Arena::Bytes(usize::try_from(arena_of(rest)).unwrap_or(usize::MAX))
    });
    Placement { backend, weights_bytes, arena, step_tokens, step_bytes: step_bytes(step_tokens), refusal }
}

/// Why MLX does not run what takes `least` bytes where `left` are left; `None` if it does.
fn refusal(least: u64, left: u64, kv_type: KvType) -> Option<String> {
    if kv_type == KvType::Q4 {
        return Some("MLX does not store keys and values as q4".to_owned());
    }
    let fits = least <= left;
    (!fits).then(|| {
        format!("it takes at least {} of the GPU's memory, of which {} are left", size_text(least), size_text(left))
    })
}

/// What the command line asks for.
pub fn asked(args: &LoadArgs, n_running: usize) -> Asked {
    let bytes = |n: u64| Arena::Bytes(usize::try_from(n).unwrap_or(usize::MAX));
    Asked {
        backend: args.backend,
        arena: args.kv_tokens.map(Arena::Tokens).or(args.kv_memory.map(bytes)),
        step_tokens: args.step_tokens.map(NonZeroUsize::get),
        kv_type: args.kv_type.map_or(KvType::F16, |name| name.kv_type()),
        n_running,
    }
}

/// What a checkpoint takes.
///
/// # Errors
/// If its configuration is damaged, or it is not known how to run it.
pub fn sizes(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Sizes, CliError> {
    let need = mlxr_models::need(checkpoint, options)?;
    let mut sizes = Sizes { need, ..Sizes::default() };
    for stored in checkpoint.stored()? {
        let reads = if stored.stacked { Reads::experts } else { Reads::dense };
        sizes.cpu_bytes += stored.bytes;
        let n_row = stored.n_parameter as usize / stored.n_col.max(1);
        sizes.mlx_bytes += loaded_bytes(stored.encoding, [n_row, stored.n_col], stored.bytes, reads(Some(PLATFORM)));
    }
    sizes.mlx_bytes += need.tied_bytes;
    Ok(sizes)
}

/// Of which memory a machine is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Of what is left.
    Left,
    /// Of what will be left on the GPU once other models are freed.
    Freed,
}

/// What this machine has for a model.
///
/// # Errors
/// If MLX is asked for by name and cannot be had.
pub fn machine(name: BackendName, memory: Memory) -> Result<Machine, CliError> {
    let gpu_bytes = match name {
        BackendName::Cpu | BackendName::Scalar => None,
        BackendName::Auto if !cfg!(target_os = "macos") => None,
        BackendName::Auto | BackendName::Mlx => match backend::mlx_device() {
            Ok(device) => {
                let (limit, active) = device.memory();
                let left = limit.saturating_sub(if memory == Memory::Freed { 0 } else { active }) as u64;
                // Without a GPU MLX computes on the processor, and in its memory.
                let left = if device.kind() == Kind::Gpu { left } else { available().map_or(left, |n| n.min(left)) };
                Some(left).filter(|_| name == BackendName::Mlx || device.kind() == Kind::Gpu)
            }
            Err(error) if name == BackendName::Mlx => return Err(error),
            Err(error) => {
                eprintln!("warning: {error}; running on the processor");
                None
            }
        },
    };
    Ok(Machine { cpu_bytes: available(), gpu_bytes })
}

/// Whether models on this backend lie in a GPU's memory.
pub fn on_gpu(used: BackendName) -> bool {
    used == BackendName::Mlx && backend::mlx_device().is_ok_and(|device| device.kind() == Kind::Gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A model of 4000 MiB on the processor and 5000 on MLX, of which a token of a step takes 1 MiB.
    fn sizes() -> Sizes {
        let need = Need { page_bytes: 2 * MIB, token_bytes: MIB / 2, logits_bytes: MIB / 2, ..Need::default() };
        Sizes { cpu_bytes: 4000 * MIB, mlx_bytes: 5000 * MIB, need }
    }

    fn asked(backend: BackendName) -> Asked {
        Asked { backend, arena: None, step_tokens: None, kv_type: KvType::F16, n_running: 4 }
    }

    fn mib(n: u64) -> Arena {
        Arena::Bytes(usize::try_from(n * MIB).expect("a size"))
    }

    #[test]
    fn memory_says_where_a_model_runs_and_what_it_gets() {
        use BackendName::{Auto, Cpu, Mlx, Scalar};
        let gpu = |cpu: u64, gpu: Option<u64>| Machine { cpu_bytes: Some(cpu * MIB), gpu_bytes: gpu.map(|n| n * MIB) };
        for (name, machine, want) in [
            // A whole step of 512 tokens and 2 MiB of logits, and half of the rest.
            (Auto, gpu(20_000, Some(20_000)), (Auto, 512, mib((15_000 - 514) / 2))),
            // A step takes a quarter of what is left: 130 of 600 MiB.
            (Auto, gpu(20_000, Some(5_600)), (Auto, 128, mib((600 - 130) / 2))),
            // 5000 + 64 + 2 + 64 MiB are the least.
            (Auto, gpu(20_000, Some(5_130)), (Auto, 64, mib(64))),
            (Auto, gpu(20_000, Some(5_129)), (Cpu, 512, mib((16_000 - 514) / 2))),
            (Auto, gpu(20_000, None), (Cpu, 512, mib((16_000 - 514) / 2))),
            (Mlx, gpu(20_000, Some(5_129)), (Mlx, 64, mib(64))),
            (Cpu, gpu(4_100, Some(20_000)), (Cpu, 64, mib(64))),
            (Scalar, gpu(20_000, None), (Scalar, 512, mib((16_000 - 514) / 2))),
        ] {
            let placement = place(&sizes(), &asked(name), &machine);
            let found = (placement.backend, placement.step_tokens, placement.arena);
            assert_eq!(found, want, "{name:?} {machine:?}");
            let refused = name == Auto && machine.gpu_bytes.is_some() && placement.backend == Cpu;
            assert_eq!(placement.refusal.is_some(), refused, "{name:?} {machine:?}");
        }
    }

    #[test]
    fn what_is_asked_for_stays() {
        let machine = Machine { cpu_bytes: Some(5_000 * MIB), gpu_bytes: Some(5_600 * MIB) };
        let large = Asked { arena: Some(mib(500)), step_tokens: Some(300), ..asked(BackendName::Auto) };
        let placement = place(&sizes(), &large, &machine);
        assert_eq!((placement.backend, placement.step_tokens, placement.arena), (BackendName::Cpu, 300, mib(500)));
        let text = placement.refusal.expect("802 MiB do not fit into 600");
        assert!(text.contains("6.1 GB") && text.contains("5.9 GB"), "{text}");
        // 100 tokens are 7 pages of 2 MiB.
        let tokens = Asked { arena: Some(Arena::Tokens(100)), ..large };
        assert_eq!(place(&sizes(), &tokens, &machine).backend, BackendName::Auto);
        let many = Asked { n_running: 600, ..asked(BackendName::Cpu) };
        assert_eq!(place(&sizes(), &many, &machine).step_tokens, 600, "a token of each sequence");
        let q4 = Asked { kv_type: KvType::Q4, ..asked(BackendName::Auto) };
        let placement = place(&sizes(), &q4, &Machine { gpu_bytes: Some(20_000 * MIB), ..machine });
        assert_eq!(placement.backend, BackendName::Cpu);
        assert!(placement.refusal.is_some_and(|text| text.contains("q4")));
    }

    #[test]
    fn nothing_known_of_the_machine_is_no_limit() {
        let placement = place(&sizes(), &asked(BackendName::Cpu), &Machine::default());
        assert_eq!((placement.step_tokens, placement.arena), (512, mib(2048)));
    }
}
