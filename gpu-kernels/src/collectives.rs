//! How many barriers and shuffles the functions of `device` contain, for the tables of `kernel!`.
//!
//! Kept apart from `device` because the host reads them too: `cargo xtask check-ptx` compares their
//! sums with what the compiler left in the PTX.

/// Barriers in `thread::sync_threads`.
pub const SYNC_THREADS: u32 = 1;
/// Shuffles in one `warp::warp_shuffle_*`, and other operations in one `warp::reduce_*` of a u32.
pub const WARP: u32 = 1;
/// Cluster barriers in a pair of `cluster::arrive` and `cluster::wait`.
pub const CLUSTER_SYNC: u32 = 1;
/// Shuffles in `warp::reduce_max_u64`.
pub const REDUCE_MAX_U64: u32 = 10;
/// Shuffles and other warp operations in `block::inclusive_sum`.
pub const INCLUSIVE_SUM_SHUFFLES: u32 = 5 + 2 * WARP;
/// Barriers in `block::inclusive_sum`.
pub const INCLUSIVE_SUM_BARRIERS: u32 = 2 * SYNC_THREADS;
/// Barriers in `block::inclusive_sum_once`.
pub const INCLUSIVE_SUM_ONCE_BARRIERS: u32 = SYNC_THREADS;
/// Warp operations in `block::sum`.
pub const SUM_WARP: u32 = 2 * WARP;
/// Barriers in `block::sum`.
pub const SUM_BARRIERS: u32 = 2 * SYNC_THREADS;
/// Warp operations in `block::max`.
pub const MAX_WARP: u32 = 2 * WARP;
/// Barriers in `block::max`.
pub const MAX_BARRIERS: u32 = 2 * SYNC_THREADS;
/// Barriers in `block::tree_sum`.
pub const TREE_SUM_BARRIERS: u32 = 3 * SYNC_THREADS;
/// Words of shared memory that `block::inclusive_sum` works in, for blocks of up to 1024 threads.
pub const SUM_WORDS: u32 = 32;
