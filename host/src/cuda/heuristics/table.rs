//! What one of each of a step's terms takes, fitted to docs/results/h200-variants.json:
//! NVIDIA H200, CUDA 13.0, 2026-11-26.
//! Written by `cargo xtask heuristics`, never by hand.

use std::borrow::Cow;

use super::model::{Costs, Kernel};

#[rustfmt::skip]
pub(super) static COSTS: [Costs; 17] = [
    Costs {
        kernel: Kernel::Staged,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            57.24, // launches
            0.0, // row
            0.6006, // table
            0.5337, // keys
            0.1271, // looks
            0.3416, // weights
            4.207, // heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(1),
        us: Cow::Borrowed(&[
            21.46, // launch
            19.21, // block
            0.0, // table
            1.12, // keys
            0.0, // looks
            0.01175, // weights
            0.0, // heavy
            0.0, // exchange
            0.0189, // exchanged
            5.024, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(2),
        us: Cow::Borrowed(&[
            7.079, // launch
            7.282, // block
            0.163, // table
            0.7267, // keys
            0.0, // looks
            0.0, // weights
            4.239, // heavy
            0.4236, // exchange
            0.0, // exchanged
            2.563, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(3),
        us: Cow::Borrowed(&[
            4.232, // launch
            6.3, // block
            0.0, // table
            0.0, // keys
            0.2785, // looks
            0.0, // weights
            17.43, // heavy
            2.854, // exchange
            0.1278, // exchanged
            1.209, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(4),
        us: Cow::Borrowed(&[
            6.37, // launch
            7.324, // block
            0.1098, // table
            0.5485, // keys
            0.0, // looks
            0.0, // weights
            11.45, // heavy
            0.0, // exchange
            0.02226, // exchanged
            1.312, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.304, // launch
            10.02, // block
            0.03967, // table
            0.849, // keys
            0.0, // looks
            0.0, // weights
            4.333, // heavy
            0.0, // exchange
            0.1188, // exchanged
            1.412, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            4.204, // launch
            8.489, // block
            0.05321, // table
            1.171, // keys
            0.0, // looks
            0.0, // weights
            6.266, // heavy
            0.6112, // exchange
            0.132, // exchanged
            0.9945, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(32),
        us: Cow::Borrowed(&[
            4.32, // launch
            5.356, // block
            0.3287, // table
            1.737, // keys
            0.0, // looks
            0.0, // weights
            14.63, // heavy
            1.871, // exchange
            0.2872, // exchanged
            0.08191, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            4.202, // launch
            8.024, // block
            0.1081, // table
            0.7023, // keys
            0.03054, // looks
            0.0, // weights
            4.159, // heavy
            0.0, // exchange
            0.3564, // exchanged
            1.257, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.49, // launch
            11.51, // block
            0.07547, // table
            0.3186, // keys
            0.0, // looks
            0.00463, // weights
            4.448, // heavy
            0.0, // exchange
            0.03244, // exchanged
            1.126, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            4.162, // launch
            10.56, // block
            0.06782, // table
            0.5087, // keys
            0.0, // looks
            0.0, // weights
            10.02, // heavy
            0.0, // exchange
            0.1234, // exchanged
            0.6105, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.875, // launch
            10.85, // block
            0.07195, // table
            0.02142, // keys
            0.03242, // looks
            0.0, // weights
            8.533, // heavy
            0.0, // exchange
            0.07622, // exchanged
            0.8215, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            4.156, // launch
            7.749, // wave
            0.2206, // table
            0.2188, // keys
            0.0, // looks
            0.0362, // weights
            1.951, // heavy
            0.6484, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            3.164, // launch
            8.823, // wave
            0.2627, // table
            0.2198, // keys
            0.0, // looks
            0.0, // weights
            15.04, // heavy
            0.6084, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.696, // launch
            8.0, // wave
            0.2123, // table
            0.0, // keys
            0.03286, // looks
            0.0, // weights
            1.941, // heavy
            0.7769, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Tuples,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            6.428, // launch
            0.091, // keys
            0.4173, // sharing block
            0.0, // sharing keys
            4.373, // waiting block
            0.0, // waiting keys
            0.259, // table
            0.0, // weights
            0.0, // heavy
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReference,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            6.337, // launch
            0.06511, // keys
            2.026, // sharing block
            0.0, // sharing keys
            1.4, // waiting block
            0.03183, // waiting keys
            0.0, // table
            0.02018, // weights
            0.2621, // heavy
        ]),
    },
];
