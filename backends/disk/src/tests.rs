//! Every way of reading against the file's own bytes, and against files that end early.

use std::io::Write;
use std::sync::mpsc;

use super::*;

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 31 % 251) as u8 ^ (i / 4096) as u8).collect()
}

/// A file on a disk, past the page cache if its file system can.
fn file(content: &[u8]) -> (tempfile::NamedTempFile, File) {
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
    file.write_all(content).expect("it can be written");
    let open = open_uncached(file.path()).unwrap_or_else(|_| File::open(file.path()).expect("it can be opened"));
    (file, open)
}

/// A disk for each way of reading that this system has; threads are always there.
fn disks(file: &File, depth: usize, bytes: usize) -> Vec<Disk> {
    let start = |wish, register| {
        let files = vec![file.try_clone().expect("a descriptor")];
        Disk::start_with(files, wish, depth, bytes, register)
    };
    let mut disks = vec![start(Wish::Threads, true).expect("threads")];
    for register in [true, false] {
        match start(Wish::Uring, register) {
            Ok(disk) => disks.push(disk),
            Err(e) => assert!(matches!(e, DiskError::Uring(_)), "{e}"),
        }
    }
    if let [_, _, plain] = disks.as_slice() {
        assert_eq!(plain.method(), Method::Uring { registered: false });
        assert!(plain.refused().is_some_and(|reason| reason.contains("does not keep")), "it says what is not the best");
    }
    disks
}

/// What io_uring refuses is said.
#[test]
fn what_io_uring_refuses_is_said() {
    let content = content(BLOCK);
    let (_file, open) = file(&content);
    // More places than the kernel gives.
    let start = |wish| Disk::start_with(vec![open.try_clone().expect("a descriptor")], wish, 1 << 16, BLOCK, true);
    let refused = start(Wish::Uring).map(|disk| disk.method()).expect_err("so many places").to_string();
    assert!(refused.contains("io_uring cannot be used"), "{refused}");
}

fn read(disk: &Disk, start: u64, bytes: usize) -> io::Result<Lease> {
    let (sender, done) = mpsc::channel();
    let request = Request { file: 0, start, bytes };
    disk.read(request, Box::new(move |result| drop(sender.send(result))));
    done.recv().expect("every read has an end")
}

#[test]
fn any_range_is_read_and_none_behind_the_end() {
    let content = content(3 * BLOCK + 77);
    let (_file, open) = file(&content);
    for disk in disks(&open, 3, 8 * BLOCK) {
        for (offset, bytes) in [(0, 1), (0, BLOCK), (5, 2 * BLOCK), (BLOCK - 1, 2), (3 * BLOCK, 77), (0, content.len())]
        {
            let got = read(&disk, offset as u64, bytes).expect("it can be read");
            assert!(got[..] == content[offset..offset + bytes], "{bytes} bytes at {offset} by {:?}", disk.method());
            let mut at_once = vec![];
            window(&open, offset as u64, bytes, |read| at_once.extend_from_slice(read)).expect("it can be read");
            assert!(at_once == got[..], "{bytes} bytes at {offset}");
        }
        for (offset, bytes) in [(3 * BLOCK, 78), (4 * BLOCK, 1), (1 << 40, 1)] {
            let error = read(&disk, offset as u64, bytes).expect_err("it lies behind the end");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{bytes} at {offset} by {:?}", disk.method());
            assert!(window(&open, offset as u64, bytes, |_| ()).is_err());
        }
        for (file, bytes) in [(1, 1), (0, 0), (0, 8 * BLOCK + 1), (0, usize::MAX)] {
            let (sender, done) = mpsc::channel();
            disk.read(Request { file, start: 0, bytes }, Box::new(move |result| drop(sender.send(result))));
            let error = done.recv().expect("an end").expect_err("no such read");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}

/// More reads than there is memory for, of all sizes, kept for a while: each gets its own bytes, and none is lost.
#[test]
fn reads_wait_for_room() {
    let content = content(200 * BLOCK + 9);
    let (_file, open) = file(&content);
    for depth in [1, 4, 16] {
        for disk in disks(&open, depth, 40 * BLOCK) {
            let (sender, done) = mpsc::channel();
            let ranges: Vec<(usize, usize)> =
                (0..600).map(|i| (i * 7919 % (190 * BLOCK), 1 + i * 4001 % (9 * BLOCK))).collect();
            for (i, (start, bytes)) in ranges.iter().enumerate() {
                let sender = sender.clone();
                let request = Request { file: 0, start: *start as u64, bytes: *bytes };
                disk.read(request, Box::new(move |result| drop(sender.send((i, result)))));
            }
            let mut kept: Option<Lease> = None;
            for _ in 0..ranges.len() {
                let (i, result) = done.recv().expect("every read has an end");
                let (start, bytes) = ranges[i];
                let got = result.expect("it can be read");
                assert!(got[..] == content[start..start + bytes], "{bytes} at {start} by {:?}", disk.method());
                // What is kept leaves room for the largest read, wherever it lies.
                drop(kept.take());
                kept = (i % 3 == 0 && got.len() <= 2 * BLOCK).then_some(got);
            }
        }
    }
}

#[test]
fn what_fails_is_said_and_what_panics_ends_nothing() {
    let content = content(BLOCK);
    let (_file, open) = file(&content);
    let folder = File::open(env!("CARGO_MANIFEST_DIR"));
    for disk in disks(&open, 2, 4 * BLOCK) {
        let (sender, done) = mpsc::channel::<()>();
        let request = Request { file: 0, start: 0, bytes: 1 };
        disk.read(
            request,
            Box::new(move |_| {
                let _sender = sender;
                panic!("a caller's own fault");
            }),
        );
        assert!(done.recv().is_err(), "it was called");
        assert!(read(&disk, 0, BLOCK).is_ok_and(|got| got[..] == content), "by {:?}", disk.method());
    }
    #[cfg(unix)]
    for disk in disks(&folder.expect("a directory opens"), 2, 4 * BLOCK) {
        let error = read(&disk, 0, 1).expect_err("a directory has no bytes");
        assert_ne!(error.kind(), io::ErrorKind::UnexpectedEof, "by {:?}: {error}", disk.method());
    }
}

/// A disk that is dropped has ended what it began; what it lent is good for as long as it is held.
#[test]
fn an_end_in_the_midst() {
    let content = content(64 * BLOCK);
    let (_file, open) = file(&content);
    for _ in 0..50 {
        for disk in disks(&open, 4, 40 * BLOCK) {
            let (sender, done) = mpsc::channel();
            for i in 0..30u64 {
                let sender = sender.clone();
                let request = Request { file: 0, start: i * BLOCK as u64 * 2, bytes: 2 * BLOCK };
                disk.read(request, Box::new(move |result| drop(sender.send((i, result)))));
            }
            drop((sender, disk));
            for (i, result) in done {
                let at = i as usize * 2 * BLOCK;
                assert!(result.expect("it can be read")[..] == content[at..at + 2 * BLOCK]);
            }
        }
    }
}
