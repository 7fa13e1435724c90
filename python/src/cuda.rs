//! Arrays in device memory, on the stream of their caller: nothing is copied to the host.

use std::any::Any;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use keysieve::cuda::caller::DeviceArray;
use keysieve::cuda::{
    Device, DeviceBuffers, DeviceKeys, DeviceRows, KeyDtype, RowsCopy, train as cuda_train,
};
use keysieve::{Backend, PqConfig, SelectConfig, Selection, Selector, TrainConfig};
use pyo3::prelude::*;

use crate::dlpack::{self, Array, Dtype, Handover, Tensor, contiguous};
use crate::errors::{Class, raised};
use crate::index::Index;
use crate::inputs::Input;
use crate::selection::{Out, Selected};
use crate::state::{State, lock};

/// A CUDA stream, as the driver knows it.
type Stream = *mut c_void;

/// The stream of a number as DLPack has them, the legacy default one without a number.
fn stream_of(number: Option<i64>) -> PyResult<usize> {
    crate::stream_handle(number.unwrap_or(1))
}

fn dtype_of(tensor: &Tensor) -> KeyDtype {
    match tensor.dtype {
        Dtype::F16 => KeyDtype::F16,
        Dtype::BF16 => KeyDtype::Bf16,
        _ => KeyDtype::F32,
    }
}

/// The index's GPU, if the array is there.
fn device_of<'a>(argument: &str, index: &'a Index, input: &Input) -> PyResult<&'a Device> {
    let array = input.array.tensor.device;
    match &index.backend {
        Backend::Cuda(device) if device.ordinal() as i32 == array.ordinal => Ok(device),
        Backend::Cuda(device) => {
            let expected = format!("cuda:{} or cpu, as the index is there", device.ordinal());
            Err(Class::InvalidArgument.error(argument, array.name(), expected))
        }
        Backend::Cpu => {
            Err(Class::InvalidArgument.error(argument, array.name(), "cpu, as the index is there"))
        }
    }
}

fn strides_of(argument: &str, tensor: &Tensor) -> PyResult<[usize; 4]> {
    let mut strides = [0; 4];
    for (to, &stride) in strides.iter_mut().zip(&tensor.strides) {
        *to = usize::try_from(stride).map_err(|_| {
            let got = format!("strides {:?}", tensor.strides);
            Class::InvalidArgument.error(argument, got, "strides that are not negative, on a GPU")
        })?;
    }
    Ok(strides)
}

fn device_array(argument: &str, input: &Input) -> PyResult<DeviceArray> {
    let tensor = &input.array.tensor;
    let strides = strides_of(argument, tensor)?;
    let address = tensor.address as u64;
    DeviceArray::new(argument, address, dtype_of(tensor), input.shape, strides).map_err(raised)
}

/// [`Index::train`] on keys in device memory. Waits.
pub(crate) fn train(
    index: &Index,
    py: Python<'_>,
    config: &PqConfig,
    training: &TrainConfig,
    input: &Input,
    capacity: usize,
    stream: Option<i64>,
) -> PyResult<()> {
    let device = device_of("keys", index, input)?;
    let tensor = &input.array.tensor;
    let [batch, head, token, component] = strides_of("keys", tensor)?;
    if component != 1 && input.shape[3] > 1 {
        let got = format!("strides {:?}", tensor.strides);
        let expected = "a key's components side by side";
        return Err(Class::InvalidArgument.error("keys", got, expected));
    }
    let address = tensor.address as u64;
    let strides = [batch, head, token];
    let keys = DeviceKeys::new(address, dtype_of(tensor), input.shape, strides).map_err(raised)?;
    let stream = stream_of(stream)?;
    py.detach(|| {
        // SAFETY: the array is borrowed until this call returns, and is whole when its stream is done.
        let trained = unsafe {
            device.wait_for((stream as Stream).cast())?;
            cuda_train::train(device, config, training, &keys, capacity)?
        };
        index.take(trained)
    })
    .map_err(raised)
}

