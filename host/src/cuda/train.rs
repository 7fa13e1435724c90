//! Training on the GPU, from keys that lie in device memory.

use gpu_kernels::codebook::half_norm;
use gpu_kernels::kernel::In;
use gpu_kernels::kmeans::{
    self, ALL_FINITE, KMeansAssign, KMeansShape, KMeansStart, KMeansSurvey, KMeansUpdate, TILE,
    UPDATE_WORDS, layout,
};

use super::buffer::Buffer;
use super::device::Device;
use super::drift::quantisation_error;
use super::keys::DeviceKeys;
use super::launch::{Grid, MAX_GRID_Y, launch};
use super::stream::Stream;
use crate::codebook_plan::{Iteration, POINTS_PER_BLOCK, Plan, Stop};
use crate::codebook_start::sampled;
use crate::config::{CentroidDtype, PqConfig, Start, TrainConfig};
use crate::error::{Error, Result};
use crate::index::{Augmentation, IndexParts, KeyIndex, Provenance, check_training};

/// Bytes that training may take beside keys, centroids and codes.
const WORKING_BYTES: usize = 60 << 20;
/// Blocks of a launch that sees all points, if the working memory allows: about three times what a large GPU holds at
/// once. The same on all, so that sums have one order everywhere.
const BLOCKS: usize = 768;
/// Blocks of a launch that sees a sample: what a large GPU holds at once, with fewer sums to add up.
const SAMPLE_BLOCKS: usize = 256;

/// Trains a codebook for every (batch, head, sub-vector) on the GPU and encodes the keys there: `KeyIndex::train` on keys
/// in device memory, in their own type and strides.
///
/// The start is [`Start::Sampled`], and of many keys the first iterations see the samples that they see on the CPU. Every
/// sum is of f64 in an order that the shape decides: the same input gives the same index on every run and GPU. Beside
/// keys, centroids and codes it takes at most 64 MB of device memory.
///
/// # Safety
/// `keys` describes memory of `device`'s primary context that is written, and nothing writes it before this
/// returns.
///
/// # Errors
/// As [`KeyIndex::train`]; [`Error::Invalid`] for another start; what the driver answers.
pub unsafe fn train(
    device: &Device,
    config: &PqConfig,
    training: &TrainConfig,
    keys: &DeviceKeys,
    capacity: usize,
) -> Result<KeyIndex> {
    // SAFETY: the caller's.
    unsafe { train_from(device, config, training, keys, capacity, None) }
}

/// [`train`] that begins with the centroids of `earlier`, if there is one.
///
/// # Safety
/// As [`train`].
pub(crate) unsafe fn train_from(
    device: &Device,
    config: &PqConfig,
    training: &TrainConfig,
    keys: &DeviceKeys,
    capacity: usize,
    earlier: Option<&KeyIndex>,
) -> Result<KeyIndex> {
    check_training(config, keys.shape(), capacity)?;
    training.validate()?;
    if earlier.is_none() && training.start != Start::Sampled {
        let got = training.start.name();
        return Err(Error::invalid("start", got, "sampled, on a GPU"));
    }
    device.enter()?;
    let mut work = Work::new(device, config, training, keys)?;
    let result = work.run(training, earlier);
    // Nothing may still work on the caller's keys, and buffers go only then.
    let waited = work.stream.synchronize();
    result.and(waited)?;
    work.index(config, capacity, training.centroids)
}

/// Buffers and launches of one training.
struct Work<'a> {
    device: &'a Device,
    keys: &'a DeviceKeys,
    shape: KMeansShape,
    groups: usize,
    plan: Plan,
    /// Problems of a launch whose sums fit the working memory.
    problems_at_once: usize,
    /// Blocks that share a problem's sample.
    sample_blocks: u32,
    sums_are_shared: bool,
    /// Which block of points comes where: in the samples' order, else in their own.
    order: Buffer<u32>,
    centroids: Buffer<f32>,
    half_norms: Buffer<f32>,
    phis: Buffer<f32>,
    components: Buffer<f32>,
    is_done: Buffer<u32>,
    not_finite: Buffer<u32>,
    sums: Buffer<f64>,
    counts: Buffer<u32>,
    farthest: Buffer<u64>,
    codes: Buffer<u8>,
    stream: Stream,
}

