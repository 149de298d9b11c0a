//! The demo model inside the binary: what is served when no `--model` is given.

/// Name and content of each of its files; `None` in a build without it.
pub fn files() -> Option<&'static [(&'static str, &'static [u8])]> {
    None
}
