//! Steps of one shape, told by addresses: for callers to whom DLPack's hand-over would cost more than the step.

use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use keysieve::cuda::KeyDtype;
use keysieve::cuda::caller::DeviceArray;
use keysieve::{Backend, SelectConfig, Selector};
use pyo3::prelude::*;

use crate::config::select_config;
use crate::errors::{Class, raised};
use crate::index::Index;
use crate::state::{State, lock};

/// An address, the type (0 float32, 1 float16, 2 bfloat16), and the strides of batch, head and component.
type Place = (u64, u8, usize, usize, usize);

/// Decode steps of one query a head on a GPU, see `keysieve.compat.pqcache`.
#[pyclass(frozen, module = "keysieve._native")]
pub(crate) struct Stepper {
    index: Py<Index>,
    selector: Arc<Mutex<Selector>>,
    keys: [usize; 4],
    queries: [usize; 4],
}

#[pymethods]
impl Stepper {
    /// For `num_qo_heads` heads on an index whose selector was made for `config`.
    #[new]
    fn new(
        py: Python<'_>,
        index: Py<Index>,
        config: &Bound<'_, PyAny>,
        num_qo_heads: usize,
    ) -> PyResult<Self> {
        let config: SelectConfig = select_config(config)?;
        let inner = index.get();
        if !matches!(inner.backend, Backend::Cuda(_)) {
            return Err(Class::InvalidArgument.error("index", "one on the CPU", "one on a GPU"));
        }
        let (batch, kv_heads, _, head_dim) = inner.shape(py)?;
        let selector = py
            .detach(|| {
                let mut state = inner.state()?;
                let engine = state.engine(&inner.backend, &config, num_qo_heads, 1)?;
                keysieve::Result::Ok(engine.selector.clone())
            })
            .map_err(raised)?;
        Ok(Stepper {
            index,
            selector,
            keys: [batch, kv_heads, 1, head_dim],
            queries: [batch, num_qo_heads, 1, head_dim],
        })
    }

    /// One step on the arrays at those places, on a stream as DLPack numbers them. Says how many tokens the
    /// context has now.
    fn step(&self, py: Python<'_>, keys: Place, queries: Place, stream: i64) -> PyResult<usize> {
        let keys = array("key", keys, self.keys)?;
        let queries = array("query", queries, self.queries)?;
        let stream = crate::stream_handle(stream)?;
        let index = self.index.get();
        py.detach(|| {
            let state = index.state()?;
            let is_at_work = match &*state {
                State::AtWork(engine) => Arc::ptr_eq(&engine.selector, &self.selector),
                _ => false,
            };
            let mut selector = lock(&self.selector)?;
            let step = selector.cuda_step().filter(|_| is_at_work);
            let Some(step) = step else {
                let got = "one that works with another configuration now";
                let expected = "the one that the stepper was made for";
                return Err(keysieve::Error::invalid("index", got, expected));
            };
            // SAFETY: the caller's tensors are alive and written in the order of their stream.
            unsafe { step.step_on(&keys, &queries, (stream as *mut c_void).cast())? };
            Ok(step.seq_len())
        })
        .map_err(raised)
    }
}

fn array(argument: &str, place: Place, shape: [usize; 4]) -> PyResult<DeviceArray> {
    let (address, dtype, batch, head, component) = place;
    let dtype = match dtype {
        0 => KeyDtype::F32,
        1 => KeyDtype::F16,
        2 => KeyDtype::Bf16,
        other => return Err(Class::InvalidType.error(argument, other, "type 0, 1 or 2")),
    };
    let strides = [batch, head, 0, component];
    DeviceArray::new(argument, address, dtype, shape, strides).map_err(raised)
}
