//! What a step lists, and the caller's arrays that it may be written to.

use std::any::Any;
use std::sync::Arc;

use keysieve::cuda::{OutArray, OutLists};
use keysieve::{Indices, PqConfig, SelectConfig, Selection};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::{pq_config, select_config};
use crate::cuda::OnDevice;
use crate::dlpack::{Array, Dtype, Imported, owned};
use crate::errors::{Class, raised};
use crate::integers::{write_floats, write_integers};

/// The lists of one step.
#[pyclass(frozen, module = "keysieve._native")]
pub(crate) struct Selected(Place);

pub(crate) enum Place {
    Host(Arc<Selection>),
    Device(OnDevice),
}

impl Selected {
    /// A copy. Rows of weights lie side by side, as some libraries take arrays only so.
    pub(crate) fn on_host(selection: &Selection) -> Self {
        Selected(Place::Host(Arc::new(selection.to_compact())))
    }

    pub(crate) fn on_device(lists: OnDevice) -> Self {
        Selected(Place::Device(lists))
    }

    fn host(&self) -> PyResult<&Arc<Selection>> {
        match &self.0 {
            Place::Host(selection) => Ok(selection),
            Place::Device(_) => {
                let expected = "a selection on the host (Selection.to_host)";
                Err(Class::InvalidArgument.error("selection", "one on a GPU", expected))
            }
        }
    }
}

#[pymethods]
impl Selected {
    /// int32 or int64 [batch, heads, num_queries, stride].
    #[getter]
    fn positions(&self) -> Array {
        match &self.0 {
            Place::Host(selection) => {
                let shape = [&selection.shape()[..], &[selection.list_stride()]].concat();
                let (address, dtype) = match selection.indices() {
                    Some(Indices::I64(indices)) => (indices.as_ptr() as usize, Dtype::I64),
                    _ => (selection.padded_positions().as_ptr() as usize, Dtype::I32),
                };
                Array::on_host(address, dtype, shape, owner(selection))
            }
            Place::Device(lists) => lists.positions(),
        }
    }

    /// int32 [batch, heads, num_queries].
    #[getter]
    fn lengths(&self) -> Array {
        match &self.0 {
            Place::Host(selection) => {
                let address = selection.lengths().as_ptr() as usize;
                let shape = selection.shape().to_vec();
                Array::on_host(address, Dtype::I32, shape, owner(selection))
            }
            Place::Device(lists) => lists.lengths(),
        }
    }

    /// float32 [batch, heads, num_queries, seq_len], or None.
    #[getter]
    fn weights(&self) -> Option<Array> {
        match &self.0 {
            Place::Host(selection) => {
                let weights = selection.padded_weights()?;
                let [batch, heads, queries] = selection.shape();
                let shape = vec![batch, heads, queries, selection.seq_len()];
                let address = weights.as_ptr() as usize;
                Some(Array::on_host(address, Dtype::F32, shape, owner(selection)))
            }
            Place::Device(lists) => lists.weights(),
        }
    }

    /// float32 [batch, heads, num_queries, capacity], of which the first seq_len of a row count, or None.
    #[getter]
    fn padded_weights(&self) -> Option<Array> {
        match &self.0 {
            Place::Host(_) => self.weights(),
            Place::Device(lists) => lists.padded_weights(),
        }
    }

    /// Heavy positions int32 and scores float32, both [batch, heads, num_queries, heavy], ascending
    /// positions, then -1 with a score of NaN; or None.
    #[getter]
    fn heavy(&self) -> PyResult<Option<(Array, Array)>> {
        let selection = self.host()?;
        let [batch, heads, queries] = selection.shape();
        let rows = (0..batch)
            .flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |q| (b, h, q))));
        let rows: Option<Vec<_>> = rows.map(|(b, h, q)| selection.heavy(b, h, q)).collect();
        let Some(rows) = rows else { return Ok(None) };
        let width = rows.iter().map(|row| row.0.len()).max().unwrap_or(0);
        let mut positions = vec![-1; rows.len() * width];
        let mut scores = vec![f32::NAN; rows.len() * width];
        for (i, row) in rows.iter().enumerate() {
            positions[i * width..][..row.0.len()].copy_from_slice(row.0);
            scores[i * width..][..row.1.len()].copy_from_slice(row.1);
        }
        let shape = vec![batch, heads, queries, width];
        Ok(Some((
            owned(positions, Dtype::I32, shape.clone()),
            owned(scores, Dtype::F32, shape),
        )))
    }

    /// Tokens of the context at the step.
    #[getter]
    fn seq_len(&self) -> usize {
        match &self.0 {
            Place::Host(selection) => selection.seq_len(),
            Place::Device(lists) => lists.seq_len(),
        }
    }

    /// Waits, and copies the lists to the host.
    fn to_host(&self, py: Python<'_>) -> PyResult<Selected> {
        match &self.0 {
            Place::Host(selection) => Ok(Selected(Place::Host(selection.clone()))),
            Place::Device(lists) => py
                .detach(|| lists.to_host())
                .map(|selection| Selected::on_host(&selection))
                .map_err(raised),
        }
    }

    /// Whether they list the same.
    fn equals(&self, other: &Selected) -> PyResult<bool> {
        Ok(self.host()? == other.host()?)
    }

    /// Writes a selection file.
    fn save(
        &self,
        py: Python<'_>,
        path: std::path::PathBuf,
        config: &Bound<'_, PyAny>,
        pq: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (config, pq) = (select_config(config)?, pq_config(pq)?);
        let selection = self.host()?.clone();
        py.detach(|| selection.save(&path, &config, &pq))
            .map_err(raised)
    }
}

