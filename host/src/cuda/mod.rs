//! The CUDA backend: all calls of the driver are here.
//!
//! ```text
//! device    the context and the loaded kernels, opened once
//! buffer    arrays in device memory
//! launch    one kernel's argument list, grid and shared memory -> the driver
//! buffers enqueue  each stage: its buffers, its grids, its kernels in order
//! aggregate   the scores of heads that share a list
//! sequences   lengths and regions of each sequence of a batch
//! heuristics  which variant of the step fits a shape
//! select    the step for large tables: what it keeps, its launch
//! tuples    the step for small formats: what it keeps, its launches
//! step      a whole step on buffers made once
//! launches  its kernels, in order
//! append    a step's new keys
//! event turn  work that goes from stream to stream stays in order
//! graph replay  a step captured once and replayed for every token, on any stream
//! array caller out copy  a step on arrays and streams of the caller's, and copies of its lists
//! footprint what a fused kernel takes of a multiprocessor
//! keys train  keys in device memory, and codebooks from them
//! ragged    steps of sequences that differ
//! stages    one stage at a time, for tests
//! timing    GPU time by events, for measurements
//! drift     how well codebooks fit keys
//! doctor    what is there and what is missing
//! ```

mod aggregate;
mod append;
mod array;
mod buffer;
mod buffers;
pub mod caller;
mod copy;
pub mod device;
pub mod doctor;
mod drift;
mod enqueue;
mod error;
mod event;
pub mod footprint;
pub mod graph;
pub mod heuristics;
pub mod keys;
mod launch;
mod launches;
mod out;
pub mod ragged;
pub mod replay;
mod select;
mod sequences;
mod stages;
pub mod step;
mod stream;
pub mod timing;
pub mod train;
mod tuples;
mod turn;

pub use array::DeviceArray;
pub use copy::{DeviceRows, RowsCopy};
pub use device::Device;
pub use footprint::Footprint;
pub use graph::StepGraph;
pub use heuristics::{TupleBlocks, Variant};
pub use keys::{DeviceKeys, KeyBuffer, KeyDtype};
pub use out::{OutArray, OutLists};
pub use ragged::{RaggedBuffers, RaggedStep};
pub use replay::DeviceBuffers;
pub use stages::CudaStages;
pub use stream::Stream;

pub use crate::tensor::KeySlice;
