//! Steps stage by stage: what the quick ways of `row` do not know. Queries that see different lengths, lists
//! of several heads, scores beside positions, sequences with regions of their own, codes in pages.

use gpu_kernels::aggregate::PER_HEAD;
use gpu_kernels::step::{SequenceParams, StepShape};
use gpu_kernels::weights::LISTED;

use crate::cpu::centroid_lanes::CentroidLanes;
use crate::cpu::simd::Simd;
use crate::cpu::{aggregate, index_list, lut, scores, top_k, weights};
use crate::selection::Selection;
use crate::tensor::Queries;

/// What a step reads.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The shape, of query heads; its strides hold for every sequence.
    pub(crate) shape: &'a StepShape,
    /// `[batch]`.
    pub(crate) sequences: &'a [SequenceParams],
    /// Of each (group, sub-vector).
    pub(crate) lanes: &'a [CentroidLanes],
    pub(crate) simd: Simd,
    /// `[groups, code_capacity, m]`, or pages of them.
    pub(crate) codes: &'a [u8],
    /// `[batch, pages_per_sequence]`, empty without pages.
    pub(crate) page_table: &'a [u32],
}

/// What one thread needs for one list at a time.
#[derive(Debug)]
pub(crate) struct Worker {
    table: Vec<f32>,
    /// Of each head of the list, `[code_capacity]`.
    scores: Vec<f32>,
    aggregates: Vec<f32>,
    /// Each head's largest score and sum of exponentials.
    rows: Vec<(f32, f32)>,
    ranks: [Vec<u64>; 2],
    heavy_positions: Vec<i32>,
    /// A group's codes in one piece, where they come in pages.
    codes: Vec<u8>,
}

/// Rows of a selection, to be written.
struct Lists<'a> {
    positions: &'a mut [i32],
    lengths: &'a mut [i32],
    weights: &'a mut [f32],
    heavy_positions: &'a mut [i32],
    heavy_scores: &'a mut [f32],
}

impl Lists<'_> {
    /// The first `rows` rows, and the others.
    fn split_at(self, rows: usize) -> (Self, Self) {
        fn split<T>(data: &mut [T], rows: usize, all: usize) -> (&mut [T], &mut [T]) {
            let stride = data.len() / all.max(1);
            data.split_at_mut(rows * stride)
        }
        let all = self.lengths.len();
        let (positions, positions_behind) = split(self.positions, rows, all);
        let (weights, weights_behind) = split(self.weights, rows, all);
        let (heavy_positions, heavy_positions_behind) = split(self.heavy_positions, rows, all);
        let (heavy_scores, heavy_scores_behind) = split(self.heavy_scores, rows, all);
        let (lengths, lengths_behind) = self.lengths.split_at_mut(rows);
        (
            Lists {
                positions,
                lengths,
                weights,
                heavy_positions,
                heavy_scores,
            },
            Lists {
                positions: positions_behind,
                lengths: lengths_behind,
                weights: weights_behind,
                heavy_positions: heavy_positions_behind,
                heavy_scores: heavy_scores_behind,
            },
        )
    }
}

impl Worker {
    /// Workers for steps of `rows` rows of lists, one for each of the pool's threads at most.
    pub(crate) fn for_each_thread(shape: &StepShape, rows: usize) -> Vec<Self> {
        let threads = rayon::current_num_threads().min(rows).max(1);
        (0..threads).map(|_| Worker::new(shape)).collect()
    }

    fn new(shape: &StepShape) -> Self {
        let capacity = shape.code_capacity as usize;
        let (heads, aggregates) = if shape.aggregation == PER_HEAD {
            (1, 0)
        } else {
            let heads = shape.num_qo_heads / shape.num_kv_heads;
            (heads as usize, capacity)
        };
        let in_pages = if shape.page_bits > 0 { capacity } else { 0 };
        Worker {
            table: vec![0.0; shape.table_len() as usize],
            scores: vec![0.0; heads * capacity],
            aggregates: vec![0.0; aggregates],
            rows: Vec::with_capacity(heads),
            ranks: [vec![0; capacity], vec![0; capacity]],
            heavy_positions: vec![0; shape.heavy as usize],
            codes: vec![0; in_pages * shape.num_subvectors as usize],
        }
    }

