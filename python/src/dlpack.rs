//! DLPack: arrays of other libraries, and this one's results for them.
//!
//! The structs are those of the DLPack specification 1.0; a capsule without a version has the older
//! struct, which every library still reads.

use std::any::Any;
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::errors::Class;

pub(crate) const CPU: i32 = 1;
pub(crate) const CUDA: i32 = 2;
const CUDA_HOST: i32 = 3;
const CUDA_MANAGED: i32 = 13;

const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// A flag of a versioned tensor.
const READ_ONLY: u64 = 1;

/// `DLDevice`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) kind: i32,
    pub(crate) ordinal: i32,
}

impl Device {
    /// Whether the processor reads the memory.
    pub(crate) fn is_host(self) -> bool {
        matches!(self.kind, CPU | CUDA_HOST)
    }

    /// Whether a GPU reads the memory in the order of a stream.
    pub(crate) fn is_cuda(self) -> bool {
        matches!(self.kind, CUDA | CUDA_MANAGED)
    }

    pub(crate) fn name(self) -> String {
        match self.kind {
            CPU | CUDA_HOST => "cpu".into(),
            CUDA | CUDA_MANAGED => format!("cuda:{}", self.ordinal),
            kind => format!("DLPack device type {kind}"),
        }
    }
}

/// `DLDataType`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dtype {
    code: u8,
    bits: u8,
    lanes: u16,
}

impl Dtype {
    const fn new(code: u8, bits: u8) -> Self {
        Dtype {
            code,
            bits,
            lanes: 1,
        }
    }

    pub(crate) const I32: Dtype = Dtype::new(0, 32);
    pub(crate) const I64: Dtype = Dtype::new(0, 64);
    pub(crate) const U8: Dtype = Dtype::new(1, 8);
    pub(crate) const F16: Dtype = Dtype::new(2, 16);
    pub(crate) const F32: Dtype = Dtype::new(2, 32);
    pub(crate) const BF16: Dtype = Dtype::new(4, 16);

    pub(crate) fn bytes(self) -> usize {
        usize::from(self.bits) / 8
    }

    pub(crate) fn name(self) -> String {
        let kind = match self.code {
            0 => "int",
            1 => "uint",
            2 => "float",
            4 => "bfloat",
            5 => "complex",
            6 => return "bool".into(),
            code => return format!("DLPack type {code} of {} bits", self.bits),
        };
        format!("{kind}{}", self.bits)
    }

    /// numpy's code of the type.
    fn typestr(self) -> Option<&'static str> {
        match self {
            Dtype::I32 => Some("<i4"),
            Dtype::I64 => Some("<i8"),
            Dtype::U8 => Some("|u1"),
            Dtype::F32 => Some("<f4"),
            _ => None,
        }
    }
}

/// `DLTensor`.
#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: Dtype,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`.
#[repr(C)]
struct Managed {
    tensor: RawTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: RawTensor,
}

/// Where an array's elements lie, in elements of its type.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) address: usize,
    pub(crate) dtype: Dtype,
    pub(crate) device: Device,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<isize>,
}

