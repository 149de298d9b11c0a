//! Records: the same bytes each time, checked one by one, and read as the tensors that they were made of.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use serde_json::Value;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_driver::compile::compile;
use swiftlm_driver::package::{PackOptions, Package, pack, verify};
use swiftlm_driver::precision::{Kv, Precision};

use super::{Made, repository, row};

/// For products of whole numbers, which read blocks.
fn repacked() -> PackOptions {
    let mut options = PackOptions { repack: true, without_certificate: true, ..PackOptions::default() };
    options.program.build = Precision::Default.build(None, true);
    options
}

fn map(made: &Made) -> Value {
    serde_json::from_slice(&made.read("weights.json")).expect("a map is JSON")
}

/// Every tensor of the model is in the package once, in the file of tensors or in records.
#[test]
fn experts_are_records_and_the_rest_is_tensors() {
    let made = Made::new(&row("qwen3_moe-mlx4"), &repacked());
    let (dense, original) =
        (made.read("model.safetensors"), std::fs::read(row("qwen3_moe-mlx4").join("model.safetensors")));
    let (dense, original) = (SafeTensors::deserialize(&dense), original.expect("the row has one file"));
    let (dense, original) = (dense.expect("others read it, too"), SafeTensors::deserialize(&original).expect("a file"));
    let map = map(&made);
    let recorded = map["records"]["tensors"].as_array().expect("tensors in records");
    let mut hashes: BTreeMap<&str, &str> = BTreeMap::new();
    for tensor in recorded {
        hashes.insert(tensor["name"].as_str().expect("a name"), tensor["sha256"].as_str().expect("a hash"));
    }
    for (name, view) in original.tensors() {
        match dense.tensor(&name) {
            Ok(copy) => assert!(copy == view && !name.contains("switch_mlp"), "{name}"),
            Err(_) => assert_eq!(hashes.remove(name.as_str()), Some(super::sha256(view.data()).as_str()), "{name}"),
        }
    }
    assert!(hashes.is_empty() && !recorded.is_empty(), "{hashes:?}");
    for layer in map["records"]["layers"].as_array().expect("layers") {
        assert!(layer["offset"].as_u64().is_some_and(|at| at % 4096 == 0), "{layer}");
        assert!(layer["stride"].as_u64().is_some_and(|at| at % 4096 == 0), "{layer}");
        assert!(layer["matrices"].as_array().is_some_and(|all| all.iter().all(|m| m["blocks"] == true)), "{layer}");
    }
}

#[test]
fn the_same_bytes_each_time_and_the_certificate_holds() {
    for model in [repository("server/demo/model"), row("qwen3_moe-mlx4"), row("mixtral")] {
        let options = PackOptions { without_certificate: false, ..repacked() };
        let [a, b] = [1, 2].map(|threads| Made::new(&model, &PackOptions { threads, ..options.clone() }));
        assert_eq!(a.files(), b.files());
        assert!(a.files().contains(&"experts.bin".to_owned()), "{:?}", a.files());
        for file in a.files() {
            assert!(a.read(&file) == b.read(&file), "{}: {file} differs", model.display());
        }
        let found = verify(&a.path(), None, 1).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        assert!(found.certified.is_some(), "the logits were compared");
    }
}

#[test]
fn a_byte_of_any_record() {
    let made = Made::new(&row("qwen3_moe-mlx4"), &repacked());
    verify(&made.path(), None, 1).expect("it is whole");
    let size = made.read("experts.bin").len();
    let layer = &map(&made)["records"]["layers"][0];
    let number = |name: &str| layer[name].as_u64().expect("a number") as usize;
    for (at, word) in [
        (number("offset"), "expert 0 of layer 0"),
        (number("offset") + 2 * number("stride") + 5, "expert 2 of layer 0"),
        (size - 1, "experts.bin: is not what it was"),
    ] {
        made.flip("experts.bin", at);
        let found = verify(&made.path(), None, 1).expect_err("a byte was changed").to_string();
        assert!(found.contains("experts.bin") && found.contains(word), "byte {at}: {found}");
        Package::open(&made.path(), None).expect("weights are not read at start");
        made.flip("experts.bin", at);
    }
    made.write("experts.bin", &made.read("experts.bin")[..size - 4096]);
    let found = Package::open(&made.path(), None).expect_err("it is too short").to_string();
    assert!(found.contains("experts.bin"), "{found}");
}

