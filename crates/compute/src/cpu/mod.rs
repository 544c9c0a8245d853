//! The fast CPU backend.
//!
//! | module | what |
//! |---|---|
//! | [`isa`] | which instructions the kernels may use |
//! | [`pool`] | threads that run one job at a time |
//! | [`matmul`] | products with weight matrices |

pub mod isa;
pub mod matmul;
pub mod pool;

pub use isa::Isa;
pub use pool::Pool;
