//! Transposed codes, and the scan over them that keeps the candidates a bound cannot exclude.

use gpu_kernels::step::StepShape;

use super::filter::Filter;
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
        shape: &StepShape,
        filter: &Filter,
        candidates: std::ops::Range<usize>,
        found: &mut Found,
    ) {
        let (vectors, rows) = (&self.vectors[..], &filter.rows[..]);
        match shape.bits {
            1..=4 => scan_1(simd, vectors, self.per_block, rows, candidates, found),
            5 => scan_2(simd, vectors, self.per_block, rows, candidates, found),
            6 => scan_4(simd, vectors, self.per_block, rows, candidates, found),
            7 => scan_8(simd, vectors, self.per_block, rows, candidates, found),
            _ => scan_16(simd, vectors, self.per_block, rows, candidates, found),
        }
    }
}

/// Deficits that are told apart: 0 to 254; 255 stands for more.
pub(super) const MAX_DEFICIT: u8 = 254;

/// Candidates that a scan found, with their deficits, by ascending code.
#[derive(Debug)]
pub(super) struct Found {
    /// A code's index in the lower 24 bits, its deficit in the upper 8.
    codes: Vec<u32>,
    len: usize,
    /// Candidates of each deficit, of the first `counted` found.
    histogram: [u32; 256],
    counted: usize,
    /// Candidates that are looked for.
    heavy_k: usize,
    /// How much the deficits of candidates as good as each other can differ.
    slack: u8,
    /// Deficits up to here are kept.
    cut: u8,
}

impl Found {
    /// Codes that are written at once, whether they were found or not.
    const AT_ONCE: usize = 4;

    /// Room for `capacity` candidates.
    pub(super) fn new(capacity: usize) -> Self {
        Found {
            codes: vec![0; capacity + Self::AT_ONCE],
            len: 0,
            histogram: [0; 256],
            counted: 0,
            heavy_k: 0,
            slack: 0,
            cut: MAX_DEFICIT,
        }
    }

    /// Begins a search for the best `heavy_k`.
    pub(super) fn start(&mut self, heavy_k: usize, slack: u8) {
        self.len = 0;
        self.counted = 0;
        self.histogram = [0; 256];
        self.heavy_k = heavy_k;
        self.slack = slack;
        self.cut = MAX_DEFICIT;
    }

    /// Adds the found candidates' deficits to the histogram.
    fn count(&mut self) {
        for code in &self.codes[self.counted..self.len] {
            self.histogram[(code >> 24) as usize] += 1;
        }
        self.counted = self.len;
    }

    /// Lowers the cut to what the candidates found so far allow.
    #[inline(never)]
    fn lower_cut(&mut self) {
        self.count();
        if let Some(cut) = cut([&*self].into_iter()) {
            self.cut = cut;
        }
    }

    /// Indices of the candidates found with a deficit of at most `cut`.
    pub(super) fn codes(&self, cut: u8) -> impl Iterator<Item = usize> + '_ {
        self.codes[..self.len]
            .iter()
            .filter(move |&code| (code >> 24) as u8 <= cut)
            .map(|code| (code & 0xff_ffff) as usize)
    }

    /// Takes the candidates of `mask` in the block of code `first`.
    #[inline(always)]
    fn push(&mut self, mut mask: u64, first: usize, deficits: &[u8; BYTES]) {
        let count = mask.count_ones() as usize;
        let codes = &mut self.codes[self.len..];
        let entry = |mask: u64| {
            let lane = mask.trailing_zeros() as usize % BYTES;
            (first + lane) as u32 | (u32::from(deficits[lane]) << 24)
        };
        // Most blocks have few: no branch on how many.
        for code in &mut codes[..Self::AT_ONCE] {
            *code = entry(mask);
            mask &= mask.wrapping_sub(1);
        }
        for code in &mut codes[..count.max(Self::AT_ONCE)][Self::AT_ONCE..] {
            *code = entry(mask);
            mask &= mask - 1;
        }
        self.len += count;
    }
}

/// The largest deficit that one of the best heavy_k can have, given the counted candidates of all parts
/// of a row: the deficit that heavy_k of them do not exceed, and the slack. `None` while fewer than
/// heavy_k are that good.
pub(super) fn cut<'a>(parts: impl Iterator<Item = &'a Found> + Clone) -> Option<u8> {
    let first = parts.clone().next()?;
    let (heavy_k, slack) = (first.heavy_k, first.slack);
    let mut count = 0;
    for deficit in 0..=MAX_DEFICIT - slack {
        let here = |part: &Found| part.histogram[usize::from(deficit)] as usize;
        count += parts.clone().map(here).sum::<usize>();
        if count >= heavy_k {
            return Some(deficit + slack);
        }
    }
    None
}

macro_rules! scans {
    ($($name:ident: $rows:literal,)*) => {$(
        on_each_isa! {
            fn $name(
                vectors: &[ByteLanes],
                per_block: usize,
                rows: &[[u8; 16]],
                candidates: std::ops::Range<usize>,
                found: &mut Found,
            ) = scan_on::<_, $rows>;
        }
    )*};
}

scans! { scan_1: 1, scan_2: 2, scan_4: 4, scan_8: 8, scan_16: 16, }

/// `rows` has `ROWS` rows of 16 entries for each sub-vector; with one row, two codes are in a byte.
#[inline(always)]
fn scan_on<I: Isa, const ROWS: usize>(
    isa: I,
    vectors: &[ByteLanes],
    per_block: usize,
    rows: &[[u8; 16]],
    candidates: std::ops::Range<usize>,
    found: &mut Found,
) {
    let blocks = candidates.start / BYTES..candidates.end.div_ceil(BYTES);
    let mut check_at = 2 * found.heavy_k + BYTES;
    let vectors = &vectors[blocks.start * per_block..blocks.end * per_block];
    for (block, vectors) in blocks.zip(vectors.chunks_exact(per_block)) {
        let mut sums = isa.zero_bytes();
        if ROWS == 1 {
            let (tables, _) = rows.as_chunks::<2>();
            for (codes, [low, high]) in vectors.iter().zip(tables) {
                let codes = isa.load_bytes(&codes.0);
                let deficits = isa.look_up(&[*low], isa.low_nibbles(codes));
                sums = isa.add_saturating(sums, deficits);
                let deficits = isa.look_up(&[*high], isa.high_nibbles(codes));
                sums = isa.add_saturating(sums, deficits);
            }
        } else {
            let (tables, _) = rows.as_chunks::<ROWS>();
            for (codes, table) in vectors.iter().zip(tables) {
                let codes = isa.load_bytes(&codes.0);
                sums = isa.add_saturating(sums, isa.look_up(table, codes));
            }
        }
        let mut mask = isa.at_most(sums, found.cut);
        let first = block * BYTES;
        if first < candidates.start {
            mask &= u64::MAX << (candidates.start - first);
        }
        if candidates.end - first < BYTES {
            mask &= !(u64::MAX << (candidates.end - first));
        }
        if mask != 0 {
            let mut deficits = [0; BYTES];
            isa.store_bytes(sums, &mut deficits);
            found.push(mask, first, &deficits);
            if found.len >= check_at {
                found.lower_cut();
                check_at = found.len + found.len / 4 + BYTES;
            }
        }
    }
    found.count();
}
