//! The manifest: what a package holds, how it was made, and the hash that stands for all of it.
//!
//! It is written in one form only, and a file in any other form is refused: so a changed byte anywhere, in a file it lists
//! or in itself, is found.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use swiftlm_compiler::egraph::run::Report;
use swiftlm_compiler::{Choices, CompileOptions};
use swiftlm_ir::graph::Def;
use swiftlm_ir::ops::Op;
use swiftlm_ir::plan::Program;
use swiftlm_ir::quant::{Archive, Format};
use swiftlm_ir::ty::StateType;
use swiftlm_models::{Activations, ArchivePolicy, BuildOptions};

use super::PackageError;
use crate::checkpoint::shards::leaves;
use crate::compile::Options;

/// Name of the file.
pub(super) const FILE: &str = "manifest.json";
/// What says that a manifest is one.
pub(super) const FORMAT: &str = "swiftlm-package";
/// Of the form of manifests and programs.
pub(super) const VERSION: u32 = 5;
/// Most bytes of a manifest.
const LIMIT: u64 = 64 << 20;

/// A package's description of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the program that made it.
    pub made_by: String,
    /// SHA-256 of this manifest with nothing in this place: the package's hash.
    pub hash: String,
    /// `model_type` of the model.
    pub family: String,
    /// Positions the model was made for.
    pub context: usize,
    /// How the program was made.
    pub options: Made,
    /// Rewrite rules that applied, by function.
    pub rules: Vec<Applied>,
    /// Files below the package's directory, by path.
    pub files: Vec<Listed>,
    /// Files of weights that stay in the model's directory, by path; none where the package holds its weights.
    pub sources: Vec<Listed>,
}

/// A file with what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Path, with `/` on every system.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// Choices of building and compiling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// Largest token count of a step.
    pub chunk: usize,
    /// Largest count of rows that want logits.
    pub max_rows: usize,
    /// Bytes that one argument of a launch may span.
    pub max_binding: usize,
    /// How keys are stored.
    pub keys: Format,
    /// How values are stored.
    pub values: Format,
    /// Whether both are rotated before.
    pub rotated: bool,
    /// Where older tokens are kept, in the layers that can keep them so.
    pub archive: Option<Archive>,
    /// How inputs of products are rounded: `f32`, `f16`, `int8`, `int16`.
    pub activations: String,
    /// Who decided where several programs are right: `best`, `plain`, or `random` with a seed.
    pub choices: String,
    /// Rewrite rules that were not used.
    pub without_rules: Vec<String>,
}

/// Rules that applied to a function, with how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// Its name.
    pub func: String,
    /// Rule and count.
    pub rules: BTreeMap<String, usize>,
}

impl Made {
    /// As a manifest says it.
    pub(super) fn new(build: &BuildOptions, compile: &CompileOptions) -> Self {
        let activations = match build.activations {
            Activations::F32 => "f32".to_owned(),
            Activations::F16 => "f16".to_owned(),
            Activations::Int { bits, head } if bits == head => format!("int{bits}"),
            Activations::Int { bits, head } => format!("int{bits}, head int{head}"),
        };
        let choices = match compile.choices {
            Choices::Best => "best".to_owned(),
            Choices::Plain => "plain".to_owned(),
            Choices::Random(seed) => format!("random {seed}"),
        };
        Self {
            chunk: compile.chunk,
            max_rows: compile.max_rows,
            max_binding: compile.max_binding,
            keys: build.kv.0,
            values: build.kv.1,
            rotated: build.rotate,
            archive: build.archive.map(|policy| policy.archive),
            activations,
            choices,
            without_rules: compile.without_rules.clone(),
        }
    }
}

impl Made {
    /// What a program must be compiled with to be made so.
    ///
    /// # Errors
    /// A word that this version does not write.
    pub fn again(&self) -> Result<Options, String> {
        let unknown = |what: &str, word: &str| format!("{FILE}: `{word}` says no {what}");
        let activations = match self.activations.as_str() {
            "f32" => Activations::F32,
            "f16" => Activations::F16,
            "int8" => Activations::int(8),
            "int16" => Activations::int(16),
            "int8, head int16" => Activations::Int { bits: 8, head: 16 },
            other => return Err(unknown("activations", other)),
        };
        let choices = match self.choices.as_str() {
            "best" => Choices::Best,
            "plain" => Choices::Plain,
            other => {
                let seed = other.strip_prefix("random ").and_then(|seed| seed.parse().ok());
                Choices::Random(seed.ok_or_else(|| unknown("choices", other))?)
            }
        };
        let build = BuildOptions {
            kv: (self.keys, self.values),
            activations,
            rotate: self.rotated,
            archive: self.archive.map(|archive| ArchivePolicy { archive, boundary: 0, careful: false }),
            experts_per_token: None,
            f32_from: None,
        };
        let compile = CompileOptions {
            chunk: self.chunk,
            max_rows: self.max_rows,
            max_binding: self.max_binding,
            choices,
            without_rules: self.without_rules.clone(),
            ..CompileOptions::default()
        };
        Ok(Options { build, compile })
    }

