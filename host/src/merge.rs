//! Lists of shards of one context, merged: context parallelism.
//!
//! A shard holds the codes of a stretch of the context, under the centroids of the whole, and selects with
//! [`shard_config`], which makes its candidates those of the whole context in its stretch. The best of the
//! whole are among the best of each, so [`merge_selections`] needs no more than those, with their scores, and
//! gives the list that one machine would have given.

use std::ops::Range;

use gpu_kernels::order::{rank, rank_position};
use gpu_kernels::step::StepShape;

use crate::config::{Aggregation, MAX_TOKENS, PqConfig, SelectConfig};
use crate::cpu::{index_list, indices, weights};
use crate::error::{Error, Result};
use crate::selection::Selection;

/// What the shard that holds positions `range` of a context of `seq_len` selects with, so that its list can
/// be merged: `config` is the whole context's, `pq` its format. The shard counts positions from
/// `range.start` on; the codes of the first one begin at `init_offset`, those of others at their position 0.
///
/// It changes as the context grows: shards before the window lose their part of it.
///
/// # Errors
/// [`Error::Invalid`] for a configuration that cannot be, a range that is not in the context, scores that
/// cannot be merged ([`Aggregation::SoftmaxSum`] needs the whole context), or where the window of only some
/// of several causal queries begins in the shard.
pub fn shard_config(
    config: &SelectConfig,
    pq: &PqConfig,
    num_queries: usize,
    seq_len: usize,
    range: Range<usize>,
) -> Result<SelectConfig> {
    config.validate()?;
    pq.validate_ranges()?;
    check_aggregation(config)?;
    if range.start > range.end || range.end > seq_len {
        return Err(Error::invalid(
            "range",
            format!("{range:?}"),
            format!("a range of the context's {seq_len} positions"),
        ));
    }
    let behind = seq_len - range.end;
    // Each query but the last sees fewer positions, and so its window begins earlier.
    let hidden = if config.causal {
        num_queries.saturating_sub(1)
    } else {
        0
    };
    let is_before = behind >= config.window.saturating_add(hidden);
    if behind > config.window && !is_before {
        return Err(Error::invalid(
            "range",
            format!("{range:?}"),
            format!(
                "an end at most {} or at least {}, as the windows of {num_queries} queries begin between",
                seq_len.saturating_sub(config.window + hidden),
                seq_len.saturating_sub(config.window),
            ),
        ));
    }
    Ok(SelectConfig {
        sink: config.sink.max(pq.init_offset).saturating_sub(range.start),
        window: config.window.saturating_sub(behind),
        causal: config.causal && !is_before,
        short_context: false,
        weights: false,
        scores: true,
        indices: None,
        ..*config
    })
}

/// The list of the whole context from those of its shards, which come in the order of the context and were
/// made with [`shard_config`]; a shard's length is its `seq_len`. Equal scores are taken by position, as
/// everywhere.
///
/// # Errors
/// [`Error::Invalid`] for no shard, shards of different shapes, without scores or with another rule for
/// heads, with fewer heavy keys than `config` asks for, slots, or whose candidates are not the whole context's.
pub fn merge_selections(
    shards: &[&Selection],
    pq: &PqConfig,
    config: &SelectConfig,
) -> Result<Selection> {
    config.validate()?;
    pq.validate_ranges()?;
    config.check_no_slots()?;
    check_aggregation(config)?;
    let Some(first) = shards.first() else {
        return Err(Error::invalid("shards", 0, "at least one"));
    };
    let [batch, heads, num_queries] = first.shape();
    let mut seq_len = 0;
    for (i, shard) in shards.iter().enumerate() {
        check_shard(i, shard, first, config)?;
        seq_len += shard.seq_len;
    }
    if seq_len > MAX_TOKENS {
        return Err(Error::invalid(
            "shards",
            format!("{seq_len} positions"),
            format!("at most {MAX_TOKENS}"),
        ));
    }
    let limit = config.short_context_limit(pq, num_queries).min(MAX_TOKENS);
    let shape = StepShape {
        num_kv_heads: heads as u32,
        num_qo_heads: heads as u32,
        num_queries: num_queries as u32,
        init_offset: pq.init_offset as u32,
        sink: config.sink as u32,
        window: config.window as u32,
        heavy: config.heavy as u32,
        short_context_limit: limit as u32,
        list_stride: (config.sink + config.heavy + config.window)
            .max(limit.min(seq_len))
            .max(1) as u32,
        weights_stride: if config.weights { seq_len as u32 } else { 0 },
        causal: u32::from(config.causal),
        aggregation: config.aggregation.code(),
        scores_stride: if config.scores {
            config.heavy as u32
        } else {
            0
        },
        ..StepShape::default()
    };
    let mut merged = Selection::new(&shape, batch, config);
    merged.seq_len = seq_len;
    let mut candidates = Vec::new();
    for row in 0..merged.lengths.len() {
        merge_row(shards, &mut merged, row, &mut candidates)?;
    }
    indices::indices(&mut merged, 0, &[], 0);
    Ok(merged)
}

