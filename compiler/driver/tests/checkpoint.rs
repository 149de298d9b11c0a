//! Checkpoints: what is read equals what the safetensors library gives, and what is wrong is said, all of it at once.

#[path = "common/rows.rs"]
mod rows;
#[path = "common/weights.rs"]
mod weights;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use rows::{Files, contents, families, list};
use safetensors::SafeTensors;
use swiftlm_compiler::CompileOptions;
use swiftlm_driver::checkpoint::{Checkpoint, CheckpointError};
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_models::{BuildOptions, Config, Model, StoredType};
use swiftlm_runtime::WeightSource;

/// Names of all rows that are checkpoints.
fn all_rows() -> Vec<String> {
    let rows = list(&families()).into_iter().filter(|n| families().join(n).join("config.json").exists());
    let rows: Vec<String> = rows.collect();
    assert!(rows.len() > 5, "golden-tests/families holds rows");
    rows
}

fn model(checkpoint: &Checkpoint) -> Model {
    let config = Config::parse(checkpoint.config()).expect("a row's configuration parses");
    swiftlm_models::build(&config, &checkpoint.tensors(), &BuildOptions::default()).expect("a row builds")
}

/// The weights as the compiler joins them.
fn compiled_weights(checkpoint: &Checkpoint) -> Vec<WeightBuffer> {
    let compiled = swiftlm_compiler::compile(&model(checkpoint).module, &CompileOptions::default(), &mut |_, _| {});
    compiled.expect("a row compiles").program.weights
}

/// A copy of a row that a test may spoil.
fn copy(row: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in contents(row) {
        fs::write(dir.path().join(name), bytes).expect("a file can be written");
    }
    dir
}

fn problems(dir: &Path) -> Vec<String> {
    match Checkpoint::open(dir) {
        Ok(_) => panic!("{} opens", dir.display()),
        Err(CheckpointError { problems, place }) => {
            assert_eq!(place, dir.display().to_string());
            problems
        }
    }
}

/// Replaces the header of a safetensors file, the data left as it is.
fn with_header(bytes: &[u8], edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).expect("a header is an object");
    edit(&mut header);
    let header = serde_json::to_vec(&header).expect("an object can be written");
    [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat()
}

/// The whole weight, put together from what the safetensors library says of the files.
fn expected(files: &Files, weight: &WeightBuffer) -> Vec<u8> {
    let component = |primary: &str, component: &str, cell: usize| -> Vec<u8> {
        let (primary, dealt) = primary.strip_suffix("%2").map_or((primary, false), |primary| (primary, true));
        let (primary, transposed) = primary.strip_suffix('^').map_or((primary, false), |primary| (primary, true));
        let (name, slice) = match primary.split_once('#') {
            Some((name, text)) => {
                let numbers: Vec<usize> = text.split('/').map(|n| n.parse().expect("a slice has numbers")).collect();
                (name, Some((numbers[0], numbers.get(1).copied())))
            }
            None => (primary, None),
        };
        let name = match component {
            "weight" => name.to_owned(),
            other => match name.strip_suffix("_blocks") {
                Some(blocks) => format!("{blocks}_{other}"),
                None => format!("{}.{other}", name.strip_suffix(".weight").expect("a quantised tensor is a weight")),
            },
        };
        for (_, bytes) in files.iter().filter(|f| f.0.ends_with(".safetensors")) {
            let tensors = SafeTensors::deserialize(bytes).expect("a row's file is sound");
            if let Ok(view) = tensors.tensor(&name) {
                let all = view.data();
                let own = slice.map_or(all, |(i, count)| {
                    let one = all.len() / count.unwrap_or(view.shape()[0]);
                    &all[i * one..][..one]
                });
                if !dealt && !transposed {
                    return own.to_vec();
                }
                // Evens, then odds; element by element where rows are columns.
                let rows = own.len() / cell;
                let place = |row: usize| if dealt { row % (rows / 2) * 2 + row / (rows / 2) } else { row };
                let size = if transposed { cell / weight.ty.cols } else { cell };
                let at = |row: usize, col: usize| if transposed { col * rows + place(row) } else { place(row) };
                let cells = (0..rows).flat_map(|row| (0..cell / size).map(move |col| (row, col)));
                return cells.flat_map(|(row, col)| &own[at(row, col) * size..][..size]).copied().collect();
            }
        }
        panic!("no file holds {name}")
    };
    let layout = weight.ty.format.layout(weight.ty.rows, weight.ty.cols);
    let mut bytes = vec![0; layout.bytes];
    for part in layout.components {
        let joined: Vec<u8> = weight.names.iter().flat_map(|n| component(n, part.name, part.row_bytes)).collect();
        bytes[part.offset..][..part.bytes].copy_from_slice(&joined);
    }
    bytes
}

