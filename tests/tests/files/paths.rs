//! Paths that cannot be read or written, and saves that fail half-way.

use std::fs;
use std::path::PathBuf;

use keysieve::files::KvFile;
use keysieve::{Error, KeyIndex};
use keysieve_tests::device::fail;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::archive::{METADATA, archive, folder, index_tensors, load_index};
use crate::wrong::refused;

pub(crate) fn bad_paths() -> TestCaseResult {
    let folder = folder()?;
    let missing = folder.path().join("missing");
    refused("index: got", KeyIndex::load(&missing, None))?;
    refused("index: got", KeyIndex::load(folder.path(), None))?;
    refused("--kv: got", KvFile::read("--kv", &missing))?;
    refused("--kv: got", KvFile::read("--kv", folder.path()))?;

    let index = load_index(&archive(&METADATA, &index_tensors()))?.map_err(fail)?;
    for path in [
        missing.join("index"),
        folder.path().to_path_buf(),
        PathBuf::new(),
        "/".into(),
    ] {
        let saved = index.save(&path);
        let action_is_written = matches!(
            &saved,
            Err(Error::File {
                action: "written",
                ..
            })
        );
        prop_assert!(action_is_written, "{saved:?} for {path:?}");
    }
    prop_assert_eq!(fs::read_dir(folder.path()).map_err(fail)?.count(), 0);
    Ok(())
}

/// A file that is there keeps its content until the new one is whole.
pub(crate) fn failed_save() -> TestCaseResult {
    let folder = folder()?;
    let path = folder.path().join("index");
    let index = load_index(&archive(&METADATA, &index_tensors()))?.map_err(fail)?;
    fs::write(&path, "before").map_err(fail)?;
    let failed = keysieve::files::write_whole("index", &path, |writer| {
        use std::io::Write;
        writer.write_all(&[7; 3 << 20])?;
        Err(std::io::Error::other("the disk is full"))
    });
    refused("index: got", failed)?;
    prop_assert_eq!(fs::read(&path).map_err(fail)?, b"before");
    prop_assert_eq!(fs::read_dir(folder.path()).map_err(fail)?.count(), 1);

    index.save(&path).map_err(fail)?;
    prop_assert!(KeyIndex::load(&path, None).map_err(fail)? == index);
    prop_assert_eq!(fs::read_dir(folder.path()).map_err(fail)?.count(), 1);
    Ok(())
}
