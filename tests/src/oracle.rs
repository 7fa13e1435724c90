//! The naive oracle: every stage written again from its rule, with no thought for speed.
//!
//! It shares no code with the library: a mistake would have to be made twice to go unseen. Arrays
//! are row-major; a *row* is one (batch, query head, query), a *group* one (batch, key-value head).

use std::cmp::Ordering;

/// How scores of query heads that share keys become those of one list; the numbers are the kernels'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aggregation {
    /// Every head has a list of its own.
    #[default]
    PerHead = 0,
    /// The sum of the heads' softmax.
    Softmax = 1,
    /// The largest score.
    Max = 2,
    /// The mean score.
    Mean = 3,
}

/// Sizes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Key-value heads of a sequence.
    pub num_kv_heads: usize,
    /// Query heads that share one key-value head.
    pub group_size: usize,
    /// Queries of a head.
    pub num_queries: usize,
    /// Components of a key.
    pub head_dim: usize,
    /// Sub-vectors of a key (m).
    pub num_subvectors: usize,
    /// Bits of a code.
    pub bits: u32,
    /// First quantised position.
    pub init_offset: usize,
    /// Codes a group has room for.
    pub code_capacity: usize,
    /// First positions, always listed.
    pub sink: usize,
    /// Last positions, always listed.
    pub window: usize,
    /// Best candidates listed.
    pub heavy: usize,
    /// Whether short contexts are listed whole.
    pub short_context: bool,
    /// Positions a row's list has room for.
    pub list_stride: usize,
    /// Weights a row has room for.
    pub weights_stride: usize,
    /// Whether query `i` sees only `seq_len - num_queries + i + 1` positions.
    pub causal: bool,
    /// Whose lists there are.
    pub aggregation: Aggregation,
    /// Scores of heavy keys a row has room for: `heavy`, or 0 when none are wanted.
    pub scores_stride: usize,
}

impl Shape {
    /// Positions that a row sees of a sequence.
    pub fn visible(&self, row: usize, seq_len: usize) -> usize {
        if self.causal {
            let query = row % self.num_queries;
            (seq_len + query + 1).saturating_sub(self.num_queries)
        } else {
            seq_len
        }
    }

    /// The shape whose rows are the lists': one head for each key-value head where scores are aggregated.
    pub fn lists(&self) -> Shape {
        Shape {
            group_size: match self.aggregation {
                Aggregation::PerHead => self.group_size,
                _ => 1,
            },
            ..*self
        }
    }

    /// (batch, group) of every row.
    pub fn rows(&self) -> Vec<(usize, usize)> {
        let mut rows = Vec::new();
        for batch in 0..self.batch {
            for kv_head in 0..self.num_kv_heads {
                for _ in 0..self.group_size * self.num_queries {
                    rows.push((batch, batch * self.num_kv_heads + kv_head));
                }
            }
        }
        rows
    }

    /// Rows of all sequences.
    pub fn num_rows(&self) -> usize {
        self.groups() * self.group_size * self.num_queries
    }

    /// (batch, key-value head) pairs.
    pub fn groups(&self) -> usize {
        self.batch * self.num_kv_heads
    }

    /// Query heads of a sequence.
    pub fn num_qo_heads(&self) -> usize {
        self.num_kv_heads * self.group_size
    }

    /// Components of a sub-vector.
    pub fn sub_dim(&self) -> usize {
        self.head_dim / self.num_subvectors
    }

    /// Centroids of a sub-vector.
    pub fn num_centroids(&self) -> usize {
        2usize.pow(self.bits)
    }

    /// Components of all centroids, `[groups, m, 2^bits, sub_dim]`.
    pub fn centroids_len(&self) -> usize {
        self.groups() * self.num_centroids() * self.head_dim
    }

    /// Contract point 1: whether position `p` of a context of `seq_len` is a candidate.
    pub fn is_candidate(&self, p: usize, seq_len: usize) -> bool {
        p >= self.init_offset && p >= self.sink && p + self.window < seq_len
    }

    /// Contract point 1: heavy keys listed.
    pub fn heavy_k(&self, seq_len: usize) -> usize {
        let candidates = (0..seq_len).filter(|&p| self.is_candidate(p, seq_len));
        candidates.count().min(self.heavy)
    }

