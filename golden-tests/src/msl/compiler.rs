//! The C++ compiler that stands in for Apple's.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Names under which a new enough clang is found.
const NAMES: [&str; 8] =
    ["clang++-21", "clang++-20", "clang++-19", "clang++-18", "clang++-17", "clang++-16", "clang++", "c++"];
/// What to do where there is none.
const REMEDY: &str = "no clang++ of version 16 or later was found (`apt-get install clang-16`, or Xcode's command line \
                      tools); SWIFTLM_CLANG may name one";

/// A clang that knows `_Float16`, with the headers that Metal texts include in a folder of its own.
#[derive(Clone, Debug)]
pub struct Clang {
    program: String,
    dir: PathBuf,
}

impl Clang {
    /// Finds one; `dir` is an empty folder that outlives it.
    ///
    /// # Errors
    /// There is none, or the folder cannot be written.
    pub fn find(dir: &Path) -> Result<Self, String> {
        let words = |e: std::io::Error| format!("{}: {e}", dir.display());
        std::fs::create_dir_all(dir.join("simd")).map_err(words)?;
        std::fs::write(dir.join("metal_stdlib"), include_str!("metal_stdlib.hpp")).map_err(words)?;
        std::fs::write(dir.join("simd/simd.h"), "").map_err(words)?;
        std::fs::write(dir.join("probe.cpp"), "_Float16 half = 1;\n").map_err(words)?;
        let named = std::env::var("SWIFTLM_CLANG").ok();
        let names = named.as_deref().into_iter().chain(NAMES.into_iter().filter(|_| named.is_none()));
        let clangs = names.map(|name| Self { program: name.to_owned(), dir: dir.to_owned() });
        let knows = |c: &Self| c.run(&["-fsyntax-only", "-xc++", "probe.cpp"]).is_ok_and(|o| o.status.success());
        clangs.into_iter().find(knows).ok_or_else(|| REMEDY.to_owned())
    }

    /// Writes a file into the folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), String> {
        std::fs::write(self.dir.join(name), text).map_err(|e| format!("{name}: {e}"))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Checks a file's syntax and types; every warning but that of Metal's attributes is an error.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn check(&self, file: &str) -> Result<(), String> {
        self.succeed(&["-fsyntax-only", "-Wall", "-Wextra", "-Werror", file])
    }

    /// Makes a library of a file.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn library(&self, file: &str, library: &str) -> Result<(), String> {
        let mut args = vec!["-O1", "-shared", "-fPIC", "-o", library, file];
        // What the program has is looked up when the library is loaded; elsewhere that is what linkers do anyway.
        args.extend(cfg!(target_os = "macos").then_some("-Wl,-undefined,dynamic_lookup"));
        self.succeed(&args)
    }

    /// Makes a program of a file whose functions libraries may call.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn program(&self, file: &str, program: &str) -> Result<(), String> {
        self.succeed(&["-O1", "-rdynamic", "-o", program, file, "-ldl"])
    }

    fn succeed(&self, args: &[&str]) -> Result<(), String> {
        let output = self.run(args).map_err(|e| format!("{}: {e}", self.program))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().take(40).collect::<Vec<_>>().join("\n"))
    }

    fn run(&self, args: &[&str]) -> std::io::Result<Output> {
        // Metal has no f64, its attributes are unknown here, and its texts keep what they do not use.
        let common = [
            "-std=c++17",
            "-Xclang",
            "-cl-single-precision-constant",
            "-Wno-unknown-attributes",
            "-Wno-unused-parameter",
            "-Wno-unused-variable",
            "-I.",
        ];
        Command::new(&self.program).current_dir(&self.dir).args(args).args(common).output()
    }
}
