//! The next step, built before its turn: the processor describes it to MLX while the GPU computes this one.
//!
//! Rows and positions are known by then. Ids and pages are not: they are two arrays that every step reads afresh, and are
//! overwritten when the step has its turn. That holds where our kernels append and attend; what MLX does with the
//! store replaces the store's arrays, and goes by arrays that are made of pages.

use mlxr_compute::op::Seqs;

use crate::ffi::{Array, Device};
use crate::plan::{Plan, Table};

/// What is known of the last step, and the one that is built.
#[derive(Default)]
pub(crate) struct Ahead {
    /// Whether the step being built changed a store's arrays.
    changed: bool,
    /// Whether the last one whose turn came did.
    last_changed: bool,
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    /// Steps are built when it is their turn.
    #[default]
    Now,
    /// A step is being built; the `done` of the append that was the last before, and the step's ids.
    Building { appended: Option<Array>, ids: Option<Array> },
    /// It is built.
    Built(Built),
}

struct Built {
    ids: Array,
    table: Table,
    /// The `done` of its last append.
    appended: Array,
}

impl Ahead {
    /// A lookup of these ids is built; the first of a step is that of its tokens.
    pub(crate) fn embeds(&mut self, ids: &Array) {
        if let Phase::Building { ids: first, .. } = &mut self.phase {
            first.get_or_insert_with(|| ids.clone());
        }
    }

    /// Something is built that changes a store's arrays.
    pub(crate) fn stores(&mut self) {
        assert!(!matches!(self.phase, Phase::Building { .. }), "a step ahead does what the one before it did");
        self.changed = true;
    }

    /// A step whose turn it is is built.
    pub(crate) fn ends(&mut self) {
        self.last_changed = std::mem::take(&mut self.changed);
    }

    /// Whether a step may be built ahead now.
    pub(crate) fn begin(&mut self, appended: &Option<Array>) -> bool {
        if self.last_changed {
            return false;
        }
        self.phase = Phase::Building { appended: appended.clone(), ids: None };
        true
    }

    /// The step is built: `appended` becomes that of the store as it is.
    pub(crate) fn end(&mut self, plan: &Plan, appended: &mut Option<Array>) {
        let Phase::Building { appended: before, ids } = std::mem::take(&mut self.phase) else { return };
        let last = std::mem::replace(appended, before);
        if let (Some(ids), Some(table), Some(appended)) = (ids, plan.known_table(), last) {
            self.phase = Phase::Built(Built { ids, table, appended });
        }
    }

    /// The `done` of the last append of the step, now that its arrays have these ids and pages.
    pub(crate) fn resume(&mut self, device: &Device, ids: &[u32], seqs: &Seqs<'_>) -> Option<Array> {
        let Phase::Built(built) = std::mem::take(&mut self.phase) else { return None };
        if !built.table.overwrite(device, seqs) {
            return None;
        }
        device.overwrite(&built.ids, ids);
        Some(built.appended)
    }

    /// The step that was built is dropped.
    pub(crate) fn forget(&mut self) {
        if let Phase::Built(_) = self.phase {
            self.phase = Phase::Now;
        }
    }
}
