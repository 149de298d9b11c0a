//! Memory of the process and the machine, where the system says it in `/proc`; zeros elsewhere.

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub active: u64,
    /// Most that was ever resident.
    pub peak: u64,
    /// Of the machine.
    pub total: u64,
}

impl Memory {
    /// As the system says it now.
    pub fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (status, machine) = (read("/proc/self/status"), read("/proc/meminfo"));
        Self { active: field(&status, "VmRSS:"), peak: field(&status, "VmHWM:"), total: field(&machine, "MemTotal:") }
    }
}

/// `Name:   123 kB` in bytes.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kilobytes() {
        assert_eq!(field("VmPeak:\t 9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), 12 * 1024);
        assert_eq!(field("", "VmRSS:"), 0);
    }
}
