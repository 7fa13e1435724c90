//! What a user chooses: the format of the codes, how they are trained, what a step selects.

use gpu_kernels::aggregate;
use gpu_kernels::step::StepShape;

use crate::error::{Error, Result};

/// Largest supported `head_dim`.
pub const MAX_HEAD_DIM: usize = 256;
/// Largest supported `num_subvectors`: 64, which the kernels have room for.
pub const MAX_SUBVECTORS: usize = gpu_kernels::config::MAX_SUBVECTORS as usize;
/// Largest supported `bits`: a code is one byte.
pub const MAX_BITS: u32 = 8;
/// Largest supported `heavy`.
pub const MAX_HEAVY: usize = 4096;
/// Largest supported number of tokens of one sequence, 2^24.
pub const MAX_TOKENS: usize = 1 << 24;
/// Most positions of a whole selection, padding included: 16 GiB of them.
pub const MAX_LIST_POSITIONS: usize = 1 << 32;

/// The distance by which a key's nearest centroid is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Metric {
    /// Squared Euclidean distance.
    #[default]
    L2,
    /// Inner product: the Euclidean distance of sub-vectors augmented by one component, which gives all
    /// keys of a group the same norm. Scores are inner products with either metric.
    Ip,
}

impl Metric {
    /// The name in an index file's metadata.
    pub fn name(self) -> &'static str {
        match self {
            Metric::L2 => "l2",
            Metric::Ip => "ip",
        }
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "l2" => Ok(Metric::L2),
            "ip" => Ok(Metric::Ip),
            other => Err(Error::invalid("metric", other, "l2 or ip")),
        }
    }
}

/// The format of a codebook and its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PqConfig {
    /// Sub-vectors a key is cut into (m), 1..=64, a divisor of `head_dim`.
    pub num_subvectors: usize,
    /// Bits of one code, 1..=8; a sub-vector has 2^bits centroids.
    pub bits: u32,
    /// First quantised position: the keys before it have no codes.
    pub init_offset: usize,
    /// How the nearest centroid is found.
    pub metric: Metric,
}

impl Default for PqConfig {
    /// The reference workload's: 2 sub-vectors, 6 bits, 128 keys in front unquantised, L2.
    fn default() -> Self {
        PqConfig {
            num_subvectors: 2,
            bits: 6,
            init_offset: 128,
            metric: Metric::L2,
        }
    }
}

impl PqConfig {
    /// Centroids of one sub-vector, 2^bits.
    pub fn num_centroids(&self) -> usize {
        1 << self.bits
    }

    /// Whether sub-vectors and centroids have a component more for the search of the nearest.
    pub fn is_augmented(&self) -> bool {
        self.metric == Metric::Ip
    }

    /// Components of one sub-vector, head_dim / m.
    pub fn sub_dim(&self, head_dim: usize) -> usize {
        head_dim / self.num_subvectors
    }

    /// Entries of one query's lookup table, m x 2^bits.
    pub fn table_len(&self) -> usize {
        self.num_subvectors * self.num_centroids()
    }

    /// Checks the configuration for keys of `head_dim` components.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `bits`, `num_subvectors`, `head_dim` or `init_offset`.
    pub fn validate(&self, head_dim: usize) -> Result<()> {
        self.validate_ranges()?;
        if !(1..=MAX_HEAD_DIM).contains(&head_dim) {
            return Err(Error::invalid("head_dim", head_dim, "1 to 256"));
        }
        if !head_dim.is_multiple_of(self.num_subvectors) {
            return Err(Error::invalid(
                "num_subvectors",
                self.num_subvectors,
                format!("a divisor of head_dim {head_dim}"),
            ));
        }
        Ok(())
    }

