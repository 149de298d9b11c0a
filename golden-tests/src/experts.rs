//! Experts from any source of weights: where a test has no files, or wants its own faults.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use swiftlm_device::Order;
use swiftlm_ir::plan::WeightBuffer;
use swiftlm_runtime::WeightSource;
use swiftlm_runtime::experts::{Done, ExpertSource, Extent, Located, Part, Piece, Place, Reads};

/// Where weights come from, by any thread.
pub type Weights = Arc<dyn WeightSource + Send + Sync>;

/// Reads experts of a source of weights. Its "files" are the weights that it was asked for, whole.
pub struct FromWeights {
    source: Weights,
    seen: Arc<Mutex<Vec<WeightBuffer>>>,
}

impl FromWeights {
    /// Of this source.
    pub fn shared(source: Weights) -> Arc<dyn ExpertSource> {
        Arc::new(Self { source, seen: Arc::default() })
    }
}

impl ExpertSource for FromWeights {
    fn locate(&self, parts: &[Part<'_>], expert: usize) -> Result<Located, String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut pieces, mut record) = (vec![], 0);
        for part in parts {
            let file = seen.iter().position(|weight| weight == part.weight).unwrap_or_else(|| {
                seen.push(part.weight.clone());
                seen.len() - 1
            });
            let ty = part.weight.ty;
            let (whole, own) = (ty.format.layout(ty.rows, ty.cols), ty.format.layout(part.rows, ty.cols));
            for (from, to) in whole.components.iter().zip(&own.components) {
                let start = (from.offset + expert * part.rows * from.row_bytes) as u64;
                let place = Place { from: 0, to: record + to.offset, bytes: to.bytes };
                pieces.push(Piece { extent: Extent { file, start, bytes: to.bytes }, places: vec![place] });
            }
            record += own.bytes;
        }
        let orders = parts.iter().map(|_| Order::Rows).collect();
        Ok(Located { pieces, orders, checksum: None, restore: None })
    }

    fn start(&self, _bytes: usize) -> Result<Box<dyn Reads>, String> {
        let (jobs, waiting) = mpsc::channel::<(Extent, Done)>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..2 {
            let (source, seen, waiting) = (Arc::clone(&self.source), Arc::clone(&self.seen), Arc::clone(&waiting));
            std::thread::spawn(move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((Extent { file, start, bytes }, done)) = next else { return };
                    let weight = seen.lock().unwrap_or_else(PoisonError::into_inner)[file].clone();
                    let mut into = vec![0; bytes];
                    let result = source.read(&weight, start as usize, &mut into);
                    done(result.map(|()| Box::new(into) as swiftlm_runtime::experts::Read));
                }
            });
        }
        Ok(Box::new(Queue(jobs)))
    }

    fn name(&self, extent: Extent) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(extent.file).map_or(String::new(), |weight| self.source.place(weight, extent.start as usize))
    }
}

struct Queue(mpsc::Sender<(Extent, Done)>);

impl Reads for Queue {
    fn read(&self, extent: Extent, done: Done) {
        // Threads end with the queue only.
        let _ = self.0.send((extent, done));
    }

    fn method(&self) -> &'static str {
        "a test"
    }
}
