//! The command line, run as a user runs it.
//!
//! Every call that fails is checked for one line on stderr, exit status 2 and no file written.

#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/desk.rs"]
mod desk;

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;

use desk::{Desk, f32s, file, is_run, kv, lists, number, of_dtype, sample, skipped};

#[test]
fn train_and_select_write_the_lists_of_the_sample() {
    let desk = Desk::with_index();
    let index = fs::read(desk.path("index")).unwrap();
    let tensors = SafeTensors::deserialize(&index).unwrap();
    let centroids = tensors.tensor("centroids").unwrap();
    assert_eq!(centroids.dtype(), Dtype::F32);
    assert_eq!(centroids.shape(), [1, 4, 2, 64, 16]);
    let codes = tensors.tensor("codes").unwrap();
    assert_eq!(codes.dtype(), Dtype::U8);
    assert_eq!(codes.shape(), [1, 4, 4096 - 128, 2]);
    let (_, header) = SafeTensors::read_metadata(&index).unwrap();
    let metadata = header.metadata().clone().unwrap();
    for (key, value) in [
        ("num_subvectors", "2"),
        ("bits", "6"),
        ("init_offset", "128"),
        ("metric", "l2"),
    ] {
        assert_eq!(metadata[key], value);
    }

    let output = desk.ok("select --index index --kv kv --out sel --weights --backend cpu");
    assert!(output.stdout.is_empty());
    let sel = fs::read(desk.path("sel")).unwrap();
    let (stride, lists) = lists(&sel, [1, 4, 16]);
    assert_eq!(stride, 384);
    for list in &lists {
        assert_eq!(list.len(), 384);
        assert!(is_run(&list[..128], 0, 128));
        assert!(is_run(&list[256..], 4096 - 128, 4096));
    }
    let file = SafeTensors::deserialize(&sel).unwrap();
    let weights = file.tensor("weights").unwrap();
    assert_eq!(
        (weights.dtype(), weights.shape()),
        (Dtype::F32, &[1, 4, 16, 4096][..])
    );
    for (row, list) in weights.data().chunks_exact(4096 * 4).zip(&lists) {
        let weights = row.chunks_exact(4);
        let weights = weights.map(|word| f32::from_le_bytes(word.try_into().unwrap()));
        let expected = (0..4096).map(|p| f32::from(list.binary_search(&p).is_ok()));
        assert!(weights.eq(expected));
    }
}

#[test]
fn an_index_by_inner_product_is_written_and_read() {
    let desk = Desk::new();
    fs::copy(sample(), desk.path("kv")).unwrap();
    desk.ok("train --kv kv --out index --metric ip");
    let index = fs::read(desk.path("index")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&index).unwrap();
    assert_eq!(header.metadata().clone().unwrap()["metric"], "ip");
    let tensors = SafeTensors::deserialize(&index).unwrap();
    assert_eq!(tensors.tensor("phis").unwrap().shape(), [1, 4, 2]);
    desk.ok("select --index index --kv kv --out sel --backend cpu");
    let (stride, _) = lists(&fs::read(desk.path("sel")).unwrap(), [1, 4, 16]);
    assert_eq!(stride, 384);
    let recall = |metric: &str| {
        let output = desk.ok(&format!(
            "eval --kv kv --json - --metric {metric} --backend cpu"
        ));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["metric"], metric);
        value["quality"]["recall"].as_f64().unwrap()
    };
    // Another codebook, and about as good a one: by lot it would be 0.03.
    let (l2, ip) = (recall("l2"), recall("ip"));
    assert!(l2 != ip && ip > 0.4, "{l2} {ip}");
}

