//! Memory: allocations, the address map, and what is known of every byte.
//!
//! Device allocations lie 2^36 apart, so an address behind an allocation's end never falls into
//! another. Shared memory has 32-bit addresses; a peer's, as `mapa` gives them, carry its rank.

use std::collections::VecDeque;

use crate::checker::{Accessor, Shadow};
use crate::error::ViolationKind;

const ALLOCATION_SHIFT: u32 = 36;
/// Allocations begin a little behind their slot: aligned to 256 bytes, as the driver promises, no more.
const FIRST_BYTE: u64 = 256;
/// The first byte of a block's own shared memory; 0 is never valid.
pub(crate) const SHARED_BASE: u64 = 1024;
/// Ranks of peers stand above this bit of a shared address.
pub(crate) const RANK_SHIFT: u32 = 24;
/// Where shared and local memory lie among generic addresses.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;
pub(crate) const LOCAL_WINDOW: u64 = 1 << 57;
pub(crate) const PARAM_WINDOW: u64 = 1 << 58;

/// What an allocation holds at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init<'a> {
    /// Zeros.
    Zero,
    /// Nothing: to read a byte before a kernel wrote it is a violation.
    Uninit,
    /// Byte `i` is `i % 256`.
    Iota,
    /// These bytes, then nothing.
    Bytes(&'a [u8]),
}

/// Device memory: it outlives launches, which the caller orders by making them one after the other.
#[derive(Debug, Default)]
pub struct Memory {
    regions: Vec<Region>,
    /// Freed slots, the oldest first.
    freed: VecDeque<usize>,
    /// Slots before the first one.
    base: u64,
}

/// Freed slots are reused, the oldest first, once there are so many: an address of a freed allocation
/// stays nobody's for long.
const REUSE_SLOTS: usize = 1024;

/// An access from outside of kernels that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}, address {address:#x}: {detail}")]
pub struct AccessError {
    /// The rule.
    pub kind: ViolationKind,
    /// The first byte of the access.
    pub address: u64,
    /// More about it.
    pub detail: String,
}

impl Memory {
    /// No allocations yet.
    pub fn new() -> Self {
        Memory::default()
    }

    /// No allocations yet; addresses begin behind those of `slots` allocations, so that several
    /// memories of one machine share no address.
    pub fn behind(slots: u64) -> Self {
        Memory {
            base: slots,
            ..Memory::default()
        }
    }

    /// Allocates `bytes` bytes and returns their address, a multiple of 256.
    pub fn alloc(&mut self, bytes: usize, init: Init<'_>) -> u64 {
        let region = Region::new(bytes, init);
        let index = match self.freed.front() {
            Some(&index) if self.regions.len() >= REUSE_SLOTS => {
                self.freed.pop_front();
                self.regions[index] = region;
                index
            }
            _ => {
                self.regions.push(region);
                self.regions.len() - 1
            }
        };
        (self.base + index as u64 + 1) << ALLOCATION_SHIFT | FIRST_BYTE
    }

    /// Allocates a copy of `data`.
    pub fn alloc_copy(&mut self, data: &[u8]) -> u64 {
        self.alloc(data.len(), Init::Bytes(data))
    }

    /// Frees the allocation at `address`, as [`Memory::alloc`] returned it; how many bytes it had, or
    /// `None` if there is none.
    pub fn free(&mut self, address: u64) -> Option<usize> {
        let (index, offset) = self.locate(address)?;
        let region = self.regions.get_mut(index)?;
        if offset != 0 || region.freed {
            return None;
        }
        let region = std::mem::replace(region, Region::freed());
        self.freed.push_back(index);
        Some(region.data.len())
    }

    /// The bytes of the allocation at `address`, as [`Memory::alloc`] returned it; bytes that nothing
    /// wrote are 0. `None` for any other address.
    pub fn bytes(&self, address: u64) -> Option<&[u8]> {
        let (index, offset) = self.locate(address)?;
        let region = self.regions.get(index)?;
        (offset == 0 && !region.freed).then_some(&region.data[..])
    }

