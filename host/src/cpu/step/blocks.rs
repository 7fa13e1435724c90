//! Transposed codes, and the scan over them that keeps the candidates a bound cannot exclude.

use gpu_kernels::step::StepShape;

use super::filter::Filter;
use super::nth::nth_smallest;
use crate::cpu::simd::{BYTES, ByteLanes, Isa, Simd, on_each_isa};

/// One group's codes: blocks of [`BYTES`] keys, in each one vector for every sub-vector, or for every
/// two where a code is at most 4 bits: the second one's code is the upper half of the byte.
#[derive(Debug)]
pub(super) struct Blocks {
    vectors: Vec<ByteLanes>,
    per_block: usize,
}

/// Whether a byte holds two codes.
fn is_packed(bits: u32) -> bool {
    bits <= 4
}

/// Calls the function for tables of so many rows of 16 entries.
macro_rules! by_rows {
    ($bits:expr, $one:ident $two:ident $four:ident $eight:ident $sixteen:ident, $args:tt) => {
        match $bits {
            1..=4 => $one $args,
            5 => $two $args,
            6 => $four $args,
            7 => $eight $args,
            _ => $sixteen $args,
        }
    };
}

impl Blocks {
    pub(super) fn new(shape: &StepShape) -> Self {
        let m = shape.num_subvectors as usize;
        let per_block = if is_packed(shape.bits) {
            m.div_ceil(2)
        } else {
            m
        };
        let blocks = (shape.code_capacity as usize).div_ceil(BYTES);
        Blocks {
            vectors: vec![ByteLanes([0; BYTES]); blocks * per_block],
            per_block,
        }
    }

    /// Takes over codes `new` of `codes` `[code_capacity, m]`, whose places are still zero.
    pub(super) fn append(&mut self, shape: &StepShape, codes: &[u8], new: std::ops::Range<usize>) {
        let m = shape.num_subvectors as usize;
        for code in new {
            let vectors = &mut self.vectors[code / BYTES * self.per_block..][..self.per_block];
            for (subvector, &value) in codes[code * m..(code + 1) * m].iter().enumerate() {
                if is_packed(shape.bits) {
                    vectors[subvector / 2].0[code % BYTES] |= value << (4 * (subvector % 2));
                } else {
                    vectors[subvector].0[code % BYTES] = value;
                }
            }
        }
    }

    /// Puts those of `candidates` into `found` whose deficit `filter` does not exclude.
    pub(super) fn scan(
        &self,
        simd: Simd,
        filter: &Filter,
        candidates: std::ops::Range<usize>,
        found: &mut Found,
    ) {
        let (vectors, rows) = (&self.vectors[..], &filter.rows[..]);
        by_rows!(
            filter.bits,
            scan_1 scan_2 scan_4 scan_8 scan_16,
            (simd, vectors, self.per_block, rows, candidates, found)
        );
    }

    /// The deficits of some candidates, whole blocks at even distances; returns how many there are.
    pub(super) fn sample(
        &self,
        simd: Simd,
        filter: &Filter,
        candidates: std::ops::Range<usize>,
        deficits: &mut [[u16; BYTES]; Self::SAMPLE],
    ) -> usize {
        let blocks = candidates.start.div_ceil(BYTES)..candidates.end / BYTES;
        // A part of all blocks, or the sample would cost as much as the scan.
        let len = (blocks.len() / 32).clamp(blocks.len().min(1), Self::SAMPLE);
        let step = blocks.len() / len.max(1) * self.per_block;
        let first = (blocks.start * self.per_block).min(self.vectors.len());
        let (vectors, rows) = (&self.vectors[first..], &filter.rows[..]);
        by_rows!(
            filter.bits,
            deficits_1 deficits_2 deficits_4 deficits_8 deficits_16,
            (simd, vectors, self.per_block, step, rows, &mut deficits[..len])
        );
        len * BYTES
    }

    /// Most blocks of a sample.
    pub(super) const SAMPLE: usize = 64;
}

