//! `--torch PYTHON`: the same step in eager PyTorch, and `torch.topk` alone, on the same machine in the same run.

use std::io::Write;
use std::process::{Command, Stdio};

use keysieve::Error;
use serde::Deserialize;
use serde_json::{Value, json};

use super::shape::Shape;
use super::stats::Stats;

/// The program that measures, so that the binary alone is enough.
const SCRIPT: &str = include_str!("../../../../benches/peers/eager_torch.py");

/// What the script found, in microseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Torch {
    /// PyTorch's version.
    torch: String,
    /// The version of CUDA that it was made for.
    cuda: Option<String>,
    device: String,
    /// Rows whose lists were compared with a brute force.
    checked_rows: usize,
    wall_us: Stats,
    eager_us: Option<Stats>,
    graph_us: Option<Stats>,
    graph_why_not: Option<String>,
    topk_us: Option<Stats>,
    topk_why_not: Option<String>,
}

/// One of its times.
#[derive(Debug, PartialEq)]
pub(super) struct Row<'a> {
    pub(super) name: &'static str,
    /// Or why there is none.
    pub(super) stats: Result<Stats, &'a str>,
    pub(super) meaning: &'static str,
}

impl Torch {
    /// Has `python` measure `shape`, after `warmup` steps `runs` of each kind.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a Python that cannot be run, has no torch or finds no GPU, for lists that the
    /// script finds wrong, and for a shape that it does not know.
    pub(super) fn measure(
        python: &str,
        shape: &Shape,
        seed: u64,
        warmup: usize,
        runs: usize,
    ) -> keysieve::Result<Self> {
        if shape.init_offset != shape.sink {
            let expected = format!("--sink's {}: all that --torch can measure", shape.sink);
            return Err(Error::invalid("--init-offset", shape.init_offset, expected));
        }
        let refused = |why: &str| {
            let expected = format!("a Python whose torch measures a step ({why})");
            Error::invalid("--torch", python, expected)
        };
        let sizes = [
            ("--batch", shape.batch as u64),
            ("--heads", shape.num_qo_heads as u64),
            ("--kv-heads", shape.num_kv_heads as u64),
            ("--tokens", shape.tokens as u64),
            ("--head-dim", shape.head_dim as u64),
            ("--subvectors", shape.num_subvectors as u64),
            ("--bits", shape.bits.into()),
            ("--sink", shape.sink as u64),
            ("--window", shape.window as u64),
            ("--heavy", shape.heavy as u64),
            ("--warmup", warmup as u64),
            ("--runs", runs as u64),
            ("--seed", seed),
        ];
        let mut command = Command::new(python);
        command.arg("-");
        for (option, value) in sizes {
            command.arg(option).arg(value.to_string());
        }
        if !shape.weights {
            command.arg("--no-weights");
        }
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| refused(&error.to_string()))?;
        let mut stdin = child.stdin.take().expect("it is piped");
        // One that ended without reading all of it says why.
        let _ = stdin.write_all(SCRIPT.as_bytes());
        drop(stdin);
        let output = child
            .wait_with_output()
            .map_err(|error| refused(&error.to_string()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let line = last_line(&stderr).map_or_else(|| output.status.to_string(), str::to_owned);
            return Err(refused(&line));
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let line = last_line(&stdout).unwrap_or_default();
        serde_json::from_str(line)
            .map_err(|error| refused(&format!("it printed {line:?}: {error}")))
    }

    pub(super) fn rows(&self) -> [Row<'_>; 4] {
        fn found(stats: Option<Stats>, why_not: Option<&str>) -> Result<Stats, &str> {
            stats.ok_or(why_not.unwrap_or("not measured"))
        }
        [
            Row {
                name: "torch_topk_us",
                stats: found(self.topk_us, self.topk_why_not.as_deref()),
                meaning: "torch.topk alone on the step's scores, GPU time a graph replay of 200 in a row",
            },
            Row {
                name: "eager_torch_graph_us",
                stats: found(self.graph_us, self.graph_why_not.as_deref()),
                meaning: "the eager PyTorch step, GPU time a graph replay of 200 in a row",
            },
            Row {
                name: "eager_torch_us",
                stats: found(self.eager_us, None),
                meaning: "the eager PyTorch step, GPU time without a graph, the host's launches included",
            },
            Row {
                name: "eager_torch_wall_us",
                stats: Ok(self.wall_us),
                meaning: "the eager PyTorch step, wall clock with the wait",
            },
        ]
    }

    pub(super) fn in_words(&self) -> String {
        let cuda = self.cuda.as_deref().unwrap_or("none");
        format!(
            "PyTorch {}, CUDA {cuda}, on {}; {} rows of its step against a brute force",
            self.torch, self.device, self.checked_rows
        )
    }

    /// Its rows, those that are missing with the reason.
    pub(super) fn json(&self) -> Value {
        let mut value = json!({
            "torch": self.torch,
            "cuda": self.cuda,
            "device": self.device,
            "checked_rows": self.checked_rows,
        });
        for row in self.rows() {
            value[row.name] = match row.stats {
                Ok(stats) => json!(stats),
                Err(why_not) => json!({ "why_not": why_not }),
            };
        }
        value
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::shape::REFERENCE;
    use super::*;

    /// Runs a shell script in Python's place.
    fn with(script: &str, shape: &Shape) -> keysieve::Result<(Torch, String)> {
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python");
        fs::write(
            &python,
            format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"\n{script}"),
        )
        .unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let torch = Torch::measure(python.to_str().unwrap(), shape, 7, 2, 3)?;
        let args = fs::read_to_string(folder.path().join("args")).unwrap();
        Ok((torch, args))
    }

    const RESULT: &str = r#"{"torch": "2.11", "cuda": null, "device": "a GPU", "checked_rows": 4, "more": [],
        "wall_us": {"average": 5, "median": 5, "min": 4, "max": 6, "std": 0.5},
        "topk_us": {"average": 65, "median": 64, "min": 63, "max": 66, "std": 1},
        "graph_why_not": "no graph"}"#;