    /// Whether every byte of the allocation at `address` has been written.
    pub fn is_written(&self, address: u64) -> bool {
        let region = self.locate(address);
        let region = region.and_then(|(index, _)| self.regions.get(index));
        region.is_some_and(|region| region.written.iter().all(|&w| w == 1))
    }

    /// Writes `data` at `address`, anywhere inside one allocation.
    ///
    /// # Errors
    /// [`ViolationKind::OutOfBounds`].
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), AccessError> {
        let (region, at) = self.range_mut(address, data.len())?;
        region.data[at..at + data.len()].copy_from_slice(data);
        region.written[at..at + data.len()].fill(1);
        Ok(())
    }

    /// Reads `len` bytes at `address`, anywhere inside one allocation.
    ///
    /// # Errors
    /// [`ViolationKind::OutOfBounds`], [`ViolationKind::UninitialisedMemory`].
    pub fn read(&mut self, address: u64, len: usize) -> Result<&[u8], AccessError> {
        let (region, at) = self.range_mut(address, len)?;
        match region.unwritten(at, len) {
            Some(Fault(kind, detail)) => Err(AccessError {
                kind,
                address,
                detail,
            }),
            None => Ok(&region.data[at..at + len]),
        }
    }

    /// Copies `len` bytes from `source` to `target`, and with them what was never written.
    ///
    /// # Errors
    /// [`ViolationKind::OutOfBounds`].
    pub fn copy(&mut self, target: u64, source: u64, len: usize) -> Result<(), AccessError> {
        let (region, at) = self.range_mut(source, len)?;
        let data = region.data[at..at + len].to_vec();
        let written = region.written[at..at + len].to_vec();
        let (region, at) = self.range_mut(target, len)?;
        region.data[at..at + len].copy_from_slice(&data);
        region.written[at..at + len].copy_from_slice(&written);
        Ok(())
    }

    /// Checks that `len` bytes at `address` lie inside one allocation.
    ///
    /// # Errors
    /// [`ViolationKind::OutOfBounds`].
    pub fn check(&mut self, address: u64, len: usize) -> Result<(), AccessError> {
        self.range_mut(address, len).map(|_| ())
    }

    fn range_mut(&mut self, address: u64, len: usize) -> Result<(&mut Region, usize), AccessError> {
        let error = |Fault(kind, detail)| AccessError {
            kind,
            address,
            detail,
        };
        let Some((region, offset)) = self.find_mut(address) else {
            let fault = Fault(ViolationKind::OutOfBounds, "nobody's address".into());
            return Err(error(fault));
        };
        let at = region.range(offset, len).map_err(error)?;
        Ok((region, at))
    }

    /// The allocation that an address belongs to, and the offset there.
    #[inline]
    pub(crate) fn find_mut(&mut self, address: u64) -> Option<(&mut Region, u64)> {
        let (index, offset) = self.locate(address)?;
        Some((self.regions.get_mut(index)?, offset))
    }

    #[inline]
    fn locate(&self, address: u64) -> Option<(usize, u64)> {
        let index = (address >> ALLOCATION_SHIFT).checked_sub(1 + self.base)?;
        let offset = (address & ((1 << ALLOCATION_SHIFT) - 1)).wrapping_sub(FIRST_BYTE);
        Some((usize::try_from(index).ok()?, offset))
    }

    /// Forgets who touched what: a launch is ordered behind all before it.
    pub(crate) fn begin_launch(&mut self) {
        for region in &mut self.regions {
            region.shadow = Shadow::default();
        }
    }
}

/// A rule broken by one access, and more about it.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) ViolationKind, pub(crate) String);

/// One array of bytes with what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Region {
    pub(crate) data: Vec<u8>,
    /// 1 for a byte that was written.
    written: Vec<u8>,
    shadow: Shadow,
    freed: bool,
}

