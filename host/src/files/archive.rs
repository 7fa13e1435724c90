//! A safetensors file, read without trust and written in one fixed order of bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// Bytes of the header's length in front of a file.
const LENGTH_BYTES: usize = 8;

/// A parsed file; errors call it `argument`.
pub(super) struct Archive<'a> {
    argument: &'a str,
    tensors: SafeTensors<'a>,
    metadata: HashMap<String, String>,
}

/// One tensor of an [`Archive`].
pub(super) struct Tensor<'a> {
    /// `argument: name`, for errors.
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) data: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Parses `bytes`, the content of `path`.
    pub(super) fn parse(argument: &'a str, path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let broken = |reason: String| {
            Error::unreadable(
                argument,
                path,
                format!("expected a whole safetensors file, {reason}"),
            )
        };
        check_offsets(bytes).map_err(broken)?;
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|error| broken(error.to_string()))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| broken(error.to_string()))?;
        Ok(Archive {
            argument,
            tensors,
            metadata: header.metadata().clone().unwrap_or_default(),
        })
    }

    /// The tensor of that name.
    pub(super) fn tensor(&self, name: &str) -> Result<Tensor<'a>> {
        let full_name = format!("{}: {name}", self.argument);
        let Ok(view) = self.tensors.tensor(name) else {
            return Err(Error::invalid(
                full_name,
                "a file without it",
                "a tensor of that name",
            ));
        };
        Ok(Tensor {
            name: full_name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data(),
        })
    }

    /// The metadata value of that key.
    pub(super) fn metadata(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| {
            Error::invalid(
                format!("{}: metadata {key}", self.argument),
                "a file without it",
                "a string",
            )
        })
    }
}

impl Tensor<'_> {
    /// The shape, when it has `N` dimensions and none is zero.
    pub(super) fn dims<const N: usize>(&self, axes: &str) -> Result<[usize; N]> {
        match <[usize; N]>::try_from(self.shape.as_slice()) {
            Ok(dims) if !dims.contains(&0) => Ok(dims),
            _ => Err(self.wrong_shape(axes)),
        }
    }

    /// An error that names the shape and the axes that were expected.
    pub(super) fn wrong_shape(&self, axes: impl ToString) -> Error {
        Error::invalid(&self.name, format!("shape {:?}", self.shape), axes)
    }

    /// The bytes of a u8 tensor.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        match self.dtype {
            Dtype::U8 => Ok(self.data.to_vec()),
            other => Err(Error::invalid(&self.name, format!("dtype {other}"), "U8")),
        }
    }

    /// The values of an f32 tensor, bit for bit.
    pub(super) fn f32s(&self) -> Result<Vec<f32>> {
        match self.dtype {
            Dtype::F32 => self.floats(),
            other => Err(Error::invalid(&self.name, format!("dtype {other}"), "F32")),
        }
    }

    /// Its type.
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The values of an f16, bf16 or f32 tensor; the wider type holds all of them exactly.
    pub(super) fn floats(&self) -> Result<Vec<f32>> {
        let pairs = || self.data.as_chunks::<2>().0.iter();
        Ok(match self.dtype {
            Dtype::F32 => {
                let words = self.data.as_chunks::<4>().0.iter();
                words.map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
            Dtype::F16 => pairs()
                .map(|&bytes| half::f16::from_le_bytes(bytes).to_f32())
                .collect(),
            Dtype::BF16 => pairs()
                .map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32())
                .collect(),
            other => {
                return Err(Error::invalid(
                    &self.name,
                    format!("dtype {other}"),
                    "F16, BF16 or F32",
                ));
            }
        })
    }
}

/// Refuses offsets behind the end of the file. `safetensors` 0.8 adds them up before it compares
/// them with the file's length, and a header of several huge tensors makes that sum overflow.
fn check_offsets(bytes: &[u8]) -> std::result::Result<(), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("it has {} bytes", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or_else(|| {
            let held = rest.len();
            format!("it says that its header has {length} bytes and {held} follow")
        })?;
    let header: HashMap<String, serde_json::Value> = serde_json::from_slice(header)
        .map_err(|error| format!("its header is not JSON: {error}"))?;
    for (name, info) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let end = info.pointer("/data_offsets/1").and_then(|end| end.as_u64());
        if end.is_none_or(|end| end > rest.len() as u64) {
            return Err(format!("tensor {name} has no end before the file's"));
        }
    }
    Ok(())
}

/// Values that a file can hold.
pub(super) trait Element: Copy {
    const DTYPE: Dtype;
    fn write_to(self, writer: &mut impl Write) -> io::Result<()>;
}

