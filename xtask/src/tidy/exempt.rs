//! What may break a tripwire, each with its reason. The list only shrinks.

/// Why a place is exempt.
struct Exemption {
    /// `path` for a file's length, `path::function` for a function.
    place: &'static str,
    /// The reason.
    #[allow(dead_code)] // for the reader of this list
    reason: &'static str,
}

const EXEMPT: &[Exemption] = &[Exemption {
    place: "crates/text/tests/chat_hostile.rs::templates_that_want_too_much_are_stopped",
    reason: "a list of cases, a line each, and one loop",
}];

/// The list, and which of it was needed.
pub struct Exemptions {
    used: Vec<bool>,
}

impl Exemptions {
    /// None needed yet.
    pub fn new() -> Exemptions {
        Exemptions { used: vec![false; EXEMPT.len()] }
    }

    /// Whether a place is exempt.
    pub fn has(&mut self, place: &str) -> bool {
        let found = EXEMPT.iter().position(|e| e.place == place);
        if let Some(i) = found {
            self.used[i] = true;
        }
        found.is_some()
    }

    /// Exemptions that nothing needs any more.
    pub fn leftovers(&self) -> Vec<String> {
        let unused = EXEMPT.iter().zip(&self.used).filter(|(_, used)| !**used);
        unused
            .map(|(e, _)| format!("{}: exempt without need; delete it from xtask/src/tidy/exempt.rs", e.place))
            .collect()
    }
}
