//! [`RaggedSelector`]: a batch whose sequences come, go and differ.

mod batch;
mod config;
mod pages;

pub(crate) use batch::Batch;
pub use config::{Paging, RaggedConfig, SequenceConfig};

use crate::backend::Backend;
use crate::error::Result;
use crate::index::KeyIndex;
use crate::selection::Selection;
use crate::tensor::{Component, Keys, Queries, Room};
use crate::{cpu, cuda};

/// Selects keys for sequences that have lengths, regions and codebooks of their own. Each lives in a slot of the
/// batch from [`RaggedSelector::insert`] to [`RaggedSelector::remove`]; an empty slot has empty lists and costs no
/// work.
///
/// A sequence's lists are those that a [`Selector`](crate::Selector) of its own would give, bit for bit, on either
/// backend. On a GPU every step replays one graph, captured by [`RaggedSelector::new`]. Weights and lists have the
/// strides of the batch; what is behind a sequence's own is unspecified for weights and -1 for lists. A call that
/// fails changes nothing.
///
/// ```
/// use keysieve::{
///     Backend, KeyIndex, Keys, Paging, PqConfig, Queries, RaggedConfig, RaggedSelector, SelectConfig, SequenceConfig,
///     TrainConfig,
/// };
///
/// # fn main() -> keysieve::Result<()> {
/// let pq = PqConfig { bits: 4, init_offset: 4, ..PqConfig::default() };
/// let select = SelectConfig { sink: 4, window: 4, heavy: 8, ..SelectConfig::default() };
/// let config = RaggedConfig {
///     batch: 3,
///     num_kv_heads: 1,
///     num_qo_heads: 1,
///     num_queries: 1,
///     head_dim: 8,
///     capacity: 100,
///     pq,
///     select,
///     paging: Some(Paging { page_size: 16, num_pages: 10, codes: true }),
/// };
/// let mut selector = RaggedSelector::new(&Backend::auto().backend, &config)?;
///
/// // A prompt of 64 tokens in slot 2; its codes go to five pages.
/// let keys: Vec<f32> = (0..64 * 8).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
/// let index = KeyIndex::train(&pq, &TrainConfig::default(), Keys::new(&keys, [1, 1, 64, 8])?, 64)?;
/// selector.insert(2, &index, &SequenceConfig::from(&select), &[7, 0, 3, 9, 4])?;
///
/// // A step: slot 2 appends a key; slots 0 and 1 are empty.
/// let (keys, queries) = ([0.5; 3 * 8], [1.0; 3 * 8]);
/// let selection = selector.step(
///     Keys::new(&keys, [3, 1, 1, 8])?,
///     &[false, false, true],
///     Queries::new(&queries, [3, 1, 1, 8])?,
/// )?;
/// assert_eq!(selection.positions(2, 0, 0).len(), 4 + 8 + 4);
/// assert!(selection.positions(0, 0, 0).is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RaggedSelector {
    engine: Engine,
    selection: Selection,
    room: Room,
}

#[derive(Debug)]
enum Engine {
    Cpu(Box<cpu::step::RaggedStep>),
    Cuda(Box<cuda::RaggedStep>),
}

/// Calls a method of either backend's step.
macro_rules! on_engine {
    ($selector:expr, $step:ident => $call:expr) => {
        match &mut $selector.engine {
            Engine::Cpu($step) => $call,
            Engine::Cuda($step) => $call,
        }
    };
}

impl RaggedSelector {
    /// A batch of empty slots on `backend`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a configuration that cannot be; on a GPU also what the driver
    /// answers.
    pub fn new(backend: &Backend, config: &RaggedConfig) -> Result<Self> {
        let engine = match backend {
            Backend::Cpu => Engine::Cpu(Box::new(cpu::step::RaggedStep::new(config)?)),
            Backend::Cuda(device) => Engine::Cuda(Box::new(cuda::RaggedStep::new(device, config)?)),
        };
        let selection = match &engine {
            Engine::Cpu(step) => step.batch().selection(),
            Engine::Cuda(step) => step.batch().selection(),
        };
        let of_keys = config.batch * config.num_kv_heads * config.head_dim;
        let of_queries = config.batch * config.num_qo_heads * config.num_queries * config.head_dim;
        let room = Room::new(of_keys, of_queries);
        Ok(RaggedSelector {
            engine,
            selection,
            room,
        })
    }

    fn batch(&self) -> &Batch {
        match &self.engine {
            Engine::Cpu(step) => step.batch(),
            Engine::Cuda(step) => step.batch(),
        }
    }

    fn batch_mut(&mut self) -> &mut Batch {
        on_engine!(self, step => step.batch_mut())
    }

    /// Puts a copy of `index`, of one sequence, into empty slot `slot`. With pages, `pages` are those of positions
    /// `0..`, one each `page_size`, at least as many as the index has tokens; pages in which it has codes are its
    /// own as long as it is there. The index's `init_offset` is the sequence's.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a slot that is not there or not empty, an index of another
    /// format or more than one sequence, regions larger than the batch's, pages that are not there, have another
    /// sequence's codes, or are too few; [`Error::Capacity`](crate::Error::Capacity) for more tokens than a
    /// sequence may have; on a GPU also what the driver answers.
    pub fn insert(
        &mut self,
        slot: usize,
        index: &KeyIndex,
        config: &SequenceConfig,
        pages: &[u32],
    ) -> Result<()> {
        on_engine!(self, step => step.insert(slot, index, config, pages))
    }

