//! The index behind `keysieve.KeyIndex`: what its methods take, and where that is done.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use keysieve::{Augmentation, Backend, IndexParts, KeyIndex, PqConfig};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::config::{pq_config, select_config, train_config};
use crate::dlpack::{Array, Dtype, Imported, owned};
use crate::errors::{Class, raised};
use crate::inputs::{Input, floats};
use crate::integers::to_codes;
use crate::selection::{Out, Selected};
use crate::state::{State, lock, untrained};

pub(crate) const KEYS: &str = "shape [batch, num_kv_heads, tokens, head_dim]";
pub(crate) const QUERIES: &str = "shape [batch, num_qo_heads, num_queries, head_dim]";

/// An index of one layer's keys with the selector that works on it. Calls may come from any thread:
/// they take turns.
#[pyclass(frozen, module = "keysieve._native")]
pub(crate) struct Index {
    config: PqConfig,
    pub(crate) backend: Backend,
    state: Mutex<State>,
}

impl Index {
    fn with_state(config: PqConfig, backend: Backend, state: State) -> Self {
        Index {
            config,
            backend,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn state(&self) -> keysieve::Result<MutexGuard<'_, State>> {
        lock(&self.state)
    }

    fn is_cuda(&self) -> bool {
        matches!(self.backend, Backend::Cuda(_))
    }

    /// Calls `ask` with the index as it is; on a GPU only its parts on the host are up to date.
    fn ask<T: Send>(&self, py: Python<'_>, ask: impl FnOnce(&KeyIndex) -> T + Send) -> PyResult<T> {
        py.detach(|| match &*self.state()? {
            State::Untrained => Err(untrained()),
            State::OnHost(index) => Ok(ask(index)),
            State::AtWork(engine) => {
                let mut selector = lock(&engine.selector)?;
                if let Some(step) = selector.cpu_step() {
                    return Ok(ask(step.index()));
                }
                Ok(ask(&selector.to_index()?))
            }
        })
        .map_err(raised)
    }
}

#[pymethods]
impl Index {
    /// An index without centroids on `device`: "auto", "cpu", "cuda" or "cuda:N".
    #[new]
    fn new(py: Python<'_>, config: &Bound<'_, PyAny>, device: &str) -> PyResult<Self> {
        let config = pq_config(config)?;
        let backend = py.detach(|| crate::backend(device))?;
        Ok(Self::with_state(config, backend, State::Untrained))
    }

    /// Reads an index file.
    #[staticmethod]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        device: &str,
        capacity: Option<usize>,
    ) -> PyResult<Self> {
        let backend = py.detach(|| crate::backend(device))?;
        let index = py
            .detach(|| KeyIndex::load(&path, capacity))
            .map_err(raised)?;
        let config = *index.config();
        let state = State::OnHost(Box::new(index));
        Ok(Self::with_state(config, backend, state))
    }

    /// An index of given centroids f32 [batch, num_kv_heads, m, 2^bits, sub_dim] and codes
    /// [batch, num_kv_heads, n, m] of an integer type; with the metric "ip" also phis f32
    /// [batch, num_kv_heads, m] and components f32 [batch, num_kv_heads, m, 2^bits].
    #[staticmethod]
    #[pyo3(signature = (config, device, centroids, codes, phis, components, capacity))]
    #[allow(clippy::too_many_arguments)] // the parts of an index
    fn from_parts(
        py: Python<'_>,
        config: &Bound<'_, PyAny>,
        device: &str,
        centroids: &Bound<'_, PyAny>,
        codes: &Bound<'_, PyAny>,
        phis: Option<&Bound<'_, PyAny>>,
        components: Option<&Bound<'_, PyAny>>,
        capacity: usize,
    ) -> PyResult<Self> {
        let config = pq_config(config)?;
        let backend = py.detach(|| crate::backend(device))?;
        let (shape, centroids) = floats("centroids", centroids, 5)?;
        let [batch, num_kv_heads, m, num_centroids, sub_dim] = shape[..] else {
            unreachable!("floats gives as many axes as are asked for");
        };
        if (m, num_centroids) != (config.num_subvectors, config.num_centroids()) {
            let (m, centroids) = (config.num_subvectors, config.num_centroids());
            let expected = format!("[batch, num_kv_heads, {m}, {centroids}, sub_dim]");
            return Err(Class::InvalidArgument.error(
                "centroids",
                format!("shape {shape:?}"),
                expected,
            ));
        }
        let codes = Imported::new("codes", codes, None)?;
        let num_codes = match codes.tensor.shape[..] {
            [b, h, n, last] if [b, h, last] == [batch, num_kv_heads, m] => n,
            _ => {
                let got = format!("shape {:?}", codes.tensor.shape);
                let expected = format!("[{batch}, {num_kv_heads}, n, {m}], as the centroids have");
                return Err(Class::InvalidArgument.error("codes", got, expected));
            }
        };
        let codes = to_codes("codes", &codes.tensor)?;
        let augmentation = match (phis, components) {
            (Some(phis), Some(components)) => Some(Augmentation {
                phis: floats("phis", phis, 3)?.1,
                components: floats("components", components, 4)?.1,
            }),
            _ => None,
        };
        let parts = IndexParts {
            config,
            batch,
            num_kv_heads,
            head_dim: m * sub_dim,
            num_codes,
            centroids,
            augmentation,
            codes,
        };
        let index = py
            .detach(|| KeyIndex::from_parts(parts, capacity))
            .map_err(raised)?;
        let state = State::OnHost(Box::new(index));
        Ok(Self::with_state(config, backend, state))
    }

