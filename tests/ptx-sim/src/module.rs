//! A file, decoded once: instructions with targets, and the order in which a warp's parts run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::decode::{Names, decode};
use crate::error::{Error, Result};
use crate::instruction::{Instr, Op, Pred, Src};
use crate::lexer::syntax;
use crate::memory::SHARED_BASE;
use crate::order::{Blocks, block_order};
use crate::parser::{self, Entry, File, Statement, Variable, VariableSpace};
use crate::registers::share_rows;

/// A PTX file, ready to launch.
#[derive(Debug)]
pub struct Module {
    pub(crate) kernels: HashMap<String, Kernel>,
    /// `.global` and `.const` variables. Each launch begins with fresh ones.
    pub(crate) variables: Vec<Variable>,
}

/// What a file says about a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// The sizes of its parameters, in bytes.
    pub param_sizes: Vec<usize>,
    /// The most threads of a block, as `.maxntid` or `.reqntid` has them.
    pub max_threads: Option<u32>,
    /// Blocks of a cluster, as `.reqnctapercluster` has them.
    pub cluster: Option<u32>,
    /// Bytes of shared memory of a block before the dynamic part.
    pub shared_bytes: usize,
    /// Bytes of local memory of a thread.
    pub local_bytes: usize,
    /// Instructions.
    pub num_instructions: usize,
    /// Lines of the instructions that no launch in this process has executed yet.
    pub unexecuted: Vec<u32>,
}

/// One entry point.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// Offset and size of each parameter.
    pub(crate) params: Vec<(u64, u64)>,
    pub(crate) max_threads: Option<u32>,
    pub(crate) cluster: Option<u32>,
    pub(crate) num_rows: u32,
    pub(crate) num_registers: u32,
    pub(crate) num_preds: u32,
    /// Bytes of shared memory before the dynamic part.
    pub(crate) static_shared: u64,
    pub(crate) local_bytes: u64,
    pub(crate) code: Vec<Instr>,
    /// Whether a lane has executed an instruction, in any launch.
    pub(crate) executed: Vec<AtomicBool>,
    /// Whether an instruction begins a basic block.
    pub(crate) begins_block: Vec<bool>,
    /// Of a diverged warp the part with the lowest rank runs: see [`block_order`].
    pub(crate) rank: Vec<u32>,
}

impl Module {
    /// Reads and decodes a file.
    ///
    /// # Errors
    /// Text that is not PTX, and instructions that are not implemented, with their line.
    pub fn parse(text: &str) -> Result<Module> {
        let File { variables, entries } = parser::parse(text)?;
        let (shared, variables): (Vec<_>, Vec<_>) = variables
            .into_iter()
            .partition(|v| v.space == VariableSpace::Shared);
        let mut kernels = HashMap::new();
        for entry in entries {
            let kernel = Kernel::new(entry, &shared, &variables)?;
            kernels.insert(kernel.name.clone(), kernel);
        }
        Ok(Module { kernels, variables })
    }

