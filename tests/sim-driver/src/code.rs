//! The `CUresult`s that this driver answers.

use std::ffi::c_int;

use ptx_sim::ViolationKind;

/// A `CUresult` other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) c_int);

/// What a driver function answers.
pub(crate) type Answer<T = ()> = Result<T, Code>;

pub(crate) const INVALID_VALUE: Code = Code(1);
pub(crate) const OUT_OF_MEMORY: Code = Code(2);
pub(crate) const NOT_INITIALIZED: Code = Code(3);
pub(crate) const INVALID_DEVICE: Code = Code(101);
pub(crate) const INVALID_CONTEXT: Code = Code(201);
pub(crate) const NO_BINARY_FOR_GPU: Code = Code(209);
pub(crate) const INVALID_PTX: Code = Code(218);
pub(crate) const UNSUPPORTED_PTX_VERSION: Code = Code(222);
pub(crate) const INVALID_HANDLE: Code = Code(400);
pub(crate) const NOT_FOUND: Code = Code(500);
pub(crate) const NOT_READY: Code = Code(600);
pub(crate) const ILLEGAL_ADDRESS: Code = Code(700);
pub(crate) const LAUNCH_OUT_OF_RESOURCES: Code = Code(701);
pub(crate) const LAUNCH_TIMEOUT: Code = Code(702);
pub(crate) const CONTEXT_IS_DESTROYED: Code = Code(709);
pub(crate) const MISALIGNED_ADDRESS: Code = Code(716);
pub(crate) const LAUNCH_FAILED: Code = Code(719);
pub(crate) const COOPERATIVE_LAUNCH_TOO_LARGE: Code = Code(720);
pub(crate) const NOT_SUPPORTED: Code = Code(801);
pub(crate) const STREAM_CAPTURE_UNSUPPORTED: Code = Code(900);
pub(crate) const STREAM_CAPTURE_INVALIDATED: Code = Code(901);
pub(crate) const STREAM_CAPTURE_UNMATCHED: Code = Code(903);
pub(crate) const STREAM_CAPTURE_WRONG_THREAD: Code = Code(908);
pub(crate) const INVALID_CLUSTER_SIZE: Code = Code(912);
pub(crate) const UNKNOWN: Code = Code(999);

/// What a GPU answers to whoever waits for a kernel that broke this rule, if it notices.
pub(crate) fn of_violation(kind: ViolationKind) -> Code {
    match kind {
        ViolationKind::OutOfBounds => ILLEGAL_ADDRESS,
        ViolationKind::Misaligned => MISALIGNED_ADDRESS,
        ViolationKind::Deadlock | ViolationKind::StepLimit => LAUNCH_TIMEOUT,
        _ => LAUNCH_FAILED,
    }
}
