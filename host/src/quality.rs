//! How good a selection is, measured against exact arithmetic on the keys themselves.
//!
//! Nothing here is part of a step: it is plain f64 over every key, for reports.

use rayon::prelude::*;

use crate::config::{PqConfig, SelectConfig};
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::tensor::{Keys, Queries};

/// The quality of a selection: means over batch, query heads and queries.
///
/// *Mass* is the share of the exact softmax of `q . k / sqrt(head_dim)` over all positions that lies
/// on the listed ones. NaN in a query makes its masses, and the means, NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// Share of the exact `heavy_k` best candidates that is listed; 1 when there is none to list.
    pub recall: f64,
    /// Recall of every (batch, query head), `[batch, num_qo_heads]`.
    pub head_recalls: Vec<f64>,
    /// Recall of a heavy list drawn by lot: `heavy_k` / candidates.
    pub chance_recall: f64,
    /// Mass of the selection.
    pub mass: f64,
    /// Mass of the list that exact inner products give: sink, exact heavy keys, window.
    pub exact_mass: f64,
    /// Mean over the rows of the first mass in terms of the second.
    pub mass_ratio: f64,
    /// Mass of sink and window alone.
    pub fixed_mass: f64,
}

impl Quality {
    /// Measures `selection` of `queries` against the first `selection.seq_len()` tokens of `keys`.
    ///
    /// `pq` and `select` are what the selection was made with: candidates are the positions from
    /// `max(init_offset, sink)` to `seq_len - window`, the best of them are taken by inner product,
    /// equal ones by ascending position, NaN last.
    ///
    /// # Errors
    /// [`Error::Invalid`] when keys, queries and selection do not belong together.
    pub fn measure(
        keys: Keys<'_>,
        queries: Queries<'_>,
        pq: &PqConfig,
        select: &SelectConfig,
        selection: &Selection,
    ) -> Result<Self> {
        check(&keys, &queries, selection)?;
        let [batch, heads, num_queries] = selection.shape();
        let seq_len = selection.seq_len();
        let regions = Regions::new(pq, select, num_queries, seq_len);
        let rows: Vec<Row> = (0..batch * heads * num_queries)
            .into_par_iter()
            .map(|row| {
                let (head, query) = (row / num_queries % heads, row % num_queries);
                let batch = row / num_queries / heads;
                let kv_head = head / (heads / keys.num_kv_heads);
                let group = keys.group(batch * keys.num_kv_heads + kv_head);
                regions.measure(
                    &group[..seq_len * keys.head_dim],
                    queries.query(batch, head, query),
                    selection.positions(batch, head, query),
                )
            })
            .collect();

        let mean = |value: fn(&Row) -> f64| mean(rows.iter().map(value));
        let candidates = regions.candidates.len();
        Ok(Quality {
            recall: mean(|row| row.recall),
            head_recalls: rows
                .chunks(num_queries)
                .map(|rows| self::mean(rows.iter().map(|row| row.recall)))
                .collect(),
            chance_recall: match candidates {
                0 => 1.0,
                _ => regions.heavy_k as f64 / candidates as f64,
            },
            mass: mean(|row| row.mass),
            exact_mass: mean(|row| row.exact_mass),
            mass_ratio: mean(|row| row.mass / row.exact_mass),
            fixed_mass: mean(|row| row.fixed_mass),
        })
    }

    /// The mean of several measurements of equally many heads, as of the steps of a decode loop.
    pub fn mean(measurements: &[Quality]) -> Option<Self> {
        let first = measurements.first()?;
        let mean = |value: fn(&Quality) -> f64| mean(measurements.iter().map(value));
        Some(Quality {
            recall: mean(|quality| quality.recall),
            head_recalls: (0..first.head_recalls.len())
                .map(|head| self::mean(measurements.iter().map(|q| q.head_recalls[head])))
                .collect(),
            chance_recall: mean(|quality| quality.chance_recall),
            mass: mean(|quality| quality.mass),
            exact_mass: mean(|quality| quality.exact_mass),
            mass_ratio: mean(|quality| quality.mass_ratio),
            fixed_mass: mean(|quality| quality.fixed_mass),
        })
    }

    /// The lowest and the highest recall of a head.
    pub fn head_recall_range(&self) -> (f64, f64) {
        let recalls = self.head_recalls.iter();
        recalls.fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(low, high), &recall| (low.min(recall), high.max(recall)),
        )
    }
}

struct Row {
    recall: f64,
    mass: f64,
    exact_mass: f64,
    fixed_mass: f64,
}

/// The contract's division of a context, written down a second time on purpose: a report that called
/// the backends' own code would not notice its mistakes.
struct Regions {
    candidates: std::ops::Range<usize>,
    sink_end: usize,
    window_start: usize,
    heavy_k: usize,
    everything: bool,
}

impl Regions {
    fn new(pq: &PqConfig, select: &SelectConfig, num_queries: usize, seq_len: usize) -> Self {
        let start = pq.init_offset.max(select.sink);
        let end = seq_len.saturating_sub(select.window).max(start);
        Regions {
            candidates: start..end,
            sink_end: select.sink.min(seq_len),
            window_start: seq_len.saturating_sub(select.window),
            heavy_k: select.heavy.min(end - start),
            everything: select.short_context
                && seq_len <= select.heavy + pq.init_offset + num_queries + (1 << pq.bits),
        }
    }

    fn is_fixed(&self, position: usize) -> bool {
        self.everything || position < self.sink_end || position >= self.window_start
    }

