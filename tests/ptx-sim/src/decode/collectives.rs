//! Barriers and what the lanes of a warp do together.

use super::*;

impl Decoder<'_> {
    pub(super) fn barrier(&mut self, name: &str) -> Result<Op> {
        if self.takes("warp") {
            self.count(1..=1)?;
            let sync = self.takes("sync");
            let mask = self.src(0, 32)?;
            return if sync {
                Ok(Op::BarWarp { mask })
            } else {
                Err(self.unknown())
            };
        }
        if name == "barrier" && self.takes("cluster") {
            self.count(0..=0)?;
            self.takes("aligned");
            if self.takes("wait") {
                self.takes("acquire");
                return Ok(Op::ClusterWait);
            }
            let relaxed = self.takes("relaxed");
            self.takes("release");
            return if self.takes("arrive") {
                Ok(Op::ClusterArrive { release: !relaxed })
            } else {
                Err(self.unknown())
            };
        }
        self.takes("cta");
        // `barrier` without `.aligned` may be reached by a part of a warp, which nothing here does.
        if name == "barrier" && !self.takes("aligned") {
            return Err(self.unknown());
        }
        let optional = |decoder: &Self, i: usize| match decoder.instruction.operands.get(i) {
            Some(operand) => decoder.source(operand, 32).map(Some),
            None => Ok(None),
        };
        if self.takes("sync") || self.mods.contains(&"arrive") {
            let kind = if self.takes("arrive") {
                self.count(2..=2)?;
                BarKind::Arrive
            } else {
                self.count(1..=2)?;
                BarKind::Sync
            };
            return Ok(Op::Bar {
                kind,
                barrier: self.src(0, 32)?,
                threads: optional(self, 1)?,
                pred: None,
            });
        }
        if !self.takes("red") {
            return Err(self.unknown());
        }
        self.count(3..=4)?;
        let kind = if self.takes("popc") {
            self.ty()?;
            BarKind::Popc(self.row(0)?.0)
        } else {
            let and = self.pick(&[("and", true), ("or", false)]);
            let (Some(and), true) = (and, self.takes("pred")) else {
                return Err(self.unknown());
            };
            let dst = self.pred_dst(0)?;
            if and {
                BarKind::And(dst)
            } else {
                BarKind::Or(dst)
            }
        };
        let last = self.instruction.operands.len() - 1;
        Ok(Op::Bar {
            kind,
            barrier: self.src(1, 32)?,
            threads: if last == 3 { optional(self, 2)? } else { None },
            pred: Some(self.pred(last)?),
        })
    }

    /// A destination with an optional predicate beside it: `%r1|%p1`.
    pub(super) fn row_and_pred(&self) -> Result<(Reg, Option<u32>)> {
        match self.operand(0)? {
            Operand::Pair(first, second) => match (&**first, &**second) {
                (
                    Operand::Register(Register::Row(row, _)),
                    Operand::Register(Register::Pred(pred)),
                ) => Ok((Reg::new(*row), Some(*pred))),
                _ => Err(self.wrong("the destination is no register and predicate")),
            },
            _ => Ok((self.row(0)?.0, None)),
        }
    }

    /// `.sync`, which every warp-wide operation here has.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.takes("sync") {
            Ok(())
        } else {
            Err(self.unknown())
        }
    }

    pub(super) fn shfl(&mut self) -> Result<Op> {
        self.sync()?;
        self.count(5..=5)?;
        let mode = self.pick(&[
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ]);
        let mode = mode.ok_or_else(|| self.unknown())?;
        if self.ty()? != B32 {
            return Err(self.unknown());
        }
        let (dst, in_range) = self.row_and_pred()?;
        Ok(Op::Shfl {
            mode,
            dst,
            in_range,
            a: self.src(1, 32)?,
            b: self.src(2, 32)?,
            c: self.src(3, 32)?,
            mask: self.src(4, 32)?,
        })
    }

    pub(super) fn vote(&mut self) -> Result<Op> {
        self.sync()?;
        self.count(3..=3)?;
        let vote = self.pick(&[
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uni),
            ("ballot", Vote::Ballot),
        ]);
        let vote = vote.ok_or_else(|| self.unknown())?;
        let dst = if vote == Vote::Ballot {
            self.ty()?;
            VoteDst::Row(self.row(0)?.0)
        } else if self.takes("pred") {
            VoteDst::Pred(self.pred_dst(0)?)
        } else {
            return Err(self.unknown());
        };
        Ok(Op::Vote {
            vote,
            dst,
            pred: self.pred(1)?,
            mask: self.src(2, 32)?,
        })
    }

    pub(super) fn matching(&mut self) -> Result<Op> {
        self.sync()?;
        self.count(3..=3)?;
        let all = self.pick(&[("all", true), ("any", false)]);
        let all = all.ok_or_else(|| self.unknown())?;
        let bits = self.ty()?.bits;
        let (dst, pred) = self.row_and_pred()?;
        Ok(Op::Match {
            all,
            bits,
            dst,
            pred,
            a: self.src(1, bits)?,
            mask: self.src(2, 32)?,
        })
    }

    pub(super) fn redux(&mut self) -> Result<Op> {
        self.sync()?;
        self.count(3..=3)?;
        let f = self.pick(&[
            ("add", Alu::Add),
            ("min", Alu::Min),
            ("max", Alu::Max),
            ("and", Alu::And),
            ("or", Alu::Or),
            ("xor", Alu::Xor),
        ]);
        let f = f.ok_or_else(|| self.unknown())?;
        let ty = self.ty()?;
        if ty.kind == Kind::Float {
            return Err(self.unknown());
        }
        Ok(Op::Redux {
            f,
            ty,
            dst: self.row(0)?.0,
            a: self.src(1, 32)?,
            mask: self.src(2, 32)?,
        })
    }

    pub(super) fn elect(&mut self) -> Result<Op> {
        self.sync()?;
        self.count(2..=2)?;
        let Operand::Pair(first, second) = self.operand(0)? else {
            return Err(self.wrong("the destination is no pair"));
        };
        let dst = self.rows(std::slice::from_ref(first))?[0];
        let Operand::Register(Register::Pred(pred)) = **second else {
            return Err(self.wrong("the second destination is no predicate"));
        };
        Ok(Op::Elect {
            dst,
            pred,
            mask: self.src(1, 32)?,
        })
    }
}
