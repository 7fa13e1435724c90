//! A whole step on the GPU: the stages' kernels, launched one after the other on one stream.

use std::sync::atomic::{AtomicU64, Ordering};

use cust::stream::{Stream, StreamFlags};
use gpu_kernels::step::StepShape;

use super::buffer::Buffer;
use super::device::Device;
use super::enqueue::{CodesBuffers, Enqueuer, ListBuffers, TopKBuffers};
use super::error::OrDriverError;
use super::graph::StepGraph;
use super::heuristics::{Variant, plans, tuple_blocks};
use super::select::SelectBuffers;
use super::tuples::{TupleBuffers, num_lens};
use crate::error::{Error, Result};
use crate::index::{IndexParts, KeyIndex};
use crate::selection::Selection;
use crate::tensor::{Keys, Queries};

/// Keys that are encoded by one launch.
const TOKENS_PER_LAUNCH: usize = 1024;

/// An index on the GPU with every buffer of its steps. Nothing is allocated after it is made.
///
/// [`Step::enqueue`] alone neither copies to the host nor waits: the sequence lengths live on the
/// device.
#[derive(Debug)]
pub struct Step {
    id: u64,
    shape: StepShape,
    variant: Variant,
    batch: usize,
    /// The index as it came; its codes are stale, everything else holds.
    origin: KeyIndex,
    seq_len: usize,
    new_keys_room: usize,
    launches: usize,

    centroids: Buffer<f32>,
    half_norms: Buffer<f32>,
    codes: Buffer<u8>,
    seq_lens: Buffer<u32>,
    new_keys: Buffer<f32>,
    queries: Buffer<f32>,
    tables: Buffer<f32>,
    scores: Buffer<f32>,
    top_k: TopKBuffers,
    select: SelectBuffers,
    tuples: TupleBuffers,
    list: ListBuffers,

    stale: Stale,
    /// New keys and queries of a step are on the device.
    is_uploaded: bool,
    /// The context's length in the step whose lists are on the device, if they are whole.
    listed_len: Option<usize>,

    // Last: buffers and stream go before the context they live in, and before what copies write to.
    stream: Stream,
    device: Device,
    /// Where lists arrive; the caller's selection is exchanged for it when all of it is here.
    arriving: Selection,
}