    fn measure(&self, keys: &[f32], query: &[f32], listed: &[i32]) -> Row {
        let dots: Vec<f64> = keys
            .chunks(query.len())
            .map(|key| {
                let products = key.iter().zip(query);
                products.map(|(&k, &q)| f64::from(k) * f64::from(q)).sum()
            })
            .collect();
        let best = best_of(&dots, self.candidates.clone(), self.heavy_k);

        let found = listed.iter().filter(|&&p| best[p as usize]).count();
        let recall = match self.heavy_k {
            0 => 1.0,
            heavy_k => found as f64 / heavy_k as f64,
        };

        let scale = 1.0 / (query.len() as f64).sqrt();
        let max = dots.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = dots.iter().map(|dot| ((dot - max) * scale).exp()).collect();
        let all: f64 = weights.iter().sum();
        let mass_of = |is_listed: &dyn Fn(usize) -> bool| {
            let listed = (0..weights.len()).filter(|&p| is_listed(p));
            listed.map(|p| weights[p]).sum::<f64>() / all
        };
        Row {
            recall,
            mass: listed.iter().map(|&p| weights[p as usize]).sum::<f64>() / all,
            exact_mass: mass_of(&|p| self.is_fixed(p) || best[p]),
            fixed_mass: mass_of(&|p| self.is_fixed(p)),
        }
    }
}

/// Which positions are among the `count` best of `candidates`.
fn best_of(dots: &[f64], candidates: std::ops::Range<usize>, count: usize) -> Vec<bool> {
    let mut best = vec![false; dots.len()];
    let mut order: Vec<usize> = candidates.collect();
    if 0 < count && count < order.len() {
        order.select_nth_unstable_by(count - 1, |&a, &b| {
            let descending = dots[b].partial_cmp(&dots[a]);
            // Only NaN is not comparable: false sorts before true, so it comes last.
            let numbers_first = dots[a].is_nan().cmp(&dots[b].is_nan());
            descending.unwrap_or(numbers_first).then(a.cmp(&b))
        });
    }
    for &position in &order[..count] {
        best[position] = true;
    }
    best
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn check(keys: &Keys<'_>, queries: &Queries<'_>, selection: &Selection) -> Result<()> {
    let shape = [queries.batch, queries.num_qo_heads, queries.num_queries];
    if shape != selection.shape() || shape.contains(&0) {
        return Err(Error::invalid(
            "queries",
            format!("{shape:?}"),
            format!("those of the selection, {:?}", selection.shape()),
        ));
    }
    let heads_fit = keys.num_kv_heads > 0 && shape[1].is_multiple_of(keys.num_kv_heads);
    if keys.batch != shape[0]
        || !heads_fit
        || keys.head_dim != queries.head_dim
        || keys.head_dim == 0
        || keys.tokens < selection.seq_len()
    {
        let (batch, heads) = (keys.batch, keys.num_kv_heads);
        let (tokens, head_dim) = (keys.tokens, keys.head_dim);
        return Err(Error::invalid(
            "keys",
            format!("{:?}", [batch, heads, tokens, head_dim]),
            format!(
                "batch {}, a divisor of {} heads, at least {} tokens, head_dim {}",
                shape[0],
                shape[1],
                selection.seq_len(),
                queries.head_dim
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, KeyIndex, Selector, TrainConfig};

    #[test]
    fn the_best_are_taken_in_order() {
        let dots = [9.0, 1.0, f64::NAN, 3.0, 3.0, -1.0, 9.0];
        let best = |count| {
            let best = best_of(&dots, 1..6, count);
            (0..7).filter(|&p| best[p]).collect::<Vec<_>>()
        };
        assert_eq!(best(0), [0; 0]);
        assert_eq!(best(1), [3]);
        assert_eq!(best(2), [3, 4]);
        assert_eq!(best(4), [1, 3, 4, 5]);
        assert_eq!(best(5), [1, 2, 3, 4, 5]);
    }

    /// With a centroid for every key the scores are the inner products, so nothing is missed.
    #[test]
    fn an_exact_codebook_has_full_recall() {
        let keys: Vec<f32> = (0..64 * 2).map(|i| (i * 29 % 61) as f32 / 8.0).collect();
        let keys = Keys::new(&keys, [1, 1, 64, 2]).unwrap();
        let queries = Queries::new(&[1.0, 0.5, -1.0, 0.25], [1, 2, 1, 2]).unwrap();
        let pq = PqConfig {
            num_subvectors: 2,
            bits: 8,
            init_offset: 4,
            ..PqConfig::default()
        };
        let select = SelectConfig {
            sink: 4,
            window: 8,
            heavy: 5,
            short_context: false,
            ..SelectConfig::default()
        };
        let index = KeyIndex::train(&pq, &TrainConfig::default(), keys, 64).unwrap();
        let mut selector = Selector::new(&Backend::Cpu, index, select, 2, 1).unwrap();
        let selection = selector.select(queries).unwrap();
        let quality = Quality::measure(keys, queries, &pq, &select, selection).unwrap();
        assert_eq!(quality.recall, 1.0);
        assert_eq!(quality.head_recalls, [1.0, 1.0]);
        assert_eq!(quality.head_recall_range(), (1.0, 1.0));
        assert!((quality.mass - quality.exact_mass).abs() < 1e-12);
        assert!(quality.fixed_mass < quality.mass && quality.mass < 1.0);
        assert!((quality.chance_recall - 5.0 / 52.0).abs() < 1e-12);
        assert_eq!(
            Quality::mean(&[quality.clone(), quality.clone()]),
            Some(quality)
        );
    }
}
