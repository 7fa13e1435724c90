//! The start of k-means from a sample: which points, the same on every backend.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

/// The points that codebook `problem` starts from, of `num_points`, at least 1: as many different ones as there are,
/// then the same again.
pub(crate) fn sampled(
    seed: u64,
    problem: usize,
    num_points: usize,
    num_centroids: usize,
) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(problem as u64);
    let distinct = index::sample(&mut rng, num_points, num_points.min(num_centroids));
    let points = distinct.iter().map(|point| point as u32);
    let points: Vec<u32> = points.collect();
    points.into_iter().cycle().take(num_centroids).collect()
}

#[cfg(test)]
mod tests {
    use super::sampled;

    #[test]
    fn a_sample_has_no_point_twice_while_there_are_others() {
        let many = sampled(1, 2, 1000, 64);
        let mut sorted = many.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!((many.len(), sorted.len()), (64, 64));
        assert!(sorted.iter().all(|&point| point < 1000));
        assert_eq!(many, sampled(1, 2, 1000, 64));
        assert_ne!(many, sampled(1, 3, 1000, 64));
        assert_ne!(many, sampled(2, 2, 1000, 64));
        let few = sampled(1, 0, 3, 8);
        assert_eq!(few[..3], few[3..6]);
        assert_eq!(few[..2], few[6..]);
        assert_eq!(sampled(1, 0, 1, 2), [0, 0]);
    }
}
