//! The shape of one step: what every kernel of it and every CPU stage is told.

/// Sizes and choices of a step, the same for all its kernels. Lengths are not here: they live on the
/// device and change from step to step. There every row has a copy of its sequence's length, so that
/// a fused step can advance it when it has read it, without asking other rows.
///
/// A *row* is one (batch, query head, query), a *group* one (batch, key-value head):
/// `row = (batch * num_qo_heads + head) * num_queries + query`,
/// `group = batch * num_kv_heads + kv_head`. Query heads share the codes of their group.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// 1: query `i` of a head sees `num_queries - 1 - i` positions fewer than its sequence has; 0: all of
    /// them see every position.
    pub causal: u32,
    /// How the scores of query heads that share keys become those of one list: one of the constants of
    /// [`crate::aggregate`].
    pub aggregation: u32,
    /// Scores of heavy keys that a row has room for; 0 when none are wanted.
    pub scores_stride: u32,
    /// log2 of the positions of a page of codes; 0 where each group's codes stand in one piece.
    pub page_bits: u32,
    /// Pages of one sequence in the page table.
    pub pages_per_sequence: u32,
}

/// One sequence of a batch: its length and its regions, which then take the place of the shape's. On the
/// device an array of them, one a sequence, that the kernels of single stages read.
///
/// A caller may write it between two steps; the shape's own sizes are the most that buffers have room for.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceParams {
    /// Positions of the context; 0: no sequence here, and no work for it.
    pub seq_len: u32,
    /// First quantised position.
    pub init_offset: u32,
    /// First positions, always listed.
    pub sink: u32,
    /// Last positions, always listed.
    pub window: u32,
    /// Best candidates listed, at most the shape's.
    pub heavy: u32,
    /// Contexts up to this length are listed whole; 0 switches the rule off.
    pub short_context_limit: u32,
    /// New keys that a step may append at most: of more that it brings, the others are not the sequence's.
    pub new_tokens: u32,
    /// Not used yet; 0.
    pub reserved: u32,
}

impl SequenceParams {
    /// Words of one element of the array.
    pub const WORDS: usize = 8;

    /// As words, in the order of the fields.
    pub fn to_words(&self) -> [u32; Self::WORDS] {
        [
            self.seq_len,
            self.init_offset,
            self.sink,
            self.window,
            self.heavy,
            self.short_context_limit,
            self.new_tokens,
            self.reserved,
        ]
    }
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

    /// A sequence of `seq_len` positions with the shape's own regions, which appends whatever a step brings.
    pub fn sequence(&self, seq_len: u32) -> SequenceParams {
        SequenceParams {
            seq_len,
            init_offset: self.init_offset,
            sink: self.sink,
            window: self.window,
            heavy: self.heavy,
            short_context_limit: self.short_context_limit,
            new_tokens: u32::MAX,
            reserved: 0,
        }
    }

    /// The shape with a sequence's regions. Its `heavy` is no stride: that stays this shape's.
    #[inline(always)]
    pub fn with(&self, sequence: &SequenceParams) -> Self {
        StepShape {
            init_offset: sequence.init_offset,
            sink: sequence.sink,
            window: sequence.window,
            heavy: sequence.heavy,
            short_context_limit: sequence.short_context_limit,
            ..*self
        }
    }

    /// Positions that row `row` sees of a context of `seq_len`.
    #[inline(always)]
    pub fn visible(&self, row: u32, seq_len: u32) -> u32 {
        let behind = self.num_queries - 1 - row % self.num_queries;
        seq_len.saturating_sub(self.causal * behind)
    }

    /// Rows of lists of one sequence: those of one head for each key-value head where scores are
    /// aggregated.
    #[inline(always)]
    pub fn of_lists(&self) -> Self {
        let num_heads = if self.aggregation == crate::aggregate::PER_HEAD {
            self.num_qo_heads
        } else {
            self.num_kv_heads
        };
        StepShape {
            num_qo_heads: num_heads,
            ..*self
        }
    }

    /// Whether only the kernels of single stages do what is asked for.
    pub fn needs_stages(&self) -> bool {
        (self.causal != 0 && self.num_queries > 1)
            || self.aggregation != crate::aggregate::PER_HEAD
            || self.scores_stride > 0
            || self.page_bits > 0
    }

    /// Where the key at `position` of a group stands among all keys with codes, given its sequence's
    /// `init_offset` and the page table `[batch, pages_per_sequence]`. Pages are
    /// `[num_pages, num_kv_heads, 2^page_bits]` keys.
    #[inline(always)]
    pub fn key_at(
        &self,
        group: u32,
        position: u32,
        init_offset: u32,
        page_table: impl FnOnce(usize) -> u32,
    ) -> usize {
        if self.page_bits == 0 {
            return group as usize * self.code_capacity as usize
                + (position - init_offset) as usize;
        }
        let (batch, head) = (group / self.num_kv_heads, group % self.num_kv_heads);
        let entry = batch as usize * self.pages_per_sequence as usize
            + (position >> self.page_bits) as usize;
        let page = page_table(entry) as usize * self.num_kv_heads as usize + head as usize;
        (page << self.page_bits) + (position & ((1 << self.page_bits) - 1)) as usize
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

/// A row's shape, with its sequence's regions, and how what it sees is divided.
///
/// # Safety
/// `sequences` has an element for every sequence, and `row` is a row of one.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn row_view(
    shape: &StepShape,
    sequences: crate::kernel::In<SequenceParams>,
    row: u32,
) -> (StepShape, Regions) {
    // SAFETY: the caller's.
    let sequence = unsafe { sequences.get(shape.batch_of_row(row) as usize) };
    let own = shape.with(&sequence);
    (own, own.regions(own.visible(row, sequence.seq_len)))
}
