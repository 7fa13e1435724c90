//! From the library's errors to the classes of `keysieve._errors`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// A class of `keysieve._errors` that is raised here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Class {
    InvalidArgument,
    InvalidType,
    CapacityError,
    FileError,
    DeviceError,
    DeviceLost,
}

impl Class {
    fn get<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        static CLASSES: [PyOnceLock<Py<PyType>>; 6] = [const { PyOnceLock::new() }; 6];
        let name = format!("{self:?}");
        CLASSES[self as usize]
            .import(py, "keysieve._errors", &name)
            .cloned()
    }

    /// An exception of this class that says `argument: got ..., expected ...`.
    pub(crate) fn error(
        self,
        argument: &str,
        got: impl ToString,
        expected: impl ToString,
    ) -> PyErr {
        let error = keysieve::Error::invalid(argument, got, expected);
        let keysieve::Error::Invalid {
            argument,
            got,
            expected,
        } = &error
        else {
            unreachable!("Error::invalid makes no other");
        };
        self.raise(
            error.to_string(),
            [argument, got, expected].map(|field| Some(&field[..])),
        )
    }

    fn raise(self, message: String, fields: [Option<&str>; 3]) -> PyErr {
        Python::attach(|py| match self.get(py) {
            Ok(class) => {
                let fields = fields.map(|field| field.map(str::to_owned));
                let [argument, got, expected] = fields;
                PyErr::from_type(class, (message, argument, got, expected))
            }
            Err(error) => error,
        })
    }
}

/// The library's error as an exception.
pub(crate) fn raised(error: keysieve::Error) -> PyErr {
    use keysieve::Error;
    let message = error.to_string();
    let class = match &error {
        Error::Invalid {
            argument,
            got,
            expected,
        } => {
            let fields = [argument, got, expected].map(|field| Some(&field[..]));
            return Class::InvalidArgument.raise(message, fields);
        }
        Error::NotFinite { value, .. } => {
            let fields = ["keys", value, "finite numbers"].map(Some);
            return Class::InvalidArgument.raise(message, fields);
        }
        Error::Capacity {
            seq_len,
            additional,
            capacity,
        } => {
            let got = format!("{additional} more tokens with {seq_len} held");
            let expected = format!("at most {capacity} in all");
            let fields = ["keys", &got, &expected].map(Some);
            return Class::CapacityError.raise(message, fields);
        }
        Error::File { .. } => Class::FileError,
        Error::DeviceLost { .. } => Class::DeviceLost,
        // What remains is the driver's; a variant to come is told by its message.
        _ => Class::DeviceError,
    };
    class.raise(message, [None; 3])
}
