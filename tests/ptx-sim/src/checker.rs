//! Who touched a byte, and whether a barrier stands between two who did.
//!
//! Every warp of a cluster has a clock, and a vector of how far it has seen the others' clocks. A
//! barrier passes on what those who arrive have seen to those who wait, and advances their clocks. An access is ordered
//! before another when its clock lies below what the other's warp has seen. Warps of different
//! clusters never see each other: nothing orders blocks within a launch.

use crate::error::ViolationKind;
use crate::memory::Fault;

/// One lane that touches memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accessor<'a> {
    /// Number of the warp in the grid, from 1.
    pub(crate) warp: u32,
    /// Number of the cluster's first warp.
    pub(crate) first_warp: u32,
    pub(crate) lane: u32,
    /// Its own clock.
    pub(crate) clock: u32,
    /// What this warp has seen of each warp of its cluster, itself included.
    pub(crate) seen: &'a [u32],
    /// Atomics do not race with atomics.
    pub(crate) atomic: bool,
}

/// The vectors of a cluster's warps.
#[derive(Debug)]
pub(crate) struct Clocks {
    num_warps: usize,
    seen: Vec<u32>,
}

impl Clocks {
    pub(crate) fn new(num_warps: usize) -> Self {
        let mut seen = vec![0; num_warps * num_warps];
        for warp in 0..num_warps {
            seen[warp * num_warps + warp] = 1;
        }
        Clocks { num_warps, seen }
    }

    pub(crate) fn seen(&self, warp: usize) -> &[u32] {
        &self.seen[warp * self.num_warps..][..self.num_warps]
    }

    /// Orders what a warp did before what it does next.
    pub(crate) fn advance(&mut self, warp: usize) {
        self.seen[warp * self.num_warps + warp] += 1;
    }

    /// Adds what a warp did and saw until now to what a barrier passes on.
    pub(crate) fn release(&mut self, warp: usize, into: &mut Vec<u32>) {
        self.advance(warp);
        into.resize(self.num_warps, 0);
        maximum(into, self.seen(warp));
    }

    /// Lets a warp see what a barrier passes on.
    pub(crate) fn acquire(&mut self, warp: usize, released: &[u32]) {
        let seen = &mut self.seen[warp * self.num_warps..][..self.num_warps];
        maximum(seen, released);
    }
}

fn maximum(into: &mut [u32], other: &[u32]) {
    for (into, other) in into.iter_mut().zip(other) {
        *into = (*into).max(*other);
    }
}

/// Lanes of one warp that touched a cell at one clock. Warp 0: nobody.
#[derive(Debug, Clone, Copy, Default)]
struct Touch {
    warp: u32,
    clock: u32,
    lanes: u32,
    atomic: u32,
}

impl Touch {
    #[inline(always)]
    fn races(&self, who: &Accessor<'_>) -> bool {
        if self.warp == 0 || (self.warp == who.warp && self.lanes == 1 << who.lane) {
            return false;
        }
        if self.atomic != 0 && who.atomic {
            return false;
        }
        let local = self.warp.wrapping_sub(who.first_warp) as usize;
        // Of another cluster nothing is seen.
        who.seen.get(local).is_none_or(|&seen| self.clock >= seen)
    }
}

/// The last two warps that wrote, and that read. Two are enough where barriers are for everyone: of
/// two readers at least one belongs to another warp than the next writer.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    writes: [Touch; 2],
    reads: [Touch; 2],
}

/// Whether an access may come beside those before it.
#[inline(always)]
fn check(touches: &[Touch; 2], how: &str, who: &Accessor<'_>) -> Result<(), Fault> {
    // The second is of a warp only if the first is.
    if touches[0].warp == 0 {
        return Ok(());
    }
    for touch in touches {
        if touch.races(who) {
            return Err(race(how, touch, who));
        }
    }
    Ok(())
}

#[inline(always)]
fn record(touches: &mut [Touch; 2], who: &Accessor<'_>) {
    let new = Touch {
        warp: who.warp,
        clock: who.clock,
        lanes: 1 << who.lane,
        atomic: u32::from(who.atomic),
    };
    let last = &mut touches[0];
    if last.warp == new.warp && last.clock == new.clock && last.atomic == new.atomic {
        last.lanes |= new.lanes;
        return;
    }
    if last.warp != new.warp {
        touches[1] = touches[0];
    }
    touches[0] = new;
}

/// A region's cells: one a word until an access is narrower, then one a byte. They are made in pieces,
/// when something there is touched first.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pieces: Vec<Vec<Cell>>,
    bytes: bool,
}

/// Bytes of a region that a piece is for: a power of two, and a multiple of every access's width.
const PIECE: usize = 512;

impl Shadow {
    #[inline(always)]
    pub(crate) fn read(
        &mut self,
        len: usize,
        at: usize,
        width: usize,
        who: &Accessor<'_>,
    ) -> Result<(), Fault> {
        for cell in self.touched(len, at, width) {
            check(&cell.writes, "written", who)?;
            record(&mut cell.reads, who);
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn write(
        &mut self,
        len: usize,
        at: usize,
        width: usize,
        who: &Accessor<'_>,
    ) -> Result<(), Fault> {
        for cell in self.touched(len, at, width) {
            check(&cell.writes, "written", who)?;
            check(&cell.reads, "read", who)?;
            record(&mut cell.writes, who);
        }
        Ok(())
    }

    /// The cells of an access, which is aligned, and so in one piece.
    #[inline(always)]
    fn touched(&mut self, len: usize, at: usize, width: usize) -> &mut [Cell] {
        if self.pieces.is_empty() || (!self.bytes && width < 4) {
            self.prepare(len, width);
        }
        let shift = if self.bytes { 0 } else { 2 };
        let piece = &mut self.pieces[at / PIECE];
        if piece.is_empty() {
            make(piece, PIECE >> shift);
        }
        let at = at % PIECE;
        &mut piece[at >> shift..((at + width - 1) >> shift) + 1]
    }

    /// For accesses of that width.
    #[cold]
    fn prepare(&mut self, len: usize, width: usize) {
        if self.pieces.is_empty() {
            self.pieces.resize_with(len.div_ceil(PIECE), Vec::new);
            self.bytes = width < 4;
        } else {
            self.refine();
        }
    }

    fn refine(&mut self) {
        self.bytes = true;
        for piece in &mut self.pieces {
            *piece = piece.iter().flat_map(|&cell| [cell; 4]).collect();
        }
    }
}

#[cold]
fn make(piece: &mut Vec<Cell>, cells: usize) {
    piece.resize(cells, Cell::default());
}

#[cold]
fn race(how: &str, touch: &Touch, who: &Accessor<'_>) -> Fault {
    let lane = (touch.lanes & !(u32::from(touch.warp == who.warp) << who.lane)).trailing_zeros();
    let detail = format!(
        "{how} by lane {lane} of warp {} of the grid, this is lane {} of warp {}, and no barrier is between",
        touch.warp - 1,
        who.lane,
        who.warp - 1
    );
    Fault(ViolationKind::Race, detail)
}
