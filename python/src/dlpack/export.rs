//! Results that go out.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::{
    CPU, Device, Dtype, IS_COPIED, Managed, ManagedVersioned, PLAIN, RawTensor, Tensor, VERSIONED,
    contiguous,
};

/// What a consumer's stream waits for before it reads an array on a GPU.
pub(crate) trait Handover: Send + Sync {
    /// Lets `stream`, a driver's handle, wait for what wrote the array.
    fn hand_over(&self, stream: usize) -> keysieve::Result<()>;

    /// A row-major copy without gaps of `tensor`, in memory of its own; `stream` waits for it, if there is one.
    fn copy(&self, tensor: &Tensor, stream: Option<usize>) -> keysieve::Result<Array>;
}

/// A result. It is an exporter of DLPack; on the CPU numpy takes it as it is (`numpy.asarray`).
#[pyclass(frozen, module = "keysieve", name = "Array")]
pub(crate) struct Array {
    pub(crate) tensor: Tensor,
    pub(crate) owner: Arc<dyn Any + Send + Sync>,
    pub(crate) handover: Option<Arc<dyn Handover>>,
}

impl Array {
    /// Row-major elements in memory of this process that `owner` keeps.
    pub(crate) fn on_host(
        address: usize,
        dtype: Dtype,
        shape: Vec<usize>,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let strides = contiguous(&shape);
        let device = Device {
            kind: CPU,
            ordinal: 0,
        };
        Array {
            tensor: Tensor {
                address,
                dtype,
                device,
                shape,
                strides,
            },
            owner,
            handover: None,
        }
    }

    /// A row-major copy without gaps in memory of its own, which `stream` waits for on a GPU.
    fn copied(&self, stream: Option<usize>) -> keysieve::Result<Array> {
        let tensor = &self.tensor;
        if let Some(handover) = &self.handover {
            return handover.copy(tensor, stream);
        }
        // On the host arrays are made without gaps.
        let bytes = tensor.len() * tensor.dtype.bytes();
        // Words, as their alignment is enough for every type.
        let mut words = vec![0u64; bytes.div_ceil(8)];
        // SAFETY: the array's elements, which its owner keeps, into as many bytes of their own.
        unsafe {
            let source = std::ptr::with_exposed_provenance::<u8>(tensor.address);
            if bytes > 0 {
                std::ptr::copy_nonoverlapping(source, words.as_mut_ptr().cast(), bytes);
            }
        }
        Ok(owned(words, tensor.dtype, tensor.shape.clone()))
    }
}

/// An array of memory of its own.
pub(crate) fn owned<T: Send + Sync + 'static>(
    elements: Vec<T>,
    dtype: Dtype,
    shape: Vec<usize>,
) -> Array {
    let elements = Arc::new(elements);
    let address = elements.as_ptr() as usize;
    let owner: Arc<dyn Any + Send + Sync> = elements;
    Array::on_host(address, dtype, shape, owner)
}

