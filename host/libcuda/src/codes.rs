//! The codes a driver can answer, up to CUDA 13.3.

/// One value of `CUresult`. Both texts end in NUL, so that C callers can have them too.
pub(crate) struct Code {
    pub(crate) value: u32,
    pub(crate) name_with_nul: &'static str,
    pub(crate) description_with_nul: &'static str,
}

impl Code {
    pub(crate) fn name(&self) -> &'static str {
        self.name_with_nul.trim_end_matches('\0')
    }

    pub(crate) fn description(&self) -> &'static str {
        self.description_with_nul.trim_end_matches('\0')
    }
}

pub(crate) const SUCCESS: u32 = 0;
pub(crate) const INVALID_VALUE: u32 = 1;
pub(crate) const NO_DEVICE: u32 = 100;
pub(crate) const NOT_READY: u32 = 600;
pub(crate) const CONTEXT_IS_DESTROYED: u32 = 709;
pub(crate) const NOT_SUPPORTED: u32 = 801;
pub(crate) const UNKNOWN: u32 = 999;

/// The entry of `value`, if this crate knows it.
pub(crate) fn find(value: u32) -> Option<&'static Code> {
    CUST_CODES
        .iter()
        .chain(LATER_CODES)
        .find(|code| code.value == value)
}

/// Whether the `CUresult` of cust_raw 0.11.3 has this value. Any other is undefined behaviour there.
pub(crate) fn fits_cust(value: u32) -> bool {
    CUST_CODES.iter().any(|code| code.value == value)
}

macro_rules! codes {
    ($($value:literal $name:ident $description:literal;)*) => {
        &[$(Code {
            value: $value,
            name_with_nul: concat!("CUDA_", stringify!($name), "\0"),
            description_with_nul: concat!($description, "\0"),
        }),*]
    };
}

