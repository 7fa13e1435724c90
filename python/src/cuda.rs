//! Arrays in device memory, on the stream of their caller.

use keysieve::{PqConfig, SelectConfig, TrainConfig};
use pyo3::prelude::*;

use crate::errors::Class;
use crate::index::Index;
use crate::inputs::Input;
use crate::selection::Selected;

/// Calls with arrays in device memory are refused.
fn no(argument: &str, input: &Input) -> PyErr {
    let got = input.array.tensor.device.name();
    Class::InvalidArgument.error(argument, got, "cpu")
}
pub(crate) fn train(
    _: &Index,
    _: Python<'_>,
    _: &PqConfig,
    _: &TrainConfig,
    input: &Input,
    _: usize,
    _: Option<i64>,
) -> PyResult<()> {
    Err(no("keys", input))
}
pub(crate) fn append(
    _: &Index,
    _: Python<'_>,
    input: &Input,
    _: usize,
    _: Option<i64>,
) -> PyResult<()> {
    Err(no("keys", input))
}
pub(crate) fn select(
    _: &Index,
    _: Python<'_>,
    _: &SelectConfig,
    input: &Input,
    _: Option<i64>,
) -> PyResult<Selected> {
    Err(no("queries", input))
}
