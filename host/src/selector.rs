//! [`Selector`]: an index at work on a backend.

use gpu_kernels::step::StepShape;

use crate::backend::Backend;
use crate::config::{MAX_LIST_POSITIONS, PqConfig, SelectConfig};
use crate::error::{Error, Result};
use crate::index::KeyIndex;
use crate::selection::Selection;
use crate::tensor::{Component, Keys, Queries, Room};
use crate::{cpu, cuda};

/// Selects keys step by step: owns an index on its backend, and every buffer of a step.
///
/// Keys and queries are of f32, f16 or bf16; a list is the one of the same numbers in f32. Nothing is allocated after
/// [`Selector::new`], but where many keys of half precision are appended at once. A call that fails changes nothing.
#[derive(Debug)]
pub struct Selector {
    engine: Engine,
    config: SelectConfig,
    num_qo_heads: usize,
    num_queries: usize,
    selection: Selection,
    room: Room,
}

#[derive(Debug)]
enum Engine {
    Cpu(Box<cpu::step::Step>),
    Cuda(Box<cuda::step::Step>),
}

impl Selector {
    /// Takes `index` to `backend`, for steps of `num_queries` queries on each of `num_qo_heads`
    /// heads. Room for more tokens than the index holds is its capacity ([`KeyIndex::reserve`]).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration that cannot be, for zero heads or queries, or when
    /// `num_qo_heads` is no multiple of the index's key-value heads; on a GPU also what the driver
    /// answers.
    pub fn new(
        backend: &Backend,
        index: KeyIndex,
        config: SelectConfig,
        num_qo_heads: usize,
        num_queries: usize,
    ) -> Result<Self> {
        config.validate()?;
        config.check_no_slots()?;
        let shape = step_shape(&index, &config, num_qo_heads, num_queries)?;
        let selection = Selection::new(&shape, index.batch(), &config);
        let of_keys = index.groups() * index.head_dim();
        let of_queries = index.batch() * shape.rows_per_batch() as usize * index.head_dim();
        let engine = match backend {
            Backend::Cpu => Engine::Cpu(Box::new(cpu::step::Step::new(index, shape))),
            Backend::Cuda(device) => {
                let step = cuda::step::Step::new(device, index, shape, selection.clone())?;
                Engine::Cuda(Box::new(step))
            }
        };
        Ok(Selector {
            engine,
            config,
            num_qo_heads,
            num_queries,
            selection,
            room: Room::new(of_keys, of_queries),
        })
    }

    /// Encodes `keys` `[batch, num_kv_heads, tokens, head_dim]` and adds them to the context.
    ///
    /// # Errors
    /// As [`KeyIndex::append`]; on a GPU also what the driver answers.
    pub fn append<T: Component>(&mut self, keys: Keys<'_, T>) -> Result<()> {
        let keys = keys.widen(&mut self.room.keys);
        match &mut self.engine {
            Engine::Cpu(step) => step.append(keys),
            Engine::Cuda(step) => step.append(keys),
        }
    }

    /// Lists the keys that `queries` `[batch, num_qo_heads, num_queries, head_dim]` attend to.
    /// Queries may hold NaN and infinities: NaN scores order after every number.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape than the selector was made for; on a GPU also what the
    /// driver answers.
    pub fn select<T: Component>(&mut self, queries: Queries<'_, T>) -> Result<&Selection> {
        self.check_queries(&queries)?;
        let queries = queries.widen(&mut self.room.queries);
        match &mut self.engine {
            Engine::Cpu(step) => step.select(queries, &mut self.selection),
            Engine::Cuda(step) => step.select(queries, &mut self.selection)?,
        }
        Ok(&self.selection)
    }

    /// Waits for what was enqueued on [`Selector::cuda_step`] and brings its lists to the host; on
    /// the CPU the result of the last select.
    ///
    /// # Errors
    /// On a GPU, [`Error::Invalid`] when nothing was enqueued or the last step failed, and what the
    /// driver answers.
    pub fn read(&mut self) -> Result<&Selection> {
        if let Engine::Cuda(step) = &mut self.engine {
            step.read(&mut self.selection)?;
        }
        Ok(&self.selection)
    }

    /// The result of the last [`Selector::select`] or [`Selector::read`].
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// What a step lists.
    pub fn config(&self) -> &SelectConfig {
        &self.config
    }

    /// Tokens of the context.
    pub fn seq_len(&self) -> usize {
        match &self.engine {
            Engine::Cpu(step) => step.index().seq_len(),
            Engine::Cuda(step) => step.seq_len(),
        }
    }

    /// The index as it is now, brought back from the backend.
    ///
    /// # Errors
    /// On a GPU, what the driver answers.
    pub fn to_index(&self) -> Result<KeyIndex> {
        match &self.engine {
            Engine::Cpu(step) => Ok(step.index().clone()),
            Engine::Cuda(step) => step.to_index(),
        }
    }

