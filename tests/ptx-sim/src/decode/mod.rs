//! Opcodes and operands to [`Op`]. A modifier that is not understood makes the opcode unknown.

mod arithmetic;
mod collectives;
mod memory;

use std::collections::HashMap;

use crate::alu::{Alu, FloatMods, Kind, Ty};
use crate::error::{Error, Result};
use crate::float::{Cmp, Conversion, Round};
use crate::instruction::{
    Address, AtomOp, BarKind, Logic, Op, Pred, Reg, ShflMode, Space, Special, Src, Vote, VoteDst,
};
use crate::lexer::syntax;
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use crate::parser::{Instruction, Operand, Register};

/// What names mean in one kernel.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Addresses of shared, local and parameter variables in their spaces, or a module variable.
    pub(crate) variables: HashMap<String, Src>,
    /// Instruction indices.
    pub(crate) labels: HashMap<String, u32>,
    /// Lists of labels, for `brx.idx`.
    pub(crate) tables: HashMap<String, Vec<String>>,
}

const B32: Ty = Ty {
    kind: Kind::Bits,
    bits: 32,
};

/// Decodes one instruction.
pub(crate) fn decode(instruction: &Instruction, names: &Names) -> Result<Op> {
    let mut parts = instruction.opcode.split('.');
    let name = parts.next().unwrap_or_default();
    let mut decoder = Decoder {
        instruction,
        names,
        mods: parts.collect(),
    };
    let op = decoder.op(name)?;
    if decoder.mods.is_empty() {
        Ok(op)
    } else {
        Err(decoder.unknown())
    }
}

struct Decoder<'a> {
    instruction: &'a Instruction,
    names: &'a Names,
    mods: Vec<&'a str>,
}

