//! The blocks of one cluster: whose turn it is, barriers, exits.

use crate::checker::Clocks;
use crate::error::{Violation, ViolationKind};
use crate::instruction::BarKind;
use crate::launch::Geometry;
use crate::memory::{Fault, Init, Memory, Region};
use crate::module::Kernel;
use crate::random::Random;
use crate::warp::{Broken, Env, Event, FULL, RemoteUse, Step, Warp};

/// What all clusters of a launch share.
pub(crate) struct Outside<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) geometry: &'a Geometry,
    pub(crate) variables: &'a [u64],
    pub(crate) params: &'a mut Region,
    pub(crate) memory: &'a mut Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    AtBarrier,
    AtCluster,
    Done,
}

/// One of a block's 16 barriers.
#[derive(Debug, Default, Clone)]
struct Barrier {
    /// Warps that arrived; those that wait have what they wait for.
    arrived: Vec<(usize, Option<BarKind>)>,
    /// Threads that the barrier waits for; `None` for all of the block.
    threads: Option<u32>,
    voted: u32,
    voters: u32,
    released: Vec<u32>,
}

/// The cluster barrier.
#[derive(Debug, Default)]
struct ClusterBarrier {
    phase: u64,
    released: Vec<u32>,
    /// What the last complete phase passes on.
    complete: Vec<u32>,
}

/// Blocks that run together.
#[derive(Debug)]
pub(crate) struct Cluster {
    warps: Vec<Warp>,
    states: Vec<State>,
    /// The cluster barrier's phase in which a warp arrived without having waited.
    phases: Vec<Option<u64>>,
    ready: Vec<usize>,
    shared: Vec<Region>,
    exited: Vec<bool>,
    remote_uses: Vec<Vec<RemoteUse>>,
    barriers: Vec<Barrier>,
    cluster_barrier: ClusterBarrier,
    clocks: Clocks,
    first_warp: u32,
    warps_per_block: usize,
}

const BARRIERS: usize = 16;

