//! Loads, stores, atomics and addresses.

use super::*;

impl Decoder<'_> {
    pub(super) fn address(&self, i: usize) -> Result<Address> {
        match self.operand(i)? {
            Operand::Memory(base, offset) => Ok(Address {
                base: self.source(base, 64)?,
                offset: *offset,
                narrow: matches!(**base, Operand::Register(Register::Row(_, 32))),
            }),
            _ => Err(self.wrong("an operand is no address")),
        }
    }

    pub(super) fn space(&mut self) -> Space {
        self.pick(&[
            ("global", Space::Global),
            ("const", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::SharedCluster),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
        ])
        .unwrap_or(Space::Generic)
    }

    /// Orders and scopes; whether accesses of this order may meet without a race.
    pub(super) fn order(&mut self) -> bool {
        let atomic = self.takes_any(&["relaxed", "acquire", "release", "acq_rel", "volatile"]);
        self.takes_any(&["weak", "cta", "cluster", "gpu", "sys"]);
        atomic
    }

    /// Hints, which change no result.
    pub(super) fn cache_hints(&mut self) {
        self.takes_any(&["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"]);
        self.mods
            .retain(|m| !m.starts_with("L1::") && !m.starts_with("L2::"));
    }

    pub(super) fn vector(&mut self) -> usize {
        self.pick(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
    }

    pub(super) fn load(&mut self) -> Result<Op> {
        self.count(2..=2)?;
        let space = self.space();
        let atomic = self.order();
        self.cache_hints();
        let vector = self.vector();
        let ty = self.ty()?;
        let (dst, bits) = match self.operand(0)? {
            Operand::Vector(elements) => (self.rows(elements)?, 64),
            _ => {
                let (row, bits) = self.row(0)?;
                (vec![Some(row)], bits)
            }
        };
        if dst.len() != vector {
            return Err(self.wrong("the vector has another length"));
        }
        Ok(Op::Load {
            space,
            width: (ty.bits / 8) as u8,
            sign: (ty.kind == Kind::Signed && vector == 1).then_some((ty.bits, bits)),
            atomic,
            dst,
            address: self.address(1)?,
        })
    }

    pub(super) fn store(&mut self) -> Result<Op> {
        self.count(2..=2)?;
        let space = self.space();
        let atomic = self.order();
        self.cache_hints();
        let vector = self.vector();
        let ty = self.ty()?;
        let src: Vec<Src> = match self.operand(1)? {
            Operand::Vector(elements) => {
                let elements = elements.iter().map(|e| self.source(e, ty.bits));
                elements.collect::<Result<_>>()?
            }
            operand => vec![self.source(operand, ty.bits)?],
        };
        if src.len() != vector {
            return Err(self.wrong("the vector has another length"));
        }
        if space == Space::Param {
            return Err(self.unknown());
        }
        Ok(Op::Store {
            space,
            width: (ty.bits / 8) as u8,
            atomic,
            src,
            address: self.address(0)?,
        })
    }

    pub(super) fn atom(&mut self, returns: bool) -> Result<Op> {
        let space = self.space();
        self.order();
        let f = self.pick(&[
            ("add", AtomOp::Add),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
            ("exch", AtomOp::Exch),
            ("cas", AtomOp::Cas),
            ("inc", AtomOp::Inc),
            ("dec", AtomOp::Dec),
        ]);
        let ty = self.ty()?;
        let f = match (f, ty.kind, ty.bits) {
            (Some(AtomOp::Add), Kind::Float, 32) => AtomOp::AddF32,
            (Some(AtomOp::Add), Kind::Float, 64) => AtomOp::AddF64,
            (None, ..) | (_, Kind::Float | Kind::BFloat, _) => return Err(self.unknown()),
            (Some(AtomOp::Inc | AtomOp::Dec), _, 64) => return Err(self.unknown()),
            (Some(f), ..) => f,
        };
        let spaces = matches!(
            space,
            Space::Global | Space::Shared | Space::SharedCluster | Space::Generic
        );
        if ty.bits < 32 && f != AtomOp::Cas || !spaces {
            return Err(self.unknown());
        }
        let at = usize::from(returns);
        let n = at + if f == AtomOp::Cas { 3 } else { 2 };
        self.count(n..=n)?;
        let dst = match self.operand(0)? {
            _ if !returns => None,
            Operand::Name(name) if name == "_" => None,
            _ => Some(self.row(0)?.0),
        };
        let b = self.src(at + 1, ty.bits)?;
        Ok(Op::Atom {
            f,
            space,
            ty,
            dst,
            address: self.address(at)?,
            b,
            c: if f == AtomOp::Cas {
                self.src(at + 2, ty.bits)?
            } else {
                b
            },
        })
    }

    pub(super) fn cvta(&mut self) -> Result<Op> {
        self.count(2..=2)?;
        let to = self.takes("to");
        let window = match self.space() {
            Space::Global => 0,
            Space::Shared | Space::SharedCluster => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            Space::Generic => return Err(self.unknown()),
        };
        self.ty()?;
        Ok(Op::Cvta {
            dst: self.row(0)?.0,
            src: self.src(1, 64)?,
            add: if to {
                0u64.wrapping_sub(window)
            } else {
                window
            },
        })
    }
}
