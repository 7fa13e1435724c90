//! The answer, by a plain loop over the contract that shares no code with the backends: what it and
//! a backend disagree on is not timed.

use keysieve::{KeyIndex, Queries, Selection};
use rayon::prelude::*;

use super::data::Data;
use super::shape::Shape;

/// Steps that are checked.
pub(super) const STEPS: usize = 3;

/// Two ways to the answer that do not agree.
#[derive(Debug, thiserror::Error)]
#[error("the answer is wrong, so nothing was timed: {0}")]
pub(in crate::cli) struct Mismatch(pub(super) String);

type Result<T> = std::result::Result<T, Mismatch>;

/// Whether `index` has, at every `token` in `tokens`, the codes of the key there.
pub(super) fn codes(data: &Data<'_>, index: &KeyIndex, tokens: &[usize]) -> Result<()> {
    let shape = data.shape;
    let m = shape.num_subvectors;
    for &token in tokens {
        let keys = data.keys(token..token + 1);
        let wrong = |group: usize| {
            let key = &keys[group * shape.head_dim..(group + 1) * shape.head_dim];
            let at = (group * index.code_capacity() + token - shape.init_offset) * m;
            let expected = plain_codes(shape, centroids_of(shape, index, group), key);
            let got = &index.padded_codes()[at..at + m];
            (got != expected).then(|| {
                Mismatch(format!(
                    "codes of token {token}, {}: got {got:?}, expected {expected:?}",
                    in_words(group, shape.num_kv_heads),
                ))
            })
        };
        if let Some(mismatch) = (0..shape.groups()).into_par_iter().find_map_first(wrong) {
            return Err(mismatch);
        }
    }
    Ok(())
}

/// Whether `selection` is what `queries` give on `index`.
pub(super) fn selection(
    shape: &Shape,
    index: &KeyIndex,
    queries: Queries<'_>,
    selection: &Selection,
) -> Result<()> {
    let wrong = |row: usize| {
        let (batch, head) = (row / shape.num_qo_heads, row % shape.num_qo_heads);
        let expected = plain_list(shape, index, queries.query(batch, head, 0), row);
        let got = selection.positions(batch, head, 0);
        let stride = selection.list_stride();
        let padding = &selection.padded_positions()[row * stride..][got.len()..stride];
        let weights = selection.weights(batch, head, 0);
        let what = if got != expected {
            let at = got.iter().zip(&expected).position(|(a, b)| a != b);
            let at = at.unwrap_or(got.len().min(expected.len()));
            let (got, expected) = (got.get(at), expected.get(at));
            format!("list entry {at}: got {got:?}, expected {expected:?}")
        } else if padding.iter().any(|&position| position != -1) {
            "a list is not padded with -1".to_owned()
        } else if weights.is_some_and(|weights| weights != plain_weights(index, &expected)) {
            "dense weights are not 1 at the listed positions and 0 elsewhere".to_owned()
        } else {
            return None;
        };
        let place = in_words(row, shape.num_qo_heads);
        let seq_len = index.seq_len();
        Some(Mismatch(format!("{place}, {seq_len} positions: {what}")))
    };
    match (0..shape.rows()).into_par_iter().find_map_first(wrong) {
        Some(mismatch) => Err(mismatch),
        None => Ok(()),
    }
}

/// Whether two backends gave the same, padding and weights included.
pub(super) fn same(how: &str, got: &Selection, expected: &Selection) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let [batch, heads, _] = expected.shape();
    let rows = (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h)));
    let row = rows
        .filter(|&(b, h)| got.positions(b, h, 0) != expected.positions(b, h, 0))
        .map(|(b, h)| format!(", first in the list of batch {b}, head {h}"))
        .next();
    Err(Mismatch(format!(
        "{how} differs from the CPU at {} positions{}",
        expected.seq_len(),
        row.unwrap_or_else(|| ", not in the lists but in padding or weights".to_owned()),
    )))
}

/// Whether two backends encoded the appended keys alike.
pub(super) fn same_codes(got: &KeyIndex, expected: &KeyIndex) -> Result<()> {
    if got.seq_len() == expected.seq_len() && got.to_parts().codes == expected.to_parts().codes {
        return Ok(());
    }
    Err(Mismatch("the GPU's codes differ from the CPU's".to_owned()))
}

/// Each sub-vector's nearest centroid: the largest `x . c - |c|^2 / 2`, the first one of equals.
fn plain_codes(shape: &Shape, centroids: &[f32], key: &[f32]) -> Vec<u8> {
    let sub_dim = shape.sub_dim();
    let codebooks = centroids.chunks(sub_dim << shape.bits);
    let nearest = |(x, codebook): (&[f32], &[f32])| {
        let mut best = (0, f32::NEG_INFINITY);
        for (code, centroid) in codebook.chunks(sub_dim).enumerate() {
            let mut norm = 0.0f32;
            for c in centroid {
                norm = c.mul_add(*c, norm);
            }
            let mut affinity = -(norm * 0.5);
            for (x, c) in x.iter().zip(centroid) {
                affinity = x.mul_add(*c, affinity);
            }
            if affinity > best.1 {
                best = (code as u8, affinity);
            }
        }
        best.0
    };
    key.chunks(sub_dim).zip(codebooks).map(nearest).collect()
}