#[test]
fn a_sweep_is_a_table_a_list_and_a_drawing() {
    let desk = Desk::new();
    let context =
        "--init-offset 4 --sink 4 --window 8 --heavy 16 --iterations 2 --no-short-context";
    desk.write("kv", kv(&[1, 400, 8], &[2, 3, 8]));
    let output = desk.ok(&format!(
        "eval --kv kv --sweep {context} --backend cpu --json list --svg drawing"
    ));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("16 sub-vectors do not divide 8 components."),
        "{text}"
    );
    let read = |name: &str| fs::read_to_string(desk.path(name)).unwrap();
    let list: Value = serde_json::from_str(&read("list")).unwrap();
    let points = list.as_array().unwrap();
    assert_eq!(points.len(), 2 * 3 * 3);
    for point in points {
        let number = |name: &str| point[name].as_f64().unwrap();
        assert_eq!(point.as_object().unwrap().len(), 7);
        let bytes = number("num_subvectors") * number("bits") / 8.0;
        assert_eq!(number("bytes_per_key"), bytes);
        let exact = number("mass_exact");
        assert!(number("mass") <= exact && exact < 1.0, "{point}");
    }
    // Each point is what `eval` gives alone.
    let last = &points[17];
    assert_eq!(last["metric"], "ip");
    let alone = desk.ok(&format!(
        "eval --kv kv --metric ip --subvectors 8 --bits 8 {context} --backend cpu --json -"
    ));
    let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
    assert_eq!(alone["quality"]["recall"], last["recall"]);
    assert_eq!(alone["quality"]["mass"], last["mass"]);
    let drawing = read("drawing");
    assert!(drawing.starts_with("<svg") && drawing.trim_end().ends_with("</svg>"));
    // A mark for every point in both panels, and one for every series in both legends.
    assert_eq!(drawing.matches("<circle").count(), 2 * (18 + 6));

    let before = desk.files();
    let output = desk.ok(&format!(
        "eval --kv kv --sweep {context} --backend cpu --json -"
    ));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, list);
    assert_eq!(desk.files(), before);

    desk.refused_saying("eval --kv kv --svg other", "--sweep");
    desk.refused_saying("eval --kv kv --sweep --bits 4", "--bits");
    desk.refused_saying("eval --kv kv --sweep --subvectors 4", "--subvectors");
    desk.refused_saying("eval --kv kv --sweep --metric l2", "--metric");
    desk.refused_saying(
        "eval --kv kv --sweep --svg no/such/file",
        "--svg .. no/such",
    );
    desk.refused_saying(
        "eval --kv kv --sweep --json no/such/file",
        "--json .. no/such",
    );
    desk.refused_saying(
        "eval --kv kv --sweep --init-offset 400",
        "--init-offset .. 400",
    );
    desk.write("kv", kv(&[1, 40, 7], &[2, 3, 7]));
    desk.refused_saying(
        "eval --kv kv --sweep --init-offset 4",
        "head_dim .. 7 .. [2, 4, 8, 16]",
    );
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let desk = Desk::with_index();
    desk.ok("--quiet train --kv kv --out again");
    for out in ["a", "b"] {
        desk.ok(&format!(
            "select --quiet --index index --kv kv --out {out} --backend cpu"
        ));
    }
    let read = |name: &str| fs::read(desk.path(name)).unwrap();
    assert!(read("index") == read("again"));
    assert!(read("a") == read("b"));
    assert_eq!(desk.files().len(), 5, "something was left behind");
}

#[test]
fn cpu_and_gpu_write_the_same_bytes() {
    let desk = Desk::with_index();
    let select = "select --index index --kv kv --weights";
    desk.ok(&format!("{select} --out cpu --backend cpu"));
    let output = desk.run(format!("{select} --out gpu --backend cuda").split(' '));
    if !output.status.success() {
        let reason = String::from_utf8(output.stderr).unwrap();
        assert!(reason.contains("expected a GPU that answers"), "{reason}");
        skipped(&reason);
        return;
    }
    assert!(fs::read(desk.path("cpu")).unwrap() == fs::read(desk.path("gpu")).unwrap());
}