/// What has to be put right on the device before the next step. A call that fails half-way leaves
/// this behind, and so changes nothing that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stale {
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
        let stream = Stream::new(StreamFlags::DEFAULT, None).or_driver_error()?;
        let batch = index.batch();
        // Sixteen codes are read at once: every group's room begins aligned.
        let shape = StepShape {
            code_capacity: shape.code_capacity.next_multiple_of(16),
            ..shape
        };
        let rows = batch * shape.rows_per_batch() as usize;
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
            codes: Buffer::from_slice(&padded_codes(&index, &shape), &stream)?,
            seq_lens: Buffer::new(num_lens)?,
            new_keys: Buffer::new(index.groups() * new_keys_room * head_dim)?,
            queries: Buffer::new(rows * head_dim)?,
            tables: Buffer::new(rows * shape.table_len() as usize)?,
            scores: Buffer::new(rows * shape.code_capacity as usize)?,
            top_k: TopKBuffers::new(&shape, rows)?,
            select: SelectBuffers::new(&shape, rows, plans(device, &shape))?,
            tuples: TupleBuffers::new(&shape, index.groups(), rows, max_blocks)?,
            list: ListBuffers::new(&shape, rows)?,
            stale: Stale::Everything,
            is_uploaded: false,
            listed_len: None,
            arriving,
            origin: index,
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

    /// The stream it runs on.
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
        self.device.enter()?;
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
        self.device.enter()?;
        self.stream.synchronize().or_driver_error()
    }

    pub(crate) fn append(&mut self, keys: Keys<'_>) -> Result<()> {
        self.check_append(&keys)?;
        self.device.enter()?;
        if keys.tokens == 0 {
            return Ok(());
        }
        self.refresh()?;
        self.is_uploaded = false;
        self.enqueue_append(&keys)
            .and_then(|()| self.synchronize())
            .inspect_err(|_| self.stale = Stale::Everything)?;
        self.seq_len += keys.tokens;
        Ok(())
    }

    pub(crate) fn select(&mut self, queries: Queries<'_>, selection: &mut Selection) -> Result<()> {
        self.device.enter()?;
        self.refresh()?;
        self.is_uploaded = false;
        self.queries.write(0, queries.data, &self.stream)?;
        self.listed_len = None;
        match self.variant {
            Variant::Staged => self.enqueue_select(&mut |_| Ok(()))?,
            _ => self.enqueue_fused(0)?,
        }
        self.listed_len = Some(self.seq_len);
        self.read(selection)
    }

    /// Copies one new key for each (batch, head), `[batch, num_kv_heads, 1, head_dim]`, and the
    /// step's queries to the device, for [`Step::enqueue`] or [`Step::replay`]. They stay for later
    /// steps, until an append, a select or an upload that fails takes their place.
    ///
    /// # Errors
    /// As `KeyIndex::append` for the key; [`Error::Invalid`] for queries of another length; what the
    /// driver answers.
    pub fn upload(&mut self, new_keys: Keys<'_>, queries: Queries<'_>) -> Result<()> {
        if new_keys.tokens != 1 {
            return Err(Error::invalid("keys: tokens", new_keys.tokens, 1));
        }
        self.check_append(&new_keys)?;
        let expected = self.batch * self.shape.rows_per_batch() as usize * self.head_dim();
        if queries.data.len() != expected {
            return Err(Error::invalid(
                "queries",
                format!("{} elements", queries.data.len()),
                expected,
            ));
        }
        self.device.enter()?;
        self.is_uploaded = false;
        self.upload_keys(&new_keys, 0..1)?;
        self.queries.write(0, queries.data, &self.stream)?;
        self.is_uploaded = true;
        Ok(())
    }

    /// Enqueues one decode step on what was uploaded: encodes the new keys, advances the lengths,
    /// selects. `before` is called with each stage's name as its launches begin.
    ///
    /// # Errors
    /// [`Error::Capacity`] when there is no room for another token, [`Error::Invalid`] when nothing is
    /// uploaded; what the driver answers.
    pub fn enqueue(&mut self, before: &mut dyn FnMut(&'static str) -> Result<()>) -> Result<()> {
        self.check_room()?;
        self.device.enter()?;
        self.check_uploaded()?;
        self.refresh()?;
        self.step_once(|step| step.enqueue_step(before))
    }

    /// Captures the launches of [`Step::enqueue`] into a graph. It stays valid while the context grows,
    /// up to the index's capacity.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn capture(&mut self) -> Result<StepGraph> {
        self.device.enter()?;
        let of = (self.id, self.variant);
        let launches = self.launches;
        let device = self.device.clone();
        let graph = StepGraph::capture(of, device, &self.stream.as_inner(), || {
            self.enqueue_step(&mut |_| Ok(()))
        });
        self.launches = launches;
        graph
    }

    /// Enqueues a captured step on what was uploaded; nothing is allocated, copied or waited for.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the graph was captured from another step or nothing is uploaded,
    /// [`Error::Capacity`] when there is no room for another token; what the driver answers.
    pub fn replay(&mut self, graph: &StepGraph) -> Result<()> {
        if graph.step_id() != self.id {
            return Err(Error::invalid(
                "graph",
                "one captured from another step",
                "one captured from this step",
            ));
        }
        self.check_room()?;
        self.device.enter()?;
        self.check_uploaded()?;
        let before = std::mem::replace(&mut self.variant, graph.variant());
        if self.variant != before {
            self.stale = Stale::Everything;
        }
        self.refresh()
            .and_then(|()| self.step_once(|step| graph.launch(&step.stream)))
            .inspect_err(|_| {
                if self.variant != before {
                    self.variant = before;
                    self.stale = Stale::Everything;
                }
            })
    }

    /// Waits, and copies the lists to the host.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no step has listed anything, or the last one failed half-way; what the
    /// driver answers.
    pub(crate) fn read(&mut self, selection: &mut Selection) -> Result<()> {
        self.device.enter()?;
        let Some(listed_len) = self.listed_len else {
            return Err(Error::invalid(
                "step",
                "no lists on the device",
                "a step enqueued before a read",
            ));
        };
        let copied = self.list.read(&mut self.arriving, &self.stream);
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
        self.device.enter()?;
        let before = self.seq_len;
        self.seq_len -= tokens;
        self.stale = Stale::Everything;
        self.settle().inspect_err(|_| {
            self.seq_len = before;
            self.stale = Stale::Everything;
        })
    }

    pub(crate) fn to_index(&self) -> Result<KeyIndex> {
        self.device.enter()?;
        let codes = self.codes.to_vec(&self.stream)?;
        let m = self.shape.num_subvectors as usize;
        let num_codes = self.seq_len - self.origin.config().init_offset;
        let code_stride = self.shape.code_capacity as usize * m;
        KeyIndex::from_parts(
            IndexParts {
                config: *self.origin.config(),
                batch: self.batch,
                num_kv_heads: self.origin.num_kv_heads(),
                head_dim: self.origin.head_dim(),
                num_codes,
                centroids: self.origin.centroids().to_vec(),
                codes: (0..self.origin.groups())
                    .flat_map(|group| &codes[group * code_stride..][..num_codes * m])
                    .copied()
                    .collect(),
            },
            self.origin.capacity(),
        )
    }

    fn check_append(&self, keys: &Keys<'_>) -> Result<()> {
        self.origin.check_append_at(keys, self.seq_len)
    }

    fn check_room(&self) -> Result<()> {
        if self.seq_len < self.origin.capacity() {
            return Ok(());
        }
        Err(Error::Capacity {
            seq_len: self.seq_len,
            additional: 1,
            capacity: self.origin.capacity(),
        })
    }

    fn check_uploaded(&self) -> Result<()> {
        if self.is_uploaded {
            return Ok(());
        }
        Err(Error::invalid(
            "step",
            "no keys and queries on the device",
            "an upload before a step",
        ))
    }

    /// Makes one step by what `enqueue` launches.
    fn step_once(&mut self, enqueue: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.listed_len = None;
        // The lengths may have advanced when a later launch fails.
        enqueue(self).inspect_err(|_| self.stale = Stale::Everything)?;
        self.seq_len += 1;
        self.listed_len = Some(self.seq_len);
        Ok(())
    }

    /// Copies tokens `range` of `keys` to the front of `new_keys`, `[groups, range.len(), head_dim]`.
    fn upload_keys(&mut self, keys: &Keys<'_>, range: std::ops::Range<usize>) -> Result<()> {
        let len = range.len() * keys.head_dim;
        if range.len() == keys.tokens {
            return self.new_keys.write(0, keys.data, &self.stream);
        }
        for group in 0..self.origin.groups() {
            let key_data = &keys.group(group)[range.start * keys.head_dim..][..len];
            self.new_keys.write(group * len, key_data, &self.stream)?;
        }
        Ok(())
    }

    fn enqueue_step(&mut self, before: &mut dyn FnMut(&'static str) -> Result<()>) -> Result<()> {
        if self.variant != Variant::Staged {
            before("select")?;
            return self.enqueue_fused(1);
        }
        before("codes")?;
        self.enqueue_codes(0, 1)?;
        self.enqueue_advance(1)?;
        self.enqueue_select(before)
    }

    fn enqueue_codes(&mut self, first_token: usize, new_tokens: usize) -> Result<()> {
        // SAFETY: the buffers were made for this shape and live as long as the stream; the keys are
        // uploaded.
        self.launches += unsafe {
            self.enqueuer()
                .codes(&self.codes_buffers(), first_token, new_tokens)?
        };
        Ok(())
    }

    /// The whole step in one launch, after appending `new_tokens` (0 or 1) keys.
    fn enqueue_fused(&mut self, new_tokens: usize) -> Result<()> {
        let (enqueuer, buffers) = (self.enqueuer(), self.codes_buffers());
        // SAFETY: all buffers were made for this shape and this batch, and live as long as the stream;
        // the variant is one that fits the shape, and its counts are made.
        let launches = unsafe {
            match self.variant {
                Variant::Cluster(plan) => enqueuer.select_cluster(
                    &buffers,
                    &self.queries,
                    &self.select,
                    &self.list,
                    new_tokens,
                    plan,
                )?,
                Variant::Tuples(blocks) => enqueuer.select_tuples(
                    &buffers,
                    &self.queries,
                    &self.tuples,
                    &self.list,
                    new_tokens,
                    blocks,
                )?,
                Variant::Staged => unreachable!("a staged step is not enqueued as one launch"),
            }
        };
        self.launches += launches;
        Ok(())
    }

    /// Encodes the keys, advances the lengths and counts the new tuples.
    fn enqueue_append(&mut self, keys: &Keys<'_>) -> Result<()> {
        let mut done = 0;
        while done < keys.tokens {
            let tokens = self.new_keys_room.min(keys.tokens - done);
            self.upload_keys(keys, done..done + tokens)?;
            self.enqueue_codes(done, tokens)?;
            done += tokens;
        }
        self.enqueue_advance(keys.tokens)?;
        self.stale = Stale::Counts;
        self.refresh()
    }

    /// [`Step::refresh`], and waits.
    fn settle(&mut self) -> Result<()> {
        self.refresh()?;
        self.synchronize()
    }

    /// Puts right on the device what is stale: nothing to do between steps that succeed.
    fn refresh(&mut self) -> Result<()> {
        if self.stale == Stale::Everything {
            let seq_lens = vec![self.seq_len as u32; self.seq_lens.len()];
            self.seq_lens.write(0, &seq_lens, &self.stream)?;
            if self.variant != Variant::Staged && self.list.weights.len() > 0 {
                // The other variants write only the weights that change, and so begin with none.
                self.listed_len = None;
            }
            let (weights, stream) = (&self.list.weights, &self.stream);
            match self.variant {
                Variant::Staged => (),
                Variant::Cluster(_) => self.select.forget(weights, stream)?,
                Variant::Tuples(_) => self.tuples.forget(weights, stream)?,
            }
            self.stale = Stale::Counts;
        }
        if self.stale == Stale::Counts {
            if let Variant::Tuples(blocks) = self.variant {
                let (codes, seq_lens) = (&self.codes, &self.seq_lens);
                // SAFETY: the buffers were made for this shape and batch, and live as long as the
                // stream; codes and lengths are written.
                unsafe {
                    self.enqueuer()
                        .tuple_counts(codes, seq_lens, &self.tuples, blocks)?
                };
            }
            self.stale = Stale::Nothing;
        }
        Ok(())
    }

    fn codes_buffers(&self) -> CodesBuffers<'_> {
        CodesBuffers {
            centroids: &self.centroids,
            half_norms: &self.half_norms,
            new_keys: &self.new_keys,
            seq_lens: &self.seq_lens,
            codes: &self.codes,
        }
    }

    fn enqueue_advance(&mut self, new_tokens: usize) -> Result<()> {
        // SAFETY: there is one length for each sequence.
        self.launches += unsafe { self.enqueuer().advance(&self.seq_lens, new_tokens)? };
        Ok(())
    }

    fn enqueue_select(&mut self, before: &mut dyn FnMut(&'static str) -> Result<()>) -> Result<()> {
        let enqueuer = self.enqueuer();
        let mut launches = 0;
        // SAFETY: all buffers were made for this shape and this batch, and live as long as the
        // stream; each stage's inputs are written by those before it.
        unsafe {
            before("lut")?;
            launches += enqueuer.lut(&self.centroids, &self.queries, &self.tables)?;
            before("scores")?;
            launches += enqueuer.scores(&self.tables, &self.codes, &self.seq_lens, &self.scores)?;
            before("top_k")?;
            launches += enqueuer.top_k(&self.scores, &self.seq_lens, &self.top_k)?;
            before("index_list")?;
            launches += enqueuer.index_list(&self.top_k, &self.seq_lens, &self.list)?;
            before("weights")?;
            launches += enqueuer.weights(&self.list)?;
        }
        self.launches += launches;
        Ok(())
    }

    fn enqueuer(&self) -> Enqueuer<'_> {
        Enqueuer {
            device: &self.device,
            stream: &self.stream,
            shape: &self.shape,
            batch: self.batch,
        }
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
