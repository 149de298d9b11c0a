//! Buffers and the bytes that go in and out of them. Neither direction keeps a second copy of what it moves.

use swiftlm_device::{BufferId, DeviceError, Slice, Usage};
use wgpu::{BufferDescriptor, BufferUsages, MapMode};

use crate::GpuDevice;
use crate::health::scoped;

/// Bytes written before waiting for the device to take them: bounds the driver's copy while weights are uploaded.
const WRITE_PIECE: usize = 16 << 20;

/// Bytes read at once: bounds the staging buffer.
const READ_PIECE: usize = 16 << 20;

impl GpuDevice {
    /// The buffer behind an id.
    pub(crate) fn buffer(&self, id: BufferId) -> Result<&wgpu::Buffer, DeviceError> {
        let found = self.buffers.get(id.0 as usize);
        found.ok_or_else(|| self.gpu.health.lost(format!("buffer {} was never allocated", id.0)))
    }

    /// A zeroed buffer.
    pub(crate) fn allocate(&mut self, bytes: usize, usage: Usage, what: &str) -> Result<BufferId, DeviceError> {
        let refused = |reason: String| DeviceError::OutOfMemory {
            device: self.gpu.health.name().to_owned(),
            bytes,
            what: what.to_owned(),
            reason,
        };
        let largest = self.limits.max_buffer_size;
        if bytes as u64 > largest {
            return Err(refused(format!("its largest buffer is {largest} bytes")));
        }
        // Every buffer can be read back, which tests and dumps rely on.
        let usage = match usage {
            Usage::Weights | Usage::ReadWrite | Usage::Input => {
                BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC
            }
        };
        let size = (bytes.max(4) as u64).next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT);
        let descriptor = BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        let buffer =
            scoped(&self.gpu.device, || self.gpu.device.create_buffer(&descriptor)).map_err(|e| refused(words(&e)))?;
        self.buffers.push(buffer);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    /// Writes bytes, in pieces.
    pub(crate) fn upload(&mut self, id: BufferId, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        for (i, piece) in bytes.chunks(WRITE_PIECE).enumerate() {
            let at = (offset + i * WRITE_PIECE) as u64;
            self.gpu.queue.write_buffer(self.buffer(id)?, at, piece);
            self.unsubmitted += piece.len();
            if self.unsubmitted >= WRITE_PIECE {
                self.gpu.queue.submit([]);
                self.unsubmitted = 0;
                self.gpu.health.wait(&self.gpu.device)?;
            }
        }
        self.gpu.health.check()
    }

    /// Copies between ranges of buffers, which may be one and the same: hence through a buffer in between.
    pub(crate) fn copy_through(&mut self, from: Slice, to: Slice) -> Result<(), DeviceError> {
        let bytes = to.bytes as u64;
        let (source, target) = (self.buffer(from.buffer)?.clone(), self.buffer(to.buffer)?.clone());
        let inside = |buffer: &wgpu::Buffer, offset: usize| {
            (offset as u64).checked_add(bytes).is_some_and(|end| end <= buffer.size())
        };
        if from.bytes < to.bytes || !inside(&source, from.offset) || !inside(&target, to.offset) {
            return Err(self.gpu.health.lost(format!("copy of {bytes} bytes out of range")));
        }
        let between = self.allocate(to.bytes, Usage::ReadWrite, "copying a state")?;
        let between =
            self.buffers.pop().ok_or_else(|| self.gpu.health.lost(format!("buffer {} is gone", between.0)))?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&source, from.offset as u64, &between, 0, bytes);
        encoder.copy_buffer_to_buffer(&between, 0, &target, to.offset as u64, bytes);
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.health.check()
    }

    /// Reads bytes after everything submitted, in pieces through one staging buffer.
    pub(crate) fn download(&mut self, slice: Slice, into: &mut [u8]) -> Result<(), DeviceError> {
        if into.len() > slice.bytes {
            let reason = format!("read of {} bytes from a slice of {}", into.len(), slice.bytes);
            return Err(self.gpu.health.lost(reason));
        }
        let buffer = self.buffer(slice.buffer)?.clone();
        self.read_buffer(&buffer, slice.offset, into)
    }

    /// Reads from any buffer that can be copied from.
    pub(crate) fn read_buffer(
        &mut self,
        from: &wgpu::Buffer,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), DeviceError> {
        self.grow_staging(into.len().min(READ_PIECE))?;
        for (i, piece) in into.chunks_mut(READ_PIECE).enumerate() {
            self.read_piece(from, (offset + i * READ_PIECE) as u64, piece)?;
        }
        Ok(())
    }

    fn read_piece(&self, from: &wgpu::Buffer, offset: u64, into: &mut [u8]) -> Result<(), DeviceError> {
        let (health, device) = (&self.gpu.health, &self.gpu.device);
        let Some(staging) = &self.staging else { return Ok(()) };
        let bytes = into.len() as u64;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from, offset, staging, 0, bytes);
        self.gpu.queue.submit([encoder.finish()]);
        health.check()?;
        let (sender, receiver) = std::sync::mpsc::channel();
        // The receiver outlives the poll below; a send after that has no one to tell.
        staging.map_async(MapMode::Read, 0..bytes, move |mapped| drop(sender.send(mapped)));
        health.wait(device)?;
        receiver.recv().map_err(|e| health.lost(e))?.map_err(|e| health.lost(e))?;
        let mapped = staging.get_mapped_range(0..bytes).map_err(|e| health.lost(e))?;
        into.copy_from_slice(&mapped);
        drop(mapped);
        staging.unmap();
        Ok(())
    }

    fn grow_staging(&mut self, bytes: usize) -> Result<(), DeviceError> {
        if self.staging.as_ref().is_some_and(|s| s.size() >= bytes as u64) || bytes == 0 {
            return Ok(());
        }
        let descriptor = BufferDescriptor {
            label: Some("reading"),
            size: bytes.next_power_of_two() as u64,
            usage: BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let made = scoped(&self.gpu.device, || self.gpu.device.create_buffer(&descriptor));
        let device = self.gpu.health.name().to_owned();
        self.staging = Some(made.map_err(|e| DeviceError::OutOfMemory {
            device,
            bytes,
            what: "reading results".to_owned(),
            reason: words(&e),
        })?);
        Ok(())
    }
}

/// An error of wgpu with its causes.
pub(crate) fn words(error: &wgpu::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
