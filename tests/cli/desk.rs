//! What the tests of the command line share: a folder to work in, files to put there, files to look at.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};

/// A folder with files in it, and the binary to run there.
pub(crate) struct Desk {
    pub(crate) folder: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Desk { folder }
    }

    /// A desk with the bundled sample as `kv` and an index of it as `index`.
    pub(crate) fn with_index() -> Self {
        let desk = Desk::new();
        fs::copy(sample(), desk.path("kv")).unwrap();
        desk.ok("train --kv kv --out index");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command_of(args).output().unwrap()
    }

    /// A call that is still to be made.
    pub(crate) fn command(&self, args: &str) -> Command {
        self.command_of(args.split_whitespace())
    }

    fn command_of<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keysieve"));
        command.args(args).current_dir(self.folder.path());
        command
    }

    pub(crate) fn ok(&self, args: &str) -> Output {
        let output = self.run(args.split_whitespace());
        assert!(output.status.success(), "{args}: {output:?}");
        output
    }

    /// Runs what must fail as bad input does; gives the line on stderr.
    pub(crate) fn refused(&self, args: &str) -> String {
        let args: Vec<OsString> = args.split_whitespace().map(OsString::from).collect();
        self.refused_os(&args)
    }

    pub(crate) fn refused_os(&self, args: &[OsString]) -> String {
        let before = self.files();
        let output = self.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert_eq!(self.files(), before, "{args:?} changed files");
        stderr
    }

    /// [`Desk::refused`], with the parts that the line must hold, ` .. ` between them.
    pub(crate) fn refused_saying(&self, args: &str, parts: &str) {
        let line = self.refused(args);
        for part in parts.split(" .. ") {
            assert!(line.contains(part), "{args}: no {part:?} in {line}");
        }
    }

    /// Every file with its content.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
            .collect();
        files.sort();
        files
    }
}

pub(crate) fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample_kv.safetensors")
}

/// A tensor of any dtype from its bytes.
pub(crate) struct Bytes {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn f32s(shape: &[usize], value: impl Fn(usize) -> f32) -> Bytes {
    let count = shape.iter().product();
    Bytes {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: (0..count).flat_map(|i| value(i).to_le_bytes()).collect(),
    }
}

pub(crate) fn of_dtype(dtype: Dtype, shape: &[usize]) -> Bytes {
    let count: usize = shape.iter().product();
    Bytes {
        dtype,
        shape: shape.to_vec(),
        data: vec![0; count * dtype.bitsize() / 8],
    }
}

pub(crate) fn file(tensors: &[(&str, Bytes)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data);
        (*name, view.unwrap())
    });
    let metadata = metadata.iter().map(|&(k, v)| (k.into(), v.into()));
    serialize(views, Some(metadata.collect())).unwrap()
}

/// Some finite numbers without a pattern that matters.
pub(crate) fn number(i: usize) -> f32 {
    ((i * 7919) % 1009) as f32 / 128.0 - 4.0
}

pub(crate) fn kv(keys: &[usize], queries: &[usize]) -> Vec<u8> {
    let tensors = [
        ("keys", f32s(keys, number)),
        ("queries", f32s(queries, |i| number(i + 3))),
    ];
    file(&tensors, &[])
}

pub(crate) fn i32s(view: &TensorView<'_>) -> Vec<i32> {
    assert_eq!(view.dtype(), Dtype::I32);
    let words = view.data().chunks_exact(4);
    words
        .map(|word| i32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

/// A selection file: stride, and the list of every row without its padding.
pub(crate) fn lists(bytes: &[u8], rows: [usize; 3]) -> (usize, Vec<Vec<i32>>) {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let (positions, lengths) = (
        file.tensor("positions").unwrap(),
        file.tensor("lengths").unwrap(),
    );
    assert_eq!(lengths.shape(), rows);
    assert_eq!(positions.shape()[..3], rows);
    let stride = positions.shape()[3];
    let (positions, lengths) = (i32s(&positions), i32s(&lengths));
    let lists = lengths.iter().enumerate().map(|(row, &length)| {
        let row = &positions[row * stride..(row + 1) * stride];
        let (list, padding) = row.split_at(length as usize);
        assert!(list.windows(2).all(|pair| pair[0] < pair[1]), "{list:?}");
        assert!(padding.iter().all(|&position| position == -1));
        list.to_vec()
    });
    (stride, lists.collect())
}

pub(crate) fn is_run(list: &[i32], first: i32, end: i32) -> bool {
    list.iter().copied().eq(first..end)
}

/// Says that a test was skipped, where the harness does not swallow it.
pub(crate) fn skipped(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {}", reason.trim_end());
}
