//! Dynamic shared memory, addressed with 32 bits: through generic pointers the loads are slower.

use core::arch::{asm, global_asm};
use core::marker::PhantomData;

global_asm!(".extern .shared .align 16 .b8 dyn_smem[];");

/// A 4-byte type that lives in shared memory.
pub trait Word: Copy {
    /// As bits.
    fn to_bits(self) -> u32;
    /// From bits.
    fn from_bits(bits: u32) -> Self;
}

impl Word for u32 {
    #[inline(always)]
    fn to_bits(self) -> u32 {
        self
    }
    #[inline(always)]
    fn from_bits(bits: u32) -> Self {
        bits
    }
}

impl Word for f32 {
    #[inline(always)]
    fn to_bits(self) -> u32 {
        f32::to_bits(self)
    }
    #[inline(always)]
    fn from_bits(bits: u32) -> Self {
        f32::from_bits(bits)
    }
}

/// An array of words at a fixed place of the block's dynamic shared memory.
#[derive(Clone, Copy)]
pub struct SharedArray<T> {
    address: u32,
    _words: PhantomData<T>,
}

/// The array that starts `offset` words into the block's dynamic shared memory.
#[inline(always)]
pub fn dynamic_shared_mem<T: Word>(offset: u32) -> SharedArray<T> {
    let base: u32;
    // SAFETY: takes the address of the symbol declared above.
    unsafe { asm!("mov.u32 {}, dyn_smem;", out(reg32) base, options(pure, nomem, nostack)) };
    SharedArray {
        address: base + 4 * offset,
        _words: PhantomData,
    }
}

impl<T: Word> SharedArray<T> {
    /// The array at `address` of the shared memory.
    #[inline(always)]
    pub fn at(address: u32) -> Self {
        SharedArray {
            address,
            _words: PhantomData,
        }
    }

    /// Word `i`.
    ///
    /// # Safety
    /// The launch gave the block that much shared memory, the word was written, and no thread
    /// writes it before the next barrier.
    #[inline(always)]
    pub unsafe fn get(self, i: u32) -> T {
        let bits: u32;
        // SAFETY: the caller promises an initialised word inside the block's shared memory.
        unsafe {
            asm!("ld.shared.b32 {}, [{}];", out(reg32) bits, in(reg32) self.address + 4 * i,
                 options(readonly, nostack, preserves_flags))
        };
        T::from_bits(bits)
    }

    /// The word `offset` bytes into the array, a multiple of 4.
    ///
    /// # Safety
    /// As [`SharedArray::get`].
    #[inline(always)]
    pub unsafe fn get_at(self, offset: u32) -> T {
        let bits: u32;
        // SAFETY: the caller promises an initialised word inside the block's shared memory.
        unsafe {
            asm!("ld.shared.b32 {}, [{}];", out(reg32) bits, in(reg32) self.address + offset,
                 options(readonly, nostack, preserves_flags))
        };
        T::from_bits(bits)
    }

    /// Writes word `i`.
    ///
    /// # Safety
    /// The launch gave the block that much shared memory, and no other thread reads or writes the
    /// word before the next barrier.
    #[inline(always)]
    pub unsafe fn set(self, i: u32, value: T) {
        // SAFETY: the caller promises a word inside the block's shared memory that is this thread's.
        unsafe {
            asm!("st.shared.b32 [{}], {};", in(reg32) self.address + 4 * i, in(reg32) value.to_bits(),
                 options(nostack, preserves_flags))
        };
    }
}

impl<T: Word> SharedArray<T> {
    /// Words `i..i + 4`.
    ///
    /// # Safety
    /// As [`SharedArray::get`] for each; the array starts at a multiple of 4 words and so does `i`.
    #[inline(always)]
    pub unsafe fn get4(self, i: u32) -> [T; 4] {
        let (a, b, c, d): (u32, u32, u32, u32);
        // SAFETY: the caller promises four initialised words at an aligned place.
        unsafe {
            asm!("ld.shared.v4.b32 {{{}, {}, {}, {}}}, [{}];", out(reg32) a, out(reg32) b,
                 out(reg32) c, out(reg32) d, in(reg32) self.address + 4 * i,
                 options(readonly, nostack, preserves_flags))
        };
        [a, b, c, d].map(T::from_bits)
    }

    /// Writes words `i..i + 4`.
    ///
    /// # Safety
    /// As [`SharedArray::set`] for each; the array starts at a multiple of 4 words and so does `i`.
    #[inline(always)]
    pub unsafe fn set4(self, i: u32, values: [T; 4]) {
        let [a, b, c, d] = values.map(T::to_bits);
        // SAFETY: the caller promises four words at an aligned place that are this thread's.
        unsafe {
            asm!("st.shared.v4.b32 [{}], {{{}, {}, {}, {}}};", in(reg32) self.address + 4 * i,
                 in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d,
                 options(nostack, preserves_flags))
        };
    }

    /// Words `i` and `i + 1`.
    ///
    /// # Safety
    /// As [`SharedArray::get`] for both; the array starts at an even word and `i` is even.
    #[inline(always)]
    pub unsafe fn get2(self, i: u32) -> [T; 2] {
        let (a, b): (u32, u32);
        // SAFETY: the caller promises two initialised words at an aligned place.
        unsafe {
            asm!("ld.shared.v2.b32 {{{}, {}}}, [{}];", out(reg32) a, out(reg32) b,
                 in(reg32) self.address + 4 * i, options(readonly, nostack, preserves_flags))
        };
        [a, b].map(T::from_bits)
    }

