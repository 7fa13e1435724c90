//! One shape after the other.

use keysieve::{Backend, KeyIndex};

use super::data::Data;
use super::plan::Plan;
use super::progress::Progress;
use super::shape::Shape;
use super::{Args, memory};

/// Calls `each` with the plan, the data and the index of every shape. Shapes of the same keys that follow each other have
/// one index.
///
/// # Errors
/// What a shape does not allow, what making its index answers, and the first error of `each`.
pub(super) fn on_each(
    shapes: &[Shape],
    args: &Args,
    backend: &Backend,
    progress: &Progress,
    mut each: impl FnMut(&Plan<'_>, &Data<'_>, &KeyIndex) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut made: Option<(&Shape, KeyIndex)> = None;
    for shape in shapes {
        let plan = Plan::new(shape, args.warmup, args.runs, backend)?;
        memory::check(shape, plan.capacity, backend)?;
        let data = Data {
            shape,
            seed: args.seed,
        };
        let made_before = made.take().filter(|(other, _)| shape.has_keys_of(other));
        let index = match made_before {
            Some((_, index)) => index,
            None => data.index(plan.tokens, plan.capacity, progress)?,
        };
        each(&plan, &data, &index)?;
        made = Some((shape, index));
    }
    Ok(())
}