    /// Empties a slot; its pages may be another sequence's.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a slot without a sequence.
    pub fn remove(&mut self, slot: usize) -> Result<()> {
        self.batch_mut().remove(slot)
    }

    /// Gives the sequence of a slot other regions, from the next step on.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a slot without a sequence, or regions larger than the batch's.
    pub fn configure(&mut self, slot: usize, config: &SequenceConfig) -> Result<()> {
        self.batch_mut().configure(slot, config)
    }

    /// Takes the last tokens of a sequence away, down to `seq_len`: drafts that were not accepted.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a slot without a sequence, or a length that is not between its
    /// `init_offset` and its tokens.
    pub fn truncate(&mut self, slot: usize, seq_len: usize) -> Result<()> {
        self.batch_mut().truncate(slot, seq_len)
    }

    /// Adds pages behind those that a sequence has.
    ///
    /// # Errors
    /// As for the pages of [`RaggedSelector::insert`].
    pub fn add_pages(&mut self, slot: usize, pages: &[u32]) -> Result<()> {
        on_engine!(self, step => step.add_pages(slot, pages))
    }

    /// Appends a key to each sequence that `appends` `[batch]` names, of `keys`
    /// `[batch, num_kv_heads, 1, head_dim]`; other keys are not looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for other shapes or a slot without a sequence,
    /// [`Error::NotFinite`](crate::Error::NotFinite), [`Error::Capacity`](crate::Error::Capacity) for a sequence
    /// that has no room or no page for another token; on a GPU also what the driver answers.
    pub fn append<T: Component>(&mut self, keys: Keys<'_, T>, appends: &[bool]) -> Result<()> {
        let keys = keys.widen(&mut self.room.keys);
        on_engine!(self, step => step.append(keys, appends))
    }

    /// Lists what `queries` `[batch, num_qo_heads, num_queries, head_dim]` attend to; those of empty slots are not
    /// looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for another shape; on a GPU also what the driver answers.
    pub fn select<T: Component>(&mut self, queries: Queries<'_, T>) -> Result<&Selection> {
        let queries = queries.widen(&mut self.room.queries);
        let selection = &mut self.selection;
        match &mut self.engine {
            Engine::Cpu(step) => step.select(queries, selection)?,
            Engine::Cuda(step) => step.select(queries, selection)?,
        }
        Ok(selection)
    }

    /// [`RaggedSelector::append`] and [`RaggedSelector::select`] in one: on a GPU one replay of the graph.
    ///
    /// # Errors
    /// As for the two.
    pub fn step<K: Component, Q: Component>(
        &mut self,
        keys: Keys<'_, K>,
        appends: &[bool],
        queries: Queries<'_, Q>,
    ) -> Result<&Selection> {
        let keys = keys.widen(&mut self.room.keys);
        let queries = queries.widen(&mut self.room.queries);
        let selection = &mut self.selection;
        match &mut self.engine {
            Engine::Cpu(step) => {
                step.batch().check_queries(&queries)?;
                step.append(keys, appends)?;
                step.select(queries, selection)?;
            }
            Engine::Cuda(step) => step.step(keys, appends, queries, selection)?,
        }
        Ok(selection)
    }

    /// Waits for what was replayed on [`RaggedSelector::cuda_step`] and brings its lists to the host; on the CPU the
    /// result of the last select.
    ///
    /// # Errors
    /// On a GPU, [`Error::Invalid`](crate::Error::Invalid) when nothing was enqueued, and what the driver answers.
    pub fn read(&mut self) -> Result<&Selection> {
        if let Engine::Cuda(step) = &mut self.engine {
            step.read(&mut self.selection)?;
        }
        Ok(&self.selection)
    }

    /// The result of the last select, step or read.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The sizes of the batch.
    pub fn config(&self) -> &RaggedConfig {
        &self.batch().config
    }

    /// Tokens of each slot's sequence, 0 where none is.
    pub fn seq_lens(&self) -> impl Iterator<Item = usize> {
        let sequences = self.batch().sequences.iter();
        sequences.map(|sequence| sequence.seq_len as usize)
    }

    /// A slot's sequence as an index of its own, brought back from the backend, with room for as many tokens as the
    /// batch allows.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a slot without a sequence; on a GPU also what the driver
    /// answers.
    pub fn to_index(&self, slot: usize) -> Result<KeyIndex> {
        match &self.engine {
            Engine::Cpu(step) => step.to_index(slot),
            Engine::Cuda(step) => step.to_index(slot),
        }
    }

    /// [`KeyIndex::drift`] of keys `[1, num_kv_heads, tokens, head_dim]` that a slot's sequence holds, those of positions
    /// `position..`. On a GPU all codes are brought to the host for it: not for every step.
    ///
    /// # Errors
    /// As there and as [`RaggedSelector::to_index`].
    pub fn drift<T: Component>(
        &self,
        slot: usize,
        keys: Keys<'_, T>,
        position: usize,
    ) -> Result<Option<f64>> {
        self.to_index(slot)?.drift(keys, position)
    }

    /// The CUDA step behind this selector, for work on device buffers and streams; `None` on the CPU.
    pub fn cuda_step(&mut self) -> Option<&mut cuda::RaggedStep> {
        match &mut self.engine {
            Engine::Cpu(_) => None,
            Engine::Cuda(step) => Some(step),
        }
    }
}
