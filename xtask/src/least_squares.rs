//! Least squares with numbers that are not negative, the same bits on every machine.

/// A pivot below this part of its diagonal entry says that a column is a sum of others.
const SMALLEST_PIVOT: f64 = 1e-9;

/// The `x >= 0` that makes the sum of squares of `A x - b` least, given the rows of `A` each with its entry
/// of `b`. Of columns that are sums of others some have 0.
///
/// Columns outside of the best solution's support are 0, those inside are a plain least-squares solution; so
/// one solution for each subset finds it: exact, and 1024 small systems for ten columns.
///
/// # Panics
/// Without rows, or if they differ in length.
pub(crate) fn non_negative(rows: &[(Vec<f64>, f64)]) -> Vec<f64> {
    let n = rows[0].0.len();
    let mut gram = vec![vec![0.0; n]; n];
    let mut right = vec![0.0; n];
    for (row, b) in rows {
        assert_eq!(row.len(), n);
        for i in 0..n {
            right[i] += row[i] * b;
            for j in 0..n {
                gram[i][j] += row[i] * row[j];
            }
        }
    }
    let mut best = vec![0.0; n];
    let mut least = 0.0;
    for subset in 1u32..1 << n {
        let columns: Vec<usize> = (0..n).filter(|&i| subset >> i & 1 == 1).collect();
        let Some(x) = solve(&gram, &right, &columns) else {
            continue;
        };
        if x.iter().any(|&x| x < 0.0) {
            continue;
        }
        // The sum of squares without b's own, where the gradient in x is zero.
        let sum = -columns
            .iter()
            .zip(&x)
            .map(|(&i, x)| right[i] * x)
            .sum::<f64>();
        if sum < least {
            least = sum;
            best = vec![0.0; n];
            for (&i, &x) in columns.iter().zip(&x) {
                best[i] = x;
            }
        }
    }
    best
}

/// The solution of the equations of `columns` alone, by Gauss's elimination.
fn solve(gram: &[Vec<f64>], right: &[f64], columns: &[usize]) -> Option<Vec<f64>> {
    let n = columns.len();
    let mut rows: Vec<Vec<f64>> = columns
        .iter()
        .map(|&i| {
            let row = columns.iter().map(|&j| gram[i][j]);
            row.chain([right[i]]).collect()
        })
        .collect();
    for i in 0..n {
        let diagonal = gram[columns[i]][columns[i]];
        // The matrix is positive semi-definite: no exchange of rows is needed.
        if rows[i][i] <= SMALLEST_PIVOT * diagonal {
            return None;
        }
        let (above, below) = rows.split_at_mut(i + 1);
        let pivot = &above[i];
        for row in below {
            let factor = row[i] / pivot[i];
            for (entry, of_pivot) in row.iter_mut().zip(pivot) {
                *entry -= factor * of_pivot;
            }
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| rows[i][j] * x[j]).sum();
        x[i] = (rows[i][n] - known) / rows[i][i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(x: &[f64], noise: f64) -> Vec<(Vec<f64>, f64)> {
        (0..40u32)
            .map(|i| {
                // Powers of different numbers modulo a prime: no pattern that matters.
                let entry = |j: usize| f64::from((i + 2).pow(j as u32 + 1) % 101) / 10.0;
                let row: Vec<f64> = (0..x.len()).map(entry).collect();
                let b: f64 = row.iter().zip(x).map(|(a, x)| a * x).sum();
                (row, b + noise * f64::from(i % 3))
            })
            .collect()
    }

    #[test]
    fn what_was_put_in_is_found() {
        let x = [1.5, 0.0, 0.25, 3.0];
        let found = non_negative(&rows(&x, 0.0));
        for (found, x) in found.iter().zip(x) {
            assert!((found - x).abs() < 1e-9, "{found} for {x}");
        }
    }

    /// Where the best solution of all has a negative number, no small step from the one found is better.
    #[test]
    fn no_neighbour_is_better() {
        let rows = rows(&[1.5, -0.8, 0.25, -0.1], 0.7);
        let squares = |x: &[f64]| -> f64 {
            let errors = rows.iter().map(|(row, b)| {
                let sum: f64 = row.iter().zip(x).map(|(a, x)| a * x).sum();
                (sum - b).powi(2)
            });
            errors.sum()
        };
        let found = non_negative(&rows);
        assert!(found.contains(&0.0) && found.iter().any(|&x| x > 0.0));
        for i in 0..found.len() {
            for step in [-1e-3, 1e-3] {
                let mut other = found.clone();
                other[i] = f64::max(0.0, other[i] + step);
                assert!(squares(&other) >= squares(&found), "{i} {step}");
            }
        }
    }

    #[test]
    fn a_column_that_is_another_one_gets_nothing() {
        let rows: Vec<_> = (1..9)
            .map(|i| (vec![f64::from(i), 2.0 * f64::from(i)], f64::from(i)))
            .collect();
        let found = non_negative(&rows);
        assert!((found[0] + 2.0 * found[1] - 1.0).abs() < 1e-12);
        assert!(found.contains(&0.0));
    }
}
