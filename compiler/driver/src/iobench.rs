//! What a disk gives when experts are read from it: random places of a file, past the page cache, several at a time, by
//! every method that works.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use swiftlm_disk::{Disk, Request, Wish, open_uncached, room, window};

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// How files are read, for people.
    pub method: &'static str,
    /// Bytes of a read.
    pub size: usize,
    /// Reads at the same time.
    pub depth: usize,
    /// Bytes per second.
    pub rate: f64,
    /// Mean time of a read.
    pub latency: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// A line for each method, size and depth.
    pub speeds: Vec<Speed>,
    /// Whether the reads went past the page cache.
    pub uncached: bool,
    /// Why a method could not be used.
    pub refused: Vec<String>,
}

/// Reads `file` for `time` by each method, of each size and at each depth.
///
/// # Errors
/// The file cannot be read, or is smaller than a read.
pub fn measure(file: &Path, sizes: &[usize], depths: &[usize], time: Duration) -> Result<Measured, String> {
    let wrong = |e: std::io::Error| format!("{}: {e}", file.display());
    let (open, uncached) = match open_uncached(file).and_then(|f| window(&f, 0, 1, |_| ()).map(|()| f)) {
        Ok(open) => (open, true),
        Err(_) => (File::open(file).map_err(wrong)?, false),
    };
    let bytes = open.metadata().map_err(wrong)?.len();
    let mut measured = Measured { uncached, ..Measured::default() };
    for size in sizes {
        if *size == 0 || *size as u64 > bytes {
            return Err(format!("{}: {bytes} bytes, reads of {size} do not fit", file.display()));
        }
        for depth in depths.iter().map(|depth| (*depth).max(1)) {
            for wish in [Wish::Threads, Wish::Uring] {
                let files = vec![open.try_clone().map_err(wrong)?];
                let disk = match Disk::start(files, wish, depth, depth.saturating_mul(room(*size))) {
                    Ok(disk) => disk,
                    Err(e) => {
                        measured.refused.push(e.to_string());
                        continue;
                    }
                };
                measured.refused.extend(disk.refused().map(str::to_owned));
                measured.speeds.push(one(&disk, bytes, *size, depth, time).map_err(wrong)?);
            }
        }
    }
    measured.refused.sort();
    measured.refused.dedup();
    Ok(measured)
}

fn one(disk: &Disk, bytes: u64, size: usize, depth: usize, time: Duration) -> std::io::Result<Speed> {
    let (start, mut reads, mut spent) = (Instant::now(), 0u64, Duration::ZERO);
    let (sender, done) = mpsc::channel();
    let mut place = 1u64;
    let mut ask = || {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (offset, begin, sender) = ((place >> 16) % (bytes - size as u64 + 1), Instant::now(), sender.clone());
        let finish = move |result: std::io::Result<_>| drop(sender.send((begin, Instant::now(), result.map(drop))));
        disk.read(Request { file: 0, start: offset, bytes: size }, Box::new(finish));
    };
    (0..depth).for_each(|_| ask());
    for _ in 0.. {
        let Ok((begin, end, result)) = done.recv() else { break };
        result?;
        reads += 1;
        spent += end - begin;
        if start.elapsed() >= time {
            break;
        }
        ask();
    }
    let rate = (reads * size as u64) as f64 / start.elapsed().as_secs_f64();
    let latency = spent / u32::try_from(reads.max(1)).unwrap_or(u32::MAX);
    Ok(Speed { method: disk.method().name(), size, depth, rate, latency })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_file_and_refuses_one_that_is_too_small() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        std::fs::write(file.path(), vec![7; 100_000]).expect("it can be written");
        let time = Duration::from_millis(5);
        let Measured { speeds, refused, .. } = measure(file.path(), &[1, 65_536], &[1, 3], time).expect("it is read");
        let of =
            |method: &str| speeds.iter().filter(|s| s.method == method).map(|s| (s.size, s.depth)).collect::<Vec<_>>();
        let all = vec![(1, 1), (1, 3), (65_536, 1), (65_536, 3)];
        assert_eq!(of("threads"), all);
        let by_ring = [of("io_uring"), of("io_uring, registered buffers")].concat();
        assert!(by_ring == all || !refused.is_empty(), "{by_ring:?}, {refused:?}");
        assert!(speeds.iter().all(|s| s.rate > 0.0 && s.latency > Duration::ZERO));
        assert!(measure(file.path(), &[100_001], &[1], time).expect_err("too small").contains("do not fit"));
    }
}
