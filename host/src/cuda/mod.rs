//! The CUDA backend: all calls of the driver are here.
//!
//! ```text
//! device    the context and the loaded kernels, opened once
//! buffer    arrays in device memory
//! launch    one kernel's argument list, grid and shared memory -> the driver
//! enqueue   each stage: its buffers, its grids, its kernels in order
//! heuristics  which variant of the step fits a shape
//! select    the step for large tables: what it keeps, its launch
//! tuples    the step for small formats: what it keeps, its launches
//! step      a whole step on buffers made once: which kernels, in which order
//! graph     a step captured once and replayed for every token
//! stages    one stage at a time, for tests
//! timing    GPU time by events, for measurements
//! doctor    what is there and what is missing
//! ```

mod buffer;
pub mod device;
pub mod doctor;
mod enqueue;
mod error;
pub mod graph;
pub mod heuristics;
mod launch;
mod select;
mod stages;
pub mod step;
pub mod timing;
mod tuples;

pub use device::Device;
pub use graph::StepGraph;
pub use heuristics::{TupleBlocks, Variant};
pub use stages::CudaStages;
