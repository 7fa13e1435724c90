//! The rayon backend, file by file the twin of the device's kernels: the same shared functions, over
//! slices instead of threads.
//!
//! Nothing in it is `unsafe`: the vectors too are safe code (see [`simd`]).

#![forbid(unsafe_code)]

pub mod simd;

pub(crate) mod centroid_lanes;
pub(crate) mod fixed_point;
pub(crate) mod quantisation_error;

mod assignment;
mod plus_plus;

pub mod aggregate;
pub mod codebook;
pub mod codes;
pub mod index_list;
pub(crate) mod indices;
pub mod lut;
pub mod scores;
pub mod top_k;
pub mod weights;

pub mod step;

mod stages;

pub use stages::CpuStages;
