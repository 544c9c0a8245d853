//! Checkpoints in another form.

mod common;
mod golden;
mod inputs;
mod whole;
