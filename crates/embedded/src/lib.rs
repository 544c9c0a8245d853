//! The models inside the program: GGUF files of `assets/embedded`, trained by this project from scratch. Its README is
//! their card.
//!
//! They are compiled in, so that one file is all that a machine without a network needs. A program's bytes are mapped by
//! the system as any file's are: what is not used takes no memory. They are statics: constants would be in
//! the program again for each crate that names them. They are a crate of their own, so that a change elsewhere does not
//! write them anew.

/// A model inside the program.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// The name to ask for it by.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// A GGUF file.
    pub bytes: &'static [u8],
}

/// All of them, the chat model first.
pub static MODELS: [&Embedded; 2] = [&SMALL, &DRAFT];

/// The chat model.
pub static SMALL: Embedded = Embedded {
    name: "mlxr-small",
    about: "a chat model of 32 million parameters inside this program, for a first try and for tests",
    bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/embedded/mlxr-small.gguf")),
};

/// Drafts for [`SMALL`] in speculative decoding.
pub static DRAFT: Embedded = Embedded {
    name: "mlxr-draft",
    about: "drafts for mlxr-small in speculative decoding; no use by itself",
    bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/embedded/mlxr-draft.gguf")),
};

/// The model of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Embedded> {
    MODELS.into_iter().find(|model| model.name == name)
}
