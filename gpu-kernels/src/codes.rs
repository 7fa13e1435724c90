//! Codes: for each sub-vector of a key, the index of its nearest centroid, which is the first one in
//! the total order of (affinity descending, index ascending): see [`crate::codebook`].

use crate::kernel::{In, Out};
use crate::step::{SequenceParams, StepShape};

/// What the metric `ip` adds to centroids: see [`crate::codebook`].
#[cfg(target_arch = "nvptx64")]
#[derive(Clone, Copy)]
pub(crate) struct Augmentation {
    /// `[groups, m]`.
    phis: In<f32>,
    /// The centroids' last components, `[groups, m, 2^bits]`.
    components: In<f32>,
}

/// The code of sub-vector `subvector` of the key whose sub-vector begins at `new_keys[key_at]`: the
/// warp's lanes take the group's centroids by turns.
///
/// # Safety
/// All 32 lanes of the warp are here with the same arguments; the buffers have the lengths that
/// the kernel `codes` documents.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn encode(
    shape: &StepShape,
    group: u32,
    subvector: u32,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    key_at: usize,
) -> u8 {
    // SAFETY: the caller's.
    unsafe {
        encode_augmented(
            shape, group, subvector, centroids, half_norms, new_keys, key_at, None,
        )
    }
}

/// [`encode`] with sub-vectors and centroids augmented.
///
/// # Safety
/// As [`encode`].
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn encode_augmented(
    shape: &StepShape,
    group: u32,
    subvector: u32,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    key_at: usize,
    augmentation: Option<Augmentation>,
) -> u8 {
    use crate::codebook::{Nearest, accumulate, augmented_component, squared_norm};
    use crate::device::warp;

    let sub_dim = shape.sub_dim() as usize;
    let first_centroid = ((group * shape.num_subvectors + subvector) << shape.bits) as usize;
    // Four components are loaded at a time where they are aligned.
    let in_chunks = if sub_dim % 4 == 0 { sub_dim / 4 * 4 } else { 0 };
    // Every lane computes it for itself: the same loads and sums in all of them.
    let augmented = augmentation.map(|Augmentation { phis, components }| {
        // SAFETY: the caller's promise: a phi for each sub-vector of each group, and the key's components.
        unsafe {
            let phi = phis.get((group * shape.num_subvectors + subvector) as usize);
            let norm = squared_norm(sub_dim, |i| new_keys.get(key_at + i));
            (augmented_component(phi, norm), components)
        }
    });
    let mut nearest = Nearest::NONE;
    let mut index = warp::lane_id();
    while index < shape.num_centroids() {
        let centroid = first_centroid + index as usize;
        let centroid_at = centroid * sub_dim;
        // SAFETY: centroid < groups * m * 2^bits, and the key's sub-vector is the caller's promise;
        // buffers are aligned to 256 bytes.
        unsafe {
            let mut sums = [-half_norms.get(centroid)];
            let mut done = 0;
            // The loads of sixteen components are under way before the first is used.
            while done + 16 <= in_chunks {
                let load = |buffer: &In<f32>, at: usize| {
                    let at = at + done;
                    [
                        buffer.get4(at),
                        buffer.get4(at + 4),
                        buffer.get4(at + 8),
                        buffer.get4(at + 12),
                    ]
                };
                let (x, c) = (load(&new_keys, key_at), load(&centroids, centroid_at));
                accumulate(&mut sums, 16, |i| x[i / 4][i % 4], |i, _| c[i / 4][i % 4]);
                done += 16;
            }
            while done < in_chunks {
                let load = |buffer: &In<f32>, at| buffer.get4(at + done);
                let (x, c) = (load(&new_keys, key_at), load(&centroids, centroid_at));
                accumulate(&mut sums, 4, |i| x[i], |i, _| c[i]);
                done += 4;
            }
            accumulate(
                &mut sums,
                sub_dim - done,
                |i| new_keys.get(key_at + done + i),
                |i, _| centroids.get(centroid_at + done + i),
            );
            if let Some((x, components)) = augmented {
                accumulate(&mut sums, 1, |_| x, |_, _| components.get(centroid));
            }
            nearest = nearest.better(Nearest::new(sums[0], index));
        }
        index += 32;
    }
    // SAFETY: all lanes are here, as the caller promises.
    Nearest::from_bits(unsafe { warp::reduce_max_u64(nearest.to_bits()) }).index() as u8
}

