//! What fifty numbers say.

use serde::{Deserialize, Serialize};

/// Figures of several runs, in the unit of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Stats {
    pub(super) average: f64,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Standard deviation of the runs themselves (divided by their number).
    pub(super) std: f64,
}

impl Stats {
    /// Of at least one run.
    pub(super) fn of(runs: &[f64]) -> Self {
        let count = runs.len() as f64;
        let average = runs.iter().sum::<f64>() / count;
        let variance = runs.iter().map(|x| (x - average).powi(2)).sum::<f64>() / count;
        Stats {
            average,
            median: median(runs.to_vec()),
            min: runs.iter().copied().fold(f64::INFINITY, f64::min),
            max: runs.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            std: variance.sqrt(),
        }
    }
}

/// The middle one, or the mean of the middle two, of at least one.
pub(super) fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    let (low, high) = ((runs.len() - 1) / 2, runs.len() / 2);
    (runs[low] + runs[high]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_known_runs() {
        let stats = Stats::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        let expected = Stats {
            average: 5.0,
            median: 4.5,
            min: 2.0,
            max: 9.0,
            std: 2.0,
        };
        assert_eq!(stats, expected);
        assert_eq!(Stats::of(&[3.0]).std, 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