    /// The kernels' names, sorted.
    pub fn kernels(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// What the file says about a kernel, and what of it has been executed.
    pub fn kernel(&self, name: &str) -> Option<KernelInfo> {
        let kernel = self.kernels.get(name)?;
        // The last instruction is not the file's: see `Kernel::new`.
        let own = kernel.code.len() - 1;
        let code = kernel.code[..own].iter().zip(&kernel.executed);
        let unexecuted = code.filter(|(_, executed)| !executed.load(Ordering::Relaxed));
        Some(KernelInfo {
            param_sizes: kernel.params.iter().map(|p| p.1 as usize).collect(),
            max_threads: kernel.max_threads,
            cluster: kernel.cluster,
            shared_bytes: kernel.static_shared as usize,
            local_bytes: kernel.local_bytes as usize,
            num_instructions: own,
            unexecuted: unexecuted.map(|(instr, _)| instr.line).collect(),
        })
    }
}

impl Kernel {
    fn new(entry: Entry, shared: &[Variable], globals: &[Variable]) -> Result<Kernel> {
        let mut names = Names::default();
        for (i, variable) in globals.iter().enumerate() {
            let src = Src::Variable(i as u32);
            names.variables.insert(variable.name.clone(), src);
        }
        let (params, _) = layout(&entry.params, 0, &mut names);
        let own = |space| {
            let own = entry.locals.iter().filter(move |v| v.space == space);
            own.cloned().collect::<Vec<_>>()
        };
        let statics = [shared.to_vec(), own(VariableSpace::Shared)].concat();
        let (dynamic, statics): (Vec<_>, Vec<_>) = statics.into_iter().partition(|v| v.size == 0);
        let (_, end) = layout(&statics, SHARED_BASE, &mut names);
        let align = dynamic.iter().map(|v| v.align).max().unwrap_or(1);
        let end = end.next_multiple_of(align.max(1));
        layout(&dynamic, end, &mut names);
        let (_, local_bytes) = layout(&own(VariableSpace::Local), 0, &mut names);

        let (mut instructions, mut last_label) = (Vec::new(), None);
        for statement in &entry.statements {
            match statement {
                Statement::Label(label) => {
                    let at = instructions.len() as u32;
                    names.labels.insert(label.clone(), at);
                    last_label = Some(label);
                }
                Statement::Targets(targets) => {
                    if let Some(label) = last_label {
                        names.tables.insert(label.clone(), targets.clone());
                    }
                }
                Statement::Instruction(instruction) => instructions.push(instruction),
            }
        }
        let mut code = Vec::with_capacity(instructions.len() + 1);
        for instruction in &instructions {
            code.push(Instr {
                line: instruction.line,
                guard: instruction
                    .guard
                    .map(|(index, negated)| Pred { index, negated }),
                op: decode(instruction, &names)?,
            });
        }
        // A body without `ret` ends where its text does; a label may stand there too.
        let line = code.last().map_or(1, |instr: &Instr| instr.line);
        code.push(Instr {
            line,
            guard: None,
            op: Op::Exit,
        });
        let begins_block = begins_block(&code);
        let blocks = Blocks::new(&begins_block, code.len());
        let rank = block_order(&code, &blocks);
        let num_rows = share_rows(&mut code, &blocks, entry.num_rows);
        if u32::try_from(code.len()).is_err() {
            return Err(too_long(line));
        }
        Ok(Kernel {
            name: entry.name,
            params,
            max_threads: entry.max_threads,
            cluster: entry.cluster,
            num_rows,
            num_registers: entry.num_rows,
            num_preds: entry.num_preds,
            static_shared: end - SHARED_BASE,
            local_bytes,
            executed: code.iter().map(|_| AtomicBool::new(false)).collect(),
            code,
            begins_block,
            rank,
        })
    }
}

fn too_long(line: u32) -> Error {
    syntax(line, "the kernel is too long")
}

/// Places variables one behind the other; their offsets and sizes, and the end.
fn layout(variables: &[Variable], start: u64, names: &mut Names) -> (Vec<(u64, u64)>, u64) {
    let mut end = start;
    let mut places = Vec::new();
    for variable in variables {
        end = end.next_multiple_of(variable.align.max(1));
        let src = Src::Imm(end);
        names.variables.insert(variable.name.clone(), src);
        places.push((end, variable.size));
        end += variable.size;
    }
    (places, end)
}

/// Targets, what follows a branch, and collectives, at which lanes wait for each other.
fn begins_block(code: &[Instr]) -> Vec<bool> {
    let mut begins = vec![false; code.len() + 1];
    begins[0] = true;
    for (at, instr) in code.iter().enumerate() {
        match &instr.op {
            Op::Bra { target } => {
                begins[*target as usize] = true;
                begins[at + 1] = true;
            }
            Op::BrxIdx { targets, .. } => {
                for &target in targets {
                    begins[target as usize] = true;
                }
                begins[at + 1] = true;
            }
            Op::Exit | Op::Trap => begins[at + 1] = true,
            op if op.is_collective() => {
                begins[at] = true;
                begins[at + 1] = true;
            }
            _ => {}
        }
    }
    begins
}