#[test]
fn keys_that_the_index_lacks_are_appended() {
    let desk = Desk::new();
    // The same keys, of which the first index has seen 300 and the second all 320.
    let all: Vec<f32> = (0..320 * 8).map(number).collect();
    let cut = |tokens: usize| {
        let keys = f32s(&[1, tokens, 8], |i| all[i]);
        file(
            &[
                ("keys", keys),
                ("queries", f32s(&[2, 3, 8], |i| number(i + 5))),
            ],
            &[],
        )
    };
    desk.write("short", cut(300));
    desk.write("long", cut(320));
    desk.ok("train --kv short --out index --bits 4 --init-offset 10");
    let select = "select --index index --no-short-context --sink 5 --window 9 --heavy 20";
    let output = desk.ok(&format!("{select} --kv long --out sel --backend cpu"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("20 keys were appended"), "{stderr}");
    let (stride, lists) = lists(&fs::read(desk.path("sel")).unwrap(), [1, 2, 3]);
    assert_eq!(stride, 34);
    for list in lists {
        // Positions 5..10 have no codes, so nothing between sink and init_offset is listed.
        assert!(is_run(&list[..5], 0, 5) && list[5] >= 10);
        assert!(is_run(&list[25..], 311, 320));
    }

    desk.ok("train --kv long --out index --bits 4 --init-offset 10");
    desk.refused_saying(
        &format!("{select} --kv short --out other"),
        "--index: codes .. 310 codes .. 300 keys",
    );
}

#[test]
fn short_contexts_are_listed_whole() {
    let desk = Desk::new();
    desk.write("kv", kv(&[1, 40, 8], &[1, 2, 8]));
    desk.ok("train --kv kv --out index --bits 2 --init-offset 4");
    let select = "select --index index --kv kv --out sel --backend cpu --sink 3 --window 2";
    // 40 <= heavy + 4 + 2 queries + 4 centroids from heavy 30 on.
    for (heavy, expected) in [(29, 29 + 3 + 2), (30, 40)] {
        desk.ok(&format!("{select} --heavy {heavy}"));
        let (stride, lists) = lists(&fs::read(desk.path("sel")).unwrap(), [1, 1, 2]);
        assert_eq!(stride, expected);
        assert!(lists.iter().all(|list| list.len() == expected));
    }
    desk.ok(&format!("{select} --heavy 30 --no-short-context"));
    let (stride, lists) = lists(&fs::read(desk.path("sel")).unwrap(), [1, 1, 2]);
    assert_eq!(stride, 35);
    assert!(lists.iter().all(|list| list.len() == 35));
}

#[test]
fn overlapping_regions_and_no_heavy_keys_are_allowed() {
    let desk = Desk::new();
    desk.write("kv", kv(&[2, 50, 8], &[4, 1, 8]));
    desk.ok("train --kv kv --out index --bits 2 --init-offset 4");
    for (sink, heavy, window, length) in [
        (30, 5, 30, 50),
        (1_000_000, 5, 0, 50),
        (0, 0, 0, 0),
        (10, 0, 10, 20),
        (0, 4096, 0, 46),
        (60, 0, 60, 50),
    ] {
        desk.ok(&format!(
            "select --index index --kv kv --out sel --backend cpu --no-short-context \
             --sink {sink} --heavy {heavy} --window {window}"
        ));
        let (stride, lists) = lists(&fs::read(desk.path("sel")).unwrap(), [1, 4, 1]);
        assert_eq!(stride, sink + heavy + window);
        for list in lists {
            assert_eq!(list.len(), length, "{sink} {heavy} {window}");
        }
    }
    desk.refused_saying(
        "select --index index --kv kv --out sel --sink 16777217",
        "--sink .. 16777217 .. 0 to 16777216",
    );
}

#[test]
fn halves_batches_and_groups_are_read() {
    let desk = Desk::new();
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32] {
        let tensors = [
            ("keys", of_dtype(dtype, &[3, 2, 60, 4])),
            ("queries", f32s(&[3, 6, 2, 4], number)),
        ];
        desk.write("kv", file(&tensors, &[]));
        desk.ok("train --kv kv --out index --bits 1 --init-offset 0");
        desk.ok(
            "select --index index --kv kv --out sel --backend cpu --heavy 3 --sink 1 --window 1",
        );
        // All keys are equal, so the first candidates are taken.
        let (_, lists) = lists(&fs::read(desk.path("sel")).unwrap(), [3, 6, 2]);
        assert!(lists.iter().all(|list| list == &[0, 1, 2, 3, 59]));
    }
}