/// A row's list: every candidate scored and sorted, then sink, heavy keys and window put together.
fn plain_list(shape: &Shape, index: &KeyIndex, query: &[f32], row: usize) -> Vec<i32> {
    let (seq_len, m) = (index.seq_len(), shape.num_subvectors);
    if seq_len <= shape.heavy + shape.init_offset + 1 + (1 << shape.bits) {
        return (0..seq_len as i32).collect();
    }
    let group = row / (shape.num_qo_heads / shape.num_kv_heads);
    let table = plain_table(shape, centroids_of(shape, index, group), query);
    let codes = &index.padded_codes()[group * index.code_capacity() * m..];
    let mut scored: Vec<(f32, usize)> = (shape.init_offset.max(shape.sink)
        ..seq_len.saturating_sub(shape.window))
        .map(|position| {
            let codes = &codes[(position - shape.init_offset) * m..][..m];
            let mut score = table[usize::from(codes[0])];
            for (j, &code) in codes.iter().enumerate().skip(1) {
                score += table[(j << shape.bits) + usize::from(code)];
            }
            (score, position)
        })
        .collect();
    // 0.0 is added so that -0.0 equals +0.0.
    scored.sort_by(|a, b| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1)));

    let heavy = scored
        .iter()
        .take(shape.heavy)
        .map(|&(_, position)| position);
    let sink = 0..shape.sink.min(seq_len);
    let window = seq_len.saturating_sub(shape.window)..seq_len;
    let mut list: Vec<i32> = sink.chain(heavy).chain(window).map(|p| p as i32).collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// Inner products in the contract's order: eight sums of every eighth component, then a tree.
fn plain_table(shape: &Shape, centroids: &[f32], query: &[f32]) -> Vec<f32> {
    let sub_dim = shape.sub_dim();
    let entry = |(at, centroid): (usize, &[f32])| {
        let query = &query[(at >> shape.bits) * sub_dim..];
        let mut sums = [0.0f32; 8];
        for (i, c) in centroid.iter().enumerate() {
            sums[i % 8] = query[i].mul_add(*c, sums[i % 8]);
        }
        let pairs = [0, 2, 4, 6].map(|i| sums[i] + sums[i + 1]);
        (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
    };
    centroids.chunks(sub_dim).enumerate().map(entry).collect()
}

fn plain_weights(index: &KeyIndex, list: &[i32]) -> Vec<f32> {
    let mut weights = vec![0.0; index.seq_len()];
    for &position in list {
        weights[position as usize] = 1.0;
    }
    weights
}

fn centroids_of<'a>(shape: &Shape, index: &'a KeyIndex, group: usize) -> &'a [f32] {
    let len = shape.head_dim << shape.bits;
    &index.centroids()[group * len..(group + 1) * len]
}

fn in_words(at: usize, heads: usize) -> String {
    format!("batch {}, head {}", at / heads, at % heads)
}

#[cfg(test)]
mod tests {
    use super::super::progress::Progress;
    use super::super::shape::SHAPES;
    use super::*;
    use keysieve::{Backend, Selector};

    #[test]
    fn other_keys_and_other_queries_are_noticed() {
        let shape = Shape {
            num_qo_heads: 4,
            num_kv_heads: 2,
            tokens: 700,
            ..SHAPES[0].clone()
        };
        let data = |seed| Data {
            shape: &shape,
            seed,
        };
        let index = data(1).index(700, 700, &Progress::new(true)).unwrap();
        assert!(codes(&data(1), &index, &[128, 699]).is_ok());
        assert!(codes(&data(2), &index, &[699]).is_err());

        let mut selector =
            Selector::new(&Backend::Cpu, index.clone(), shape.select(), 4, 1).unwrap();
        let (asked, others) = (data(1).queries(0), data(1).queries(1));
        let (asked, others) = (
            data(1).as_queries(&asked).unwrap(),
            data(1).as_queries(&others).unwrap(),
        );
        let selected = selector.select(asked).unwrap().clone();
        assert!(selection(&shape, &index, asked, &selected).is_ok());
        let mismatch = selection(&shape, &index, others, &selected).unwrap_err();
        assert!(mismatch.0.contains("list entry"), "{mismatch}");

        let differing = selector.select(others).unwrap();
        assert!(same("it", &selected, &selected).is_ok());
        assert!(same("it", &selected, differing).is_err());
    }
}
