//! Which models exist on this machine.
//!
//! A model is a `.gguf` file (or a split set of them) or a folder with `config.json`. [`Folder`] lists those below a
//! folder, and those inside of the program, and finds one by name or path.
//!
//! ```text
//! ~/.mlxr/models/tinyllama.gguf                    tinyllama
//! ~/.mlxr/models/big-00001-of-00003.gguf           big
//! ~/.mlxr/models/mlx-community/Qwen3-8B-4bit/      mlx-community/Qwen3-8B-4bit
//! ```

mod folder;

pub use folder::{Folder, Form, MAX_DEPTH, MAX_ENTRIES, Model, RegistryError};