    /// The address in the block's shared window.
    #[inline(always)]
    pub fn address(self) -> u32 {
        self.address
    }
}

impl SharedArray<u32> {
    /// Words `2 * i` and `2 * i + 1` as one.
    ///
    /// # Safety
    /// As [`SharedArray::get`] for both; the array starts at an even word.
    #[inline(always)]
    pub unsafe fn get_u64(self, i: u32) -> u64 {
        let bits: u64;
        // SAFETY: the caller promises initialised words at an aligned place.
        unsafe {
            asm!("ld.shared.b64 {}, [{}];", out(reg64) bits, in(reg32) self.address + 8 * i,
                 options(readonly, nostack, preserves_flags))
        };
        bits
    }

    /// Writes words `2 * i` and `2 * i + 1` as one.
    ///
    /// # Safety
    /// As [`SharedArray::set`] for both; the array starts at an even word.
    #[inline(always)]
    pub unsafe fn set_u64(self, i: u32, bits: u64) {
        // SAFETY: the caller promises words at an aligned place that are this thread's.
        unsafe {
            asm!("st.shared.b64 [{}], {};", in(reg32) self.address + 8 * i, in(reg64) bits,
                 options(nostack, preserves_flags))
        };
    }

    /// [`SharedArray::get_u64`] as a number.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn get_f64(self, i: u32) -> f64 {
        // SAFETY: the caller's.
        f64::from_bits(unsafe { self.get_u64(i) })
    }

    /// [`SharedArray::set_u64`] of a number.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn set_f64(self, i: u32, value: f64) {
        // SAFETY: the caller's.
        unsafe { self.set_u64(i, value.to_bits()) };
    }

    /// The byte at `address`, see [`SharedArray::address`].
    ///
    /// # Safety
    /// As [`SharedArray::get`] for its word.
    #[inline(always)]
    pub unsafe fn get_u8(self, address: u32) -> u32 {
        let byte: u32;
        // SAFETY: the caller promises an initialised byte inside the block's shared memory.
        unsafe {
            asm!("ld.shared.u8 {}, [{}];", out(reg32) byte, in(reg32) address,
                 options(readonly, nostack, preserves_flags))
        };
        byte
    }

    /// Writes byte `i % 4` of word `i / 4`.
    ///
    /// # Safety
    /// As [`SharedArray::set`] for the byte.
    #[inline(always)]
    pub unsafe fn set_u8(self, i: u32, value: u32) {
        // SAFETY: the caller promises a byte inside the block's shared memory that is this thread's.
        unsafe {
            asm!("st.shared.u8 [{}], {};", in(reg32) self.address + i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
    }

    /// Writes half `i % 2` of word `i / 2`.
    ///
    /// # Safety
    /// As [`SharedArray::set`] for the half.
    #[inline(always)]
    pub unsafe fn set_u16(self, i: u32, value: u32) {
        // SAFETY: the caller promises a half word inside the block's shared memory that is this thread's.
        unsafe {
            asm!("st.shared.u16 [{}], {};", in(reg32) self.address + 2 * i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
    }

    /// Adds to word `i` and returns what it was; several threads may do so at once.
    ///
    /// # Safety
    /// As [`SharedArray::atomic_add`].
    #[inline(always)]
    pub unsafe fn atomic_fetch_add(self, i: u32, value: u32) -> u32 {
        let old: u32;
        // SAFETY: the caller promises a word inside the block's shared memory.
        unsafe {
            asm!("atom.shared.add.u32 {}, [{}], {};", out(reg32) old,
                 in(reg32) self.address + 4 * i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
        old
    }

    /// Sets in word `i` the bits of `value`; several threads may do so at once.
    ///
    /// # Safety
    /// As [`SharedArray::atomic_add`], with setting for adding.
    #[inline(always)]
    pub unsafe fn atomic_or(self, i: u32, value: u32) {
        // SAFETY: the caller promises a word inside the block's shared memory.
        unsafe {
            asm!("red.shared.or.b32 [{}], {};", in(reg32) self.address + 4 * i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
    }

    /// Lowers word `i` to `value`; several threads may do so at once.
    ///
    /// # Safety
    /// As [`SharedArray::atomic_add`], with lowering for adding.
    #[inline(always)]
    pub unsafe fn atomic_min(self, i: u32, value: u32) {
        // SAFETY: the caller promises a word inside the block's shared memory.
        unsafe {
            asm!("red.shared.min.u32 [{}], {};", in(reg32) self.address + 4 * i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
    }

    /// Raises word `i` to `value`; several threads may do so at once.
    ///
    /// # Safety
    /// As [`SharedArray::atomic_add`], with raising for adding.
    #[inline(always)]
    pub unsafe fn atomic_max(self, i: u32, value: u32) {
        // SAFETY: the caller promises a word inside the block's shared memory.
        unsafe {
            asm!("red.shared.max.u32 [{}], {};", in(reg32) self.address + 4 * i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
    }

    /// Adds to word `i`; several threads may do so at once.
    ///
    /// # Safety
    /// The launch gave the block that much shared memory, and between two barriers the word is
    /// only added to.
    #[inline(always)]
    pub unsafe fn atomic_add(self, i: u32, value: u32) {
        // SAFETY: the caller promises a word inside the block's shared memory.
        unsafe {
            asm!("red.shared.add.u32 [{}], {};", in(reg32) self.address + 4 * i, in(reg32) value,
                 options(nostack, preserves_flags))
        };
    }
}