fn owner(selection: &Arc<Selection>) -> Arc<dyn Any + Send + Sync> {
    selection.clone()
}

/// The caller's arrays for positions, lengths and weights.
pub(crate) struct Out {
    positions: Imported,
    lengths: Imported,
    weights: Option<Imported>,
}

impl Out {
    /// From a tuple of two or three arrays, which those on a GPU are written on `stream`.
    pub(crate) fn new(out: &Bound<'_, PyAny>, stream: Option<i64>) -> PyResult<Self> {
        let arrays: Vec<Bound<'_, PyAny>> = out.extract()?;
        let (positions, lengths, weights) = match &arrays[..] {
            [positions, lengths] => (positions, lengths, None),
            [positions, lengths, weights] => (positions, lengths, Some(weights)),
            other => {
                let got = format!("{} arrays", other.len());
                let expected = "positions, lengths and, if asked for, weights";
                return Err(Class::InvalidArgument.error("out", got, expected));
            }
        };
        let integers = [Dtype::I32, Dtype::I64];
        Ok(Out {
            positions: writable("out: positions", positions, &integers, stream)?,
            lengths: writable("out: lengths", lengths, &integers, stream)?,
            weights: match weights {
                None => None,
                Some(weights) => Some(writable("out: weights", weights, &[Dtype::F32], stream)?),
            },
        })
    }

    fn arrays(&self) -> impl Iterator<Item = (&'static str, &Imported)> {
        let weights = self.weights.as_ref().map(|array| ("out: weights", array));
        [
            ("out: positions", &self.positions),
            ("out: lengths", &self.lengths),
        ]
        .into_iter()
        .chain(weights)
    }

    /// That the arrays lie on the host.
    pub(crate) fn on_host(self) -> PyResult<Self> {
        for (argument, array) in self.arrays() {
            if !array.tensor.device.is_host() {
                let got = array.tensor.device.name();
                return Err(Class::InvalidArgument.error(argument, got, "cpu"));
            }
        }
        Ok(self)
    }

    /// The arrays as a step on that GPU writes them.
    pub(crate) fn on_device(&self, ordinal: i32) -> PyResult<OutLists> {
        for (argument, Imported { tensor, .. }) in self.arrays() {
            if !tensor.device.is_cuda() || tensor.device.ordinal != ordinal {
                let expected = format!("cuda:{ordinal}, as the queries are there");
                return Err(Class::InvalidArgument.error(argument, tensor.device.name(), expected));
            }
            if !tensor.is_contiguous() {
                let got = format!("strides {:?}", tensor.strides);
                let expected = "a contiguous array, on a GPU";
                return Err(Class::InvalidArgument.error(argument, got, expected));
            }
        }
        let array = |argument, Imported { tensor, .. }: &Imported| {
            let is_wide = tensor.dtype.bytes() == 8;
            OutArray::new(argument, tensor.address as u64, is_wide, tensor.len()).map_err(raised)
        };
        let weights = self.weights.as_ref();
        Ok(OutLists {
            positions: array("out: positions", &self.positions)?,
            lengths: array("out: lengths", &self.lengths)?,
            weights: match weights {
                None => None,
                Some(weights) => Some(array("out: weights", weights)?),
            },
        })
    }

    /// That the arrays have the shapes of those lists: `rows` `[batch, heads, num_queries]`, and weights of one of the
    /// `widths`; without one there are no weights.
    pub(crate) fn check(
        &self,
        rows: &[usize],
        list_stride: usize,
        widths: &[usize],
    ) -> keysieve::Result<()> {
        check_shape("out: lengths", &self.lengths, rows)?;
        let positions = [rows, &[list_stride]].concat();
        check_shape("out: positions", &self.positions, &positions)?;
        let Some(weights) = &self.weights else {
            return Ok(());
        };
        let Some(&first) = widths.first() else {
            let expected = "None, as SelectConfig.weights is off";
            let error = keysieve::Error::invalid("out: weights", "an array", expected);
            return Err(error);
        };
        let last = weights.tensor.shape.last().copied();
        let width = last.filter(|width| widths.contains(width));
        let expected = [rows, &[width.unwrap_or(first)]].concat();
        check_shape("out: weights", weights, &expected)
    }