#[test]
fn every_weight_of_every_row_reads_as_the_library_gives_it() {
    let mut shapes = (false, false, false, false, false);
    for row in all_rows() {
        let files = contents(&row);
        let disk = Checkpoint::open(&families().join(&row)).expect("a row opens");
        let memory = files.iter().map(|(n, b)| (n.clone(), Cow::Owned(b.clone())));
        let memory = Checkpoint::embedded(&row, memory).expect("a row opens from memory");
        assert_eq!(disk.tensors(), memory.tensors());
        shapes.0 |= disk.files().len() > 1;
        for weight in compiled_weights(&disk) {
            let (ty, expected) = (weight.ty, expected(&files, &weight));
            let layout = ty.format.layout(ty.rows, ty.cols);
            shapes.1 |= layout.components.len() > 1;
            shapes.2 |= weight.names.len() > 1;
            shapes.3 |= weight.names.iter().any(|n| n.contains('#'));
            shapes.4 |= weight.names.iter().any(|n| n.ends_with("^%2"));
            for source in [&disk, &memory] {
                // Sizes that divide no row, and one that is more than a whole weight.
                for size in [1021usize, 4099, 1 << 20] {
                    for part in &layout.components {
                        for at in (0..part.bytes).step_by(size) {
                            let mut piece = vec![0xa5; size.min(part.bytes - at)];
                            source.read(&weight, part.offset + at, &mut piece).expect("a piece can be read");
                            let from = part.offset + at;
                            assert!(piece == expected[from..from + piece.len()], "{row} {:?} at {from}", weight.names);
                        }
                    }
                }
            }
        }
    }
    let all = (true, true, true, true, true);
    assert_eq!(shapes, all, "rows with shards, components, joined tensors, slices, and rows in another order");
}

#[test]
fn types_and_shapes_are_those_of_the_library() {
    for row in all_rows() {
        let checkpoint = Checkpoint::open(&families().join(&row)).expect("a row opens");
        let found = checkpoint.tensors();
        let mut count = 0;
        for (_, bytes) in contents(&row).iter().filter(|f| f.0.ends_with(".safetensors")) {
            for (name, view) in SafeTensors::deserialize(bytes).expect("a row's file is sound").tensors() {
                let facts = &found[&name];
                assert_eq!(facts.shape, view.shape(), "{row} {name}");
                let dtype = match facts.dtype {
                    StoredType::Float(f) => f.name().to_uppercase(),
                    StoredType::U32 => "U32".to_owned(),
                    StoredType::U8 => "U8".to_owned(),
                    StoredType::Other(name) => name.to_owned(),
                };
                assert_eq!(dtype, view.dtype().to_string(), "{row} {name}");
                count += 1;
            }
        }
        assert_eq!(found.len(), count, "{row}");
        assert!(found.keys().is_sorted(), "{row}");
    }
}

