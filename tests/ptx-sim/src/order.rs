//! The order in which the parts of a diverged warp run.
//!
//! Parts of a warp wait for those behind them: a block comes before all blocks that it can reach, and
//! a loop's blocks before what follows the loop. When always the first part runs, lanes meet again at
//! the first block that all their paths reach, at the latest, also where control flow is
//! unstructured or some lanes return early.

use std::ops::Range;

use crate::instruction::{Instr, Op};

/// The basic blocks of a kernel.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// Of each the first instruction; then the end.
    starts: Vec<usize>,
}

impl Blocks {
    /// Those that begin where `begins` says.
    pub(crate) fn new(begins: &[bool], num_instructions: usize) -> Self {
        let starts = (0..num_instructions).filter(|&at| begins[at]);
        Blocks {
            starts: starts.chain([num_instructions]).collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// A block's instructions.
    pub(crate) fn range(&self, block: usize) -> Range<usize> {
        self.starts[block]..self.starts[block + 1]
    }

    fn of(&self, instruction: u32) -> usize {
        self.starts
            .partition_point(|&start| start <= instruction as usize)
            - 1
    }
}

/// The blocks that may follow each.
pub(crate) fn successors(code: &[Instr], blocks: &Blocks) -> Vec<Vec<usize>> {
    let of_block = |block: usize| {
        let last = &code[blocks.range(block).end - 1];
        let mut next = Vec::new();
        match &last.op {
            Op::Bra { target } => next.push(blocks.of(*target)),
            Op::BrxIdx { targets, .. } => next.extend(targets.iter().map(|&t| blocks.of(t))),
            _ => {}
        }
        let leaves = matches!(
            last.op,
            Op::Bra { .. } | Op::BrxIdx { .. } | Op::Exit | Op::Trap
        );
        if (!leaves || last.guard.is_some()) && block + 1 < blocks.len() {
            next.push(block + 1);
        }
        next
    };
    (0..blocks.len()).map(of_block).collect()
}

/// The rank of every instruction.
pub(crate) fn block_order(code: &[Instr], blocks: &Blocks) -> Vec<u32> {
    let successors = successors(code, blocks);
    let mut order = Vec::with_capacity(blocks.len());
    let mut inside = vec![true; blocks.len()];
    sort(
        (0..blocks.len()).collect(),
        &mut inside,
        &successors,
        &mut order,
    );

    let mut rank = vec![0; code.len()];
    let mut next = 0;
    for block in order {
        for rank in &mut rank[blocks.range(block)] {
            *rank = next;
            next += 1;
        }
    }
    rank
}

/// Appends blocks in topological order of their strongly connected components; a component, which is
/// a loop, is sorted in turn without the edges back to its first block.
fn sort(
    blocks: Vec<usize>,
    inside: &mut [bool],
    successors: &[Vec<usize>],
    order: &mut Vec<usize>,
) {
    for component in components(&blocks, inside, successors) {
        if let [single] = component[..] {
            order.push(single);
            continue;
        }
        // The loop's entry was reached first, so it has the lowest discovery number.
        let head = component[0];
        order.push(head);
        let rest: Vec<usize> = component[1..].to_vec();
        let mut within = vec![false; inside.len()];
        for &block in &rest {
            within[block] = true;
        }
        sort(rest, &mut within, successors, order);
    }
}

/// Strongly connected components among `blocks`, each before those it reaches; in each, blocks in
/// the order of their discovery (Tarjan's algorithm, without recursion over the graph's depth).
fn components(blocks: &[usize], inside: &[bool], successors: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut found = vec![NEW; inside.len()];
    let mut low = vec![NEW; inside.len()];
    let mut on_stack = vec![false; inside.len()];
    let (mut stack, mut out, mut count) = (Vec::new(), Vec::new(), 0);
    for &root in blocks {
        if found[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some((block, edge)) = path.pop() {
            if edge == 0 {
                (found[block], low[block]) = (count, count);
                count += 1;
                stack.push(block);
                on_stack[block] = true;
            }
            if let Some(&next) = successors[block].get(edge) {
                path.push((block, edge + 1));
                if inside[next] && found[next] == NEW {
                    path.push((next, 0));
                } else if inside[next] && on_stack[next] {
                    low[block] = low[block].min(found[next]);
                }
                continue;
            }
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[block]);
            }
            if low[block] == found[block] {
                let start = stack.iter().rposition(|&b| b == block).unwrap_or(0);
                let mut component = stack.split_off(start);
                for &block in &component {
                    on_stack[block] = false;
                }
                component.sort_by_key(|&block| found[block]);
                out.push(component);
            }
        }
    }
    // Tarjan finds a component after those it reaches.
    out.reverse();
    out
}
