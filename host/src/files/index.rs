//! The index file: a [`KeyIndex`] with its configuration in the metadata.

use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;

use super::archive::{Archive, Element, Header, write_all};
use crate::config::{CentroidDtype, MAX_TOKENS, Metric, PqConfig};
use crate::error::{Error, Result};
use crate::index::{Augmentation, IndexParts, KeyIndex};

/// What errors call an index file.
const ARGUMENT: &str = "index";
/// Names of tensors; the last two an index with the metric `ip` has beside the others.
const CENTROIDS: &str = "centroids";
const PHIS: &str = "phis";
const COMPONENTS: &str = "augmented_components";
/// Metadata of an index that knows how well its codebooks fit what they were trained on.
const TRAINING_ERROR: &str = "training_error";

impl KeyIndex {
    /// Writes the index without its spare room, whole or not at all. The same index gives the same bytes.
    ///
    /// # Errors
    /// [`Error::File`] when the operating system refuses.
    pub fn save(&self, path: &Path) -> Result<()> {
        let parts = self.to_parts();
        let IndexParts { config, .. } = parts;
        let (m, sub_dim) = (config.num_subvectors, config.sub_dim(parts.head_dim));
        let (batch, heads) = (parts.batch, parts.num_kv_heads);
        let mut metadata = vec![
            ("num_subvectors", m.to_string()),
            ("bits", config.bits.to_string()),
            ("init_offset", config.init_offset.to_string()),
            ("metric", config.metric.name().to_string()),
        ];
        if let Some(error) = self.training_error() {
            // The shortest decimal that is read as the same number.
            metadata.push((TRAINING_ERROR, error.to_string()));
        }
        let mut header = Header::new(metadata);
        let shape = [batch, heads, m, config.num_centroids(), sub_dim];
        match self.centroid_dtype() {
            CentroidDtype::F32 => header.tensor::<f32>(CENTROIDS, &shape),
            CentroidDtype::F16 => header.tensor::<f16>(CENTROIDS, &shape),
            CentroidDtype::Bf16 => header.tensor::<bf16>(CENTROIDS, &shape),
        }
        if parts.augmentation.is_some() {
            header.tensor::<f32>(PHIS, &[batch, heads, m]);
            header.tensor::<f32>(COMPONENTS, &[batch, heads, m, config.num_centroids()]);
        }
        header.tensor::<u8>("codes", &[batch, heads, parts.num_codes, m]);
        super::write_whole(ARGUMENT, path, |writer| {
            header.write_to(writer)?;
            // Each is a number of its type.
            let centroids = parts.centroids.iter();
            match self.centroid_dtype() {
                CentroidDtype::F32 => write_all(writer, &parts.centroids)?,
                CentroidDtype::F16 => centroids
                    .map(|&value| f16::from_f32(value))
                    .try_for_each(|value| value.write_to(writer))?,
                CentroidDtype::Bf16 => centroids
                    .map(|&value| bf16::from_f32(value))
                    .try_for_each(|value| value.write_to(writer))?,
            }
            if let Some(Augmentation { phis, components }) = &parts.augmentation {
                write_all(writer, phis)?;
                write_all(writer, components)?;
            }
            write_all(writer, &parts.codes)
        })
    }

    /// Reads an index, this program's or another's with the same tensors and metadata keys
    /// (`num_subvectors`, `bits`, `init_offset`, `metric`; with the metric `ip` two tensors more), and makes room for `capacity` tokens;
    /// `None` leaves no spare room.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read or is no whole safetensors file;
    /// [`Error::Invalid`] for missing or impossible metadata, another dtype or shape, centroids that
    /// are not finite, codes that are no centroid's, or more tokens than `capacity`.
    pub fn load(path: &Path, capacity: Option<usize>) -> Result<Self> {
        Self::parse(path, &super::read_whole(ARGUMENT, path)?, capacity)
    }

    /// [`KeyIndex::load`] from `bytes`, the content of a file of the name `path`.
    ///
    /// # Errors
    /// As [`KeyIndex::load`].
    pub fn parse(path: &Path, bytes: &[u8], capacity: Option<usize>) -> Result<Self> {
        let archive = Archive::parse(ARGUMENT, path, bytes)?;
        let parts = read_parts(&archive)?;
        let seq_len = parts.config.init_offset + parts.num_codes;
        let training_error = match archive.metadata(TRAINING_ERROR) {
            Err(_) => None,
            Ok(text) => Some(text.parse().map_err(|_| {
                let name = format!("{ARGUMENT}: metadata {TRAINING_ERROR}");
                Error::invalid(name, format!("{text:?}"), "a number")
            })?),
        };
        let mut index = Self::from_parts(parts, capacity.unwrap_or(seq_len)).map_err(in_file)?;
        index.set_training_error(training_error).map_err(in_file)?;
        let dtype = match archive.tensor(CENTROIDS)?.dtype() {
            Dtype::F16 => CentroidDtype::F16,
            Dtype::BF16 => CentroidDtype::Bf16,
            _ => CentroidDtype::F32,
        };
        index.set_centroid_dtype(dtype).map_err(in_file)?;
        Ok(index)
    }
}

