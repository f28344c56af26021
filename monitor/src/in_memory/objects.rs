//! Objects of an owner without a process: the settings of a few threads that nobody runs.

use thimble_core::machine::Host;
use thimble_core::qom::{QomValue, UserObject};

use super::block::neither;
use crate::owner::objects::{
    Changeable, IOTHREAD_PROPERTIES, NewValue, Objects, duplicate, identifier, iothread_number,
    iothread_parameters, missing,
};
use crate::schema::arguments::{ObjectOptions, ObjectOptionsVariant};
use crate::schema::results::{IOThreadInfo, Memdev};
use crate::{InMemory, QmpError};

/// Objects at most.
const OBJECTS_MAX: usize = 4;

/// Bytes of an id at most.
const ID_MAX: usize = 32;

/// A thread that nobody runs.
#[derive(Clone, Debug)]
struct Thread {
    id: heapless::String<ID_MAX>,
    /// In the order of [`IOTHREAD_PROPERTIES`].
    values: [i64; IOTHREAD_PROPERTIES.len()],
}

/// The objects, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub(super) struct Threads(heapless::Vec<Thread, OBJECTS_MAX>);

impl Threads {
    pub(super) fn visit(&self, visit: &mut dyn FnMut(UserObject<'_>)) {
        for thread in &self.0 {
            visit(UserObject {
                id: &thread.id,
                type_name: "iothread",
            });
        }
    }

    pub(super) fn value(
        &self,
        position: usize,
        property: &str,
        take: &mut dyn FnMut(QomValue<'_>),
    ) {
        let at = IOTHREAD_PROPERTIES
            .iter()
            .position(|(name, _)| *name == property);
        let value = self.0.get(position).zip(at);
        if let Some(value) = value.and_then(|(thread, at)| thread.values.get(at)) {
            take(QomValue::Int(*value));
        }
    }
}

fn no_room(what: &str) -> QmpError {
    QmpError::generic(format_args!(
        "{what}: only a process has room for another parser"
    ))
}

impl<H: Host> Objects for InMemory<'_, H> {
    fn object_add(&mut self, options: &ObjectOptions<'_>) -> Result<(), QmpError> {
        let id = identifier(options.id)?;
        let ObjectOptionsVariant::Iothread(given) = &options.variant else {
            return Err(QmpError::generic(format_args!(
                "object '{id}': only a process has memory and files"
            )));
        };
        let values = iothread_parameters(given)?;
        let threads = &mut self.objects.0;
        if threads.iter().any(|thread| thread.id == id) {
            return Err(duplicate(id));
        }
        let full = || {
            QmpError::generic(format_args!(
                "there can be {OBJECTS_MAX} objects at most, with ids of {ID_MAX} bytes"
            ))
        };
        let id = heapless::String::try_from(id).map_err(|_| full())?;
        threads.push(Thread { id, values }).map_err(|_| full())
    }

    fn object_add_text(&mut self, _text: &[u8]) -> Result<(), QmpError> {
        Err(no_room("object_add"))
    }

    fn object_del(&mut self, id: &[u8]) -> Result<(), QmpError> {
        let threads = &mut self.objects.0;
        let found = threads.iter().position(|thread| thread.id.as_bytes() == id);
        threads.remove(found.ok_or_else(|| missing(id))?);
        Ok(())
    }

    fn object_set(
        &mut self,
        whose: Changeable,
        property: &str,
        value: NewValue<'_>,
    ) -> Result<(), QmpError> {
        let position = match whose {
            Changeable::Object(position) => position,
            Changeable::Drive(_) => return Err(neither(&[], value.text(property)?)),
        };
        let value = iothread_number(property, value.integer(property)?)?;
        let at = IOTHREAD_PROPERTIES
            .iter()
            .position(|(name, _)| *name == property);
        let thread = self.objects.0.get_mut(position);
        let to = thread
            .zip(at)
            .and_then(|(thread, at)| thread.values.get_mut(at));
        if let Some(to) = to {
            *to = value;
        }
        Ok(())
    }

    fn object_set_json(
        &mut self,
        _whose: Changeable,
        property: &str,
        _json: &[u8],
    ) -> Result<(), QmpError> {
        Err(no_room(property))
    }

    fn visit_iothreads(&self, visit: &mut dyn FnMut(&IOThreadInfo<'_>)) {
        for Thread { id, values } in &self.objects.0 {
            let [poll_max_ns, poll_grow, poll_shrink, aio_max_batch] = *values;
            visit(&IOThreadInfo {
                id,
                thread_id: 0,
                poll_max_ns,
                poll_grow,
                poll_shrink,
                aio_max_batch,
            });
        }
    }

    // There is none.
    fn visit_memdevs(&self, _visit: &mut dyn FnMut(&Memdev<'_>)) {}
}
