//! Guest memory into files.

use super::Context;
use super::machine::cpu_index;
use crate::error::Fail;
use crate::schema::arguments;
use crate::{JobId, Owner, Space};

pub(crate) fn memsave<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::Memsave<'m>,
) -> Result<JobId, Fail<'m>> {
    let cpu = match (arguments.cpu_index, arguments.cpu) {
        (Some(index), Some(old)) if index != old => {
            return Err(Fail::generic(&[
                b"Parameters 'cpu-index' and 'cpu' name different CPUs",
            ]));
        }
        (Some(index), _) => cpu_index(context.owner, "cpu-index", index)?,
        (None, Some(index)) => cpu_index(context.owner, "cpu", index)?,
        (None, None) => cpu_index(context.owner, "cpu-index", context.session.cpu.into())?,
    };
    save(
        context,
        Space::Linear { cpu },
        arguments.val,
        arguments.size,
        arguments.filename,
    )
}

pub(crate) fn pmemsave<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    arguments: arguments::Pmemsave<'m>,
) -> Result<JobId, Fail<'m>> {
    save(
        context,
        Space::Physical,
        arguments.val,
        arguments.size,
        arguments.filename,
    )
}

fn save<'m, O: Owner + ?Sized>(
    context: &mut Context<'_, O>,
    space: Space,
    address: i64,
    size: i64,
    filename: &'m [u8],
) -> Result<JobId, Fail<'m>> {
    let size = u64::try_from(size)
        .map_err(|_| Fail::generic(&[b"Parameter 'size' expects a size that is not negative"]))?;
    // Addresses from 2^63 up are written as negative numbers.
    let address = address as u64;
    Ok(context.owner.save_memory(space, address, size, filename)?)
}
