//! Placeholder table of contents; see ARCHITECTURE.md.
