//! The fast CPU backend.
//!
//! | module | what |
//! |---|---|
//! | [`bandwidth`] | how fast this machine reads memory |
//! | [`isa`] | which instructions the kernels may use |
//! | [`pool`] | threads that run one job at a time |
//! | [`vector`] | sixteen numbers at once, on every instruction set |
//! | [`math`] | functions of them |
//! | [`tensor`] | tensors whose memory comes back |
//! | `arena` | memory for weights, keys and values |
//! | [`matmul`] | products with weight matrices |
//! | [`backend`] | the operations |
//! | [`elementwise`], [`rope`] | operations on rows |
//! | [`kv`], `attention`, `recurrent`, `moe`, `linear` | the operations with state, and those made of products |

mod arena;
mod attention;
pub mod backend;
pub mod bandwidth;
pub mod elementwise;
pub mod isa;
pub mod kv;
mod linear;
pub mod math;
pub mod matmul;
mod moe;
pub mod pool;
mod recurrent;
pub mod rope;
mod shared;
pub mod tensor;
pub mod vector;

pub use arena::trim;
pub use backend::Cpu;
pub use bandwidth::Bandwidth;
pub use isa::Isa;
pub use pool::Pool;
pub use vector::Kernels;