    /// [`KeyIndex::drift`] of keys that the context holds, those of positions `position..`.
    ///
    /// # Errors
    /// As there; on a GPU also what the driver answers.
    pub fn drift<T: Component>(&self, keys: Keys<'_, T>, position: usize) -> Result<Option<f64>> {
        match &self.engine {
            Engine::Cpu(step) => step.index().drift(keys, position),
            Engine::Cuda(step) => step.drift(keys, position),
        }
    }

    /// The CUDA step behind this selector, for work on device buffers and captured graphs; `None`
    /// on the CPU.
    pub fn cuda_step(&mut self) -> Option<&mut cuda::step::Step> {
        match &mut self.engine {
            Engine::Cpu(_) => None,
            Engine::Cuda(step) => Some(step),
        }
    }

    /// The CPU step behind this selector; `None` on a GPU.
    pub fn cpu_step(&mut self) -> Option<&mut cpu::step::Step> {
        match &mut self.engine {
            Engine::Cpu(step) => Some(step),
            Engine::Cuda(_) => None,
        }
    }

    /// What [`Selector::select`] checks.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape than the selector was made for.
    pub fn check_queries<T: Component>(&self, queries: &Queries<'_, T>) -> Result<()> {
        queries.check_len()?;
        let (batch, head_dim) = match &self.engine {
            Engine::Cpu(step) => (step.index().batch(), step.index().head_dim()),
            Engine::Cuda(step) => (step.batch(), step.head_dim()),
        };
        let expected = [
            ("batch", queries.batch, batch),
            ("num_qo_heads", queries.num_qo_heads, self.num_qo_heads),
            ("num_queries", queries.num_queries, self.num_queries),
            ("head_dim", queries.head_dim, head_dim),
        ];
        for (argument, got, expected) in expected {
            if got != expected {
                return Err(Error::invalid(
                    format!("queries: {argument}"),
                    got,
                    format!("{expected}, as the selector has"),
                ));
            }
        }
        Ok(())
    }
}

/// The shape of a step on `index`, checked.
pub(crate) fn step_shape(
    index: &KeyIndex,
    config: &SelectConfig,
    num_qo_heads: usize,
    num_queries: usize,
) -> Result<StepShape> {
    let extent = Extent {
        batch: index.batch(),
        num_kv_heads: index.num_kv_heads(),
        head_dim: index.head_dim(),
        capacity: index.capacity(),
        code_capacity: index.code_capacity(),
    };
    shape_of(&extent, index.config(), config, num_qo_heads, num_queries)
}

/// The sizes of what a step works on.
pub(crate) struct Extent {
    pub(crate) batch: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Tokens of a sequence there is room for.
    pub(crate) capacity: usize,
    pub(crate) code_capacity: usize,
}

/// The shape of a step on codes of that extent, checked.
pub(crate) fn shape_of(
    extent: &Extent,
    pq: &PqConfig,
    config: &SelectConfig,
    num_qo_heads: usize,
    num_queries: usize,
) -> Result<StepShape> {
    let num_kv_heads = extent.num_kv_heads;
    if num_qo_heads == 0 || !num_qo_heads.is_multiple_of(num_kv_heads) {
        return Err(Error::invalid(
            "queries: num_qo_heads",
            num_qo_heads,
            format!("a multiple of num_kv_heads {num_kv_heads}"),
        ));
    }
    if num_queries == 0 {
        return Err(Error::invalid("queries: num_queries", 0, "at least 1"));
    }
    let rows = num_qo_heads
        .saturating_mul(num_queries)
        .saturating_mul(extent.batch);
    if rows > i32::MAX as usize {
        return Err(Error::invalid(
            "queries",
            format!("{num_qo_heads} heads of {num_queries} queries"),
            "fewer than 2^31 rows in all",
        ));
    }
    let short_context_limit = config.short_context_limit(pq, num_queries);
    let list_stride = (config.sink + config.heavy + config.window)
        .max(short_context_limit.min(extent.capacity))
        .max(1);
    // Both are below 2^33: the product cannot overflow.
    if rows * list_stride > MAX_LIST_POSITIONS {
        return Err(Error::invalid(
            "sink, window, heavy",
            format!("{list_stride} positions for each of {rows} rows"),
            format!("at most {MAX_LIST_POSITIONS} in all"),
        ));
    }
    Ok(StepShape {
        num_kv_heads: num_kv_heads as u32,
        num_qo_heads: num_qo_heads as u32,
        num_queries: num_queries as u32,
        head_dim: extent.head_dim as u32,
        num_subvectors: pq.num_subvectors as u32,
        bits: pq.bits,
        init_offset: pq.init_offset as u32,
        code_capacity: extent.code_capacity as u32,
        sink: config.sink as u32,
        window: config.window as u32,
        heavy: config.heavy as u32,
        short_context_limit: short_context_limit as u32,
        list_stride: list_stride as u32,
        weights_stride: if config.weights {
            extent.capacity as u32
        } else {
            0
        },
        causal: u32::from(config.causal),
        aggregation: config.aggregation.code(),
        scores_stride: if config.scores {
            config.heavy as u32
        } else {
            0
        },
        page_bits: 0,
        pages_per_sequence: 0,
    })
}

#[cfg(test)]
mod tests;