impl<'a> Work<'a> {
    fn new(
        device: &'a Device,
        config: &PqConfig,
        training: &TrainConfig,
        keys: &'a DeviceKeys,
    ) -> Result<Self> {
        let stream = Stream::new()?;
        let groups = keys.batch * keys.num_kv_heads;
        let problems = groups * config.num_subvectors;
        let mut shape = keys.kmeans_shape(config);
        let part_bytes =
            8 * shape.sums_len() as usize + 4 * config.num_centroids() + 8 * TILE as usize;
        let num_points = shape.num_points as usize;
        let plan = Plan::new(num_points, config.num_centroids(), training);
        let order: Vec<u32> = match &plan.samples {
            Some(samples) => samples.order.clone(),
            None => (0..num_points.div_ceil(POINTS_PER_BLOCK) as u32).collect(),
        };
        let parts = (WORKING_BYTES - size_of_val(&order[..])) / part_bytes;
        let problems_at_once = problems.min(parts).clamp(1, BLOCKS);
        let blocks = |wanted: usize| {
            (wanted / problems_at_once)
                .min(parts / problems_at_once)
                .min(shape.num_tiles() as usize)
                .clamp(1, MAX_GRID_Y) as u32
        };
        let sample_blocks = blocks(SAMPLE_BLOCKS);
        shape.num_blocks = blocks(BLOCKS);
        let parts = problems_at_once * shape.num_blocks as usize;
        let shared = 4 * layout::words(&shape, true) as usize;
        let is_augmented = config.is_augmented();
        let num_centroids = problems * config.num_centroids();
        let added = |len: usize| if is_augmented { len } else { 0 };
        Ok(Work {
            device,
            keys,
            groups,
            problems_at_once,
            sample_blocks,
            order: Buffer::from_slice(&order, &stream)?,
            plan,
            sums_are_shared: shared <= device.max_shared_bytes(),
            centroids: Buffer::new(num_centroids * shape.sub_dim as usize)?,
            half_norms: Buffer::new(num_centroids)?,
            phis: Buffer::new(problems)?,
            components: Buffer::new(added(num_centroids))?,
            is_done: Buffer::new(problems)?,
            not_finite: Buffer::new(problems)?,
            sums: Buffer::new(parts * shape.sums_len() as usize)?,
            counts: Buffer::new(parts * config.num_centroids())?,
            farthest: Buffer::new(parts * TILE as usize)?,
            codes: Buffer::new(problems * shape.num_points as usize)?,
            shape,
            stream,
        })
    }

    fn problems(&self) -> usize {
        self.groups * self.shape.num_subvectors as usize
    }

    fn run(&mut self, training: &TrainConfig, earlier: Option<&KeyIndex>) -> Result<()> {
        self.survey()?;
        match earlier {
            None => self.start(training)?,
            Some(index) => {
                self.centroids.write(0, index.centroids(), &self.stream)?;
                self.half_norms
                    .write(0, &index.half_norms(), &self.stream)?;
                if let Some(added) = index.augmentation() {
                    self.components.write(0, &added.components, &self.stream)?;
                }
            }
        }
        self.is_done.clear(self.stream.as_inner())?;
        let mut first = 0;
        while first < self.problems() && training.iterations > 0 {
            let problems = self.problems_at_once.min(self.problems() - first);
            for iteration in self.plan.iterations() {
                self.assign(first, problems, Some(iteration))?;
                self.update(first, problems, iteration, training.tolerance)?;
            }
            first += problems;
        }
        self.round(training.centroids)?;
        self.assign(0, self.problems(), None)
    }

    /// Rounds the centroids, by way of the host.
    fn round(&mut self, dtype: CentroidDtype) -> Result<()> {
        if dtype == CentroidDtype::F32 {
            return Ok(());
        }
        let mut centroids = self.centroids.to_vec(&self.stream)?;
        centroids
            .iter_mut()
            .for_each(|value| *value = dtype.round(*value));
        let components = self.components.to_vec(&self.stream)?;
        let sub_dim = self.shape.sub_dim as usize;
        let half_norms: Vec<f32> = centroids
            .chunks_exact(sub_dim)
            .enumerate()
            .map(|(i, centroid)| match components.get(i) {
                None => half_norm(centroid),
                Some(&component) => half_norm(&[centroid, &[component]].concat()),
            })
            .collect();
        self.centroids.write(0, &centroids, &self.stream)?;
        self.half_norms.write(0, &half_norms, &self.stream)
    }

