//! The plan of k-means, the same on every backend: which points each iteration sees, how far centroids go, and when it may
//! be the last.
//!
//! Of many points the first iterations see samples, and go beyond the means of their points: what Lloyd's iterations gain
//! is gained sooner so.

use gpu_kernels::kmeans::{ORDER_BLOCK, TILE};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::TrainConfig;

/// Points from which on the start and the first iterations see samples of them.
const LARGE: usize = 8192;
/// The samples: one in so many blocks of points, if these are so many points for each centroid, and one more.
const SAMPLED: usize = 4;
const SAMPLED_PER_CENTROID: usize = 60;
/// Points that keep together in the samples' order.
pub(crate) const POINTS_PER_BLOCK: usize = ORDER_BLOCK as usize;
/// Samples have a multiple of this many points: whole tasks on a CPU, whole tiles on a GPU.
pub(crate) const POINTS_PER_SAMPLE_PART: usize = 256;
const _: () = assert!(POINTS_PER_SAMPLE_PART.is_multiple_of(TILE as usize));
/// The last iterations, which see all points, and those before them, which see the larger sample.
const LAST_ITERATIONS: [usize; 2] = [3, 4];
/// How much farther than to the mean of its points a centroid goes, of many points and but for the first time and the last.
const BEYOND: f32 = 0.7;

/// The plan for one codebook.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    num_points: usize,
    iterations: usize,
    /// None for few points.
    pub(crate) samples: Option<Samples>,
}

/// Samples of many points, the first of an order of all. Of each so many blocks one is drawn by lot: what comes again at
/// a distance, as positions in documents of one length, is in no sample more than in all points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Samples {
    /// The blocks in their new order, of which the last alone may have fewer points.
    pub(crate) order: Vec<u32>,
    /// Where the smaller and the larger sample end, in points.
    ends: [usize; 2],
}

/// What one iteration does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Iteration {
    /// So many of the first points take part.
    pub(crate) num_points: usize,
    /// By how many times its way to the mean a centroid goes beyond that, if iterations go on.
    pub(crate) beyond: f32,
    pub(crate) stop: Stop,
}

/// When iterations stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Not here: a sample was seen.
    Never,
    /// Where codes are those of the iteration before: this one goes to the means and no farther, and stops where
    /// that is within the tolerance.
    SameCodes,
    /// Where the way to the means is within the tolerance: this one goes no farther.
    Settled,
}

impl Plan {
    pub(crate) fn new(num_points: usize, num_centroids: usize, training: &TrainConfig) -> Self {
        Plan {
            num_points,
            iterations: training.iterations,
            samples: Samples::new(num_points, num_centroids, training.seed),
        }
    }

    /// Points of the order's front that a start of its own sees.
    pub(crate) fn start_points(&self) -> usize {
        self.samples
            .as_ref()
            .map_or(self.num_points, |samples| samples.ends[0])
    }

    pub(crate) fn iterations(&self) -> impl Iterator<Item = Iteration> + use<> {
        let (num_points, iterations) = (self.num_points, self.iterations);
        let ends = self.samples.as_ref().map(|samples| samples.ends);
        (0..iterations).map(move |iteration| {
            let left = iterations - iteration;
            let Some(ends) = ends else {
                return Iteration {
                    num_points,
                    beyond: 0.0,
                    stop: Stop::Settled,
                };
            };
            let [all, larger] = LAST_ITERATIONS;
            let (num_points, stop) = match left {
                1 => (num_points, Stop::Settled),
                left if left <= all => (num_points, Stop::SameCodes),
                left if left <= all + larger => (ends[1], Stop::Never),
                _ => (ends[0], Stop::Never),
            };
            let goes_beyond = iteration > 0 && stop != Stop::Settled;
            Iteration {
                num_points,
                beyond: if goes_beyond { BEYOND } else { 0.0 },
                stop,
            }
        })
    }
}

