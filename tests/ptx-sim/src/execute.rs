//! What single instructions do to a warp.

use crate::alu::{self, Alu, Kind, Row};
use crate::checker::Accessor;
use crate::error::ViolationKind;
use crate::float;
use crate::instruction::{Address, AtomOp, Logic, Op, Reg, ShflMode, Space, Src, Vote, VoteDst};
use crate::memory::{
    Fault, LOCAL_WINDOW, PARAM_WINDOW, RANK_SHIFT, Region, SHARED_BASE, SHARED_WINDOW,
};
use crate::warp::{Broken, Env, RemoteUse, Room, Step, Warp, lanes};

impl Warp {
    /// Executes what is neither a branch nor a collective.
    #[inline(always)]
    pub(crate) fn execute(&mut self, env: &mut Env<'_>, op: &Op, active: u32) -> Step<()> {
        let mut room = Room::uninit();
        match op {
            Op::Alu {
                f,
                ty,
                mods,
                dst,
                src,
                num_src,
            } => {
                let mut rooms = [Room::uninit(); 4];
                let mut rows = [&[0; 32]; 4];
                let sources = src.iter().zip(&mut rooms).take(usize::from(*num_src));
                for (row, (src, room)) in rows.iter_mut().zip(sources) {
                    *row = self.row(env, *src, active, room)?;
                }
                if matches!(f, Alu::Div | Alu::Rem) && ty.kind != Kind::Float {
                    let mask = u64::MAX >> (64 - ty.bits);
                    if let Some(lane) = lanes(active).find(|&lane| rows[1][lane] & mask == 0) {
                        let kind = ViolationKind::DivisionByZero;
                        return Err(Broken::new(kind, lane as u32, ""));
                    }
                }
                if let Some(row) = alu::eval(*f, *ty, *mods, rows) {
                    self.set_row(*dst, &row, active);
                }
            }
            Op::Cvt {
                conversion,
                dst,
                src,
            } => {
                let row = self.row(env, *src, active, &mut room)?;
                let row = float::convert_row(*conversion, row);
                self.set_row(*dst, &row, active);
            }
            Op::Setp {
                cmp,
                ty,
                ftz,
                dst,
                second,
                a,
                b,
                combine,
            } => {
                let a = self.row(env, *a, active, &mut room)?;
                let mut room = Room::uninit();
                let b = self.row(env, *b, active, &mut room)?;
                let holds = float::compare(*cmp, *ty, *ftz, a, b);
                let with = |x: u32, other: u32| match combine {
                    Some((Logic::And, _)) => x & other,
                    Some((Logic::Or, _)) => x | other,
                    Some((Logic::Xor, _)) => x ^ other,
                    _ => x,
                };
                let other = match combine {
                    Some((_, pred)) => self.pred(*pred, active)?,
                    None => 0,
                };
                self.set_pred(*dst, with(holds, other), active);
                if let Some(second) = second {
                    self.set_pred(*second, with(!holds, other), active);
                }
            }
            Op::Selp { dst, a, b, pred } => {
                let chosen = self.pred(*pred, active)?;
                // Only what is chosen is read.
                let a = self.source(env, *a, active & chosen)?;
                let b = self.source(env, *b, active & !chosen)?;
                self.set_row(*dst, &a, active & chosen);
                self.set_row(*dst, &b, active & !chosen);
            }
            Op::Logic { f, dst, a, b } => {
                let (a, b) = (self.pred(*a, active)?, self.pred(*b, active)?);
                let value = match f {
                    Logic::Mov => a,
                    Logic::Not => !a,
                    Logic::And => a & b,
                    Logic::Or => a | b,
                    Logic::Xor => a ^ b,
                };
                self.set_pred(*dst, value, active);
            }
            Op::SetPred { dst, value } => {
                self.set_pred(*dst, if *value { active } else { 0 }, active);
            }
            Op::Mov { dst, src } => {
                let row = *self.row(env, *src, active, &mut room)?;
                self.set_row(*dst, &row, active);
            }
            Op::Pack { dst, src, bits } => {
                let mask = u64::MAX >> (64 - bits);
                let mut row = [0; 32];
                for (i, src) in src.iter().enumerate() {
                    let part = self.source(env, *src, active)?;
                    for (row, part) in row.iter_mut().zip(part) {
                        *row |= (part & mask) << (*bits as usize * i);
                    }
                }
                self.set_row(*dst, &row, active);
            }
            Op::Unpack { dst, src, bits } => {
                let mask = u64::MAX >> (64 - bits);
                let row = self.source(env, *src, active)?;
                for (i, dst) in dst.iter().enumerate() {
                    if let Some(dst) = dst {
                        let part = row.map(|x| (x >> (*bits as usize * i)) & mask);
                        self.set_row(*dst, &part, active);
                    }
                }
            }
            Op::Load {
                space,
                width,
                sign,
                atomic,
                dst,
                address,
            } => {
                let access = (*space, *atomic);
                macro_rules! load {
                    ($dst:expr) => {
                        match width {
                            1 => self.load::<_, 1>(env, access, *sign, $dst, *address, active),
                            2 => self.load::<_, 2>(env, access, *sign, $dst, *address, active),
                            4 => self.load::<_, 4>(env, access, *sign, $dst, *address, active),
                            _ => self.load::<_, 8>(env, access, *sign, $dst, *address, active),
                        }
                    };
                }
                match dst[..] {
                    [dst] => load!([dst])?,
                    [a, b] => load!([a, b])?,
                    [a, b, c, d] => load!([a, b, c, d])?,
                    _ => {
                        let mut all = [None; 8];
                        all.copy_from_slice(dst);
                        load!(all)?;
                    }
                }
            }
            Op::Store {
                space,
                width,
                atomic,
                src,
                address,
            } => {
                let access = (*space, *atomic);
                macro_rules! store {
                    ($src:expr) => {
                        match width {
                            1 => self.store::<_, 1>(env, access, $src, *address, active),
                            2 => self.store::<_, 2>(env, access, $src, *address, active),
                            4 => self.store::<_, 4>(env, access, $src, *address, active),
                            _ => self.store::<_, 8>(env, access, $src, *address, active),
                        }
                    };
                }
                match src[..] {
                    [src] => store!([src])?,
                    [a, b] => store!([a, b])?,
                    [a, b, c, d] => store!([a, b, c, d])?,
                    _ => {
                        let mut all = [Src::Imm(0); 8];
                        all.copy_from_slice(src);
                        store!(all)?;
                    }
                }
            }
            Op::Atom {
                f,
                space,
                ty,
                dst,
                address,
                b,
                c,
            } => {
                let base = self.addresses(env, *address, active)?;
                let (b, c) = (self.source(env, *b, active)?, self.source(env, *c, active)?);
                let width = ty.bits as usize / 8;
                let mut old = [0; 32];
                let access = (*space, true);
                self.each_lane(
                    env,
                    access,
                    width,
                    &base,
                    active,
                    |region, at, lane, who| {
                        let new = |old| atom(*f, *ty, old, b[lane], c[lane]);
                        if let Some(who) = who {
                            old[lane] = region.update(at, width, who, new).map_err(whole)?;
                        }
                        Ok(())
                    },
                )?;
                if let Some(dst) = dst {
                    self.set_row(*dst, &old, active);
                }
            }
            Op::Cvta { dst, src, add } => {
                let row = self.source(env, *src, active)?;
                let row = row.map(|x| x.wrapping_add(*add));
                self.set_row(*dst, &row, active);
            }
            Op::Mapa {
                dst,
                address,
                rank,
                generic,
            } => {
                let address = self.source(env, *address, active)?;
                let rank = self.source(env, *rank, active)?;
                let mut row = [0; 32];
                for lane in lanes(active) {
                    if rank[lane] as u32 >= env.geometry.cluster {
                        let detail = format!(
                            "rank {} in a cluster of {}",
                            rank[lane], env.geometry.cluster
                        );
                        let fault = Fault(ViolationKind::OutOfBounds, detail);
                        return Err(Broken::at(fault, lane as u32, address[lane]));
                    }
                    let offset = address[lane] & ((1 << RANK_SHIFT) - 1);
                    let window = if *generic { SHARED_WINDOW } else { 0 };
                    row[lane] = offset | ((rank[lane] + 1) << RANK_SHIFT) | window;
                }
                self.set_row(*dst, &row, active);
            }
            Op::GetCtaRank { dst, address } => {
                let row = self.source(env, *address, active)?;
                let own = self.cta as u64;
                let row = row.map(|x| {
                    ((x as u32) >> RANK_SHIFT)
                        .checked_sub(1)
                        .map_or(own, u64::from)
                });
                self.set_row(*dst, &row, active);
            }
            Op::ActiveMask { dst } => self.set_row(*dst, &[u64::from(active); 32], active),
            Op::Trap => {
                let lane = active.trailing_zeros();
                return Err(Broken::new(ViolationKind::Trap, lane, ""));
            }
            _ => {}
        }
        Ok(())
    }