macro_rules! element {
    ($($ty:ty, $dtype:ident;)*) => {$(
        impl Element for $ty {
            const DTYPE: Dtype = Dtype::$dtype;
            fn write_to(self, writer: &mut impl Write) -> io::Result<()> {
                writer.write_all(&self.to_le_bytes())
            }
        }
    )*};
}

element! { f32, F32; half::f16, F16; half::bf16, BF16; i32, I32; u8, U8; }

/// The header of a file to be written: sorted names, so that the same content gives the same bytes.
#[derive(Default)]
pub(super) struct Header {
    entries: BTreeMap<String, serde_json::Value>,
    offset: usize,
}

impl Header {
    /// A header with the given metadata.
    pub(super) fn new<'a>(metadata: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut header = Header::default();
        let metadata: BTreeMap<_, _> = metadata.into_iter().collect();
        let value = serde_json::json!(metadata);
        header.entries.insert("__metadata__".into(), value);
        header
    }

    /// Declares the next tensor; data are written in the order of declaration.
    pub(super) fn tensor<T: Element>(&mut self, name: &str, shape: &[usize]) {
        let start = self.offset;
        self.offset += shape.iter().product::<usize>() * size_of::<T>();
        let info = TensorInfo {
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            data_offsets: (start, self.offset),
        };
        self.entries.insert(name.into(), serde_json::json!(info));
    }

    /// Writes the header; the data follow.
    pub(super) fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut json = serde_json::to_vec(&self.entries)?;
        json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
        writer.write_all(&(json.len() as u64).to_le_bytes())?;
        writer.write_all(&json)
    }
}

/// Writes values, little-endian.
pub(super) fn write_all<T: Element>(writer: &mut impl Write, values: &[T]) -> io::Result<()> {
    values.iter().try_for_each(|value| value.write_to(writer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn headers_that_lie_are_errors() {
        // Eight tensors that end just before 2^64 in all, as objects and as arrays.
        let huge = |as_array: bool| {
            let size = (1u64 << 61) - 1;
            let tensors = (0..8).map(|i| {
                let (start, end) = (i * size, (i + 1) * size);
                match as_array {
                    true => format!(r#""t{i}":["U8",[{size}],[{start},{end}]]"#),
                    false => format!(
                        r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#
                    ),
                }
            });
            format!("{{{}}}", tensors.collect::<Vec<_>>().join(","))
        };
        let entry = |shape: &str, offsets: &str| {
            format!(r#"{{"keys":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let broken = [
            Vec::new(),
            vec![0; 7],
            vec![0xff; 8],
            (1u64 << 40).to_le_bytes().to_vec(),
            file("not JSON", 0),
            file("[]", 0),
            file(&"[".repeat(100_000), 0),
            file(&huge(false), 64),
            file(&huge(true), 64),
            file(&entry("[2]", "[0,8]"), 7),
            file(&entry("[2]", "[0,8]"), 9),
            file(&entry("[2]", "[8,0]"), 8),
            file(&entry("[2]", "[0,-8]"), 8),
            file(&entry("[2]", "[0]"), 8),
            file(&entry("[3]", "[0,8]"), 8),
            file(&entry("[9223372036854775807,9]", "[0,8]"), 8),
            file(&entry("[1e3]", "[0,8]"), 8),
        ];
        for (i, bytes) in broken.iter().enumerate() {
            let parsed = Archive::parse("--kv", Path::new("file"), bytes);
            assert!(matches!(parsed, Err(Error::File { .. })), "case {i}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut header = Header::new([("b", "2".into()), ("a", "1".into())]);
        header.tensor::<f32>("z", &[2]);
        header.tensor::<u8>("codes", &[1, 3]);
        let mut bytes = Vec::new();
        header.write_to(&mut bytes).unwrap();
        write_all(&mut bytes, &[1.5f32, -2.0]).unwrap();
        write_all(&mut bytes, &[7u8, 8, 9]).unwrap();

        let archive = Archive::parse("index", Path::new("file"), &bytes).unwrap();
        assert_eq!(archive.metadata("b").unwrap(), "2");
        assert_eq!(archive.tensor("z").unwrap().f32s().unwrap(), [1.5, -2.0]);
        let codes = archive.tensor("codes").unwrap();
        assert_eq!(codes.bytes().unwrap(), [7, 8, 9]);
        assert_eq!(codes.dims::<2>("two").unwrap(), [1, 3]);
        assert!(codes.dims::<3>("three").is_err());
        assert!(codes.f32s().is_err());
        assert!(archive.metadata("c").is_err());
        assert!(archive.tensor("c").is_err());
    }
}
