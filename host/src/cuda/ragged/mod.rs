//! Steps of a ragged batch on the GPU: one kernel a stage, captured once, whatever the sequences.

mod launches;
mod slots;

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use cust::sys;
use gpu_kernels::step::SequenceParams;

use super::aggregate::AggregateBuffers;
use super::buffer::Buffer;
use super::buffers::{nothing_listed, read_lists};
use super::device::Device;
use super::enqueue::{AugmentationBuffers, IndexBuffers, ListBuffers, TopKBuffers};
use super::graph::StepGraph;
use super::heuristics::Variant;
use super::sequences::Sequences;
use super::stream::Stream;
use super::turn::Turn;
use crate::error::{Error, Result};
use crate::ragged::{Batch, RaggedConfig};
use crate::selection::Selection;
use crate::tensor::{Component, Keys, Queries, Room};

/// The sequences of a batch on the GPU with every buffer of its steps. Nothing is allocated after it is made but
/// by [`KeyIndex`](crate::KeyIndex) coming and going.
///
/// A step is one graph, captured when this is made: lengths, regions and page tables are arrays on the device
/// that it reads, and that every call brings up to date in the order of the stream.
#[derive(Debug)]
pub struct RaggedStep {
    batch: Batch,
    graph: Option<StepGraph>,

    centroids: Buffer<f32>,
    half_norms: Buffer<f32>,
    augmentation: Option<AugmentationBuffers>,
    codes: Buffer<u8>,
    sequences: Sequences,
    new_keys: Buffer<f32>,
    queries: Buffer<f32>,
    tables: Buffer<f32>,
    scores: Buffer<f32>,
    aggregate: AggregateBuffers,
    top_k: TopKBuffers,
    list: ListBuffers,
    indices: IndexBuffers,
    /// No copies of lengths: only fused steps have them.
    no_seq_lens: Buffer<u32>,

    turn: Turn,
    /// Sequences whose parameters on the device may not be the host's.
    is_stale: bool,
    /// Keys and queries of a step are on the device.
    is_uploaded: bool,
    /// Lists of a step are on the device, and whole.
    is_listed: bool,
    /// The sequences of that step.
    listed: Vec<SequenceParams>,
    /// Of what is uploaded in half precision.
    room: Room,

    // Last: buffers and stream go before the context they live in, and before what copies write to.
    stream: Stream,
    device: Device,
    /// Where lists arrive.
    arriving: Selection,
}

/// Addresses in device memory of a ragged batch, and what is there. They stay the same as long as the step lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaggedBuffers {
    /// Input: `f32` `[batch, num_qo_heads, num_queries, head_dim]`.
    pub queries: u64,
    /// Input: `f32` `[batch, num_kv_heads, head_dim]`, finite where a sequence appends; others are not read.
    pub new_keys: u64,
    /// Result: `i32` `[batch, num_qo_heads, num_queries, list_stride]`, ascending, then -1.
    pub positions: u64,
    /// Result: `i32` `[batch, num_qo_heads, num_queries]`, positions of each list; 0 where no sequence is.
    pub lengths: u64,
    /// Result, if the configuration asks for it: the lists as `i32` or `i64` positions or slots.
    pub indices: Option<u64>,
    /// Elements from one list to the next.
    pub list_stride: usize,
}

