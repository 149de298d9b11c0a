//! The golden rows as files, and the weights that a compiled row wants.

use std::fs;
use std::path::{Path, PathBuf};

use swiftlm_compiler::CompileOptions;
use swiftlm_driver::checkpoint::Checkpoint;
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_models::{BuildOptions, Config};

/// Name and content of each file of a checkpoint.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// The directory of golden rows.
pub(crate) fn families() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden-tests/families")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the golden rows can be listed");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry can be read").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Names of all rows that are checkpoints.
pub(crate) fn rows() -> Vec<String> {
    let rows: Vec<String> =
        names(&families()).into_iter().filter(|n| families().join(n).join("config.json").exists()).collect();
    assert!(rows.len() > 5, "golden-tests/families holds rows");
    rows
}

/// The files of a row, those of its reference left out.
pub(crate) fn contents(row: &str) -> Files {
    let dir = families().join(row);
    let read = |n: String| (n.clone(), fs::read(dir.join(n)).expect("a file of a row can be read"));
    names(&dir).into_iter().filter(|n| !n.starts_with("reference")).map(read).collect()
}

/// The weights of the model that a row describes: as the compiler joins them, or as the graph has them.
pub(crate) fn weights(checkpoint: &Checkpoint, compiled: bool) -> Vec<WeightBuffer> {
    let config = Config::parse(checkpoint.config()).expect("a row's configuration parses");
    let model = swiftlm_models::build(&config, &checkpoint.tensors(), &BuildOptions::default()).expect("a row builds");
    if compiled {
        let options = CompileOptions::default();
        return swiftlm_compiler::compile(&model.module, &options, &mut |_, _| {})
            .expect("a row compiles")
            .program
            .weights;
    }
    uncompiled(&model)
}

/// The weights of a model as its graph has them.
pub(crate) fn uncompiled(model: &swiftlm_models::Model) -> Vec<WeightBuffer> {
    let mut all = vec![];
    for call in &model.module.main {
        let full = |n: &String| if call.scope.is_empty() { n.clone() } else { format!("{}.{n}", call.scope) };
        for weight in &model.module.funcs[call.func].weights {
            all.push(WeightBuffer { names: weight.names.iter().map(full).collect(), ty: weight.ty });
        }
    }
    all
}
