//! How a shape is measured: runs, and where in the context they happen.

use keysieve::config::MAX_TOKENS;
use keysieve::{Backend, Error};

use super::check;
use super::shape::Shape;

/// Replays in a row, as a server has them that does nothing else.
pub(super) const REPLAYS: usize = 200;

/// What is measured, and how often.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) shape: &'a Shape,
    pub(super) warmup: usize,
    pub(super) runs: usize,
    /// Tokens of the context before the first step.
    pub(super) tokens: usize,
    /// Room for all steps.
    pub(super) capacity: usize,
}

impl<'a> Plan<'a> {
    /// The first step makes the context `shape.tokens` long; on the CPU every further one makes it one
    /// longer, on the GPU it is taken back between the runs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when that goes past the largest context.
    pub(super) fn new(
        shape: &'a Shape,
        warmup: usize,
        runs: usize,
        backend: &Backend,
    ) -> keysieve::Result<Self> {
        let steps = match backend {
            Backend::Cpu => check::STEPS + warmup + runs,
            Backend::Cuda(_) => check::STEPS.max(REPLAYS).max(warmup).max(runs),
        };
        // The largest context begins a little earlier instead.
        let tokens = (shape.tokens - 1).min(MAX_TOKENS - steps);
        if tokens < shape.init_offset {
            let expected = format!("at most {tokens}, for {steps} steps behind it");
            return Err(Error::invalid("--init-offset", shape.init_offset, expected));
        }
        Ok(Plan {
            shape,
            warmup,
            runs,
            tokens,
            capacity: tokens + steps,
        })
    }
}