#[test]
fn everything_missing_is_said_at_once() {
    let dir = copy("qwen3");
    fs::remove_file(dir.path().join("config.json")).expect("removed");
    fs::remove_file(dir.path().join("model-00001-of-00002.safetensors")).expect("removed");
    let second = dir.path().join("model-00002-of-00002.safetensors");
    let spoiled = with_header(&fs::read(&second).expect("read"), |header| {
        let names: Vec<String> = header.keys().filter(|n| n.ends_with("_proj.weight")).cloned().collect();
        header[&names[0]]["dtype"] = "F17".into();
        header[&names[1]]["shape"] = serde_json::json!([3, 5]);
    });
    fs::write(&second, spoiled).expect("written");
    let found = problems(dir.path());
    for part in ["config.json is missing", "model-00001-of-00002.safetensors is missing", "F17", "[3, 5]"] {
        assert_eq!(found.iter().filter(|p| p.contains(part)).count(), 1, "{part} in {found:#?}");
    }
    let named = |p: &&String| p.contains("model-00002-of-00002.safetensors: tensor `model.layers.");
    assert!(found.iter().filter(named).count() >= 2, "{found:#?}");
    assert!(problems(&dir.path().join("nowhere"))[0].contains("no such directory"));
}

#[test]
fn truncated_files_name_the_tensors_they_lack() {
    for (keep, expected) in [(0, "too few"), (7, "too few"), (8, "a header of"), (700, "a header of")] {
        let dir = copy("llama");
        let file = dir.path().join("model.safetensors");
        fs::write(&file, &fs::read(&file).expect("read")[..keep]).expect("written");
        let found = problems(dir.path());
        assert!(found.len() == 1 && found[0].starts_with("model.safetensors: truncated: "), "{found:#?}");
        assert!(found[0].contains(expected), "{found:#?}");
    }
    let dir = copy("llama");
    let file = dir.path().join("model.safetensors");
    let bytes = fs::read(&file).expect("read");
    fs::write(&file, &bytes[..bytes.len() - 1]).expect("written");
    let tensors = SafeTensors::deserialize(&bytes).expect("a row's file is sound");
    let end = bytes.as_ptr_range().end;
    let (last, _) = tensors.iter().find(|(_, v)| v.data().as_ptr_range().end == end).expect("a last tensor");
    let found = problems(dir.path());
    assert!(found.len() == 1 && found[0].contains(&format!("missing or cut: `{last}`;")), "{found:#?}");
    fs::write(&file, [&bytes[..], b"x"].concat()).expect("written");
    assert!(problems(dir.path())[0].contains("1 bytes behind the last tensor"));
}

