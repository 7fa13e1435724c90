"""Choose which cached keys a long-context language model attends to, by product quantisation.

Arrays of any library come and go by DLPack, without a copy; see ``KeyIndex``. ``keysieve.compat`` has
other packages' calling conventions, ``keysieve.doctor()`` says what works on this machine.
"""

from ._configs import PqConfig, SelectConfig, TrainConfig
from ._doctor import Report, doctor
from ._errors import (
    CapacityError,
    DeviceError,
    DeviceLost,
    FileError,
    InvalidArgument,
    InvalidType,
    KeysieveError,
)
from ._index import KeyIndex, Selection, merge_selections, shard_config
from ._native import Array, __version__

__all__ = [
    "Array",
    "CapacityError",
    "DeviceError",
    "DeviceLost",
    "FileError",
    "InvalidArgument",
    "InvalidType",
    "KeyIndex",
    "KeysieveError",
    "PqConfig",
    "Report",
    "SelectConfig",
    "Selection",
    "TrainConfig",
    "__version__",
    "doctor",
    "merge_selections",
    "shard_config",
]
