//! Which registers of a kernel share a row.
//!
//! A compiler gives every value a register of its own, thousands in a kernel; a few dozen are needed at a time.
//! With a row for each, a warp would be a megabyte, to be made for every block and in no cache. So registers share
//! a row where no path needs the values of both. Only values: which lanes have written a register is kept for each by
//! its name, so that reading one too early is seen as before.

use crate::instruction::{Access, Instr};
use crate::order::{Blocks, successors};

/// Numbers below a bound.
#[derive(Debug, Clone)]
struct Set(Vec<u64>);

impl Set {
    fn new(bound: usize) -> Self {
        Set(vec![0; bound.div_ceil(64)])
    }

    fn insert(&mut self, i: u32) {
        self.0[i as usize / 64] |= 1 << (i % 64);
    }

    fn remove(&mut self, i: u32) {
        self.0[i as usize / 64] &= !(1 << (i % 64));
    }

    /// Whether that adds anything.
    fn add(&mut self, other: &Set) -> bool {
        let mut added = 0;
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            added |= other & !*word;
            *word |= other;
        }
        added != 0
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.wrapping_sub(1);
                (bit < 64).then_some(64 * at as u32 + bit)
            })
        })
    }
}

/// What an instruction does with registers, by their names.
#[derive(Debug, Default)]
struct Uses {
    reads: Vec<u32>,
    writes: Vec<u32>,
    /// Lanes may keep what was in a register that is written.
    is_guarded: bool,
}

impl Uses {
    /// From what is needed behind the instruction to what is needed before it.
    fn step_back(&self, needed: &mut Set) {
        if !self.is_guarded {
            for &register in &self.writes {
                needed.remove(register);
            }
        }
        for &register in &self.reads {
            needed.insert(register);
        }
    }
}

/// Gives each of `num_registers` registers its row; how many rows there are.
pub(crate) fn share_rows(code: &mut [Instr], blocks: &Blocks, num_registers: u32) -> u32 {
    let num = num_registers as usize;
    let uses: Vec<Uses> = code.iter_mut().map(uses_of).collect();
    let needed_behind = needed_behind(&uses, code, blocks, num);

    // A register that is written must not share with any whose value is needed behind, nor with those that the
    // same instruction reads or writes.
    let mut apart = vec![Set::new(num); num];
    for (block, needed) in needed_behind.into_iter().enumerate() {
        let mut needed = needed;
        for uses in uses[blocks.range(block)].iter().rev() {
            uses.step_back(&mut needed);
            let mut others = needed.clone();
            for &register in &uses.writes {
                others.insert(register);
            }
            for &register in &uses.writes {
                apart[register as usize].add(&others);
                for other in others.iter() {
                    apart[other as usize].insert(register);
                }
            }
        }
    }

    let mut rows: Vec<Option<u32>> = vec![None; num];
    let mut num_rows = 0;
    let order = uses
        .iter()
        .flat_map(|uses| uses.writes.iter().chain(&uses.reads));
    for &register in order {
        if rows[register as usize].is_some() {
            continue;
        }
        let mut taken = Set::new(num);
        for other in apart[register as usize].iter() {
            if let Some(row) = rows[other as usize] {
                taken.insert(row);
            }
        }
        let free = taken.0.iter().position(|&word| word != u64::MAX);
        let at = free.expect("there are as many rows as registers");
        let row = 64 * at as u32 + taken.0[at].trailing_ones();
        rows[register as usize] = Some(row);
        num_rows = num_rows.max(row + 1);
    }
    for instr in code {
        instr.op.each_register(|register, _| {
            register.row = rows[register.name as usize].unwrap_or(0);
        });
    }
    num_rows
}

fn uses_of(instr: &mut Instr) -> Uses {
    let mut uses = Uses {
        is_guarded: instr.guard.is_some(),
        ..Uses::default()
    };
    instr.op.each_register(|register, access| match access {
        Access::Read => uses.reads.push(register.name),
        Access::Write => uses.writes.push(register.name),
    });
    uses
}

/// The registers whose values some path from each block's end reads before it writes them.
fn needed_behind(uses: &[Uses], code: &[Instr], blocks: &Blocks, num: usize) -> Vec<Set> {
    let successors = successors(code, blocks);
    let mut before = vec![Set::new(num); blocks.len()];
    let mut behind = before.clone();
    let mut changes = true;
    while changes {
        changes = false;
        for block in (0..blocks.len()).rev() {
            for &next in &successors[block] {
                behind[block].add(&before[next]);
            }
            let mut needed = behind[block].clone();
            for uses in uses[blocks.range(block)].iter().rev() {
                uses.step_back(&mut needed);
            }
            changes |= before[block].add(&needed);
        }
    }
    behind
}
