//! Arithmetic, logic, comparisons, conversions and moves.

use super::*;

impl Decoder<'_> {
    pub(super) fn alu(&self, f: Alu, ty: Ty, mods: FloatMods, num_src: usize) -> Result<Op> {
        self.count(num_src + 1..=num_src + 1)?;
        let mut src = [Src::Imm(0); 4];
        for (i, src) in src.iter_mut().enumerate().take(num_src) {
            // Integer functions cut their operands themselves; an f32 must not become an f64.
            let is_f32 = matches!(self.operand(i + 1)?, Operand::F32(_)) && ty.bits < 64;
            *src = self.src(i + 1, if is_f32 { 32 } else { 64 })?;
        }
        if !crate::alu::is_known(f, ty, mods) {
            return Err(self.unknown());
        }
        Ok(Op::Alu {
            f,
            ty,
            mods,
            dst: self.row(0)?.0,
            src,
            num_src: num_src as u8,
        })
    }

    pub(super) fn float_mods(&mut self) -> FloatMods {
        FloatMods {
            ftz: self.takes("ftz"),
            sat: self.takes("sat"),
        }
    }

    pub(super) fn arithmetic(
        &mut self,
        int: Option<Alu>,
        float: Option<Alu>,
        n: usize,
    ) -> Result<Op> {
        let ty = self.ty()?;
        if ty.kind == Kind::Float {
            let f = float.ok_or_else(|| self.unknown())?;
            let rounded = matches!(
                f,
                Alu::Add | Alu::Sub | Alu::Mul | Alu::Div | Alu::Fma | Alu::Rcp | Alu::Sqrt
            );
            // add, sub and mul round to nearest without being told; the others have no default.
            let default = matches!(f, Alu::Add | Alu::Sub | Alu::Mul);
            if rounded && !self.takes("rn") && !default {
                return Err(self.unknown());
            }
            let mods = self.float_mods();
            return self.alu(f, ty, mods, n);
        }
        let f = int.ok_or_else(|| self.unknown())?;
        let f = match f {
            Alu::Add if self.takes("sat") => Alu::AddSat,
            Alu::Sub if self.takes("sat") => Alu::SubSat,
            f => f,
        };
        self.alu(f, ty, FloatMods::default(), n)
    }

    pub(super) fn product(&mut self, add: bool) -> Result<Op> {
        let part = self.pick(&[("lo", 0), ("hi", 1), ("wide", 2)]);
        let Some(part) = part else {
            return if add {
                self.arithmetic(None, Some(Alu::Fma), 3)
            } else {
                self.arithmetic(None, Some(Alu::Mul), 2)
            };
        };
        if part == 2 && self.mods.iter().any(|m| m.ends_with("64")) {
            return Err(self.unknown());
        }
        let f = match (part, add) {
            (0, false) => Alu::MulLo,
            (0, true) => Alu::MadLo,
            (1, false) => Alu::MulHi,
            (1, true) => Alu::MadHi,
            (_, false) => Alu::MulWide,
            (_, true) => Alu::MadWide,
        };
        self.arithmetic(Some(f), None, if add { 3 } else { 2 })
    }

    pub(super) fn logic(&mut self, name: &str) -> Result<Op> {
        let n = if name == "not" { 1 } else { 2 };
        if self.takes("pred") {
            self.count(n + 1..=n + 1)?;
            return Ok(Op::Logic {
                f: match name {
                    "and" => Logic::And,
                    "or" => Logic::Or,
                    "xor" => Logic::Xor,
                    _ => Logic::Not,
                },
                dst: self.pred_dst(0)?,
                a: self.pred(1)?,
                b: self.pred(n)?,
            });
        }
        let f = match name {
            "and" => Alu::And,
            "or" => Alu::Or,
            "xor" => Alu::Xor,
            _ => Alu::Not,
        };
        self.arithmetic(Some(f), None, n)
    }

    /// `dp2a` of unsigned numbers, the only kind known.
    pub(super) fn dot2(&mut self) -> Result<Op> {
        let high = self.pick(&[("lo", false), ("hi", true)]);
        let high = high.ok_or_else(|| self.unknown())?;
        let unsigned = Ty {
            kind: Kind::Unsigned,
            bits: 32,
        };
        for _ in 0..2 {
            if self.ty()? != unsigned {
                return Err(self.unknown());
            }
        }
        self.alu(Alu::Dot2 { high }, unsigned, FloatMods::default(), 3)
    }

    pub(super) fn funnel(&mut self) -> Result<Op> {
        let left = self.pick(&[("l", true), ("r", false)]);
        let wrap = self.pick(&[("wrap", true), ("clamp", false)]);
        let (Some(left), Some(wrap)) = (left, wrap) else {
            return Err(self.unknown());
        };
        let f = if left {
            Alu::ShfLeft { wrap }
        } else {
            Alu::ShfRight { wrap }
        };
        self.arithmetic(Some(f), None, 3)
    }

    pub(super) fn cvt(&mut self) -> Result<Op> {
        self.count(2..=2)?;
        let round = self.pick(&[
            ("rn", Round::Nearest),
            ("rni", Round::Rni),
            ("rzi", Round::Rzi),
            ("rmi", Round::Rmi),
            ("rpi", Round::Rpi),
        ]);
        let ftz = self.takes("ftz");
        let sat = self.takes("sat");
        let (to, from) = (self.ty()?, self.ty()?);
        let is_float = |ty: Ty| matches!(ty.kind, Kind::Float | Kind::BFloat);
        // What loses nothing has no rounding; what may needs one.
        let needs = match (is_float(to), is_float(from)) {
            (true, true) => to.bits < from.bits,
            (false, false) => false,
            _ => true,
        };
        let to_integer = is_float(from) && !is_float(to);
        let fits = match round {
            None => !needs,
            Some(Round::Nearest) => is_float(to) && needs,
            Some(_) => to_integer || (is_float(to) && to == from),
        };
        if !fits {
            return Err(self.unknown());
        }
        let (dst, register_bits) = self.row(0)?;
        let conversion = Conversion {
            to,
            from,
            round: round.unwrap_or(Round::Nearest),
            ftz,
            sat,
            register_bits: register_bits.max(to.bits),
        };
        Ok(Op::Cvt {
            conversion,
            dst,
            src: self.src(1, 64)?,
        })
    }

    pub(super) fn setp(&mut self) -> Result<Op> {
        let ty = self.ty()?;
        let combine = self.pick(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
        let cmp = self.pick(&[
            ("eq", Cmp::Eq),
            ("ne", Cmp::Ne),
            ("lt", Cmp::Lt),
            ("lo", Cmp::Lt),
            ("le", Cmp::Le),
            ("ls", Cmp::Le),
            ("gt", Cmp::Gt),
            ("hi", Cmp::Gt),
            ("ge", Cmp::Ge),
            ("hs", Cmp::Ge),
            ("equ", Cmp::Equ),
            ("neu", Cmp::Neu),
            ("ltu", Cmp::Ltu),
            ("leu", Cmp::Leu),
            ("gtu", Cmp::Gtu),
            ("geu", Cmp::Geu),
            ("num", Cmp::Num),
            ("nan", Cmp::Nan),
        ]);
        let cmp = cmp.ok_or_else(|| self.unknown())?;
        let only_floats = !matches!(
            cmp,
            Cmp::Eq | Cmp::Ne | Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge
        );
        let is_float = ty.kind == Kind::Float && ty.bits >= 32;
        if ty.bits < 16 || (only_floats && !is_float) || (ty.kind == Kind::Float && !is_float) {
            return Err(self.unknown());
        }
        let ftz = is_float && self.takes("ftz");
        let n = if combine.is_some() { 4 } else { 3 };
        self.count(n..=n)?;
        let (dst, second) = match self.operand(0)? {
            Operand::Pair(first, second) => match (&**first, &**second) {
                (
                    Operand::Register(Register::Pred(first)),
                    Operand::Register(Register::Pred(second)),
                ) => (*first, Some(*second)),
                _ => return Err(self.wrong("the destination is no pair of predicates")),
            },
            _ => (self.pred_dst(0)?, None),
        };
        let combine = match combine {
            Some(logic) => Some((logic, self.pred(3)?)),
            None => None,
        };
        Ok(Op::Setp {
            cmp,
            ty,
            ftz,
            dst,
            second,
            a: self.src(1, ty.bits)?,
            b: self.src(2, ty.bits)?,
            combine,
        })
    }

    pub(super) fn mov(&mut self) -> Result<Op> {
        self.count(2..=2)?;
        if self.takes("pred") {
            let dst = self.pred_dst(0)?;
            if let Operand::Int(value) = self.operand(1)? {
                let value = *value != 0;
                return Ok(Op::SetPred { dst, value });
            }
            let a = self.pred(1)?;
            return Ok(Op::Logic {
                f: Logic::Mov,
                dst,
                a,
                b: a,
            });
        }
        let bits = self.ty()?.bits;
        match (self.operand(0)?, self.operand(1)?) {
            (Operand::Vector(elements), _) => Ok(Op::Unpack {
                dst: self.rows(elements)?,
                src: self.src(1, bits)?,
                bits: bits / elements.len() as u32,
            }),
            (_, Operand::Vector(elements)) => {
                let bits = bits / elements.len() as u32;
                let src = elements.iter().map(|e| self.source(e, bits));
                Ok(Op::Pack {
                    dst: self.row(0)?.0,
                    src: src.collect::<Result<_>>()?,
                    bits,
                })
            }
            _ => Ok(Op::Mov {
                dst: self.row(0)?.0,
                src: self.src(1, bits)?,
            }),
        }
    }
}
