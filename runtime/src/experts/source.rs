//! What experts are read from, as whoever reads must offer it. Which files there are, and how a system reads many places at
//! a time, is known behind it.

use std::sync::Arc;

use swiftlm_device::Order;
use swiftlm_ir::plan::WeightBuffer;

/// Bytes that follow one another in a file of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The source's own number of the file.
    pub file: usize,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub bytes: usize,
}

/// Where some bytes of an extent belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte in the extent.
    pub from: usize,
    /// First byte in the record.
    pub to: usize,
    /// Bytes.
    pub bytes: usize,
}

/// One read, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What is read.
    pub extent: Extent,
    /// Where it goes.
    pub places: Vec<Place>,
}

/// Rows of every expert of a layer in one of its weights.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// All experts.
    pub weight: &'a WeightBuffer,
    /// Rows of one.
    pub rows: usize,
    /// The order that the device keeps them in.
    pub order: Order,
}

impl Part<'_> {
    /// Bytes of one expert as a matrix of its own.
    pub fn bytes(&self) -> usize {
        let ty = self.weight.ty;
        ty.format.layout(self.rows, ty.cols).bytes
    }
}

/// Brings a record into the order of rows.
pub type Restore = Arc<dyn Fn(&mut [u8]) -> Result<(), String> + Send + Sync>;

/// An expert's *record*: its rows of each part, one after another as matrices of their own.
#[derive(Clone)]
pub struct Located {
    /// What must be read for it, in the order of files.
    pub pieces: Vec<Piece>,
    /// The order in which each part comes, after [`Self::restore`]: that of rows, or the part's own.
    pub orders: Arc<[Order]>,
    /// CRC-32 (IEEE 802.3) of the record as it is read, where the source knows it.
    pub checksum: Option<u32>,
    /// What must be done to a record that was read, if anything.
    pub restore: Option<Restore>,
}

impl std::fmt::Debug for Located {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Located").field("pieces", &self.pieces).field("orders", &self.orders).finish_non_exhaustive()
    }
}

impl Located {
    /// Whether a record of `bytes` bytes is read at once and used as it is.
    pub(super) fn whole(&self, bytes: usize) -> bool {
        let [piece] = self.pieces.as_slice() else { return false };
        self.restore.is_none() && piece.places == [Place { from: 0, to: 0, bytes }]
    }
}

/// Bytes that were read.
pub type Read = Box<dyn AsRef<[u8]> + Send>;

/// What becomes of a read: called on any thread, with the bytes or a sentence that names the place.
pub type Done = Box<dyn FnOnce(Result<Read, String>) + Send>;

/// Where experts are read from.
pub trait ExpertSource: Send + Sync {
    /// Where an expert lies.
    ///
    /// # Errors
    /// A sentence: it does not lie there as such parts.
    fn locate(&self, parts: &[Part<'_>], expert: usize) -> Result<Located, String>;

    /// Starts what reads. What is read and not yet dropped takes `bytes` bytes at most, each extent
    /// [`extent_bytes`] of them.
    ///
    /// # Errors
    /// A sentence: the system has no memory, no threads, or not what was asked for.
    fn start(&self, bytes: usize) -> Result<Box<dyn Reads>, String>;

    /// Names a place, for people.
    fn name(&self, extent: Extent) -> String;
}

/// Many reads at the same time.
pub trait Reads: Send {
    /// Asks for a read.
    fn read(&self, extent: Extent, done: Done);

    /// How it reads, for people.
    fn method(&self) -> &'static str;
}

/// What an extent may take in the memory of [`ExpertSource::start`]: whole blocks of 4 KiB, wherever it begins.
pub fn extent_bytes(bytes: usize) -> usize {
    bytes.div_ceil(4096).saturating_add(1).saturating_mul(4096)
}