/// The codes of CUDA 11.4, which is what cust_raw 0.11.3 was generated from.
const CUST_CODES: &[Code] = codes! {
    0 SUCCESS "no error";
    1 ERROR_INVALID_VALUE "an argument is outside its range";
    2 ERROR_OUT_OF_MEMORY "not enough memory";
    3 ERROR_NOT_INITIALIZED "cuInit has not been called, or failed";
    4 ERROR_DEINITIALIZED "the driver is shutting down";
    5 ERROR_PROFILER_DISABLED "the profiler does not run here";
    6 ERROR_PROFILER_NOT_INITIALIZED "the profiler is not initialised";
    7 ERROR_PROFILER_ALREADY_STARTED "the profiler already runs";
    8 ERROR_PROFILER_ALREADY_STOPPED "the profiler is already stopped";
    34 ERROR_STUB_LIBRARY "the library opened is the toolkit's stub, not a driver";
    100 ERROR_NO_DEVICE "no CUDA driver or no CUDA device";
    101 ERROR_INVALID_DEVICE "no device has this ordinal, or it does not allow the operation";
    102 ERROR_DEVICE_NOT_LICENSED "the device's licence does not allow this";
    200 ERROR_INVALID_IMAGE "the kernel image is not valid";
    201 ERROR_INVALID_CONTEXT "no context is current, or the current one is not valid";
    202 ERROR_CONTEXT_ALREADY_CURRENT "the context is already current";
    205 ERROR_MAP_FAILED "mapping failed";
    206 ERROR_UNMAP_FAILED "unmapping failed";
    207 ERROR_ARRAY_IS_MAPPED "the array is mapped";
    208 ERROR_ALREADY_MAPPED "the resource is already mapped";
    209 ERROR_NO_BINARY_FOR_GPU "the image holds no kernel for this device";
    210 ERROR_ALREADY_ACQUIRED "the resource is already acquired";
    211 ERROR_NOT_MAPPED "the resource is not mapped";
    212 ERROR_NOT_MAPPED_AS_ARRAY "the resource is not mapped as an array";
    213 ERROR_NOT_MAPPED_AS_POINTER "the resource is not mapped as a pointer";
    214 ERROR_ECC_UNCORRECTABLE "device memory has an uncorrectable ECC error";
    215 ERROR_UNSUPPORTED_LIMIT "the device does not have this limit";
    216 ERROR_CONTEXT_ALREADY_IN_USE "another thread uses the context";
    217 ERROR_PEER_ACCESS_UNSUPPORTED "the devices cannot reach each other's memory";
    218 ERROR_INVALID_PTX "the PTX did not compile";
    219 ERROR_INVALID_GRAPHICS_CONTEXT "the graphics context is not valid";
    220 ERROR_NVLINK_UNCORRECTABLE "NVLink had an uncorrectable error";
    221 ERROR_JIT_COMPILER_NOT_FOUND "the driver's PTX compiler library is not installed";
    222 ERROR_UNSUPPORTED_PTX_VERSION "the PTX is newer than the driver's compiler";
    223 ERROR_JIT_COMPILATION_DISABLED "compiling PTX is switched off";
    224 ERROR_UNSUPPORTED_EXEC_AFFINITY "the device does not have this execution affinity";
    300 ERROR_INVALID_SOURCE "the kernel source is not valid";
    301 ERROR_FILE_NOT_FOUND "file not found";
    302 ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND "a shared library lacks a symbol";
    303 ERROR_SHARED_OBJECT_INIT_FAILED "a shared library could not be initialised";
    304 ERROR_OPERATING_SYSTEM "a call of the operating system failed";
    400 ERROR_INVALID_HANDLE "the handle is not valid";
    401 ERROR_ILLEGAL_STATE "the object is in the wrong state for this";
    500 ERROR_NOT_FOUND "no such name in the module";
    600 ERROR_NOT_READY "the work is not finished yet";
    700 ERROR_ILLEGAL_ADDRESS "a kernel used an invalid address";
    701 ERROR_LAUNCH_OUT_OF_RESOURCES "the launch needs more registers, threads or memory than there are";
    702 ERROR_LAUNCH_TIMEOUT "a kernel ran longer than the device allows";
    703 ERROR_LAUNCH_INCOMPATIBLE_TEXTURING "the launch uses an incompatible texture mode";
    704 ERROR_PEER_ACCESS_ALREADY_ENABLED "peer access is already enabled";
    705 ERROR_PEER_ACCESS_NOT_ENABLED "peer access is not enabled";
    708 ERROR_PRIMARY_CONTEXT_ACTIVE "the primary context already exists";
    709 ERROR_CONTEXT_IS_DESTROYED "the context has been destroyed";
    710 ERROR_ASSERT "a kernel's assertion failed";
    711 ERROR_TOO_MANY_PEERS "no more peers can be enabled";
    712 ERROR_HOST_MEMORY_ALREADY_REGISTERED "the host memory is already registered";
    713 ERROR_HOST_MEMORY_NOT_REGISTERED "the host memory is not registered";
    714 ERROR_HARDWARE_STACK_ERROR "a kernel overflowed or corrupted its call stack";
    715 ERROR_ILLEGAL_INSTRUCTION "a kernel met an illegal instruction";
    716 ERROR_MISALIGNED_ADDRESS "a kernel used a misaligned address";
    717 ERROR_INVALID_ADDRESS_SPACE "a kernel used an address of the wrong memory space";
    718 ERROR_INVALID_PC "a kernel's program counter left its address space";
    719 ERROR_LAUNCH_FAILED "a kernel failed while it ran";
    720 ERROR_COOPERATIVE_LAUNCH_TOO_LARGE "the device cannot hold all blocks of a cooperative launch";
    800 ERROR_NOT_PERMITTED "not permitted";
    801 ERROR_NOT_SUPPORTED "this driver or device does not support the call";
    802 ERROR_SYSTEM_NOT_READY "the system is not ready for CUDA work";
    803 ERROR_SYSTEM_DRIVER_MISMATCH "the kernel module and the driver library are of different versions";
    804 ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE "the compatibility library does not support this device";
    805 ERROR_MPS_CONNECTION_FAILED "no connection to the MPS server";
    806 ERROR_MPS_RPC_FAILURE "a call to the MPS server failed";
    807 ERROR_MPS_SERVER_NOT_READY "the MPS server is not ready";
    808 ERROR_MPS_MAX_CLIENTS_REACHED "the MPS server has no room for another client";
    809 ERROR_MPS_MAX_CONNECTIONS_REACHED "the MPS server has no room for another connection";
    900 ERROR_STREAM_CAPTURE_UNSUPPORTED "the operation cannot be captured";
    901 ERROR_STREAM_CAPTURE_INVALIDATED "an earlier error spoiled the capture";
    902 ERROR_STREAM_CAPTURE_MERGE "the operation would join two captures";
    903 ERROR_STREAM_CAPTURE_UNMATCHED "the capture did not begin on this stream";
    904 ERROR_STREAM_CAPTURE_UNJOINED "the capture ends with a fork that was never joined";
    905 ERROR_STREAM_CAPTURE_ISOLATION "a captured stream would depend on an uncaptured one";
    906 ERROR_STREAM_CAPTURE_IMPLICIT "the operation would depend on the legacy stream during a capture";
    907 ERROR_CAPTURED_EVENT "the event was recorded in a capture";
    908 ERROR_STREAM_CAPTURE_WRONG_THREAD "another thread began the capture";
    909 ERROR_TIMEOUT "the time limit has passed";
    910 ERROR_GRAPH_EXEC_UPDATE_FAILURE "the graph cannot be updated in place";
    911 ERROR_EXTERNAL_DEVICE "a device outside CUDA reported an error";
    999 ERROR_UNKNOWN "unknown error";
};

