//! The shape of one step: what every kernel of it and every CPU stage is told.

/// Sizes and choices of a step, the same for all its kernels. Lengths are not here: they live on the
/// device and change from step to step. There every row has a copy of its sequence's length, so that
/// a fused step can advance it when it has read it, without asking other rows.
///
/// A *row* is one (batch, query head, query), a *group* one (batch, key-value head):
/// `row = (batch * num_qo_heads + head) * num_queries + query`,
/// `group = batch * num_kv_heads + kv_head`. Query heads share the codes of their group.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepShape {
    /// Key-value heads of a sequence.
    pub num_kv_heads: u32,
    /// Query heads of a sequence, a multiple of `num_kv_heads`.
    pub num_qo_heads: u32,
    /// Queries of a head.
    pub num_queries: u32,
    /// Components of a key.
    pub head_dim: u32,
    /// Sub-vectors of a key (m).
    pub num_subvectors: u32,
    /// Bits of a code.
    pub bits: u32,
    /// First quantised position.
    pub init_offset: u32,
    /// Codes that a group has room for; the stride of codes and scores, in keys.
    pub code_capacity: u32,
    /// First positions, always listed.
    pub sink: u32,
    /// Last positions, always listed.
    pub window: u32,
    /// Best candidates listed.
    pub heavy: u32,
    /// Contexts up to this length are listed whole; 0 switches the rule off.
    pub short_context_limit: u32,
    /// Positions that a row of the list has room for.
    pub list_stride: u32,
    /// Weights that a row has room for; 0 when none are wanted.
    pub weights_stride: u32,
}

impl StepShape {
    /// Components of a sub-vector.
    #[inline(always)]
    pub fn sub_dim(&self) -> u32 {
        self.head_dim / self.num_subvectors
    }

    /// Centroids of a sub-vector.
    #[inline(always)]
    pub fn num_centroids(&self) -> u32 {
        1 << self.bits
    }

    /// Entries of a row's lookup table.
    #[inline(always)]
    pub fn table_len(&self) -> u32 {
        self.num_subvectors << self.bits
    }

    /// Rows of one sequence.
    #[inline(always)]
    pub fn rows_per_batch(&self) -> u32 {
        self.num_qo_heads * self.num_queries
    }

    /// The sequence of a row.
    #[inline(always)]
    pub fn batch_of_row(&self, row: u32) -> u32 {
        row / self.rows_per_batch()
    }

    /// Rows that share the codes of one group; they stand side by side.
    #[inline(always)]
    pub fn rows_per_group(&self) -> u32 {
        self.rows_per_batch() / self.num_kv_heads
    }

    /// The group whose codes a row reads.
    #[inline(always)]
    pub fn group_of_row(&self, row: u32) -> u32 {
        row / self.rows_per_group()
    }

    /// How a context of `seq_len` positions is divided.
    #[inline(always)]
    pub fn regions(&self, seq_len: u32) -> Regions {
        let candidates_start = self.init_offset.max(self.sink);
        let sink_end = self.sink.min(seq_len);
        let before_window = seq_len.saturating_sub(self.window);
        Regions {
            seq_len,
            sink_end,
            candidates_start,
            candidates_end: before_window.max(candidates_start),
            window_start: before_window.max(sink_end),
            list_all: seq_len <= self.short_context_limit,
        }
    }
}

/// A context divided: `0..sink_end` and `window_start..seq_len` are listed, the best of
/// `candidates_start..candidates_end` too; or everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regions {
    /// Positions of the context.
    pub seq_len: u32,
    /// End of the sink.
    pub sink_end: u32,
    /// First candidate.
    pub candidates_start: u32,
    /// End of the candidates; at least `candidates_start`, which may lie behind `seq_len`.
    pub candidates_end: u32,
    /// Start of the window, not before the sink's end.
    pub window_start: u32,
    /// The short-context rule lists every position.
    pub list_all: bool,
}

impl Regions {
    /// Number of candidates.
    #[inline(always)]
    pub fn num_candidates(&self) -> u32 {
        self.candidates_end - self.candidates_start
    }

    /// Heavy keys the list holds.
    #[inline(always)]
    pub fn heavy_k(&self, heavy: u32) -> u32 {
        heavy.min(self.num_candidates())
    }

    /// Length of a list with `heavy_k` heavy keys.
    #[inline(always)]
    pub fn list_len(&self, heavy_k: u32) -> u32 {
        if self.list_all {
            self.seq_len
        } else {
            self.sink_end + heavy_k + (self.seq_len - self.window_start)
        }
    }

    /// Entry `i < list_len` of the list: positions ascend. `heavy` gives the ascending heavy keys.
    #[inline(always)]
    pub fn list_entry(&self, i: u32, heavy_k: u32, heavy: impl FnOnce(u32) -> i32) -> i32 {
        if self.list_all || i < self.sink_end {
            i as i32
        } else if i < self.sink_end + heavy_k {
            heavy(i - self.sink_end)
        } else {
            (self.window_start + (i - self.sink_end - heavy_k)) as i32
        }
    }
}
