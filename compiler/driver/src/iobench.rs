//! What a disk gives when experts are read from it: random places of a file, past the page cache, several at a time.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::checkpoint::direct::{open_uncached, window};

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Bytes of a read.
    pub size: usize,
    /// Reads at the same time.
    pub depth: usize,
    /// Bytes per second.
    pub rate: f64,
    /// Mean time of a read.
    pub latency: Duration,
}

/// Reads `file` for `time` for each size and depth. The second result says whether the reads went past the page cache.
///
/// # Errors
/// The file cannot be read, or is smaller than a read.
pub fn measure(file: &Path, sizes: &[usize], depths: &[usize], time: Duration) -> Result<(Vec<Speed>, bool), String> {
    let wrong = |e: std::io::Error| format!("{}: {e}", file.display());
    let (open, uncached) = match open_uncached(file).and_then(|f| window(&f, 0, 1, |_| ()).map(|()| f)) {
        Ok(open) => (open, true),
        Err(_) => (File::open(file).map_err(wrong)?, false),
    };
    let bytes = open.metadata().map_err(wrong)?.len();
    let mut table = vec![];
    for size in sizes {
        if *size == 0 || *size as u64 > bytes {
            return Err(format!("{}: {bytes} bytes, reads of {size} do not fit", file.display()));
        }
        for depth in depths {
            table.push(one(&open, bytes, *size, *depth, time).map_err(wrong)?);
        }
    }
    Ok((table, uncached))
}

fn one(file: &File, bytes: u64, size: usize, depth: usize, time: Duration) -> std::io::Result<Speed> {
    let (start, reads, spent) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
    let thread = |seed: u64| {
        let mut place = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        while start.elapsed() < time {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let offset = (place >> 16) % (bytes - size as u64 + 1);
            let begin = Instant::now();
            window(file, offset, size, |_| ())?;
            spent.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
            reads.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..depth.max(1) as u64).map(|seed| scope.spawn(move || thread(seed + 1))).collect();
        let ended = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(std::io::Error::other("a panic"))));
        ended.collect::<std::io::Result<()>>()
    })?;
    let (reads, spent) = (reads.into_inner(), spent.into_inner());
    Ok(Speed {
        size,
        depth,
        rate: (reads * size as u64) as f64 / start.elapsed().as_secs_f64(),
        latency: Duration::from_nanos(spent / reads.max(1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_file_and_refuses_one_that_is_too_small() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        std::fs::write(file.path(), vec![7; 100_000]).expect("it can be written");
        let time = Duration::from_millis(5);
        let (table, _) = measure(file.path(), &[1, 65_536], &[1, 3], time).expect("it can be read");
        assert_eq!(
            table.iter().map(|s| (s.size, s.depth)).collect::<Vec<_>>(),
            [(1, 1), (1, 3), (65_536, 1), (65_536, 3)]
        );
        assert!(table.iter().all(|s| s.rate > 0.0 && s.latency > Duration::ZERO));
        assert!(measure(file.path(), &[100_001], &[1], time).expect_err("too small").contains("do not fit"));
    }
}