impl Samples {
    /// None for few points.
    fn new(num_points: usize, num_centroids: usize, seed: u64) -> Option<Self> {
        let are_enough = |points: usize| points >= num_centroids * SAMPLED_PER_CENTROID;
        if num_points < LARGE || !are_enough(2 * num_points / SAMPLED) {
            return None;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let whole = num_points / (SAMPLED * POINTS_PER_BLOCK);
        let mut order = vec![0; whole * SAMPLED];
        for group in 0..whole {
            let mut of_group: [u32; SAMPLED] =
                std::array::from_fn(|i| (group * SAMPLED + i) as u32);
            for i in 0..2 {
                of_group.swap(i, rng.random_range(i..SAMPLED));
                order[i * whole + group] = of_group[i];
            }
            let behind = 2 * whole + group * (SAMPLED - 2);
            order[behind..behind + SAMPLED - 2].copy_from_slice(&of_group[2..]);
        }
        let first = order.len() as u32;
        order.extend(first..num_points.div_ceil(POINTS_PER_BLOCK) as u32);
        let parts = |points: usize| points / POINTS_PER_SAMPLE_PART * POINTS_PER_SAMPLE_PART;
        let [one, two] = [1, 2].map(|n| parts(n * whole * POINTS_PER_BLOCK));
        let smaller = if are_enough(one) { one } else { two };
        Some(Samples {
            order,
            ends: [smaller, two],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(num_points: usize, num_centroids: usize, iterations: usize) -> Plan {
        let training = TrainConfig {
            iterations,
            seed: 5,
            ..TrainConfig::default()
        };
        Plan::new(num_points, num_centroids, &training)
    }

    #[test]
    fn the_last_iterations_see_all_points() {
        let steps = |iterations| -> Vec<(usize, f32, Stop)> {
            plan(9000, 16, iterations)
                .iterations()
                .map(|step| (step.num_points, step.beyond, step.stop))
                .collect()
        };
        // 140 times 4 blocks of 16 points: a quarter of them is 2,240 points, whole parts of which are these.
        let (smaller, larger) = (2048, 4352);
        let all = [
            (smaller, 0.0, Stop::Never),
            (smaller, BEYOND, Stop::Never),
            (larger, BEYOND, Stop::Never),
            (larger, BEYOND, Stop::Never),
            (larger, BEYOND, Stop::Never),
            (larger, BEYOND, Stop::Never),
            (9000, BEYOND, Stop::SameCodes),
            (9000, BEYOND, Stop::SameCodes),
            (9000, 0.0, Stop::Settled),
        ];
        assert_eq!(steps(9), all);
        assert_eq!(steps(0), []);
        assert_eq!(steps(1), all[8..]);
        assert_eq!(steps(3)[1..], all[7..]);
        assert_eq!(steps(3)[0], (9000, 0.0, Stop::SameCodes));
        assert_eq!(steps(4)[0], (larger, 0.0, Stop::Never));
        assert_eq!(steps(4)[1..], all[6..]);
    }

    #[test]
    fn few_points_are_all_seen() {
        for (num_points, num_centroids) in [(8191, 1), (9000, 128), (30_000, 256)] {
            let few = plan(num_points, num_centroids, 4);
            assert_eq!(few.samples, None);
            assert_eq!(few.start_points(), num_points);
            assert!(few.iterations().all(|step| step
                == Iteration {
                    num_points,
                    beyond: 0.0,
                    stop: Stop::Settled,
                }));
        }
        assert_eq!(plan(9000, 32, 1).start_points(), 2048);
        // A quarter has fewer than so many points for each centroid.
        assert_eq!(plan(9000, 64, 1).start_points(), 4352);
        assert_eq!(plan(8192, 1, 1).start_points(), 2048);
        assert_eq!(plan(31_872, 256, 1).start_points(), 15_872);
    }

    #[test]
    fn each_sample_has_one_block_of_four() {
        let (num_points, groups) = (9000, 140);
        let order = plan(num_points, 16, 1).samples.unwrap().order;
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..563));
        for part in [&order[..groups], &order[groups..2 * groups]] {
            assert!(part.iter().map(|block| block / 4).eq(0..140));
            let places: Vec<usize> = (0..4)
                .map(|place| part.iter().filter(|&block| block % 4 == place).count())
                .collect();
            assert!(places.iter().all(|&count| count > 15), "{places:?}");
        }
        // What is in no whole group stays behind.
        assert_eq!(order[560..], [560, 561, 562]);
    }
}
