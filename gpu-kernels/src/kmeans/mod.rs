//! Training and encoding of many keys: Lloyd's k-means for every (group, sub-vector) at once.
//!
//! ```text
//! survey   the largest squared norm (phi) and the first component that is not finite
//! start    centroids from chosen points
//! assign   each point's nearest centroid, and at once the sums of every centroid's points
//! update   centroids to the means, empty ones to far points, half norms, and whether to go on
//! ```
//!
//! A *problem* is one (group, sub-vector), its *points* are the sub-vectors of the group's keys. Keys are read
//! where they lie, in their own type and strides, and distances are kept nowhere but in registers. Sums are of f64 and
//! in an order that the shape alone decides: the same input gives the same centroids on every run.

pub mod assign;
pub mod survey;
pub mod update;

#[cfg(not(target_arch = "nvptx64"))]
pub use assign::KMeansAssign;
pub use assign::layout;
#[cfg(not(target_arch = "nvptx64"))]
pub use survey::{KMeansStart, KMeansSurvey};
#[cfg(not(target_arch = "nvptx64"))]
pub use update::KMeansUpdate;
pub use update::UPDATE_WORDS;

/// Points of a tile: what a block assigns at a time.
pub const TILE: u32 = 128;
/// Points that lie side by side in the order in which training takes points: a block of it.
pub const ORDER_BLOCK: u32 = 16;
/// In the survey: no component was found that is not finite.
pub const ALL_FINITE: u32 = u32::MAX;

/// f32 components, see [`KMeansShape::dtype`].
pub const F32: u32 = 0;
/// IEEE half precision components.
pub const F16: u32 = 1;
/// bfloat16 components.
pub const BF16: u32 = 2;

/// What the kernels are told of all problems and of where keys lie.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KMeansShape {
    /// Elements from one sequence's keys to the next one's.
    pub batch_stride: u64,
    /// Elements from one key-value head to the next.
    pub head_stride: u64,
    /// Elements from one token to the next; a key's components lie side by side.
    pub token_stride: u64,
    /// The components' type: [`F32`], [`F16`] or [`BF16`].
    pub dtype: u32,
    /// Key-value heads of a sequence.
    pub num_kv_heads: u32,
    /// Sub-vectors of a key (m).
    pub num_subvectors: u32,
    /// Components of a sub-vector.
    pub sub_dim: u32,
    /// Bits of a code.
    pub bits: u32,
    /// 1 with the metric `ip`: see [`crate::codebook`].
    pub is_augmented: u32,
    /// The token that is the first point.
    pub first_token: u32,
    /// Points of each problem; in training those that take part.
    pub num_points: u32,
    /// The problem that the grid begins with.
    pub first_problem: u32,
    /// Blocks that share a problem's points.
    pub num_blocks: u32,
}

impl KMeansShape {
    /// Centroids of a problem.
    #[inline(always)]
    pub fn num_centroids(&self) -> u32 {
        1 << self.bits
    }

    /// Components of a point, the one that augments it included.
    #[inline(always)]
    pub fn point_dim(&self) -> u32 {
        self.sub_dim + self.is_augmented
    }

    /// Components of a problem's centroids.
    #[inline(always)]
    pub fn sums_len(&self) -> u32 {
        self.point_dim() << self.bits
    }

    /// Tiles of a problem.
    #[inline(always)]
    pub fn num_tiles(&self) -> u32 {
        self.num_points.div_ceil(TILE)
    }

    /// The first of block `block`'s tiles; those of the next follow.
    #[inline(always)]
    pub fn first_tile(&self, block: u32) -> u32 {
        let share = self.num_tiles().div_ceil(self.num_blocks);
        (block * share).min(self.num_tiles())
    }

    /// Where the first component of the problem's first point lies, in elements.
    #[inline(always)]
    pub fn first_element(&self, problem: u32) -> u64 {
        let (group, subvector) = (problem / self.num_subvectors, problem % self.num_subvectors);
        let (batch, head) = (group / self.num_kv_heads, group % self.num_kv_heads);
        u64::from(batch) * self.batch_stride
            + u64::from(head) * self.head_stride
            + u64::from(self.first_token) * self.token_stride
            + u64::from(subvector * self.sub_dim)
    }
}

/// Component `at` of the keys, counted in elements.
///
/// # Safety
/// It lies inside the buffer, which has components of that type.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn component(keys: crate::kernel::In<u8>, dtype: u32, at: u64) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        match dtype {
            F32 => component_of::<F32>(keys, at),
            F16 => component_of::<F16>(keys, at),
            _ => component_of::<BF16>(keys, at),
        }
    }
}

/// [`component`] of a type that is known beforehand.
///
/// # Safety
/// As there.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn component_of<const DTYPE: u32>(keys: crate::kernel::In<u8>, at: u64) -> f32 {
    use crate::device::float::f16_to_f32;

    let at = at as usize;
    // SAFETY: the caller's.
    unsafe {
        if DTYPE == F32 {
            return keys.as_ptr().cast::<f32>().add(at).read();
        }
        let bits = keys.as_ptr().cast::<u16>().add(at).read();
        if DTYPE == F16 {
            f16_to_f32(bits)
        } else {
            f32::from_bits(u32::from(bits) << 16)
        }
    }
}
