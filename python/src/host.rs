//! Arrays on the host: read where they lie, or converted.

use keysieve::{KeyIndex, Keys, PqConfig, Queries, SelectConfig, TrainConfig};
use pyo3::prelude::*;

use crate::errors::raised;
use crate::index::Index;
use crate::inputs::{Input, to_f32};
use crate::selection::{Out, Selected};
use crate::state::lock;

/// [`Index::train`].
pub(crate) fn train(
    index: &Index,
    py: Python<'_>,
    config: &PqConfig,
    training: &TrainConfig,
    input: &Input,
    capacity: usize,
) -> PyResult<()> {
    let (tensor, shape) = (&input.array.tensor, input.shape);
    py.detach(|| {
        // SAFETY: the array is borrowed until this call returns; its owner keeps others from writing.
        let data = unsafe { to_f32(tensor, 0..shape[2]) };
        let keys = Keys::new(&data, shape)?;
        let trained = KeyIndex::train_on(&index.backend, config, training, keys, capacity)?;
        index.take(trained)
    })
    .map_err(raised)
}

/// [`Index::append`].
pub(crate) fn append(index: &Index, py: Python<'_>, input: &Input, first: usize) -> PyResult<()> {
    let [batch, heads, tokens, head_dim] = input.shape;
    let tensor = &input.array.tensor;
    py.detach(|| {
        // SAFETY: as in `train`.
        let data = unsafe { to_f32(tensor, first..tokens) };
        let keys = Keys::new(&data, [batch, heads, tokens - first, head_dim])?;
        index.state()?.append(keys)
    })
    .map_err(raised)
}

/// [`Index::select`].
pub(crate) fn select(
    index: &Index,
    py: Python<'_>,
    config: &SelectConfig,
    input: &Input,
    out: Option<&Out>,
) -> PyResult<Selected> {
    let (tensor, shape) = (&input.array.tensor, input.shape);
    let [_, num_qo_heads, num_queries, _] = shape;
    py.detach(|| {
        // SAFETY: as in `train`.
        let data = unsafe { to_f32(tensor, 0..num_queries) };
        let queries = Queries::new(&data, shape)?;
        let mut state = index.state()?;
        let engine = state.engine(&index.backend, config, num_qo_heads, num_queries)?;
        let mut selector = lock(&engine.selector)?;
        let selection = selector.select(queries)?;
        if let Some(out) = out {
            out.write(selection)?;
        }
        Ok(Selected::on_host(selection))
    })
    .map_err(raised)
}

/// [`Index::step`]. One whose queries or arrays cannot be appends nothing.
pub(crate) fn step(
    index: &Index,
    py: Python<'_>,
    config: &SelectConfig,
    keys: &Input,
    queries: &Input,
    out: Option<&Out>,
) -> PyResult<Selected> {
    let [_, num_qo_heads, num_queries, _] = queries.shape;
    let (new, new_shape) = (&keys.array.tensor, keys.shape);
    let (asked, asked_shape) = (&queries.array.tensor, queries.shape);
    py.detach(|| {
        // SAFETY: as in `train`.
        let (new, asked) = unsafe { (to_f32(new, 0..1), to_f32(asked, 0..num_queries)) };
        let new = Keys::new(&new, new_shape)?;
        let asked = Queries::new(&asked, asked_shape)?;
        let mut state = index.state()?;
        let engine = state.engine(&index.backend, config, num_qo_heads, num_queries)?;
        let mut selector = lock(&engine.selector)?;
        selector.check_queries(&asked)?;
        if let Some(out) = out {
            let (lists, seq_len) = (selector.selection(), selector.seq_len() + 1);
            let width = config.weights.then_some(seq_len);
            out.check(&lists.shape(), lists.list_stride(), width.as_slice())?;
        }
        selector.append(new)?;
        let selection = selector.select(asked)?;
        if let Some(out) = out {
            out.write(selection)?;
        }
        Ok(Selected::on_host(selection))
    })
    .map_err(raised)
}
