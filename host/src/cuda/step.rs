//! A whole step on the GPU: the stages' kernels, launched one after the other on one stream.

use std::sync::atomic::{AtomicU64, Ordering};

use gpu_kernels::step::StepShape;

use super::aggregate::AggregateBuffers;
use super::buffer::Buffer;
use super::buffers::{nothing_listed, read_lists};
use super::device::Device;
use super::enqueue::{AugmentationBuffers, IndexBuffers, ListBuffers, TopKBuffers};
use super::heuristics::{Variant, plans, tuple_blocks};
use super::select::SelectBuffers;
use super::sequences::Sequences;
use super::stream::Stream;
use super::tuples::{TupleBuffers, num_lens};
use super::turn::Turn;
use crate::error::{Error, Result};
use crate::index::{IndexParts, KeyIndex};
use crate::selection::Selection;
use crate::tensor::{Queries, Room};

/// Keys that are encoded by one launch.
const TOKENS_PER_LAUNCH: usize = 1024;

/// An index on the GPU with every buffer of its steps. Nothing is allocated after it is made.
///
/// [`Step::enqueue`] alone neither copies to the host nor waits: the sequence lengths live on the
/// device.
#[derive(Debug)]
pub struct Step {
    pub(super) id: u64,
    pub(super) shape: StepShape,
    pub(super) variant: Variant,
    pub(super) batch: usize,
    /// The index as it came; its codes are stale, everything else holds.
    pub(super) origin: KeyIndex,
    pub(super) seq_len: usize,
    pub(super) new_keys_room: usize,
    pub(super) launches: usize,

    pub(super) centroids: Buffer<f32>,
    pub(super) half_norms: Buffer<f32>,
    pub(super) augmentation: Option<AugmentationBuffers>,
    pub(super) codes: Buffer<u8>,
    /// Every reader's copy of its sequence's length, for the fused steps.
    pub(super) seq_lens: Buffer<u32>,
    /// For the kernels of one stage each.
    pub(super) sequences: Sequences,
    pub(super) new_keys: Buffer<f32>,
    pub(super) queries: Buffer<f32>,
    pub(super) tables: Buffer<f32>,
    pub(super) scores: Buffer<f32>,
    pub(super) aggregate: AggregateBuffers,
    pub(super) top_k: TopKBuffers,
    pub(super) select: SelectBuffers,
    pub(super) tuples: TupleBuffers,
    pub(super) list: ListBuffers,
    pub(super) indices: IndexBuffers,

    pub(super) turn: Turn,
    pub(super) stale: Stale,
    /// New keys and queries of a step are on the device.
    pub(super) is_uploaded: bool,
    /// The context's length in the step whose lists are on the device, if they are whole.
    pub(super) listed_len: Option<usize>,
    /// Of what is uploaded in half precision.
    pub(super) room: Room,

    // Last: buffers and stream go before the context they live in, and before what copies write to.
    pub(super) stream: Stream,
    pub(super) device: Device,
    /// Where lists arrive; the caller's selection is exchanged for it when all of it is here.
    pub(super) arriving: Selection,
}

/// What has to be put right on the device before the next step. A call that fails half-way leaves
/// this behind, and so changes nothing that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    Nothing,
    /// Tuples of keys that came otherwise than by steps are not counted.
    Counts,
    /// The lengths are not `seq_len`, or tuples and weights are not those of the variant.
    Everything,
}