    /// What [`PqConfig::validate`] checks without knowing the keys.
    pub(crate) fn validate_ranges(&self) -> Result<()> {
        if !(1..=MAX_BITS).contains(&self.bits) {
            return Err(Error::invalid("bits", self.bits, "1 to 8"));
        }
        if !(1..=MAX_SUBVECTORS).contains(&self.num_subvectors) {
            return Err(Error::invalid(
                "num_subvectors",
                self.num_subvectors,
                "1 to 64",
            ));
        }
        if self.init_offset > MAX_TOKENS {
            return Err(Error::invalid(
                "init_offset",
                self.init_offset,
                format!("at most {MAX_TOKENS}"),
            ));
        }
        Ok(())
    }
}

/// Where Lloyd's k-means begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// k-means++: each next centroid a point drawn by its squared distance from those before. On the CPU only.
    #[default]
    PlusPlus,
    /// Different points drawn by lot, the same on every backend.
    Sampled,
}

impl Start {
    /// `plus-plus` or `sampled`.
    pub fn name(self) -> &'static str {
        match self {
            Start::PlusPlus => "plus-plus",
            Start::Sampled => "sampled",
        }
    }
}

/// The type that trained centroids are rounded to, to the nearest and to the even of two. Keys are encoded by the rounded
/// centroids and tables are built from them, on every backend, so lists are equal; a file takes half the room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CentroidDtype {
    /// As trained.
    #[default]
    F32,
    /// IEEE half precision; what is beyond it becomes its largest number, 65,504.
    F16,
    /// bfloat16.
    Bf16,
}

impl CentroidDtype {
    /// Every one.
    pub const ALL: [CentroidDtype; 3] =
        [CentroidDtype::F32, CentroidDtype::F16, CentroidDtype::Bf16];

    /// The nearest number of the type; finite numbers stay finite.
    pub fn round(self, value: f32) -> f32 {
        let clamped = |largest: f32| value.clamp(-largest, largest);
        match self {
            CentroidDtype::F32 => value,
            CentroidDtype::F16 => half::f16::from_f32(clamped(half::f16::MAX.to_f32())).to_f32(),
            CentroidDtype::Bf16 => half::bf16::from_f32(clamped(half::bf16::MAX.to_f32())).to_f32(),
        }
    }
}

/// How centroids are trained: Lloyd's k-means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainConfig {
    /// Lloyd iterations at most; 0 leaves the start. Of many keys (8,192, and 128 for each centroid) the CPU's start and
    /// first iterations see a sample, and centroids go beyond the means of their keys but for the last one: as good a
    /// codebook sooner.
    pub iterations: usize,
    /// Seed of the start; the same seed gives the same centroids on any number of threads.
    pub seed: u64,
    /// The first centroids.
    pub start: Start,
    /// A codebook is done when the squared shifts of all its centroids' components, added up, are at most so many
    /// times their squares; 0: when nothing moves.
    pub tolerance: f32,
    /// What the centroids are rounded to when they are trained.
    pub centroids: CentroidDtype,
}

impl Default for TrainConfig {
    /// 10 iterations from a k-means++ start, seed 0, on while anything moves.
    fn default() -> Self {
        TrainConfig {
            iterations: 10,
            seed: 0,
            start: Start::PlusPlus,
            tolerance: 0.0,
            centroids: CentroidDtype::F32,
        }
    }
}

impl TrainConfig {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a `tolerance` that is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        if (0.0..=f32::MAX).contains(&self.tolerance) {
            return Ok(());
        }
        Err(Error::invalid(
            "tolerance",
            self.tolerance,
            "a finite number that is not negative",
        ))
    }
}

/// Whose lists a step gives where several query heads share the keys of one key-value head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Aggregation {
    /// A list for each query head, by its own scores.
    #[default]
    PerHead,
    /// A list for each key-value head, by the sum over its query heads of the softmax over all candidates of
    /// score / sqrt(head_dim): the rule of the PQCache paper. A NaN score is left out of its head's softmax
    /// and makes its candidate come last.
    SoftmaxSum,
    /// A list for each key-value head, by the largest score; NaN counts if all are.
    Max,
    /// A list for each key-value head, by the mean score; a candidate with a NaN score comes last.
    Mean,
}

impl Aggregation {
    /// Every one.
    pub const ALL: [Aggregation; 4] = [
        Aggregation::PerHead,
        Aggregation::SoftmaxSum,
        Aggregation::Max,
        Aggregation::Mean,
    ];

