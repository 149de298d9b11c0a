//! What a package is, in words: how it was made, what it takes, and what a step of it costs.

use std::fmt::Write;

use serde::Serialize;
use swiftlm_ir::dim::ShapeClass;
use swiftlm_ir::plan::Program;

use super::Outline;

/// What running a program takes, as far as the program says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Launches of a step by class: of the classes' tokens, all of which want logits.
    pub launches: Vec<(&'static str, usize)>,
    /// Distinct kernels.
    pub kernels: usize,
    /// Weight bytes that a decode step reads.
    pub decode_bytes: usize,
    /// Bytes of all weights.
    pub weight_bytes: usize,
    /// KV bytes of one token.
    pub kv_bytes_per_token: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
}

impl Cost {
    /// Of a program.
    pub fn of(program: &Program) -> Self {
        let launches = |class: ShapeClass| {
            let counts = swiftlm_compiler::pipeline::dispatch_counts(program, class);
            program.module.main.iter().map(|call| counts[call.func].1).sum()
        };
        Self {
            launches: ShapeClass::ALL.map(|class| (class.name(), launches(class))).to_vec(),
            kernels: program.kernels.len(),
            decode_bytes: program.decode_bytes(),
            weight_bytes: program.weight_bytes(),
            kv_bytes_per_token: program.kv_bytes_per_token(),
            arena_bytes: program.arena_bytes,
        }
    }

    /// Names and numbers, for tables.
    pub(super) fn lines(&self) -> Vec<(String, usize)> {
        let mut lines: Vec<(String, usize)> =
            self.launches.iter().map(|(class, n)| (format!("launches of a step, class {class}"), *n)).collect();
        lines.extend([
            ("kernels".to_owned(), self.kernels),
            ("weight bytes read by a decode step".to_owned(), self.decode_bytes),
            ("weight bytes".to_owned(), self.weight_bytes),
            ("KV bytes of a token".to_owned(), self.kv_bytes_per_token),
            ("arena bytes".to_owned(), self.arena_bytes),
        ]);
        lines
    }
}

/// A table of the package's facts.
pub fn inspect(package: &Outline) -> String {
    let manifest = &package.manifest;
    let made = &manifest.options;
    let bytes: u64 = manifest.files.iter().map(|f| f.bytes).sum();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{name:<36} {value}");
    };
    line("package", &manifest.hash);
    line("family", &manifest.family);
    line("context", &manifest.context);
    line("made by", &format!("swiftlmc {}", manifest.made_by));
    line("tokens of a step", &made.chunk);
    line("rows of a step that want logits", &made.max_rows);
    line("bytes of a binding", &made.max_binding);
    line("keys, values", &format!("{}, {}", made.keys, made.values));
    line("activations", &made.activations);
    line("choices", &made.choices);
    let weights = if manifest.sources.is_empty() { "in the package" } else { "in the model's directory" };
    line("weights", &weights);
    if let Some(records) = &package.map.records {
        let count: usize = records.layers.iter().map(|layer| layer.experts()).sum();
        line("experts", &format!("{count} records of {} layers", records.layers.len()));
    }
    line("files", &format!("{} of {bytes} bytes", manifest.files.len()));
    for (name, value) in Cost::of(&package.program).lines() {
        line(&name, &value);
    }
    for applied in manifest.rules.iter().filter(|a| !a.rules.is_empty()) {
        let rules: Vec<String> = applied.rules.iter().map(|(rule, n)| format!("{rule} x{n}")).collect();
        line(&format!("rules in @{}", applied.func), &rules.join(", "));
    }
    out
}