/// Candidates that a scan found, with their deficits, by ascending code.
#[derive(Debug)]
pub(super) struct Found {
    codes: Vec<u32>,
    deficits: Vec<u16>,
    len: usize,
    search: Search,
    /// Deficits up to here are kept.
    cut: u16,
}

/// What a scan looks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// Candidates that are looked for.
    pub(super) heavy_k: usize,
    /// How much the deficits of candidates as good as each other can differ.
    pub(super) slack: u16,
    /// The largest deficit from which a key's score follows: [`Filter::largest`].
    pub(super) largest: u16,
    /// Deficits up to here are kept at first.
    pub(super) cut: u16,
}

impl Found {
    /// Codes that are written at once, whether they were found or not.
    const AT_ONCE: usize = 4;

    /// Room for `capacity` candidates.
    pub(super) fn new(capacity: usize) -> Self {
        Found {
            codes: vec![0; capacity + Self::AT_ONCE],
            deficits: vec![0; capacity + Self::AT_ONCE],
            len: 0,
            search: Search {
                heavy_k: 0,
                slack: 0,
                largest: 0,
                cut: 0,
            },
            cut: 0,
        }
    }

    /// Begins a search.
    pub(super) fn start(&mut self, search: Search) {
        self.len = 0;
        self.search = search;
        self.cut = search.cut;
    }

    /// Lowers the cut to what the candidates found so far allow.
    #[inline(never)]
    fn lower_cut(&mut self, simd: Simd) {
        let Search { heavy_k, slack, .. } = self.search;
        let parts = std::iter::once(self.deficits());
        let nth = nth_smallest(simd, parts, heavy_k, self.cut);
        if nth <= self.search.largest {
            self.cut = self.cut.min(nth + slack);
        }
    }

    /// Deficits of those found.
    pub(super) fn deficits(&self) -> &[u16] {
        &self.deficits[..self.len]
    }

    /// (code, deficit) of those found.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        let codes = self.codes[..self.len].iter();
        codes.copied().zip(self.deficits().iter().copied())
    }

    /// Takes the candidates of `mask` in the block of code `first`. Most masks have few, and how many
    /// cannot be predicted: no branch up to `AT_ONCE`.
    #[inline(always)]
    fn push<const AT_ONCE: usize>(&mut self, mut mask: u64, first: usize, deficits: &[u16; BYTES]) {
        let count = mask.count_ones() as usize;
        let codes = &mut self.codes[self.len..][..Self::AT_ONCE];
        let to = &mut self.deficits[self.len..][..Self::AT_ONCE];
        for i in 0..AT_ONCE {
            let lane = mask.trailing_zeros() as usize % BYTES;
            codes[i] = (first + lane) as u32;
            to[i] = deficits[lane];
            mask &= mask.wrapping_sub(1);
        }
        if mask != 0 {
            self.push_more(mask, first, deficits, self.len + AT_ONCE);
        }
        self.len += count;
    }

    #[cold]
    #[inline(never)]
    fn push_more(&mut self, mut mask: u64, first: usize, deficits: &[u16; BYTES], from: usize) {
        let codes = self.codes[from..].iter_mut();
        for (code, to) in codes.zip(&mut self.deficits[from..]) {
            let lane = mask.trailing_zeros() as usize % BYTES;
            *code = (first + lane) as u32;
            *to = deficits[lane];
            mask &= mask - 1;
            if mask == 0 {
                break;
            }
        }
    }
}

macro_rules! for_rows {
    ($($rows:literal: $scan:ident $deficits:ident,)*) => {$(
        on_each_isa! {
            fn $scan(
                vectors: &[ByteLanes],
                per_block: usize,
                rows: &[[u8; 16]],
                candidates: std::ops::Range<usize>,
                found: &mut Found,
            ) = scan_on::<_, $rows>;
        }
        on_each_isa! {
            fn $deficits(
                vectors: &[ByteLanes],
                per_block: usize,
                step: usize,
                rows: &[[u8; 16]],
                deficits: &mut [[u16; BYTES]],
            ) = deficits_on::<_, $rows>;
        }
    )*};
}

