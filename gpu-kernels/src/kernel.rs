//! `kernel!`: one declaration, two faces.
//!
//! ```text
//! kernel! {
//!     /// What the kernel does, its grid, its shared memory.
//!     pub fn scores as Scores(tables: In<f32>, codes: In<u8>, scores: Out<f32>, shape: StepShape);
//!     threads = 256; barriers = 1; shuffles = 0;
//!     { ...body, compiled for the device only... }
//! }
//! ```
//!
//! For the device this is the entry point `scores`. For the host it is the struct `Scores` with a
//! public field for each parameter, so that an argument of the wrong type does not compile, and its
//! [`KernelInfo`], from which `cargo xtask` writes `.maxntid` and checks that the compiler left as
//! many barriers and shuffles in the PTX as the source means.

use core::marker::PhantomData;

/// What is known of a kernel without running it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelInfo {
    /// The entry point's name in the PTX.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of a cluster; 0: launched without clusters; [`ANY_CLUSTER`]: the launch says.
    pub cluster: u32,
    /// Blocks that a multiprocessor is to hold at once, which bounds the registers; 0: any.
    pub min_blocks: u32,
    /// Block barriers in the code.
    pub barriers: u32,
    /// Shuffles, votes and other warp-wide operations in the code.
    pub warp_collectives: u32,
    /// Cluster barriers in the code.
    pub cluster_barriers: u32,
}

/// The cluster size of a kernel that takes any: [`KernelInfo::cluster`].
pub const ANY_CLUSTER: u32 = u32::MAX;

/// A kernel's argument list, on the host.
pub trait KernelArgs {
    /// The kernel it belongs to.
    const INFO: KernelInfo;
    /// Calls `launch` with a pointer to each argument, in order.
    fn with_pointers<R>(&self, launch: impl FnOnce(&mut [*mut core::ffi::c_void]) -> R) -> R;
}

/// A buffer in device memory that a kernel reads: on the device a pointer, on the host its address.
#[repr(transparent)]
pub struct In<T> {
    address: *const T,
    _buffer: PhantomData<T>,
}

/// A buffer in device memory that a kernel writes: on the device a pointer, on the host its address.
#[repr(transparent)]
pub struct Out<T> {
    address: *mut T,
    _buffer: PhantomData<T>,
}

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}
impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> In<T> {
    /// The buffer at a pointer.
    #[inline(always)]
    pub(crate) fn at(address: *const T) -> Self {
        In {
            address,
            _buffer: PhantomData,
        }
    }

    /// The buffer at a device address. The promise that it is one is made where a kernel is launched.
    pub fn from_address(address: u64) -> Self {
        In::at(address as usize as *const T)
    }

    /// The address.
    #[inline(always)]
    pub fn as_ptr(&self) -> *const T {
        self.address
    }
}

impl<T> Out<T> {
    /// The buffer at a pointer.
    #[inline(always)]
    pub(crate) fn at(address: *mut T) -> Self {
        Out {
            address,
            _buffer: PhantomData,
        }
    }

    /// The buffer at a device address. The promise that it is one is made where a kernel is launched.
    pub fn from_address(address: u64) -> Self {
        Out::at(address as usize as *mut T)
    }

    /// The address.
    #[inline(always)]
    pub fn as_mut_ptr(&self) -> *mut T {
        self.address
    }

    /// The same buffer, to read from.
    #[inline(always)]
    pub fn as_input(&self) -> In<T> {
        In::at(self.address)
    }
}

/// Declares a kernel; see the module's documentation.
#[macro_export]
macro_rules! kernel {
    (
        $(#[$doc:meta])*
        pub fn $name:ident as $Args:ident ( $($arg:ident : $Type:ty),* $(,)? );
        threads = $threads:expr; barriers = $barriers:expr; shuffles = $shuffles:expr;
        $body:block
    ) => {
        $crate::kernel! {
            $(#[$doc])*
            pub fn $name as $Args ( $($arg : $Type),* );
            threads = $threads; barriers = $barriers; shuffles = $shuffles;
            min_blocks = 0; cluster = 0; cluster_barriers = 0;
            $body
        }
    };
    (
        $(#[$doc:meta])*
        pub fn $name:ident as $Args:ident ( $($arg:ident : $Type:ty),* $(,)? );
        threads = $threads:expr; barriers = $barriers:expr; shuffles = $shuffles:expr;
        min_blocks = $min_blocks:expr; cluster = $cluster:expr;
        cluster_barriers = $cluster_barriers:expr;
        $body:block
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Every buffer has the elements that the shape implies, the block has the declared number
        /// of threads, and what earlier stages write is written.
        #[cfg(target_arch = "nvptx64")]
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name($($arg: $Type),*) $body

        $(#[$doc])*
        #[cfg(not(target_arch = "nvptx64"))]
        #[derive(Clone, Copy)]
        pub struct $Args {
            $(
                #[doc = concat!("Argument `", stringify!($arg), "`.")]
                pub $arg: $Type,
            )*
        }

        #[cfg(not(target_arch = "nvptx64"))]
        impl $crate::kernel::KernelArgs for $Args {
            const INFO: $crate::kernel::KernelInfo = $crate::kernel::KernelInfo {
                name: stringify!($name),
                threads: $threads,
                cluster: $cluster,
                min_blocks: $min_blocks,
                barriers: $barriers,
                warp_collectives: $shuffles,
                cluster_barriers: $cluster_barriers,
            };

            fn with_pointers<R>(
                &self,
                launch: impl FnOnce(&mut [*mut core::ffi::c_void]) -> R,
            ) -> R {
                launch(&mut [
                    $(core::ptr::from_ref(&self.$arg).cast_mut().cast::<core::ffi::c_void>()),*
                ])
            }
        }
    };
}