    /// The longest context that contract point 4 lists whole.
    pub fn short_context_limit(&self) -> usize {
        if self.short_context {
            self.heavy + self.init_offset + self.num_queries + self.num_centroids()
        } else {
            0
        }
    }

    /// Centroid `index` of a sub-vector, `[sub_dim]`.
    fn centroid<'a>(
        &self,
        all: &'a [f32],
        group: usize,
        subvector: usize,
        index: usize,
    ) -> &'a [f32] {
        let at = (group * self.num_subvectors + subvector) * self.num_centroids() + index;
        &all[at * self.sub_dim()..][..self.sub_dim()]
    }
}

/// Half the squared norm of a centroid: fused multiply-adds in order, then halved.
pub fn half_norm(centroid: &[f32]) -> f32 {
    0.5 * centroid.iter().fold(0.0, |sum, &c| c.mul_add(c, sum))
}

/// How near `x` is to a centroid, larger being nearer: fused multiply-adds in order from
/// `-half_norm`.
pub fn affinity(x: &[f32], centroid: &[f32]) -> f32 {
    let products = x.iter().zip(centroid);
    products.fold(-half_norm(centroid), |sum, (&x, &c)| x.mul_add(c, sum))
}

/// The squared distance, in f64.
pub fn distance_f64(x: &[f32], centroid: &[f32]) -> f64 {
    let differences = x
        .iter()
        .zip(centroid)
        .map(|(&x, &c)| f64::from(x) - f64::from(c));
    differences.map(|d| d * d).sum()
}

/// The inner product, in f64.
pub fn inner_product_f64(x: &[f32], y: &[f32]) -> f64 {
    x.iter()
        .zip(y)
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum()
}

/// The sum of the products' absolute values, in f64: what rounding errors are measured against.
pub fn absolute_products_f64(x: &[f32], y: &[f32]) -> f64 {
    x.iter()
        .zip(y)
        .map(|(&x, &y)| (f64::from(x) * f64::from(y)).abs())
        .sum()
}

/// Whether (value, index) `a` stands before `b`: larger values first, then lower indices, NaN last.
pub fn order(a: (f32, usize), b: (f32, usize)) -> Ordering {
    match (a.0.is_nan(), b.0.is_nan()) {
        (false, true) => Ordering::Less,
        (true, false) => Ordering::Greater,
        (false, false) if a.0 > b.0 => Ordering::Less,
        (false, false) if a.0 < b.0 => Ordering::Greater,
        _ => a.1.cmp(&b.1),
    }
}

/// The index of the nearest of `centroids`.
pub fn nearest<'a>(x: &[f32], centroids: impl Iterator<Item = &'a [f32]>) -> u8 {
    let affinities = centroids
        .enumerate()
        .map(|(index, c)| (affinity(x, c), index));
    let first = affinities.min_by(|&a, &b| order(a, b));
    first.expect("a sub-vector has centroids").1 as u8
}

/// What the metric `ip` adds to a codebook.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmentation {
    /// `[groups, m]`.
    pub phis: Vec<f32>,
    /// The centroids' last components, `[groups, m, 2^bits]`.
    pub components: Vec<f32>,
}

/// A sub-vector with the component that gives it the squared norm `phi`, or 0 where it is longer.
pub fn augmented(x: &[f32], phi: f32) -> Vec<f32> {
    let squared_norm = x.iter().fold(0.0, |sum, &x| x.mul_add(x, sum));
    let rest: f32 = phi - squared_norm;
    let component = if rest.is_nan() || rest <= 0.0 {
        0.0
    } else {
        rest.sqrt()
    };
    [x, &[component]].concat()
}

