//! Commands of the real-time clock.

use super::Context;
use crate::Owner;
use crate::error::Fail;

pub(crate) fn rtc_reset_reinjection<O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
) -> Result<(), Fail<'static>> {
    context.owner.reset_rtc_reinjection();
    Ok(())
}