/// [`Index::append`] of keys in device memory, behind the work of their stream.
pub(crate) fn append(
    index: &Index,
    py: Python<'_>,
    input: &Input,
    first: usize,
    stream: Option<i64>,
) -> PyResult<()> {
    device_of("keys", index, input)?;
    let array = device_array("keys", input)?.from_token(first);
    let stream = stream_of(stream)?;
    py.detach(|| {
        let mut state = index.state()?;
        let engine = state.at_work(&index.backend)?;
        let mut selector = lock(&engine.selector)?;
        let Some(step) = selector.cuda_step() else {
            unreachable!("a selector on a GPU");
        };
        // SAFETY: DLPack's exporter has made the array whole on this stream, which is the caller's.
        unsafe { step.append_on(&array, (stream as Stream).cast()) }
    })
    .map_err(raised)
}

/// [`Index::select`] of queries in device memory, behind the work of their stream; with `new_keys`
/// `[batch, num_kv_heads, 1, head_dim]` a whole decode step; with `out` into those arrays too.
pub(crate) fn select(
    index: &Index,
    py: Python<'_>,
    config: &SelectConfig,
    input: &Input,
    new_keys: Option<&Input>,
    out: Option<&Out>,
    stream: Option<i64>,
) -> PyResult<Selected> {
    let device = device_of("queries", index, input)?;
    let queries = device_array("queries", input)?;
    let keys = match new_keys {
        None => None,
        Some(keys) => {
            device_of("keys", index, keys)?;
            Some(device_array("keys", keys)?)
        }
    };
    let lists = match out {
        None => None,
        Some(out) => Some(out.on_device(device.ordinal() as i32)?),
    };
    let stream = stream_of(stream)?;
    let [batch, num_qo_heads, num_queries, _] = input.shape;
    py.detach(|| {
        let mut state = index.state()?;
        let engine = state.engine(&index.backend, config, num_qo_heads, num_queries)?;
        let mut selector = lock(&engine.selector)?;
        let has_weights = selector.config().weights;
        let heads = selector.selection().shape()[1];
        let Some(step) = selector.cuda_step() else {
            unreachable!("a selector on a GPU");
        };
        if let Some(out) = out {
            let buffers = step.device_buffers();
            let seq_len = step.seq_len() + usize::from(keys.is_some());
            let widths = [seq_len, buffers.weights_stride];
            let widths = if has_weights { &widths[..] } else { &[] };
            out.check(&[batch, heads, num_queries], buffers.list_stride, widths)?;
        }
        let (lists, handle) = (lists.as_ref(), (stream as Stream).cast());
        // SAFETY: as in `append`.
        unsafe {
            match &keys {
                None => step.select_into(&queries, lists, handle)?,
                Some(keys) => step.step_into(keys, &queries, lists, handle)?,
            }
        }
        let (buffers, seq_len) = (step.device_buffers(), step.seq_len());
        drop(selector);
        Ok(Selected::on_device(OnDevice {
            lists: Arc::new(Lists {
                selector: engine.selector.clone(),
            }),
            buffers,
            shape: [batch, heads, num_queries],
            seq_len,
            has_weights,
            ordinal: device.ordinal() as i32,
        }))
    })
    .map_err(raised)
}

/// Says that a captured step is about to be replayed.
pub(crate) fn replayed(
    index: &Index,
    py: Python<'_>,
    steps: usize,
    stream: Option<i64>,
) -> PyResult<()> {
    let stream = stream_of(stream)?;
    py.detach(|| {
        let state = index.state()?;
        let got = "one that no step was captured of";
        let none = || keysieve::Error::invalid("index", got, "a captured step on a GPU");
        let State::AtWork(engine) = &*state else {
            return Err(none());
        };
        let mut selector = lock(&engine.selector)?;
        let step = selector.cuda_step().ok_or_else(none)?;
        // SAFETY: the caller's stream is alive.
        unsafe { step.replayed(steps, (stream as Stream).cast()) }
    })
    .map_err(raised)
}

/// The selector whose buffers arrays look at.
struct Lists {
    selector: Arc<Mutex<Selector>>,
}

impl Handover for Lists {
    fn hand_over(&self, stream: usize) -> keysieve::Result<()> {
        let mut selector = lock(&self.selector)?;
        match selector.cuda_step() {
            // SAFETY: the consumer's stream is alive.
            Some(step) => unsafe { step.hand_over_to((stream as Stream).cast()) },
            None => Ok(()),
        }
    }

    fn copy(&self, tensor: &Tensor, stream: Option<usize>) -> keysieve::Result<Array> {
        let mut selector = lock(&self.selector)?;
        let Some(step) = selector.cuda_step() else {
            unreachable!("a selector on a GPU");
        };
        let stream = stream.map(|stream| (stream as Stream).cast());
        // SAFETY: the array is one of the step's buffers; the consumer's stream is alive.
        let copy = unsafe { step.copy_rows(&rows_of(tensor), stream)? };
        Ok(copied(tensor, copy))
    }
}

