//! What one of each of a step's terms takes, fitted to docs/results/h200-variants.json:
//! NVIDIA H200, CUDA 13.0, 2026-11-26.
//! Written by `cargo xtask heuristics`, never by hand.

use std::borrow::Cow;

use super::model::{Costs, Kernel};

#[rustfmt::skip]
pub(super) static COSTS: [Costs; 18] = [
    Costs {
        kernel: Kernel::Staged,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            57.6, // launches
            0.0, // row
            0.6151, // table
            0.5152, // keys
            0.1274, // looks
            0.2936, // weights
            3.35, // heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(1),
        us: Cow::Borrowed(&[
            21.54, // launch
            19.17, // block
            0.0, // table
            1.123, // keys
            0.0, // looks
            0.01811, // weights
            0.0, // heavy
            0.0, // exchange
            0.0226, // exchanged
            5.046, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(2),
        us: Cow::Borrowed(&[
            7.622, // launch
            6.3, // block
            0.1672, // table
            0.6904, // keys
            0.0, // looks
            0.0, // weights
            10.67, // heavy
            0.6064, // exchange
            0.0, // exchanged
            1.854, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(3),
        us: Cow::Borrowed(&[
            4.274, // launch
            6.29, // block
            0.0, // table
            0.8326, // keys
            0.0, // looks
            0.0, // weights
            17.49, // heavy
            2.705, // exchange
            0.1459, // exchanged
            1.203, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(4),
        us: Cow::Borrowed(&[
            6.061, // launch
            7.572, // block
            0.09424, // table
            0.5467, // keys
            0.0, // looks
            0.0, // weights
            11.84, // heavy
            0.0, // exchange
            0.03489, // exchanged
            1.3, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.117, // launch
            10.22, // block
            0.03486, // table
            0.8626, // keys
            0.0, // looks
            0.0, // weights
            3.46, // heavy
            0.0, // exchange
            0.1087, // exchanged
            1.483, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            4.547, // launch
            8.6, // block
            0.05802, // table
            1.158, // keys
            0.0, // looks
            0.0, // weights
            5.304, // heavy
            0.5855, // exchange
            0.1003, // exchanged
            1.081, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(32),
        us: Cow::Borrowed(&[
            4.432, // launch
            5.35, // block
            0.3256, // table
            1.739, // keys
            0.0, // looks
            0.0, // weights
            14.47, // heavy
            1.929, // exchange
            0.2949, // exchanged
            0.08966, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.829, // launch
            7.559, // block
            0.1567, // table
            0.8576, // keys
            0.02048, // looks
            0.06131, // weights
            0.0, // heavy
            0.04154, // exchange
            0.4385, // exchanged
            1.548, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.501, // launch
            11.53, // block
            0.07282, // table
            0.3259, // keys
            0.0, // looks
            0.004876, // weights
            4.188, // heavy
            0.0, // exchange
            0.03424, // exchanged
            1.131, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            3.92, // launch
            10.94, // block
            0.07319, // table
            0.5407, // keys
            0.0, // looks
            0.0, // weights
            6.37, // heavy
            0.2663, // exchange
            0.1056, // exchanged
            0.8228, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.799, // launch
            11.22, // block
            0.07368, // table
            0.0775, // keys
            0.02985, // looks
            0.0, // weights
            5.272, // heavy
            0.0, // exchange
            0.07727, // exchanged
            0.9685, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            2.728, // launch
            11.4, // wave
            0.04606, // table
            0.2069, // keys
            0.0, // looks
            0.0, // weights
            1.626, // heavy
            0.5516, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            1.95, // launch
            10.38, // wave
            0.2097, // table
            0.4215, // keys
            0.0, // looks
            0.01056, // weights
            2.193, // heavy
            0.927, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            2.029, // launch
            11.13, // wave
            0.08289, // table
            0.0, // keys
            0.0289, // looks
            0.0, // weights
            1.362, // heavy
            0.7364, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Tuples,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            6.303, // launch
            0.01303, // keys
            0.0, // sharing block
            0.0, // sharing keys
            3.418, // waiting block
            0.0, // waiting keys
            0.08772, // table
            0.0, // weights
            0.0, // heavy
            0.4972, // all blocks
            0.102, // all keys
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReference,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            5.871, // launch
            0.0, // keys
            0.0, // sharing block
            0.0, // sharing keys
            2.817, // waiting block
            0.0, // waiting keys
            0.0, // table
            0.04554, // weights
            0.0, // heavy
            1.151, // all blocks
            0.0, // all keys
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReferenceLong,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            5.811, // launch
            0.03313, // keys
            0.0, // sharing block
            0.0, // sharing keys
            3.29, // waiting block
            0.0, // waiting keys
            0.06368, // table
            0.0169, // weights
            0.4759, // heavy
            0.6234, // all blocks
            0.007224, // all keys
        ]),
    },
];