#[test]
fn headers_that_lie_are_refused() {
    let bytes = contents("llama").into_iter().find(|f| f.0 == "model.safetensors").expect("a row has weights").1;
    let try_header = |header: &str| {
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
        let files = [("config.json", b"{}".to_vec()), ("model.safetensors", file)];
        let files = files.map(|(n, b)| (n.to_owned(), Cow::Owned(b)));
        Checkpoint::embedded("test", files).map(|_| ()).map_err(|e| e.problems.join("\n"))
    };
    let tensor = |from: usize, to: usize| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#);
    assert_eq!(try_header(&format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 8), tensor(8, 16))), Ok(()));
    let cases = [
        (format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 8), tensor(4, 12)), "tensor `b`: its data begins at 4, inside"),
        (format!(r#"{{"a":{},"b":{}}}"#, tensor(8, 16), tensor(8, 16)), "tensor `a`: its data begins at 8, but"),
        (format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 8), tensor(16, 24)), "missing or cut: `b`"),
        (format!(r#"{{"a":{},"a":{}}}"#, tensor(0, 8), tensor(8, 16)), "tensor `a` is given twice"),
        (format!(r#"{{"a":{},"b":{}}}"#, tensor(0, 8), tensor(16, 8)), "tensor `b`: F32 of shape [2] take 8 bytes"),
        (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}"#.into(), "`a`: shape"),
        (r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,16]}}"#.into(), "`a`: 12 bits are no whole bytes"),
        (r#"{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#.into(), "`a`: invalid value: integer `-4`"),
        (r#"{"a":{"dtype":"F32","shape":[4]}}"#.into(), "tensor `a`: missing field `data_offsets`"),
        (r#"{"a":7}"#.into(), "tensor `a`: invalid type"),
        (r#"{"__metadata__":{"format":7}}"#.into(), "expected a string in `format`"),
        ("[]".into(), "the header cannot be read"),
        ("{".into(), "the header cannot be read"),
        ("[".repeat(100_000), "the header cannot be read"),
    ];
    for (header, expected) in cases {
        let found = try_header(&header).expect_err(expected);
        assert!(found.contains(expected) && found.contains("model.safetensors: "), "{expected}: {found}");
    }
    for length in [u64::MAX, u64::MAX - 8, 100_000_001, bytes.len() as u64 - 7] {
        let file = [&length.to_le_bytes(), &bytes[8..]].concat();
        let files = [("config.json".to_owned(), Cow::Borrowed(&b"{}"[..])), ("model.safetensors".into(), file.into())];
        assert!(Checkpoint::embedded("test", files).is_err(), "{length}");
    }
}

#[test]
fn an_index_must_agree_with_its_files() {
    let dir = copy("qwen3");
    let index = dir.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).expect("read");
    let spoil = |edit: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("an index is JSON");
        edit(json["weight_map"].as_object_mut().expect("an object"));
        fs::write(&index, json.to_string()).expect("written");
        problems(dir.path())
    };
    let found = spoil(&|map| {
        map.insert("ghost".into(), "model-00001-of-00002.safetensors".into());
        map.insert("lm_head.weight".into(), "model-00002-of-00002.safetensors".into());
        map.insert("other".into(), "model-00009-of-00002.safetensors".into());
    });
    assert_eq!(found.len(), 3, "{found:#?}");
    for part in [
        "tensor `ghost` is not in model-00001",
        "`lm_head.weight` is not in model-00002",
        "00009-of-00002.safetensors is missing",
    ] {
        assert!(found.iter().any(|p| p.contains(part)), "{part} in {found:#?}");
    }
    for path in ["../model.safetensors", "/etc/passwd", "a/../../b", "", ".", "a\\..\\b", "c:model", "a\0b"] {
        let found = spoil(&|map| {
            map.insert("lm_head.weight".into(), path.into());
        });
        assert!(found.len() == 1 && found[0].contains("`lm_head.weight`: "), "{path}: {found:#?}");
        assert!(found[0].contains("no path below the model's directory"), "{path}: {found:#?}");
    }
    fs::write(&index, "{").expect("written");
    assert!(problems(dir.path())[0].starts_with("model.safetensors.index.json: "));
}

#[test]
fn shards_without_an_index_must_be_complete_and_disjoint() {
    let dir = copy("qwen3");
    let whole = Checkpoint::open(dir.path()).expect("a row opens").tensors();
    fs::remove_file(dir.path().join("model.safetensors.index.json")).expect("removed");
    assert_eq!(Checkpoint::open(dir.path()).expect("shards that count themselves open").tensors(), whole);
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    fs::copy(dir.path().join(first), dir.path().join(second)).expect("copied");
    let found = problems(dir.path());
    assert!(found.len() > 5 && found.iter().all(|p| p.contains(first) && p.contains(second)), "{found:#?}");
    fs::remove_file(dir.path().join(first)).expect("removed");
    assert_eq!(problems(dir.path()), [format!("{first} is missing")]);
    fs::rename(dir.path().join(second), dir.path().join("weights.safetensors")).expect("renamed");
    assert!(problems(dir.path())[0].starts_with("model.safetensors is missing, "));
}

#[test]
fn a_file_that_changes_in_use_is_an_error() {
    let dir = copy("llama");
    let file = dir.path().join("model.safetensors");
    let checkpoint = Checkpoint::open(dir.path()).expect("a row opens");
    let weight = &weights::of_graph(&model(&checkpoint))[0];
    let read = |into: &mut [u8]| checkpoint.read(weight, 0, into);
    read(&mut [0; 4]).expect("an untouched file can be read");
    let bytes = fs::read(&file).expect("read");
    fs::OpenOptions::new().write(true).open(&file).expect("opened").set_len(64).expect("cut");
    let found = read(&mut [0; 4]).expect_err("the file is cut");
    assert!(found.starts_with("model.safetensors: byte "), "{found}");
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&file, &bytes).expect("written");
    let found = read(&mut [0; 4]).expect_err("the file was written again");
    assert!(found.starts_with("model.safetensors: changed while it was in use"), "{found}");
}

#[test]
fn ranges_outside_a_weight_are_refused() {
    let checkpoint = Checkpoint::open(&families().join("qwen2-mlx-mixed")).expect("a row opens");
    let all = weights::of_graph(&model(&checkpoint));
    let weight = all.iter().find(|w| w.ty.format.layout(w.ty.rows, w.ty.cols).components.len() == 3);
    let weight = weight.expect("a quantised weight");
    let layout = weight.ty.format.layout(weight.ty.rows, weight.ty.cols);
    for (offset, bytes) in [(layout.bytes, 1), (0, layout.components[0].bytes + 1), (usize::MAX, 2)] {
        assert!(checkpoint.read(weight, offset, &mut vec![0; bytes]).is_err(), "{offset} {bytes}");
    }
    let wrong = |edit: &dyn Fn(&mut WeightBuffer)| {
        let mut weight = weight.clone();
        edit(&mut weight);
        checkpoint.read(&weight, 0, &mut [0; 1]).expect_err("the weight is not in the files")
    };
    assert!(wrong(&|w| w.names[0].insert_str(0, "no.")).contains("is missing"));
    assert!(wrong(&|w| w.names[0].push_str("#100000")).contains("slices, none of number 100000"));
    assert!(wrong(&|w| w.names[0].push_str("#3/3")).contains("has 3 slices, none of number 3"));
    assert!(wrong(&|w| w.names[0].push_str("#1/100003")).contains("does not divide into 100003 slices"));
    assert!(wrong(&|w| w.ty.rows += 1).contains("the tensors hold"));
    // Codes are no elements of a byte or more, and rows do not divide over any number of parts.
    assert!(wrong(&|w| w.names[0].push_str("#0/1^")).contains("in another order"));
    assert!(wrong(&|w| w.names[0].push_str("#0/1%1009")).contains("in another order"));
}

#[test]
fn a_model_names_all_tensors_that_do_not_fit() {
    let dir = copy("llama");
    let file = dir.path().join("model.safetensors");
    let spoiled = with_header(&fs::read(&file).expect("read"), |header| {
        let moved = header.shift_remove("model.layers.0.mlp.up_proj.weight").expect("a row has it");
        header.insert("model.layers.0.mlp.up_proj.wait".into(), moved);
        let shape = header["lm_head.weight"]["shape"].as_array_mut().expect("a shape");
        shape.reverse();
    });
    fs::write(&file, spoiled).expect("written");
    let checkpoint = Checkpoint::open(dir.path()).expect("the file itself is sound");
    let config = Config::parse(checkpoint.config()).expect("a row's configuration parses");
    let found = swiftlm_models::build(&config, &checkpoint.tensors(), &BuildOptions::default()).expect_err("spoiled").0;
    assert_eq!(found.len(), 3, "{found:#?}");
    for part in [
        "up_proj.weight` is missing",
        "up_proj.wait` is not part",
        "`lm_head.weight`: expected shape [256, 64], got [64, 256]",
    ] {
        assert!(found.iter().any(|p| p.contains(part)), "{part} in {found:#?}");
    }
}