impl Step {
    /// A step whose lists arrive in `arriving`, a selection of the shape.
    pub(crate) fn new(
        device: &Device,
        index: KeyIndex,
        shape: StepShape,
        arriving: Selection,
    ) -> Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);

        device.enter()?;
        let stream = Stream::new()?;
        let batch = index.batch();
        // Sixteen codes are read at once: every group's room begins aligned.
        let shape = StepShape {
            code_capacity: shape.code_capacity.next_multiple_of(16),
            ..shape
        };
        let rows = batch * shape.rows_per_batch() as usize;
        let lists = shape.of_lists();
        let list_rows = batch * lists.rows_per_batch() as usize;
        let variant = Variant::choose(device, &shape, rows);
        let max_blocks = tuple_blocks(&shape).map(|blocks| blocks.num_blocks as usize);
        let max_blocks = max_blocks.max().unwrap_or(0);
        let num_lens = num_lens(index.groups(), rows, max_blocks);
        let new_keys_room = TOKENS_PER_LAUNCH.min(index.capacity());
        let head_dim = index.head_dim();
        let mut step = Step {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            shape,
            variant,
            batch,
            seq_len: index.seq_len(),
            new_keys_room,
            launches: 0,
            centroids: Buffer::from_slice(index.centroids(), &stream)?,
            half_norms: Buffer::from_slice(&index.half_norms(), &stream)?,
            augmentation: match index.augmentation() {
                None => None,
                Some(added) => Some(AugmentationBuffers::from_host(added, &stream)?),
            },
            codes: Buffer::from_slice(&padded_codes(&index, &shape), &stream)?,
            seq_lens: Buffer::new(num_lens)?,
            sequences: Sequences::new(batch, 0)?,
            new_keys: Buffer::new(index.groups() * new_keys_room * head_dim)?,
            queries: Buffer::new(rows * head_dim)?,
            tables: Buffer::new(rows * shape.table_len() as usize)?,
            scores: Buffer::new(rows * shape.code_capacity as usize)?,
            aggregate: AggregateBuffers::new(&shape, batch)?,
            top_k: TopKBuffers::new(&lists, list_rows)?,
            select: SelectBuffers::new(&shape, rows, plans(device, &shape))?,
            tuples: TupleBuffers::new(&shape, index.groups(), rows, max_blocks)?,
            list: ListBuffers::new(&lists, list_rows)?,
            indices: IndexBuffers::new(&arriving, 0)?,
            stale: Stale::Everything,
            is_uploaded: false,
            listed_len: None,
            room: Room::new(index.groups() * head_dim, rows * head_dim),
            arriving,
            origin: index,
            turn: Turn::of(stream.as_inner())?,
            stream,
            device: device.clone(),
        };
        step.settle()?;
        Ok(step)
    }

    /// Tokens of the context, with all that was enqueued.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.shape.head_dim as usize
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stream of its own: all but [`Step::replay_on`] runs on it.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// How steps are run.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The variants that this step's shape and device allow.
    pub fn variants(&self) -> Vec<Variant> {
        Variant::fitting(&self.device, &self.shape).collect()
    }

    /// Runs later steps in another way: for measurements, and for tests that compare them. A graph
    /// that was captured before keeps its variant, and its replay brings that back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a variant that is not among [`Step::variants`]; what the driver answers.
    pub fn set_variant(&mut self, variant: Variant) -> Result<()> {
        let variants = self.variants();
        if !variants.contains(&variant) {
            return Err(Error::invalid(
                "variant",
                format!("{variant:?}"),
                format!("one of {variants:?}"),
            ));
        }
        self.enter_own_stream()?;
        let before = std::mem::replace(&mut self.variant, variant);
        self.stale = Stale::Everything;
        self.settle().inspect_err(|_| {
            self.variant = before;
            self.stale = Stale::Everything;
        })
    }

    /// Kernel launches and memory operations enqueued so far by steps and appends.
    pub fn launches(&self) -> usize {
        self.launches
    }

    /// Waits for everything that was enqueued.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and [`Error::Driver`].
    pub fn synchronize(&self) -> Result<()> {
        self.enter_own_stream()?;
        self.stream.synchronize()
    }

    pub(crate) fn select(&mut self, queries: Queries<'_>, selection: &mut Selection) -> Result<()> {
        self.enter_own_stream()?;
        self.refresh()?;
        self.is_uploaded = false;
        self.queries.write(0, queries.data, &self.stream)?;
        self.listed_len = None;
        self.enqueue_lists()?;
        self.listed_len = Some(self.seq_len);
        self.read(selection)
    }

    /// Enqueues one decode step on what was uploaded: encodes the new keys, advances the lengths,
    /// selects. `before` is called with each stage's name as its launches begin.
    ///
    /// # Errors
    /// [`Error::Capacity`] when there is no room for another token, [`Error::Invalid`] when nothing is
    /// uploaded; what the driver answers.
    pub fn enqueue(&mut self, before: &mut dyn FnMut(&'static str) -> Result<()>) -> Result<()> {
        self.check_room()?;
        self.enter_own_stream()?;
        self.check_uploaded()?;
        self.refresh()?;
        self.step_once(|step| step.enqueue_step(before))
    }

    /// Waits, and copies the lists to the host.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no step has listed anything, or the last one failed half-way; what the
    /// driver answers.
    pub(crate) fn read(&mut self, selection: &mut Selection) -> Result<()> {
        self.enter_own_stream()?;
        let Some(listed_len) = self.listed_len else {
            return Err(nothing_listed());
        };
        let copied = read_lists(&self.list, &self.indices, &mut self.arriving, &self.stream);
        // Wait even if a copy could not be enqueued: nothing is to arrive later.
        let waited = self.synchronize();
        copied.and(waited)?;
        self.arriving.seq_len = listed_len;
        std::mem::swap(selection, &mut self.arriving);
        Ok(())
    }

    /// Forgets the last `tokens` appended tokens: for measurements that repeat one step.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more tokens than have codes; what the driver answers.
    pub fn rewind(&mut self, tokens: usize) -> Result<()> {
        let num_codes = self.seq_len - self.origin.config().init_offset;
        if tokens > num_codes {
            return Err(Error::invalid(
                "tokens",
                tokens,
                format!("at most {num_codes}"),
            ));
        }
        self.enter_own_stream()?;
        let before = self.seq_len;
        self.seq_len -= tokens;
        self.stale = Stale::Everything;
        self.settle().inspect_err(|_| {
            self.seq_len = before;
            self.stale = Stale::Everything;
        })
    }

    pub(crate) fn to_index(&self) -> Result<KeyIndex> {
        self.enter_own_stream()?;
        let codes = self.codes.to_vec(&self.stream)?;
        let m = self.shape.num_subvectors as usize;
        let num_codes = self.seq_len - self.origin.config().init_offset;
        let code_stride = self.shape.code_capacity as usize * m;
        let index = KeyIndex::from_parts(
            IndexParts {
                config: *self.origin.config(),
                batch: self.batch,
                num_kv_heads: self.origin.num_kv_heads(),
                head_dim: self.origin.head_dim(),
                num_codes,
                centroids: self.origin.centroids().to_vec(),
                augmentation: self.origin.augmentation().cloned(),
                codes: (0..self.origin.groups())
                    .flat_map(|group| &codes[group * code_stride..][..num_codes * m])
                    .copied()
                    .collect(),
            },
            self.origin.capacity(),
        )?;
        Ok(index.with_provenance(self.origin.provenance()))
    }

    /// Brings the context's length to the sequences, which fused steps leave as they are.
    pub(super) fn write_sequences(&mut self) -> Result<()> {
        let sequence = self.shape.sequence(self.seq_len as u32);
        let sequences = std::iter::repeat_n(sequence, self.batch);
        self.sequences.write(0, sequences, &self.stream)
    }

    /// As [`Device::enter`]; what is then enqueued on the step's own stream comes behind replays on
    /// others.
    pub(super) fn enter_own_stream(&self) -> Result<()> {
        self.device.enter()?;
        self.turn.pass_to(self.stream.as_inner())
    }

    /// [`Step::refresh`], and waits.
    fn settle(&mut self) -> Result<()> {
        self.refresh()?;
        self.synchronize()
    }

    /// Puts right on the device what is stale: nothing to do between steps that succeed.
    pub(super) fn refresh(&mut self) -> Result<()> {
        if self.stale == Stale::Nothing {
            return Ok(());
        }
        self.turn.pass_to(self.stream.as_inner())?;
        if self.stale == Stale::Everything {
            let seq_lens = vec![self.seq_len as u32; self.seq_lens.len()];
            self.seq_lens.write(0, &seq_lens, &self.stream)?;
            self.write_sequences()?;
            if self.variant != Variant::Staged && self.list.weights.len() > 0 {
                // The other variants write only the weights that change, and so begin with none.
                self.listed_len = None;
            }
            let (weights, stream) = (&self.list.weights, &self.stream);
            match self.variant {
                Variant::Staged => (),
                Variant::Survivors(_) => self.select.forget(weights, stream)?,
                Variant::Tuples(_) => self.tuples.forget(weights, stream)?,
            }
            self.stale = Stale::Counts;
        }
        if self.stale == Stale::Counts {
            self.enqueue_tuple_counts()?;
            self.stale = Stale::Nothing;
        }
        Ok(())
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}

/// The index's codes with the shape's room for each group.
fn padded_codes(index: &KeyIndex, shape: &StepShape) -> Vec<u8> {
    let m = shape.num_subvectors as usize;
    let (from, to) = (index.code_capacity() * m, shape.code_capacity as usize * m);
    let mut codes = vec![0; index.groups() * to];
    if from > 0 {
        for (to, from) in codes.chunks_mut(to).zip(index.padded_codes().chunks(from)) {
            to[..from.len()].copy_from_slice(from);
        }
    }
    codes
}