impl RaggedStep {
    pub(crate) fn new(device: &Device, config: &RaggedConfig) -> Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);

        let batch = Batch::new(config)?;
        device.enter()?;
        let stream = Stream::new()?;
        let shape = batch.shape;
        let rows = config.batch * shape.rows_per_batch() as usize;
        let lists = shape.of_lists();
        let list_rows = config.batch * lists.rows_per_batch() as usize;
        let groups = config.batch * config.num_kv_heads;
        let (m, head_dim) = (config.pq.num_subvectors, config.head_dim);
        let num_centroids = groups * config.pq.table_len();
        let pages = config.pages_per_sequence();
        let mut sequences = Sequences::new(config.batch, pages)?;
        sequences.page_table.write(0, &batch.page_table, &stream)?;
        let arriving = batch.selection();
        let mut step = RaggedStep {
            graph: None,
            centroids: Buffer::new(num_centroids * config.pq.sub_dim(head_dim))?,
            half_norms: Buffer::new(num_centroids)?,
            augmentation: match config.pq.is_augmented() {
                false => None,
                true => Some(AugmentationBuffers::new(groups * m, num_centroids)?),
            },
            codes: Buffer::new(batch.codes_len())?,
            sequences,
            new_keys: Buffer::new(groups * head_dim)?,
            queries: Buffer::new(rows * head_dim)?,
            tables: Buffer::new(rows * shape.table_len() as usize)?,
            scores: Buffer::new(rows * shape.code_capacity as usize)?,
            aggregate: AggregateBuffers::new(&shape, config.batch)?,
            top_k: TopKBuffers::new(&lists, list_rows)?,
            list: ListBuffers::new(&lists, list_rows)?,
            indices: IndexBuffers::new(&arriving, batch.index_page_bits())?,
            no_seq_lens: Buffer::new(0)?,
            turn: Turn::of(stream.as_inner())?,
            is_stale: true,
            is_uploaded: false,
            is_listed: false,
            listed: batch.sequences.clone(),
            room: Room::new(groups * head_dim, rows * head_dim),
            arriving,
            batch,
            stream,
            device: device.clone(),
        };
        // What no sequence has written is read to the host all the same.
        step.codes.clear(step.stream.as_inner())?;
        step.list.weights.clear(step.stream.as_inner())?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let graph = StepGraph::capture(
            (id, Variant::Staged),
            device.clone(),
            &step.stream.as_inner(),
            || {
                step.enqueue_append()?;
                step.enqueue_select()
            },
        )?;
        step.graph = Some(graph);
        step.synchronize()?;
        Ok(step)
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// For changes in which the backend has no part but to tell the device before its next step.
    pub(crate) fn batch_mut(&mut self) -> &mut Batch {
        self.is_stale = true;
        &mut self.batch
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The graph that every step replays: captured once.
    pub fn graph(&self) -> &StepGraph {
        self.graph.as_ref().expect("it is captured when made")
    }

    /// Where kernels of the caller's put a step's inputs and find its results.
    pub fn device_buffers(&self) -> RaggedBuffers {
        RaggedBuffers {
            queries: self.queries.address(),
            new_keys: self.new_keys.address(),
            positions: self.list.positions.address(),
            lengths: self.list.lengths.address(),
            indices: self.indices.address(),
            list_stride: self.batch.shape.list_stride as usize,
        }
    }

    /// Waits for everything that was enqueued.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and [`Error::Driver`].
    pub fn synchronize(&self) -> Result<()> {
        self.enter_own_stream()?;
        self.stream.synchronize()
    }

    fn enter_own_stream(&self) -> Result<()> {
        self.device.enter()?;
        self.turn.pass_to(self.stream.as_inner())
    }

    /// Copies a key for each (sequence, head), `[batch, num_kv_heads, 1, head_dim]`, of which those of the
    /// sequences that `appends` names count, and queries to the device, for [`RaggedStep::replay_on`]. Both may be of
    /// half precision.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other shapes, [`Error::NotFinite`] and [`Error::Capacity`] as for an append; what
    /// the driver answers.
    pub fn upload<K: Component, Q: Component>(
        &mut self,
        new_keys: Keys<'_, K>,
        appends: &[bool],
        queries: Queries<'_, Q>,
    ) -> Result<()> {
        let mut room = mem::take(&mut self.room);
        let new_keys = new_keys.widen(&mut room.keys);
        let uploaded = self.upload_wide(new_keys, appends, queries.widen(&mut room.queries));
        self.room = room;
        uploaded
    }

    fn upload_wide(
        &mut self,
        new_keys: Keys<'_>,
        appends: &[bool],
        queries: Queries<'_>,
    ) -> Result<()> {
        self.batch.check_append(&new_keys, appends)?;
        self.batch.check_queries(&queries)?;
        self.enter_own_stream()?;
        self.is_uploaded = false;
        self.new_keys.write(0, new_keys.data, &self.stream)?;
        self.queries.write(0, queries.data, &self.stream)?;
        self.is_uploaded = true;
        Ok(())
    }

    /// Tells the device which sequences append in the next step, and whatever else of them it does not know.
    fn write_params(&mut self, appends: &[bool]) -> Result<()> {
        let params = self.batch.sequences.iter().zip(appends);
        let params = params.map(|(params, &appends)| SequenceParams {
            new_tokens: appends.into(),
            ..*params
        });
        self.sequences.write(0, params, &self.stream)
    }

    pub(crate) fn append(&mut self, keys: Keys<'_>, appends: &[bool]) -> Result<()> {
        self.batch.check_append(&keys, appends)?;
        self.enter_own_stream()?;
        self.is_uploaded = false;
        self.is_stale = true;
        self.new_keys.write(0, keys.data, &self.stream)?;
        self.write_params(appends)?;
        self.enqueue_append()?;
        self.synchronize()?;
        self.batch.advance(appends);
        self.is_stale = false;
        Ok(())
    }

    pub(crate) fn select(&mut self, queries: Queries<'_>, selection: &mut Selection) -> Result<()> {
        self.batch.check_queries(&queries)?;
        self.enter_own_stream()?;
        self.is_uploaded = false;
        self.is_listed = false;
        if self.is_stale {
            let params = self.batch.sequences.iter().copied();
            self.sequences.write(0, params, &self.stream)?;
            self.is_stale = false;
        }
        self.queries.write(0, queries.data, &self.stream)?;
        self.enqueue_select()?;
        self.is_listed = true;
        self.listed.copy_from_slice(&self.batch.sequences);
        self.read(selection)
    }

    pub(crate) fn step(
        &mut self,
        keys: Keys<'_>,
        appends: &[bool],
        queries: Queries<'_>,
        selection: &mut Selection,
    ) -> Result<()> {
        self.upload_wide(keys, appends, queries)?;
        self.replay(appends)?;
        // Should the lists not arrive, the keys are taken back: what failed has changed nothing.
        self.read(selection).inspect_err(|_| {
            for (sequence, &appends) in self.batch.sequences.iter_mut().zip(appends) {
                sequence.seq_len -= u32::from(appends);
            }
            self.is_stale = true;
        })
    }

    /// [`RaggedStep::replay_on`] on the step's own stream, on what was uploaded last: keys and queries stay for
    /// later steps until an append or a select takes their place.
    ///
    /// # Errors
    /// As there; [`Error::Invalid`] when nothing is uploaded.
    pub fn replay(&mut self, appends: &[bool]) -> Result<()> {
        if !self.is_uploaded {
            return Err(Error::invalid(
                "step",
                "no keys and queries on the device",
                "an upload before a step",
            ));
        }
        let stream = self.stream.as_inner();
        // SAFETY: the step's own stream; the inputs are uploaded.
        unsafe { self.replay_on(appends, stream) }
    }

    /// Enqueues a step on a stream of the caller's: a key for each sequence that `appends` names, then lists for
    /// all. Nothing is allocated or waited for, and the graph is the same whatever the sequences are.
    ///
    /// # Safety
    /// As `Step::replay_on` of the dense step: the stream is one of the primary context of
    /// [`RaggedStep::device`], lives until a later call has waited, captures nothing, and inputs are on the
    /// device in its order.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Capacity`] for sequences that cannot append; what the driver answers.
    pub unsafe fn replay_on(&mut self, appends: &[bool], stream: sys::CUstream) -> Result<()> {
        self.batch.check_room(appends)?;
        self.enter_own_stream()?;
        self.is_listed = false;
        // The device's lengths may advance when the launch fails.
        self.is_stale = true;
        self.write_params(appends)?;
        self.turn.pass_to(stream)?;
        // SAFETY: the graph's buffers are this step's; the stream is the caller's promise.
        unsafe { self.graph().launch(stream)? };
        self.batch.advance(appends);
        self.is_stale = false;
        self.is_listed = true;
        self.listed.copy_from_slice(&self.batch.sequences);
        Ok(())
    }

    /// Waits, and copies the lists to the host.
    pub(crate) fn read(&mut self, selection: &mut Selection) -> Result<()> {
        self.enter_own_stream()?;
        if !self.is_listed {
            return Err(nothing_listed());
        }
        let copied = read_lists(&self.list, &self.indices, &mut self.arriving, &self.stream);
        // Wait even if a copy could not be enqueued: nothing is to arrive later.
        let waited = self.synchronize();
        copied.and(waited)?;
        self.arriving.set_sequences(&self.listed);
        std::mem::swap(selection, &mut self.arriving);
        Ok(())
    }
}

impl Drop for RaggedStep {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}