    /// Loads `N` numbers of `WIDTH` bytes each, one behind the other.
    #[inline(never)]
    fn load<const N: usize, const WIDTH: usize>(
        &mut self,
        env: &mut Env<'_>,
        access: (Space, bool),
        sign: Option<(u32, u32)>,
        dst: [Option<Reg>; N],
        address: Address,
        active: u32,
    ) -> Step<()> {
        let base = self.addresses(env, address, active)?;
        let mut rows = [[0; 32]; N];
        self.each_lane(
            env,
            access,
            WIDTH * N,
            &base,
            active,
            |region, at, lane, who| {
                for (i, row) in rows.iter_mut().enumerate() {
                    let behind = i * WIDTH;
                    let loaded = region.load(at.wrapping_add(behind as u64), WIDTH, who);
                    row[lane] = loaded.map_err(|fault| (behind, fault))?;
                }
                Ok(())
            },
        )?;
        if let Some((from, to)) = sign {
            let mask = u64::MAX >> (64 - to);
            rows[0] = rows[0].map(|x| float::sign_extend(x, from) as u64 & mask);
        }
        for (dst, row) in dst.iter().zip(&rows) {
            if let Some(dst) = dst {
                self.set_row(*dst, row, active);
            }
        }
        Ok(())
    }

    /// Stores `N` numbers of `WIDTH` bytes each, one behind the other.
    #[inline(never)]
    fn store<const N: usize, const WIDTH: usize>(
        &mut self,
        env: &mut Env<'_>,
        access: (Space, bool),
        src: [Src; N],
        address: Address,
        active: u32,
    ) -> Step<()> {
        let base = self.addresses(env, address, active)?;
        let mut values = [[0; 32]; N];
        for (values, src) in values.iter_mut().zip(src) {
            *values = self.source(env, src, active)?;
        }
        self.each_lane(
            env,
            access,
            WIDTH * N,
            &base,
            active,
            |region, at, lane, who| {
                for (i, values) in values.iter().enumerate() {
                    let behind = i * WIDTH;
                    let stored =
                        region.store(at.wrapping_add(behind as u64), WIDTH, values[lane], who);
                    stored.map_err(|fault| (behind, fault))?;
                }
                Ok(())
            },
        )
    }

