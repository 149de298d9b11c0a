//! A source of weights with faults on demand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use swiftlm_ir::plan::WeightBuffer;
use swiftlm_runtime::WeightSource;

use crate::experts::Weights;

/// What is wrong with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails.
    Error,
    /// It gives other bytes.
    Flip,
    /// It takes its time.
    Slow,
}

/// A source of which some reads are faulty, once that is asked for.
pub struct Faulty {
    inner: Weights,
    /// One of so many.
    each: usize,
    reads: AtomicUsize,
    fault: Mutex<Option<Fault>>,
}

impl Faulty {
    /// One of `each` reads of `inner` will be faulty.
    pub fn new(inner: Weights, each: usize) -> Arc<Self> {
        Arc::new(Self { inner, each, reads: AtomicUsize::new(0), fault: Mutex::new(None) })
    }

    /// Reads have this fault from now on, or none.
    pub fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl WeightSource for Faulty {
    fn read(&self, weight: &WeightBuffer, offset: usize, into: &mut [u8]) -> Result<(), String> {
        self.inner.read(weight, offset, into)?;
        let strikes = self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.each);
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match fault.filter(|_| strikes) {
            Some(Fault::Error) => return Err(format!("weights.bin: byte {offset} cannot be read: the file ends here")),
            Some(Fault::Flip) => into[0] ^= 4,
            Some(Fault::Slow) => std::thread::sleep(Duration::from_millis(3)),
            None => {}
        }
        Ok(())
    }

    fn place(&self, weight: &WeightBuffer, offset: usize) -> String {
        self.inner.place(weight, offset)
    }
}