/// `codes` `[groups, code_capacity, m]` after `new_keys` `[groups, new_tokens, head_dim]` were
/// encoded at each sequence's length; keys before `init_offset` or past the capacity have no codes.
pub fn codes(
    shape: &Shape,
    centroids: &[f32],
    augmentation: Option<&Augmentation>,
    seq_lens: &[usize],
    new_keys: &[f32],
    codes: &[u8],
) -> Vec<u8> {
    let mut codes = codes.to_vec();
    let (m, sub_dim) = (shape.num_subvectors, shape.sub_dim());
    let new_tokens = new_keys.len() / shape.head_dim / shape.groups();
    for group in 0..shape.groups() {
        for token in 0..new_tokens {
            let position = seq_lens[group / shape.num_kv_heads] + token;
            if position < shape.init_offset || position >= shape.init_offset + shape.code_capacity {
                continue;
            }
            for subvector in 0..m {
                let at = (group * new_tokens + token) * shape.head_dim + subvector * sub_dim;
                let choices = (0..shape.num_centroids())
                    .map(|index| shape.centroid(centroids, group, subvector, index));
                let slot = group * shape.code_capacity + position - shape.init_offset;
                let x = &new_keys[at..at + sub_dim];
                codes[slot * m + subvector] = match augmentation {
                    None => nearest(x, choices),
                    Some(added) => {
                        let first = (group * m + subvector) * shape.num_centroids();
                        let longer: Vec<Vec<f32>> = choices
                            .enumerate()
                            .map(|(index, c)| [c, &[added.components[first + index]]].concat())
                            .collect();
                        let x = augmented(x, added.phis[group * m + subvector]);
                        nearest(&x, longer.iter().map(Vec::as_slice))
                    }
                };
            }
        }
    }
    codes
}

/// Contract point 5: component `i` goes to partial sum `i % 8` by a fused multiply-add, then the
/// eight are added pairwise.
pub fn table_entry(q: &[f32], c: &[f32]) -> f32 {
    let mut s = [0.0f32; 8];
    for i in 0..q.len() {
        s[i % 8] = q[i].mul_add(c[i], s[i % 8]);
    }
    ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
}

/// Tables `[rows, m, 2^bits]` of `queries` `[rows, head_dim]`.
pub fn lut(shape: &Shape, centroids: &[f32], queries: &[f32]) -> Vec<f32> {
    let mut tables = Vec::new();
    for (row, (_, group)) in shape.rows().into_iter().enumerate() {
        for subvector in 0..shape.num_subvectors {
            let at = row * shape.head_dim + subvector * shape.sub_dim();
            let q = &queries[at..at + shape.sub_dim()];
            for index in 0..shape.num_centroids() {
                tables.push(table_entry(
                    q,
                    shape.centroid(centroids, group, subvector, index),
                ));
            }
        }
    }
    tables
}

/// Scores `[rows, code_capacity]`: table entries added in sub-vector order; 0 for no candidate.
pub fn scores(shape: &Shape, seq_lens: &[usize], tables: &[f32], codes: &[u8]) -> Vec<f32> {
    let (m, num_centroids) = (shape.num_subvectors, shape.num_centroids());
    let mut scores = Vec::new();
    for (row, (batch, group)) in shape.rows().into_iter().enumerate() {
        let table = &tables[row * m * num_centroids..][..m * num_centroids];
        for key in 0..shape.code_capacity {
            if !shape.is_candidate(shape.init_offset + key, shape.visible(row, seq_lens[batch])) {
                scores.push(0.0);
                continue;
            }
            let code = &codes[(group * shape.code_capacity + key) * m..][..m];
            let entries = (0..m).map(|j| table[j * num_centroids + usize::from(code[j])]);
            scores.push(entries.reduce(|sum, entry| sum + entry).expect("m >= 1"));
        }
    }
    scores
}

/// `e` to `x`, for `x <= 0`: the nearest whole multiple of ln 2 taken off in two parts, a Taylor polynomial
/// of degree 7 of what is left, one fused multiply-add a term, times a power of two; 0 below -87.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x < -87.0 {
        return 0.0;
    }
    // As one fused multiply-add with 1.5 * 2^23 rounds it.
    let n = x.mul_add(std::f32::consts::LOG2_E, 12582912.0) - 12582912.0;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut sum = 1.0 / 5040.0;
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = r.mul_add(sum, 1.0 / factorial);
    }
    sum * 2.0f32.powi(n as i32)
}

