//! What can go wrong: with the text, with a launch, and in a kernel.

use std::fmt;

/// A PTX file that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not PTX as this crate reads it.
    #[error("line {line}: {message}")]
    Syntax {
        /// Line of the file, from 1.
        line: u32,
        /// What was found and what was expected.
        message: String,
    },
    /// An instruction, or a form of one, that this crate does not implement.
    #[error("line {line}: unknown opcode `{opcode}`")]
    UnknownOpcode {
        /// Line of the file, from 1.
        line: u32,
        /// The opcode with all its modifiers.
        opcode: String,
    },
}

/// The result of reading a file.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a launch did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The module has no kernel of that name.
    #[error("no kernel `{0}` in the module")]
    NoKernel(String),
    /// Grid, block, cluster, shared memory or arguments do not fit the kernel.
    #[error("kernel `{kernel}`: {message}")]
    BadLaunch {
        /// The kernel.
        kernel: String,
        /// What came and what was expected.
        message: String,
    },
    /// The kernel broke a rule while it ran.
    #[error(transparent)]
    Violation(#[from] Box<Violation>),
}

/// The rule that a kernel broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// An access outside every allocation.
    OutOfBounds,
    /// An access whose address is no multiple of its size.
    Misaligned,
    /// A read of memory that nothing wrote.
    UninitialisedMemory,
    /// A read of a register that nothing wrote.
    UninitialisedRegister,
    /// Two threads touched the same bytes, one of them wrote, and no barrier stands between.
    Race,
    /// A barrier or a `.sync` collective that only some of the lanes it names reach together.
    DivergentCollective,
    /// A barrier used against its rules: an unknown number, a second arrival before the wait.
    BarrierMisuse,
    /// Every thread left waits for another.
    Deadlock,
    /// More steps than the launch allows.
    StepLimit,
    /// A block may leave while another of its cluster still uses its shared memory.
    PeerExited,
    /// A `trap` was executed.
    Trap,
    /// An integer division by zero, which PTX leaves unspecified.
    DivisionByZero,
}

impl fmt::Display for ViolationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ViolationKind::OutOfBounds => "access outside an allocation",
            ViolationKind::Misaligned => "misaligned access",
            ViolationKind::UninitialisedMemory => "read of memory never written",
            ViolationKind::UninitialisedRegister => "read of a register never written",
            ViolationKind::Race => "race",
            ViolationKind::DivergentCollective => "collective reached by some lanes only",
            ViolationKind::BarrierMisuse => "misuse of a barrier",
            ViolationKind::Deadlock => "deadlock",
            ViolationKind::StepLimit => "step limit reached",
            ViolationKind::PeerExited => "shared memory of a block that may have exited",
            ViolationKind::Trap => "trap",
            ViolationKind::DivisionByZero => "integer division by zero",
        })
    }
}

/// A broken rule, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub kind: ViolationKind,
    /// The kernel.
    pub kernel: String,
    /// Line of the PTX file, from 1.
    pub line: u32,
    /// `%ctaid` of the thread.
    pub block: [u32; 3],
    /// `%tid` of the thread.
    pub thread: [u32; 3],
    /// The address, where memory is concerned.
    pub address: Option<u64>,
    /// More about it.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "{}: kernel {}, line {}, block ({bx},{by},{bz}), thread ({tx},{ty},{tz})",
            self.kind, self.kernel, self.line
        )?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
