//! Files of a checkpoint by name, in a directory or in memory, read at given positions. Knows nothing of what they hold.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use swiftlm_disk::read_at;

/// Most bytes of a text file that is read whole: an index of a million tensors stays below it.
const TEXT_LIMIT: u64 = 128 << 20;

/// Where the files of a checkpoint lie.
pub(crate) enum Folder {
    /// A directory.
    Disk(PathBuf),
    /// Contents by name, such as the model inside a program.
    Memory(Vec<(String, Cow<'static, [u8]>)>),
}

impl Folder {
    /// Names of all files, sorted.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            Self::Disk(dir) => {
                let entries = std::fs::read_dir(dir)?;
                entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned())).collect::<Result<_, _>>()?
            }
            Self::Memory(files) => files.iter().map(|f| f.0.clone()).collect(),
        };
        names.sort();
        Ok(names)
    }

    /// The text of a file, `None` if there is none of that name.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, String> {
        let Some(blob) = self.blob(name)? else { return Ok(None) };
        if blob.bytes > TEXT_LIMIT {
            return Err(format!("{name}: {} bytes, more than the {TEXT_LIMIT} a text may have", blob.bytes));
        }
        let mut bytes = vec![0; blob.bytes as usize];
        blob.read(0, &mut bytes)?;
        String::from_utf8(bytes).map(Some).map_err(|e| format!("{name}: {e}"))
    }

    /// Opens a file, `None` if there is none of that name.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn blob(&self, name: &str) -> Result<Option<Blob>, String> {
        match self {
            Self::Disk(dir) => Blob::open(&dir.join(name), name),
            Self::Memory(files) => Ok(files.iter().find(|f| f.0 == name).map(|(_, content)| Blob {
                name: name.to_owned(),
                bytes: content.len() as u64,
                modified: None,
                data: Data::Memory(content.clone()),
            })),
        }
    }
}

/// An open file. Its size and time of change are those at opening; a later change makes reads fail.
#[derive(Debug)]
pub(crate) struct Blob {
    /// Path below the folder.
    pub(crate) name: String,
    /// Size.
    pub(crate) bytes: u64,
    /// When it was last written, where the file system knows.
    pub(crate) modified: Option<SystemTime>,
    data: Data,
}

enum Data {
    Disk(File),
    Memory(Cow<'static, [u8]>),
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk(_) => "on disk",
            Self::Memory(_) => "in memory",
        })
    }
}

impl Blob {
    pub(super) fn open(path: &Path, name: &str) -> Result<Option<Self>, String> {
        let error = |e: io::Error| format!("{name}: cannot be opened: {e}");
        match std::fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(error(e)),
            // Opening a pipe would wait for a writer.
            Ok(facts) if !facts.is_file() => return Err(format!("{name}: is no file")),
            Ok(_) => {}
        }
        let file = File::open(path).map_err(error)?;
        let facts = file.metadata().map_err(error)?;
        let (bytes, modified) = (facts.len(), facts.modified().ok());
        Ok(Some(Self { name: name.to_owned(), bytes, modified, data: Data::Disk(file) }))
    }

    /// Fills `into` from byte `offset` on.
    ///
    /// # Errors
    /// A sentence that names the file and the offset: it ends earlier, cannot be read, or has changed since it was opened.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), String> {
        let name = &self.name;
        match &self.data {
            Data::Memory(content) => {
                let from = usize::try_from(offset).ok().and_then(|o| content.get(o..)?.get(..into.len()));
                let ends = || format!("{name}: ends at byte {}, before byte {offset} + {}", content.len(), into.len());
                into.copy_from_slice(from.ok_or_else(ends)?);
            }
            Data::Disk(file) => {
                fill(file, offset, into).map_err(|(at, e)| {
                    format!("{name}: byte {at} cannot be read: {e} (it had {} bytes)", self.bytes)
                })?;
            }
        }
        self.unchanged(offset)
    }

    /// The open file once more.
    ///
    /// # Errors
    /// It is in memory, or the system has no more descriptors.
    pub(super) fn reopened(&self) -> Result<File, String> {
        match &self.data {
            Data::Disk(file) => file.try_clone().map_err(|e| format!("{}: {e}", self.name)),
            Data::Memory(_) => Err(format!("{}: lies in memory: experts are read from files", self.name)),
        }
    }

    /// Says of a read at `offset` whether the file is still what it was when it was opened.
    ///
    /// # Errors
    /// A sentence that names the file: it has changed.
    pub(crate) fn unchanged(&self, offset: u64) -> Result<(), String> {
        let (name, Data::Disk(file)) = (&self.name, &self.data) else { return Ok(()) };
        let facts = file.metadata().map_err(|e| format!("{name}: cannot be examined: {e}"))?;
        if facts.len() != self.bytes || facts.modified().ok() != self.modified {
            return Err(format!("{name}: changed while it was in use (read at byte {offset}); load it again"));
        }
        Ok(())
    }
}

/// Fills `into` from byte `offset` on, or says at which byte it failed.
fn fill(file: &File, mut offset: u64, mut into: &mut [u8]) -> Result<(), (u64, io::Error)> {
    while !into.is_empty() {
        match read_at(file, into, offset) {
            Ok(0) => return Err((offset, io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here"))),
            Ok(n) => {
                into = &mut into[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((offset, e)),
        }
    }
    Ok(())
}
