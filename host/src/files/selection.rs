//! The selection file: a [`Selection`].

use std::path::Path;

use super::archive::{Element, Header, write_all};
use crate::config::{MAX_LIST_POSITIONS, PqConfig, SelectConfig};
use crate::error::{Error, Result};
use crate::selection::Selection;

/// What errors call a selection file.
const ARGUMENT: &str = "selection";

/// Positions that a row of the file has room for: `sink + heavy + window`, or `seq_len` when the
/// short-context rule lists everything.
///
/// # Errors
/// [`Error::Invalid`] for a configuration that cannot be, or when `rows` rows would have more than
/// [`MAX_LIST_POSITIONS`] positions.
pub fn stride(
    config: &SelectConfig,
    pq: &PqConfig,
    num_queries: usize,
    seq_len: usize,
    rows: usize,
) -> Result<usize> {
    config.validate()?;
    pq.validate_ranges()?;
    let stride = if seq_len <= config.short_context_limit(pq, num_queries) {
        seq_len
    } else {
        config.sink + config.heavy + config.window
    };
    match rows.checked_mul(stride) {
        Some(positions) if positions <= MAX_LIST_POSITIONS => Ok(stride),
        _ => Err(Error::invalid(
            "sink + heavy + window",
            format!("{stride} positions for each of {rows} lists"),
            format!("at most {MAX_LIST_POSITIONS} in all"),
        )),
    }
}

impl Selection {
    /// Writes `positions`, `lengths` and, when the selection has them, `weights`, whole or not at
    /// all. `config` is what was asked for and `pq` the index's format; the same selection gives the
    /// same bytes, whichever backend made it.
    ///
    /// # Errors
    /// As [`stride`]; [`Error::Invalid`] when `config` or `pq` is another than the selection was made
    /// with and leaves a list no room; [`Error::File`] when the operating system refuses.
    pub fn save(&self, path: &Path, config: &SelectConfig, pq: &PqConfig) -> Result<()> {
        let [batch, heads, queries] = self.shape();
        let rows = batch * heads * queries;
        let stride = stride(config, pq, queries, self.seq_len(), rows)?;
        if let Some(&len) = self.lengths().iter().find(|&&len| len as usize > stride) {
            return Err(Error::invalid(
                "selection",
                format!("a list of {len} positions"),
                format!("at most {stride}, as the configuration says"),
            ));
        }
        let mut header = Header::new([
            ("seq_len", self.seq_len().to_string()),
            ("sink", config.sink.to_string()),
            ("heavy", config.heavy.to_string()),
            ("window", config.window.to_string()),
        ]);
        let has_weights = self.weights(0, 0, 0).is_some();
        header.tensor::<i32>("positions", &[batch, heads, queries, stride]);
        header.tensor::<i32>("lengths", &[batch, heads, queries]);
        if has_weights {
            header.tensor::<f32>("weights", &[batch, heads, queries, self.seq_len()]);
        }
        let row = |row: usize| (row / queries / heads, row / queries % heads, row % queries);
        super::write_whole(ARGUMENT, path, |writer| {
            header.write_to(writer)?;
            for (batch, head, query) in (0..rows).map(row) {
                let positions = self.positions(batch, head, query);
                write_all(writer, positions)?;
                for _ in positions.len()..stride {
                    (-1i32).write_to(writer)?;
                }
            }
            write_all(writer, self.lengths())?;
            for (batch, head, query) in (0..rows).map(row) {
                write_all(writer, self.weights(batch, head, query).unwrap_or(&[]))?;
            }
            Ok(())
        })
    }
}