fn read_parts(archive: &Archive<'_>) -> Result<IndexParts> {
    let config = PqConfig {
        num_subvectors: number(archive, "num_subvectors")?,
        bits: u32::try_from(number(archive, "bits")?).unwrap_or(u32::MAX),
        init_offset: number(archive, "init_offset")?,
        metric: Metric::from_name(archive.metadata("metric")?).map_err(in_file)?,
    };
    let centroids = archive.tensor(CENTROIDS)?;
    let [batch, heads, m, num_centroids, sub_dim] =
        centroids.dims("[batch, num_kv_heads, m, 2^bits, sub_dim], none of them 0")?;
    // Elements of a tensor in memory are fewer than 2^63, so the product fits.
    let head_dim = m * sub_dim;
    config.validate(head_dim).map_err(in_file)?;
    if m != config.num_subvectors || num_centroids != config.num_centroids() {
        return Err(centroids.wrong_shape(format!(
            "[batch, num_kv_heads, {}, {}, sub_dim], as the metadata say",
            config.num_subvectors,
            config.num_centroids()
        )));
    }
    let values = centroids.floats()?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let (row, component) = (at / sub_dim, at % sub_dim);
        let (row, centroid) = (row / num_centroids, row % num_centroids);
        let (group, subvector) = (row / m, row % m);
        return Err(Error::invalid(
            &centroids.name,
            format!(
                "{} at [batch {}, head {}, sub-vector {subvector}, centroid {centroid}, \
                 component {component}]",
                values[at],
                group / heads,
                group % heads
            ),
            "finite numbers",
        ));
    }

    let augmentation = match config.is_augmented() {
        false => None,
        true => Some(Augmentation {
            phis: added(archive, PHIS, &[batch, heads, m])?,
            components: added(archive, COMPONENTS, &[batch, heads, m, num_centroids])?,
        }),
    };

    let codes = archive.tensor("codes")?;
    let &[codes_batch, codes_heads, num_codes, codes_m] = codes.shape.as_slice() else {
        return Err(codes.wrong_shape("[batch, num_kv_heads, tokens - init_offset, m]"));
    };
    if [codes_batch, codes_heads, codes_m] != [batch, heads, m] {
        return Err(codes.wrong_shape(format!(
            "[{batch}, {heads}, tokens - init_offset, {m}], as the centroids have"
        )));
    }
    if num_codes > MAX_TOKENS - config.init_offset {
        return Err(codes.wrong_shape(format!(
            "at most {} tokens behind init_offset {}",
            MAX_TOKENS - config.init_offset,
            config.init_offset
        )));
    }
    Ok(IndexParts {
        config,
        batch,
        num_kv_heads: heads,
        head_dim,
        num_codes,
        centroids: values,
        augmentation,
        codes: codes.bytes()?,
    })
}

/// The finite values of a tensor that the metric adds, which has the centroids' shape less some axes.
fn added(archive: &Archive<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let tensor = archive.tensor(name)?;
    if tensor.shape != shape {
        return Err(tensor.wrong_shape(format!("{shape:?}, as the centroids have")));
    }
    let values = tensor.f32s()?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let got = format!("{} as element {at}", values[at]);
            Err(Error::invalid(&tensor.name, got, "finite numbers"))
        }
    }
}

fn number(archive: &Archive<'_>, key: &str) -> Result<usize> {
    let text = archive.metadata(key)?;
    text.parse().map_err(|_| {
        let name = format!("{ARGUMENT}: metadata {key}");
        Error::invalid(name, format!("{text:?}"), "a whole number")
    })
}

/// Says that an argument stands in the file.
fn in_file(error: Error) -> Error {
    match error {
        Error::Invalid {
            argument,
            got,
            expected,
        } if argument != "capacity" => Error::Invalid {
            argument: format!("{ARGUMENT}: {argument}"),
            got,
            expected,
        },
        other => other,
    }
}
