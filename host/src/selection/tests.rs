//! What makes two selections different, and what of one its reader is given.

use super::*;

/// `[2, 2, 1]` lists of at most 3 positions, with the scores of 2.
fn shape() -> StepShape {
    StepShape {
        num_kv_heads: 1,
        num_qo_heads: 2,
        num_queries: 1,
        head_dim: 4,
        num_subvectors: 2,
        bits: 2,
        code_capacity: 10,
        heavy: 2,
        window: 1,
        list_stride: 3,
        weights_stride: 10,
        scores_stride: 2,
        ..StepShape::default()
    }
}

fn config() -> SelectConfig {
    SelectConfig {
        weights: true,
        scores: true,
        ..SelectConfig::default()
    }
}

/// Lists of a context of 9.
fn selection() -> Selection {
    let mut selection = Selection::new(&shape(), 2, &config());
    selection.seq_len = 9;
    selection.positions = vec![0, 5, 8, 1, 2, 8, 3, 4, 8, 6, 7, 8];
    selection.lengths.fill(3);
    selection.heavy_positions = vec![0, 5, 1, 2, 3, 4, 6, 7];
    selection.heavy_scores = (0..8u8).map(f32::from).collect();
    for (row, list) in selection.positions.chunks(3).enumerate() {
        for &position in list {
            selection.weights[row * 10 + position as usize] = 1.0;
        }
    }
    selection
}

#[test]
fn every_difference_counts() {
    let one = selection();
    assert_eq!(one, selection());
    let changes: [fn(&mut Selection); 15] = [
        |other| *other = Selection::new(&shape(), 1, &config()),
        |other| other.num_qo_heads = 1,
        |other| other.num_queries = 2,
        |other| other.seq_len = 10,
        |other| other.sequences = vec![shape().sequence(9), shape().sequence(8)],
        |other| other.indices = Some(Indices::I32(vec![0; 12])),
        |other| other.list_stride = 4,
        |other| other.positions[11] = 9,
        |other| other.lengths[3] = 2,
        |other| other.has_weights = false,
        |other| other.weights_stride = 9,
        |other| other.weights[30] = 1.0,
        |other| other.has_scores = false,
        |other| other.heavy_positions[7] = 8,
        |other| other.heavy_scores[0] = -0.0,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut other = selection();
        change(&mut other);
        assert_ne!(one, other, "change {i}");
        assert_ne!(other, one, "change {i}");
    }
}

#[test]
fn what_is_behind_a_context_counts_for_nothing() {
    let (one, mut other) = (selection(), selection());
    other.weights[9] = 1.0;
    assert_eq!(one, other);
}

#[test]
fn one_nan_is_as_good_as_another_and_no_number_is() {
    let (mut one, mut other) = (selection(), selection());
    one.heavy_scores[5] = f32::NAN;
    assert_ne!(one, other);
    assert_ne!(other, one);
    other.heavy_scores[5] = -f32::NAN;
    assert_eq!(one, other);
}

#[test]
fn a_reader_is_given_what_was_asked_for() {
    let mut selection = selection();
    assert_eq!(selection.padded_weights(), Some(&selection.weights[..]));
    assert_eq!(
        selection.heavy(1, 0, 0),
        Some((&[3, 4][..], &[4.0, 5.0][..]))
    );
    (selection.has_weights, selection.has_scores) = (false, false);
    assert_eq!(selection.padded_weights(), None);
    assert_eq!(selection.weights(0, 0, 0), None);
    assert_eq!(selection.heavy(1, 0, 0), None);
}
