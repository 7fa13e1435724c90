//! A plain k-means, which training's codebooks are held against.

use crate::oracle::distance_f64;

/// Moves `centroids` to the means of their `points`; the sum of the points' squared distances to the nearest before that.
pub fn iteration(points: &[Vec<f32>], centroids: &mut [Vec<f32>]) -> f64 {
    let mut sums = vec![vec![0.0; centroids[0].len()]; centroids.len()];
    let mut counts = vec![0.0; centroids.len()];
    let mut inertia = 0.0;
    for point in points {
        let distances = centroids.iter().map(|c| distance_f64(point, c)).enumerate();
        let nearest = distances.min_by(|a, b| a.1.total_cmp(&b.1));
        let (nearest, distance) = nearest.expect("there are centroids");
        inertia += distance;
        counts[nearest] += 1.0;
        for (sum, &x) in sums[nearest].iter_mut().zip(point) {
            *sum += f64::from(x);
        }
    }
    for ((centroid, sums), count) in centroids.iter_mut().zip(sums).zip(counts) {
        if count > 0.0 {
            *centroid = sums.iter().map(|sum| (sum / count) as f32).collect();
        }
    }
    inertia
}
