//! Every wire protocol: OpenAI, Ollama, native.
//!
//! ```text
//! routes/   wire -> Job: all validation              Event stream -> wire
//! job       what every protocol asks for             error     why not
//! generate  a Job on a Model: an Event stream        prompt, choice: its two halves
//! app       models that exist, models that are loaded        model     one of them
//! memory    what all loaded models take                    tenant    who may ask, and how much
//! serve     sockets, limits, guards
//! ```

pub mod app;
mod choice;
mod error;
pub mod generate;
pub mod job;
mod memory;
mod model;
mod prompt;
pub mod routes;
mod serve;
pub mod tenant;

pub use app::{App, LoadError, LoadedModel, Model, ModelCard, ModelDetails, ModelLoader, Need};
pub use error::Error;
pub use generate::{Event, Finish, Generation, TokenLogprob};
pub use job::{Chat, Job, Prompt, Sampling, Standing, Structure, ToolChoice};
pub use memory::LEAST_ARENA_BYTES;
pub use serve::{Config, ServeError, serve};
