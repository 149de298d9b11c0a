//! Packages: a compiled model as a directory, with everything that serving it takes.
//!
//! A package is input from outside. What is read at start is held against the manifest's hashes, the program is verified
//! as a whole, and no path leads out of the directory. Texts of kernels and shaders are there for people: what runs is
//! the program's kernel IR, verified and lowered again.

mod certificate;
mod diff;
mod error;
mod inspect;
mod manifest;
mod pack;
pub mod program;
mod repack;
mod texts;
mod verify;
mod weights;

use std::fs;
use std::path::{Component, Path, PathBuf};

use swiftlm_ir::plan::Program;

pub use certificate::{Deviation, Tolerance};
pub use diff::diff;
pub use error::PackageError;
pub use inspect::{Cost, inspect};
pub use manifest::{Applied, Listed, Made, Manifest};
pub use pack::{PackOptions, pack};
pub use verify::{Certified, Verified, verify};

use crate::checkpoint::Checkpoint;
use weights::WeightMap;

/// Most bytes of a file that is read whole.
const WHOLE_LIMIT: u64 = 512 << 20;

/// A package without its weights: what it says of itself, and its program, verified.
#[derive(Debug)]
pub struct Outline {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its launches.
    pub program: Program,
    map: WeightMap,
}

/// An open package: its manifest is whole, what is read at start is what it was, its weights are where they should be.
#[derive(Debug)]
pub struct Package {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its launches, verified.
    pub program: Program,
    /// Where its weights are read from.
    pub checkpoint: Checkpoint,
}

/// Whether a directory is meant to be a package, sound or not.
pub fn is_package(directory: &Path) -> bool {
    directory.join(program::FILE).exists() || manifest::claims(directory)
}

impl Outline {
    /// Reads everything of a package but its weights and the texts for people.
    ///
    /// # Errors
    /// Everything that is missing, changed or added, or the program is not valid.
    pub fn read(directory: &Path) -> Result<Self, PackageError> {
        let manifest = Manifest::read(directory)?;
        let wrong = |problems: Vec<String>| PackageError::Wrong { path: directory.to_owned(), problems };
        let map = WeightMap::read(directory, &manifest).map_err(|e| wrong(vec![e]))?;
        let mut problems = unlisted(directory, &manifest, false)?;
        for file in &manifest.files {
            let later = file.path.contains('/') || map.holds(&file.path);
            let checked = if later { missing(directory, file).map(drop) } else { content(directory, file).map(drop) };
            problems.extend(checked.err());
        }
        if !problems.is_empty() {
            return Err(wrong(problems));
        }
        let bytes = listed(directory, &manifest, program::FILE).map_err(|e| wrong(vec![e]))?;
        let named = |problem| format!("{}: {problem}", program::FILE);
        let program = program::decode(&bytes).map_err(|problems| wrong(problems.into_iter().map(named).collect()))?;
        let problems = manifest.options.misstated(&program);
        if problems.is_empty() { Ok(Self { manifest, program, map }) } else { Err(wrong(problems)) }
    }
}

impl Package {
    /// Opens a package. `weights` is the model's directory for a package that does not hold its weights. Weights are not
    /// read: their files' sizes and headers are compared with the weight map.
    ///
    /// # Errors
    /// As [`Outline::read`], or the weights are not where they should be.
    pub fn open(directory: &Path, weights: Option<&Path>) -> Result<Self, PackageError> {
        let Outline { manifest, program, map } = Outline::read(directory)?;
        let wrong = |problems: Vec<String>| PackageError::Wrong { path: directory.to_owned(), problems };
        let checkpoint = weights_of(directory, &manifest, weights).map_err(wrong)?;
        let problems = map.misfits(&checkpoint);
        if !problems.is_empty() {
            return Err(wrong(problems));
        }
        let listed = |map: &repack::RecordMap| manifest.file(&map.file).is_some();
        if !map.records.as_ref().is_none_or(listed) {
            return Err(wrong(vec![format!("{}: its records are in no file of the package", weights::FILE)]));
        }
        let checkpoint = map.with_records(checkpoint, directory).map_err(|e| wrong(vec![e]))?;
        Ok(Self { manifest, program, checkpoint })
    }
}