    /// Lists the only row of `lists`, row `list` of all.
    fn list(&mut self, context: Context<'_>, queries: Queries<'_>, list: usize, lists: Lists<'_>) {
        let lists_shape = context.shape.of_lists();
        let sequence = &context.sequences[lists_shape.batch_of_row(list as u32) as usize];
        let own = context.shape.with(sequence);
        let seq_len = own.visible(list as u32, sequence.seq_len);
        let regions = own.regions(seq_len);
        let heavy_k = regions.heavy_k(own.heavy) as usize;
        let has_scores = !lists.heavy_scores.is_empty();
        if heavy_k > 0 && (has_scores || !regions.list_all) {
            let group = lists_shape.group_of_row(list as u32) as usize;
            self.score(context, &own, seq_len, queries, group, list);
            let scores = match context.shape.aggregation {
                PER_HEAD => &self.scores,
                _ => &self.aggregates,
            };
            top_k::top_k(
                &own,
                seq_len,
                scores,
                &mut self.ranks,
                &mut self.heavy_positions,
            );
            if has_scores {
                let heavy = &self.heavy_positions[..heavy_k];
                lists.heavy_positions[..heavy_k].copy_from_slice(heavy);
                for (score, &position) in lists.heavy_scores.iter_mut().zip(heavy) {
                    *score = scores[(position as u32 - own.init_offset) as usize];
                }
            }
        }
        if has_scores {
            lists.heavy_positions[heavy_k..].fill(-1);
            lists.heavy_scores[heavy_k..].fill(0.0);
        }
        let length = &mut lists.lengths[0];
        weights::mark_if_any(&lists.positions[..*length as usize], lists.weights, 0.0);
        *length = index_list::index_list(&own, seq_len, &self.heavy_positions, lists.positions);
        weights::mark_if_any(&lists.positions[..*length as usize], lists.weights, LISTED);
    }

    /// Writes the candidates' scores, `[code_capacity]`, or the aggregates of several heads' scores.
    fn score(
        &mut self,
        context: Context<'_>,
        own: &StepShape,
        seq_len: u32,
        queries: Queries<'_>,
        group: usize,
        list: usize,
    ) {
        let Worker {
            table,
            scores: all_scores,
            aggregates,
            rows,
            codes: in_one_piece,
            ..
        } = self;
        let (shape, m) = (context.shape, own.num_subvectors as usize);
        let capacity = shape.code_capacity as usize;
        let codes = if shape.page_bits == 0 {
            &context.codes[group * capacity * m..][..capacity * m]
        } else {
            for code in top_k::candidate_codes(own, seq_len) {
                let position = own.init_offset + code as u32;
                let page = |i: usize| context.page_table[i];
                let key = shape.key_at(group as u32, position, own.init_offset, page);
                let from = &context.codes[key * m..][..m];
                in_one_piece[code * m..][..m].copy_from_slice(from);
            }
            &in_one_piece[..]
        };
        let lanes = &context.lanes[group * m..][..m];
        let mut score_row = |row: usize, scores: &mut [f32]| {
            let query = &queries.data[row * queries.head_dim..][..queries.head_dim];
            lut::lut(context.simd, lanes, query, table);
            scores::scores(own, seq_len, table, codes, scores);
        };
        if shape.aggregation == PER_HEAD {
            return score_row(list, all_scores);
        }
        let (num_queries, query) = (queries.num_queries, list % queries.num_queries);
        let heads = (shape.num_qo_heads / shape.num_kv_heads) as usize;
        for (head, scores) in all_scores.chunks_exact_mut(capacity).enumerate() {
            score_row((group * heads + head) * num_queries + query, scores);
        }
        let scores = |head: usize| &all_scores[head * capacity..][..capacity];
        aggregate::aggregate(own, seq_len, heads, scores, rows, aggregates);
    }
}

/// Lists what `queries` attend to. Lists are shared out to the workers, each on a thread of its own where
/// that pays.
pub(crate) fn select(
    context: Context<'_>,
    workers: &mut [Worker],
    queries: Queries<'_>,
    selection: &mut Selection,
) {
    /// Candidates of all rows that are worth waking other threads for.
    const PARALLEL_CANDIDATES: usize = 8192;

    let lists = Lists {
        positions: &mut selection.positions,
        lengths: &mut selection.lengths,
        weights: &mut selection.weights,
        heavy_positions: &mut selection.heavy_positions,
        heavy_scores: &mut selection.heavy_scores,
    };
    let rows_per_batch = context.shape.rows_per_batch() as usize;
    let longest = context.sequences.iter().map(|sequence| sequence.seq_len);
    let work = longest.map(|len| len as usize * rows_per_batch);
    let workers = if work.sum::<usize>() < PARALLEL_CANDIDATES {
        &mut workers[..1]
    } else {
        workers
    };
    share_out(context, workers, queries, 0, lists);
}

fn share_out(
    context: Context<'_>,
    workers: &mut [Worker],
    queries: Queries<'_>,
    first: usize,
    lists: Lists<'_>,
) {
    let rows = lists.lengths.len();
    if let [worker] = workers {
        let mut left = lists;
        for row in first..first + rows {
            let (lists, behind) = left.split_at(1);
            left = behind;
            worker.list(context, queries, row, lists);
        }
        return;
    }
    let half = workers.len() / 2;
    let rows_of_half = rows * half / workers.len();
    let (workers, others) = workers.split_at_mut(half);
    let (lists, lists_behind) = lists.split_at(rows_of_half);
    rayon::join(
        || share_out(context, workers, queries, first, lists),
        || {
            share_out(context, others, queries, first + rows_of_half, lists_behind);
        },
    );
}
