//! The start of k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a point drawn with probability
//! proportional to its squared distance from the nearest centroid so far.
//!
//! Those distances of all points are not computed for every centroid. As they only become smaller, older ones
//! serve to propose a point, which is accepted with the probability now / then of its own: rejection sampling, so that
//! what is accepted is drawn by the distances of now.

use rand::{Rng, RngExt};
use rayon::prelude::*;

use super::simd::{Isa, Simd, on_each_isa};

/// Points of one parallel task.
const POINTS_PER_TASK: usize = 256;
/// Rejections in a row after which all distances are brought up to date.
const REJECTIONS: usize = 4;

/// Draws `centroids` `[num_centroids, sub_dim]` from `points` `[n, sub_dim]`, n at least 1.
pub(crate) fn plus_plus_start(
    simd: Simd,
    points: &[f32],
    sub_dim: usize,
    rng: &mut impl Rng,
    centroids: &mut [f32],
) {
    let mut draw = Draw::new(simd, points, sub_dim);
    let mut next = rng.random_range(0..draw.distances.len());
    for end in (sub_dim..=centroids.len()).step_by(sub_dim) {
        centroids[end - sub_dim..end].copy_from_slice(draw.point(next));
        if end < centroids.len() {
            next = draw.next(&centroids[..end], rng);
        }
    }
}

/// Points to draw from.
struct Draw<'a> {
    simd: Simd,
    points: &'a [f32],
    sub_dim: usize,
    /// Elements of the centroids that the distances are of.
    known: usize,
    /// Each point's squared distance to the nearest of these.
    distances: Vec<f32>,
    /// The sums of the distances up to and with each point's.
    sums: Vec<f64>,
}

impl<'a> Draw<'a> {
    fn new(simd: Simd, points: &'a [f32], sub_dim: usize) -> Self {
        let n = points.len() / sub_dim;
        Draw {
            simd,
            points,
            sub_dim,
            known: 0,
            distances: vec![f32::INFINITY; n],
            sums: vec![f64::INFINITY; n],
        }
    }

    fn point(&self, i: usize) -> &'a [f32] {
        &self.points[i * self.sub_dim..][..self.sub_dim]
    }

    /// The next point after `centroids`; any with the same probability where all distances are 0, or their sum
    /// overflows.
    fn next(&mut self, centroids: &[f32], rng: &mut impl Rng) -> usize {
        let mut rejections = 0;
        loop {
            let total = self.sums[self.sums.len() - 1];
            let can_draw = total > 0.0 && total.is_finite();
            let is_known = self.known == centroids.len();
            if !is_known && (!can_draw || rejections == REJECTIONS) {
                self.bring_up_to_date(centroids);
                continue;
            }
            if !can_draw {
                return rng.random_range(0..self.distances.len());
            }
            let drawn = rng.random::<f64>() * total;
            // The first sum above is of a point that can be drawn; rounding may leave none, then the last such is.
            let i = match self.sums.partition_point(|&sum| sum <= drawn) {
                i if i < self.sums.len() => i,
                _ => self
                    .distances
                    .iter()
                    .rposition(|&d| d > 0.0)
                    .expect("their sum is not 0"),
            };
            let mut now = [self.distances[i]];
            let since = &centroids[self.known..];
            lower_distances(self.simd, since, self.sub_dim, self.point(i), &mut now);
            let then = f64::from(self.distances[i]);
            if is_known || rng.random::<f64>() * then < f64::from(now[0]) {
                return i;
            }
            rejections += 1;
        }
    }

    fn bring_up_to_date(&mut self, centroids: &[f32]) {
        let since = &centroids[self.known..];
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        self.distances
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * sub_dim))
            .for_each(|(distances, points)| {
                lower_distances(simd, since, sub_dim, points, distances);
            });
        let mut total = 0.0;
        for (sum, &distance) in self.sums.iter_mut().zip(&self.distances) {
            total += f64::from(distance);
            *sum = total;
        }
        self.known = centroids.len();
    }
}

on_each_isa! {
    /// Lowers each point's squared distance to that from the nearest of `centroids` where that is nearer.
    fn lower_distances(centroids: &[f32], sub_dim: usize, points: &[f32], distances: &mut [f32])
        = lower_distances_on;
}

#[inline(always)]
fn lower_distances_on<I: Isa>(
    _isa: I,
    centroids: &[f32],
    sub_dim: usize,
    points: &[f32],
    distances: &mut [f32],
) {
    for (point, nearest) in points.chunks_exact(sub_dim).zip(distances) {
        for centroid in centroids.chunks_exact(sub_dim) {
            // Eight sums, which the compiler keeps in one register.
            let mut sums = [0.0f32; 8];
            let (xs, x_rest) = point.as_chunks::<8>();
            let (cs, c_rest) = centroid.as_chunks::<8>();
            for (x, c) in xs.iter().zip(cs) {
                for i in 0..8 {
                    let difference = x[i] - c[i];
                    sums[i] += difference * difference;
                }
            }
            for (x, c) in x_rest.iter().zip(c_rest) {
                sums[0] += (x - c) * (x - c);
            }
            *nearest = nearest.min(sums.iter().sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// How often each three of six points on a line are drawn, against the products of their probabilities.
    #[test]
    fn centroids_are_drawn_by_their_squared_distances() {
        const RUNS: u32 = 200_000;
        let points = [0.0f32, 1.0, 1.5, 4.0, 4.0, 9.0];
        let mut times = std::collections::BTreeMap::new();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let simd = Simd::available()[0];
        for _ in 0..RUNS {
            let mut centroids = [0.0; 3];
            plus_plus_start(simd, &points, 1, &mut rng, &mut centroids);
            *times.entry(centroids.map(f32::to_bits)).or_insert(0u32) += 1;
        }
        let distance = |x: f32, centroids: &[f32]| {
            let distances = centroids.iter().map(|c| (x - c) * (x - c));
            f64::from(distances.fold(f32::INFINITY, f32::min))
        };
        let share = |x: f32, centroids: &[f32]| {
            let total: f64 = points.iter().map(|&x| distance(x, centroids)).sum();
            distance(x, centroids) / total
        };
        let mut expected = std::collections::BTreeMap::new();
        for a in points {
            for b in points {
                for c in points {
                    let probability = share(b, &[a]) * share(c, &[a, b]) / 6.0;
                    let triple = [a, b, c].map(f32::to_bits);
                    *expected.entry(triple).or_insert(0.0) += probability;
                }
            }
        }
        for (triple, probability) in expected {
            let got = f64::from(times.get(&triple).copied().unwrap_or(0));
            let mean = probability * f64::from(RUNS);
            // Five standard deviations.
            let near = 5.0 * (mean * (1.0 - probability)).sqrt();
            let triple = triple.map(f32::from_bits);
            assert!((got - mean).abs() <= near, "{triple:?}: {got} of {mean}");
        }
    }
}
