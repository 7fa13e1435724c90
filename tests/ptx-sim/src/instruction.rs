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

/// Where a number comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Src {
    Row(u32),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarKind {
    Sync,
    Arrive,
    Popc(u32),
    And(u32),
    Or(u32),
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alu {
        f: Alu,
        ty: Ty,
        mods: FloatMods,
        dst: u32,
        src: [Src; 4],
        num_src: u8,
    },
    Cvt {
        conversion: Conversion,
        dst: u32,
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
        dst: u32,
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
        dst: u32,
        src: Src,
    },
    /// `mov.b64 %rd, {%r1, %r2};` the first in the low bits.
    Pack {
        dst: u32,
        src: Vec<Src>,
        bits: u32,
    },
    Unpack {
        dst: Vec<Option<u32>>,
        src: Src,
        bits: u32,
    },
    Load {
        space: Space,
        width: u8,
        /// Bits from which, and to which, the sign is extended.
        sign: Option<(u32, u32)>,
        atomic: bool,
        dst: Vec<Option<u32>>,
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
        dst: Option<u32>,
        address: Address,
        b: Src,
        c: Src,
    },
    /// Adds a window to an address, or takes it away.
    Cvta {
        dst: u32,
        src: Src,
        add: u64,
    },
    Mapa {
        dst: u32,
        address: Src,
        rank: Src,
        generic: bool,
    },
    GetCtaRank {
        dst: u32,
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
        dst: u32,
        in_range: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        vote: Vote,
        /// A row for a ballot, else a predicate.
        dst: u32,
        pred: Pred,
        mask: Src,
    },
    Match {
        all: bool,
        bits: u32,
        dst: u32,
        pred: Option<u32>,
        a: Src,
        mask: Src,
    },
    Redux {
        f: Alu,
        ty: Ty,
        dst: u32,
        a: Src,
        mask: Src,
    },
    Elect {
        dst: Option<u32>,
        pred: u32,
        mask: Src,
    },
    ActiveMask {
        dst: u32,
    },
}

impl Op {
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
