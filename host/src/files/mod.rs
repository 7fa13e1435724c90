//! The three safetensors files of a run: keys and queries, an index, a selection.
//!
//! | file | tensors |
//! | --- | --- |
//! | [`kv`] | `keys` [(batch,) num_kv_heads, tokens, head_dim], `queries` [(batch,) num_qo_heads, num_queries, head_dim]; f16, bf16 or f32 |
//! | [`index`] | `centroids` f32 [batch, num_kv_heads, m, 2^bits, sub_dim], `codes` u8 [batch, num_kv_heads, tokens - init_offset, m] |
//! | [`selection`] | `positions` i32 [batch, num_qo_heads, num_queries, stride], `lengths` i32 [batch, num_qo_heads, num_queries], `weights` f32 [batch, num_qo_heads, num_queries, tokens] |
//!
//! What is read is not trusted: a header that lies is an error, never a panic or an allocation of
//! what it claims. What is written appears whole or not at all, and the same content gives the same bytes.

pub mod index;
pub mod kv;
pub mod selection;

mod archive;

pub use kv::KvFile;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes a file so that it is there whole or not at all: to a temporary file in the same folder,
/// which then takes its name. A failure leaves what was there before, and nothing beside it.
///
/// `argument` is what an error calls the path.
///
/// # Errors
/// As [`check_target`]; [`Error::File`] when `write` or the operating system fails.
pub fn write_whole(
    argument: &str,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    let unwritable = |reason: io::Error| Error::unwritable(argument, path, reason);
    let target = check_target(argument, path)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".keysieve-").suffix(".tmp");
    #[cfg(unix)]
    {
        // A temporary file is its owner's alone; a result is as readable as any other new file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let temporary = builder
        .tempfile_in(folder_of(&target))
        .map_err(|error| Error::unwritable(argument, path, without_path(&error)))?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
    write(&mut writer).map_err(unwritable)?;
    writer.flush().map_err(unwritable)?;
    drop(writer);
    temporary
        .persist(&target)
        .map_err(|error| unwritable(error.error))?;
    Ok(())
}

/// Where a file named `path` would be written: `path`, or what it links to.
///
/// # Errors
/// [`Error::File`] when `path` names no file, its folder is not there, or something other than a
/// regular file has that name.
pub fn check_target(argument: &str, path: &Path) -> Result<PathBuf> {
    let unwritable = |reason: &str| Err(Error::unwritable(argument, path, reason));
    if path.file_name().is_none() {
        return unwritable("expected a file name");
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return unwritable("it is a folder, expected a file name"),
        // Renaming over a device would replace the device.
        Ok(found) if !found.is_file() => return unwritable("it is not a regular file"),
        Ok(_) => {
            return fs::canonicalize(path)
                .map_err(|reason| Error::unwritable(argument, path, reason));
        }
        Err(_) => {}
    }
    match fs::metadata(folder_of(path)) {
        Ok(folder) if folder.is_dir() => Ok(path.to_owned()),
        Ok(_) => unwritable("what should be its folder is a file"),
        Err(reason) => Err(Error::unwritable(
            argument,
            path,
            format!("its folder: {reason}"),
        )),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The reason alone: the temporary file's random name says nothing to a reader.
fn without_path(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None => error.kind().to_string(),
    }
}

/// The bytes of a regular file.
fn read_whole(argument: &str, path: &Path) -> Result<Vec<u8>> {
    let unreadable = |reason: String| Error::unreadable(argument, path, reason);
    // A pipe could block and a device could go on for ever, so their kind is asked first.
    let found = fs::metadata(path).map_err(|reason| unreadable(reason.to_string()))?;
    if found.is_dir() {
        return Err(unreadable("it is a folder, expected a file".into()));
    }
    if !found.is_file() {
        return Err(unreadable(
            "it is not a regular file, expected a safetensors file".into(),
        ));
    }
    fs::read(path).map_err(|reason| unreadable(reason.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "before").unwrap();
        let error = write_whole("--out", &path, |writer| {
            writer.write_all(b"half of it")?;
            Err(io::Error::other("the disk went away"))
        });
        let message = error.unwrap_err().to_string();
        assert!(message.starts_with("--out: got "), "{message}");
        assert!(message.ends_with("the disk went away"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(names_in(folder.path()), ["out"]);

        write_whole("--out", &path, |writer| writer.write_all(b"after")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(names_in(folder.path()), ["out"]);
    }

    #[test]
    fn only_a_regular_file_is_replaced_or_read() {
        let folder = tempfile::tempdir().unwrap();
        for path in [Path::new(""), Path::new("/"), folder.path()] {
            assert!(check_target("--out", path).is_err(), "{path:?}");
            assert!(read_whole("--kv", path).is_err(), "{path:?}");
        }
        assert!(check_target("--out", &folder.path().join("no/such")).is_err());
        #[cfg(unix)]
        {
            assert!(check_target("--out", Path::new("/dev/null")).is_err());
            assert!(read_whole("--kv", Path::new("/dev/zero")).is_err());
        }
    }
}
