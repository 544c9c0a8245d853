//! Architectures: a table row each, and one decoder over the compute backend.
//!
//! | module | what |
//! |---|---|
//! | [`arch`] | the conventions that make an architecture |
//! | [`table`] | every architecture, a row each |
//! | [`names`] | every tensor's names, a row each |
//! | [`config`] | every configuration value's names, a row each |
//! | [`rope`] | rotation frequencies under every scaling |
//! | [`model`] | a loaded model as the engine's `Runner` |
//!
//! [`load`] puts them together.

pub mod arch;
mod build;
pub mod config;
#[allow(missing_docs)] // fields are the field's own terms, documented by the ops that take them
pub mod decoder;
mod error;
#[allow(missing_docs)]
pub mod hyper;
#[allow(missing_docs)]
pub mod layer;
mod load;
pub mod model;
pub mod names;
mod open;
pub mod rope;
pub mod table;

pub use error::LoadError;
pub use model::{KvOptions, Model};
pub use open::{LoadOptions, architecture, load};
