//! The command `swiftlm`.

fn main() {}