#[pymethods]
impl Array {
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.tensor.shape)
    }

    #[getter]
    fn dtype(&self) -> String {
        self.tensor.dtype.name()
    }

    #[getter]
    fn device(&self) -> String {
        self.tensor.device.name()
    }

    fn __len__(&self) -> usize {
        self.tensor.shape.first().copied().unwrap_or(0)
    }

    fn __repr__(&self) -> String {
        let Tensor { shape, dtype, .. } = &self.tensor;
        let (dtype, device) = (dtype.name(), self.device());
        format!("Array(shape={shape:?}, dtype='{dtype}', device='{device}')")
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        (self.tensor.device.kind, self.tensor.device.ordinal)
    }

    /// A dictionary of numpy's array interface, version 3; on the CPU alone.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let typestr = self.tensor.dtype.typestr();
        let Some(typestr) = typestr.filter(|_| self.tensor.device.is_host()) else {
            let message = format!("an array on {} has no array interface", self.device());
            return Err(pyo3::exceptions::PyAttributeError::new_err(message));
        };
        let bytes = self.tensor.dtype.bytes() as isize;
        let strides = self.tensor.strides.iter().map(|stride| stride * bytes);
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", typestr)?;
        interface.set_item("shape", PyTuple::new(py, &self.tensor.shape)?)?;
        interface.set_item("strides", PyTuple::new(py, strides.collect::<Vec<_>>())?)?;
        interface.set_item("data", (self.tensor.address, true))?;
        Ok(interface)
    }

    /// A copy in memory of its own, row-major and without gaps, that no later step writes. On a GPU it is made there,
    /// behind the step; the host does not wait, but memory is allocated, so not while a graph is captured.
    fn copy(&self, py: Python<'_>) -> PyResult<Array> {
        py.detach(|| self.copied(None))
            .map_err(crate::errors::raised)
    }

    /// A capsule of the array, or with `copy=True` of a copy without gaps. `stream` is the consumer's, as DLPack numbers
    /// them: it waits for the step that wrote the array, and for the copy; the host does not.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<i64>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let buffer_error =
            |message: &str| Err(pyo3::exceptions::PyBufferError::new_err(message.to_owned()));
        if dl_device.is_some_and(|device| device != self.__dlpack_device__()) {
            return buffer_error("dl_device: expected the device that the array is on");
        }
        let is_on_gpu = self.handover.is_some();
        let stream = match stream {
            // Nobody is to wait.
            Some(-1) => None,
            stream if is_on_gpu => Some(crate::stream_handle(stream.unwrap_or(1))?),
            _ => None,
        };
        let copied = copy == Some(true);
        let made = py
            .detach(|| match (&self.handover, stream) {
                _ if copied => self.copied(stream).map(Some),
                (Some(handover), Some(stream)) => handover.hand_over(stream).map(|()| None),
                _ => Ok(None),
            })
            .map_err(crate::errors::raised)?;
        let Array { tensor, owner, .. } = made.as_ref().unwrap_or(self);
        let lengths = tensor.shape.iter().map(|&len| len as i64);
        let strides = tensor.strides.iter().map(|&stride| stride as i64);
        let mut exported = Box::new(Exported {
            axes: lengths.chain(strides).collect(),
            _owner: owner.clone(),
        });
        let ndim = tensor.shape.len();
        let shape = exported.axes.as_mut_ptr();
        let tensor = RawTensor {
            data: tensor.address as *mut c_void,
            device: tensor.device,
            ndim: ndim as i32,
            dtype: tensor.dtype,
            shape,
            // SAFETY: the strides follow the lengths.
            strides: unsafe { shape.add(ndim) },
            byte_offset: 0,
        };
        let context = Box::into_raw(exported).cast::<c_void>();
        let capsule = if max_version.is_some_and(|(major, _)| major >= 1) {
            let managed = Box::new(ManagedVersioned {
                major: 1,
                minor: 0,
                context,
                deleter: Some(delete_versioned),
                flags: if copied { IS_COPIED } else { 0 },
                tensor,
            });
            let pointer = Box::into_raw(managed).cast();
            // SAFETY: the destructor knows a capsule of that name.
            unsafe { ffi::PyCapsule_New(pointer, VERSIONED.as_ptr(), Some(destroy_capsule)) }
        } else {
            let managed = Box::new(Managed {
                tensor,
                context,
                deleter: Some(delete),
            });
            let pointer = Box::into_raw(managed).cast();
            // SAFETY: as above.
            unsafe { ffi::PyCapsule_New(pointer, PLAIN.as_ptr(), Some(destroy_capsule)) }
        };
        // SAFETY: a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(py, capsule) }
    }
}

/// What an exported tensor lives on: lengths and strides, and the memory's owner.
struct Exported {
    axes: Vec<i64>,
    _owner: Arc<dyn Any + Send + Sync>,
}

unsafe extern "C" fn delete(managed: *mut Managed) {
    // SAFETY: the consumer's one call, with the pointers that the exporter made of boxes.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Exported>()));
    }
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    // SAFETY: as above.
    unsafe {
        let managed = Box::from_raw(managed);
        drop(Box::from_raw(managed.context.cast::<Exported>()));
    }
}

/// Gives back a tensor that nobody consumed: a consumer renames the capsule.
unsafe extern "C" fn destroy_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes the capsule; its pointer is what its name says.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, PLAIN.as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(capsule, PLAIN.as_ptr()).cast());
        } else if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}
