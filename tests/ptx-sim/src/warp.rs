//! A warp: registers, and the parts into which branches divide it.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use crate::alu::Row;
use crate::checker::Clocks;
use crate::error::ViolationKind;
use crate::instruction::{BarKind, Instr, Op, Pred, Reg, Special, Src};
use crate::launch::Geometry;
use crate::memory::{Fault, Memory, Region};
use crate::module::Kernel;

/// Where a row is put together that no register holds.
pub(crate) type Room = MaybeUninit<Row>;

/// All 32 lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// Lanes at one instruction.
#[derive(Debug, Clone, Copy)]
struct Part {
    pc: u32,
    lanes: u32,
    /// Waits at a collective for other lanes.
    waits: bool,
}

/// 32 threads, and their registers.
#[derive(Debug)]
pub(crate) struct Warp {
    rows: Vec<Row>,
    /// Lanes that wrote a register, by its name.
    written: Vec<u32>,
    preds: Vec<u32>,
    preds_written: Vec<u32>,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    parts: Vec<Part>,
    /// Number in the block, and in the cluster.
    pub(crate) index: u32,
    pub(crate) index_in_cluster: usize,
    /// The block's number in the cluster.
    pub(crate) cta: usize,
    pub(crate) ctaid: [u32; 3],
    pub(crate) local: Region,
    /// The instruction that runs, for reports.
    pub(crate) pc: u32,
    pub(crate) lane_instructions: u64,
}

/// What a warp may touch besides itself.
pub(crate) struct Env<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) geometry: &'a Geometry,
    /// Addresses of the module's variables.
    pub(crate) variables: &'a [u64],
    pub(crate) params: &'a mut Region,
    pub(crate) memory: &'a mut Memory,
    pub(crate) shared: &'a mut [Region],
    pub(crate) exited: &'a [bool],
    /// For each block: when each warp last used its shared memory from outside, and where.
    pub(crate) remote_uses: &'a mut [Vec<RemoteUse>],
    pub(crate) clocks: &'a mut Clocks,
    /// Number in the grid of the cluster's first warp, from 1.
    pub(crate) first_warp: u32,
}

/// The last use of a peer's shared memory by one warp.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RemoteUse {
    /// 0: never.
    pub(crate) clock: u32,
    pub(crate) pc: u32,
    pub(crate) lane: u32,
    pub(crate) address: u64,
}

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// Its turn is over.
    Turn,
    Exited,
    Bar {
        kind: BarKind,
        barrier: u32,
        threads: Option<u32>,
        votes: u32,
    },
    ClusterArrive {
        release: bool,
    },
    ClusterWait,
}

/// A rule broken by a lane of the warp at its `pc`.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) kind: ViolationKind,
    /// The warp's number in the cluster, if it is not the one that runs.
    pub(crate) warp: Option<usize>,
    pub(crate) lane: u32,
    pub(crate) address: Option<u64>,
    pub(crate) detail: String,
}

impl Broken {
    #[cold]
    pub(crate) fn new(kind: ViolationKind, lane: u32, detail: impl Into<String>) -> Box<Self> {
        Box::new(Broken {
            kind,
            warp: None,
            lane,
            address: None,
            detail: detail.into(),
        })
    }

    #[cold]
    pub(crate) fn at(fault: Fault, lane: u32, address: u64) -> Box<Self> {
        let mut broken = Broken::new(fault.0, lane, fault.1);
        broken.address = Some(address);
        broken
    }
}

pub(crate) type Step<T> = Result<T, Box<Broken>>;

/// The numbers of the set bits.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

impl Warp {
    pub(crate) fn new(
        kernel: &Kernel,
        live: u32,
        index: u32,
        index_in_cluster: usize,
        cta: usize,
        ctaid: [u32; 3],
    ) -> Self {
        Warp {
            rows: vec![[0; 32]; kernel.num_rows as usize],
            written: vec![0; kernel.num_registers as usize],
            preds: vec![0; kernel.num_preds as usize],
            preds_written: vec![0; kernel.num_preds as usize],
            live,
            parts: vec![Part {
                pc: 0,
                lanes: live,
                waits: false,
            }],
            index,
            index_in_cluster,
            cta,
            ctaid,
            local: Region::new(
                kernel.local_bytes as usize * 32,
                crate::memory::Init::Uninit,
            ),
            pc: 0,
            lane_instructions: 0,
        }
    }