    #[test]
    fn the_script_gets_the_shape_and_its_last_line_is_read() {
        let result = RESULT.replace('\n', " ");
        let script = format!(
            "echo \"$@\" > args\ncat > script.py\ngrep -q torch.topk script.py || exit 3\n\
             echo a table\ncat <<'END'\n{result}\n\nEND\n"
        );
        let (torch, args) = with(&script, &REFERENCE).unwrap();
        assert_eq!(
            args,
            "- --batch 1 --heads 32 --kv-heads 32 --tokens 32000 --head-dim 128 --subvectors 2 --bits 6 \
             --sink 128 --window 128 --heavy 128 --warmup 2 --runs 3 --seed 7\n"
        );
        let medians = torch
            .rows()
            .map(|row| (row.name, row.stats.map(|stats| stats.median)));
        let expected = [
            ("torch_topk_us", Ok(64.0)),
            ("eager_torch_graph_us", Err("no graph")),
            ("eager_torch_us", Err("not measured")),
            ("eager_torch_wall_us", Ok(5.0)),
        ];
        assert_eq!(medians, expected);
        let json = torch.json();
        assert_eq!(json["torch_topk_us"]["max"], 66.0);
        assert_eq!(json["eager_torch_graph_us"]["why_not"], "no graph");

        let lists = Shape {
            weights: false,
            ..REFERENCE
        };
        let (_, args) = with(&script, &lists).unwrap();
        assert!(args.ends_with("--seed 7 --no-weights\n"), "{args}");
    }

    #[test]
    fn what_goes_wrong_is_said_in_its_words() {
        let said = |script: &str| with(script, &REFERENCE).unwrap_err().to_string();
        let missing = said("echo Traceback >&2; echo \"No module named 'torch'\" >&2; exit 1");
        assert!(missing.contains("No module named 'torch'"), "{missing}");
        assert!(!missing.contains("Traceback"), "{missing}");
        assert!(said("exit 9").contains("exit status: 9"));
        assert!(said("echo no JSON").contains("no JSON"));
        assert!(said("exit 0").contains("it printed"));
        let error = Torch::measure("/nonexistent/python", &REFERENCE, 0, 0, 1).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/python"), "{error}");
        let shape = Shape {
            init_offset: 3,
            ..REFERENCE
        };
        let error = with("exit 9", &shape).unwrap_err().to_string();
        assert!(error.contains("--init-offset"), "{error}");
    }

    /// The options above are the script's, and what it prints without torch is what is looked for.
    #[test]
    fn the_script_has_the_names() {
        for name in [
            "wall_us",
            "eager_us",
            "graph_us",
            "topk_us",
            "graph_why_not",
            "topk_why_not",
        ] {
            assert!(SCRIPT.contains(&format!("\"{name}\"")), "{name}");
        }
        for name in ["--no-weights", "--warmup", "--runs", "--seed"] {
            assert!(SCRIPT.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
