//! Codes: for each sub-vector of a key, the index of its nearest centroid, which is the first one in
//! the total order of (affinity descending, index ascending): see [`crate::codebook`].

use crate::kernel::{In, Out};
use crate::step::StepShape;

kernel! {
    /// Encodes new keys behind those that are there.
    ///
    /// Grid: (groups, blocks over new tokens x sub-vectors). One warp takes one sub-vector of one
    /// key, its lanes the centroids.
    ///
    /// `centroids` [groups, m, 2^bits, sub_dim], `half_norms` [groups, m, 2^bits],
    /// `new_keys` [groups, new_tokens, head_dim], which become tokens
    /// `seq_lens + first_token ..` of their sequences, `seq_lens` [batch] before this step,
    /// `codes` [groups, code_capacity, m].
    pub fn codes as Codes(
        centroids: In<f32>, half_norms: In<f32>, new_keys: In<f32>, seq_lens: In<u32>,
        codes: Out<u8>, first_token: u32, new_tokens: u32, shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = crate::collectives::REDUCE_MAX_U64;
    {
        use crate::codebook::{Nearest, affinities};
        use crate::device::{thread, warp};

        let group = thread::block_idx_x();
        let m = shape.num_subvectors;
        let sub_dim = shape.sub_dim() as usize;
        // SAFETY: one length for each sequence.
        let seq_len = unsafe { seq_lens.get((group / shape.num_kv_heads) as usize) };
        let warps = thread::block_dim_x() / 32;
        let mut task = thread::block_idx_y() * warps + warp::warp_id();
        while task < new_tokens * m {
            let (token, subvector) = (task / m, task % m);
            let key_at = (group * new_tokens + token) as usize * shape.head_dim as usize
                + subvector as usize * sub_dim;
            let first_centroid = ((group * m + subvector) << shape.bits) as usize;

            let mut nearest = Nearest::NONE;
            let mut index = warp::lane_id();
            while index < shape.num_centroids() {
                let centroid = first_centroid + index as usize;
                // SAFETY: centroid < groups * m * 2^bits, and key_at + i < groups * new_tokens *
                // head_dim for i < sub_dim.
                let [affinity] = unsafe {
                    affinities::<1>(
                        sub_dim,
                        |_| half_norms.get(centroid),
                        |i| new_keys.get(key_at + i),
                        |i, _| centroids.get(centroid * sub_dim + i),
                    )
                };
                nearest = nearest.better(Nearest::new(affinity, index));
                index += 32;
            }
            // SAFETY: `task` is the same in all lanes of a warp, so all are here.
            let nearest = Nearest::from_bits(unsafe { warp::reduce_max_u64(nearest.to_bits()) });

            // Keys before init_offset have no codes, and none is written past the capacity.
            let position = seq_len + first_token + token;
            let in_range = position >= shape.init_offset
                && position - shape.init_offset < shape.code_capacity;
            if warp::lane_id() == 0 && in_range {
                let key = group as usize * shape.code_capacity as usize
                    + (position - shape.init_offset) as usize;
                // SAFETY: the position is inside the group's capacity, and no other warp has this
                // token and sub-vector.
                unsafe { codes.set(key * m as usize + subvector as usize, nearest.index() as u8) };
            }
            task += thread::grid_dim_y() * warps;
        }
    }
}

kernel! {
    /// Lets every sequence grow by the tokens whose codes were just written.
    ///
    /// Grid: blocks over `batch`. `seq_lens` [batch].
    pub fn advance as Advance(seq_lens: Out<u32>, new_tokens: u32, batch: u32);
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;

        let i = thread::block_idx_x() * thread::block_dim_x() + thread::thread_idx_x();
        if i < batch {
            // SAFETY: i < batch, and each thread has its own.
            unsafe { seq_lens.set(i as usize, seq_lens.get(i as usize) + new_tokens) };
        }
    }
}
