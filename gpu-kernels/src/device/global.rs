//! Buffers in global memory, as kernels get them.

use crate::kernel::{In, Out};

/// Four neighbouring elements that are loaded or stored at once.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Four<T>(pub [T; 4]);

/// Two neighbouring elements that are loaded at once.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Two<T>([T; 2]);

impl<T> In<T> {
    /// The buffer from element `i` on.
    #[inline(always)]
    pub fn from(&self, i: usize) -> Self {
        In::at(self.as_ptr().wrapping_add(i))
    }
}

impl<T> Out<T> {
    /// The buffer from element `i` on.
    #[inline(always)]
    pub fn from(&self, i: usize) -> Self {
        Out::at(self.as_mut_ptr().wrapping_add(i))
    }
}

impl<T: Copy> In<T> {
    /// Element `i`.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, and the element was written before it.
    #[inline(always)]
    pub unsafe fn get(&self, i: usize) -> T {
        // SAFETY: the caller promises an initialised element of a live buffer.
        unsafe { self.as_ptr().add(i).read() }
    }
}

impl In<f32> {
    /// Elements `i` and `i + 1` at once.
    ///
    /// # Safety
    /// As [`In::get`] for each; the address of element `i` is a multiple of 8.
    #[inline(always)]
    pub unsafe fn get2(&self, i: usize) -> [f32; 2] {
        // SAFETY: the caller promises two initialised elements at an aligned place.
        unsafe { self.as_ptr().add(i).cast::<Two<f32>>().read() }.0
    }

    /// Elements `i..i + 4` at once.
    ///
    /// # Safety
    /// As [`In::get`] for each; the address of element `i` is a multiple of 16.
    #[inline(always)]
    pub unsafe fn get4(&self, i: usize) -> [f32; 4] {
        // SAFETY: the caller promises four initialised elements at an aligned place.
        unsafe { self.as_ptr().add(i).cast::<Four<f32>>().read() }.0
    }
}

impl In<u8> {
    /// Bytes `i..i + 16` at once, as words in memory order.
    ///
    /// # Safety
    /// As [`In::get`] for each; the address of byte `i` is a multiple of 16.
    #[inline(always)]
    pub unsafe fn get16(&self, i: usize) -> [u32; 4] {
        // SAFETY: the caller promises sixteen initialised bytes at an aligned place.
        unsafe { self.as_ptr().add(i).cast::<Four<u32>>().read() }.0
    }

    /// Replaces `words` by bytes `i..i + 32`, in memory order, if `condition` holds.
    ///
    /// What a branch around a load leaves is handed on by a move, and the move waits for the load. Here the load goes to
    /// where the words are.
    ///
    /// # Safety
    /// As [`In::get16`] for both halves, if `condition` holds.
    #[inline(always)]
    pub unsafe fn get32_if(&self, condition: bool, i: usize, words: &mut [[u32; 4]; 2]) {
        let [[a, b, c, d], [e, f, g, h]] = words;
        // SAFETY: the caller promises initialised bytes at an aligned place, if they are loaded.
        unsafe {
            core::arch::asm!(
                "{{ .reg .pred p; setp.ne.u32 p, {condition}, 0;",
                "@p ld.global.v4.b32 {{{a}, {b}, {c}, {d}}}, [{address}];",
                "@p ld.global.v4.b32 {{{e}, {f}, {g}, {h}}}, [{address} + 16]; }}",
                condition = in(reg32) u32::from(condition), address = in(reg64) self.as_ptr().add(i),
                a = inout(reg32) *a, b = inout(reg32) *b, c = inout(reg32) *c, d = inout(reg32) *d,
                e = inout(reg32) *e, f = inout(reg32) *f, g = inout(reg32) *g, h = inout(reg32) *h,
                options(readonly, nostack, preserves_flags)
            )
        }
    }
}

impl Out<u16> {
    /// Replaces `value` by element `i`, if `condition` holds; the load goes to where the value is, as that of
    /// [`In::get32_if`] does.
    ///
    /// # Safety
    /// As [`Out::get`], if `condition` holds.
    #[inline(always)]
    pub unsafe fn get_if(&self, condition: bool, i: usize, value: &mut u16) {
        // SAFETY: the caller promises an initialised element, if it is loaded.
        unsafe {
            core::arch::asm!(
                "{{ .reg .pred p; setp.ne.u32 p, {condition}, 0;",
                "@p ld.global.u16 {value}, [{address}]; }}",
                condition = in(reg32) u32::from(condition), address = in(reg64) self.as_mut_ptr().add(i),
                value = inout(reg16) *value, options(readonly, nostack, preserves_flags)
            )
        }
    }
}

impl Out<u32> {
    /// Elements `i..i + 4` at once.
    ///
    /// # Safety
    /// As [`Out::get`] for each; the address of element `i` is a multiple of 16.
    #[inline(always)]
    pub unsafe fn get4(&self, i: usize) -> [u32; 4] {
        // SAFETY: the caller promises four initialised elements at an aligned place.
        unsafe { self.as_mut_ptr().add(i).cast::<Four<u32>>().read() }.0
    }

    /// Writes elements `i..i + 4` at once.
    ///
    /// # Safety
    /// As [`Out::set`] for each; the address of element `i` is a multiple of 16.
    #[inline(always)]
    pub unsafe fn set4(&self, i: usize, values: [u32; 4]) {
        // SAFETY: the caller promises four elements at an aligned place that are this thread's.
        unsafe {
            self.as_mut_ptr()
                .add(i)
                .cast::<Four<u32>>()
                .write(Four(values))
        }
    }
}

impl Out<f32> {
    /// Writes elements `i..i + 4` at once.
    ///
    /// # Safety
    /// As [`Out::set`] for each; the address of element `i` is a multiple of 16.
    #[inline(always)]
    pub unsafe fn set4(&self, i: usize, values: [f32; 4]) {
        // SAFETY: the caller promises four elements at an aligned place that are this thread's.
        unsafe {
            self.as_mut_ptr()
                .add(i)
                .cast::<Four<f32>>()
                .write(Four(values))
        }
    }
}

impl Out<u8> {
    /// Bytes `i..i + 16` at once, as words in memory order.
    ///
    /// # Safety
    /// As [`Out::get`] for each; the address of byte `i` is a multiple of 16.
    #[inline(always)]
    pub unsafe fn get16(&self, i: usize) -> [u32; 4] {
        // SAFETY: the caller promises sixteen initialised bytes at an aligned place.
        unsafe { self.as_mut_ptr().add(i).cast::<Four<u32>>().read() }.0
    }
}

impl<T: Copy> Out<T> {
    /// Element `i`, written by an earlier kernel of the stream or before a barrier of this block.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, the element was written, and no thread
    /// writes it before the next barrier.
    #[inline(always)]
    pub unsafe fn get(&self, i: usize) -> T {
        // SAFETY: the caller promises an initialised element of a live buffer.
        unsafe { self.as_mut_ptr().add(i).read() }
    }

    /// Writes element `i`.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, and no other thread of the grid reads or
    /// writes the element before the kernel's end (or, within the block, the next barrier).
    #[inline(always)]
    pub unsafe fn set(&self, i: usize, value: T) {
        // SAFETY: the caller promises an element of a live buffer that is this thread's.
        unsafe { self.as_mut_ptr().add(i).write(value) }
    }
}
