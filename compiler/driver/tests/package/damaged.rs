//! Damage: one byte anywhere, what is missing, what is added, and links. It is found, and the file is named.

use std::fs;

use swiftlm_driver::package::{PackOptions, Package, PackageError, verify};

use super::{Made, row};

fn whole() -> Made {
    Made::new(&row("llama-mlx4"), &PackOptions::default())
}

fn refusal<T>(result: Result<T, PackageError>, what: &str) -> String {
    match result {
        Ok(_) => panic!("{what} is not found"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_byte_of_any_file() {
    let made = whole();
    verify(&made.path(), None, 1).expect("it is whole");
    let files = made.files();
    assert!(files.len() > 50 && files.contains(&"manifest.json".to_owned()), "{files:?}");
    for (i, file) in files.iter().enumerate() {
        let size = made.read(file).len();
        for at in [0, (i * 7919) % size, size - 1] {
            made.flip(file, at);
            let found = refusal(verify(&made.path(), None, 1), file);
            assert!(found.contains(file.as_str()), "byte {at} of {file}: {found}");
            made.flip(file, at);
        }
    }
    verify(&made.path(), None, 1).expect("it is whole again");
}

#[test]
fn a_byte_of_the_manifest() {
    let made = whole();
    let size = made.read("manifest.json").len();
    for at in (0..size).step_by(61) {
        made.flip("manifest.json", at);
        let found = refusal(Package::open(&made.path(), None), "a changed manifest");
        assert!(found.contains("manifest.json") || found.contains("was made by"), "byte {at}: {found}");
        made.flip("manifest.json", at);
    }
}

/// What is read at start is compared at start; the tensors that changed are named when all is compared.
#[test]
fn at_start_and_by_tensor() {
    let made = whole();
    for file in ["program.bin", "weights.json", "config.json"] {
        made.flip(file, 11);
        let found = refusal(Package::open(&made.path(), None), file);
        assert!(found.contains(file), "{file}: {found}");
        made.flip(file, 11);
    }
    let size = made.read("model.safetensors").len();
    made.flip("model.safetensors", size - 1);
    Package::open(&made.path(), None).expect("weights are not read at start");
    let found = refusal(verify(&made.path(), None, 1), "a changed weight");
    assert!(found.contains("model.safetensors: tensor `"), "{found}");
    made.flip("model.safetensors", size - 1);
    made.write("model.safetensors", &made.read("model.safetensors")[..size - 4]);
    let found = refusal(Package::open(&made.path(), None), "a truncated file of weights");
    assert!(found.contains("model.safetensors"), "{found}");
}

#[test]
fn missing_and_added_files() {
    let made = whole();
    for file in ["program.bin", "config.json", "certificate.safetensors", "model.safetensors", "weights.json"] {
        let content = made.read(file);
        fs::remove_file(made.path().join(file)).expect("it can be removed");
        let found = refusal(Package::open(&made.path(), None), file);
        assert!(found.contains(file), "{file}: {found}");
        made.write(file, &content);
    }
    // A template beside the others would speak for the model.
    made.write("chat_template.jinja", b"{{ messages }}");
    let found = refusal(Package::open(&made.path(), None), "an added template");
    assert!(found.contains("chat_template.jinja: is not in the manifest"), "{found}");
    fs::remove_file(made.path().join("chat_template.jinja")).expect("it can be removed");
    made.write("kernels/more.wgsl", b"fn main() {}");
    let found = refusal(verify(&made.path(), None, 1), "an added kernel");
    assert!(found.contains("kernels/more.wgsl: is not in the manifest"), "{found}");
    let nothing = tempfile::tempdir().expect("a directory");
    let found = refusal(Package::open(nothing.path(), None), "no package");
    assert!(found.contains("swiftlmc MODEL -o"), "{found}");
}

#[cfg(unix)]
#[test]
fn links_lead_out() {
    let made = whole();
    let outside = made.place.path().join("outside.json");
    fs::rename(made.path().join("config.json"), &outside).expect("it can be moved");
    std::os::unix::fs::symlink(&outside, made.path().join("config.json")).expect("a link");
    let found = refusal(Package::open(&made.path(), None), "a link");
    assert!(found.contains("config.json: is no plain file"), "{found}");
}