impl Region {
    pub(crate) fn new(bytes: usize, init: Init<'_>) -> Self {
        let mut region = Region {
            data: vec![0; bytes],
            written: vec![u8::from(matches!(init, Init::Zero | Init::Iota)); bytes],
            shadow: Shadow::default(),
            freed: false,
        };
        match init {
            Init::Iota => {
                for (i, byte) in region.data.iter_mut().enumerate() {
                    *byte = i as u8;
                }
            }
            Init::Bytes(bytes) => {
                let len = bytes.len().min(region.data.len());
                region.data[..len].copy_from_slice(&bytes[..len]);
                region.written[..len].fill(1);
            }
            Init::Zero | Init::Uninit => {}
        }
        region
    }

    /// What stands in a freed allocation's place.
    fn freed() -> Self {
        Region {
            freed: true,
            ..Region::default()
        }
    }

    #[cold]
    fn outside(&self, offset: u64, width: usize) -> Fault {
        let (len, offset) = (self.data.len(), offset as i64);
        let detail = if self.freed {
            format!("{width} bytes at offset {offset} of a freed allocation")
        } else {
            format!("{width} bytes at offset {offset} of {len}")
        };
        Fault(ViolationKind::OutOfBounds, detail)
    }

    #[inline(always)]
    fn range(&self, offset: u64, width: usize) -> Result<usize, Fault> {
        let len = self.data.len() as u64;
        if offset <= len && width as u64 <= len - offset {
            Ok(offset as usize)
        } else {
            Err(self.outside(offset, width))
        }
    }

    /// The first byte of those that was never written.
    #[inline(always)]
    fn unwritten(&self, at: usize, len: usize) -> Option<Fault> {
        // One for each byte.
        let all = match len {
            1 => 0x01,
            2 => 0x0101,
            4 => 0x0101_0101,
            8 => 0x0101_0101_0101_0101,
            _ => return self.first_unwritten(at, len),
        };
        if get(&self.written[at..at + len]) == all {
            return None;
        }
        self.first_unwritten(at, len)
    }

    #[cold]
    fn first_unwritten(&self, at: usize, len: usize) -> Option<Fault> {
        let unwritten = self.written[at..at + len].iter().position(|&w| w == 0)?;
        let detail = format!("byte {} of the array", at + unwritten);
        Some(Fault(ViolationKind::UninitialisedMemory, detail))
    }

    /// Reads `width` bytes; without an accessor no race is looked for.
    #[inline(always)]
    pub(crate) fn load(
        &mut self,
        offset: u64,
        width: usize,
        who: Option<&Accessor<'_>>,
    ) -> Result<u64, Fault> {
        let at = self.range(offset, width)?;
        if let Some(fault) = self.unwritten(at, width) {
            return Err(fault);
        }
        if let Some(who) = who {
            self.shadow.read(self.data.len(), at, width, who)?;
        }
        Ok(get(&self.data[at..at + width]))
    }

    /// Writes the low `width` bytes of `value`.
    #[inline(always)]
    pub(crate) fn store(
        &mut self,
        offset: u64,
        width: usize,
        value: u64,
        who: Option<&Accessor<'_>>,
    ) -> Result<(), Fault> {
        let at = self.range(offset, width)?;
        if let Some(who) = who {
            self.shadow.write(self.data.len(), at, width, who)?;
        }
        put(&mut self.data[at..at + width], value);
        put(&mut self.written[at..at + width], 0x0101_0101_0101_0101);
        Ok(())
    }

    /// Replaces a value by `f` of it, and returns the old one.
    pub(crate) fn update(
        &mut self,
        offset: u64,
        width: usize,
        who: &Accessor<'_>,
        f: impl FnOnce(u64) -> u64,
    ) -> Result<u64, Fault> {
        // The write's check covers the read.
        let old = self.load(offset, width, None)?;
        self.store(offset, width, f(old), Some(who))?;
        Ok(old)
    }
}

/// Writes the low bytes of a number: one, two, four or eight.
#[inline(always)]
fn put(bytes: &mut [u8], value: u64) {
    let value = value.to_le_bytes();
    match bytes.len() {
        1 => bytes[0] = value[0],
        2 => bytes.copy_from_slice(&value[..2]),
        4 => bytes.copy_from_slice(&value[..4]),
        _ => bytes.copy_from_slice(&value),
    }
}

#[inline(always)]
fn get(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(all)
        }
    }
}