for_rows! {
    1: scan_1 deficits_1,
    2: scan_2 deficits_2,
    4: scan_4 deficits_4,
    8: scan_8 deficits_8,
    16: scan_16 deficits_16,
}

/// The deficits of one part of a block. `rows` has `ROWS` rows of 16 entries for each sub-vector; with
/// one row, two codes are in a byte.
#[inline(always)]
fn sums_of_part<I: Isa, const ROWS: usize>(
    isa: I,
    vectors: &[ByteLanes],
    rows: &[[u8; 16]],
    part: usize,
) -> I::Sums {
    let mut sums = isa.zero_sums();
    if ROWS == 1 {
        let (tables, _) = rows.as_chunks::<2>();
        for (codes, [low, high]) in vectors.iter().zip(tables) {
            let codes = isa.load_bytes(&codes.0, part);
            sums = isa.add_widened(sums, isa.look_up(&[*low], isa.low_nibbles(codes)));
            sums = isa.add_widened(sums, isa.look_up(&[*high], isa.high_nibbles(codes)));
        }
    } else {
        let (tables, _) = rows.as_chunks::<ROWS>();
        for (codes, table) in vectors.iter().zip(tables) {
            let deficits = isa.look_up(table, isa.load_bytes(&codes.0, part));
            sums = isa.add_widened(sums, deficits);
        }
    }
    sums
}

#[inline(always)]
fn scan_on<I: Isa, const ROWS: usize>(
    isa: I,
    vectors: &[ByteLanes],
    per_block: usize,
    rows: &[[u8; 16]],
    candidates: std::ops::Range<usize>,
    found: &mut Found,
) {
    let lanes = BYTES / I::PARTS;
    let blocks = candidates.start / BYTES..candidates.end.div_ceil(BYTES);
    let mut check_at = 2 * found.search.heavy_k + BYTES;
    let vectors = &vectors[blocks.start * per_block..blocks.end * per_block];
    let mut deficits = [0; BYTES];
    // Whether a part has one cannot be predicted: then it is not asked.
    let many = found.search.heavy_k * 512 >= candidates.len();
    for (block, vectors) in blocks.zip(vectors.chunks_exact(per_block)) {
        let first = block * BYTES;
        let mut within = u64::MAX;
        if first < candidates.start {
            within &= u64::MAX << (candidates.start - first);
        }
        if candidates.end - first < BYTES {
            within &= !(u64::MAX << (candidates.end - first));
        }
        for part in 0..I::PARTS {
            let sums = sums_of_part::<I, ROWS>(isa, vectors, rows, part);
            let mask = (isa.at_most(sums, found.cut) << (part * lanes)) & within;
            if many | (mask != 0) {
                isa.store_sums(sums, &mut deficits, part);
                if I::PARTS > 1 {
                    found.push::<2>(mask, first, &deficits);
                } else {
                    found.push::<{ Found::AT_ONCE }>(mask, first, &deficits);
                }
            }
        }
        if found.len >= check_at {
            found.lower_cut(isa.simd());
            check_at = found.len + found.len / 4 + BYTES;
        }
    }
}

/// The deficits of as many blocks as there is room for, `step` vectors apart.
#[inline(always)]
fn deficits_on<I: Isa, const ROWS: usize>(
    isa: I,
    vectors: &[ByteLanes],
    per_block: usize,
    step: usize,
    rows: &[[u8; 16]],
    deficits: &mut [[u16; BYTES]],
) {
    for (i, deficits) in deficits.iter_mut().enumerate() {
        let vectors = &vectors[i * step..][..per_block];
        for part in 0..I::PARTS {
            let sums = sums_of_part::<I, ROWS>(isa, vectors, rows, part);
            isa.store_sums(sums, deficits, part);
        }
    }
}

#[cfg(test)]
mod tests;
