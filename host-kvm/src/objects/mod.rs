//! Objects that users make, by `-object` and `object-add`: threads for input and output, memory backends, secrets.
//!
//! All that an object is lives here, in the order in which objects were made; the object tree shows it. What an object is used for
//! is told by who shares it: see [`MemoryBackend::is_used`].

pub mod iothread;
pub mod mapping;
pub mod memory;
pub mod secret;

use std::sync::Arc;

use thimble_core::qmp::Parser;
use thimble_core::qom::{QomValue, UserObject};
use thimble_monitor::QmpError;
use thimble_monitor::owner::objects::{
    IOTHREAD_PROPERTIES, NewValue, duplicate, identifier, iothread_number, iothread_parameters,
    missing,
};
use thimble_monitor::schema::arguments::{
    MemoryBackendFileProperties, MemoryBackendProperties, ObjectOptions, ObjectOptionsVariant,
};
use thimble_monitor::schema::read_option;
use thimble_monitor::schema::results::{IOThreadInfo, Memdev};

pub use iothread::{Handler, IoThread, Loan};
pub use mapping::Mapping;
pub use memory::{Defaults, MemoryBackend};
pub use secret::Secret;

/// Objects at most.
pub const OBJECTS_MAX: usize = 1024;

/// An object.
struct Object {
    id: String,
    kind: Kind,
}

enum Kind {
    IoThread(Arc<IoThread>),
    Memory(Box<MemoryBackend>),
    Secret(Box<Secret>),
}

impl Kind {
    fn type_name(&self) -> &'static str {
        match self {
            Self::IoThread(_) => "iothread",
            Self::Memory(memory) => memory.type_name(),
            Self::Secret(_) => "secret",
        }
    }
}

/// The objects of a process.
pub struct Objects {
    list: Vec<Object>,
    /// What guest RAM is made of, before the machine is built for all to see.
    hidden: Option<Object>,
    /// The one that guest RAM is made of.
    ram: Option<String>,
    defaults: Defaults,
}

fn refused(text: String) -> QmpError {
    QmpError::generic(format_args!("{text}"))
}

impl Objects {
    /// No objects yet.
    pub fn new(defaults: Defaults) -> Self {
        Self {
            list: Vec::new(),
            hidden: None,
            ram: None,
            defaults,
        }
    }

    fn find(&self, id: &str) -> Option<&Object> {
        self.list.iter().find(|object| object.id == id)
    }