#[test]
fn nan_and_infinite_queries_are_allowed_and_such_keys_are_not() {
    let desk = Desk::new();
    let queries = || {
        f32s(&[1, 3, 4], |i| match i {
            1 => f32::NAN,
            5 => f32::INFINITY,
            _ => 1.0,
        })
    };
    desk.write(
        "kv",
        file(
            &[("keys", f32s(&[1, 60, 4], number)), ("queries", queries())],
            &[],
        ),
    );
    desk.ok("train --kv kv --out index --bits 2 --init-offset 2");
    desk.ok("select --index index --kv kv --out sel --backend cpu --heavy 3 --sink 1 --window 1");
    let (_, found) = lists(&fs::read(desk.path("sel")).unwrap(), [1, 1, 3]);
    assert_eq!(
        found[0],
        [0, 2, 3, 4, 59],
        "all scores are NaN, so the first are taken"
    );
    desk.ok("eval --kv kv --bits 2 --init-offset 2 --backend cpu --json figures");

    for (bad, name) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let keys = f32s(&[2, 60, 4], |i| if i >= 4 * 80 + 3 { bad } else { 1.0 });
        desk.write(
            "bad",
            file(
                &[("keys", keys), ("queries", f32s(&[2, 1, 4], number))],
                &[],
            ),
        );
        let place = "[batch 0, head 1, token 20, component 3]";
        let parts = format!("--kv: keys .. {name} .. {place} .. finite");
        desk.refused_saying(
            "train --kv bad --out other --bits 2 --init-offset 2",
            &parts,
        );
        desk.refused_saying("eval --kv bad --bits 2 --init-offset 2", &parts);
    }
    // Keys behind those of the index are refused too, at their place in the file.
    let keys = f32s(
        &[1, 70, 4],
        |i| if i == 4 * 65 { f32::NAN } else { number(i) },
    );
    desk.write("bad", file(&[("keys", keys), ("queries", queries())], &[]));
    desk.refused_saying(
        "select --index index --kv bad --out other --backend cpu",
        "--kv: keys .. NaN .. token 65, component 0",
    );
}

#[test]
fn eval_reports_the_figures_of_the_sample() {
    let desk = Desk::new();
    fs::copy(sample(), desk.path("kv")).unwrap();
    let output = desk.ok("eval --kv kv --subvectors 8 --bits 8 --backend cpu --json figures");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("recall"), "{text}");
    let figures: Value = serde_json::from_slice(&fs::read(desk.path("figures")).unwrap()).unwrap();
    let quality = |name: &str| figures["quality"][name].as_f64().unwrap();
    // The data set's own notes give 0.800, 0.491 and 0.507.
    assert!((quality("recall") - 0.800).abs() < 0.02);
    assert!((quality("mass") - 0.491).abs() < 0.01);
    assert!((quality("exact_mass") - 0.507).abs() < 0.001);
    assert!(quality("recall_min") < quality("recall") && quality("recall") < quality("recall_max"));
    assert_eq!(figures["backend"], "cpu");

    let output = desk.ok("eval --kv kv --backend cpu --json -");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["bytes_per_key"], 1.5);
}

#[test]
fn the_demo_needs_no_arguments_and_no_files() {
    let desk = Desk::new();
    let output = desk.ok("");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "backend",
        "bytes per key",
        "recall",
        "attention mass",
        "time per step",
        "heavy",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(text.contains("sink    0-127\n") && text.contains("window  3968-4095\n"));
    let output = desk.ok("demo --backend cpu --quiet --json -");
    assert!(output.stderr.is_empty());
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    let recall = figures["quality"]["recall"].as_f64().unwrap();
    assert!((recall - 0.521).abs() < 0.03, "{recall}");
    assert_eq!(figures["positions"].as_array().unwrap().len(), 384);
    assert!(desk.files().is_empty());
}

#[test]
fn the_doctor_is_content_with_a_cpu() {
    let desk = Desk::new();
    let output = desk.ok("doctor");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("cpu   works"), "{text}");
    let output = desk.ok("doctor --json -");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["cpu"]["works"], true);
    assert!(found["cuda"]["works"] == true || found["cuda"]["error"].is_string());
}

#[test]
fn cuda_without_a_gpu_is_refused() {
    let desk = Desk::with_index();
    let doctor = desk.ok("doctor --json -");
    let found: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    if found["cuda"]["works"] == true {
        skipped("a GPU answers here");
        return;
    }
    for command in [
        "select --index index --kv kv --out sel",
        "eval --kv kv",
        "demo",
    ] {
        desk.refused_saying(
            &format!("{command} --backend cuda"),
            "--backend: got cuda, expected a GPU that answers",
        );
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::Stdio;

    for args in [&["demo", "--backend", "cpu"][..], &["--help"], &["doctor"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_keysieve"))
            .args(args)
            .stdout(Stdio::from(writer))
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}
