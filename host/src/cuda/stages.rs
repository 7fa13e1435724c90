//! Each stage alone: buffers are made, filled, and read back for every call.

use gpu_kernels::codebook::half_norm;
use gpu_kernels::step::StepShape;

use super::aggregate::AggregateBuffers;
use super::buffer::Buffer;
use super::device::Device;
use super::enqueue::{AugmentationBuffers, CodesBuffers, Enqueuer, ListBuffers, TopKBuffers};
use super::sequences::Sequences;
use super::stream::Stream;
use crate::error::Result;
use crate::index::Augmentation;
use crate::stages::Stages;

/// The CUDA backend's stages.
#[derive(Debug)]
pub struct CudaStages {
    // Before the device: the stream goes before its context.
    stream: Stream,
    device: Device,
}

impl CudaStages {
    /// Stages on `device`, on a stream of their own.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn new(device: &Device) -> Result<Self> {
        device.enter()?;
        Ok(CudaStages {
            stream: Stream::new()?,
            device: device.clone(),
        })
    }

    fn enqueuer<'a>(&'a self, shape: &'a StepShape, sequences: &'a Sequences) -> Enqueuer<'a> {
        Enqueuer {
            device: &self.device,
            stream: self.stream.as_inner(),
            shape,
            sequences,
        }
    }

    /// Sequences of those lengths, with the shape's regions.
    fn sequences(&self, shape: &StepShape, seq_lens: &[u32]) -> Result<Sequences> {
        let mut sequences = Sequences::new(seq_lens.len(), 0)?;
        let params = seq_lens.iter().map(|&len| shape.sequence(len));
        sequences.write(0, params, &self.stream)?;
        Ok(sequences)
    }

    fn upload<T: cust::memory::DeviceCopy>(&self, data: &[T]) -> Result<Buffer<T>> {
        Buffer::from_slice(data, &self.stream)
    }
}

impl Drop for CudaStages {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}

/// Half norms of the centroids, the component that augments them included.
fn half_norms(
    shape: &StepShape,
    centroids: &[f32],
    augmentation: Option<&Augmentation>,
) -> Vec<f32> {
    let centroids = centroids.chunks_exact(shape.sub_dim() as usize);
    match augmentation {
        None => centroids.map(half_norm).collect(),
        Some(added) => centroids
            .zip(&added.components)
            .map(|(centroid, &component)| half_norm(&[centroid, &[component]].concat()))
            .collect(),
    }
}