    /// Checks the shapes, then writes all of it.
    pub(crate) fn write(&self, selection: &Selection) -> keysieve::Result<()> {
        let rows = &selection.shape()[..];
        let width = selection.padded_weights().map(|_| selection.seq_len());
        self.check(rows, selection.list_stride(), width.as_slice())?;
        let weights = self.weights.as_ref().zip(selection.padded_weights());
        // SAFETY: shapes and types are checked; the caller gave the arrays to be written.
        unsafe {
            let positions = selection.padded_positions().iter().copied();
            write_integers(&self.positions.tensor, positions);
            write_integers(&self.lengths.tensor, selection.lengths().iter().copied());
            if let Some((array, weights)) = weights {
                let num_rows = rows.iter().product::<usize>().max(1);
                let rows = weights.chunks((weights.len() / num_rows).max(1));
                let seen = rows.flat_map(|row| &row[..selection.seq_len()]);
                write_floats(&array.tensor, seen.copied());
            }
        }
        Ok(())
    }
}

// SAFETY: the tensors are plain addresses; what gives them back needs the interpreter, and an `Out` is
// dropped with it attached.
unsafe impl Sync for Out {}

fn check_shape(argument: &str, array: &Imported, expected: &[usize]) -> keysieve::Result<()> {
    let got = &array.tensor.shape;
    match got == expected {
        true => Ok(()),
        false => {
            let got = format!("shape {got:?}");
            Err(keysieve::Error::invalid(
                argument,
                got,
                format!("{expected:?}"),
            ))
        }
    }
}

fn writable(
    argument: &str,
    object: &Bound<'_, PyAny>,
    dtypes: &[Dtype],
    stream: Option<i64>,
) -> PyResult<Imported> {
    // Its capsules do not say that nobody may write them.
    let module: String = object.get_type().getattr("__module__")?.extract()?;
    if module.starts_with("jax") {
        let expected = "an array that may be written";
        return Err(Class::InvalidType.error(argument, "an array of JAX", expected));
    }
    let array = Imported::new(argument, object, stream)?;
    if array.is_read_only {
        return Err(Class::InvalidArgument.error(argument, "a read-only array", "a writable one"));
    }
    if !dtypes.contains(&array.tensor.dtype) {
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        return Err(Class::InvalidType.error(
            argument,
            array.tensor.dtype.name(),
            names.join(" or "),
        ));
    }
    Ok(array)
}

/// The list of a whole context from those of its shards.
#[pyfunction]
pub(crate) fn merge_selections(
    py: Python<'_>,
    shards: Vec<PyRef<'_, Selected>>,
    pq: &Bound<'_, PyAny>,
    config: &Bound<'_, PyAny>,
) -> PyResult<Selected> {
    let (config, pq): (SelectConfig, PqConfig) = (select_config(config)?, pq_config(pq)?);
    let shards = shards
        .iter()
        .map(|shard| shard.host().cloned())
        .collect::<PyResult<Vec<_>>>()?;
    py.detach(|| {
        let shards: Vec<&Selection> = shards.iter().map(|shard| &**shard).collect();
        keysieve::merge_selections(&shards, &pq, &config)
    })
    .map(|selection| Selected::on_host(&selection))
    .map_err(raised)
}

/// What a shard selects with, as the fields of a `SelectConfig` that change.
#[pyfunction]
pub(crate) fn shard_config<'py>(
    py: Python<'py>,
    config: &Bound<'py, PyAny>,
    pq: &Bound<'py, PyAny>,
    num_queries: usize,
    seq_len: usize,
    start: usize,
    stop: usize,
) -> PyResult<Bound<'py, PyDict>> {
    let (config, pq) = (select_config(config)?, pq_config(pq)?);
    let shard = keysieve::shard_config(&config, &pq, num_queries, seq_len, start..stop);
    let shard = shard.map_err(raised)?;
    let fields = PyDict::new(py);
    fields.set_item("sink", shard.sink)?;
    fields.set_item("window", shard.window)?;
    fields.set_item("causal", shard.causal)?;
    fields.set_item("short_context", shard.short_context)?;
    fields.set_item("weights", shard.weights)?;
    fields.set_item("scores", shard.scores)?;
    Ok(fields)
}
