//! Every wire protocol: OpenAI, Ollama, native.
//!
//! ```text
//! routes/   wire -> Job: all validation              Event stream -> wire
//! job       what every protocol asks for             error     why not
//! generate  a Job on a Model: an Event stream        prompt, choice: its two halves
//! app       models that exist, models that are loaded
//! serve     sockets, limits, guards
//! ```

pub mod app;
mod choice;
mod error;
pub mod generate;
pub mod job;
mod prompt;
pub mod routes;
mod serve;

pub use app::{App, LoadError, LoadedModel, Model, ModelCard, ModelDetails, ModelLoader};
pub use error::Error;
pub use generate::{Event, Finish, Generation, TokenLogprob};
pub use job::{Chat, Job, Prompt, Sampling, Standing};
pub use serve::{Config, ServeError, serve};
