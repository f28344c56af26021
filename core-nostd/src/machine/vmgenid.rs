//! The generation of the guest, where the board has the device for it.

use super::{DeviceError, Host, Machine};
use crate::devices::Context;
use crate::devices::class::PropertyValues;
use crate::devices::vmgenid::{ADDRESS, ADDRESS_FILE, CLASS, EVENT, GUID, GenerationId};

impl Machine<'_> {
    pub(super) fn plug_vmgenid(&mut self, values: &PropertyValues) -> Result<(), DeviceError> {
        if self.generation.is_some() {
            return Err(DeviceError::OnlyOne(CLASS.name));
        }
        // Who builds the machine has replaced what was left open: chance is nothing that the core has.
        let id = values.text(GUID).and_then(GenerationId::parse);
        self.generation = Some(id.ok_or(DeviceError::Property(GUID))?);
        Ok(())
    }

    /// The guest's generation; `None` without the device.
    pub fn generation(&self) -> Option<GenerationId> {
        self.generation
    }

    /// Where the guest has its number, if it has said so.
    fn generation_address(&self) -> Option<u64> {
        let bytes: [u8; ADDRESS] = self.fw_cfg.written(ADDRESS_FILE)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes)).filter(|address| *address != 0)
    }

    /// Tells a guest that goes on from saved state of its generation.
    pub(super) fn announce_generation<H: Host>(&mut self, host: &mut H, now: u64) {
        let Some((id, address)) = self.generation.zip(self.generation_address()) else {
            return;
        };
        // An address without memory is the guest's own fault.
        if self.ram.write(address, &id.in_memory()).is_ok() && self.can_sleep() {
            self.acpi_pm.raise_event(context!(self, now), EVENT);
            self.drain(host, now, None);
        }
    }
}
