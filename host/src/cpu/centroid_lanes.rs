//! Centroids laid out for vectors, and the nearest one to a key.

use gpu_kernels::codebook::{Nearest, half_norm};

use super::simd::{FLOATS, FloatLanes, Isa, on_each_isa};

/// The centroids of one sub-vector, laid out so that [`FLOATS`] of them are read side by side.
///
/// `components` is `[ceil(num_centroids / FLOATS), sub_dim]` vectors; the last block is padded.
#[derive(Debug, Clone)]
pub(crate) struct CentroidLanes {
    num_centroids: usize,
    sub_dim: usize,
    /// Of each block's centroids; NaN where the last block is padded, which is never nearer.
    half_norms: Vec<FloatLanes>,
    components: Vec<FloatLanes>,
}

/// Whether the centroids are the same; half norms follow from them.
impl PartialEq for CentroidLanes {
    fn eq(&self, other: &Self) -> bool {
        self.num_centroids == other.num_centroids && self.components == other.components
    }
}

impl CentroidLanes {
    /// From `centroids` `[num_centroids, sub_dim]`.
    pub(crate) fn new(centroids: &[f32], sub_dim: usize) -> Self {
        let num_centroids = centroids.len() / sub_dim;
        let blocks = num_centroids.div_ceil(FLOATS);
        let mut lanes = CentroidLanes {
            num_centroids,
            sub_dim,
            half_norms: vec![FloatLanes([f32::NAN; FLOATS]); blocks],
            components: vec![FloatLanes([0.0; FLOATS]); blocks * sub_dim],
        };
        lanes.set(centroids);
        lanes
    }

    /// From `centroids` `[num_centroids, sub_dim]`, each with one component more behind the others.
    pub(crate) fn augmented(centroids: &[f32], components: &[f32], sub_dim: usize) -> Self {
        let mut all = Vec::with_capacity(centroids.len() + components.len());
        for (centroid, component) in centroids.chunks_exact(sub_dim).zip(components) {
            all.extend_from_slice(centroid);
            all.push(*component);
        }
        Self::new(&all, sub_dim + 1)
    }

    /// Other centroids of the same shape.
    pub(crate) fn set(&mut self, centroids: &[f32]) {
        for (index, centroid) in centroids.chunks_exact(self.sub_dim).enumerate() {
            let (block, lane) = (index / FLOATS, index % FLOATS);
            self.half_norms[block].0[lane] = half_norm(centroid);
            let components = &mut self.components[block * self.sub_dim..][..self.sub_dim];
            for (components, &component) in components.iter_mut().zip(centroid) {
                components.0[lane] = component;
            }
        }
    }

    /// The centroids as they came, `[num_centroids, sub_dim]`.
    pub(crate) fn to_centroids(&self, centroids: &mut [f32]) {
        for (index, centroid) in centroids.chunks_exact_mut(self.sub_dim).enumerate() {
            let (block, lane) = (index / FLOATS, index % FLOATS);
            let components = &self.components[block * self.sub_dim..][..self.sub_dim];
            for (to, component) in centroid.iter_mut().zip(components) {
                *to = component.0[lane];
            }
        }
    }

    /// Half squared norms, `[num_centroids]`.
    pub(crate) fn half_norms(&self) -> impl Iterator<Item = f32> + '_ {
        let lanes = self.half_norms.iter().flat_map(|lanes| lanes.0);
        lanes.take(self.num_centroids)
    }

    /// Components of a centroid.
    pub(crate) fn sub_dim(&self) -> usize {
        self.sub_dim
    }

    /// Centroids.
    pub(crate) fn num_centroids(&self) -> usize {
        self.num_centroids
    }

    /// The components of each block of [`FLOATS`] centroids, `[sub_dim]`.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[FloatLanes]> {
        self.components.chunks_exact(self.sub_dim)
    }

    /// Multiply-adds that it takes to find one key's nearest centroid.
    pub(crate) fn work(&self) -> usize {
        self.components.len() * FLOATS
    }
}

on_each_isa! {
    /// The code of each point and its affinity to that centroid, for `points` `[n, sub_dim]` of which
    /// consecutive ones start `stride` elements apart; `codes[i * code_stride]` is point i's.
    /// `affinities` is empty where nobody wants them.
    pub(crate) fn nearest_centroids(
        lanes: &CentroidLanes,
        points: &[f32],
        stride: usize,
        codes: &mut [u8],
        code_stride: usize,
        affinities: &mut [f32],
    ) = nearest_centroids_on;
}

#[inline(always)]
fn nearest_centroids_on<I: Isa>(
    isa: I,
    lanes: &CentroidLanes,
    points: &[f32],
    stride: usize,
    codes: &mut [u8],
    code_stride: usize,
    affinities: &mut [f32],
) {
    let point = |i: usize| &points[i * stride..][..lanes.sub_dim];
    let found = |i: usize, (nearest, affinity): (Nearest, f32)| {
        codes[i * code_stride] = nearest.index() as u8;
        if let Some(to) = affinities.get_mut(i) {
            *to = affinity;
        }
    };
    search(isa, lanes, points.len().div_ceil(stride), point, found);
}

on_each_isa! {
    /// [`nearest_centroids`] of those points alone that `some` has the indices of; other codes stay.
    pub(crate) fn nearest_centroids_of_some(
        lanes: &CentroidLanes,
        points: &[f32],
        stride: usize,
        some: &[u32],
        codes: &mut [u8],
        code_stride: usize,
    ) = nearest_centroids_of_some_on;
}

