//! Decoded instructions.

use crate::alu::{Alu, FloatMods, Ty};
use crate::float::{Cmp, Conversion};

/// An instruction: registers are numbers, labels are instruction indices.
#[derive(Debug, Clone)]
pub(crate) struct Instr {
    pub(crate) line: u32,
    pub(crate) guard: Option<Pred>,
    pub(crate) op: Op,
}

/// A predicate register, or its negation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pred {
    pub(crate) index: u32,
    pub(crate) negated: bool,
}

/// A register of numbers, and the row that holds its numbers for as long as they are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reg {
    pub(crate) name: u32,
    pub(crate) row: u32,
}

impl Reg {
    /// Before rows are shared.
    pub(crate) fn new(name: u32) -> Self {
        Reg { name, row: name }
    }
}

/// What an instruction does with a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Where a number comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Src {
    Row(Reg),
    Imm(u64),
    Special(Special),
    /// The address of a `.global` or `.const` variable of the module.
    Variable(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NumClusters(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtaRank,
    ClusterNctaRank,
    LaneId,
    WarpId,
    NumWarps,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    DynamicSharedBytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// `.global` and `.const`.
    Global,
    Shared,
    SharedCluster,
    Local,
    Param,
    Generic,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) base: Src,
    pub(crate) offset: i64,
    /// 32-bit addresses wrap.
    pub(crate) narrow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    AddF32,
    AddF64,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    Mov,
    Not,
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// Where a vote's result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteDst {
    /// Of a ballot.
    Row(Reg),
    Pred(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    Popc(Reg),
    And(u32),
    Or(u32),
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alu {
        f: Alu,
        ty: Ty,
        mods: FloatMods,
        dst: Reg,
        src: [Src; 4],
        num_src: u8,
    },
    Cvt {
        conversion: Conversion,
        dst: Reg,
        src: Src,
    },
    Setp {
        cmp: Cmp,
        ty: Ty,
        ftz: bool,
        dst: u32,
        /// Of the negated comparison.
        second: Option<u32>,
        a: Src,
        b: Src,
        combine: Option<(Logic, Pred)>,
    },
    Selp {
        dst: Reg,
        a: Src,
        b: Src,
        pred: Pred,
    },
    Logic {
        f: Logic,
        dst: u32,
        a: Pred,
        b: Pred,
    },
    /// `mov.pred` and `setp` of constants.
    SetPred {
        dst: u32,
        value: bool,
    },
    Mov {
        dst: Reg,
        src: Src,
    },
    /// `mov.b64 %rd, {%r1, %r2};` the first in the low bits.
    Pack {
        dst: Reg,
        src: Vec<Src>,
        bits: u32,
    },
    Unpack {
        dst: Vec<Option<Reg>>,
        src: Src,
        bits: u32,
    },
    Load {
        space: Space,
        width: u8,
        /// Bits from which, and to which, the sign is extended.
        sign: Option<(u32, u32)>,
        atomic: bool,
        dst: Vec<Option<Reg>>,
        address: Address,
    },
    Store {
        space: Space,
        width: u8,
        atomic: bool,
        src: Vec<Src>,
        address: Address,
    },
    Atom {
        f: AtomOp,
        space: Space,
        ty: Ty,
        dst: Option<Reg>,
        address: Address,
        b: Src,
        c: Src,
    },
    /// Adds a window to an address, or takes it away.
    Cvta {
        dst: Reg,
        src: Src,
        add: u64,
    },
    Mapa {
        dst: Reg,
        address: Src,
        rank: Src,
        generic: bool,
    },
    GetCtaRank {
        dst: Reg,
        address: Src,
    },
    Bra {
        target: u32,
    },
    /// A branch to the target of that number.
    BrxIdx {
        index: Src,
        targets: Vec<u32>,
    },
    Exit,
    Trap,
    Nop,
    Bar {
        kind: BarKind,
        barrier: Src,
        threads: Option<Src>,
        pred: Option<Pred>,
    },
    BarWarp {
        mask: Src,
    },
    ClusterArrive {
        release: bool,
    },
    ClusterWait,
    Shfl {
        mode: ShflMode,
        dst: Reg,
        in_range: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        vote: Vote,
        dst: VoteDst,
        pred: Pred,
        mask: Src,
    },
    Match {
        all: bool,
        bits: u32,
        dst: Reg,
        pred: Option<u32>,
        a: Src,
        mask: Src,
    },
    Redux {
        f: Alu,
        ty: Ty,
        dst: Reg,
        a: Src,
        mask: Src,
    },
    Elect {
        dst: Option<Reg>,
        pred: u32,
        mask: Src,
    },
    ActiveMask {
        dst: Reg,
    },
}

impl Op {
    /// Calls `f` with every register of numbers that is read or written.
    pub(crate) fn each_register(&mut self, mut f: impl FnMut(&mut Reg, Access)) {
        let mut touch = |sources: &mut [&mut Src], written: &mut [&mut Reg]| {
            for source in sources {
                if let Src::Row(register) = source {
                    f(register, Access::Read);
                }
            }
            for register in written {
                f(register, Access::Write);
            }
        };
        match self {
            Op::Alu { dst, src, .. } => {
                let [a, b, c, d] = src;
                touch(&mut [a, b, c, d], &mut [dst]);
            }
            Op::Cvt { dst, src, .. } | Op::Mov { dst, src } | Op::Cvta { dst, src, .. } => {
                touch(&mut [src], &mut [dst]);
            }
            Op::Setp { a, b, .. } => touch(&mut [a, b], &mut []),
            Op::Selp { dst, a, b, .. } => touch(&mut [a, b], &mut [dst]),
            Op::Pack { dst, src, .. } => {
                touch(&mut src.iter_mut().collect::<Vec<_>>(), &mut [dst]);
            }
            Op::Unpack { dst, src, .. } => {
                touch(
                    &mut [src],
                    &mut dst.iter_mut().flatten().collect::<Vec<_>>(),
                );
            }
            Op::Load { dst, address, .. } => {
                let written: &mut Vec<_> = &mut dst.iter_mut().flatten().collect();
                touch(&mut [&mut address.base], written);
            }
            Op::Store { src, address, .. } => {
                let sources = src.iter_mut().chain([&mut address.base]);
                touch(&mut sources.collect::<Vec<_>>(), &mut []);
            }
            Op::Atom {
                dst, address, b, c, ..
            } => {
                let written: &mut Vec<_> = &mut dst.iter_mut().collect();
                touch(&mut [&mut address.base, b, c], written);
            }
            Op::Mapa {
                dst, address, rank, ..
            } => touch(&mut [address, rank], &mut [dst]),
            Op::GetCtaRank { dst, address } => touch(&mut [address], &mut [dst]),
            Op::BrxIdx { index, .. } => touch(&mut [index], &mut []),
            Op::Bar {
                kind,
                barrier,
                threads,
                ..
            } => {
                let sources: &mut Vec<_> = &mut threads.iter_mut().chain([barrier]).collect();
                match kind {
                    BarKind::Popc(dst) => touch(sources, &mut [dst]),
                    BarKind::Sync | BarKind::Arrive | BarKind::And(_) | BarKind::Or(_) => {
                        touch(sources, &mut []);
                    }
                }
            }
            Op::BarWarp { mask } => touch(&mut [mask], &mut []),
            Op::Shfl {
                dst, a, b, c, mask, ..
            } => touch(&mut [a, b, c, mask], &mut [dst]),
            Op::Vote { dst, mask, .. } => match dst {
                VoteDst::Row(dst) => touch(&mut [mask], &mut [dst]),
                VoteDst::Pred(_) => touch(&mut [mask], &mut []),
            },
            Op::Match { dst, a, mask, .. } | Op::Redux { dst, a, mask, .. } => {
                touch(&mut [a, mask], &mut [dst]);
            }
            Op::Elect { dst, mask, .. } => {
                let written: &mut Vec<_> = &mut dst.iter_mut().collect();
                touch(&mut [mask], written);
            }
            Op::ActiveMask { dst } => touch(&mut [], &mut [dst]),
            Op::Logic { .. }
            | Op::SetPred { .. }
            | Op::Bra { .. }
            | Op::Exit
            | Op::Trap
            | Op::Nop
            | Op::ClusterArrive { .. }
            | Op::ClusterWait => {}
        }
    }

    /// Whether lanes do it together, so that they must come together.
    pub(crate) fn is_collective(&self) -> bool {
        self.warp_mask().is_some() || self.needs_whole_warp()
    }

    /// The lanes that a warp-wide operation names.
    pub(crate) fn warp_mask(&self) -> Option<Src> {
        match *self {
            Op::BarWarp { mask }
            | Op::Shfl { mask, .. }
            | Op::Vote { mask, .. }
            | Op::Match { mask, .. }
            | Op::Redux { mask, .. }
            | Op::Elect { mask, .. } => Some(mask),
            _ => None,
        }
    }

    /// Barriers of blocks and clusters.
    pub(crate) fn needs_whole_warp(&self) -> bool {
        matches!(
            self,
            Op::Bar { .. } | Op::ClusterArrive { .. } | Op::ClusterWait
        )
    }
}