    #[inline(always)]
    fn addresses(&self, env: &Env<'_>, address: Address, active: u32) -> Step<Row> {
        let mut room = Room::uninit();
        let base = self.row(env, address.base, active, &mut room)?;
        let mask = if address.narrow {
            u64::from(u32::MAX)
        } else {
            u64::MAX
        };
        Ok(base.map(|x| x.wrapping_add(address.offset as u64) & mask))
    }

    /// Calls `f` with the region and offset of each active lane's address, and what it is for races, if for
    /// anything. A fault of `f` comes with how far behind the address it lies.
    #[inline(always)]
    fn each_lane(
        &mut self,
        env: &mut Env<'_>,
        (space, atomic): (Space, bool),
        width: usize,
        base: &Row,
        active: u32,
        mut f: impl FnMut(&mut Region, u64, usize, Option<&Accessor<'_>>) -> Result<(), (usize, Fault)>,
    ) -> Step<()> {
        let own = self.index_in_cluster;
        let seen = env.clocks.seen(own);
        let mut who = Accessor {
            warp: env.first_warp + own as u32,
            first_warp: env.first_warp,
            lane: 0,
            clock: seen[own],
            seen,
            atomic,
        };
        let first = base[active.trailing_zeros() as usize];
        let mut differ = 0;
        for (lane, address) in base.iter().enumerate() {
            let is_active = active >> lane & 1 == 1;
            differ |= if is_active { address ^ first } else { 0 };
        }
        // Almost always: addresses so near to each other are of one region, which is looked for once.
        let is_near = differ >> RANK_SHIFT == 0;

        let mut rest = active;
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            let address = base[lane];
            aligned(address, width, lane)?;
            let (space, inner) = match space {
                Space::Generic if address >= PARAM_WINDOW => (Space::Param, address - PARAM_WINDOW),
                Space::Generic if address >= LOCAL_WINDOW => (Space::Local, address - LOCAL_WINDOW),
                Space::Generic if address >= SHARED_WINDOW => {
                    (Space::SharedCluster, address - SHARED_WINDOW)
                }
                Space::Generic => (Space::Global, address),
                space => (space, address),
            };
            let group = match space {
                Space::Local => 1 << lane,
                _ if is_near => rest,
                _ => 1 << lane,
            };
            rest &= !group;
            let broken = |kind, detail| Broken::at(Fault(kind, detail), lane as u32, address);
            let nowhere = || {
                let detail = String::from("no allocation is there");
                broken(ViolationKind::OutOfBounds, detail)
            };
            let (region, at, is_watched) = match space {
                Space::Global => {
                    let (region, at) = env.memory.find_mut(inner).ok_or_else(nowhere)?;
                    (region, at, true)
                }
                Space::Shared | Space::SharedCluster => {
                    let rank = inner >> RANK_SHIFT;
                    let cta = (rank as usize).checked_sub(1).unwrap_or(self.cta);
                    if cta >= env.shared.len() || (space == Space::Shared && rank != 0) {
                        return Err(nowhere());
                    }
                    if env.exited[cta] {
                        let detail = format!("block {cta} of the cluster has exited");
                        return Err(broken(ViolationKind::PeerExited, detail));
                    }
                    if cta != self.cta {
                        let last = 31 - group.leading_zeros();
                        env.remote_uses[cta][own] = RemoteUse {
                            clock: who.clock,
                            pc: self.pc,
                            lane: last,
                            address: base[last as usize],
                        };
                    }
                    let at = (inner & ((1 << RANK_SHIFT) - 1)).wrapping_sub(SHARED_BASE);
                    (&mut env.shared[cta], at, true)
                }
                Space::Local => {
                    let each = env.kernel.local_bytes;
                    if inner >= each {
                        return Err(nowhere());
                    }
                    (&mut self.local, lane as u64 * each + inner, false)
                }
                Space::Param | Space::Generic => (&mut *env.params, inner, false),
            };
            for lane in lanes(group) {
                aligned(base[lane], width, lane)?;
                who.lane = lane as u32;
                let at = at.wrapping_add(base[lane].wrapping_sub(address));
                f(region, at, lane, is_watched.then_some(&who)).map_err(|(behind, fault)| {
                    let address = base[lane].wrapping_add(behind as u64);
                    Broken::at(fault, lane as u32, address)
                })?;
            }
        }
        Ok(())
    }

