//! Memory: allocations, the address map, and what is known of every byte.
//!
//! Device allocations lie 2^36 apart, so an address behind an allocation's end never falls into
//! another. Shared memory has 32-bit addresses; a peer's, as `mapa` gives them, carry its rank.

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
    pub(crate) regions: Vec<Region>,
}

impl Memory {
    /// No allocations yet.
    pub fn new() -> Self {
        Memory::default()
    }

    /// Allocates `bytes` bytes and returns their address, a multiple of 256.
    pub fn alloc(&mut self, bytes: usize, init: Init<'_>) -> u64 {
        self.regions.push(Region::new(bytes, init));
        (self.regions.len() as u64) << ALLOCATION_SHIFT | FIRST_BYTE
    }

    /// Allocates a copy of `data`.
    pub fn alloc_copy(&mut self, data: &[u8]) -> u64 {
        self.alloc(data.len(), Init::Bytes(data))
    }

    /// The bytes of the allocation at `address`, as [`Memory::alloc`] returned it; bytes that nothing
    /// wrote are 0. `None` for any other address.
    pub fn bytes(&self, address: u64) -> Option<&[u8]> {
        let (index, offset) = locate(address)?;
        let region = self.regions.get(index)?;
        (offset == 0).then_some(&region.data[..])
    }

    /// Whether every byte of the allocation at `address` has been written.
    pub fn is_written(&self, address: u64) -> bool {
        let region = locate(address).and_then(|(index, _)| self.regions.get(index));
        region.is_some_and(|region| region.written.iter().all(|&w| w == 1))
    }

    /// Forgets who touched what: a launch is ordered behind all before it.
    pub(crate) fn begin_launch(&mut self) {
        for region in &mut self.regions {
            region.shadow = Shadow::default();
        }
    }
}

/// An address's allocation and offset.
#[inline]
pub(crate) fn locate(address: u64) -> Option<(usize, u64)> {
    let index = (address >> ALLOCATION_SHIFT).checked_sub(1)?;
    let offset = (address & ((1 << ALLOCATION_SHIFT) - 1)).wrapping_sub(FIRST_BYTE);
    Some((usize::try_from(index).ok()?, offset))
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
}

impl Region {
    pub(crate) fn new(bytes: usize, init: Init<'_>) -> Self {
        let mut region = Region {
            data: vec![0; bytes],
            written: vec![u8::from(matches!(init, Init::Zero | Init::Iota)); bytes],
            shadow: Shadow::default(),
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

    #[cold]
    fn outside(&self, offset: u64, width: usize) -> Fault {
        let len = self.data.len();
        let detail = format!("{width} bytes at offset {} of {len}", offset as i64);
        Fault(ViolationKind::OutOfBounds, detail)
    }

    #[inline]
    fn range(&self, offset: u64, width: usize) -> Result<usize, Fault> {
        let len = self.data.len() as u64;
        if offset < len && width as u64 <= len - offset {
            Ok(offset as usize)
        } else {
            Err(self.outside(offset, width))
        }
    }

    /// Reads `width` bytes; without an accessor no race is looked for.
    #[inline]
    pub(crate) fn load(
        &mut self,
        offset: u64,
        width: usize,
        who: Option<&Accessor<'_>>,
    ) -> Result<u64, Fault> {
        let at = self.range(offset, width)?;
        if let Some(unwritten) = self.written[at..at + width].iter().position(|&w| w == 0) {
            let detail = format!("byte {} of the array", at + unwritten);
            return Err(Fault(ViolationKind::UninitialisedMemory, detail));
        }
        if let Some(who) = who {
            self.shadow.read(self.data.len(), at, width, who)?;
        }
        Ok(get(&self.data[at..at + width]))
    }

    /// Writes the low `width` bytes of `value`.
    #[inline]
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
        self.data[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        self.written[at..at + width].fill(1);
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

#[inline]
fn get(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(all)
        }
    }
}
