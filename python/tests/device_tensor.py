"""An array in device memory by the driver alone, as another library's would come: for machines without torch."""

import ctypes
import math
import os

import numpy as np

DTYPES = {"float32": (2, 32), "float16": (2, 16), "int32": (0, 32), "int64": (0, 64)}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]



class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Driver:
    """The functions of libcuda that are needed, on the context that is current."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)

    def __call__(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        assert code == 0, f"{name} answered {code}"

    def stream(self):
        handle = ctypes.c_void_p()
        self("cuStreamCreate", ctypes.byref(handle), 1)
        return handle.value

    def free_memory(self):
        """Bytes of device memory that nobody has."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def read(self, array):
        """A copy of an exporter's device array on the host."""
        address, shape, strides, dtype = opened(array)
        assert strides[-1] == 1
        rows = math.prod(shape[:-1])
        step = strides[-2] if len(shape) > 1 else 0
        out = np.zeros((rows, shape[-1]), dtype)
        for row in range(rows):
            start = ctypes.c_uint64(address + row * step * out.itemsize)
            size = ctypes.c_size_t(shape[-1] * out.itemsize)
            self("cuMemcpyDtoH_v2", ctypes.c_void_p(out[row].ctypes.data), start, size)
        return out.reshape(shape)


def opened(array):
    """Address, shape, strides and dtype of an exported array; the capsule goes with the call."""
    return described(array.__dlpack__(stream=-1))


def described(capsule):
    """What a capsule without a version says."""
    managed = ctypes.cast(_get_pointer(capsule, b"dltensor"), ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    shape = [tensor.shape[i] for i in range(tensor.ndim)]
    strides = [tensor.strides[i] for i in range(tensor.ndim)]
    dtype = {(0, 32): np.int32, (0, 64): np.int64, (2, 32): np.float32}[tensor.code, tensor.bits]
    return tensor.data + tensor.byte_offset, shape, strides, dtype


class Copied:
    """A consumer's copy of an exporter's array, held by its capsule."""

    def __init__(self, array, stream, copy=True):
        self.capsule = array.__dlpack__(stream=stream, copy=copy)

    def __dlpack__(self, *, stream):
        return self.capsule


class DeviceTensor:
    """A copy of a numpy array, its memory in another order of the axes."""

    exported = 0
    given_back = 0

    def __init__(self, driver, array, order=None, device_id=0):
        self.array, self.device_id = array, device_id
        order = range(array.ndim) if order is None else order
        memory = np.ascontiguousarray(array.transpose(order))
        strides = [0] * array.ndim
        for place, axis in enumerate(order):
            strides[axis] = memory.strides[place] // memory.itemsize
        self.strides = strides
        address = ctypes.c_uint64()
        driver("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(memory.nbytes, 1)))
        size = ctypes.c_size_t(memory.nbytes)
        driver("cuMemcpyHtoD_v2", address, ctypes.c_void_p(memory.ctypes.data), size)
        self.address = address.value
        self.shape = array.shape
        self.streams = []

    def __dlpack_device__(self):
        return (2, self.device_id)

    def __dlpack__(self, *, stream=None):
        """An older exporter: it knows no versions."""
        tensor, deleter = self._export(stream)
        managed = _Managed(tensor, None, deleter)
        return self._capsule(managed, b"dltensor")

    def _capsule(self, managed, name):
        self._keep.append(managed)
        return _new_capsule(ctypes.addressof(managed), name, None)

    def _export(self, stream):
        self.streams.append(stream)
        code, bits = DTYPES[str(self.array.dtype)]
        ndim = len(self.shape)
        shape, strides = (ctypes.c_int64 * ndim)(*self.shape), (ctypes.c_int64 * ndim)(*self.strides)

        def give_back(_):
            DeviceTensor.given_back += 1

        deleter = _DELETER(give_back)
        # Some give the allocation and how far the array lies in it.
        offset = 4 if self.address > 4 else 0
        tensor = _Tensor(
            self.address - offset, 2, self.device_id, ndim, code, bits, 1, shape, strides, offset
        )
        self._keep = [shape, strides, deleter]
        DeviceTensor.exported += 1
        return tensor, deleter


class VersionedTensor(DeviceTensor):
    """As CuPy and torch export today: DLPack 1, perhaps with the flag that nobody may write."""

    is_read_only = False

    def __dlpack__(self, *, stream=None, max_version=None):
        if max_version is None:
            return super().__dlpack__(stream=stream)
        tensor, deleter = self._export(stream)
        managed = _Versioned(1, 1, None, deleter, int(self.is_read_only), tensor)
        return self._capsule(managed, b"dltensor_versioned")


class Stream:
    """A stream as CuPy's are."""

    def __init__(self, ptr):
        self.ptr = ptr


def find_sim_driver():
    """The simulated driver, where the workspace has been built."""
    root = os.path.join(os.path.dirname(__file__), "..", "..")
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    # `cargo test` leaves it in deps, `cargo build` beside it too.
    for folder in ("debug/deps", "debug"):
        path = os.path.join(target, folder, "libkeysieve_sim_driver.so")
        if os.path.exists(path):
            return os.path.abspath(path)
    return None