impl Decoder<'_> {
    fn unknown(&self) -> Error {
        Error::UnknownOpcode {
            line: self.instruction.line,
            opcode: self.instruction.opcode.clone(),
        }
    }

    fn wrong(&self, message: &str) -> Error {
        let message = format!("{message} in `{}`", self.instruction.opcode);
        syntax(self.instruction.line, &message)
    }

    fn takes(&mut self, modifier: &str) -> bool {
        match self.mods.iter().position(|m| *m == modifier) {
            Some(at) => {
                self.mods.remove(at);
                true
            }
            None => false,
        }
    }

    fn takes_any(&mut self, modifiers: &[&str]) -> bool {
        modifiers.iter().filter(|m| self.takes(m)).count() > 0
    }

    fn pick<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let found = choices.iter().find(|(name, _)| self.takes(name));
        found.map(|(_, value)| *value)
    }

    /// The first modifier that is a type.
    fn ty(&mut self) -> Result<Ty> {
        for (at, modifier) in self.mods.iter().enumerate() {
            if let Some(ty) = parse_ty(modifier) {
                self.mods.remove(at);
                return Ok(ty);
            }
        }
        Err(self.unknown())
    }

    fn count(&self, allowed: std::ops::RangeInclusive<usize>) -> Result<()> {
        if allowed.contains(&self.instruction.operands.len()) {
            Ok(())
        } else {
            Err(self.wrong("the number of operands is wrong"))
        }
    }

    fn operand(&self, i: usize) -> Result<&Operand> {
        let operand = self.instruction.operands.get(i);
        operand.ok_or_else(|| self.wrong("an operand is missing"))
    }

    fn row(&self, i: usize) -> Result<(Reg, u32)> {
        match *self.operand(i)? {
            Operand::Register(Register::Row(name, bits)) => Ok((Reg::new(name), bits)),
            _ => Err(self.wrong("the destination is no register")),
        }
    }

    fn pred(&self, i: usize) -> Result<Pred> {
        match *self.operand(i)? {
            Operand::Register(Register::Pred(index)) => Ok(Pred {
                index,
                negated: false,
            }),
            Operand::Not(index) => Ok(Pred {
                index,
                negated: true,
            }),
            _ => Err(self.wrong("an operand is no predicate")),
        }
    }

    fn pred_dst(&self, i: usize) -> Result<u32> {
        let pred = self.pred(i)?;
        if pred.negated {
            return Err(self.wrong("the destination is negated"));
        }
        Ok(pred.index)
    }

    fn src(&self, i: usize, bits: u32) -> Result<Src> {
        self.source(self.operand(i)?, bits)
    }

    fn source(&self, operand: &Operand, bits: u32) -> Result<Src> {
        let mask = u64::MAX >> (64 - bits);
        Ok(match operand {
            Operand::Register(Register::Row(name, _)) => Src::Row(Reg::new(*name)),
            Operand::Int(value) => Src::Imm(value & mask),
            Operand::F32(value) if bits == 64 => {
                Src::Imm(f64::from(f32::from_bits(*value)).to_bits())
            }
            Operand::F32(value) => Src::Imm(u64::from(*value)),
            Operand::F64(value) => Src::Imm(*value),
            Operand::Name(name) => match self.names.variables.get(name) {
                Some(src) => *src,
                None => match name.as_str() {
                    "WARP_SZ" => Src::Imm(32),
                    name => special(name)
                        .ok_or_else(|| self.wrong(&format!("`{name}` is not known")))?,
                },
            },
            _ => return Err(self.wrong("an operand is no number")),
        })
    }

    fn op(&mut self, name: &str) -> Result<Op> {
        match name {
            "add" => self.arithmetic(Some(Alu::Add), Some(Alu::Add), 2),
            "sub" => self.arithmetic(Some(Alu::Sub), Some(Alu::Sub), 2),
            "mul" | "mad" => self.product(name == "mad"),
            "fma" => self.arithmetic(None, Some(Alu::Fma), 3),
            "sad" => self.arithmetic(Some(Alu::Sad), None, 3),
            "div" => self.arithmetic(Some(Alu::Div), Some(Alu::Div), 2),
            "rem" => self.arithmetic(Some(Alu::Rem), None, 2),
            "abs" => self.arithmetic(Some(Alu::Abs), Some(Alu::Abs), 1),
            "neg" => self.arithmetic(Some(Alu::Neg), Some(Alu::Neg), 1),
            "min" | "max" => {
                let nan = self.takes("NaN");
                let (int, float) = match (name, nan) {
                    ("min", false) => (Alu::Min, Alu::Min),
                    ("min", true) => (Alu::Min, Alu::MinNan),
                    (_, false) => (Alu::Max, Alu::Max),
                    (_, true) => (Alu::Max, Alu::MaxNan),
                };
                self.arithmetic((!nan).then_some(int), Some(float), 2)
            }
            "rcp" => self.arithmetic(None, Some(Alu::Rcp), 1),
            "sqrt" => self.arithmetic(None, Some(Alu::Sqrt), 1),
            "copysign" => self.arithmetic(None, Some(Alu::Copysign), 2),
            "and" | "or" | "xor" | "not" => self.logic(name),
            "cnot" => self.arithmetic(Some(Alu::Cnot), None, 1),
            "shl" => self.arithmetic(Some(Alu::Shl), None, 2),
            "shr" => self.arithmetic(Some(Alu::Shr), None, 2),
            "shf" => self.funnel(),
            "popc" => self.arithmetic(Some(Alu::Popc), None, 1),
            "clz" => self.arithmetic(Some(Alu::Clz), None, 1),
            "brev" => self.arithmetic(Some(Alu::Brev), None, 1),
            "bfind" => {
                let shift = self.takes("shiftamt");
                let f = if shift { Alu::BfindShift } else { Alu::Bfind };
                self.arithmetic(Some(f), None, 1)
            }
            "bfe" => self.arithmetic(Some(Alu::Bfe), None, 3),
            "bfi" => self.arithmetic(Some(Alu::Bfi), None, 4),
            "dp2a" => self.dot2(),
            "prmt" => self.arithmetic(Some(Alu::Prmt), None, 3),
            "lop3" => self.arithmetic(Some(Alu::Lop3), None, 4),
            "cvt" => self.cvt(),
            "setp" => self.setp(),
            "selp" => {
                self.count(4..=4)?;
                let bits = self.ty()?.bits;
                Ok(Op::Selp {
                    dst: self.row(0)?.0,
                    a: self.src(1, bits)?,
                    b: self.src(2, bits)?,
                    pred: self.pred(3)?,
                })
            }
            "mov" => self.mov(),
            "ld" => self.load(),
            "st" => self.store(),
            "atom" | "red" => self.atom(name == "atom"),
            "cvta" => self.cvta(),
            "mapa" => {
                self.count(3..=3)?;
                let generic = !self.takes("shared::cluster");
                self.ty()?;
                Ok(Op::Mapa {
                    dst: self.row(0)?.0,
                    address: self.src(1, 64)?,
                    rank: self.src(2, 32)?,
                    generic,
                })
            }
            "getctarank" => {
                self.count(2..=2)?;
                self.takes("shared::cluster");
                self.ty()?;
                Ok(Op::GetCtaRank {
                    dst: self.row(0)?.0,
                    address: self.src(1, 64)?,
                })
            }
            "bra" => {
                self.count(1..=1)?;
                self.takes("uni");
                Ok(Op::Bra {
                    target: self.label(self.operand(0)?)?,
                })
            }
            "brx" => {
                self.count(2..=2)?;
                let table = match self.operand(1)? {
                    Operand::Name(name) => self.names.tables.get(name),
                    _ => None,
                };
                let table = table.ok_or_else(|| self.wrong("no list of targets"))?;
                let targets = table
                    .iter()
                    .map(|name| self.label(&Operand::Name(name.clone())));
                let targets = targets.collect::<Result<_>>()?;
                let index = self.src(0, 32)?;
                self.takes("uni");
                if self.takes("idx") {
                    Ok(Op::BrxIdx { index, targets })
                } else {
                    Err(self.unknown())
                }
            }
            "ret" | "exit" => {
                self.count(0..=0)?;
                self.takes("uni");
                Ok(Op::Exit)
            }
            "trap" => Ok(Op::Trap),
            "membar" | "fence" => {
                self.takes_any(&[
                    "acq_rel", "sc", "acquire", "release", "cta", "cluster", "gpu", "gl", "sys",
                ]);
                Ok(Op::Nop)
            }
            "nanosleep" => {
                self.ty()?;
                Ok(Op::Nop)
            }
            "bar" | "barrier" => self.barrier(name),
            "shfl" => self.shfl(),
            "vote" => self.vote(),
            "match" => self.matching(),
            "redux" => self.redux(),
            "elect" => self.elect(),
            "activemask" => {
                self.ty()?;
                Ok(Op::ActiveMask {
                    dst: self.row(0)?.0,
                })
            }
            _ => Err(self.unknown()),
        }
    }

    fn label(&self, operand: &Operand) -> Result<u32> {
        match operand {
            Operand::Name(name) => match self.names.labels.get(name) {
                Some(&at) => Ok(at),
                None => Err(self.wrong(&format!("no label `{name}`"))),
            },
            _ => Err(self.wrong("the target is no label")),
        }
    }

    fn rows(&self, elements: &[Operand]) -> Result<Vec<Option<Reg>>> {
        let rows = elements.iter().map(|element| match element {
            Operand::Register(Register::Row(name, _)) => Ok(Some(Reg::new(*name))),
            Operand::Name(name) if name == "_" => Ok(None),
            _ => Err(self.wrong("an element is no register")),
        });
        rows.collect()
    }
}

