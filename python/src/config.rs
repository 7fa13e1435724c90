//! The dataclasses of `keysieve._configs`, as the library has them.

use keysieve::{
    Aggregation, CentroidDtype, IndexConfig, Metric, PqConfig, SelectConfig, Start, TrainConfig,
};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use crate::errors::{Class, raised};

fn number(object: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    let value = object.getattr(name)?;
    if value.is_instance_of::<PyBool>() {
        return Err(Class::InvalidType.error(name, "a bool", "a whole number"));
    }
    value.extract::<usize>().map_err(|error| {
        let py = object.py();
        let got = value.repr().map(|text| text.to_string());
        let got = got.unwrap_or_else(|_| "what cannot be printed".into());
        let expected = "a whole number that is not negative";
        match error.is_instance_of::<PyTypeError>(py) {
            true => Class::InvalidType.error(name, got, expected),
            // Negative, or too large for any field.
            false => {
                debug_assert!(error.is_instance_of::<PyOverflowError>(py));
                Class::InvalidArgument.error(name, got, expected)
            }
        }
    })
}

fn flag(object: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    let value = object.getattr(name)?;
    value.extract::<bool>().map_err(|_| {
        let got = value.get_type().to_string();
        Class::InvalidType.error(name, got, "True or False")
    })
}

fn text(object: &Bound<'_, PyAny>, name: &str) -> PyResult<String> {
    let value = object.getattr(name)?;
    match value.cast::<PyString>() {
        Ok(text) => Ok(text.to_string()),
        Err(_) => Err(Class::InvalidType.error(name, value.get_type().to_string(), "a str")),
    }
}

/// A `PqConfig` without its keys' `head_dim`, which is checked when keys come.
pub(crate) fn pq_config(object: &Bound<'_, PyAny>) -> PyResult<PqConfig> {
    let bits = number(object, "bits")?;
    let config = PqConfig {
        num_subvectors: number(object, "num_subvectors")?,
        bits: u32::try_from(bits).unwrap_or(u32::MAX),
        init_offset: number(object, "init_offset")?,
        metric: Metric::from_name(&text(object, "metric")?).map_err(raised)?,
    };
    config
        .validate(config.num_subvectors.clamp(1, 64))
        .map_err(raised)?;
    Ok(config)
}

/// A `TrainConfig`; a start of None is the device's own.
pub(crate) fn train_config(object: &Bound<'_, PyAny>, on_cuda: bool) -> PyResult<TrainConfig> {
    let start = match object.getattr("start")?.is_none() {
        true if on_cuda => Start::Sampled,
        true => Start::PlusPlus,
        false => match text(object, "start")?.as_str() {
            "plus-plus" => Start::PlusPlus,
            "sampled" => Start::Sampled,
            other => {
                let expected = "plus-plus, sampled or None";
                return Err(Class::InvalidArgument.error("start", other, expected));
            }
        },
    };
    let centroids = match text(object, "centroids")?.as_str() {
        "float32" => CentroidDtype::F32,
        "float16" => CentroidDtype::F16,
        "bfloat16" => CentroidDtype::Bf16,
        other => {
            let expected = "float32, float16 or bfloat16";
            return Err(Class::InvalidArgument.error("centroids", other, expected));
        }
    };
    let tolerance = object.getattr("tolerance")?;
    let tolerance = tolerance.extract::<f32>().map_err(|_| {
        let got = tolerance.get_type().to_string();
        Class::InvalidType.error("tolerance", got, "a number")
    })?;
    let config = TrainConfig {
        iterations: number(object, "iterations")?,
        seed: number(object, "seed")? as u64,
        start,
        tolerance,
        centroids,
    };
    config.validate().map_err(raised)?;
    Ok(config)
}

/// A `SelectConfig`.
pub(crate) fn select_config(object: &Bound<'_, PyAny>) -> PyResult<SelectConfig> {
    let aggregation = match text(object, "aggregation")?.as_str() {
        "per-head" => Aggregation::PerHead,
        "softmax-sum" => Aggregation::SoftmaxSum,
        "max" => Aggregation::Max,
        "mean" => Aggregation::Mean,
        other => {
            let expected = "per-head, softmax-sum, max or mean";
            return Err(Class::InvalidArgument.error("aggregation", other, expected));
        }
    };
    let config = SelectConfig {
        sink: number(object, "sink")?,
        window: number(object, "window")?,
        heavy: number(object, "heavy")?,
        short_context: flag(object, "short_context")?,
        weights: flag(object, "weights")?,
        causal: flag(object, "causal")?,
        aggregation,
        scores: flag(object, "scores")?,
        indices: match text(object, "positions")?.as_str() {
            "int32" => None,
            "int64" => Some(IndexConfig::WIDE),
            other => {
                let expected = "int32 or int64";
                return Err(Class::InvalidArgument.error("positions", other, expected));
            }
        },
    };
    config.validate().map_err(raised)?;
    Ok(config)
}

/// Checks a configuration of the given kind: what the dataclasses do when they are made.
#[pyfunction]
pub(crate) fn check_config(kind: &str, config: &Bound<'_, PyAny>) -> PyResult<()> {
    match kind {
        "pq" => pq_config(config).map(drop),
        "train" => train_config(config, false).map(drop),
        _ => select_config(config).map(drop),
    }
}
