//! Who runs next and which page dies. Ids only: no tensor, no text.

pub mod runner;

pub use runner::{Batch, Outputs, PageId, Row, RunError, Runner, RunnerInfo, SeqId, StateId, TokenId, Want};