/// The files of a package's weights, of the sizes that they should have.
fn weights_of(directory: &Path, manifest: &Manifest, weights: Option<&Path>) -> Result<Checkpoint, Vec<String>> {
    let (place, expected) = match (manifest.sources.is_empty(), weights) {
        (true, None) => (directory, &manifest.files),
        (false, Some(place)) => (place, &manifest.sources),
        (true, Some(_)) => return Err(vec!["it holds its weights: leave their directory out".to_owned()]),
        (false, None) => {
            return Err(vec!["its weights stayed in the model's directory: name that with --weights".to_owned()]);
        }
    };
    let checkpoint = Checkpoint::open(place).map_err(|e| e.problems)?;
    let mut problems = vec![];
    for file in checkpoint.files() {
        match expected.iter().find(|f| f.path == file.name) {
            Some(f) if f.bytes == file.bytes => {}
            Some(f) => problems.push(format!("{}: {} bytes, expected {}", file.name, file.bytes, f.bytes)),
            None => problems.push(format!("{}: is no file of this package's weights", file.name)),
        }
    }
    if problems.is_empty() { Ok(checkpoint) } else { Err(problems) }
}

/// The content of a file that the manifest lists.
fn listed(directory: &Path, manifest: &Manifest, path: &str) -> Result<Vec<u8>, String> {
    let file = manifest.file(path).ok_or_else(|| format!("{path} is missing from the manifest"))?;
    content(directory, file)
}

/// Whether a listed file is there, a plain file below plain directories, and of its size.
fn missing(directory: &Path, file: &Listed) -> Result<PathBuf, String> {
    let path = &file.path;
    let mut at = directory.to_owned();
    let mut parts = Path::new(path).components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(part) = part else { return Err(format!("{path}: is no path below the package")) };
        at.push(part);
        let facts = fs::symlink_metadata(&at).map_err(|e| format!("{path}: {e}"))?;
        let last = parts.peek().is_none();
        if last && !facts.is_file() || !last && !facts.is_dir() {
            return Err(format!("{path}: is no plain file of the package"));
        }
        if last && facts.len() != file.bytes {
            return Err(format!("{path}: {} bytes, expected {}", facts.len(), file.bytes));
        }
    }
    Ok(at)
}

/// The content of a listed file, held against its hash.
fn content(directory: &Path, file: &Listed) -> Result<Vec<u8>, String> {
    let path = missing(directory, file)?;
    if file.bytes > WHOLE_LIMIT {
        return Err(format!("{}: {} bytes, more than the {WHOLE_LIMIT} it may have", file.path, file.bytes));
    }
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", file.path))?;
    if manifest::sha256(&bytes) == file.sha256 { Ok(bytes) } else { Err(changed(&file.path)) }
}

fn changed(path: &str) -> String {
    format!("{path}: is not what it was when the package was made: its hash does not match")
}

/// Files of the directory, or of all below it, that the manifest does not list.
fn unlisted(directory: &Path, manifest: &Manifest, below: bool) -> Result<Vec<String>, PackageError> {
    let mut problems = vec![];
    let mut waiting = vec![(directory.to_owned(), String::new())];
    while let Some((place, prefix)) = waiting.pop() {
        let entries = fs::read_dir(&place).map_err(PackageError::io(&place))?;
        for entry in entries {
            let entry = entry.map_err(PackageError::io(&place))?;
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|ty| ty.is_dir()) {
                if below {
                    waiting.push((entry.path(), format!("{path}/")));
                }
            } else if path != manifest::FILE && manifest.file(&path).is_none() {
                problems.push(format!("{path}: is not in the manifest: remove it"));
            }
        }
    }
    problems.sort();
    Ok(problems)
}
