//! Forgeries: every hash is right, and what they are of is not.

use swiftlm_driver::package::{PackOptions, Package, program, verify};
use swiftlm_driver::precision::Precision;

use super::{Made, row};

fn whole(options: &PackOptions) -> Made {
    Made::new(&row("llama"), options)
}

/// Another number in the weights, with the map and the manifest changed to match.
#[test]
fn other_weights_fail_the_certificate() {
    for name in ["llama", "qwen3_moe-mlx4"] {
        let made = Made::new(&row(name), &PackOptions::default());
        let map: serde_json::Value = serde_json::from_slice(&made.read("weights.json")).expect("a map");
        let tensor = map["tensors"].as_array().expect("tensors").iter().find(|t| {
            let name = t["name"].as_str().expect("a name");
            name.ends_with("layers.0.input_layernorm.weight")
        });
        let tensor = tensor.expect("there is a norm");
        let (offset, bytes) = (tensor["offset"].as_u64().expect("a place"), tensor["bytes"].as_u64().expect("a size"));
        let mut weights = made.read("model.safetensors");
        let range = offset as usize..(offset + bytes) as usize;
        // The weights of a norm in another order.
        weights[range.clone()].reverse();
        let digest = super::sha256(&weights[range]);
        made.write("model.safetensors", &weights);
        let old = tensor["sha256"].as_str().expect("a hash");
        let text = String::from_utf8(made.read("weights.json")).expect("a text").replace(old, &digest);
        made.write("weights.json", text.as_bytes());
        made.forge(|_| {});
        Package::open(&made.path(), None).expect("all hashes match");
        let found = verify(&made.path(), None, 1).expect_err("it computes something else").to_string();
        assert!(found.contains("certificate.safetensors") && found.contains("off by"), "{name}: {found}");
    }
}

/// Another program behind the same texts, and behind the right texts for it.
#[test]
fn another_program_fails() {
    let made = whole(&PackOptions::default());
    let mut changed = program::decode(&made.read("program.bin")).expect("a program");
    changed.module.rope_tables[0].magnitude = 1.1;
    made.write("program.bin", &program::encode(&changed));
    made.forge(|_| {});
    let found = verify(&made.path(), None, 1).expect_err("the texts are another's").to_string();
    assert!(found.contains("graph.slir: is not the text of this program"), "{found}");
    let graph = String::from_utf8(made.read("graph.slir")).expect("a text");
    assert!(graph.contains("magnitude 1 ["), "{graph}");
    made.write("graph.slir", graph.replace("magnitude 1 [", "magnitude 1.1 [").as_bytes());
    made.forge(|_| {});
    let found = verify(&made.path(), None, 1).expect_err("it computes something else").to_string();
    assert!(found.contains("certificate.safetensors") && found.contains("depth 31"), "{found}");
}

/// A manifest that says otherwise than its program would be judged by a wider bar, or be served against a flag.
#[test]
fn what_a_manifest_says_is_so() {
    let mut options = PackOptions { without_certificate: true, ..PackOptions::default() };
    options.program.build = Precision::Default.build(None, true);
    for (name, value, word) in [
        ("keys", "f32", "keys of f16"),
        ("values", "affine4_g64_f16", "values of f16"),
        ("activations", "f32", "activations of int8_g"),
        ("activations", "int16", "activations of int8_g"),
        ("activations", "int8", "activations of int16_g"),
    ] {
        let made = Made::new(&row("llama-mlx4"), &options);
        Package::open(&made.path(), None).expect("it says what is so");
        made.forge(|manifest| manifest["options"][name] = value.into());
        let found = Package::open(&made.path(), None).expect_err("it says otherwise").to_string();
        assert!(found.contains("manifest.json") && found.contains(word), "{name} {value}: {found}");
    }
}

#[test]
fn paths_that_lead_out() {
    for path in ["../outside", "/etc/hostname", "a/../../b", "c:\\x", ""] {
        let made = whole(&PackOptions { without_certificate: true, ..PackOptions::default() });
        made.forge(|manifest| {
            let files = manifest["files"].as_array_mut().expect("a list of files");
            let mut file = files[0].clone();
            file["path"] = path.into();
            files.insert(0, file);
        });
        let found = Package::open(&made.path(), None).expect_err("it leads out").to_string();
        assert!(found.contains("is no path below the package"), "{path}: {found}");
    }
}

#[test]
fn other_versions_are_not_guessed_at() {
    let made = whole(&PackOptions { without_certificate: true, ..PackOptions::default() });
    made.forge(|manifest| manifest["version"] = 1.into());
    let found = Package::open(&made.path(), None).expect_err("another version").to_string();
    assert!(found.contains("make it again"), "{found}");
}
