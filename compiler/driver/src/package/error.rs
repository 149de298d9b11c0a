//! Why a package could not be made, opened or verified.

use std::path::{Path, PathBuf};

use crate::compile::DriverError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The file system.
    #[error("{}: {error}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The directory is something else.
    #[error("{} is no package: it has no manifest.json; make one with `swiftlmc MODEL -o PACKAGE`", path.display())]
    NotAPackage {
        /// The directory.
        path: PathBuf,
    },
    /// Made by another version, whose program may mean something else.
    #[error("package {} was made by {made_by}, this is {own}: make it again with `swiftlmc MODEL -o PACKAGE`", path.display())]
    Version {
        /// The package.
        path: PathBuf,
        /// Format and version that made it.
        made_by: String,
        /// Format and version of this program.
        own: String,
    },
    /// What the package holds is not what it should.
    #[error("package {}: {}", path.display(), .problems.join("\n"))]
    Wrong {
        /// The package.
        path: PathBuf,
        /// Sentences that name the file.
        problems: Vec<String>,
    },
    /// The place to write to is taken.
    #[error("{}: {reason}", path.display())]
    Output {
        /// The place.
        path: PathBuf,
        /// Why, and the remedy.
        reason: String,
    },
    /// The model could not be read or compiled.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The program could not be run.
    #[error("the program cannot be run: {0}")]
    Run(String),
}

impl PackageError {
    pub(super) fn wrong(path: &Path, problem: impl Into<String>) -> Self {
        Self::Wrong { path: path.to_owned(), problems: vec![problem.into()] }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}