    /// Runs up to `turn` instructions; how many, and why it stopped.
    pub(crate) fn run(&mut self, env: &mut Env<'_>, turn: u64) -> Step<(u64, Event)> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
        {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { self.run_with_vectors(env, turn) };
        }
        self.run_anywhere(env, turn)
    }

    /// The same, with vectors of 256 bits and a fused multiply-add that is an instruction: Rust compiles for the
    /// oldest processor of a family, and there `mul_add` is a function call for each lane.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    fn run_with_vectors(&mut self, env: &mut Env<'_>, turn: u64) -> Step<(u64, Event)> {
        self.run_anywhere(env, turn)
    }

    #[inline(always)]
    fn run_anywhere(&mut self, env: &mut Env<'_>, turn: u64) -> Step<(u64, Event)> {
        let mut at = self.first_part(env.kernel)?;
        for step in 1..=turn {
            if self.parts.len() > 1 && env.kernel.begins_block[self.parts[at].pc as usize] {
                at = self.first_part(env.kernel)?;
            }
            let part = self.parts[at];
            self.pc = part.pc;
            let instr = &env.kernel.code[part.pc as usize];
            let active = match instr.guard {
                None => part.lanes,
                Some(pred) => self.pred(pred, part.lanes)? & part.lanes,
            };
            self.lane_instructions += u64::from(active.count_ones());
            if active == 0 {
                self.parts[at].pc += 1;
                continue;
            }
            let executed = &env.kernel.executed[part.pc as usize];
            if !executed.load(Ordering::Relaxed) {
                executed.store(true, Ordering::Relaxed);
            }
            match &instr.op {
                Op::Bra { target } => self.branch(at, active, *target),
                Op::BrxIdx { index, targets } => {
                    self.branch_table(env, at, active, *index, targets)?;
                    at = self.first_part(env.kernel)?;
                }
                Op::Exit => {
                    self.exit(at, active);
                    if self.live == 0 {
                        return Ok((step, Event::Exited));
                    }
                    at = self.first_part(env.kernel)?;
                }
                op if op.is_collective() => match self.collective(env, at, active, instr)? {
                    Some(Event::Turn) => {}
                    Some(event) => return Ok((step, event)),
                    None => at = self.first_part(env.kernel)?,
                },
                op => {
                    self.execute(env, op, active)?;
                    self.parts[at].pc += 1;
                }
            }
        }
        Ok((turn, Event::Turn))
    }

    /// The part of lowest rank that can run, together with those that stand where it stands.
    fn first_part(&mut self, kernel: &Kernel) -> Step<usize> {
        if let [only] = self.parts[..]
            && !only.waits
        {
            return Ok(0);
        }
        let rank = |part: &Part| kernel.rank[part.pc as usize];
        let ready = self.parts.iter().filter(|part| !part.waits);
        let Some(&first) = ready.min_by_key(|part| rank(part)) else {
            return Err(self.divergence(kernel));
        };
        let mut lanes = 0;
        self.parts.retain(|part| {
            let here = part.pc == first.pc;
            lanes |= if here { part.lanes } else { 0 };
            !here
        });
        self.parts.push(Part { lanes, ..first });
        Ok(self.parts.len() - 1)
    }

    /// All parts wait at collectives for lanes that are elsewhere.
    #[cold]
    fn divergence(&mut self, kernel: &Kernel) -> Box<Broken> {
        let line = |part: &Part| kernel.code[part.pc as usize].line;
        self.parts.sort_by_key(line);
        let mut detail = String::from("lanes wait for each other:");
        for part in &self.parts {
            detail += &format!(" {:#010x} at line {},", part.lanes, line(part));
        }
        detail += &format!(" of {:#010x}", self.live);
        self.pc = self.parts[0].pc;
        let lane = self.parts[0].lanes.trailing_zeros();
        Broken::new(ViolationKind::DivergentCollective, lane, detail)
    }

    fn branch(&mut self, at: usize, active: u32, target: u32) {
        let part = &mut self.parts[at];
        if active == part.lanes {
            part.pc = target;
            return;
        }
        part.lanes &= !active;
        part.pc += 1;
        self.parts.push(Part {
            pc: target,
            lanes: active,
            waits: false,
        });
    }

    fn branch_table(
        &mut self,
        env: &Env<'_>,
        at: usize,
        active: u32,
        index: Src,
        targets: &[u32],
    ) -> Step<()> {
        let index = self.source(env, index, active)?;
        for lane in lanes(active) {
            let target = targets.get(index[lane] as u32 as usize);
            let Some(&pc) = target else {
                let detail = "a branch outside its list of targets";
                let kind = ViolationKind::OutOfBounds;
                return Err(Broken::new(kind, lane as u32, detail));
            };
            // Lanes that branch to one place become one part there.
            self.parts.push(Part {
                pc,
                lanes: 1 << lane,
                waits: false,
            });
        }
        self.parts[at].pc += 1;
        self.parts[at].lanes &= !active;
        if self.parts[at].lanes == 0 {
            self.parts.remove(at);
        }
        Ok(())
    }

    fn exit(&mut self, at: usize, active: u32) {
        self.live &= !active;
        let part = &mut self.parts[at];
        part.lanes &= !active;
        part.pc += 1;
        if part.lanes == 0 {
            self.parts.remove(at);
        }
        // Those who wait no longer wait for the lanes that left.
        for part in &mut self.parts {
            part.waits = false;
        }
    }

    /// A collective: `None` when lanes are missing, `Turn` when it is done, or what the block or
    /// cluster has to do.
    fn collective(
        &mut self,
        env: &mut Env<'_>,
        at: usize,
        active: u32,
        instr: &Instr,
    ) -> Step<Option<Event>> {
        let part = self.parts[at];
        if active != part.lanes {
            // Lanes whose guard is false go on without it.
            self.parts[at].pc += 1;
            self.parts[at].lanes &= !active;
            self.parts.push(Part {
                lanes: active,
                ..part
            });
            return Ok(None);
        }
        if instr.op.needs_whole_warp() {
            if active != self.live {
                self.parts[at].waits = true;
                return Ok(None);
            }
            let event = self.barrier(env, &instr.op, active)?;
            self.parts[at].pc += 1;
            return Ok(Some(event));
        }
        let Some(mask) = instr.op.warp_mask() else {
            return Ok(Some(Event::Turn));
        };
        let masks = self.source(env, mask, active)?;
        let first = masks[active.trailing_zeros() as usize] as u32;
        let is_one = lanes(active).all(|lane| masks[lane] as u32 == first);
        // Almost always all lanes name the same mask, in which they all are.
        let to_check = if is_one && first & active == active {
            active & active.wrapping_neg()
        } else {
            active
        };
        for lane in lanes(to_check) {
            let mask = masks[lane] as u32;
            let wrong = |detail: &str| {
                let kind = ViolationKind::DivergentCollective;
                Broken::new(kind, lane as u32, format!("{detail} (mask {mask:#010x})"))
            };
            if mask >> lane & 1 == 0 {
                return Err(wrong("a lane is not in its own mask"));
            }
            if mask & self.live & !active != 0 {
                self.parts[at].waits = true;
                return Ok(None);
            }
            if lanes(mask & active).any(|other| masks[other] as u32 != mask) {
                return Err(wrong("lanes name different masks"));
            }
        }
        self.together(env, &instr.op, active, &masks)?;
        self.parts[at].pc += 1;
        Ok(Some(Event::Turn))
    }

    fn barrier(&mut self, env: &Env<'_>, op: &Op, active: u32) -> Step<Event> {
        let Op::Bar {
            kind,
            barrier,
            threads,
            pred,
        } = *op
        else {
            return Ok(match op {
                Op::ClusterArrive { release } => Event::ClusterArrive { release: *release },
                _ => Event::ClusterWait,
            });
        };
        let uniform = |src: Src| {
            let row = self.source(env, src, active)?;
            let first = active.trailing_zeros();
            match lanes(active).find(|&lane| row[lane] as u32 != row[first as usize] as u32) {
                None => Ok(row[first as usize] as u32),
                Some(lane) => Err(Broken::new(
                    ViolationKind::BarrierMisuse,
                    lane as u32,
                    "lanes name different barriers",
                )),
            }
        };
        let votes = match pred {
            Some(pred) => self.pred(pred, active)? & active,
            None => 0,
        };
        Ok(Event::Bar {
            kind,
            barrier: uniform(barrier)?,
            threads: threads.map(uniform).transpose()?,
            votes,
        })
    }

    /// A source's numbers; all of `active` must have written it.
    #[inline(always)]
    pub(crate) fn source(&self, env: &Env<'_>, src: Src, active: u32) -> Step<Row> {
        self.row(env, src, active, &mut Room::uninit()).copied()
    }

    /// [`Warp::source`] where it stands; `room` is for what stands in no register.
    #[inline(always)]
    pub(crate) fn row<'a>(
        &'a self,
        env: &Env<'_>,
        src: Src,
        active: u32,
        room: &'a mut Room,
    ) -> Step<&'a Row> {
        let row = match src {
            Src::Row(register) => {
                let missing = active & !self.written[register.name as usize];
                if missing != 0 {
                    return Err(unwritten(missing, ""));
                }
                return Ok(&self.rows[register.row as usize]);
            }
            Src::Imm(value) => [value; 32],
            Src::Special(special) => self.special(env, special),
            Src::Variable(index) => [env.variables[index as usize]; 32],
        };
        Ok(room.write(row))
    }

    /// A predicate's lanes, idle ones too; all of `active` must have written it.
    #[inline(always)]
    pub(crate) fn pred(&self, pred: Pred, active: u32) -> Step<u32> {
        let missing = active & !self.preds_written[pred.index as usize];
        if missing != 0 {
            return Err(unwritten(missing, "a predicate"));
        }
        let value = self.preds[pred.index as usize];
        Ok(if pred.negated { !value } else { value })
    }

    #[inline(always)]
    pub(crate) fn set_row(&mut self, dst: Reg, value: &Row, active: u32) {
        let row = &mut self.rows[dst.row as usize];
        if active == FULL {
            *row = *value;
        } else {
            for lane in 0..32 {
                let is_active = active >> lane & 1 == 1;
                row[lane] = if is_active { value[lane] } else { row[lane] };
            }
        }
        self.written[dst.name as usize] |= active;
    }

    #[inline(always)]
    pub(crate) fn set_pred(&mut self, index: u32, value: u32, active: u32) {
        let pred = &mut self.preds[index as usize];
        *pred = (*pred & !active) | (value & active);
        self.preds_written[index as usize] |= active;
    }

    /// Marks a result as undefined.
    pub(crate) fn forget_row(&mut self, dst: Reg, lanes: u32) {
        self.written[dst.name as usize] &= !lanes;
    }

    /// `%tid` of a lane.
    pub(crate) fn tid(&self, block: [u32; 3], lane: u32) -> [u32; 3] {
        let [x, y, _] = block;
        let thread = self.index * 32 + lane;
        [thread % x, thread / x % y, thread / (x * y)]
    }

    fn special(&self, env: &Env<'_>, special: Special) -> Row {
        let g = env.geometry;
        let mut row = [0; 32];
        let value = match special {
            Special::Ntid(axis) => g.block[axis as usize],
            Special::Ctaid(axis) => self.ctaid[axis as usize],
            Special::Nctaid(axis) => g.grid[axis as usize],
            Special::ClusterId(0) => self.ctaid[0] / g.cluster,
            Special::ClusterId(axis) => self.ctaid[axis as usize],
            Special::NumClusters(0) => g.grid[0] / g.cluster,
            Special::NumClusters(axis) => g.grid[axis as usize],
            Special::ClusterCtaid(0) | Special::ClusterCtaRank => self.cta as u32,
            Special::ClusterCtaid(_) => 0,
            Special::ClusterNctaid(0) | Special::ClusterNctaRank => g.cluster,
            Special::ClusterNctaid(_) => 1,
            Special::WarpId => self.index,
            Special::NumWarps => g.warps_per_block(),
            Special::DynamicSharedBytes => g.dynamic_shared,
            Special::Tid(_)
            | Special::LaneId
            | Special::MaskEq
            | Special::MaskLt
            | Special::MaskLe
            | Special::MaskGt
            | Special::MaskGe => {
                for (lane, value) in (0u32..32).zip(&mut row) {
                    let eq = 1u32 << lane;
                    *value = u64::from(match special {
                        Special::Tid(axis) => self.tid(g.block, lane)[axis as usize],
                        Special::MaskEq => eq,
                        Special::MaskLt => eq - 1,
                        Special::MaskLe => eq | (eq - 1),
                        Special::MaskGt => !(eq | (eq - 1)),
                        Special::MaskGe => !(eq - 1),
                        _ => lane,
                    });
                }
                return row;
            }
        };
        [u64::from(value); 32]
    }
}

#[cold]
fn unwritten(missing: u32, what: &str) -> Box<Broken> {
    let kind = ViolationKind::UninitialisedRegister;
    Broken::new(kind, missing.trailing_zeros(), what)
}