/// The codes that drivers gained since.
const LATER_CODES: &[Code] = codes! {
    36 ERROR_CALL_REQUIRES_NEWER_DRIVER "the call needs a newer driver";
    46 ERROR_DEVICE_UNAVAILABLE "the device is busy or reserved at present";
    225 ERROR_UNSUPPORTED_DEVSIDE_SYNC "the PTX synchronises from the device, which is not supported";
    226 ERROR_CONTAINED "the device contained an error of hardware or of peer access";
    402 ERROR_LOSSY_QUERY "the query would drop information that matters";
    721 ERROR_TENSOR_MEMORY_LEAK "a kernel ended without freeing its tensor memory";
    810 ERROR_MPS_CLIENT_TERMINATED "the MPS server ended this client";
    811 ERROR_CDP_NOT_SUPPORTED "dynamic parallelism is not supported here";
    812 ERROR_CDP_VERSION_MISMATCH "two versions of dynamic parallelism were mixed";
    912 ERROR_INVALID_CLUSTER_SIZE "the cluster does not fit the device or the grid";
    913 ERROR_FUNCTION_NOT_LOADED "the function is not loaded";
    914 ERROR_INVALID_RESOURCE_TYPE "a resource has the wrong type";
    915 ERROR_INVALID_RESOURCE_CONFIGURATION "the resources do not suffice or do not apply";
    916 ERROR_KEY_ROTATION "a key rotation failed";
    917 ERROR_STREAM_DETACHED "the stream's context is gone";
    918 ERROR_GRAPH_RECAPTURE_FAILURE "capturing the graph anew failed";
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_listed_once_and_in_order() {
        for table in [CUST_CODES, LATER_CODES] {
            assert!(table.is_sorted_by(|a, b| a.value < b.value));
        }
        assert!(!LATER_CODES.iter().any(|code| fits_cust(code.value)));
    }

    #[test]
    fn the_codes_that_cust_folds_have_names() {
        for (value, name) in [
            (221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND"),
            (222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
            (226, "CUDA_ERROR_CONTAINED"),
            (720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"),
        ] {
            assert_eq!(find(value).unwrap().name(), name);
        }
    }
}
