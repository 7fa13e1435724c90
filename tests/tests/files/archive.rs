//! Files made byte by byte, and read as the library reads them.

use std::fs;
use std::path::Path;

use keysieve::KeyIndex;
use keysieve::files::KvFile;
pub(crate) use keysieve_tests::archive::{
    METADATA, Tensor, archive, f32_bytes, file, index_tensors, kv_tensors,
};
use keysieve_tests::device::fail;
use proptest::test_runner::TestCaseError;

/// A folder that goes when the case is done.
pub(crate) fn folder() -> Result<tempfile::TempDir, TestCaseError> {
    tempfile::tempdir().map_err(fail)
}

pub(crate) fn parse_kv(bytes: &[u8]) -> keysieve::Result<KvFile> {
    KvFile::parse("--kv", Path::new("some.safetensors"), bytes)
}

pub(crate) fn load_index(bytes: &[u8]) -> Result<keysieve::Result<KeyIndex>, TestCaseError> {
    let folder = folder()?;
    let path = folder.path().join("index.safetensors");
    fs::write(&path, bytes).map_err(fail)?;
    Ok(KeyIndex::load(&path, None))
}