impl Handover for RowsCopy {
    fn hand_over(&self, stream: usize) -> keysieve::Result<()> {
        // SAFETY: the consumer's stream is alive.
        unsafe { self.hand_over_to((stream as Stream).cast()) }
    }

    fn copy(&self, tensor: &Tensor, stream: Option<usize>) -> keysieve::Result<Array> {
        let stream = stream.map(|stream| (stream as Stream).cast());
        // SAFETY: as above; arrays of ours are there to be read.
        let copy = unsafe { self.to_copy(stream)? };
        Ok(copied(tensor, copy))
    }
}

/// An array as rows of words: elements of one row lie side by side.
fn rows_of(tensor: &Tensor) -> DeviceRows {
    let words = tensor.dtype.bytes() / 4;
    let (rows, row) = match tensor.is_contiguous() {
        true => (1, tensor.len()),
        false => {
            let row = tensor.shape.last().map_or(1, |&len| len);
            (tensor.len() / row.max(1), row)
        }
    };
    let stride = match rows {
        1 => row,
        _ => tensor.strides[tensor.strides.len() - 2].unsigned_abs(),
    };
    DeviceRows {
        address: tensor.address as u64,
        rows,
        words: row * words,
        stride: stride * words,
    }
}

/// The array that `copy` is of `tensor`.
fn copied(tensor: &Tensor, copy: RowsCopy) -> Array {
    let copy = Arc::new(copy);
    let (owner, handover): (Arc<dyn Any + Send + Sync>, Arc<dyn Handover>) =
        (copy.clone(), copy.clone());
    Array {
        tensor: Tensor {
            address: copy.address() as usize,
            strides: contiguous(&tensor.shape),
            ..tensor.clone()
        },
        owner,
        handover: Some(handover),
    }
}

/// The lists of a step, in the step's own buffers: the next step writes them.
pub(crate) struct OnDevice {
    lists: Arc<Lists>,
    buffers: DeviceBuffers,
    shape: [usize; 3],
    seq_len: usize,
    has_weights: bool,
    ordinal: i32,
}

impl OnDevice {
    fn array(&self, address: u64, dtype: Dtype, width: Option<(usize, usize)>) -> Array {
        let mut shape = self.shape.to_vec();
        let mut strides = contiguous(&shape);
        if let Some((len, stride)) = width {
            strides = contiguous(&[&shape[..], &[stride]].concat());
            shape.push(len);
        }
        let owner: Arc<dyn Any + Send + Sync> = self.lists.clone();
        let handover: Arc<dyn Handover> = self.lists.clone();
        let device = dlpack::Device {
            kind: dlpack::CUDA,
            ordinal: self.ordinal,
        };
        Array {
            tensor: Tensor {
                address: address as usize,
                dtype,
                device,
                shape,
                strides,
            },
            owner,
            handover: Some(handover),
        }
    }

    pub(crate) fn positions(&self) -> Array {
        let stride = self.buffers.list_stride;
        // A `SelectConfig` asks for indices where it wants them wide.
        let (address, dtype) = match self.buffers.indices {
            Some(indices) => (indices, Dtype::I64),
            None => (self.buffers.positions, Dtype::I32),
        };
        self.array(address, dtype, Some((stride, stride)))
    }

    pub(crate) fn lengths(&self) -> Array {
        self.array(self.buffers.lengths, Dtype::I32, None)
    }

    pub(crate) fn weights(&self) -> Option<Array> {
        let address = self.buffers.weights.filter(|_| self.has_weights)?;
        let width = (self.seq_len, self.buffers.weights_stride);
        Some(self.array(address, Dtype::F32, Some(width)))
    }

    /// All of the weights' rows, which a context that grows will have.
    pub(crate) fn padded_weights(&self) -> Option<Array> {
        let address = self.buffers.weights.filter(|_| self.has_weights)?;
        let stride = self.buffers.weights_stride;
        Some(self.array(address, Dtype::F32, Some((stride, stride))))
    }

    pub(crate) fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Waits, and copies what the last step listed.
    pub(crate) fn to_host(&self) -> keysieve::Result<Selection> {
        lock(&self.lists.selector)?.read().cloned()
    }
}
