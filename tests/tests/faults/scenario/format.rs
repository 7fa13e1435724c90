//! How the scenarios' keys are cut into codes: one format for all that a process does.

use std::sync::atomic::{AtomicBool, Ordering};

use keysieve::{Metric, PqConfig};

/// Components of a key in the format that nearly all have.
pub(super) const HEAD_DIM: usize = 8;

pub(super) const PQ: PqConfig = PqConfig {
    num_subvectors: 2,
    bits: 3,
    init_offset: 2,
    metric: Metric::L2,
};

/// Whether keys have the many codes that rows as clusters are for.
static IS_WIDE: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_wide(is_wide: bool) {
    IS_WIDE.store(is_wide, Ordering::Relaxed);
}

pub(super) fn is_wide() -> bool {
    IS_WIDE.load(Ordering::Relaxed)
}

pub(super) fn head_dim() -> usize {
    if is_wide() { 64 } else { HEAD_DIM }
}

pub(super) fn pq() -> PqConfig {
    if !is_wide() {
        return PQ;
    }
    PqConfig {
        num_subvectors: 8,
        bits: 4,
        ..PQ
    }
}