fn parse_ty(modifier: &str) -> Option<Ty> {
    let (kind, bits) = match modifier {
        "f16" => (Kind::Float, 16),
        "f32" => (Kind::Float, 32),
        "f64" => (Kind::Float, 64),
        "bf16" => (Kind::BFloat, 16),
        _ => {
            let kind = match modifier.get(..1)? {
                "b" => Kind::Bits,
                "u" => Kind::Unsigned,
                "s" => Kind::Signed,
                _ => return None,
            };
            let bits = modifier[1..].parse().ok()?;
            matches!(bits, 8 | 16 | 32 | 64).then_some((kind, bits))?
        }
    };
    Some(Ty { kind, bits })
}

fn special(name: &str) -> Option<Src> {
    let axis = match name.rsplit_once('.') {
        Some((_, "x")) => 0,
        Some((_, "y")) => 1,
        Some((_, "z")) => 2,
        Some(_) => return None,
        None => 3,
    };
    let special = match (name.split('.').next()?, axis) {
        ("%tid", 0..3) => Special::Tid(axis),
        ("%ntid", 0..3) => Special::Ntid(axis),
        ("%ctaid", 0..3) => Special::Ctaid(axis),
        ("%nctaid", 0..3) => Special::Nctaid(axis),
        ("%clusterid", 0..3) => Special::ClusterId(axis),
        ("%nclusterid", 0..3) => Special::NumClusters(axis),
        ("%cluster_ctaid", 0..3) => Special::ClusterCtaid(axis),
        ("%cluster_nctaid", 0..3) => Special::ClusterNctaid(axis),
        ("%cluster_ctarank", 3) => Special::ClusterCtaRank,
        ("%cluster_nctarank", 3) => Special::ClusterNctaRank,
        ("%laneid", 3) => Special::LaneId,
        ("%warpid", 3) => Special::WarpId,
        ("%nwarpid", 3) => Special::NumWarps,
        ("%lanemask_eq", 3) => Special::MaskEq,
        ("%lanemask_lt", 3) => Special::MaskLt,
        ("%lanemask_le", 3) => Special::MaskLe,
        ("%lanemask_gt", 3) => Special::MaskGt,
        ("%lanemask_ge", 3) => Special::MaskGe,
        ("%dynamic_smem_size", 3) => Special::DynamicSharedBytes,
        _ => return None,
    };
    Some(Src::Special(special))
}