impl Tensor {
    fn from_raw(argument: &str, raw: &RawTensor) -> PyResult<Self> {
        let ndim = usize::try_from(raw.ndim).unwrap_or(0);
        // SAFETY: a DLTensor has `ndim` lengths and, unless the pointer is null, as many strides.
        let (shape, strides) = unsafe {
            let list = |start: *mut i64| match start.is_null() || ndim == 0 {
                true => Vec::new(),
                false => std::slice::from_raw_parts(start, ndim).to_vec(),
            };
            (list(raw.shape), list(raw.strides))
        };
        if shape.len() != ndim || shape.iter().any(|&len| len < 0) {
            let expected = "a DLPack tensor with a shape";
            return Err(Class::InvalidArgument.error(argument, format!("{shape:?}"), expected));
        }
        let shape: Vec<usize> = shape.iter().map(|&len| len as usize).collect();
        let strides = match strides.is_empty() {
            true => contiguous(&shape),
            false => strides.iter().map(|&stride| stride as isize).collect(),
        };
        Ok(Tensor {
            address: raw.data as usize + raw.byte_offset as usize,
            dtype: raw.dtype,
            device: raw.device,
            shape,
            strides,
        })
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether elements follow each other in row-major order. The stride of an axis of one element
    /// does not matter.
    pub(crate) fn is_contiguous(&self) -> bool {
        let axes = self.shape.iter().zip(&self.strides);
        let mut expected = axes.zip(contiguous(&self.shape));
        self.len() == 0
            || expected.all(|((&len, &stride), expected)| len == 1 || stride == expected)
    }
}

/// Row-major strides of a shape, in elements.
pub(crate) fn contiguous(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

/// An array of another library, borrowed until this is dropped (with the interpreter attached).
pub(crate) struct Imported {
    pub(crate) tensor: Tensor,
    /// The exporter asks that nobody writes it.
    pub(crate) is_read_only: bool,
    owner: Owner,
}

enum Owner {
    Plain(NonNull<Managed>),
    Versioned(NonNull<ManagedVersioned>),
}

impl Drop for Imported {
    fn drop(&mut self) {
        // SAFETY: the capsule was consumed, so the tensor is this value's to give back, once.
        unsafe {
            match self.owner {
                Owner::Plain(tensor) => {
                    if let Some(deleter) = tensor.as_ref().deleter {
                        deleter(tensor.as_ptr());
                    }
                }
                Owner::Versioned(tensor) => {
                    if let Some(deleter) = tensor.as_ref().deleter {
                        deleter(tensor.as_ptr());
                    }
                }
            }
        }
    }
}

impl Imported {
    /// Takes `object`'s array without copying it. `stream` is the CUDA stream, as DLPack numbers
    /// them, on which it will be read.
    pub(crate) fn new(
        argument: &str,
        object: &Bound<'_, PyAny>,
        stream: Option<i64>,
    ) -> PyResult<Self> {
        let py = object.py();
        let device = device_of(argument, object)?;
        let keywords = PyDict::new(py);
        if device.is_cuda() {
            keywords.set_item(intern!(py, "stream"), stream.unwrap_or(1))?;
        } else if !device.is_host() {
            return Err(Class::InvalidType.error(argument, device.name(), "cpu or cuda memory"));
        }
        let export = object.getattr(intern!(py, "__dlpack__"))?;
        let with_version = keywords.copy()?;
        with_version.set_item(intern!(py, "max_version"), (1, 0))?;
        let capsule = match export.call((), Some(&with_version)) {
            // Older libraries know no versions.
            Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                export.call((), Some(&keywords))
            }
            other => other,
        };
        let capsule = capsule.map_err(|cause| {
            let kind = object.get_type().to_string();
            let got = format!("{kind}, which is not given out: {}", cause.value(py));
            let error =
                Class::InvalidType.error(argument, got, "an array that DLPack can hand over");
            error.set_cause(py, Some(cause));
            error
        })?;
        Self::consume(argument, &capsule)
    }

    fn consume(argument: &str, capsule: &Bound<'_, PyAny>) -> PyResult<Self> {
        // SAFETY: the names are compared before the pointers are used; a consumed capsule is renamed,
        // so that its own destructor leaves the tensor to us.
        unsafe {
            let raw = capsule.as_ptr();
            if ffi::PyCapsule_IsValid(raw, VERSIONED.as_ptr()) == 1 {
                let pointer = ffi::PyCapsule_GetPointer(raw, VERSIONED.as_ptr());
                let managed = NonNull::new(pointer.cast::<ManagedVersioned>())
                    .ok_or_else(|| PyErr::fetch(capsule.py()))?;
                ffi::PyCapsule_SetName(raw, c"used_dltensor_versioned".as_ptr());
                let owner = Owner::Versioned(managed);
                if managed.as_ref().major != 1 {
                    let got = format!("DLPack version {}", managed.as_ref().major);
                    // What lies behind the deleter is not known, so nothing but that is touched.
                    drop(Imported {
                        tensor: Tensor {
                            address: 0,
                            dtype: Dtype::F32,
                            device: Device {
                                kind: CPU,
                                ordinal: 0,
                            },
                            shape: Vec::new(),
                            strides: Vec::new(),
                        },
                        is_read_only: true,
                        owner,
                    });
                    return Err(Class::InvalidType.error(argument, got, "version 1"));
                }
                return Self::own(argument, owner, &managed.as_ref().tensor);
            }
            if ffi::PyCapsule_IsValid(raw, PLAIN.as_ptr()) == 1 {
                let pointer = ffi::PyCapsule_GetPointer(raw, PLAIN.as_ptr());
                let managed = NonNull::new(pointer.cast::<Managed>())
                    .ok_or_else(|| PyErr::fetch(capsule.py()))?;
                ffi::PyCapsule_SetName(raw, c"used_dltensor".as_ptr());
                return Self::own(argument, Owner::Plain(managed), &managed.as_ref().tensor);
            }
        }
        let got = capsule.get_type().to_string();
        Err(Class::InvalidType.error(argument, got, "a capsule of a DLPack tensor"))
    }

    fn own(argument: &str, owner: Owner, raw: &RawTensor) -> PyResult<Self> {
        let is_read_only = match &owner {
            Owner::Plain(_) => false,
            // SAFETY: the tensor is this value's.
            Owner::Versioned(managed) => unsafe { managed.as_ref().flags & READ_ONLY != 0 },
        };
        let mut imported = Imported {
            is_read_only,
            tensor: Tensor {
                address: 0,
                dtype: raw.dtype,
                device: raw.device,
                shape: Vec::new(),
                strides: Vec::new(),
            },
            owner,
        };
        imported.tensor = Tensor::from_raw(argument, raw)?;
        Ok(imported)
    }
}

/// Where `object`'s array lies, as `__dlpack_device__` says.
pub(crate) fn device_of(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Device> {
    let py = object.py();
    let Ok(answer) = object.call_method0(intern!(py, "__dlpack_device__")) else {
        let got = object.get_type().to_string();
        let expected = "an array with __dlpack__ (numpy, torch, cupy, jax)";
        return Err(Class::InvalidType.error(argument, got, expected));
    };
    let (kind, ordinal): (Bound<'_, PyAny>, i32) = answer.extract()?;
    // An enumeration's member in some libraries.
    let kind = kind.call_method0(intern!(py, "__int__"))?.extract()?;
    Ok(Device { kind, ordinal })
}

/// What a consumer's stream waits for before it reads an array on a GPU.
pub(crate) trait Handover: Send + Sync {
    /// Lets `stream`, a driver's handle, wait for what wrote the array.
    fn hand_over(&self, stream: usize) -> keysieve::Result<()>;
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

    /// A capsule of the array. `stream` is the consumer's, as DLPack numbers them: it waits for the
    /// step that wrote the array, the host does not.
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
        if copy == Some(true) {
            return buffer_error("copy: expected None or False, an array is handed over as it is");
        }
        match (&self.handover, stream) {
            (None, _) | (Some(_), Some(-1)) => (),
            (Some(handover), stream) => {
                let stream = crate::stream_handle(stream.unwrap_or(1))?;
                py.detach(|| handover.hand_over(stream))
                    .map_err(crate::errors::raised)?;
            }
        }
        let lengths = self.tensor.shape.iter().map(|&len| len as i64);
        let strides = self.tensor.strides.iter().map(|&stride| stride as i64);
        let mut exported = Box::new(Exported {
            axes: lengths.chain(strides).collect(),
            _owner: self.owner.clone(),
        });
        let ndim = self.tensor.shape.len();
        let shape = exported.axes.as_mut_ptr();
        let tensor = RawTensor {
            data: self.tensor.address as *mut c_void,
            device: self.tensor.device,
            ndim: ndim as i32,
            dtype: self.tensor.dtype,
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
                flags: 0,
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
