//! Arrays that come in.

use std::ptr::NonNull;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{
    CPU, Device, Dtype, Managed, ManagedVersioned, PLAIN, READ_ONLY, RawTensor, Tensor, VERSIONED,
};
use crate::errors::Class;

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
fn device_of(argument: &str, object: &Bound<'_, PyAny>) -> PyResult<Device> {
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
