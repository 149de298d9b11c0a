//! Making a package: compile, write everything to a directory beside the wished one, and put it in place at the end.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::certificate::{self, Certificate};
use super::manifest::{self, Applied, FORMAT, Listed, Made, Manifest, VERSION, sha256};
use super::repack::{self, RecordMap};
use super::texts::texts;
use super::weights::{self, Tensor, WeightMap};
use super::{PackageError, program};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::shards::INDEX;
use crate::compile::{Compiled, DriverError, Options, compile};
use crate::hub::TEXTS;

/// How a package is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackOptions {
    /// Of the program.
    pub program: Options,
    /// Leave the weights in the model's directory.
    pub in_place: bool,
    /// Write experts as records, each of which is read at once.
    pub repack: bool,
    /// Make no certificate: a model that does not fit in memory cannot be run for one.
    pub without_certificate: bool,
    /// Threads that the certificate is computed with, 0 for all; they do not change it.
    pub threads: usize,
}

/// Compiles the model directory `model` to the package `out`. A package that is there is replaced.
///
/// # Errors
/// The model cannot be compiled or run, or `out` is something else or cannot be written.
pub fn pack(model: &Path, out: &Path, options: &PackOptions) -> Result<Manifest, PackageError> {
    let out = std::path::absolute(out).map_err(PackageError::io(out))?;
    vacant(&out)?;
    let checkpoint = Checkpoint::open(model).map_err(DriverError::from)?;
    let compiled = compile(&checkpoint, &options.program)?;
    let mut draft = Draft::new(&out)?;
    // Where experts are records, all else is in one file.
    for name in TEXTS.iter().filter(|name| !options.repack || **name != INDEX) {
        draft.take(model, name)?;
    }
    for (path, content) in texts(&compiled.program).map_err(|e| PackageError::Run(e.to_string()))? {
        draft.put(&path, &content)?;
    }
    draft.put(program::FILE, &program::encode(&compiled.program))?;
    if !options.without_certificate {
        let program = compiled.program.clone();
        let certificate = Certificate::make(program, &checkpoint, options.threads)?;
        draft.put(certificate::FILE, &certificate.to_bytes()?)?;
    }
    let sources = if options.repack {
        draft.repack(&checkpoint, &options.program, &compiled)?;
        vec![]
    } else {
        draft.map(&checkpoint, !options.in_place)?
    };
    let manifest = manifest(compiled, options, std::mem::take(&mut draft.files), sources);
    // Files of weights are named by the model.
    if let Some(problem) = manifest.misplaced().into_iter().next() {
        return Err(PackageError::Run(format!("a file of the model has a name that packages use: {problem}")));
    }
    draft.put(manifest::FILE, manifest.text().as_bytes())?;
    draft.place(&out)?;
    Ok(manifest)
}

fn manifest(compiled: Compiled, options: &PackOptions, mut files: Vec<Listed>, sources: Vec<Listed>) -> Manifest {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        hash: String::new(),
        family: compiled.family,
        context: compiled.context,
        options: Made::new(&options.program.build, &compiled.options),
        rules: Applied::list(&compiled.program, &compiled.rules),
        files,
        sources,
    };
    manifest.hash = manifest.computed_hash();
    manifest
}

/// Whether a package may be written there: nothing is, an empty directory, or a package.
fn vacant(out: &Path) -> Result<(), PackageError> {
    let refuse = |reason: &str| Err(PackageError::Output { path: out.to_owned(), reason: reason.to_owned() });
    match fs::symlink_metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PackageError::Io { path: out.to_owned(), error }),
        Ok(facts) if !facts.is_dir() => refuse("is no directory: name another place for the package"),
        Ok(_) if manifest::claims(out) => Ok(()),
        Ok(_) => match fs::read_dir(out).map_err(PackageError::io(out))?.next() {
            None => Ok(()),
            Some(_) => refuse("is a directory with something else in it: name another place for the package"),
        },
    }
}

/// A package that is being written beside its place; it goes away if it is not finished.
struct Draft {
    directory: PathBuf,
    files: Vec<Listed>,
}

