//! Runs PTX kernels without a GPU, and checks them while they run.
//!
//! ```
//! use ptx_sim::{Arg, Init, Launch, Memory, Module, launch};
//!
//! let module = Module::parse(
//!     ".version 8.0
//!      .target sm_90
//!      .address_size 64
//!      .visible .entry twice(.param .u64 data) {
//!          .reg .b32 %r<4>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd1, [data];
//!          mov.u32 %r1, %tid.x;
//!          mul.wide.u32 %rd2, %r1, 4;
//!          add.s64 %rd3, %rd1, %rd2;
//!          ld.global.u32 %r2, [%rd3];
//!          add.s32 %r3, %r2, %r2;
//!          st.global.u32 [%rd3], %r3;
//!          ret;
//!      }",
//! )?;
//! let mut memory = Memory::new();
//! let data = memory.alloc_copy(&[1, 0, 0, 0, 2, 0, 0, 0]);
//! let args = [Arg::U64(data)];
//! launch(&module, "twice", &Launch { block: [2, 1, 1], args: &args, ..Launch::default() }, &mut memory)?;
//! assert_eq!(memory.bytes(data), Some(&[2, 0, 0, 0, 4, 0, 0, 0][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A file is decoded once; then every instruction is executed for all lanes of a warp. A warp that
//! branches runs in parts, which meet again as early as control flow allows; order and scheduling of
//! warps, blocks and clusters come from a seed. See [`ViolationKind`] for what is checked.
//!
//! What it does not do: functions and `call`; rounding other than to nearest; approximate
//! functions (`ex2`, `rsqrt`, ...), whose results PTX does not define; `mbarrier`, asynchronous copies
//! and matrix instructions; memory order through fences, acquire and release (only barriers order
//! accesses; `.relaxed` and stronger accesses do not race with each other or with atomics); forward progress of a lane while another lane
//! of its warp spins. Each of these is an unknown opcode, except the last two.

mod alu;
mod checker;
mod cluster;
mod decode;
mod error;
mod execute;
mod float;
mod instruction;
mod launch;
mod lexer;
mod memory;
mod module;
mod order;
mod parser;
mod random;
mod registers;
mod warp;

pub use error::{Error, LaunchError, Result, Violation, ViolationKind};
pub use launch::{Arg, Launch, Stats, check_launch, launch};
pub use memory::{AccessError, Init, Memory};
pub use module::{KernelInfo, Module};
