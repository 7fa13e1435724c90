//! What a step's terms take. Set by hand from the figures of docs/performance.md: until variants are measured
//! by `keysieve bench --tune` on one machine, and `cargo xtask heuristics` writes this file.

use std::borrow::Cow;

use super::model::{Costs, Kernel};

#[rustfmt::skip]
pub(super) static COSTS: [Costs; 7] = [
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            0.0, // launch
            6.0, // block
            0.0, // table
            0.0, // keys
            0.0645, // looks
            0.0, // weights
            0.0, // heavy
            2.0, // exchange
            0.0, // exchanged
            0.0, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            0.0, // launch
            7.4, // block
            0.0, // table
            0.0, // keys
            0.0225, // looks
            0.0, // weights
            0.0, // heavy
            2.0, // exchange
            0.0, // exchanged
            0.0, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            0.0, // launch
            7.8, // block
            0.0, // table
            0.0, // keys
            0.0225, // looks
            0.0, // weights
            0.0, // heavy
            2.0, // exchange
            0.0, // exchanged
            0.0, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            0.0, // launch
            14.7, // wave
            0.0, // table
            0.0, // keys
            0.0385, // looks
            0.0, // weights
            0.0, // heavy
            0.0, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            0.0, // launch
            14.7, // wave
            0.0, // table
            0.0, // keys
            0.045, // looks
            0.0, // weights
            0.0, // heavy
            0.0, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Tuples,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.0, // launch
            0.075, // keys
            0.3, // sharing block
            0.05, // sharing keys
            3.0, // waiting block
            0.0, // waiting keys
            0.0, // table
            0.0, // weights
            0.0, // heavy
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReference,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.0, // launch
            0.075, // keys
            0.3, // sharing block
            0.05, // sharing keys
            3.0, // waiting block
            0.0, // waiting keys
            0.0, // table
            0.0, // weights
            0.0, // heavy
        ]),
    },
];