    /// Its number in [`gpu_kernels::step::StepShape`].
    pub(crate) fn code(self) -> u32 {
        match self {
            Aggregation::PerHead => aggregate::PER_HEAD,
            Aggregation::SoftmaxSum => aggregate::SOFTMAX,
            Aggregation::Max => aggregate::MAX,
            Aggregation::Mean => aggregate::MEAN,
        }
    }
}

/// What scores are multiplied by before a softmax: 1 / sqrt(head_dim).
pub(crate) fn softmax_scale(shape: &StepShape) -> f32 {
    1.0 / (shape.head_dim as f32).sqrt()
}

/// What one step lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectConfig {
    /// First positions, always listed.
    pub sink: usize,
    /// Last positions, always listed.
    pub window: usize,
    /// Best-scoring candidates listed, 0..=4096.
    pub heavy: usize,
    /// List every position while `seq_len <= heavy + init_offset + num_queries + 2^bits`.
    pub short_context: bool,
    /// Also give dense weights: 1.0 at listed positions, 0.0 elsewhere.
    pub weights: bool,
    /// Several queries of a head see the context grow: query `i` sees
    /// `seq_len - num_queries + i + 1` positions, none where that is less than one. Off, every query sees
    /// all `seq_len`.
    pub causal: bool,
    /// Whose lists there are.
    pub aggregation: Aggregation,
    /// Also give the heavy positions' scores: to merge lists of several shards of a context.
    pub scores: bool,
    /// Also give the lists as [`Selection::indices`](crate::Selection::indices), if something else than positions of
    /// 32 bits is wanted.
    pub indices: Option<IndexConfig>,
}

/// What [`Selection::indices`](crate::Selection::indices) are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexConfig {
    /// 64 bits in place of 32.
    pub wide: bool,
    /// Cache slots, `page_table[p / page_size] * page_size + p % page_size`, in place of positions `p`: of a
    /// [`RaggedSelector`](crate::RaggedSelector) with pages alone.
    pub slots: bool,
}

impl IndexConfig {
    /// Positions of 64 bits.
    pub const WIDE: IndexConfig = IndexConfig {
        wide: true,
        slots: false,
    };
}

impl Default for SelectConfig {
    /// The reference workload's: sink = window = heavy = 128, short contexts listed whole, a list for each
    /// query head, nothing else.
    fn default() -> Self {
        SelectConfig {
            sink: 128,
            window: 128,
            heavy: 128,
            short_context: true,
            weights: false,
            causal: false,
            aggregation: Aggregation::PerHead,
            scores: false,
            indices: None,
        }
    }
}

impl SelectConfig {
    /// Checks the configuration. Overlapping sink and window are allowed: the list has no duplicates.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `heavy`, `sink` or `window`.
    pub fn validate(&self) -> Result<()> {
        if self.heavy > MAX_HEAVY {
            return Err(Error::invalid("heavy", self.heavy, "0 to 4096"));
        }
        for (argument, value) in [("sink", self.sink), ("window", self.window)] {
            if value > MAX_TOKENS {
                return Err(Error::invalid(
                    argument,
                    value,
                    format!("at most {MAX_TOKENS}"),
                ));
            }
        }
        Ok(())
    }

    /// That no slots are asked for, where there are no pages to have slots in.
    pub(crate) fn check_no_slots(&self) -> Result<()> {
        match self.indices {
            Some(IndexConfig { slots: true, .. }) => {
                Err(Error::invalid("indices", "slots", "pages to have slots in"))
            }
            _ => Ok(()),
        }
    }

    /// The longest context that is listed whole: `heavy + init_offset + num_queries + 2^bits`,
    /// or 0 when the rule is switched off.
    pub fn short_context_limit(&self, pq: &PqConfig, num_queries: usize) -> usize {
        if self.short_context {
            (self.heavy + pq.init_offset + pq.num_centroids()).saturating_add(num_queries)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests;
