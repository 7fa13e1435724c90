"""What keysieve raises. Every message names the argument, what came and what was expected."""

from __future__ import annotations

from typing import Optional


class KeysieveError(Exception):
    """The base of all errors of this package.

    ``argument``, ``got`` and ``expected`` are the parts of the message, or None where it has no such
    parts (a driver's answer, a file).
    """

    argument: Optional[str]
    got: Optional[str]
    expected: Optional[str]

    def __init__(
        self,
        message: str,
        argument: Optional[str] = None,
        got: Optional[str] = None,
        expected: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.argument = argument
        self.got = got
        self.expected = expected

    @classmethod
    def of(cls, argument: str, got: object, expected: object) -> "KeysieveError":
        """An error of this class with the usual message."""
        message = f"{argument}: got {got}, expected {expected}"
        return cls(message, argument, str(got), str(expected))

    def __reduce__(self):
        return type(self), (str(self), self.argument, self.got, self.expected)


class InvalidArgument(KeysieveError, ValueError):
    """A value, a shape or a device that the call cannot work with."""


class InvalidType(KeysieveError, TypeError):
    """An object that is no array, or an array of another element type."""


class CapacityError(InvalidArgument):
    """More tokens than an index has room for; see ``KeyIndex.reserve``."""


class FileError(KeysieveError, RuntimeError):
    """A file that cannot be read or written."""


class DeviceError(KeysieveError, RuntimeError):
    """There is no such device, or the CUDA driver refuses a call."""


class DeviceLost(DeviceError):
    """The CUDA context has died; only a new process gets another."""
