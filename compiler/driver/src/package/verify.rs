//! Verifying a package as a whole: every byte against its hash, every text against the program, and the program's logits
//! against the certificate.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::certificate::{self, Certificate, Deviation, Tolerance};
use super::manifest::hex;
use super::texts::texts;
use super::weights::WeightMap;
use super::{Listed, Manifest, Package, PackageError, changed, content, listed, missing, unlisted, weights_of};

/// How a program's logits compare with the certificate's.
#[derive(Clone, Debug, PartialEq)]
pub struct Certified {
    /// By depth.
    pub deviations: Vec<Deviation>,
    /// What they may be.
    pub tolerance: Tolerance,
}

/// What was found right.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The package's hash.
    pub hash: String,
    /// Files whose content was compared.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Against the certificate; `None` for a package without.
    pub certified: Option<Certified>,
}

/// Verifies a package; `weights` is the model's directory for a package that does not hold its weights.
///
/// # Errors
/// Everything that differs, file by file, or the program that does not compute what the certificate says.
pub fn verify(directory: &Path, weights: Option<&Path>, threads: usize) -> Result<Verified, PackageError> {
    let manifest = Manifest::read(directory)?;
    let wrong = |problems: Vec<String>| PackageError::Wrong { path: directory.to_owned(), problems };
    let problems = damaged(directory, &manifest, weights)?;
    if !problems.is_empty() {
        return Err(wrong(problems));
    }
    let package = Package::open(directory, weights)?;
    let problems = strange_texts(directory, &package)?;
    if !problems.is_empty() {
        return Err(wrong(problems));
    }
    let all = || manifest.files.iter().chain(&manifest.sources);
    let (files, bytes) = (all().count(), all().map(|f| f.bytes).sum());
    let hash = manifest.hash.clone();
    if manifest.file(certificate::FILE).is_none() {
        return Ok(Verified { hash, files, bytes, certified: None });
    }
    let of_certificate = |reason: String| wrong(vec![format!("{}: {reason}", certificate::FILE)]);
    let certificate = listed(directory, &manifest, certificate::FILE).map_err(|e| wrong(vec![e]))?;
    let certificate = Certificate::from_bytes(&certificate).map_err(of_certificate)?;
    let tolerance = Tolerance::of(&manifest.options);
    let deviations = certificate.deviations(package.program, &package.checkpoint, threads)?;
    let problems = tolerance.exceeded(&deviations);
    if !problems.is_empty() {
        return Err(of_certificate(problems.join("\n")));
    }
    Ok(Verified { hash, files, bytes, certified: Some(Certified { deviations, tolerance }) })
}

/// Everything that is not as it was when the package was made.
fn damaged(directory: &Path, manifest: &Manifest, weights: Option<&Path>) -> Result<Vec<String>, PackageError> {
    let mut problems = unlisted(directory, manifest, true)?;
    let map = match WeightMap::read(directory, manifest) {
        Ok(map) => Some(map),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    match (map, weights_of(directory, manifest, weights)) {
        (Some(map), Ok(checkpoint)) => {
            let others = manifest.files.iter().filter(|f| !map.holds(&f.path));
            problems.extend(others.filter_map(|file| content(directory, file).err()));
            let (now, read) = WeightMap::scan(&checkpoint, &mut |_, _| Ok(())).map_err(PackageError::Run)?;
            problems.extend(map.changed(&now));
            let expected = if manifest.sources.is_empty() { &manifest.files } else { &manifest.sources };
            if let Some(records) = &map.records {
                let listed = manifest.file(&records.file).map(|file| stream(directory, file));
                problems.extend(listed.and_then(Result::err));
                let found = map.with_records(checkpoint, directory).and_then(|c| map.damaged_records(&c, directory));
                problems.extend(found.unwrap_or_else(|problem| vec![problem]));
            }
            problems.extend(read.iter().filter(|file| !expected.contains(file)).map(|file| changed(&file.path)));
        }
        // Without map or headers, files of weights are compared as any other.
        (_, opened) => {
            problems.extend(opened.err().unwrap_or_default());
            problems.extend(manifest.files.iter().filter_map(|file| stream(directory, file).err()));
        }
    }
    problems.dedup();
    Ok(problems)
}

/// Compares a file of any size.
fn stream(directory: &Path, file: &Listed) -> Result<(), String> {
    let named = |e: std::io::Error| format!("{}: {e}", file.path);
    let mut open = File::open(missing(directory, file)?).map_err(named)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match open.read(&mut piece).map_err(named)? {
            0 => break,
            n => hash.update(&piece[..n]),
        }
    }
    if hex(hash.finalize()) == file.sha256 { Ok(()) } else { Err(changed(&file.path)) }
}

/// Texts that are not the program's: people would read one thing and run another.
fn strange_texts(directory: &Path, package: &Package) -> Result<Vec<String>, PackageError> {
    let expected = texts(&package.program).map_err(|e| PackageError::Run(e.to_string()))?;
    let manifest = &package.manifest;
    let held = |path: &str| listed(directory, manifest, path);
    let mut problems: Vec<String> = (expected.iter())
        .filter(|(path, text)| held(path).as_ref() != Ok(*text))
        .map(|(path, _)| format!("{path}: is not the text of this program"))
        .collect();
    let more = manifest.files.iter().filter(|f| f.path.contains('/') && !expected.contains_key(&f.path));
    let of_weights = |path: &str| package.checkpoint.files().iter().any(|f| f.name == path);
    problems.extend(more.filter(|f| !of_weights(&f.path)).map(|f| format!("{}: is no text of this program", f.path)));
    Ok(problems)
}