    /// Trains codebooks on `keys` and encodes them, with room for `capacity` tokens.
    fn train(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        training: &Bound<'_, PyAny>,
        capacity: usize,
        stream: Option<i64>,
    ) -> PyResult<()> {
        let training = train_config(training, self.is_cuda())?;
        let input = Input::new("keys", keys, KEYS, stream)?;
        if input.array.tensor.device.is_cuda() {
            return crate::cuda::train(self, py, &self.config, &training, &input, capacity, stream);
        }
        let input = input.on_host("keys")?;
        crate::host::train(self, py, &self.config, &training, &input, capacity)
    }

    /// Encodes the tokens from `first` on and adds them.
    fn append(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        first: usize,
        stream: Option<i64>,
    ) -> PyResult<()> {
        let input = Input::new("keys", keys, KEYS, stream)?;
        let tokens = input.shape[2];
        if first > tokens {
            let got = format!("{tokens} tokens");
            return Err(Class::InvalidArgument.error("keys", got, format!("at least {first}")));
        }
        if input.array.tensor.device.is_cuda() {
            return crate::cuda::append(self, py, &input, first, stream);
        }
        let input = input.on_host("keys")?;
        crate::host::append(self, py, &input, first)
    }

    /// Lists the keys that `queries` attend to; into the arrays of `out`, if there are any.
    fn select(
        &self,
        py: Python<'_>,
        queries: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
        stream: Option<i64>,
        out: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Selected> {
        let config = select_config(config)?;
        let input = Input::new("queries", queries, QUERIES, stream)?;
        let out = out.map(|out| Out::new(out, stream)).transpose()?;
        if input.array.tensor.device.is_cuda() {
            return crate::cuda::select(self, py, &config, &input, None, out.as_ref(), stream);
        }
        let input = input.on_host("queries")?;
        let out = out.map(Out::on_host).transpose()?;
        crate::host::select(self, py, &config, &input, out.as_ref())
    }

    /// One decode step: appends one new key a head and selects. On a GPU one call, without a wait, which a
    /// CUDA graph may capture. Also into the arrays of `out`, if there are any.
    #[allow(clippy::too_many_arguments)] // those of the call
    fn step(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        queries: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
        stream: Option<i64>,
        out: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Selected> {
        let input = Input::new("queries", queries, QUERIES, stream)?;
        let out = out.map(|out| Out::new(out, stream)).transpose()?;
        if !input.array.tensor.device.is_cuda() {
            let select = select_config(config)?;
            let new = Input::new("keys", keys, KEYS, stream)?.on_host("keys")?;
            if new.shape[2] != 1 {
                let got = format!("shape {:?}", new.shape);
                return Err(Class::InvalidArgument.error("keys", got, "one token"));
            }
            let out = out.map(Out::on_host).transpose()?;
            let input = input.on_host("queries")?;
            return crate::host::step(self, py, &select, &new, &input, out.as_ref());
        }
        let config = select_config(config)?;
        let new = Input::new("keys", keys, KEYS, stream)?;
        if !new.array.tensor.device.is_cuda() {
            let device = input.array.tensor.device.name();
            return Err(Class::InvalidArgument.error("keys", "cpu", device));
        }
        crate::cuda::select(self, py, &config, &input, Some(&new), out.as_ref(), stream)
    }

    /// Says that a graph with a captured step is about to be launched `steps` times.
    fn replayed(&self, py: Python<'_>, steps: usize, stream: Option<i64>) -> PyResult<()> {
        crate::cuda::replayed(self, py, steps, stream)
    }

    /// Makes room for `capacity` tokens in all.
    fn reserve(&self, py: Python<'_>, capacity: usize) -> PyResult<()> {
        py.detach(|| {
            let mut state = self.state()?;
            if let State::OnHost(index) = &mut *state {
                return index.reserve(capacity);
            }
            let mut index = state.to_index()?;
            if capacity > index.capacity() {
                index.reserve(capacity)?;
                *state = State::OnHost(Box::new(index));
            }
            Ok(())
        })
        .map_err(raised)
    }

    /// Writes an index file.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.state()?.to_index()?.save(&path))
            .map_err(raised)
    }

    /// "cpu" or "cuda".
    #[getter]
    fn backend(&self) -> &'static str {
        self.backend.name()
    }

