//! Objects that users make, by `-object` and `object-add`: threads for input and output, memory backends, secrets, limits of
//! drives.
//!
//! All that an object is lives here, in the order in which objects were made; the object tree shows it. What an object is used for
//! is told by who shares it: see [`MemoryBackend::is_used`].

pub mod iothread;
pub mod mapping;
pub mod memory;
pub mod secret;
pub mod throttle;

use std::rc::Rc;
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
pub use throttle::ThrottleGroup;

use crate::block::Graph;

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
    ThrottleGroup(ThrottleGroup),
}

impl Kind {
    fn type_name(&self) -> &'static str {
        match self {
            Self::IoThread(_) => "iothread",
            Self::Memory(memory) => memory.type_name(),
            Self::Secret(_) => "secret",
            Self::ThrottleGroup(_) => "throttle-group",
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
    /// Where limits belong.
    blocks: Rc<Graph>,
}

fn refused(text: String) -> QmpError {
    QmpError::generic(format_args!("{text}"))
}

impl Objects {
    /// No objects yet.
    pub fn new(defaults: Defaults, blocks: Rc<Graph>) -> Self {
        Self {
            list: Vec::new(),
            hidden: None,
            ram: None,
            defaults,
            blocks,
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
            ObjectOptionsVariant::ThrottleGroup(given) => {
                Kind::ThrottleGroup(ThrottleGroup::new(id, given, &self.blocks)?)
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

    /// The thread of an id, for a device's `iothread=`.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn link_iothread(&self, id: &str) -> Result<Arc<IoThread>, String> {
        self.iothread(id).ok_or_else(|| match self.find(id) {
            Some(_) => "Invalid parameter type for 'iothread', expected: iothread".to_owned(),
            None => format!("Device '{id}' not found"),
        })
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
        if let Object {
            id,
            kind: Kind::ThrottleGroup(group),
        } = &self.list[at]
            && group.is_used()
        {
            return Err(refused(format!(
                "object '{id}' is in use, can not be deleted"
            )));
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
            Some(Kind::ThrottleGroup(group)) => group.set(property, value),
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
            Some(Kind::ThrottleGroup(group)) => group.value(property, take),
            None => {}
        }
    }

    /// The position of the object that guest RAM is made of.
    pub fn ram_position(&self) -> Option<usize> {
        self.position(self.ram.as_deref()?)
    }

    /// The position of an object among those that there are.
    pub fn position(&self, id: &str) -> Option<usize> {
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
        let mapping = self.use_as_part(id)?;
        self.ram = Some(id.to_owned());
        Ok(mapping)
    }

    /// Lets a part of guest RAM be made of a backend that is there.
    ///
    /// # Errors
    /// As above.
    pub fn use_as_part(&self, id: &str) -> Result<Arc<Mapping>, QmpError> {
        let memory = self
            .memory(id)
            .ok_or_else(|| refused(format!("Memory backend '{id}' not found")))?;
        let mapping = memory.mapping().clone();
        if mapping.is_readonly() {
            return Err(refused(format!(
                "Memory backend '{id}' can't be written, so it is no guest RAM"
            )));
        }
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
    // Of a doubled comma, which belongs to a value with what follows, an empty part is left.
    let mut empty = 0;
    for (index, part) in text.split(',').enumerate() {
        if index > 0 {
            spread.push(',');
        }
        if part.is_empty() {
            empty += 1;
            continue;
        }
        let is_key = std::mem::take(&mut empty) % 2 == 0;
        let range = part.strip_prefix(KEY).filter(|_| is_key);
        let range = range.and_then(|range| {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> Objects {
        let blocks = Graph::new(crate::block::executor::Executor::new(|| {}));
        Objects::new(Defaults::default(), blocks)
    }

    fn error<T>(result: Result<T, QmpError>) -> String {
        result.err().expect("an error").to_string()
    }

    #[test]
    fn ranges_of_nodes_become_lists() {
        for (text, spread) in [
            ("memory-backend-ram,id=a", "memory-backend-ram,id=a"),
            ("x,host-nodes=3,id=a", "x,host-nodes.0=3,id=a"),
            (
                "host-nodes=0-2,host-nodes=7",
                "host-nodes.0=0,host-nodes.1=1,host-nodes.2=2,host-nodes.3=7",
            ),
            // What is no range is left for the check to refuse.
            ("x,host-nodes=2-1", "x,host-nodes=2-1"),
            ("x,host-nodes=a-b", "x,host-nodes=a-b"),
            ("x,host-nodes=0-99999", "x,host-nodes=0-99999"),
            ("x,host-nodes.0=1", "x,host-nodes.0=1"),
            ("{host-nodes=1", "{host-nodes=1"),
            (",,host-nodes=1", ",,host-nodes.0=1"),
            ("id=a,,host-nodes=1", "id=a,,host-nodes=1"),
            ("id=a,,,host-nodes=1", "id=a,,,host-nodes.0=1"),
        ] {
            assert_eq!(spread_ranges(text), spread, "{text}");
        }
    }

    #[test]
    fn both_forms_of_an_option_make_objects() {
        let mut objects = objects();
        objects
            .add_text("memory-backend-ram,id=a,size=1M,host-nodes=0,policy=bind")
            .unwrap();
        objects
            .add_text(r#"{"qom-type":"iothread","id":"b","poll-max-ns":0}"#)
            .unwrap();
        objects.add_text("secret,id=c,data=x,,y").unwrap();
        assert_eq!(objects.secret("c").unwrap(), b"x,y");
        assert_eq!(objects.iothread("b").unwrap().parameters(), [0, 0, 0, 0]);
        assert!(objects.iothread("a").is_none());
        assert_eq!(objects.memory("a").unwrap().size(), 1 << 20);
        let mut seen = Vec::new();
        objects.visit(&mut |object| seen.push(format!("{} {}", object.id, object.type_name)));
        assert_eq!(seen, ["a memory-backend-ram", "b iothread", "c secret"]);
        for (text, expected) in [
            ("", "Parameter 'qom-type' is missing"),
            ("iothread", "Parameter 'id' is missing"),
            ("iothread,id=-", "Parameter 'id' expects an identifier"),
            (
                "iothread,id=x,thread-pool-max=64",
                "threads for calls that may take long ('thread-pool-max') are not available",
            ),
            (
                "memory-backend-file,id=x,size=4k,mem-path=/nix,pmem=on",
                "persistent memory ('pmem') is not available",
            ),
            (
                "iothread,id=a",
                "attempt to add duplicate property 'a' to object (type 'container')",
            ),
            ("{\"", "JSON parse error, premature EOI"),
        ] {
            assert_eq!(error(objects.add_text(text)), expected, "{text}");
        }
    }

    #[test]
    fn guest_ram_stays() {
        let mut objects = objects();
        assert_eq!(
            error(objects.use_as_ram("pc.ram")),
            "Memory backend 'pc.ram' not found"
        );
        objects.add_text("iothread,id=a").unwrap();
        let mapping = objects.add_ram("pc.ram", 8192, None).unwrap();
        assert_eq!((mapping.length(), objects.ram_position()), (8192, Some(1)));
        objects.hide_ram();
        assert_eq!(objects.ram_position(), None);
        let taken = error(objects.add_text("secret,id=pc.ram,data=x"));
        assert!(taken.contains("duplicate"), "{taken}");
        objects.add_text("iothread,id=b").unwrap();
        objects.show_ram();
        assert_eq!(objects.ram_position(), Some(2));
        assert_eq!(
            error(objects.remove(b"pc.ram")),
            "object 'pc.ram' is in use, can not be deleted"
        );
        objects.remove(b"a").unwrap();
        assert_eq!(objects.ram_position(), Some(1));
        drop(mapping);
        objects.remove(b"pc.ram").unwrap();
        assert_eq!(objects.ram_position(), None);
    }

    #[test]
    fn files_that_cannot_be_memory_are_refused() {
        let dir = std::env::temp_dir().join(format!("thimble-backend-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        std::fs::write(path("empty"), b"").unwrap();
        let pipe = std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        let mut objects = objects();
        let mut refused = |name: &str, more: &str| {
            let path = path(name);
            let path = path.display();
            let text = format!("memory-backend-file,id=x,size=64k,mem-path={path}{more}");
            error(objects.add_text(&text))
        };
        // Whoever touched it would be killed.
        let text = refused("empty", ",readonly=on");
        assert!(
            text.starts_with("backing store size 0x0 does not"),
            "{text}"
        );
        let text = refused("pipe", "");
        assert!(text.starts_with("unable to map backing store"), "{text}");
        let text = refused("missing", ",readonly=on");
        assert!(text.ends_with("No such file or directory"), "{text}");
        let text = refused("", ",readonly=on");
        assert!(
            text.starts_with("unable to map") || text.contains("directory"),
            "{text}"
        );
        // What was made for it goes again.
        let text = refused("new", ",policy=bind");
        assert_eq!(text, "host-nodes must be set for policy bind");
        assert!(!path("new").exists());
        // An empty one is made as long as it has to be.
        let empty = path("empty");
        objects
            .add_text(&format!(
                "memory-backend-file,id=x,size=5000,share=on,mem-path={}",
                empty.display()
            ))
            .unwrap();
        assert_eq!(std::fs::metadata(&empty).unwrap().len(), 8192);
        let mapping = objects.use_as_ram("x").unwrap();
        // SAFETY: the byte is the mapping's.
        unsafe { mapping.start().as_ptr().add(4999).write_volatile(7) };
        assert_eq!(std::fs::read(&empty).unwrap()[4999], 7);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn there_is_a_limit() {
        let mut objects = objects();
        for number in 0..OBJECTS_MAX {
            objects
                .add_text(&format!("secret,id=s{number},data=x"))
                .unwrap();
        }
        let text = error(objects.add_text("secret,id=more,data=x"));
        assert_eq!(text, "there are 1024 objects already");
        objects.remove(b"s500").unwrap();
        objects.add_text("secret,id=more,data=x").unwrap();
    }
}
