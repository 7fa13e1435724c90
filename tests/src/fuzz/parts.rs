//! Sizes, configurations and indices out of a fuzzer's bytes.

use arbitrary::{Result, Unstructured};
use keysieve::{IndexParts, Metric, PqConfig, SelectConfig};

/// Any size: mostly a small one, else one around a power of two, else any.
pub(super) fn any_size(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=9)? {
        0..=6 => u.int_in_range(0..=9)?,
        7 | 8 => {
            let power = 1usize << u.int_in_range(0..=63)?;
            power.wrapping_add(u.int_in_range(0..=2)?).wrapping_sub(1)
        }
        _ => u.arbitrary()?,
    })
}

/// Any format of codes, mostly one that cannot be.
pub(super) fn any_pq(u: &mut Unstructured<'_>) -> Result<PqConfig> {
    Ok(PqConfig {
        num_subvectors: any_size(u)?,
        bits: any_size(u)? as u32,
        init_offset: any_size(u)?,
        metric: Metric::L2,
    })
}

/// Any choice of what is listed.
pub(super) fn any_select(u: &mut Unstructured<'_>) -> Result<SelectConfig> {
    Ok(SelectConfig {
        sink: any_size(u)?,
        window: any_size(u)?,
        heavy: any_size(u)?,
        short_context: u.arbitrary()?,
        weights: u.arbitrary()?,
        ..SelectConfig::default()
    })
}

/// A small choice of what is listed, valid.
pub(super) fn small_select(u: &mut Unstructured<'_>) -> Result<SelectConfig> {
    Ok(SelectConfig {
        sink: u.int_in_range(0..=20)?,
        window: u.int_in_range(0..=20)?,
        heavy: u.int_in_range(0..=20)?,
        short_context: u.arbitrary()?,
        weights: u.arbitrary()?,
        ..SelectConfig::default()
    })
}

/// A small index, valid, of any floats.
pub(super) fn small_index(u: &mut Unstructured<'_>) -> Result<IndexParts> {
    let config = PqConfig {
        num_subvectors: u.int_in_range(1..=4)?,
        bits: u.int_in_range(1..=4)?,
        init_offset: u.int_in_range(0..=20)?,
        metric: Metric::L2,
    };
    let sub_dim: usize = u.int_in_range(1..=9)?;
    let [batch, num_kv_heads] = [u.int_in_range(1..=2)?, u.int_in_range(1..=3)?];
    let num_codes: usize = u.int_in_range(0..=60)?;
    let groups = batch * num_kv_heads;
    let codes = (0..groups * num_codes * config.num_subvectors)
        .map(|_| Ok(u.arbitrary::<u8>()? & (config.num_centroids() - 1) as u8));
    let codes = codes.collect::<Result<_>>()?;
    Ok(IndexParts {
        config,
        batch,
        num_kv_heads,
        head_dim: config.num_subvectors * sub_dim,
        num_codes,
        centroids: floats(u, groups * config.table_len() * sub_dim)?,
        augmentation: None,
        codes,
    })
}

/// `len` floats of any bits: a few that are given in turn, so that many are equal.
pub(super) fn floats(u: &mut Unstructured<'_>, len: usize) -> Result<Vec<f32>> {
    let distinct: usize = u.int_in_range(1..=64)?;
    let values = (0..distinct).map(|_| Ok(f32::from_bits(u.arbitrary()?)));
    let values = values.collect::<Result<Vec<f32>>>()?;
    // Not in step with centroids and components, whose numbers are mostly even.
    Ok((0..len).map(|i| values[(i + i / 7) % distinct]).collect())
}