impl Cluster {
    pub(crate) fn new(kernel: &Kernel, geometry: &Geometry, index: usize) -> Self {
        let blocks = geometry.cluster as usize;
        let warps_per_block = geometry.warps_per_block() as usize;
        let clusters_x = geometry.grid[0] as usize / blocks;
        let (x, y) = (index % clusters_x, index / clusters_x);
        let (y, z) = (y % geometry.grid[1] as usize, y / geometry.grid[1] as usize);
        let num_warps = blocks * warps_per_block;
        let warps = (0..num_warps).map(|at| {
            let (cta, warp) = (at / warps_per_block, at % warps_per_block);
            let threads = geometry.threads() as usize - 32 * warp;
            let live = if threads >= 32 {
                FULL
            } else {
                (1 << threads) - 1
            };
            let ctaid = [(x * blocks + cta) as u32, y as u32, z as u32];
            Warp::new(kernel, live, warp as u32, at, cta, ctaid)
        });
        let shared_bytes = kernel.static_shared as usize + geometry.dynamic_shared as usize;
        let shared = (0..blocks).map(|_| Region::new(shared_bytes, Init::Uninit));
        Cluster {
            warps: warps.collect(),
            states: vec![State::Ready; num_warps],
            phases: vec![None; num_warps],
            ready: (0..num_warps).collect(),
            shared: shared.collect(),
            exited: vec![false; blocks],
            remote_uses: vec![vec![RemoteUse::default(); num_warps]; blocks],
            barriers: vec![Barrier::default(); blocks * BARRIERS],
            cluster_barrier: ClusterBarrier::default(),
            clocks: Clocks::new(num_warps),
            first_warp: (index * num_warps) as u32 + 1,
            warps_per_block,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.states.iter().all(|&state| state == State::Done)
    }

    pub(crate) fn lane_instructions(&self) -> u64 {
        self.warps.iter().map(|warp| warp.lane_instructions).sum()
    }

    /// Lets one warp run for a turn; how many instructions it executed.
    pub(crate) fn step(
        &mut self,
        outside: &mut Outside<'_>,
        random: &mut Random,
    ) -> Result<u64, Box<Violation>> {
        if self.ready.is_empty() {
            return Err(self.stopped(outside, ViolationKind::Deadlock));
        }
        let at = self.ready[random.below(self.ready.len())];
        // Long turns and short ones: some races of values need the one, some the other.
        let turn = [1, 8, 64, 512][random.below(4)];
        let mut env = Env {
            kernel: outside.kernel,
            geometry: outside.geometry,
            variables: outside.variables,
            params: outside.params,
            memory: outside.memory,
            shared: &mut self.shared,
            exited: &self.exited,
            remote_uses: &mut self.remote_uses,
            clocks: &mut self.clocks,
            first_warp: self.first_warp,
        };
        let ran = self.warps[at].run(&mut env, turn);
        let ran = ran.and_then(|(steps, event)| self.handle(at, event).map(|()| steps));
        ran.map_err(|broken| self.report(outside, broken.warp.unwrap_or(at), *broken))
    }

    fn handle(&mut self, at: usize, event: Event) -> Step<()> {
        match event {
            Event::Turn => return Ok(()),
            Event::Exited => {
                self.states[at] = State::Done;
                self.exit_block(self.warps[at].cta)?;
            }
            Event::Bar {
                kind,
                barrier,
                threads,
                votes,
            } => self.arrive(at, kind, barrier, threads, votes)?,
            Event::ClusterArrive { release } => {
                if self.phases[at].is_some() {
                    return Err(self.misuse(at, "a second arrival at the cluster before the wait"));
                }
                self.phases[at] = Some(self.cluster_barrier.phase);
                if release {
                    self.clocks.release(at, &mut self.cluster_barrier.released);
                }
            }
            Event::ClusterWait => {
                if self.phases[at].is_none() {
                    return Err(self.misuse(at, "a wait at the cluster without an arrival"));
                }
                self.states[at] = State::AtCluster;
            }
        }
        self.complete_barriers(self.warps[at].cta)?;
        self.complete_cluster();
        let states = &self.states;
        self.ready.clear();
        self.ready
            .extend((0..states.len()).filter(|&at| states[at] == State::Ready));
        Ok(())
    }

    fn misuse(&self, at: usize, detail: &str) -> Box<Broken> {
        let lane = self.warps[at].live.trailing_zeros() & 31;
        Broken::new(ViolationKind::BarrierMisuse, lane, detail)
    }

    fn arrive(
        &mut self,
        at: usize,
        kind: BarKind,
        number: u32,
        threads: Option<u32>,
        votes: u32,
    ) -> Step<()> {
        if number as usize >= BARRIERS {
            return Err(self.misuse(at, "barriers have the numbers 0 to 15"));
        }
        let whole_warps =
            |n: u32| n != 0 && n.is_multiple_of(32) && n as usize <= 32 * self.warps_per_block;
        if threads.is_some_and(|n| !whole_warps(n)) {
            return Err(self.misuse(at, "the number of threads is not that of some whole warps"));
        }
        let barrier = &mut self.barriers[self.warps[at].cta * BARRIERS + number as usize];
        if !barrier.arrived.is_empty() && barrier.threads != threads {
            return Err(self.misuse(at, "warps expect different numbers of threads"));
        }
        barrier.threads = threads;
        barrier.voted += votes.count_ones();
        barrier.voters += self.warps[at].live.count_ones();
        let waits = kind != BarKind::Arrive;
        barrier.arrived.push((at, waits.then_some(kind)));
        self.clocks.release(at, &mut barrier.released);
        if waits {
            self.states[at] = State::AtBarrier;
        }
        Ok(())
    }

    /// Opens the barriers of a block that have all they wait for. A warp that has exited is not
    /// waited for.
    fn complete_barriers(&mut self, cta: usize) -> Step<()> {
        let first = cta * self.warps_per_block;
        let block = first..first + self.warps_per_block;
        let live = self.states[block].iter().filter(|&&s| s != State::Done);
        let live = live.count();
        for barrier in &mut self.barriers[cta * BARRIERS..][..BARRIERS] {
            let arrived = barrier.arrived.len();
            let wanted = barrier.threads.map_or(live, |n| n as usize / 32);
            if arrived == 0 || arrived < wanted {
                continue;
            }
            let barrier = std::mem::take(barrier);
            for (at, kind) in barrier.arrived {
                let Some(kind) = kind else { continue };
                self.states[at] = State::Ready;
                self.clocks.acquire(at, &barrier.released);
                let warp = &mut self.warps[at];
                let live = warp.live;
                match kind {
                    BarKind::Popc(dst) => {
                        warp.set_row(dst, &[u64::from(barrier.voted); 32], live);
                    }
                    BarKind::And(dst) => {
                        let all = barrier.voted == barrier.voters;
                        warp.set_pred(dst, if all { FULL } else { 0 }, live);
                    }
                    BarKind::Or(dst) => {
                        let any = barrier.voted > 0;
                        warp.set_pred(dst, if any { FULL } else { 0 }, live);
                    }
                    BarKind::Sync | BarKind::Arrive => {}
                }
            }
        }
        Ok(())
    }

    fn complete_cluster(&mut self) {
        let phase = Some(self.cluster_barrier.phase);
        let mut warps = self.states.iter().zip(&self.phases);
        let nobody = !self.phases.contains(&phase);
        if !nobody && warps.all(|(&state, arrived)| state == State::Done || *arrived == phase) {
            self.cluster_barrier.phase += 1;
            self.cluster_barrier.complete = self.cluster_barrier.released.clone();
        }
        let now = self.cluster_barrier.phase;
        for at in 0..self.states.len() {
            if self.states[at] == State::AtCluster && self.phases[at].is_some_and(|p| p < now) {
                self.states[at] = State::Ready;
                self.phases[at] = None;
                self.clocks.acquire(at, &self.cluster_barrier.complete);
            }
        }
    }

    /// When the last warp of a block has exited, nothing may still use its shared memory: not in
    /// this schedule, nor in another.
    fn exit_block(&mut self, cta: usize) -> Step<()> {
        let first = cta * self.warps_per_block;
        let block = first..first + self.warps_per_block;
        if self.states[block.clone()].iter().any(|&s| s != State::Done) {
            return Ok(());
        }
        self.exited[cta] = true;
        for (at, last) in self.remote_uses[cta].iter().enumerate() {
            // Ordered before the exit of any warp is ordered before the exit of the block.
            let seen = block.clone().map(|warp| self.clocks.seen(warp)[at]);
            if last.clock != 0 && seen.max().is_none_or(|seen| last.clock >= seen) {
                let detail =
                    format!("nothing keeps block {cta} of the cluster from exiting before");
                self.warps[at].pc = last.pc;
                let fault = Fault(ViolationKind::PeerExited, detail);
                let mut broken = Broken::at(fault, last.lane, last.address);
                broken.warp = Some(at);
                return Err(broken);
            }
        }
        Ok(())
    }

    /// All warps wait, or the launch has run for too long.
    #[cold]
    pub(crate) fn stopped(&self, outside: &Outside<'_>, kind: ViolationKind) -> Box<Violation> {
        let open = (0..self.warps.len()).filter(|&at| self.states[at] != State::Done);
        let open: Vec<usize> = open.collect();
        let at = open.first().copied().unwrap_or(0);
        let mut detail = String::new();
        for &at in open.iter().take(8) {
            let warp = &self.warps[at];
            let line = outside.kernel.code[warp.pc as usize].line;
            detail += &format!("block {} warp {} at line {line}; ", warp.cta, warp.index);
        }
        let lane = self.warps[at].live.trailing_zeros() & 31;
        self.report(outside, at, *Broken::new(kind, lane, detail))
    }

    #[cold]
    fn report(&self, outside: &Outside<'_>, at: usize, broken: Broken) -> Box<Violation> {
        let warp = &self.warps[at];
        Box::new(Violation {
            kind: broken.kind,
            kernel: outside.kernel.name.clone(),
            line: outside.kernel.code[warp.pc as usize].line,
            block: warp.ctaid,
            thread: warp.tid(outside.geometry.block, broken.lane),
            address: broken.address,
            detail: broken.detail,
        })
    }
}