    /// The format, as the keywords of a `PqConfig`.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(py);
        fields.set_item("num_subvectors", self.config.num_subvectors)?;
        fields.set_item("bits", self.config.bits)?;
        fields.set_item("init_offset", self.config.init_offset)?;
        fields.set_item("metric", self.config.metric.name())?;
        Ok(fields)
    }

    /// Whether there are centroids.
    #[getter]
    fn is_trained(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| Ok(!matches!(*self.state()?, State::Untrained)))
            .map_err(raised)
    }

    /// Tokens of the context; 0 before training.
    #[getter]
    fn seq_len(&self, py: Python<'_>) -> PyResult<usize> {
        py.detach(|| match &*self.state()? {
            State::Untrained => Ok(0),
            State::OnHost(index) => Ok(index.seq_len()),
            State::AtWork(engine) => Ok(lock(&engine.selector)?.seq_len()),
        })
        .map_err(raised)
    }

    /// [batch, num_kv_heads, capacity, head_dim].
    #[getter]
    pub(crate) fn shape(&self, py: Python<'_>) -> PyResult<(usize, usize, usize, usize)> {
        self.ask(py, |index| {
            (
                index.batch(),
                index.num_kv_heads(),
                index.capacity(),
                index.head_dim(),
            )
        })
    }

    /// A copy: f32 [batch, num_kv_heads, m, 2^bits, sub_dim].
    #[getter]
    fn centroids(&self, py: Python<'_>) -> PyResult<Array> {
        let (shape, centroids) = self.ask(py, |index| {
            let config = index.config();
            let (m, sub_dim) = (config.num_subvectors, config.sub_dim(index.head_dim()));
            let groups = [index.batch(), index.num_kv_heads(), m];
            let shape = [&groups[..], &[config.num_centroids(), sub_dim]].concat();
            (shape, index.centroids().to_vec())
        })?;
        Ok(owned(centroids, Dtype::F32, shape))
    }

    /// A copy: u8 [batch, num_kv_heads, seq_len - init_offset, m].
    #[getter]
    fn codes(&self, py: Python<'_>) -> PyResult<Array> {
        let (shape, codes) = self.ask(py, |index| {
            let parts = index.to_parts();
            let m = parts.config.num_subvectors;
            let shape = vec![parts.batch, parts.num_kv_heads, parts.num_codes, m];
            (shape, parts.codes)
        })?;
        Ok(owned(codes, Dtype::U8, shape))
    }

    /// With the metric "ip": phis f32 [batch, num_kv_heads, m] and the centroids' last components f32
    /// [batch, num_kv_heads, m, 2^bits], copied; else None.
    #[getter]
    fn augmentation(&self, py: Python<'_>) -> PyResult<Option<(Array, Array)>> {
        let added = self.ask(py, |index| {
            let groups = [index.batch(), index.num_kv_heads()];
            let of_phis = [&groups[..], &[index.config().num_subvectors]].concat();
            let of_components = [&of_phis[..], &[index.config().num_centroids()]].concat();
            let added = index.augmentation().cloned();
            added.map(|added| (added, of_phis, of_components))
        })?;
        Ok(added.map(|(added, of_phis, of_components)| {
            (
                owned(added.phis, Dtype::F32, of_phis),
                owned(added.components, Dtype::F32, of_components),
            )
        }))
    }
}

impl Index {
    /// Puts a trained index in the place of what there was.
    pub(crate) fn take(&self, trained: KeyIndex) -> keysieve::Result<()> {
        *self.state()? = State::OnHost(Box::new(trained));
        Ok(())
    }
}
