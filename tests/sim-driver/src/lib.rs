//! A libcuda whose GPUs are simulated by [`ptx_sim`].
//!
//! The library exports the driver functions that keysieve and cust call. A process that opens it in
//! libcuda's place, by `KEYSIEVE_LIBCUDA`, runs its own host code unchanged: contexts, modules,
//! allocations, streams, events, launches, captured graphs. What a kernel does is checked while it runs.
//!
//! ```text
//! KEYSIEVE_LIBCUDA=target/debug/deps/libkeysieve_sim_driver.so keysieve doctor
//! ```
//!
//! # The machine
//!
//! `KEYSIEVE_SIM_DEVICES` lists the compute capabilities of its GPUs: `90,80` unless it says otherwise.
//! [`sim_driver_set_seed`](control::sim_driver_set_seed) chooses a GPU's schedules.
//!
//! # What it is stricter about than a GPU
//!
//! - Work waits in its stream until something waits for it; streams that no event orders run in an order
//!   that the seed draws. A program that reads a result too early reads the old one, every time.
//! - Device memory begins unwritten. A kernel that reads it, and a copy to the host, are violations.
//! - An allocation's address is not used again for long after it was freed.
//! - A handle is of its own context alone.
//!
//! A violation is printed on stderr, kept for [`control::sim_driver_take_report`], and answered as a GPU
//! would (`CUDA_ERROR_ILLEGAL_ADDRESS` and its like), to the call that waits for the work and to every
//! later one. [`control::sim_driver_violations_stay`] makes it one answer of `CUDA_ERROR_UNKNOWN` instead,
//! with nothing printed.
//!
//! # Faults
//!
//! [`control`] has the functions that make call number N fail, count calls, and count what is not freed.
//!
//! # What it has not
//!
//! Managed memory, arrays, textures, the linker, host functions in streams, more than one context of a
//! GPU: those functions are missing, as in a driver that is too old. A module's variables are as they
//! were loaded at each launch.

pub mod api;
pub mod control;

mod code;
mod context;
mod kernels;
mod machine;
mod work;