    /// Executes a warp-wide operation of `active`, whose lanes name `masks`.
    pub(crate) fn together(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        active: u32,
        masks: &Row,
    ) -> Step<()> {
        let group = |lane: usize| masks[lane] as u32 & active;
        let mut row = [0; 32];
        match op {
            // Orders memory among the lanes.
            Op::BarWarp { .. } => env.clocks.advance(self.index_in_cluster),
            Op::Shfl {
                mode,
                dst,
                in_range,
                a,
                b,
                c,
                ..
            } => {
                let a = self.source(env, *a, active)?;
                let (b, c) = (self.source(env, *b, active)?, self.source(env, *c, active)?);
                let (mut within, mut undefined) = (0, 0);
                for lane in lanes(active) {
                    let (from, inside) =
                        shuffle(*mode, lane as u32, b[lane] as u32, c[lane] as u32);
                    row[lane] = a[from as usize];
                    within |= u32::from(inside) << lane;
                    undefined |= u32::from(group(lane) >> from & 1 == 0) << lane;
                }
                self.set_row(*dst, &row, active);
                // What comes from a lane that takes no part is undefined: reading it is the error.
                self.forget_row(*dst, undefined);
                if let Some(pred) = in_range {
                    self.set_pred(*pred, within, active);
                }
            }
            Op::Vote {
                vote, dst, pred, ..
            } => {
                let votes = self.pred(*pred, active)?;
                let mut holds = 0;
                for lane in lanes(active) {
                    let group = group(lane);
                    row[lane] = u64::from(votes & group);
                    let one = match vote {
                        Vote::All => votes & group == group,
                        Vote::Any => votes & group != 0,
                        _ => votes & group == group || votes & group == 0,
                    };
                    holds |= u32::from(one) << lane;
                }
                match *dst {
                    VoteDst::Row(dst) => self.set_row(dst, &row, active),
                    VoteDst::Pred(dst) => self.set_pred(dst, holds, active),
                }
            }
            Op::Match {
                all,
                bits,
                dst,
                pred,
                a,
                ..
            } => {
                let mask = u64::MAX >> (64 - bits);
                let a = self.source(env, *a, active)?.map(|x| x & mask);
                let mut holds = 0;
                for lane in lanes(active) {
                    let same = lanes(group(lane)).filter(|&other| a[other] == a[lane]);
                    let same: u32 = same.map(|other| 1 << other).sum();
                    let every = same == group(lane);
                    holds |= u32::from(every) << lane;
                    row[lane] = if *all && !every { 0 } else { u64::from(same) };
                }
                self.set_row(*dst, &row, active);
                if let Some(pred) = pred {
                    self.set_pred(*pred, holds, active);
                }
            }
            Op::Redux { f, ty, dst, a, .. } => {
                let a = self.source(env, *a, active)?;
                for lane in lanes(active) {
                    let values = lanes(group(lane)).map(|other| a[other] as u32);
                    let signed = ty.kind == Kind::Signed;
                    let folded = values.reduce(|x, y| match f {
                        Alu::Add => x.wrapping_add(y),
                        Alu::Min if signed => (x as i32).min(y as i32) as u32,
                        Alu::Max if signed => (x as i32).max(y as i32) as u32,
                        Alu::Min => x.min(y),
                        Alu::Max => x.max(y),
                        Alu::And => x & y,
                        Alu::Or => x | y,
                        _ => x ^ y,
                    });
                    row[lane] = u64::from(folded.unwrap_or(0));
                }
                self.set_row(*dst, &row, active);
            }
            Op::Elect { dst, pred, .. } => {
                let mut leads = 0;
                for lane in lanes(active) {
                    let leader = group(lane).trailing_zeros();
                    row[lane] = u64::from(leader);
                    leads |= u32::from(leader == lane as u32) << lane;
                }
                if let Some(dst) = dst {
                    self.set_row(*dst, &row, active);
                }
                self.set_pred(*pred, leads, active);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A fault of a whole access.
#[cold]
fn whole(fault: Fault) -> (usize, Fault) {
    (0, fault)
}

#[inline(always)]
fn aligned(address: u64, width: usize, lane: usize) -> Step<()> {
    if address & (width as u64 - 1) == 0 {
        return Ok(());
    }
    let fault = Fault(ViolationKind::Misaligned, format!("{width} bytes"));
    Err(Broken::at(fault, lane as u32, address))
}

/// The lane that `shfl` reads from, and whether it lies inside the segment.
fn shuffle(mode: ShflMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, (c >> 8) & 31);
    let last = (lane & segment) | (clamp & !segment);
    let (from, inside) = match mode {
        ShflMode::Up => {
            let from = lane as i32 - b as i32;
            (from, from >= last as i32)
        }
        ShflMode::Down => ((lane + b) as i32, lane + b <= last),
        ShflMode::Bfly => ((lane ^ b) as i32, lane ^ b <= last),
        ShflMode::Idx => {
            let from = (lane & segment) | (b & !segment);
            (from as i32, from <= last)
        }
    };
    if inside && from < 32 {
        (from as u32, true)
    } else {
        (lane, inside)
    }
}

fn atom(f: AtomOp, ty: alu::Ty, old: u64, b: u64, c: u64) -> u64 {
    let mask = u64::MAX >> (64 - ty.bits);
    let signed = |x: u64| float::sign_extend(x, ty.bits);
    let (old, b) = (old & mask, b & mask);
    mask & match f {
        AtomOp::Add => old.wrapping_add(b),
        AtomOp::AddF32 => {
            u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits())
        }
        AtomOp::AddF64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        AtomOp::Min if ty.kind == Kind::Signed => signed(old).min(signed(b)) as u64,
        AtomOp::Max if ty.kind == Kind::Signed => signed(old).max(signed(b)) as u64,
        AtomOp::Min => old.min(b),
        AtomOp::Max => old.max(b),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}