/// The sum in 256 lanes, which are then halved.
pub fn tree_sum(numbers: &[Option<f32>]) -> f32 {
    let lane = |lane| numbers.iter().skip(lane).step_by(256).flatten();
    let mut lanes: Vec<f32> = (0..256).map(|i| lane(i).fold(0.0, |a, b| a + b)).collect();
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len() / 2);
        lanes = lanes.iter().zip(upper).map(|(a, b)| a + b).collect();
    }
    lanes[0]
}

/// The softmax of `scores` over sqrt(head_dim): the sum in chunks of 1024. NaN stays NaN and counts for
/// nothing else.
pub fn softmax(scores: &[f32], head_dim: usize) -> Vec<f32> {
    let numbers = scores.iter().copied().filter(|score| !score.is_nan());
    let max = numbers.fold(f32::NEG_INFINITY, f32::max);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let exponential = |score: f32| match score {
        score if score == max => 1.0,
        score => exp((score - max) * scale),
    };
    let exponentials: Vec<f32> = scores.iter().map(|&score| exponential(score)).collect();
    let number = |e: &f32| (!e.is_nan()).then_some(*e);
    let chunk = |chunk: &[f32]| tree_sum(&chunk.iter().map(number).collect::<Vec<_>>());
    let sums: Vec<Option<f32>> = exponentials.chunks(1024).map(|c| Some(chunk(c))).collect();
    let sum = tree_sum(&sums);
    exponentials.iter().map(|e| e / sum).collect()
}

/// Aggregates `[rows of lists, code_capacity]` of `scores` `[rows, code_capacity]`; 0 for no candidate.
pub fn aggregate(shape: &Shape, seq_lens: &[usize], scores: &[f32]) -> Vec<f32> {
    let (capacity, heads) = (shape.code_capacity, shape.group_size);
    let mut aggregates = Vec::new();
    for (list, (batch, group)) in shape.lists().rows().into_iter().enumerate() {
        let query = list % shape.num_queries;
        let seq_len = shape.visible(query, seq_lens[batch]);
        let candidates: Vec<usize> = (0..capacity)
            .filter(|key| shape.is_candidate(shape.init_offset + key, seq_len))
            .collect();
        let of_head = |head: usize| -> Vec<f32> {
            let row = (group * heads + head) * shape.num_queries + query;
            let scores = candidates.iter().map(|key| scores[row * capacity + key]);
            scores.collect()
        };
        let mut rows: Vec<Vec<f32>> = (0..heads).map(of_head).collect();
        if shape.aggregation == Aggregation::Softmax {
            rows.iter_mut()
                .for_each(|row| *row = softmax(row, shape.head_dim));
        }
        let mut of_list = vec![0.0; capacity];
        for (i, &key) in candidates.iter().enumerate() {
            let of_heads = || rows.iter().map(|row| row[i]);
            let sum = || of_heads().reduce(|a, b| a + b).expect("a head");
            of_list[key] = match shape.aggregation {
                Aggregation::Max => {
                    let first = of_heads().enumerate().map(|(head, score)| (score, head));
                    first.min_by(|&a, &b| order(a, b)).expect("a head").0
                }
                Aggregation::Mean => sum() / heads as f32,
                _ => sum(),
            };
        }
        aggregates.extend(of_list);
    }
    aggregates
}

/// Heavy positions `[rows, heavy]`, ascending, padded with -1: everything is sorted, contract point 2.
pub fn top_k(shape: &Shape, seq_lens: &[usize], scores: &[f32]) -> Vec<i32> {
    let mut heavy = Vec::new();
    for (row, (batch, _)) in shape.rows().into_iter().enumerate() {
        let seq_len = shape.visible(row, seq_lens[batch]);
        let mut candidates: Vec<(f32, usize)> = (shape.init_offset..seq_len)
            .filter(|&p| shape.is_candidate(p, seq_len))
            .map(|p| (scores[row * shape.code_capacity + p - shape.init_offset], p))
            .collect();
        candidates.sort_by(|&a, &b| order(a, b));
        candidates.truncate(shape.heavy);
        let mut positions: Vec<i32> = candidates.iter().map(|&(_, p)| p as i32).collect();
        positions.sort();
        positions.resize(shape.heavy, -1);
        heavy.extend(positions);
    }
    heavy
}