impl Draft {
    fn new(out: &Path) -> Result<Self, PackageError> {
        let directory = beside(out, "partial")?;
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent).map_err(PackageError::io(parent))?;
        }
        fs::create_dir(&directory).map_err(PackageError::io(&directory))?;
        let draft = Self { directory, files: vec![] };
        let kernels = draft.directory.join("kernels");
        fs::create_dir(&kernels).map_err(PackageError::io(&kernels))?;
        Ok(draft)
    }

    /// Writes a file.
    fn put(&mut self, path: &str, content: &[u8]) -> Result<(), PackageError> {
        let to = self.directory.join(path);
        fs::write(&to, content).map_err(PackageError::io(&to))?;
        self.files.push(Listed { path: path.to_owned(), bytes: content.len() as u64, sha256: sha256(content) });
        Ok(())
    }

    /// Takes a file of the model along, if there is one of that name.
    fn take(&mut self, model: &Path, name: &str) -> Result<(), PackageError> {
        let from = model.join(name);
        match fs::read(&from) {
            Ok(content) => self.put(name, &content),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(PackageError::Io { path: from, error }),
        }
    }

    /// Reads the weights, copies them if told so, and writes their map. Gives the files that stayed where they are.
    fn map(&mut self, checkpoint: &Checkpoint, copy: bool) -> Result<Vec<Listed>, PackageError> {
        let mut open: Option<(String, File)> = None;
        let directory = self.directory.clone();
        let mut write = |name: &str, piece: &[u8]| -> Result<(), String> {
            if !copy {
                return Ok(());
            }
            let to = directory.join(name);
            let failed = |e: std::io::Error| format!("{}: {e}", to.display());
            if open.as_ref().is_none_or(|(current, _)| current != name) {
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent).map_err(failed)?;
                }
                open = Some((name.to_owned(), File::create(&to).map_err(failed)?));
            }
            open.as_mut().map_or(Ok(()), |(_, file)| file.write_all(piece)).map_err(failed)
        };
        let (map, files) = WeightMap::scan(checkpoint, &mut write).map_err(PackageError::Run)?;
        let text = serde_json::to_string_pretty(&map).unwrap_or_default() + "\n";
        self.put(weights::FILE, text.as_bytes())?;
        if copy {
            self.files.extend(files);
            return Ok(vec![]);
        }
        Ok(files)
    }

    /// Writes experts as records, all other weights as one file, and their map; then reads the records back.
    fn repack(&mut self, checkpoint: &Checkpoint, options: &Options, whole: &Compiled) -> Result<(), PackageError> {
        let mixture = whole.program.mixture();
        let no_experts = || PackageError::Run("the model has no experts: leave --repack out".to_owned());
        let mut options = options.clone();
        options.compile.slots = Some(mixture.ok_or_else(no_experts)?.top_k);
        let streamed = compile(checkpoint, &options)?.program;
        let mut layers = repack::layers(&streamed).map_err(PackageError::Run)?;
        let recorded = repack::recorded(&layers);
        let (WeightMap { tensors, .. }, _) =
            WeightMap::scan(checkpoint, &mut |_, _| Ok(())).map_err(PackageError::Run)?;
        let (experts, others): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|t| recorded.contains(&t.name));
        let of_record = |t| Tensor { file: repack::FILE.to_owned(), offset: 0, ..t };
        let experts: Vec<Tensor> = experts.into_iter().map(of_record).collect();
        let directory = self.directory.clone();
        let dense = repack::write_dense(checkpoint, &others, &directory);
        let (tensors, dense) = dense.map_err(PackageError::Run)?;
        let records = repack::write(checkpoint, &mut layers, &directory).map_err(PackageError::Run)?;
        let map = RecordMap { file: repack::FILE.to_owned(), tensors: experts, layers };
        let map = WeightMap { tensors, records: Some(map) };
        let text = serde_json::to_string_pretty(&map).unwrap_or_default() + "\n";
        self.put(weights::FILE, text.as_bytes())?;
        self.files.extend([dense, records]);
        let back = Checkpoint::open(&directory).map_err(DriverError::from)?;
        let problems = map.with_records(back, &directory).and_then(|back| map.damaged_records(&back, &directory));
        match problems.map_err(PackageError::Run)? {
            none if none.is_empty() => Ok(()),
            problems => Err(PackageError::Run(problems.join("\n"))),
        }
    }

    /// Puts the finished package where it belongs; what was there goes once the new one is in place.
    fn place(self, out: &Path) -> Result<(), PackageError> {
        let old = beside(out, "old")?;
        let replaces = out.exists();
        if replaces {
            fs::rename(out, &old).map_err(PackageError::io(out))?;
        }
        if let Err(error) = fs::rename(&self.directory, out) {
            if replaces {
                fs::rename(&old, out).map_err(PackageError::io(&old))?;
            }
            return Err(PackageError::Io { path: out.to_owned(), error });
        }
        if replaces {
            fs::remove_dir_all(&old).map_err(PackageError::io(&old))?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After it was put in place there is nothing left here; before, nobody is left to tell.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A name in the same directory that only this process uses.
fn beside(out: &Path, what: &str) -> Result<PathBuf, PackageError> {
    let no_name = || PackageError::Output { path: out.to_owned(), reason: "is no name for a package".to_owned() };
    let name = out.file_name().ok_or_else(no_name)?.to_string_lossy();
    Ok(out.with_file_name(format!(".{name}.{what}-{}", std::process::id())))
}