/// Whatever a map says: an error, or what it says of places is so.
#[test]
fn forged_maps_are_refused() {
    type Forge = fn(&mut Value);
    let forgeries: &[(&str, Forge)] = &[
        ("do not lie in", |r| r["layers"][0]["offset"] = 4095.into()),
        ("do not lie in", |r| r["layers"][0]["offset"] = (u64::MAX - 4095).into()),
        ("do not lie in", |r| r["layers"][0]["offset"] = (1u64 << 40).into()),
        ("do not lie in", |r| r["layers"][0]["stride"] = 0.into()),
        ("do not lie in", |r| r["layers"][0]["stride"] = (1u64 << 62).into()),
        ("cannot be", |r| r["layers"][0]["crc32"] = Value::Array(vec![])),
        ("cannot be", |r| r["layers"][0]["matrices"] = Value::Array(vec![])),
        ("cannot be", |r| r["layers"][0]["matrices"][0]["type"]["rows"] = u64::MAX.into()),
        ("cannot be", |r| r["layers"][0]["matrices"][0]["type"]["cols"] = 7.into()),
        ("rows", |r| r["layers"][0]["matrices"][0]["names"] = Value::Array(vec![])),
        ("no tensor in records", |r| r["layers"][0]["matrices"][0]["names"][0] = "nobody.weight#0".into()),
        ("no tensor in records", |r| r["layers"][0]["matrices"][0]["names"][0] = "".into()),
        ("in no file of the package", |r| r["file"] = "../experts.bin".into()),
        ("in records and in a file", |r| r["tensors"][0]["name"] = "model.norm.weight".into()),
        ("in records", |r| r["tensors"][0]["type"] = "i64".into()),
    ];
    for (word, forge) in forgeries {
        let made = Made::new(&row("qwen3_moe-mlx4"), &repacked());
        let mut map = map(&made);
        forge(&mut map["records"]);
        let text = serde_json::to_string_pretty(&map).expect("JSON can be written") + "\n";
        made.write("weights.json", text.as_bytes());
        made.forge(|_| {});
        let found = Package::open(&made.path(), None).expect_err(word).to_string();
        assert!(found.contains(word), "`{word}` is not in\n{found}");
    }
}

#[test]
fn without_experts_there_is_nothing_to_repack() {
    let place = tempfile::tempdir().expect("a directory");
    let refused = pack(&row("llama"), &place.path().join("package"), &repacked()).expect_err("no experts").to_string();
    assert!(refused.contains("--repack"), "{refused}");
}

/// A package says how it was made so well that its program can be made again.
#[test]
fn packages_are_compiled_again_as_they_were() {
    for (precision, kv, chunk) in [
        (Precision::Exact, None, 512),
        (Precision::Default, Some(Kv::Q4Rotated), 64),
        (Precision::Default, Some(Kv::K4v3), 7),
        (Precision::Fine, Some(Kv::Bf16), 64),
    ] {
        for repack in [false, true] {
            let mut options = PackOptions { repack, ..repacked() };
            options.program.build = precision.build(kv, true);
            (options.program.compile.chunk, options.program.compile.max_rows) = (chunk, chunk.min(3));
            let made = Made::new(&repository("server/demo/model"), &options);
            let Package { manifest, program, checkpoint } = Package::open(&made.path(), None).expect("a package");
            let again = manifest.options.again().expect("its options");
            assert_eq!(again, options.program, "{precision:?} {kv:?}");
            assert!(compile(&checkpoint, &again).expect("it compiles").program == program, "{precision:?} {kv:?}");
            let original = Checkpoint::open(&repository("server/demo/model")).expect("the demo model");
            assert_eq!(checkpoint.tensors(), original.tensors());
        }
    }
}
