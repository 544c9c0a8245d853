//! The table of architectures: a row each, as difference from LLaMA. The literal names stand here and nowhere else.
//! The rows lie in `table_dense`, `table_experts` and `table_recurrent`.

use mlxr_compute::op::RopePairs;

use crate::arch::{Arch, LLAMA};
use crate::config;
use crate::table_dense::DENSE;
use crate::table_experts::EXPERTS;
use crate::table_recurrent::RECURRENT;

pub(crate) const HALF: [RopePairs; 2] = [RopePairs::HalfSplit; 2];
pub(crate) const INTERLEAVED: [RopePairs; 2] = [RopePairs::Interleaved; 2];

/// LLaMA with halves rotated in GGUF files too, and `.scale` tensors of its feed-forward not applied: the convention
/// of most architectures after LLaMA.
pub(crate) const HALVES: Arch = Arch { pairs: HALF, ffn_scales: false, ..LLAMA };

/// The configuration of MiniCPM's first files, which do not name it.
pub(crate) const MINICPM: &[(config::Key, f32)] =
    &[(config::EMBED_SCALE, 12.0), (config::SCALE_DEPTH, 1.4), (config::DIM_BASE, 256.0)];

/// Every architecture that is known by name.
pub fn archs() -> impl Iterator<Item = &'static Arch> {
    [DENSE, EXPERTS, RECURRENT].into_iter().flatten()
}

/// The row for an architecture's name in GGUF.
pub fn by_gguf(name: &str) -> Option<&'static Arch> {
    archs().find(|a| a.gguf.contains(&name))
}

/// The row for a class name in `config.json`.
pub fn by_hf(name: &str) -> Option<&'static Arch> {
    archs().find(|a| a.hf.contains(&name))
}

/// Models that are no autoregressive decoders, though their tensors look like it: what they are instead.
pub const REFUSED: &[(&str, &str)] = &[
    ("dream", "a diffusion model"),
    ("DreamModel", "a diffusion model"),
    ("llada", "a diffusion model"),
    ("llada-moe", "a diffusion model"),
    ("LLaDAModelLM", "a diffusion model"),
    ("rnd1", "a diffusion model"),
    ("bert", "an encoder"),
    ("BertModel", "an encoder"),
    ("nomic-bert", "an encoder"),
    ("t5encoder", "an encoder"),
];

/// What an unknown decoder is taken for: LLaMA with halves rotated.
pub static GENERIC: &Arch = &HALVES;

/// Names of all architectures, in GGUF or in `config.json`.
pub fn known(gguf: bool) -> String {
    let names = archs().flat_map(|a| if gguf { a.gguf } else { a.hf });
    names.copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_row() {
        let mut names: Vec<&str> = archs().flat_map(|a| a.gguf.iter().chain(a.hf)).copied().collect();
        let n = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