/// Lists `[rows, list_stride]` and lengths `[rows]`: a mark for every listed position, contract
/// points 3 and 4.
pub fn index_list(shape: &Shape, seq_lens: &[usize], heavy: &[i32]) -> (Vec<i32>, Vec<i32>) {
    let (mut lists, mut lengths) = (Vec::new(), Vec::new());
    for (row, (batch, _)) in shape.rows().into_iter().enumerate() {
        let seq_len = shape.visible(row, seq_lens[batch]);
        let whole = seq_len <= shape.short_context_limit();
        let mut listed: Vec<bool> = (0..seq_len)
            .map(|p| whole || p < shape.sink || p + shape.window >= seq_len)
            .collect();
        for &p in &heavy[row * shape.heavy..][..shape.heavy_k(seq_len)] {
            listed[p as usize] = true;
        }
        let mut list: Vec<i32> = (0..seq_len)
            .filter(|&p| listed[p])
            .map(|p| p as i32)
            .collect();
        lengths.push(list.len() as i32);
        list.resize(shape.list_stride, -1);
        lists.extend(list);
    }
    (lists, lengths)
}

/// Weights `[rows, weights_stride]`: 1 where listed, else 0.
pub fn weights(shape: &Shape, lists: &[i32], lengths: &[i32]) -> Vec<f32> {
    let mut weights = vec![0.0; lengths.len() * shape.weights_stride];
    for (row, &len) in lengths.iter().enumerate() {
        for &p in &lists[row * shape.list_stride..][..len as usize] {
            weights[row * shape.weights_stride + p as usize] = 1.0;
        }
    }
    weights
}

/// A context to append to and select from: the stages one after the other.
#[derive(Debug, Clone)]
pub struct Context {
    /// Sizes; every sequence has the same length.
    pub shape: Shape,
    /// `[groups, m, 2^bits, sub_dim]`.
    pub centroids: Vec<f32>,
    /// With the metric `ip`.
    pub augmentation: Option<Augmentation>,
    /// `[groups, code_capacity, m]`.
    pub codes: Vec<u8>,
    /// Positions of every sequence.
    pub seq_len: usize,
}

/// What a step lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Selected {
    /// `[rows, list_stride]`.
    pub positions: Vec<i32>,
    /// `[rows]`.
    pub lengths: Vec<i32>,
    /// `[rows, weights_stride]`.
    pub weights: Vec<f32>,
    /// `[rows, heavy]`, padded with -1.
    pub heavy: Vec<i32>,
    /// Their scores, padded with 0.
    pub heavy_scores: Vec<f32>,
}

impl Context {
    /// Encodes `keys` `[groups, tokens, head_dim]` behind the others.
    pub fn append(&mut self, keys: &[f32]) {
        let seq_lens = vec![self.seq_len; self.shape.batch];
        let augmentation = self.augmentation.as_ref();
        let (shape, centroids) = (&self.shape, &self.centroids);
        self.codes = codes(shape, centroids, augmentation, &seq_lens, keys, &self.codes);
        self.seq_len += keys.len() / self.shape.head_dim / self.shape.groups();
    }

    /// What `queries` `[rows, head_dim]` attend to.
    pub fn select(&self, queries: &[f32]) -> Selected {
        let shape = &self.shape;
        let seq_lens = vec![self.seq_len; shape.batch];
        let tables = lut(shape, &self.centroids, queries);
        let mut scores = scores(shape, &seq_lens, &tables, &self.codes);
        if shape.aggregation != Aggregation::PerHead {
            scores = aggregate(shape, &seq_lens, &scores);
        }
        let shape = &shape.lists();
        let heavy = top_k(shape, &seq_lens, &scores);
        let (positions, lengths) = index_list(shape, &seq_lens, &heavy);
        let weights = weights(shape, &positions, &lengths);
        let score = |(i, &p): (usize, &i32)| match usize::try_from(p) {
            Ok(p) => scores[i / shape.heavy * shape.code_capacity + p - shape.init_offset],
            Err(_) => 0.0,
        };
        let heavy_scores = heavy.iter().enumerate().map(score).collect();
        Selected {
            positions,
            lengths,
            weights,
            heavy,
            heavy_scores,
        }
    }
}
