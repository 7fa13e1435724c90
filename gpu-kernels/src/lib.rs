//! The kernels of keysieve, and the arithmetic that decides what they select.
//!
//! Compiled twice: for `nvptx64-nvidia-cuda` the [`kernel!`] entry points become PTX; for the host
//! the same file gives each kernel's typed argument list, and the ordinary functions (`affinities`,
//! `table_entry`, `score`, `order_key`, `ListBounds`) that the CPU backend calls too.
//!
//! Modules stand in data-flow order:
//!
//! ```text
//! codebook -> codes -> lut -> scores (-> aggregate) -> top_k -> index_list -> weights
//!                                                      \-> heavy_scores
//! ```
#![no_std]
#![cfg_attr(
    target_arch = "nvptx64",
    feature(
        abi_ptx,
        asm_experimental_arch,
        core_intrinsics,
        link_llvm_intrinsics,
        stdarch_nvptx
    )
)]
#![cfg_attr(target_arch = "nvptx64", allow(internal_features))]
// What the CPU backend calls; a kernel's body is compiled for the device only.
#![cfg_attr(not(target_arch = "nvptx64"), forbid(unsafe_code))]

// The host has the hardware's fused multiply-add only through std.
#[cfg(not(target_arch = "nvptx64"))]
extern crate std;

#[macro_use]
pub mod kernel;
pub mod collectives;
pub mod config;
#[cfg(target_arch = "nvptx64")]
pub mod device;

pub mod float;
pub mod order;
pub mod step;

pub mod aggregate;
pub mod bytes;
pub mod codebook;
pub mod codes;
pub mod gather;
pub mod heavy_scores;
pub mod index_list;
pub mod indices;
pub mod kmeans;
pub mod lut;
pub mod quantisation_error;
pub mod scores;
pub mod top_k;
pub mod tuple_counts;
pub mod weights;

pub mod select;
pub mod select_tuples;

#[cfg(not(target_arch = "nvptx64"))]
pub mod table;