/// Writes the code of sub-vector `subvector` of the key at `position`. Keys before `init_offset` have no
/// codes, and none is written past the capacity.
///
/// # Safety
/// No other thread writes or reads the code; `codes` has the length that the kernel `codes` documents.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn store(
    shape: &StepShape,
    group: u32,
    position: u32,
    subvector: u32,
    code: u8,
    codes: Out<u8>,
) {
    let in_range =
        position >= shape.init_offset && position - shape.init_offset < shape.code_capacity;
    if in_range {
        let key =
            group as usize * shape.code_capacity as usize + (position - shape.init_offset) as usize;
        // SAFETY: the position is inside the group's capacity; the rest is the caller's promise.
        unsafe {
            codes.set(
                key * shape.num_subvectors as usize + subvector as usize,
                code,
            )
        };
    }
}

kernel! {
    /// Encodes new keys behind those that are there.
    ///
    /// Grid: (groups, blocks over new tokens x sub-vectors). One warp takes one sub-vector of one
    /// key, its lanes the centroids.
    ///
    /// `centroids` `[groups, m, 2^bits, sub_dim]`, `half_norms` `[groups, m, 2^bits]`,
    /// `new_keys` `[groups, new_tokens, head_dim]`, which become tokens
    /// `seq_len + first_token ..` of their sequences, as many as those take; `sequences` `[batch]` before
    /// this step, `page_table` `[batch, pages_per_sequence]` where the shape has pages,
    /// `codes` `[groups, code_capacity, m]` or pages of them ([`StepShape::key_at`]). With `is_augmented` 1
    /// (the metric `ip`) `phis` `[groups, m]` and the centroids' last components `[groups, m, 2^bits]`, which
    /// their half norms contain; with 0 neither is read.
    pub fn codes as Codes(
        centroids: In<f32>, half_norms: In<f32>, phis: In<f32>, components: In<f32>,
        new_keys: In<f32>, sequences: In<SequenceParams>, page_table: In<u32>, codes: Out<u8>,
        is_augmented: u32, first_token: u32, new_tokens: u32, shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = crate::collectives::REDUCE_MAX_U64;
    {
        use crate::device::{thread, warp};

        let group = thread::block_idx_x();
        let m = shape.num_subvectors;
        let augmentation = (is_augmented != 0).then_some(Augmentation { phis, components });
        // SAFETY: one for each sequence.
        let sequence = unsafe { sequences.get((group / shape.num_kv_heads) as usize) };
        let taken = sequence.new_tokens.saturating_sub(first_token).min(new_tokens);
        let warps = thread::block_dim_x() / 32;
        let mut task = thread::block_idx_y() * warps + warp::warp_id();
        while task < taken * m {
            let (token, subvector) = (task / m, task % m);
            let key_at = (group * new_tokens + token) as usize * shape.head_dim as usize
                + subvector as usize * shape.sub_dim() as usize;

            // SAFETY: `task` is the same in all lanes of a warp, so all are here; key_at + sub_dim is
            // at most groups * new_tokens * head_dim.
            let code = unsafe {
                encode_augmented(
                    &shape, group, subvector, centroids, half_norms, new_keys, key_at,
                    augmentation,
                )
            };

            let position = sequence.seq_len + first_token + token;
            let in_range = position >= sequence.init_offset
                && position - sequence.init_offset < shape.code_capacity;
            if warp::lane_id() == 0 && in_range {
                // SAFETY: the position is inside the sequence's capacity, for which it has pages.
                let page = |i: usize| unsafe { page_table.get(i) };
                let key = shape.key_at(group, position, sequence.init_offset, page);
                // SAFETY: no other warp has this token and sub-vector.
                unsafe { codes.set(key * m as usize + subvector as usize, code) };
            }
            task += thread::grid_dim_y() * warps;
        }
    }
}

kernel! {
    /// Lets every context grow by the tokens whose codes were just written: every row's copy of its length,
    /// and every sequence.
    ///
    /// Grid: blocks over `rows`, at least `batch`. `seq_lens` `[rows]`, `sequences` `[batch]`.
    pub fn advance as Advance(
        seq_lens: Out<u32>, sequences: Out<SequenceParams>, new_tokens: u32, rows: u32, batch: u32,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;

        let i = thread::block_idx_x() * thread::block_dim_x() + thread::thread_idx_x();
        if i < rows {
            // SAFETY: i < rows, and each thread has its own.
            unsafe { seq_lens.set(i as usize, seq_lens.get(i as usize) + new_tokens) };
        }
        if i < batch {
            // SAFETY: i < batch, and each thread has its own.
            unsafe {
                let mut sequence = sequences.get(i as usize);
                sequence.seq_len += sequence.new_tokens.min(new_tokens);
                sequences.set(i as usize, sequence);
            }
        }
    }
}
