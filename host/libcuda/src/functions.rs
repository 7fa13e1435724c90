//! The driver's functions, each a trampoline to the one of the same name in libcuda.
//!
//! Every function that cust 0.3.2 refers to is here, with the signature of cust_raw 0.11.3, and
//! those that programs call beside cust. Types are reduced to what the ABI sees: a `CUstream` and
//! every other handle is a pointer, an enum is an integer, a descriptor is a pointer to anything.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::codes::{self, INVALID_VALUE, SUCCESS};
use crate::error::answer;
use crate::launch::LaunchConfig;
use crate::library::resolve;

/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`, `CUevent`, `CUgraph`, ...
pub type Handle = *mut c_void;
/// A device ordinal.
pub type CUdevice = c_int;
/// An address in device memory.
pub type CUdeviceptr = u64;
/// `CUhostFn`: called by the driver with the user data of `cuLaunchHostFunc`.
pub type HostFn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;
/// `CUoccupancyB2DSize`: dynamic shared memory in bytes of a block of so many threads.
pub type BlockToSharedSize = Option<unsafe extern "C" fn(block_size: c_int) -> usize>;

/// The driver's function `$name` as a `Result<$type, c_int>`, looked up at its first use.
macro_rules! driver_function {
    ($name:ident: $type:ty) => {{
        const NAME: &CStr =
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            };
        static FUNCTION: OnceLock<Result<$type, c_int>> = OnceLock::new();
        // SAFETY: the type is the signature that cuda.h gives to this name.
        *FUNCTION.get_or_init(|| unsafe { resolve(NAME) })
    }};
}

/// Defines one trampoline for each signature. All of them return a `CUresult`.
macro_rules! trampolines {
    ($(fn $name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            #[doc = concat!("Calls the driver's `", stringify!($name), "`.")]
            ///
            /// # Safety
            ///
            /// The driver's own conditions hold.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::too_many_arguments)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
                type Function = unsafe extern "C" fn($($type),*) -> c_int;
                let code = match driver_function!($name: Function) {
                    // SAFETY: the arguments are passed on as they came; the caller answers for them.
                    Ok(function) => unsafe { function($($argument),*) },
                    Err(code) => code,
                };
                answer(stringify!($name), code)
            }
        )*

        #[cfg(test)]
        pub(crate) mod tests {
            use super::*;
            use crate::error::{DriverError, take_last_error};

            /// Calls every trampoline with zeros, and hands out what it returned and wrote down.
            /// Only for a process without a driver.
            pub(crate) fn call_each_with_zeros(
                mut check: impl FnMut(&'static str, c_int, Option<DriverError>),
            ) {
                $(
                    // SAFETY: zero is a value of every argument type, and nothing looks at it.
                    let code = unsafe { $name($(std::mem::zeroed::<$type>()),*) };
                    check(stringify!($name), code, take_last_error());
                )*
            }
        }
    };
}

trampolines! {
    // Driver and devices.
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: CUdevice);
    fn cuDeviceGetCount(count: *mut c_int);
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    fn cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut c_uint, active: *mut c_int);
    fn cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    fn cuDevicePrimaryCtxReset_v2(device: CUdevice);
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: CUdevice);
    fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint);
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    fn cuDriverGetVersion(driver_version: *mut c_int);
    fn cuInit(flags: c_uint);

    // Contexts.
    fn cuCtxCreate_v2(context: *mut Handle, flags: c_uint, device: CUdevice);
    fn cuCtxDestroy_v2(context: Handle);
    fn cuCtxGetApiVersion(context: Handle, version: *mut c_uint);
    fn cuCtxGetCacheConfig(config: *mut c_uint);
    fn cuCtxGetCurrent(context: *mut Handle);
    fn cuCtxGetDevice(device: *mut CUdevice);
    fn cuCtxGetFlags(flags: *mut c_uint);
    fn cuCtxGetLimit(value: *mut usize, limit: c_uint);
    fn cuCtxGetSharedMemConfig(config: *mut c_uint);
    fn cuCtxGetStreamPriorityRange(least_priority: *mut c_int, greatest_priority: *mut c_int);
    fn cuCtxPopCurrent_v2(context: *mut Handle);
    fn cuCtxPushCurrent_v2(context: Handle);
    fn cuCtxSetCacheConfig(config: c_uint);
    fn cuCtxSetCurrent(context: Handle);
    fn cuCtxSetLimit(limit: c_uint, value: usize);
    fn cuCtxSetSharedMemConfig(config: c_uint);
    fn cuCtxSynchronize();

    // Modules, the linker and functions.
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle);
    fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int);
    fn cuFuncSetCacheConfig(function: Handle, config: c_uint);
    fn cuFuncSetSharedMemConfig(function: Handle, config: c_uint);
    fn cuLinkAddData_v2(
        state: Handle, kind: c_uint, data: *mut c_void, size: usize, name: *const c_char,
        num_options: c_uint, options: *mut c_uint, option_values: *mut *mut c_void
    );
    fn cuLinkComplete(state: Handle, cubin_out: *mut *mut c_void, size_out: *mut usize);
    fn cuLinkCreate_v2(
        num_options: c_uint, options: *mut c_uint, option_values: *mut *mut c_void,
        state_out: *mut Handle
    );
    fn cuLinkDestroy(state: Handle);
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char);
    fn cuModuleGetGlobal_v2(
        address: *mut CUdeviceptr, bytes: *mut usize, module: Handle, name: *const c_char
    );
    fn cuModuleLoad(module: *mut Handle, path: *const c_char);
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void);
    fn cuModuleLoadDataEx(
        module: *mut Handle, image: *const c_void, num_options: c_uint, options: *mut c_uint,
        option_values: *mut *mut c_void
    );
    fn cuModuleUnload(module: Handle);

    // Launches and occupancy.
    fn cuLaunchHostFunc(stream: Handle, function: HostFn, user_data: *mut c_void);
    fn cuLaunchKernel(
        function: Handle, grid_dim_x: c_uint, grid_dim_y: c_uint, grid_dim_z: c_uint,
        block_dim_x: c_uint, block_dim_y: c_uint, block_dim_z: c_uint, shared_mem_bytes: c_uint,
        stream: Handle, kernel_params: *mut *mut c_void, extra: *mut *mut c_void
    );
    fn cuLaunchKernelEx(
        config: *const LaunchConfig, function: Handle, kernel_params: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        dynamic_smem_size: *mut usize, function: Handle, num_blocks: c_int, block_size: c_int
    );
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        num_blocks: *mut c_int, function: Handle, block_size: c_int, dynamic_smem_size: usize
    );
    fn cuOccupancyMaxActiveClusters(
        num_clusters: *mut c_int, function: Handle, config: *const LaunchConfig
    );
    fn cuOccupancyMaxPotentialBlockSize(
        min_grid_size: *mut c_int, block_size: *mut c_int, function: Handle,
        block_size_to_dynamic_smem_size: BlockToSharedSize, dynamic_smem_size: usize,
        block_size_limit: c_int
    );

    // Memory.
    fn cuMemAdvise(address: CUdeviceptr, count: usize, advice: c_uint, device: CUdevice);
    fn cuMemAllocAsync(address: *mut CUdeviceptr, bytesize: usize, stream: Handle);
    fn cuMemAllocHost_v2(address: *mut *mut c_void, bytesize: usize);
    fn cuMemAllocManaged(address: *mut CUdeviceptr, bytesize: usize, flags: c_uint);
    fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytesize: usize);
    fn cuMemFreeAsync(address: CUdeviceptr, stream: Handle);
    fn cuMemFreeHost(address: *mut c_void);
    fn cuMemFree_v2(address: CUdeviceptr);
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    fn cuMemHostAlloc(address: *mut *mut c_void, bytesize: usize, flags: c_uint);
    fn cuMemPrefetchAsync(address: CUdeviceptr, count: usize, dst_device: CUdevice, stream: Handle);
    fn cuMemcpy2D_v2(copy: *const c_void);
    fn cuMemcpyAtoH_v2(
        dst_host: *mut c_void, src_array: Handle, src_offset: usize, byte_count: usize
    );
    fn cuMemcpyDtoDAsync_v2(
        dst_device: CUdeviceptr, src_device: CUdeviceptr, byte_count: usize, stream: Handle
    );
    fn cuMemcpyDtoD_v2(dst_device: CUdeviceptr, src_device: CUdeviceptr, byte_count: usize);
    fn cuMemcpyDtoHAsync_v2(
        dst_host: *mut c_void, src_device: CUdeviceptr, byte_count: usize, stream: Handle
    );
    fn cuMemcpyDtoH_v2(dst_host: *mut c_void, src_device: CUdeviceptr, byte_count: usize);
    fn cuMemcpyHtoA_v2(
        dst_array: Handle, dst_offset: usize, src_host: *const c_void, byte_count: usize
    );
    fn cuMemcpyHtoDAsync_v2(
        dst_device: CUdeviceptr, src_host: *const c_void, byte_count: usize, stream: Handle
    );
    fn cuMemcpyHtoD_v2(dst_device: CUdeviceptr, src_host: *const c_void, byte_count: usize);
    fn cuMemsetD16Async(dst_device: CUdeviceptr, value: u16, count: usize, stream: Handle);
    fn cuMemsetD16_v2(dst_device: CUdeviceptr, value: u16, count: usize);
    fn cuMemsetD32Async(dst_device: CUdeviceptr, value: c_uint, count: usize, stream: Handle);
    fn cuMemsetD32_v2(dst_device: CUdeviceptr, value: c_uint, count: usize);
    fn cuMemsetD8Async(dst_device: CUdeviceptr, value: u8, count: usize, stream: Handle);
    fn cuMemsetD8_v2(dst_device: CUdeviceptr, value: u8, count: usize);
    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_uint, address: CUdeviceptr);

    // Streams and events.
    fn cuEventCreate(event: *mut Handle, flags: c_uint);
    fn cuEventDestroy_v2(event: Handle);
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle);
    fn cuEventQuery(event: Handle);
    fn cuEventRecord(event: Handle, stream: Handle);
    fn cuEventSynchronize(event: Handle);
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint);
    fn cuStreamCreate(stream: *mut Handle, flags: c_uint);
    fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, priority: c_int);
    fn cuStreamDestroy_v2(stream: Handle);
    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle);
    fn cuStreamGetFlags(stream: Handle, flags: *mut c_uint);
    fn cuStreamGetPriority(stream: Handle, priority: *mut c_int);
    fn cuStreamIsCapturing(stream: Handle, capture_status: *mut c_uint);
    fn cuStreamQuery(stream: Handle);
    fn cuStreamSynchronize(stream: Handle);
    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint);

    // Graphs.
    fn cuGraphAddKernelNode(
        graph_node: *mut Handle, graph: Handle, dependencies: *const Handle,
        num_dependencies: usize, node_params: *const c_void
    );
    fn cuGraphCreate(graph: *mut Handle, flags: c_uint);
    fn cuGraphDebugDotPrint(graph: Handle, path: *const c_char, flags: c_uint);
    fn cuGraphDestroy(graph: Handle);
    fn cuGraphExecDestroy(graph_exec: Handle);
    fn cuGraphGetEdges(graph: Handle, from: *mut Handle, to: *mut Handle, num_edges: *mut usize);
    fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, num_nodes: *mut usize);
    fn cuGraphInstantiateWithFlags(graph_exec: *mut Handle, graph: Handle, flags: u64);
    fn cuGraphInstantiate_v2(
        graph_exec: *mut Handle, graph: Handle, error_node: *mut Handle,
        log_buffer: *mut c_char, buffer_size: usize
    );
    fn cuGraphKernelNodeGetParams(node: Handle, node_params: *mut c_void);
    fn cuGraphLaunch(graph_exec: Handle, stream: Handle);
    fn cuGraphNodeGetType(node: Handle, kind: *mut c_uint);
    fn cuGraphUpload(graph_exec: Handle, stream: Handle);

    // What only cust refers to: arrays, textures, surfaces, memory of other interfaces.
    fn cuArray3DCreate_v2(array: *mut Handle, descriptor: *const c_void);
    fn cuArray3DGetDescriptor_v2(descriptor: *mut c_void, array: Handle);
    fn cuArrayDestroy(array: Handle);
    fn cuDestroyExternalMemory(ext_mem: Handle);
    fn cuExternalMemoryGetMappedBuffer(
        address: *mut CUdeviceptr, ext_mem: Handle, buffer_desc: *const c_void
    );
    fn cuImportExternalMemory(ext_mem_out: *mut Handle, mem_handle_desc: *const c_void);
    fn cuSurfObjectCreate(surface: *mut u64, resource: *const c_void);
    fn cuSurfObjectDestroy(surface: u64);
    fn cuSurfObjectGetResourceDesc(resource: *mut c_void, surface: u64);
    fn cuTexObjectCreate(
        texture: *mut u64, resource: *const c_void, texture_descriptor: *const c_void,
        view: *const c_void
    );
    fn cuTexObjectDestroy(texture: u64);
    fn cuTexObjectGetResourceDesc(resource: *mut c_void, texture: u64);
    fn cuTexObjectGetResourceViewDesc(view: *mut c_void, texture: u64);
}

/// Defines `cuGetErrorName` or `cuGetErrorString`: the driver's text, else this crate's.
///
/// Neither is written down as a failure, since they are called while one is being shown.
macro_rules! error_texts {
    ($($name:ident: $text:ident;)*) => {$(
        #[doc = concat!("Calls the driver's `", stringify!($name), "`, or answers in its place.")]
        ///
        /// # Safety
        ///
        /// `text` points to a place for a pointer.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name(error: c_int, text: *mut *const c_char) -> c_int {
            type Function = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
            if let Ok(function) = driver_function!($name: Function) {
                // SAFETY: the caller answers for the arguments.
                if unsafe { function(error, text) } == SUCCESS as c_int {
                    return SUCCESS as c_int;
                }
            }
            match codes::find(error as u32) {
                Some(code) if !text.is_null() => {
                    // SAFETY: the caller made room, and the text lives for ever and ends in NUL.
                    unsafe { *text = code.$text.as_ptr().cast() };
                    SUCCESS as c_int
                }
                _ => INVALID_VALUE as c_int,
            }
        }
    )*};
}

error_texts! {
    cuGetErrorName: name_with_nul;
    cuGetErrorString: description_with_nul;
}
