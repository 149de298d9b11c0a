//! The store with a disk that reads when it is told to: what is read first, and what becomes of guesses.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use swiftlm_device::null::NullDevice;
use swiftlm_device::{BufferId, Order, Slice, Target};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_ir::quant::Format;

use super::*;

const EXPERTS: usize = 16;
const SLOTS: usize = 4;
/// Expert `e` of a layer is this many bytes from byte `e · BYTES` on.
const BYTES: usize = 128;

/// What was asked for and not read yet.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<VecDeque<(Extent, Done)>>>);

impl Disk {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<(Extent, Done)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Layers and experts that are on their way, in the order in which they were asked for.
    fn asked(&self) -> Vec<(usize, usize)> {
        self.queue().iter().map(|(extent, _)| (extent.file, extent.start as usize / BYTES)).collect()
    }

    /// Reads, or fails to read, what was asked for first.
    fn finish(&self, sound: bool) {
        let (extent, done) = self.queue().pop_front().expect("something was asked for");
        let bytes: Read = Box::new(vec![extent.start as u8; extent.bytes]);
        done(if sound { Ok(bytes) } else { Err("the disk is broken".to_owned()) });
    }
}

impl ExpertSource for Disk {
    fn locate(&self, parts: &[Part<'_>], expert: usize) -> Result<Located, String> {
        let file = parts[0].weight.names[0].parse().expect("a layer's number");
        let places = vec![Place { from: 0, to: 0, bytes: BYTES }];
        let extent = Extent { file, start: (expert * BYTES) as u64, bytes: BYTES };
        let pieces = vec![Piece { extent, places }];
        Ok(Located { pieces, orders: [Order::Rows].into(), checksum: None, restore: None })
    }

    fn start(&self, _bytes: usize) -> Result<Box<dyn Reads>, String> {
        Ok(Box::new(self.clone()))
    }

    fn name(&self, _extent: Extent) -> String {
        "a disk".to_owned()
    }
}

impl Reads for Disk {
    fn read(&self, extent: Extent, done: Done) {
        self.queue().push_back((extent, done));
    }

    fn method(&self) -> &'static str {
        "a test"
    }
}

struct Bench {
    disk: Disk,
    store: Store,
    device: NullDevice,
}

impl Bench {
    /// Two layers, the second of which was guessed at rightly until it was believed.
    fn new() -> Self {
        let disk = Disk::default();
        let layer = |i: usize| {
            let ty = WeightType { format: Format::F32, rows: EXPERTS, cols: BYTES / 4 };
            let weight = WeightBuffer { names: vec![i.to_string()], ty };
            let slab = Slice { buffer: BufferId(0), offset: 0, bytes: SLOTS * BYTES };
            Layer::of_experts(vec![Matrix { weight, rows: 1, slab, order: Order::Rows }], EXPERTS, SLOTS)
        };
        let source: Arc<dyn ExpertSource> = Arc::new(disk.clone());
        let store = Store::start(&source, vec![layer(0), layer(1)], true).expect("a test reads");
        let name = "null".to_owned();
        let target = Target { name, max_binding: 1 << 20, subgroup: (1, 1), shared_bytes: 0, memory: None };
        let mut bench = Self { disk, store, device: NullDevice::new(target) };
        for round in 0..24 {
            let experts = [4 + 2 * (round % 6), 5 + 2 * (round % 6)];
            bench.step(&experts, &experts).expect("the disk is sound");
        }
        bench
    }

    /// A choice in layer 1 after a guess.
    fn step(&mut self, guessed: &[u32], chosen: &[u32]) -> Result<(), String> {
        self.store.begin(0, &[0]);
        self.store.guess(1, guessed, guessed.len());
        self.store.begin(1, chosen);
        self.arrive(1)
    }

    fn arrive(&mut self, layer: usize) -> Result<(), String> {
        while !self.disk.asked().is_empty() {
            self.disk.finish(true);
        }
        while !self.store.arrivals(layer, 1, &mut self.device).map_err(|e| e.to_string())?.is_empty() {}
        Ok(())
    }

    fn ahead(&self) -> AheadStats {
        self.store.stats().ahead.expect("it guesses")
    }
}