    /// What a program shows to be otherwise: how far it may be off is judged by what is said here.
    pub(super) fn misstated(&self, program: &Program) -> Vec<String> {
        let Self { chunk, max_rows, keys, values, archive, .. } = self;
        let layers = match self.again() {
            Ok(options) => options.build.activations,
            Err(problem) => return vec![problem],
        };
        let mut problems = vec![];
        if (program.chunk, program.max_rows) != (*chunk, *max_rows) {
            problems.push(format!("steps of {} tokens and {} rows", program.chunk, program.max_rows));
        }
        for state in &program.module.states {
            let StateType::Paged { k, v, archive: held, .. } = state else { continue };
            if (k, v) != (keys, values) {
                problems.push(format!("keys of {k} and values of {v}"));
            }
            if held.is_some() && held != archive {
                problems.push(format!("the state {state}"));
            }
        }
        let head = program.module.main.last().map(|call| call.func);
        for (func, graph) in program.module.funcs.iter().enumerate() {
            let said = if Some(func) == head { layers.of_head() } else { layers };
            for value in &graph.values {
                if let Def::Node { op: Op::Round { to }, .. } = &value.def
                    && !said.rounds_to(*to)
                {
                    problems.push(format!("activations of {to}"));
                }
            }
        }
        problems.dedup();
        problems.iter().map(|what| format!("{FILE}: the program has {what}, which it does not say")).collect()
    }
}

impl Applied {
    pub(super) fn list(program: &Program, reports: &[Report]) -> Vec<Self> {
        let funcs = program.module.funcs.iter().zip(reports);
        funcs.map(|(graph, report)| Self { func: graph.name.clone(), rules: report.applied.clone() }).collect()
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of bytes in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// Whether a directory has a manifest that says it is a package's, of whatever version.
pub(super) fn claims(directory: &Path) -> bool {
    let kind = std::fs::read(directory.join(FILE)).ok().and_then(|text| serde_json::from_slice::<Kind>(&text).ok());
    kind.is_some_and(|kind| kind.format == FORMAT)
}

#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u32,
    made_by: String,
}

impl Manifest {
    /// The one text of a manifest.
    pub fn text(&self) -> String {
        // Strings, numbers and lists of them can always be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// What its hash must be.
    pub(super) fn computed_hash(&self) -> String {
        sha256(Self { hash: String::new(), ..self.clone() }.text().as_bytes())
    }

    /// The file of that path.
    pub fn file(&self, path: &str) -> Option<&Listed> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Reads the manifest of a package and checks that it is whole; no file that it lists is looked at.
    ///
    /// # Errors
    /// It is missing, damaged, of another version, or names what lies outside of the package.
    pub fn read(package: &Path) -> Result<Self, PackageError> {
        let path = package.join(FILE);
        let wrong = |reason: String| PackageError::wrong(package, format!("{FILE}: {reason}"));
        let size = match std::fs::metadata(&path) {
            Ok(facts) => facts.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(PackageError::NotAPackage { path: package.to_owned() });
            }
            Err(error) => return Err(PackageError::Io { path, error }),
        };
        if size > LIMIT {
            return Err(wrong(format!("{size} bytes, more than the {LIMIT} a manifest may have")));
        }
        let bytes = std::fs::read(&path).map_err(PackageError::io(&path))?;
        let kind: Kind = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if kind.format != FORMAT {
            return Err(wrong(format!("its format is `{}`, expected `{FORMAT}`", kind.format)));
        }
        let own = env!("CARGO_PKG_VERSION");
        if (kind.version, kind.made_by.as_str()) != (VERSION, own) {
            let say = |program: &str, version: u32| format!("swiftlmc {program} (format {version})");
            return Err(PackageError::Version {
                path: package.to_owned(),
                made_by: say(&kind.made_by, kind.version),
                own: say(own, VERSION),
            });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if manifest.text().as_bytes() != bytes || manifest.computed_hash() != manifest.hash {
            return Err(wrong("it was changed after it was written: its hash does not match".to_owned()));
        }
        let problems = manifest.misplaced();
        if problems.is_empty() { Ok(manifest) } else { Err(wrong(problems.join("\n"))) }
    }

    /// Paths that lead out of the package, or stand twice.
    pub(super) fn misplaced(&self) -> Vec<String> {
        let mut problems = vec![];
        for list in [&self.files, &self.sources] {
            for file in list.iter().filter(|f| leaves(&f.path) || f.path == FILE) {
                problems.push(format!("`{}` is no path below the package", file.path));
            }
            for pair in list.windows(2).filter(|pair| pair[0].path >= pair[1].path) {
                problems.push(format!("`{}` stands before `{}`", pair[0].path, pair[1].path));
            }
        }
        problems
    }
}
