//! Memory of the process and the machine, where the system says it in `/proc`; zeros elsewhere.

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub active: u64,
    /// Most that was ever resident.
    pub peak: u64,
    /// Of the machine, or of the control group that the process may not leave.
    pub total: u64,
}

impl Memory {
    /// As the system says it now.
    pub fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let (status, machine) = (read("/proc/self/status"), read("/proc/meminfo"));
        let limit = group_limit(&read("/proc/self/cgroup"), &|path| std::fs::read_to_string(path).ok());
        let total = field(&machine, "MemTotal:");
        let total = limit.map_or(total, |limit| limit.min(total));
        Self { active: field(&status, "VmRSS:"), peak: field(&status, "VmHWM:"), total }
    }
}

/// The least memory limit of the process's control group and those around it, of either hierarchy.
fn group_limit(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let limit = read(&format!("{root}{path}/{file}")).and_then(|text| text.trim().parse::<u64>().ok());
            least = [least, limit].into_iter().flatten().min();
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break,
            }
        }
    }
    least
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
    fn the_tightest_group_counts() {
        let files = [
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n"),
            ("/sys/fs/cgroup/u/memory.max", "max\n"),
            ("/sys/fs/cgroup/u/v/memory.max", "4000\n"),
        ];
        let read = |path: &str| files.iter().find(|(p, _)| *p == path).map(|(_, text)| (*text).to_owned());
        assert_eq!(group_limit("5:cpu,memory:/a/b\n2:pids:/x\n0::/u/v\n", &read), Some(3000));
        assert_eq!(group_limit("0::/u/v\n", &read), Some(4000));
        assert_eq!(group_limit("0::/\nnonsense\n", &read), None);
    }

    #[test]
    fn reads_kilobytes() {
        assert_eq!(field("VmPeak:\t 9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), 12 * 1024);
        assert_eq!(field("", "VmRSS:"), 0);
    }
}