// Every unsafe block below: the buffers are made here, of the lengths the trait documents (which the
// assertions check), hold what the stage reads, and live until `to_vec` or `synchronize` has waited.
impl Stages for CudaStages {
    fn codes(
        &self,
        shape: &StepShape,
        centroids: &[f32],
        augmentation: Option<&Augmentation>,
        seq_lens: &[u32],
        new_keys: &[f32],
        codes: &[u8],
    ) -> Result<Vec<u8>> {
        let batch = seq_lens.len();
        let groups = batch * shape.num_kv_heads as usize;
        let new_tokens = new_keys.len() / (groups * shape.head_dim as usize);
        assert_eq!(
            centroids.len(),
            groups * (shape.table_len() * shape.sub_dim()) as usize
        );
        assert_eq!(
            codes.len(),
            groups * shape.code_capacity as usize * shape.num_subvectors as usize
        );
        self.device.enter()?;
        let half_norms = half_norms(shape, centroids, augmentation);
        let augmentation = augmentation
            .map(|added| AugmentationBuffers::from_host(added, &self.stream))
            .transpose()?;
        let buffers = CodesBuffers {
            centroids: &self.upload(centroids)?,
            half_norms: &self.upload(&half_norms)?,
            augmentation: augmentation.as_ref(),
            new_keys: &self.upload(new_keys)?,
            seq_lens: &Buffer::new(0)?,
            codes: &self.upload(codes)?,
        };
        let sequences = self.sequences(shape, seq_lens)?;
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.codes(&buffers, 0, new_tokens)? };
        buffers.codes.to_vec(&self.stream)
    }

    fn lut(&self, shape: &StepShape, centroids: &[f32], queries: &[f32]) -> Result<Vec<f32>> {
        let rows = queries.len() / shape.head_dim as usize;
        let batch = rows / shape.rows_per_batch() as usize;
        assert_eq!(
            centroids.len(),
            batch * (shape.num_kv_heads * shape.table_len() * shape.sub_dim()) as usize
        );
        self.device.enter()?;
        let tables = Buffer::new(rows * shape.table_len() as usize)?;
        let (centroids, queries) = (self.upload(centroids)?, self.upload(queries)?);
        // Any length: tables are built where a sequence is.
        let sequences = self.sequences(shape, &vec![1; batch])?;
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.lut(&centroids, &queries, &tables)? };
        tables.to_vec(&self.stream)
    }

    fn scores(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        tables: &[f32],
        codes: &[u8],
    ) -> Result<Vec<f32>> {
        let batch = seq_lens.len();
        let rows = batch * shape.rows_per_batch() as usize;
        assert_eq!(tables.len(), rows * shape.table_len() as usize);
        self.device.enter()?;
        let scores = self.upload(&vec![0.0f32; rows * shape.code_capacity as usize])?;
        let (tables, codes) = (self.upload(tables)?, self.upload(codes)?);
        let sequences = self.sequences(shape, seq_lens)?;
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.scores(&tables, &codes, &scores)? };
        scores.to_vec(&self.stream)
    }

    fn aggregate(&self, shape: &StepShape, seq_lens: &[u32], scores: &[f32]) -> Result<Vec<f32>> {
        let batch = seq_lens.len();
        let rows = batch * shape.rows_per_batch() as usize;
        assert_eq!(scores.len(), rows * shape.code_capacity as usize);
        assert_ne!(shape.aggregation, gpu_kernels::aggregate::PER_HEAD);
        self.device.enter()?;
        let mut buffers = AggregateBuffers::new(shape, batch)?;
        let empty = vec![0.0; buffers.aggregates.len()];
        buffers.aggregates.write(0, &empty, &self.stream)?;
        let (scores, sequences) = (self.upload(scores)?, self.sequences(shape, seq_lens)?);
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.aggregate(&scores, &buffers)? };
        buffers.aggregates.to_vec(&self.stream)
    }

    fn top_k(&self, shape: &StepShape, seq_lens: &[u32], scores: &[f32]) -> Result<Vec<i32>> {
        let batch = seq_lens.len();
        let rows = batch * shape.rows_per_batch() as usize;
        assert_eq!(scores.len(), rows * shape.code_capacity as usize);
        self.device.enter()?;
        let mut buffers = TopKBuffers::new(shape, rows)?;
        let empty = vec![-1; rows * shape.heavy as usize];
        buffers.heavy_positions.write(0, &empty, &self.stream)?;
        let (scores, sequences) = (self.upload(scores)?, self.sequences(shape, seq_lens)?);
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.top_k(&scores, &buffers)? };
        buffers.heavy_positions.to_vec(&self.stream)
    }

    fn index_list(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        heavy_positions: &[i32],
    ) -> Result<(Vec<i32>, Vec<i32>)> {
        let batch = seq_lens.len();
        let rows = batch * shape.rows_per_batch() as usize;
        assert_eq!(heavy_positions.len(), rows * shape.heavy as usize);
        self.device.enter()?;
        let mut top_k = TopKBuffers::new(shape, rows)?;
        top_k
            .heavy_positions
            .write(0, heavy_positions, &self.stream)?;
        let list = ListBuffers::new(shape, rows)?;
        let sequences = self.sequences(shape, seq_lens)?;
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.index_list(&top_k, &list)? };
        Ok((
            list.positions.to_vec(&self.stream)?,
            list.lengths.to_vec(&self.stream)?,
        ))
    }

    fn weights(&self, shape: &StepShape, positions: &[i32], lengths: &[i32]) -> Result<Vec<f32>> {
        let rows = lengths.len();
        assert_eq!(positions.len(), rows * shape.list_stride as usize);
        self.device.enter()?;
        let mut list = ListBuffers::new(shape, rows)?;
        list.positions.write(0, positions, &self.stream)?;
        list.lengths.write(0, lengths, &self.stream)?;
        // Any length: weights are written where a sequence is.
        let batch = rows / shape.rows_per_batch() as usize;
        let sequences = self.sequences(shape, &vec![1; batch])?;
        let enqueuer = self.enqueuer(shape, &sequences);
        // SAFETY: see above.
        unsafe { enqueuer.weights(&list)? };
        list.weights.to_vec(&self.stream)
    }
}
