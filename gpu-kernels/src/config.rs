//! Bounds that kernels and host agree on.

/// Largest number of sub-vectors.
pub const MAX_SUBVECTORS: u32 = 64;
