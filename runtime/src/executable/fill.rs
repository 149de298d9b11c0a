//! Made-up histories: measuring at depth without the prefill that leads there.

use swiftlm_device::DeviceError;

use super::Executable;
use super::recurrent::Held;

/// Bytes written at a time.
const PART: usize = 1 << 20;

impl Executable {
    /// Fills every page and unit with numbers that differ, and are small and finite in each format. To be called before the first
    /// token of any sequence.
    ///
    /// # Errors
    /// The device failed.
    pub fn fill_states(&mut self) -> Result<(), DeviceError> {
        let mut seed = 1u64;
        let mut word = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Two binary16 of either sign, 1/16 to 1/8; as scale and bias of a group they are as harmless.
            ((seed >> 32) as u32 & 0x83ff_83ff) | 0x2c00_2c00
        };
        let part: Vec<u8> = (0..PART / 4).flat_map(|_| word().to_le_bytes()).collect();
        for slice in self.bindings.states() {
            for at in (0..slice.bytes).step_by(PART) {
                let bytes = PART.min(slice.bytes - at);
                self.device.write(slice.buffer, slice.offset + at, &part[..bytes])?;
            }
        }
        for held in self.recurrences.iter_mut().flat_map(|r| &mut r.held) {
            *held = Held::Anything;
        }
        self.next.as_mut().map_or(Ok(()), |next| next.executable.fill_states())
    }
}
