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
            0.6111, // table
            0.5523, // keys
            0.1255, // looks
            0.3065, // weights
            2.738, // heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(1),
        us: Cow::Borrowed(&[
            21.39, // launch
            19.23, // block
            0.0, // table
            1.116, // keys
            0.0, // looks
            0.02009, // weights
            0.0, // heavy
            0.0, // exchange
            0.01704, // exchanged
            5.042, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(2),
        us: Cow::Borrowed(&[
            8.373, // launch
            5.789, // block
            0.1714, // table
            0.6167, // keys
            0.0, // looks
            0.0, // weights
            14.62, // heavy
            0.2694, // exchange
            0.0, // exchanged
            1.67, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(3),
        us: Cow::Borrowed(&[
            4.411, // launch
            0.0, // block
            4.202, // table
            0.8276, // keys
            0.0, // looks
            0.0, // weights
            17.49, // heavy
            2.84, // exchange
            0.1223, // exchanged
            1.214, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(4),
        us: Cow::Borrowed(&[
            6.103, // launch
            7.69, // block
            0.09276, // table
            0.5563, // keys
            0.0, // looks
            0.0, // weights
            11.26, // heavy
            0.0, // exchange
            0.02353, // exchanged
            1.341, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.325, // launch
            9.798, // block
            0.04064, // table
            0.8543, // keys
            0.0, // looks
            0.0, // weights
            3.92, // heavy
            0.0, // exchange
            0.1237, // exchanged
            1.44, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            4.548, // launch
            8.454, // block
            0.06236, // table
            1.158, // keys
            0.0, // looks
            0.0, // weights
            5.442, // heavy
            0.4686, // exchange
            0.1147, // exchanged
            1.063, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: Some(32),
        us: Cow::Borrowed(&[
            4.224, // launch
            5.38, // block
            0.3269, // table
            1.741, // keys
            0.0, // looks
            0.0, // weights
            14.55, // heavy
            1.834, // exchange
            0.2895, // exchanged
            0.0862, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Survivors,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            0.0, // launch
            6.18, // block
            0.1827, // table
            1.206, // keys
            0.007714, // looks
            0.1796, // weights
            0.0, // heavy
            0.0, // exchange
            1.031, // exchanged
            0.9814, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            3.623, // launch
            11.24, // block
            0.07643, // table
            0.3217, // keys
            0.0, // looks
            0.008605, // weights
            4.345, // heavy
            0.0, // exchange
            0.03957, // exchanged
            1.125, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            3.831, // launch
            10.88, // block
            0.07555, // table
            0.5389, // keys
            0.0, // looks
            0.0, // weights
            6.495, // heavy
            0.2282, // exchange
            0.1115, // exchanged
            0.8032, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Filtered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            3.814, // launch
            11.04, // block
            0.07611, // table
            0.07403, // keys
            0.02996, // looks
            0.0003334, // weights
            5.452, // heavy
            0.0, // exchange
            0.08273, // exchanged
            0.9514, // exchanged heavy
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(8),
        us: Cow::Borrowed(&[
            2.376, // launch
            12.71, // wave
            0.0134, // table
            0.1264, // keys
            0.0, // looks
            0.0, // weights
            2.898, // heavy
            0.3229, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: Some(16),
        us: Cow::Borrowed(&[
            1.848, // launch
            10.23, // wave
            0.219, // table
            0.4216, // keys
            0.0, // looks
            0.01014, // weights
            2.213, // heavy
            0.9411, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Clustered,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            1.627, // launch
            12.24, // wave
            0.05692, // table
            0.0, // keys
            0.0259, // looks
            0.0, // weights
            1.404, // heavy
            0.556, // exchanged
        ]),
    },
    Costs {
        kernel: Kernel::Tuples,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            6.225, // launch
            0.001147, // keys
            0.0, // sharing block
            0.0, // sharing keys
            4.411, // waiting block
            0.0, // waiting keys
            0.08852, // table
            0.0, // weights
            0.0, // heavy
            0.07242, // all blocks
            0.151, // all keys
        ]),
    },
    Costs {
        kernel: Kernel::TuplesReference,
        num_subvectors: None,
        us: Cow::Borrowed(&[
            6.036, // launch
            0.05606, // keys
            0.9218, // sharing block
            0.0, // sharing keys
            1.606, // waiting block
            0.02579, // waiting keys
            0.0, // table
            0.02566, // weights
            0.3832, // heavy
            0.9624, // all blocks
            0.0, // all keys
        ]),
    },
];