#[test]
fn what_is_needed_goes_before_what_may_be() {
    let mut b = Bench::new();
    b.store.begin(0, &[8, 9, 10, 11]);
    b.store.guess(1, &[4, 5], 2);
    assert_eq!(b.disk.asked(), [(0, 8), (0, 9), (0, 10), (0, 11)], "guesses wait");
    for left in [3, 2] {
        b.disk.finish(true);
        b.store.arrivals(0, 1, &mut b.device).expect("it came");
        assert_eq!(b.disk.asked().iter().filter(|(layer, _)| *layer == 0).count(), left);
    }
    assert_eq!(b.disk.asked(), [(0, 10), (0, 11), (1, 4)], "little is on its way");
    let before = b.store.stats().misses;
    b.store.begin(1, &[5, 7]);
    assert_eq!(b.store.stats().misses, before + 2);
    assert_eq!(b.disk.asked()[3..], [(1, 5), (1, 7)], "a guess that was not begun with is needed now, or is not");
    b.arrive(1).expect("the disk is sound");
    assert!([5, 7].iter().all(|expert| b.store.slot(1, *expert).is_some()));
    assert_eq!(b.store.slot(1, 4), None, "nothing but a choice fills a slot");
}

#[test]
fn guesses_are_counted_by_what_became_of_them() {
    let mut b = Bench::new();
    let [before, bytes] = [b.ahead().useful, b.store.stats().bytes];
    b.store.begin(0, &[0]);
    b.store.guess(1, &[4, 5], 2);
    assert_eq!(b.disk.asked(), [(1, 4), (1, 5)]);
    b.disk.finish(true);
    b.store.begin(1, &[4, 5]);
    assert_eq!(b.disk.asked(), [(1, 5)], "neither is read again");
    assert_eq!(b.store.early(1, &[], &mut b.device).expect("it is here"), [4]);
    b.disk.finish(true);
    assert_eq!(b.store.arrivals(1, 1, &mut b.device).expect("it comes"), [5]);
    assert_eq!((b.ahead().useful, b.ahead().wasted), (before + 2, 0));
    // One comes for nothing, and one is on its way for nothing.
    b.store.begin(0, &[0]);
    b.store.guess(1, &[6, 7], 2);
    b.disk.finish(true);
    b.store.begin(1, &[4, 5]);
    assert_eq!(b.ahead().wasted, 2);
    b.arrive(1).expect("nothing is awaited");
    assert_eq!(b.store.stats().bytes, bytes + 3 * BYTES as u64, "the last was not taken yet");
}

#[test]
fn a_guess_that_fails_is_read_again_where_it_is_needed() {
    let mut b = Bench::new();
    b.store.begin(0, &[0]);
    b.store.guess(1, &[4, 5], 2);
    b.disk.finish(false);
    b.disk.finish(false);
    b.store.begin(1, &[4, 9]);
    assert_eq!(b.disk.asked(), [(1, 4), (1, 9)], "5 is not needed: that it failed is nobody's affair");
    b.arrive(1).expect("the disk is sound again");
    // Needed while it is on its way, it fails the step, and the next one is well.
    b.store.begin(0, &[0]);
    b.store.guess(1, &[6, 7], 2);
    b.store.begin(1, &[6]);
    b.disk.finish(false);
    let error = b.store.arrivals(1, 1, &mut b.device).expect_err("an expert is missing");
    assert!(error.to_string().contains("broken"), "{error}");
    b.arrive(1).expect("nothing is awaited");
    b.step(&[6, 7], &[6, 7]).expect("the disk is sound again");
    assert!([6, 7].iter().all(|expert| b.store.slot(1, *expert).is_some()));
}

/// Guesses that are wrong too often are no longer read, but still looked at; once they are right, they are read again.
#[test]
fn wrong_guesses_are_not_read_for_long() {
    let mut b = Bench::new();
    let wrong = |b: &mut Bench, round: u32| b.step(&[10 + round % 2, 12 + round % 2], &[4 + round % 6]);
    for round in 0..100 {
        wrong(&mut b, round).expect("the disk is sound");
    }
    let before = b.ahead();
    assert!(before.wasted > 0 && before.wasted < 30, "{before:?}");
    for round in 0..100 {
        wrong(&mut b, round).expect("the disk is sound");
    }
    assert_eq!(b.ahead(), before);
    // The first choices of a layer are guessed at in any case.
    let wanted = (0..96).filter(|_| b.store.wants_guess(1)).count();
    assert!((10..32).contains(&wanted), "{wanted} of 96");
    for round in 0..200 {
        let experts = [4 + 2 * (round % 6), 5 + 2 * (round % 6)];
        b.step(&experts, &experts).expect("the disk is sound");
    }
    assert!(b.ahead().useful > before.useful && b.ahead().wasted == before.wasted, "{:?}", b.ahead());
}