    /// The first component that is not finite as an error, and the phis.
    fn survey(&mut self) -> Result<()> {
        let none = vec![ALL_FINITE; self.problems()];
        self.not_finite.write(0, &none, &self.stream)?;
        // Of all keys that came, quantised or not.
        self.launch_survey(KMeansShape {
            first_token: 0,
            num_points: self.keys.tokens as u32,
            is_augmented: 0,
            ..self.shape
        })?;
        let not_finite = self.not_finite.to_vec(&self.stream)?;
        self.keys.check_survey(&self.shape, &not_finite)?;
        self.phis.clear(self.stream.as_inner())?;
        match self.shape.is_augmented {
            0 => Ok(()),
            _ => self.launch_survey(self.shape),
        }
    }

    fn launch_survey(&self, shape: KMeansShape) -> Result<()> {
        let args = KMeansSurvey {
            keys: self.keys.input(),
            phis: self.phis_as_bits(),
            not_finite: self.not_finite.output(),
            shape,
        };
        let blocks = (shape.num_points as usize).div_ceil(2048).clamp(1, 64);
        // SAFETY: there is a word for each problem, and the keys are the caller's.
        unsafe {
            launch(
                self.device,
                self.stream.as_inner(),
                Grid(self.problems(), blocks),
                0,
                &args,
            )
        }
    }

    fn phis_as_bits(&self) -> gpu_kernels::kernel::Out<u32> {
        gpu_kernels::kernel::Out::from_address(self.phis.address())
    }

    fn start(&self, training: &TrainConfig) -> Result<()> {
        let (points, centroids) = (
            self.shape.num_points as usize,
            self.shape.num_centroids() as usize,
        );
        let samples: Vec<u32> = (0..self.problems())
            .flat_map(|problem| sampled(training.seed, problem, points, centroids))
            .collect();
        let samples = Buffer::from_slice(&samples, &self.stream)?;
        let args = KMeansStart {
            keys: self.keys.input(),
            samples: samples.input(),
            phis: self.phis.input(),
            centroids: self.centroids.output(),
            components: self.components.output(),
            half_norms: self.half_norms.output(),
            shape: self.shape,
        };
        // SAFETY: arrays have a part for each problem, samples are points.
        let launched = unsafe {
            launch(
                self.device,
                self.stream.as_inner(),
                Grid(self.problems(), 1),
                0,
                &args,
            )
        };
        // The samples go at the end of this call.
        launched.and(self.stream.synchronize())
    }

    /// The shape of an iteration's launches.
    fn shape_of(&self, first: usize, iteration: Iteration) -> KMeansShape {
        let num_points = iteration.num_points as u32;
        let num_blocks = match iteration.stop {
            Stop::Never => self.sample_blocks,
            _ => self.shape.num_blocks,
        };
        KMeansShape {
            first_problem: first as u32,
            num_points,
            num_blocks,
            ..self.shape
        }
    }

    /// Finds the sums of an iteration, or in the end the codes.
    fn assign(&self, first: usize, problems: usize, iteration: Option<Iteration>) -> Result<()> {
        let encodes = iteration.is_none();
        let shape = match iteration {
            Some(iteration) => self.shape_of(first, iteration),
            None => KMeansShape {
                first_problem: first as u32,
                num_blocks: self.shape.num_tiles().clamp(1, MAX_GRID_Y as u32),
                ..self.shape
            },
        };
        let sums_are_shared = self.sums_are_shared && !encodes;
        let args = KMeansAssign {
            keys: self.keys.input(),
            order: self.order.input(),
            centroids: self.centroids.input(),
            half_norms: self.half_norms.input(),
            phis: self.phis.input(),
            components: self.components.input(),
            is_done: self.is_done.input(),
            sums: self.sums.output(),
            counts: self.counts.output(),
            farthest: self.farthest.output(),
            codes: self.codes.output(),
            encodes: encodes.into(),
            sums_are_shared: sums_are_shared.into(),
            first_code: 0,
            code_capacity: shape.num_points,
            shape,
        };
        let grid = Grid(problems, shape.num_blocks as usize);
        let words = layout::words(&shape, sums_are_shared);
        // SAFETY: arrays have a part for each problem, sums for each block of as many problems.
        unsafe { launch(self.device, self.stream.as_inner(), grid, words, &args) }
    }

