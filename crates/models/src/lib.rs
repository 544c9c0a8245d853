//! Architectures: a table row each, and one decoder over the compute backend.
//!
//! | module | what |
//! |---|---|
//! | [`arch`] | the conventions that make an architecture |
//! | [`table`] | every architecture, a row each |
//! | [`names`] | every tensor's names, a row each |
//! | [`style`] | which of a role's names a family of files has |
//! | [`config`] | every configuration value's names, a row each |
//! | [`rope`] | rotation frequencies under every scaling |
//! | [`convert`] | a checkpoint in another form: GGUF, Hugging Face, MLX |
//! | [`next`] | layers that predict further tokens, as a draft model |
//! | [`eagle`], [`medusa`] | what was trained to draft for a model, as a draft model |
//! | [`model`] | a loaded model as the engine's `Runner` |
//! | [`Need`] | what a model takes, before it is loaded |
//!
//! [`load`] puts them together.

pub mod arch;
mod build;
mod build_ffn;
mod build_latent;
mod build_recurrent;
pub mod config;
pub mod convert;
#[allow(missing_docs)] // fields are the field's own terms, documented by the ops that take them
pub mod decoder;
pub mod eagle;
mod error;
mod guard;
#[allow(missing_docs)]
pub mod hyper;
#[allow(missing_docs)]
pub mod layer;
mod load;
pub mod medusa;
pub mod model;
pub mod names;
mod names_table;
mod need;
#[allow(missing_docs)]
pub mod next;
mod open;
mod positions;
#[allow(missing_docs)]
pub mod recurrent;
pub mod rope;
pub mod style;
pub mod table;
mod table_dense;
mod table_experts;
mod table_recurrent;

pub use eagle::{is_eagle, load_eagle};
pub use error::LoadError;
pub use medusa::{is_medusa, load_medusa};
pub use model::Model;
pub use need::{Need, need};
pub use next::load_next;
pub use open::{Arena, LoadOptions, architecture, load};
