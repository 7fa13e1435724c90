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
            57.2, // launches
            0.0, // row
            0.6179, // table
            0.5214, // keys
            0.1278, // looks
            0.3074, // weights
            2.758, // heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(1),
        us: Cow::Borrowed(&[
            21.35, // launch
            19.18, // block
            0.0, // table
            1.138, // keys
            0.0, // looks
            0.0, // weights
            0.0, // heavy
            0.0, // exchange
            0.02297, // exchanged
            5.033, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(2),
        us: Cow::Borrowed(&[
            8.128, // launch
            6.046, // block
            0.1698, // table
            0.6472, // keys
            0.0, // looks
            0.0, // weights
            12.53, // heavy
            0.2845, // exchange
            0.0, // exchanged
            1.843, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(3),
        us: Cow::Borrowed(&[
            4.391, // launch
            0.0, // block
            4.207, // table
            0.0, // keys
            0.2772, // looks
            0.0, // weights
            17.3, // heavy
            2.85, // exchange
            0.125, // exchanged
            1.227, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(4),
        us: Cow::Borrowed(&[
            6.833, // launch
            6.469, // block
            0.1414, // table
            0.5333, // keys
            0.0, // looks
            0.0, // weights
            11.44, // heavy
            0.0, // exchange
            0.1197, // exchanged
            1.194, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            2.843, // launch
            10.2, // block
            0.03598, // table
            0.8614, // keys
            0.0, // looks
            0.0, // weights
            3.685, // heavy
            0.0, // exchange
            0.1398, // exchanged
            1.444, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            3.473, // launch
            8.792, // block
            0.03797, // table
            1.168, // keys
            0.0, // looks
            0.0, // weights
            6.565, // heavy
            0.0, // exchange
            0.3124, // exchanged
            0.874, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(32),
        us: Cow::Borrowed(&[
            4.284, // launch
            5.359, // block
            0.3295, // table
            1.743, // keys
            0.0, // looks
            0.0, // weights
            14.67, // heavy
            1.867, // exchange
            0.2969, // exchanged
            0.06273, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            0.0, // launch
            8.044, // block
            0.08866, // table
            1.268, // keys
            0.0, // looks
            0.004359, // weights
            0.0, // heavy
            0.0, // exchange
            1.148, // exchanged
            1.151, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.472, // launch
            11.45, // block
            0.07615, // table
            0.322, // keys
            0.0, // looks
            0.001958, // weights
            4.483, // heavy
            0.0, // exchange
            0.03218, // exchanged
            1.114, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            3.858, // launch
            10.95, // block
            0.07451, // table
            0.5409, // keys
            0.0, // looks
            0.0, // weights
            6.409, // heavy
            0.23, // exchange
            0.1125, // exchanged
            0.8057, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.733, // launch
            11.19, // block
            0.07586, // table
            0.07156, // keys
            0.03013, // looks
            0.0, // weights
            5.442, // heavy
            0.0, // exchange
            0.07916, // exchanged
            0.9507, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            2.535, // launch
            11.57, // wave
            0.03742, // table
            0.2072, // keys
            0.0, // looks
            0.0, // weights
            1.555, // heavy
            0.5398, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            2.134, // launch
            10.3, // wave
            0.2252, // table
            0.4144, // keys
            0.0, // looks
            0.00908, // weights
            2.269, // heavy
            0.9216, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            2.642, // launch
            11.46, // wave
            0.03343, // table
            0.0, // keys
            0.03043, // looks
            0.0, // weights
            0.3894, // heavy
            0.7544, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Tuples,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            5.651, // launch
            0.04939, // keys
            0.0, // sharing block
            0.0, // sharing keys
            2.791, // waiting block
            0.0, // waiting keys
            0.196, // table
            0.0, // weights
            0.0, // heavy
            0.5146, // all blocks
            0.09642, // all keys
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReference,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            5.987, // launch
            0.0, // keys
            0.06889, // sharing block
            0.0, // sharing keys
            2.942, // waiting block
            0.0, // waiting keys
            0.0, // table
            0.04497, // weights
            0.0, // heavy
            1.026, // all blocks
            0.0, // all keys
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReferenceLong,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            6.36, // launch
            0.03298, // keys
            0.5273, // sharing block
            0.0, // sharing keys
            3.329, // waiting block
            0.0, // waiting keys
            0.0, // table
            0.0172, // weights
            0.4648, // heavy
            0.583, // all blocks
            0.008113, // all keys
        ]),
    },
];