    fn update(
        &self,
        first: usize,
        problems: usize,
        iteration: Iteration,
        tolerance: f32,
    ) -> Result<()> {
        let args = KMeansUpdate {
            keys: self.keys.input(),
            order: self.order.input(),
            phis: self.phis.input(),
            sums: self.sums.input(),
            counts: self.counts.input(),
            farthest: self.farthest.output(),
            centroids: self.centroids.output(),
            components: self.components.output(),
            half_norms: self.half_norms.output(),
            is_done: self.is_done.output(),
            beyond: iteration.beyond,
            // Where codes stay the same a CPU stops one iteration sooner, at the means that the last one leads to from
            // beyond them too.
            may_stop: (iteration.stop == Stop::Settled).into(),
            tolerance,
            shape: self.shape_of(first, iteration),
        };
        // SAFETY: as in `assign`, which wrote the sums.
        unsafe {
            launch(
                self.device,
                self.stream.as_inner(),
                Grid(problems, 1),
                UPDATE_WORDS,
                &args,
            )
        }
    }

    /// What was trained, on the host.
    fn index(
        &self,
        config: &PqConfig,
        capacity: usize,
        centroid_dtype: CentroidDtype,
    ) -> Result<KeyIndex> {
        let augmentation = match config.is_augmented() {
            false => None,
            true => Some(Augmentation {
                phis: self.phis.to_vec(&self.stream)?,
                components: self.components.to_vec(&self.stream)?,
            }),
        };
        let parts = IndexParts {
            config: *config,
            batch: self.keys.batch,
            num_kv_heads: self.keys.num_kv_heads,
            head_dim: self.keys.head_dim,
            num_codes: self.shape.num_points as usize,
            centroids: self.centroids.to_vec(&self.stream)?,
            augmentation,
            codes: self.codes.to_vec(&self.stream)?,
        };
        let index = KeyIndex::from_parts(parts, capacity)?;
        let (arrays, num_points) = (
            (&self.centroids, &self.codes),
            self.shape.num_points as usize,
        );
        // SAFETY: the keys are the caller's of `train`, and the codes are those of its points.
        let error = unsafe {
            quantisation_error(
                self.device,
                &self.stream,
                self.keys,
                self.shape,
                arrays,
                (0, num_points),
            )?
        };
        Ok(index.with_provenance(Provenance {
            training_error: (!error.is_nan()).then_some(error),
            centroid_dtype,
        }))
    }
}

impl DeviceKeys {
    /// For the kernels.
    pub(super) fn input(&self) -> In<u8> {
        In::from_address(self.address)
    }

    /// All points behind `init_offset`.
    pub(super) fn kmeans_shape(&self, config: &PqConfig) -> KMeansShape {
        let [batch_stride, head_stride, token_stride] = self.strides.map(|stride| stride as u64);
        KMeansShape {
            batch_stride,
            head_stride,
            token_stride,
            dtype: match self.dtype {
                super::KeyDtype::F32 => kmeans::F32,
                super::KeyDtype::F16 => kmeans::F16,
                super::KeyDtype::Bf16 => kmeans::BF16,
            },
            num_kv_heads: self.num_kv_heads as u32,
            num_subvectors: config.num_subvectors as u32,
            sub_dim: config.sub_dim(self.head_dim) as u32,
            bits: config.bits,
            is_augmented: config.is_augmented().into(),
            first_token: config.init_offset as u32,
            num_points: self.tokens.saturating_sub(config.init_offset) as u32,
            first_problem: 0,
            num_blocks: 1,
        }
    }
}
