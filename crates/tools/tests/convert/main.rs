//! Checkpoints in another form.

mod common;
mod formats;
mod golden;
mod inputs;
mod whole;