    /// The type of the object of an id.
    pub fn find_type(&self, id: &str) -> Option<&'static str> {
        self.find(id).map(|object| object.kind.type_name())
    }

    /// Makes an object, as `object-add` does.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn add(&mut self, options: &ObjectOptions<'_>) -> Result<(), QmpError> {
        let id = identifier(options.id)?;
        // Numbers out of range are told before an id that is taken, as with QEMU.
        let parameters = match &options.variant {
            ObjectOptionsVariant::Iothread(given) => iothread_parameters(given)?,
            _ => [0; IOTHREAD_PROPERTIES.len()],
        };
        let hidden = self.hidden.as_ref().is_some_and(|hidden| hidden.id == id);
        if self.find(id).is_some() || hidden {
            return Err(duplicate(id));
        }
        if self.list.len() == OBJECTS_MAX {
            return Err(refused(format!("there are {OBJECTS_MAX} objects already")));
        }
        let defaults = self.defaults;
        let kind = match &options.variant {
            ObjectOptionsVariant::Iothread(_) => {
                let thread = IoThread::new(id, parameters).map_err(|error| {
                    let error = crate::error_text(&error);
                    refused(format!("failed to start the thread of '{id}': {error}"))
                })?;
                Kind::IoThread(Arc::new(thread))
            }
            ObjectOptionsVariant::MemoryBackendRam(given) => {
                Kind::Memory(Box::new(MemoryBackend::ram(id, given, defaults)?))
            }
            ObjectOptionsVariant::MemoryBackendFile(given) => {
                Kind::Memory(Box::new(MemoryBackend::file(given, defaults)?))
            }
            ObjectOptionsVariant::MemoryBackendMemfd(given) => {
                Kind::Memory(Box::new(MemoryBackend::memfd(given, defaults)?))
            }
            ObjectOptionsVariant::Secret(given) => {
                Kind::Secret(Box::new(Secret::new(given, |id| self.secret(id))?))
            }
        };
        self.list.push(Object {
            id: id.to_owned(),
            kind,
        });
        Ok(())
    }

    /// Makes an object of an option's text: `TYPE,id=ID[,...]` or JSON.
    ///
    /// # Errors
    /// What is wrong with the text, and as [`Objects::add`].
    pub fn add_text(&mut self, text: &str) -> Result<(), QmpError> {
        let mut parser = Box::new(Parser::new());
        let text = spread_ranges(text);
        let options = read_option::<ObjectOptions<'_>>(&mut parser, &text);
        self.add(&options.map_err(|error| refused(error.to_string()))?)
    }

    /// Takes an object away.
    ///
    /// # Errors
    /// In QEMU's words, if there is none or it is in use.
    pub fn remove(&mut self, id: &[u8]) -> Result<(), QmpError> {
        let found = self
            .list
            .iter()
            .position(|object| object.id.as_bytes() == id);
        let at = found.ok_or_else(|| missing(id))?;
        if let Object {
            id,
            kind: Kind::Memory(memory),
        } = &self.list[at]
        {
            if memory.is_used() {
                return Err(refused(format!(
                    "object '{id}' is in use, can not be deleted"
                )));
            }
            memory.discard();
        }
        self.list.remove(at);
        Ok(())
    }

    /// Changes a property of the object at a position.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn set(
        &mut self,
        position: usize,
        property: &str,
        value: NewValue<'_>,
    ) -> Result<(), QmpError> {
        match self.list.get_mut(position).map(|object| &mut object.kind) {
            Some(Kind::IoThread(thread)) => {
                let value = iothread_number(property, value.integer(property)?)?;
                let properties = IOTHREAD_PROPERTIES.iter();
                for (at, (name, _)) in properties.enumerate() {
                    if *name == property {
                        thread.set_parameter(at, value);
                    }
                }
                Ok(())
            }
            Some(Kind::Memory(memory)) => memory.set(property, value),
            Some(Kind::Secret(_)) => Err(refused(format!(
                "cannot change property '{property}' of secret"
            ))),
            None => Ok(()),
        }
    }

    /// Visits all objects.
    pub fn visit(&self, visit: &mut dyn FnMut(UserObject<'_>)) {
        for object in &self.list {
            visit(UserObject {
                id: &object.id,
                type_name: object.kind.type_name(),
            });
        }
    }

    /// Hands the value of a property of the object at a position to `take`.
    pub fn value(&self, position: usize, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        match self.list.get(position).map(|object| &object.kind) {
            Some(Kind::IoThread(thread)) => {
                let values = thread.parameters();
                for ((name, _), value) in IOTHREAD_PROPERTIES.iter().zip(values) {
                    if *name == property {
                        take(QomValue::Int(value));
                    }
                }
            }
            Some(Kind::Memory(memory)) => memory.value(property, take),
            Some(Kind::Secret(secret)) => secret.value(property, take),
            None => {}
        }
    }

    /// The position of the object that guest RAM is made of.
    pub fn ram_position(&self) -> Option<usize> {
        let id = self.ram.as_deref()?;
        self.list.iter().position(|object| object.id == id)
    }

    /// Tells of every thread.
    pub fn visit_iothreads(&self, visit: &mut dyn FnMut(&IOThreadInfo<'_>)) {
        for object in &self.list {
            if let Kind::IoThread(thread) = &object.kind {
                let [poll_max_ns, poll_grow, poll_shrink, aio_max_batch] = thread.parameters();
                visit(&IOThreadInfo {
                    id: &object.id,
                    thread_id: thread.thread_id().into(),
                    poll_max_ns,
                    poll_grow,
                    poll_shrink,
                    aio_max_batch,
                });
            }
        }
    }

    /// Tells of all memory.
    pub fn visit_memdevs(&self, visit: &mut dyn FnMut(&Memdev<'_>)) {
        for object in &self.list {
            if let Kind::Memory(memory) = &object.kind {
                visit(&memory.info(&object.id));
            }
        }
    }

    /// The bytes of a secret.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn secret(&self, id: &str) -> Result<&[u8], QmpError> {
        match self.find(id).map(|object| &object.kind) {
            Some(Kind::Secret(secret)) => Ok(secret.bytes()),
            Some(_) => Err(refused(format!("Object with id '{id}' is not a secret"))),
            None => Err(refused(format!("No secret with id '{id}'"))),
        }
    }

    /// A thread. It ends when nobody has it any more.
    pub fn iothread(&self, id: &str) -> Option<Arc<IoThread>> {
        match &self.find(id)?.kind {
            Kind::IoThread(thread) => Some(thread.clone()),
            _ => None,
        }
    }

    /// The memory backend of an id.
    pub fn memory(&self, id: &str) -> Option<&MemoryBackend> {
        match &self.find(id)?.kind {
            Kind::Memory(memory) => Some(memory),
            _ => None,
        }
    }

    /// Lets guest RAM be made of a backend that is there.
    ///
    /// # Errors
    /// If it isn't, or is of no use for that.
    pub fn use_as_ram(&mut self, id: &str) -> Result<Arc<Mapping>, QmpError> {
        let memory = self
            .memory(id)
            .ok_or_else(|| refused(format!("Memory backend '{id}' not found")))?;
        let mapping = memory.mapping().clone();
        if mapping.is_readonly() {
            return Err(refused(format!(
                "Memory backend '{id}' can't be written, so it is no guest RAM"
            )));
        }
        self.ram = Some(id.to_owned());
        Ok(mapping)
    }

    /// Lets guest RAM be made of a new backend: of a file or in a directory if there is a path (`-mem-path`), else of the process'
    /// memory.
    ///
    /// # Errors
    /// As [`Objects::add`].
    pub fn add_ram(
        &mut self,
        id: &str,
        size: u64,
        path: Option<&str>,
    ) -> Result<Arc<Mapping>, QmpError> {
        let memory = MemoryBackendProperties {
            dump: None,
            host_nodes: None,
            merge: None,
            policy: None,
            prealloc: None,
            prealloc_threads: None,
            prealloc_context: None,
            share: None,
            reserve: None,
            size,
            x_use_canonical_path_for_ramblock_id: None,
        };
        let variant = match path {
            None => ObjectOptionsVariant::MemoryBackendRam(memory),
            Some(path) => ObjectOptionsVariant::MemoryBackendFile(MemoryBackendFileProperties {
                dump: None,
                host_nodes: None,
                merge: None,
                policy: None,
                prealloc: None,
                prealloc_threads: None,
                prealloc_context: None,
                share: None,
                reserve: None,
                size,
                x_use_canonical_path_for_ramblock_id: None,
                align: None,
                discard_data: None,
                mem_path: path.as_bytes(),
                pmem: None,
                readonly: None,
            }),
        };
        let id_bytes = id.as_bytes();
        self.add(&ObjectOptions {
            id: id_bytes,
            variant,
        })?;
        self.use_as_ram(id)
    }

    /// Hides what [`Objects::add_ram`] has just made: the machine is not built yet for all to see.
    pub fn hide_ram(&mut self) {
        if self.ram_position() == self.list.len().checked_sub(1) {
            self.hidden = self.list.pop();
        }
    }

    /// Shows it.
    pub fn show_ram(&mut self) {
        self.list.extend(self.hidden.take());
    }

    /// Frees what is of no use without the process, at its end.
    pub fn discard(&self) {
        for object in self.list.iter().chain(&self.hidden) {
            if let Kind::Memory(memory) = &object.kind {
                memory.discard();
            }
        }
    }
}

/// Writes the list `host-nodes=0-2,host-nodes=5`, as options have it, in keys: `host-nodes.0=0,host-nodes.1=1` and so on.
fn spread_ranges(text: &str) -> String {
    const KEY: &str = "host-nodes=";
    if text.starts_with('{') || !text.contains(KEY) {
        return text.to_owned();
    }
    let mut spread = String::new();
    let mut count = 0;
    for part in text.split(',') {
        if !spread.is_empty() || count > 0 {
            spread.push(',');
        }
        let range = part.strip_prefix(KEY).and_then(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        });
        match range {
            Some(range) if !range.is_empty() => {
                for (index, node) in range.enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    spread.push_str(&format!("{comma}host-nodes.{count}={node}"));
                    count += 1;
                }
            }
            _ => spread.push_str(part),
        }
    }
    spread
}
