//! `--prompt-cache-dir`: what the prefix cache keeps, in files. One sequence a file: its tokens, its states as they lie on the
//! device, and a checksum. They hold what was said, so only their owner may read them.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, BufWriter, Error, ErrorKind, Read, Result, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crc32fast::Hasher as Crc;
use swiftlm_runtime::engine::PrefixStore;

/// What a file begins with; the last letter is the layout's version.
const MAGIC: [u8; 8] = *b"slprefx1";
const EXTENSION: &str = "prefix";
/// Files up to so many bytes are known by their contents, larger ones by size and time of change.
const SMALL: u64 = 64 << 20;
/// Most tokens that a file can claim to hold.
const MOST_TOKENS: usize = 1 << 26;

/// A folder of such files, all of one model and one way of computing it.
#[derive(Debug)]
pub struct PrefixFiles {
    folder: PathBuf,
}

impl PrefixFiles {
    /// The files in `directory` of the model that `key` stands for.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(directory: &Path, key: &str) -> Result<Self> {
        let folder = directory.join(key);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016x}.{EXTENSION}"))
    }

    fn write(&self, path: &Path, tokens: &[u32], state: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut out = Checked { inner: BufWriter::new(options.open(path)?), crc: Crc::new() };
        out.write_all(&MAGIC)?;
        out.write_all(&(tokens.len() as u32).to_le_bytes())?;
        for token in tokens {
            out.write_all(&token.to_le_bytes())?;
        }
        state(&mut out)?;
        let checksum = out.crc.finalize();
        out.inner.write_all(&checksum.to_le_bytes())?;
        out.inner.flush()
    }
}

impl PrefixStore for PrefixFiles {
    fn list(&mut self) -> Vec<(u64, Vec<u32>)> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found = vec![];
        for path in files {
            let number = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
            let tokens = || tokens(&mut Checked { inner: BufReader::new(File::open(&path)?), crc: Crc::new() });
            let used = fs::metadata(&path).and_then(|facts| facts.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            match (number.filter(|_| path.extension().is_some_and(|e| e == EXTENSION)), tokens()) {
                (Some(number), Ok(tokens)) => found.push((used, number, tokens)),
                // Half a file of a process that was killed, or not one of ours.
                _ => tracing::warn!(path = %path.display(), "not a kept prompt; left alone"),
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(_, number, tokens)| (number, tokens)).collect()
    }

    fn save(&mut self, tokens: &[u32], write: &mut dyn FnMut(&mut dyn Write) -> Result<()>) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        tokens.hash(&mut hasher);
        let number = hasher.finish();
        // Whoever finds the file finds all of it.
        let partial = self.folder.join("partial");
        let written = self.write(&partial, tokens, write).and_then(|()| fs::rename(&partial, self.path(number)));
        if written.is_err() {
            // It may not even have been made.
            let _ = fs::remove_file(&partial);
        }
        written.map(|()| number)
    }

    fn load(&mut self, number: u64, read: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
        let file = File::open(self.path(number))?;
        let mut from = Checked { inner: BufReader::new(&file), crc: Crc::new() };
        tokens(&mut from)?;
        read(&mut from)?;
        let (computed, mut stored) = (from.crc.clone().finalize(), [0; 4]);
        from.inner.read_exact(&mut stored)?;
        let end = from.inner.read(&mut [0])? == 0;
        if !end || computed != u32::from_le_bytes(stored) {
            let path = self.path(number);
            return Err(Error::new(ErrorKind::InvalidData, format!("{}: its checksum is wrong", path.display())));
        }
        // Only the order in which files are given up depends on it.
        let _ = file.set_modified(SystemTime::now());
        Ok(())
    }

    fn remove(&mut self, number: u64) {
        if let Err(error) = fs::remove_file(self.path(number)) {
            tracing::warn!(path = %self.path(number).display(), %error, "a kept prompt cannot be removed");
        }
    }
}

