//! Clusters of blocks: who is there, the cluster barrier, and each other's shared memory.
//!
//! Compiled only for chips that have them (compute capability 9.0 and later).

use core::arch::asm;

use super::shared::SharedArray;

unsafe extern "C" {
    #[link_name = "llvm.nvvm.read.ptx.sreg.cluster.ctarank"]
    fn ctarank() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.clusterid.x"]
    fn clusterid_x() -> u32;
    #[link_name = "llvm.nvvm.barrier.cluster.arrive.aligned"]
    fn barrier_arrive();
    #[link_name = "llvm.nvvm.barrier.cluster.arrive.relaxed.aligned"]
    fn barrier_arrive_relaxed();
    #[link_name = "llvm.nvvm.barrier.cluster.wait.aligned"]
    fn barrier_wait();
}

/// Index of the cluster along x.
#[inline(always)]
pub fn idx_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { clusterid_x() }
}

/// Index of the block in its cluster.
#[inline(always)]
pub fn block_rank() -> u32 {
    // SAFETY: reads a special register.
    unsafe { ctarank() }
}

/// Says that this thread is here; its writes before are seen by whoever has waited.
///
/// # Safety
/// Every thread of the cluster reaches this call, warps as a whole, and then [`wait`].
#[inline(always)]
pub unsafe fn arrive() {
    // SAFETY: the caller promises uniform arrival.
    unsafe { barrier_arrive() }
}

/// [`arrive`], but nothing that the thread has written need be seen by others.
///
/// # Safety
/// As [`arrive`].
#[inline(always)]
pub unsafe fn arrive_relaxed() {
    // SAFETY: the caller promises uniform arrival.
    unsafe { barrier_arrive_relaxed() }
}

/// Waits until every thread of the cluster has arrived.
///
/// # Safety
/// Every thread of the cluster reaches this call, warps as a whole, after [`arrive`].
#[inline(always)]
pub unsafe fn wait() {
    // SAFETY: the caller promises uniform arrival.
    unsafe { barrier_wait() }
}

/// [`arrive`], then [`wait`].
///
/// # Safety
/// Every thread of the cluster reaches this call, warps as a whole.
#[inline(always)]
pub unsafe fn sync() {
    // SAFETY: the caller promises uniform arrival.
    unsafe {
        arrive();
        wait();
    }
}

/// An array in the shared memory of another block of the cluster.
#[derive(Clone, Copy)]
pub struct RemoteArray {
    address: u32,
}

/// The same array in block `rank` of the cluster.
#[inline(always)]
pub fn remote(array: SharedArray<u32>, rank: u32) -> RemoteArray {
    let address: u32;
    // SAFETY: computes an address; `rank` is below the cluster's size by the callers' loops.
    unsafe {
        asm!("mapa.shared::cluster.u32 {}, {}, {};", out(reg32) address,
             in(reg32) array.address(), in(reg32) rank, options(pure, nomem, nostack))
    };
    RemoteArray { address }
}

impl RemoteArray {
    /// Words `i..i + 4`.
    ///
    /// # Safety
    /// The other block wrote the words before a cluster barrier that this one has waited at, leaves them alone until
    /// the next, and has not ended; array and `i` start at multiples of 4 words.
    #[inline(always)]
    pub unsafe fn get4(self, i: u32) -> [u32; 4] {
        let (a, b, c, d): (u32, u32, u32, u32);
        // SAFETY: the caller promises four initialised words of a live block at an aligned place.
        unsafe {
            asm!("ld.shared::cluster.v4.b32 {{{}, {}, {}, {}}}, [{}];", out(reg32) a,
                 out(reg32) b, out(reg32) c, out(reg32) d, in(reg32) self.address + 4 * i,
                 options(readonly, nostack, preserves_flags))
        };
        [a, b, c, d]
    }

    /// Writes word `i`.
    ///
    /// # Safety
    /// The other block has begun, which a cluster barrier has shown, and has not ended; nobody else reads or writes
    /// the word before the next cluster barrier.
    #[inline(always)]
    pub unsafe fn set(self, i: u32, value: u32) {
        // SAFETY: the caller promises a word of a live block that is this thread's.
        unsafe {
            asm!("st.shared::cluster.b32 [{}], {};", in(reg32) self.address + 4 * i,
                 in(reg32) value, options(nostack, preserves_flags))
        };
    }

    /// Writes words `2 * i` and `2 * i + 1` as one.
    ///
    /// # Safety
    /// As [`RemoteArray::set`] for both; the array starts at an even word.
    #[inline(always)]
    pub unsafe fn set_u64(self, i: u32, bits: u64) {
        // SAFETY: the caller promises words of a live block at an aligned place that are this thread's.
        unsafe {
            asm!("st.shared::cluster.b64 [{}], {};", in(reg32) self.address + 8 * i,
                 in(reg64) bits, options(nostack, preserves_flags))
        };
    }
}
