//! How many bytes a step moves: formulae, not counters.

use gpu_kernels::tuple_counts::NUM_TUPLES;
use gpu_kernels::{scores, top_k, weights};
use keysieve::cuda::Variant;

use super::shape::Shape;

impl Shape {
    /// Candidates of a context of `tokens` positions.
    pub(super) fn candidates(&self) -> usize {
        let first = self.init_offset.max(self.sink);
        self.tokens.saturating_sub(self.window + first)
    }

    /// Whether the short-context rule lists the whole context.
    fn lists_all(&self) -> bool {
        self.tokens <= self.select().short_context_limit(&self.pq(), 1)
    }

    /// Positions of one list.
    fn list_len(&self) -> usize {
        if self.lists_all() {
            return self.tokens;
        }
        let fixed = (self.sink + self.window).min(self.tokens);
        fixed + self.heavy.min(self.candidates())
    }

    /// Bytes of a step that no implementation can avoid: its inputs read once, its results written
    /// once. Per group: the candidates' codes, the centroids, the new key, its code. Per row: the
    /// query, the list, its length, the weights.
    pub(super) fn minimum_bytes(&self) -> u64 {
        let m = self.num_subvectors;
        let centroids = 4 * (self.head_dim << self.bits);
        let group = self.candidates() * m + centroids + 4 * self.head_dim + m;
        let row = 4 * self.head_dim + 4 * self.list_len() + 4 + self.weights_bytes();
        (self.groups() * group + self.rows() * row) as u64
    }

    fn weights_bytes(&self) -> usize {
        if self.weights { 4 * self.tokens } else { 0 }
    }

    /// Bytes that the CPU backend's loops read and write, whether or not a cache serves them: those
    /// of [`Shape::minimum_bytes`], with the codes and centroids read for every row, half norms, the
    /// table written and read, scores written and read, ranks (8 bytes) written and read once by the
    /// selection, which reads the better part of them again, and the list read for the weights.
    pub(super) fn cpu_bytes(&self) -> u64 {
        let per_row = self.shared_reads() + self.table_bytes() * 2 + self.candidates() * (8 + 16);
        self.minimum_bytes() + (self.rows() * per_row + self.groups() * self.encoding()) as u64
            - self.shared_minimum()
            + self.list_again()
    }

    /// Bytes that the CUDA backend moves by that variant of the step.
    pub(super) fn cuda_bytes(&self, variant: Variant) -> u64 {
        match variant {
            Variant::Staged => self.staged_bytes(),
            Variant::Survivors(plan) => self.fused_bytes(plan.num_blocks as usize),
            Variant::Tuples(blocks) => self.tuples_bytes(blocks.num_blocks as usize),
        }
    }

    /// Bytes that the step by tuples loads and stores in global memory: codes and a bit a key for every
    /// row, in each block centroids and two sets of counts; of the weights only those that may change.
    fn tuples_bytes(&self, blocks: usize) -> u64 {
        let centroids = 4 * (self.head_dim << self.bits);
        let counts = 4 * NUM_TUPLES as usize;
        let weights = match self.weights {
            true => self.candidates() / 8 + 2 * 4 * self.list_len(),
            false => 0,
        };
        let per_row =
            self.candidates() * self.num_subvectors + blocks * (centroids + 2 * counts) + weights;
        self.minimum_bytes() - self.shared_minimum() - (self.rows() * self.weights_bytes()) as u64
            + (self.rows() * per_row + self.groups() * self.encoding()) as u64
    }

    /// Bytes that the fused step loads and stores in global memory: those of
    /// [`Shape::minimum_bytes`], with the codes read for every row and the centroids by every block of
    /// the row, and once more to encode.
    fn fused_bytes(&self, blocks: usize) -> u64 {
        let centroids = 4 * (self.head_dim << self.bits);
        let per_row = self.candidates() * self.num_subvectors + blocks * centroids;
        self.minimum_bytes() - self.shared_minimum()
            + (self.rows() * per_row + self.groups() * self.encoding()) as u64
    }

    /// Bytes that one kernel for each stage loads from and store to global memory, whether or not
    /// the L2 cache serves them: as [`Shape::cpu_bytes`], but the table is read by every block of
    /// scores, scores are read five times (three histograms, count, gather twice over), and
    /// top-k's histograms are cleared, read and cleared again for each digit.
    fn staged_bytes(&self) -> u64 {
        let n = self.candidates();
        let score_blocks = n.div_ceil(scores::KEYS_PER_BLOCK as usize);
        let count_blocks = n.div_ceil(top_k::KEYS_PER_BLOCK as usize);
        let digits = top_k::NUM_DIGITS as usize;
        let histograms = 4 * top_k::NUM_BINS as usize * (1 + 2 * digits);
        let score_reads = if self.heavy == 0 { 0 } else { digits + 3 };
        let top_k = 4 * n * score_reads + histograms + 8 * count_blocks + 8 * self.heavy;
        let per_row = self.shared_reads() + self.table_bytes() * (1 + score_blocks) + 4 * n + top_k;
        let weight_blocks = match self.weights {
            true => self.tokens.div_ceil(weights::POSITIONS_PER_BLOCK as usize),
            false => 0,
        };
        let lengths = 4 * weight_blocks;
        self.minimum_bytes()
            + (self.rows() * (per_row + lengths) + self.groups() * self.encoding()) as u64
            - self.shared_minimum()
            + self.list_again()
    }

    fn table_bytes(&self) -> usize {
        4 * (self.num_subvectors << self.bits)
    }

    /// Codes and centroids, read for one row.
    fn shared_reads(&self) -> usize {
        self.candidates() * self.num_subvectors + 4 * (self.head_dim << self.bits)
    }

    /// What the minimum has of them already: once for each group.
    fn shared_minimum(&self) -> u64 {
        (self.groups() * self.shared_reads()) as u64
    }

    /// Centroids and half norms, read to encode one group's new key.
    fn encoding(&self) -> usize {
        4 * (self.head_dim << self.bits) + self.table_bytes()
    }

    /// The lists, read to write the weights.
    fn list_again(&self) -> u64 {
        match self.weights {
            true => (4 * self.rows() * self.list_len()) as u64,
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use gpu_kernels::select::{Filter, Plan};
    use gpu_kernels::step::StepShape;

    use super::super::shape::REFERENCE;
    use super::Variant;

    #[test]
    fn reference_moves_about_seven_megabytes() {
        // 32 x (31,744 x 2 codes + 64 x 128 centroids, a key, a code) and
        // 32 x (a query, 384 positions, a length, 32,000 weights).
        let groups = 32 * (31_744 * 2 + 4 * 64 * 128 + 4 * 128 + 2);
        let rows = 32 * (4 * 128 + 4 * 384 + 4 + 4 * 32_000);
        assert_eq!(REFERENCE.minimum_bytes(), groups + rows);
        assert!(REFERENCE.cpu_bytes() > REFERENCE.minimum_bytes());
        let shape = StepShape {
            num_subvectors: 2,
            bits: 6,
            head_dim: 128,
            heavy: 128,
            code_capacity: 32_000,
            ..StepShape::default()
        };
        let plan = Plan::new(&shape, 4, Filter::None, 50_000).unwrap();
        let fused = Variant::Survivors(plan);
        assert!(REFERENCE.cuda_bytes(fused) > REFERENCE.minimum_bytes());
        assert!(REFERENCE.cuda_bytes(Variant::Staged) > REFERENCE.cuda_bytes(fused));
    }
}