/// A reader or writer of which a checksum is kept.
struct Checked<T> {
    inner: T,
    crc: Crc,
}

impl<T: Read> Read for Checked<T> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let count = self.inner.read(into)?;
        self.crc.update(&into[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Checked<T> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = self.inner.write(bytes)?;
        self.crc.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

/// The tokens that a file begins with.
fn tokens(from: &mut impl Read) -> Result<Vec<u32>> {
    let (mut magic, mut count) = ([0; 8], [0; 4]);
    from.read_exact(&mut magic)?;
    from.read_exact(&mut count)?;
    let count = u32::from_le_bytes(count) as usize;
    if magic != MAGIC || count > MOST_TOKENS {
        return Err(Error::new(ErrorKind::InvalidData, "not a kept prompt"));
    }
    let mut bytes = vec![];
    from.take(4 * count as u64).read_to_end(&mut bytes)?;
    if bytes.len() < 4 * count {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// A name for a model, known by its weights' files in `folders`, and for the way it is computed, which `how` says in words.
///
/// # Errors
/// A folder cannot be read.
pub fn key(how: &[&str], folders: &[&Path]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    how.hash(&mut hasher);
    for folder in folders {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|e| e == "safetensors" || e == "bin"));
        files.sort_unstable();
        for file in files {
            let facts = fs::metadata(&file)?;
            (file.file_name(), facts.len()).hash(&mut hasher);
            if facts.len() <= SMALL {
                crc32fast::hash(&fs::read(&file)?).hash(&mut hasher);
            } else {
                facts.modified()?.hash(&mut hasher);
            }
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = PrefixFiles::open(folder.path(), "k").expect("a folder");
        let (tokens, state) = ([7u32, 8, 9], vec![42u8; 1000]);
        let number = files.save(&tokens, &mut |out| out.write_all(&state)).expect("it is written");
        let other = files.save(&[1], &mut |out| out.write_all(&[1, 2])).expect("it is written");
        files.save(&[3], &mut |_| Err(Error::other("no"))).expect_err("a writer that fails");
        let mut listed = PrefixFiles::open(folder.path(), "k").expect("a folder").list();
        listed.sort_unstable();
        let mut expected = vec![(number, tokens.to_vec()), (other, vec![1])];
        expected.sort_unstable();
        assert_eq!(listed, expected);
        assert!(
            PrefixFiles::open(folder.path(), "other").expect("a folder").list().is_empty(),
            "other models' are not"
        );
        let read = |files: &mut PrefixFiles, bytes: usize| {
            let mut back = vec![0; bytes];
            files.load(number, &mut |from| from.read_exact(&mut back)).map(|()| back)
        };
        assert_eq!(read(&mut files, 1000).expect("it is whole"), state);
        read(&mut files, 900).expect_err("of another size");
        let path = files.path(number);
        let whole = fs::read(&path).expect("it is there");
        for at in [0, 9, 14, 500, whole.len() - 1] {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            fs::write(&path, &wrong).expect("it is written");
            read(&mut files, 1000).expect_err("a flipped bit is noticed");
        }
        fs::write(&path, &whole[..700]).expect("it is written");
        read(&mut files, 1000).expect_err("half a file");
        files.remove(number);
        files.remove(number);
        assert_eq!(files.list(), [(other, vec![1])]);
    }

    #[test]
    fn a_key_tells_weights_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |bytes: &[u8]| fs::write(folder.path().join("model.safetensors"), bytes).expect("it is written");
        let of = |how: &str| key(&[how], &[folder.path()]).expect("the folder is there");
        put(b"one");
        let one = of("a");
        assert_ne!(one, of("b"));
        put(b"two");
        assert_ne!(one, of("a"));
        put(b"one");
        assert_eq!(one, of("a"));
        key(&[], &[&folder.path().join("none")]).expect_err("no such folder");
    }
}
