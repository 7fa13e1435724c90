//! Where things lie in a block's shared memory, in words.

use crate::kmeans::{KMeansShape, TILE};

/// Centroids that are compared at a time.
pub(super) const CHUNK: u32 = 64;
/// Components in shared memory at a time.
pub(super) const SLICE: u32 = 64;
/// Words from one component of the tile's points to the next; a multiple of 4 that is none of 8.
pub(super) const POINT_STRIDE: u32 = TILE + 4;
/// Words from one component of a chunk's centroids to the next.
pub(super) const CENTROID_STRIDE: u32 = CHUNK + 4;
/// Threads that share a point.
pub(super) const SHARES: u32 = 8;
/// Most centroids of a problem.
const MAX_CENTROIDS: u32 = 256;

/// A slice of the points, `[component, point]`.
pub const POINTS: u32 = 0;
/// Centroids, `[chunk, component, centroid]`: all of them, or a slice of one chunk.
pub const CENTROIDS: u32 = POINTS + SLICE * POINT_STRIDE;
/// What the affinities begin with, and negative infinity behind the last centroid.
pub const MINUS_HALF_NORMS: u32 = CENTROIDS + SLICE * CENTROID_STRIDE;
/// The component that augments each centroid, and 0 behind the last.
pub const COMPONENTS: u32 = MINUS_HALF_NORMS + MAX_CENTROIDS;
/// The component that augments each point.
pub const AUGMENTED: u32 = COMPONENTS + MAX_CENTROIDS;
/// The nearest centroid that each share of a point found, 64 bits.
pub const NEAREST: u32 = AUGMENTED + TILE;
/// The points' codes.
pub const CODES: u32 = NEAREST + 2 * SHARES * TILE;
/// Sums of f64, `[2^bits, point_dim]`, then counts.
pub const SUMS: u32 = CODES + TILE;

/// Words of a block that keeps its sums there, or has none in shared memory.
#[inline(always)]
pub fn words(shape: &KMeansShape, sums_are_shared: bool) -> u32 {
    let sums = if sums_are_shared {
        2 * shape.sums_len()
    } else {
        0
    };
    SUMS + sums + shape.num_centroids()
}