#[inline(always)]
fn nearest_centroids_of_some_on<I: Isa>(
    isa: I,
    lanes: &CentroidLanes,
    points: &[f32],
    stride: usize,
    some: &[u32],
    codes: &mut [u8],
    code_stride: usize,
) {
    let point = |i: usize| &points[some[i] as usize * stride..][..lanes.sub_dim];
    let found = |i: usize, (nearest, _): (Nearest, f32)| {
        codes[some[i] as usize * code_stride] = nearest.index() as u8;
    };
    search(isa, lanes, some.len(), point, found);
}

/// Calls `found` with the nearest centroid of each of the `n` points.
#[inline(always)]
fn search<'a, I: Isa>(
    isa: I,
    lanes: &CentroidLanes,
    n: usize,
    point: impl Fn(usize) -> &'a [f32],
    mut found: impl FnMut(usize, (Nearest, f32)),
) {
    let mut i = 0;
    // A tile of several points reads every centroid once for all of them.
    macro_rules! tiles {
        ($($size:literal)*) => {$(
            if $size <= I::KEYS_PER_TILE {
                while i + $size <= n {
                    let tile: [&[f32]; $size] = std::array::from_fn(|k| point(i + k));
                    for best in nearest_of_tile(isa, lanes, tile) {
                        found(i, best);
                        i += 1;
                    }
                }
            }
        )*};
    }
    tiles!(12 6 4);
    // Alone, a point's sums wait for each other: four blocks of centroids at a time.
    while i < n {
        found(i, nearest_of_point(isa, lanes, point(i)));
        i += 1;
    }
}

/// The lanes' (affinity, index) so far.
type Best<I> = (<I as Isa>::Floats, <I as Isa>::Floats);

/// Before any centroid: NaN, for which every number is larger, and the lane's first centroid.
#[inline(always)]
fn no_best<I: Isa>(isa: I) -> Best<I> {
    (isa.splat(f32::NAN), indices(isa, 0))
}

/// The indices of a block's centroids, exact in f32.
#[inline(always)]
fn indices<I: Isa>(isa: I, block: usize) -> I::Floats {
    isa.load(&std::array::from_fn(|lane| (block * FLOATS + lane) as f32))
}

/// The nearest of all lanes.
#[inline(always)]
fn nearest_of_lanes<I: Isa>(isa: I, best: Best<I>) -> (Nearest, f32) {
    let (mut affinities, mut indices) = ([0.0; FLOATS], [0.0; FLOATS]);
    isa.store(best.0, &mut affinities);
    isa.store(best.1, &mut indices);
    let mut nearest = (Nearest::NONE, 0.0);
    for (affinity, index) in affinities.into_iter().zip(indices) {
        let candidate = Nearest::new(affinity, index as u32);
        if candidate > nearest.0 {
            nearest = (candidate, affinity);
        }
    }
    nearest
}

/// As `gpu_kernels::codebook::affinities`: from minus the half norm, one fused multiply-add for
/// each component in order.
#[inline(always)]
fn nearest_of_tile<I: Isa, const K: usize>(
    isa: I,
    lanes: &CentroidLanes,
    points: [&[f32]; K],
) -> [(Nearest, f32); K] {
    let mut best = [no_best(isa); K];
    let points = points.map(|point| &point[..lanes.sub_dim]);
    for (block, components) in lanes.blocks().enumerate() {
        let minus_half_norms = lanes.half_norms[block].0.map(|half_norm| -half_norm);
        let mut sums = [isa.load(&minus_half_norms); K];
        for (i, components) in components.iter().enumerate() {
            let components = isa.load(&components.0);
            for k in 0..K {
                sums[k] = isa.fma(isa.splat(points[k][i]), components, sums[k]);
            }
        }
        let indices = indices(isa, block);
        for k in 0..K {
            best[k] = isa.larger(best[k], sums[k], indices);
        }
    }
    let mut nearest = [(Nearest::NONE, 0.0); K];
    for k in 0..K {
        nearest[k] = nearest_of_lanes(isa, best[k]);
    }
    nearest
}

/// Four blocks of centroids at a time.
#[inline(always)]
fn nearest_of_point<I: Isa>(isa: I, lanes: &CentroidLanes, point: &[f32]) -> (Nearest, f32) {
    const BLOCKS: usize = 4;
    let mut best = no_best(isa);
    let blocks = lanes.half_norms.len();
    let mut first = 0;
    while first + BLOCKS <= blocks {
        best = nearest_in_blocks::<I, BLOCKS>(isa, lanes, point, first, best);
        first += BLOCKS;
    }
    for block in first..blocks {
        best = nearest_in_blocks::<I, 1>(isa, lanes, point, block, best);
    }
    nearest_of_lanes(isa, best)
}

#[inline(always)]
fn nearest_in_blocks<I: Isa, const B: usize>(
    isa: I,
    lanes: &CentroidLanes,
    point: &[f32],
    first: usize,
    mut best: Best<I>,
) -> Best<I> {
    let sub_dim = lanes.sub_dim;
    let components = &lanes.components[first * sub_dim..][..B * sub_dim];
    let mut sums = [isa.splat(0.0); B];
    for (sum, half_norms) in sums.iter_mut().zip(&lanes.half_norms[first..]) {
        let minus_half_norms = half_norms.0.map(|half_norm| -half_norm);
        *sum = isa.load(&minus_half_norms);
    }
    for (i, &x) in point[..sub_dim].iter().enumerate() {
        let x = isa.splat(x);
        for b in 0..B {
            sums[b] = isa.fma(x, isa.load(&components[b * sub_dim + i].0), sums[b]);
        }
    }
    for (b, &sum) in sums.iter().enumerate() {
        best = isa.larger(best, sum, indices(isa, first + b));
    }
    best
}