fn check_aggregation(config: &SelectConfig) -> Result<()> {
    if config.aggregation == Aggregation::SoftmaxSum {
        return Err(Error::invalid(
            "aggregation",
            "SoftmaxSum",
            "one whose scores need no other candidates",
        ));
    }
    Ok(())
}

fn check_shard(
    i: usize,
    shard: &Selection,
    first: &Selection,
    config: &SelectConfig,
) -> Result<()> {
    let argument = || format!("shards: {i}");
    if shard.shape() != first.shape() {
        return Err(Error::invalid(
            argument(),
            format!("lists {:?}", shard.shape()),
            format!("{:?}, as the first has", first.shape()),
        ));
    }
    if !shard.has_scores || shard.shape.aggregation != config.aggregation.code() {
        return Err(Error::invalid(
            argument(),
            "no scores of that kind",
            format!("scores by {:?}", config.aggregation),
        ));
    }
    if (shard.shape.heavy as usize) < config.heavy {
        return Err(Error::invalid(
            argument(),
            format!("heavy {}", shard.shape.heavy),
            format!("at least {}", config.heavy),
        ));
    }
    Ok(())
}

/// Merges one row; `candidates` is room for (rank, score).
fn merge_row(
    shards: &[&Selection],
    merged: &mut Selection,
    row: usize,
    candidates: &mut Vec<(u64, f32)>,
) -> Result<()> {
    let regions = merged.regions(row);
    let heavy_k = regions.heavy_k(merged.shape.heavy) as usize;
    let whole = regions.candidates_start..regions.candidates_end.max(regions.candidates_start);
    candidates.clear();
    let mut start = 0;
    for (i, shard) in shards.iter().enumerate() {
        let (end, own) = (start + shard.seq_len as u32, shard.regions(row));
        let expected = whole.start.clamp(start, end)..whole.end.clamp(start, end);
        let got = start + own.candidates_start..start + own.candidates_end;
        if got.len() != expected.len() || !(got.is_empty() || got == expected) {
            return Err(Error::invalid(
                format!("shards: {i}"),
                format!("candidates {got:?} of the context"),
                format!("{expected:?}, as shard_config makes them"),
            ));
        }
        let (positions, scores) = shard.heavy_of_row(row);
        let ranks = positions
            .iter()
            .map(|&position| start + position as u32)
            .zip(scores)
            .map(|(position, &score)| (rank(score, position), score));
        candidates.extend(ranks);
        start = end;
    }
    if let Some(last) = heavy_k.checked_sub(1) {
        candidates.select_nth_unstable_by(last, |a, b| b.0.cmp(&a.0));
        candidates.truncate(heavy_k);
        candidates.sort_unstable_by_key(|candidate| rank_position(candidate.0));
    }
    let heavy: Vec<i32> = candidates
        .iter()
        .take(heavy_k)
        .map(|candidate| rank_position(candidate.0) as i32)
        .collect();

    let (shape, stride) = (merged.shape, merged.list_stride);
    let positions = &mut merged.positions[row * stride..][..stride];
    let length = index_list::index_list(&shape, regions.seq_len, &heavy, positions);
    merged.lengths[row] = length;
    if merged.has_weights {
        let stride = merged.weights_stride;
        let weights = &mut merged.weights[row * stride..][..stride];
        weights::weights(&positions[..length as usize], weights);
    }
    if merged.has_scores {
        let at = row * shape.scores_stride as usize;
        merged.heavy_positions[at..][..heavy_k].copy_from_slice(&heavy);
        let scores = &mut merged.heavy_scores[at..][..heavy_k];
        for (to, candidate) in scores.iter_mut().zip(candidates) {
            *to = candidate.1;
        }
    }
    Ok(())
}
