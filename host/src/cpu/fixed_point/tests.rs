//! The filter against the exact search, by every instruction set.

use super::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Nearly normal numbers.
fn normal(rng: &mut impl Rng, len: usize) -> Vec<f32> {
    let number = |_| (0..6).map(|_| rng.random::<f32>() - 0.5).sum::<f32>();
    (0..len).map(number).collect()
}

/// The codes by every instruction set are those of the exact search; the share of points in doubt.
fn check(points: &[f32], centroids: &[f32], stride: usize, sub_dim: usize) -> Option<f64> {
    let n = points.len().div_ceil(stride);
    let lanes = CentroidLanes::new(centroids, sub_dim);
    let fixed_centroids = FixedCentroids::new(centroids, sub_dim);
    let mut share = None;
    for simd in Simd::available() {
        let mut expected = vec![0; n];
        nearest_centroids(simd, &lanes, points, stride, &mut expected, 1, &mut []);
        let mut fixed = FixedPoints::new(simd, points, stride, sub_dim);
        let filter = fixed.scale.and_then(|s| Filter::new(s, &fixed_centroids));
        share = filter.map(|filter| {
            let (mut codes, mut in_doubt) = (vec![0; n], Vec::new());
            scan(
                simd,
                &fixed,
                &fixed_centroids,
                &filter,
                &mut codes,
                1,
                &mut in_doubt,
            );
            in_doubt.len() as f64 / n as f64
        });
        let mut codes = vec![0; 3 * n];
        let both = (&fixed_centroids, &lanes);
        nearest_of_many(simd, &mut fixed, both, points, stride, &mut codes, 3);
        let codes: Vec<u8> = codes.into_iter().step_by(3).collect();
        assert_eq!(codes, expected, "{} sub_dim {sub_dim}", simd.name());
    }
    share
}

#[test]
fn codes_are_those_of_the_exact_search() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for sub_dim in [1, 2, 7, 8, 9, 33, 64, 257] {
        for (num_centroids, n) in [(2, 1), (4, 17), (64, 130), (256, 40)] {
            let stride = sub_dim + sub_dim % 3;
            let len = (n - 1) * stride + sub_dim;
            let points = normal(&mut rng, len);
            let centroids = normal(&mut rng, num_centroids * sub_dim);
            check(&points, &centroids, stride, sub_dim);
            // Whole numbers: many are equally near.
            let whole = |x: &[f32]| x.iter().map(|x| (2.0 * x).round()).collect::<Vec<_>>();
            check(&whole(&points), &whole(&centroids), stride, sub_dim);
            // From numbers that underflow to numbers whose sums overflow.
            for exponent in [-140, -40, 63, 126] {
                let scaled = |x: &[f32], exponent: i32| {
                    let x = x.iter().map(|&x| f64::from(x) * 2f64.powi(exponent));
                    x.map(|x| (x as f32).clamp(f32::MIN, f32::MAX))
                        .collect::<Vec<_>>()
                };
                let (large, small) = (scaled(&points, exponent), scaled(&centroids, -3));
                check(&large, &scaled(&centroids, exponent), stride, sub_dim);
                check(&large, &small, stride, sub_dim);
            }
            // One that is far longer than the others, and points on centroids.
            let mut mixed = points.clone();
            mixed[len / 2] = 1e6;
            check(&mixed, &centroids, stride, sub_dim);
            let same: Vec<f32> = centroids
                .iter()
                .copied()
                .cycle()
                .take(n * sub_dim)
                .collect();
            check(&same, &centroids, sub_dim, sub_dim);
            check(
                &vec![0.0; len],
                &vec![0.0; centroids.len()],
                stride,
                sub_dim,
            );
        }
    }
}

#[test]
fn few_points_are_in_doubt() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (sub_dim, num_centroids) in [(16, 256), (64, 64), (64, 256)] {
        let points = normal(&mut rng, 1024 * sub_dim);
        let centroids: Vec<f32> = points[..num_centroids * sub_dim]
            .iter()
            .map(|x| x / 2.0)
            .collect();
        let share = check(&points, &centroids, sub_dim, sub_dim);
        let share = share.expect("usual numbers have a bound");
        assert!(share < 0.05, "{share} of {sub_dim} components are in doubt");
    }
}
