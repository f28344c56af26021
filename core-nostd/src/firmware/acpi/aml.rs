//! A writer of ACPI Machine Language into a fixed buffer.
//!
//! Follows ACPI 6.4, chapter 20 (AML) and section 6.4 (resource data types). Package lengths are
//! encoded in as few bytes as they need, once what they enclose is written. The writer never fails
//! in between: what has no room is left out, and [`Writer::finish`] tells of it.

/// The buffer was too small: how many bytes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full(pub usize);

/// Bytes of resource data that one template has at most.
const TEMPLATE_MAX: usize = 256;

/// Opcodes (ACPI 6.4, table 20.2).
mod op {
    pub(super) const ZERO: u8 = 0x00;
    pub(super) const ONE: u8 = 0x01;
    pub(super) const NAME: u8 = 0x08;
    pub(super) const BYTE: u8 = 0x0a;
    pub(super) const WORD: u8 = 0x0b;
    pub(super) const DWORD: u8 = 0x0c;
    pub(super) const STRING: u8 = 0x0d;
    pub(super) const QWORD: u8 = 0x0e;
    pub(super) const SCOPE: u8 = 0x10;
    pub(super) const BUFFER: u8 = 0x11;
    pub(super) const PACKAGE: u8 = 0x12;
    pub(super) const METHOD: u8 = 0x14;
    pub(super) const DUAL_NAME: u8 = 0x2e;
    pub(super) const MULTI_NAME: u8 = 0x2f;
    pub(super) const EXTENDED: u8 = 0x5b;
    pub(super) const REGION: u8 = 0x80;
    pub(super) const FIELD: u8 = 0x81;
    pub(super) const DEVICE: u8 = 0x82;
    pub(super) const LOCAL0: u8 = 0x60;
    pub(super) const ARG0: u8 = 0x68;
    pub(super) const STORE: u8 = 0x70;
    pub(super) const AND: u8 = 0x7b;
    pub(super) const OR: u8 = 0x7d;
    pub(super) const NOTIFY: u8 = 0x86;
    pub(super) const CREATE_DWORD_FIELD: u8 = 0x8a;
    pub(super) const IF: u8 = 0xa0;
    pub(super) const RETURN: u8 = 0xa4;
}

/// Space of an operation region (ACPI 6.4, section 5.5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory.
    Memory = 0,
    /// I/O ports.
    Io = 1,
    /// Configuration space of the function that the scope's `_ADR` names.
    PciConfig = 2,
}

/// A value where AML takes one.
#[derive(Clone, Copy, Debug)]
pub enum Term<'a> {
    /// An integer, in its shortest form.
    Int(u64),
    /// An integer of 32 bits in its whole length.
    Dword(u32),
    /// A text without zeros.
    Text(&'a str),
    /// An identifier of Plug and Play: three capital letters and four hexadecimal digits.
    Eisa(&'a str),
    /// A named object, or a method without arguments.
    Name(&'a str),
    /// An argument of the method, 0 to 6.
    Arg(u8),
    /// The method's first variable.
    Local0,
    /// A call of a method with one argument.
    Call(&'a str, &'a Term<'a>),
    /// Bitwise and, its result kept nowhere.
    And(&'a Term<'a>, &'a Term<'a>),
}

/// What is being written.
#[derive(Debug)]
pub struct Writer<'b> {
    bytes: &'b mut [u8],
    used: usize,
    full: bool,
}

impl<'b> Writer<'b> {
    /// Writes to the front of `bytes`.
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Self {
            bytes,
            used: 0,
            full: false,
        }
    }

    /// How many bytes were written.
    ///
    /// # Errors
    /// If there was no room for all of them.
    pub fn finish(self) -> Result<usize, Full> {
        if self.full {
            return Err(Full(self.bytes.len()));
        }
        Ok(self.used)
    }

    /// How many bytes were written so far.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Adds zeros up to a multiple of `unit` bytes.
    pub fn align(&mut self, unit: usize) {
        while !self.full && !self.used.is_multiple_of(unit) {
            self.raw(&[0]);
        }
    }

    /// Replaces bytes that were written, from `at` on.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        let written = self.bytes.get_mut(..self.used);
        let end = at.checked_add(bytes.len());
        if let Some(room) = end.and_then(|end| written?.get_mut(at..end)) {
            room.copy_from_slice(bytes);
        }
    }

    /// Where a pattern begins first, at `from` or behind it.
    pub fn find(&self, from: usize, pattern: &[u8]) -> Option<usize> {
        let written = self.bytes.get(from..self.used)?;
        let at = written
            .windows(pattern.len().max(1))
            .position(|bytes| bytes == pattern);
        at.map(|at| from + at)
    }

    /// Takes the last bytes back. Where one of them had no room, nothing changes.
    pub fn cut(&mut self, bytes: usize) {
        if !self.full {
            self.used = self.used.saturating_sub(bytes);
        }
    }

    /// Adds bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        match self.bytes.get_mut(self.used..end) {
            Some(room) if !self.full => {
                room.copy_from_slice(bytes);
                self.used = end;
            }
            _ => self.full = true,
        }
    }

    /// Adds a value.
    pub fn term(&mut self, term: Term<'_>) {
        match term {
            Term::Int(value) => self.integer(value),
            Term::Text(text) => {
                self.raw(&[op::STRING]);
                self.raw(text.as_bytes());
                self.raw(&[0]);
            }
            Term::Eisa(id) => {
                self.raw(&[op::DWORD]);
                self.raw(&eisa_id(id));
            }
            Term::Dword(value) => {
                self.raw(&[op::DWORD]);
                self.raw(&value.to_le_bytes());
            }
            Term::Name(path) => self.path(path),
            Term::Arg(number) => self.raw(&[op::ARG0 + number % 7]),
            Term::Local0 => self.raw(&[op::LOCAL0]),
            Term::Call(method, argument) => {
                self.path(method);
                self.term(*argument);
            }
            Term::And(left, right) => {
                self.raw(&[op::AND]);
                self.term(*left);
                self.term(*right);
                self.raw(&[op::ZERO]);
            }
        }
    }

    fn integer(&mut self, value: u64) {
        let bytes = value.to_le_bytes();
        let (opcode, length) = match value {
            0 => (op::ZERO, 0),
            1 => (op::ONE, 0),
            2..=0xff => (op::BYTE, 1),
            0x100..=0xffff => (op::WORD, 2),
            0x1_0000..=0xffff_ffff => (op::DWORD, 4),
            _ => (op::QWORD, 8),
        };
        self.raw(&[opcode]);
        self.raw(bytes.get(..length).unwrap_or(&[]));
    }

    /// A name string: segments apart by dots, of up to four characters each, behind `\` or `^`s.
    fn path(&mut self, path: &str) {
        let relative = path.trim_start_matches(['\\', '^']);
        let (prefix, _) = path.split_at(path.len() - relative.len());
        self.raw(prefix.as_bytes());
        match relative.split('.').count() {
            1 => {}
            2 => self.raw(&[op::DUAL_NAME]),
            count => self.raw(&[op::MULTI_NAME, count as u8]),
        }
        for segment in relative.split('.') {
            self.segment(segment);
        }
    }

    fn segment(&mut self, name: &str) {
        let mut bytes = [b'_'; 4];
        for (byte, character) in bytes.iter_mut().zip(name.bytes()) {
            *byte = character;
        }
        self.raw(&bytes);
    }

    /// Writes what a package length stands before, then puts that there.
    fn enclosed(&mut self, body: impl FnOnce(&mut Self)) {
        let start = self.used;
        body(self);
        let mut encoded = [0; 4];
        let length = package_length(self.used - start, &mut encoded);
        let Some(length) = encoded.get(..length).filter(|bytes| !bytes.is_empty()) else {
            self.full = true;
            return;
        };
        let end = self.used;
        // Makes room at the end; the bytes do not matter.
        self.raw(length);
        if !self.full {
            let to = start + length.len();
            self.bytes.copy_within(start..end, to);
            if let Some(room) = self.bytes.get_mut(start..to) {
                room.copy_from_slice(length);
            }
        }
    }

    /// `Scope (path) { body }`
    pub fn scope(&mut self, path: &str, body: impl FnOnce(&mut Self)) {
        self.raw(&[op::SCOPE]);
        self.enclosed(|w| {
            w.path(path);
            body(w);
        });
    }

    /// `Device (name) { body }`
    pub fn device(&mut self, name: &str, body: impl FnOnce(&mut Self)) {
        self.raw(&[op::EXTENDED, op::DEVICE]);
        self.enclosed(|w| {
            w.path(name);
            body(w);
        });
    }

    /// `Method (name, arguments, NotSerialized) { body }`, with up to seven arguments.
    pub fn method(&mut self, name: &str, arguments: u8, body: impl FnOnce(&mut Self)) {
        self.raw(&[op::METHOD]);
        self.enclosed(|w| {
            w.path(name);
            w.raw(&[arguments & 7]);
            body(w);
        });
    }

    /// `Method (name, arguments, Serialized) { body }`: for one caller at a time, with up to seven arguments.
    pub fn serialized_method(&mut self, name: &str, arguments: u8, body: impl FnOnce(&mut Self)) {
        const SERIALIZED: u8 = 1 << 3;
        self.raw(&[op::METHOD]);
        self.enclosed(|w| {
            w.path(name);
            w.raw(&[arguments & 7 | SERIALIZED]);
            body(w);
        });
    }

    /// `If (condition) { body }`
    pub fn when(&mut self, condition: Term<'_>, body: impl FnOnce(&mut Self)) {
        self.raw(&[op::IF]);
        self.enclosed(|w| {
            w.term(condition);
            body(w);
        });
    }

    /// `Return (value)`
    pub fn give(&mut self, value: Term<'_>) {
        self.raw(&[op::RETURN]);
        self.term(value);
    }

    /// `Notify (device, value)`
    pub fn notify(&mut self, device: &str, value: u64) {
        self.raw(&[op::NOTIFY]);
        self.path(device);
        self.integer(value);
    }

    /// `Store (value, to)`
    pub fn store(&mut self, value: Term<'_>, to: Term<'_>) {
        self.raw(&[op::STORE]);
        self.term(value);
        self.term(to);
    }

    /// `Or (left, right, to)`
    pub fn or(&mut self, left: Term<'_>, right: Term<'_>, to: Term<'_>) {
        self.raw(&[op::OR]);
        self.term(left);
        self.term(right);
        self.term(to);
    }

    /// `CreateDWordField (buffer, offset, name)`
    pub fn dword_field(&mut self, buffer: Term<'_>, offset: u8, name: &str) {
        self.raw(&[op::CREATE_DWORD_FIELD]);
        self.term(buffer);
        self.integer(offset.into());
        self.path(name);
    }

    /// `Name (name, value)`
    pub fn name(&mut self, name: &str, value: Term<'_>) {
        self.raw(&[op::NAME]);
        self.path(name);
        self.term(value);
    }

    /// `Name (name, Package (elements) { body })`; the body writes as many elements, at most 255.
    pub fn named_package(&mut self, name: &str, elements: u8, body: impl FnOnce(&mut Self)) {
        self.raw(&[op::NAME]);
        self.path(name);
        self.package(elements, body);
    }

    /// `Package (elements) { body }`; the body writes as many elements, at most 255.
    pub fn package(&mut self, elements: u8, body: impl FnOnce(&mut Self)) {
        self.raw(&[op::PACKAGE]);
        self.enclosed(|w| {
            w.raw(&[elements]);
            body(w);
        });
    }

    /// `OperationRegion (name, space, offset, length)`
    pub fn region(&mut self, name: &str, space: Space, offset: u64, length: u64) {
        self.raw(&[op::EXTENDED, op::REGION]);
        self.path(name);
        self.raw(&[space as u8]);
        self.integer(offset);
        self.integer(length);
    }

    /// `Field (region, ByteAcc, NoLock, Preserve) { fields }`: bytes of the region in order.
    pub fn byte_fields(&mut self, region: &str, fields: &[&str]) {
        const BYTE_ACCESS: u8 = 1;
        self.raw(&[op::EXTENDED, op::FIELD]);
        self.enclosed(|w| {
            w.path(region);
            w.raw(&[BYTE_ACCESS]);
            for field in fields {
                w.segment(field);
                // Bits, as a package length that counts nothing but itself.
                w.raw(&[8]);
            }
        });
    }

    /// `Field (region, DWordAcc, NoLock, WriteAsZeros) { field, 32 }`: the first doubleword of the region.
    pub fn dword_register(&mut self, region: &str, field: &str) {
        const DWORD_ACCESS: u8 = 3;
        const WRITE_AS_ZEROS: u8 = 2 << 5;
        self.raw(&[op::EXTENDED, op::FIELD]);
        self.enclosed(|w| {
            w.path(region);
            w.raw(&[DWORD_ACCESS | WRITE_AS_ZEROS]);
            w.segment(field);
            w.raw(&[32]);
        });
    }

    /// `Name (name, ResourceTemplate () { … })`
    pub fn resources(&mut self, name: &str, body: impl FnOnce(&mut Resources)) {
        let mut resources = Resources {
            bytes: [0; TEMPLATE_MAX],
            used: 0,
            full: false,
        };
        body(&mut resources);
        // End tag; a checksum of zero is not looked at.
        resources.raw(&[0x79, 0]);
        let template = resources.bytes.get(..resources.used).unwrap_or(&[]);
        self.full |= resources.full;
        self.named_buffer(name, template);
    }

    /// `Name (name, Buffer () {…})`.
    pub fn named_buffer(&mut self, name: &str, bytes: &[u8]) {
        self.raw(&[op::NAME]);
        self.path(name);
        self.raw(&[op::BUFFER]);
        self.enclosed(|w| {
            w.integer(bytes.len() as u64);
            w.raw(bytes);
        });
    }
}

/// A resource template (ACPI 6.4, section 6.4).
#[derive(Debug)]
pub struct Resources {
    bytes: [u8; TEMPLATE_MAX],
    used: usize,
    full: bool,
}

impl Resources {
    fn raw(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        match self.bytes.get_mut(self.used..end) {
            Some(room) if !self.full => {
                room.copy_from_slice(bytes);
                self.used = end;
            }
            _ => self.full = true,
        }
    }

    /// `IO (Decode16, base, base, 1, ports)`: up to 255 ports at a fixed place.
    pub fn ports(&mut self, base: u16, ports: u8) {
        let [low, high] = base.to_le_bytes();
        self.raw(&[0x47, 1, low, high, low, high, 1, ports]);
    }

    /// `IRQNoFlags () {irq}`: an edge-triggered, active-high interrupt, 0 to 15.
    pub fn irq(&mut self, irq: u8) {
        let [low, high] = (1u16 << (irq & 15)).to_le_bytes();
        self.raw(&[0x22, low, high]);
    }

    /// `DMA (Compatibility, NotBusMaster, Transfer8) {channel}`.
    pub fn dma(&mut self, channel: u8) {
        self.raw(&[0x2a, 1 << (channel & 7), 0]);
    }

    /// `Interrupt (ResourceConsumer, Level, ActiveHigh, Shared) {…}`: one of these. The first lies
    /// [`Resources::LEVEL_IRQ_AT`] bytes into the descriptor.
    pub fn level_irqs(&mut self, irqs: &[u8]) {
        const CONSUMER_LEVEL_HIGH_SHARED: u8 = 0x09;
        let length = (2 + 4 * irqs.len()) as u16;
        let [low, high] = length.to_le_bytes();
        self.raw(&[0x89, low, high]);
        self.raw(&[CONSUMER_LEVEL_HIGH_SHARED, irqs.len() as u8]);
        for irq in irqs {
            self.raw(&u32::from(*irq).to_le_bytes());
        }
    }

    /// `Interrupt (ResourceConsumer, Edge or Level, ActiveHigh, Exclusive) {irq}`.
    pub fn own_irq(&mut self, irq: u8, level: bool) {
        const CONSUMER_HIGH_EXCLUSIVE: u8 = 1;
        const EDGE: u8 = 1 << 1;
        let flags = CONSUMER_HIGH_EXCLUSIVE | if level { 0 } else { EDGE };
        self.raw(&[0x89, 6, 0, flags, 1, irq, 0, 0, 0]);
    }

    /// See [`Resources::level_irqs`].
    pub const LEVEL_IRQ_AT: u8 = 5;

    /// `WordBusNumber`: buses that a bridge produces.
    pub fn buses(&mut self, first: u16, last: u16) {
        self.raw(&[0x88, 13, 0, 2, PRODUCER_FIXED, 0]);
        self.words(first, last);
    }

    /// `WordIO`: ports that a bridge passes on.
    pub fn port_window(&mut self, first: u16, last: u16) {
        const ENTIRE_RANGE: u8 = 3;
        self.raw(&[0x88, 13, 0, 1, PRODUCER_FIXED, ENTIRE_RANGE]);
        self.words(first, last);
    }

    /// Granularity, least, most, translation, length.
    fn words(&mut self, first: u16, last: u16) {
        for word in [0, first, last, 0, (last - first).wrapping_add(1)] {
            self.raw(&word.to_le_bytes());
        }
    }

    /// `Memory32Fixed`: addresses of a device, read-only to those who go by the descriptor.
    pub fn memory(&mut self, base: u32, length: u32) {
        self.raw(&[0x86, 9, 0, 0]);
        self.raw(&base.to_le_bytes());
        self.raw(&length.to_le_bytes());
    }

    /// `Memory32Fixed`: addresses of a device, for reading and writing.
    pub fn registers(&mut self, base: u32, length: u32) {
        self.raw(&[0x86, 9, 0, 1]);
        self.raw(&base.to_le_bytes());
        self.raw(&length.to_le_bytes());
    }

    /// `DWordMemory`: addresses that a bridge passes on, for reading and writing.
    pub fn memory_window(&mut self, first: u32, last: u32, cacheable: bool) {
        let flags = 1 | if cacheable { 2 } else { 0 };
        self.raw(&[0x87, 23, 0, 0, PRODUCER_FIXED, flags]);
        let length = (last - first).wrapping_add(1);
        for word in [0, first, last, 0, length] {
            self.raw(&word.to_le_bytes());
        }
    }

    /// `QWordMemory`: the same with 64-bit addresses, not for caches.
    pub fn wide_memory_window(&mut self, first: u64, last: u64) {
        self.raw(&[0x8a, 43, 0, 0, PRODUCER_FIXED, 1]);
        for word in [0, first, last, 0, (last - first).wrapping_add(1)] {
            self.raw(&word.to_le_bytes());
        }
    }
}

/// General flags of an address space: produced, both ends fixed, positive decode.
const PRODUCER_FIXED: u8 = 0x0c;

/// Encodes the length of a package of `inside` bytes behind the encoding itself; gives the
/// encoding's length, 0 for a package that is too long (ACPI 6.4, section 20.2.4).
fn package_length(inside: usize, to: &mut [u8; 4]) -> usize {
    if inside + 1 < 1 << 6 {
        to[0] = inside as u8 + 1;
        return 1;
    }
    for extra in 1..=3 {
        let length = inside + 1 + extra;
        if length < 1 << (4 + 8 * extra) {
            let rest = (length >> 4) as u32;
            to[0] = (extra as u8) << 6 | length as u8 & 0xf;
            to[1..].copy_from_slice(&rest.to_le_bytes()[..3]);
            return 1 + extra;
        }
    }
    0
}

/// The compressed form of an identifier (ACPI 6.4, section 6.1.5), in its byte order.
fn eisa_id(id: &str) -> [u8; 4] {
    let mut value: u32 = 0;
    for byte in id.bytes().take(3) {
        value = value << 5 | u32::from(byte & 0x1f);
    }
    for character in id.chars().skip(3).take(4) {
        value = value << 4 | character.to_digit(16).unwrap_or(0);
    }
    value.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn written(body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut bytes = vec![0xee; 0x1_0000];
        let mut writer = Writer::new(&mut bytes);
        body(&mut writer);
        let used = writer.finish().unwrap();
        bytes.truncate(used);
        bytes
    }

    #[test]
    fn package_lengths_take_what_they_need() {
        for (inside, expected) in [
            (0, &[0x01][..]),
            (62, &[0x3f]),
            (63, &[0x41, 0x04]),
            (0xffd, &[0x4f, 0xff]),
            (0xffe, &[0x81, 0x00, 0x01]),
            (0xf_fffc, &[0x8f, 0xff, 0xff]),
            (0xf_fffd, &[0xc1, 0x00, 0x00, 0x01]),
            (0xfff_fffb, &[0xcf, 0xff, 0xff, 0xff]),
            (0xfff_fffc, &[]),
        ] {
            let mut bytes = [0; 4];
            let length = package_length(inside, &mut bytes);
            assert_eq!(&bytes[..length], expected, "{inside:#x}");
        }
    }

    #[test]
    fn packages_enclose_what_was_written() {
        let long = written(|w| w.scope("\\_SB", |w| w.raw(&[0xa5; 100])));
        assert_eq!(long[..3], [0x10, 0x4b, 0x06]);
        assert_eq!(&long[3..8], b"\\_SB_");
        assert_eq!(long.len(), 108);
        let nested = written(|w| {
            w.scope("\\_SB", |w| w.device("PCI0", |w| w.raw(&[0xa5; 60])));
        });
        // 68 bytes of device, of which two are its opcode and two its length.
        assert_eq!(nested[..3], [0x10, 0x4b, 0x04]);
        assert_eq!(
            nested[8..16],
            [0x5b, 0x82, 0x42, 0x04, b'P', b'C', b'I', b'0']
        );
        assert_eq!(nested.len(), 76);
        assert!(nested[16..].iter().all(|byte| *byte == 0xa5));
    }

    #[test]
    fn names_are_padded_and_counted() {
        for (path, expected) in [
            ("A", &b"A___"[..]),
            ("\\_SB", b"\\_SB_"),
            ("^^LNKA", b"^^LNKA"),
            ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
            ("_SB.PCI0.ISA", b"\x2f\x03_SB_PCI0ISA_"),
        ] {
            assert_eq!(written(|w| w.path(path)), expected, "{path}");
        }
    }

    #[test]
    fn integers_are_short() {
        for (value, expected) in [
            (0, &[0x00][..]),
            (1, &[0x01]),
            (2, &[0x0a, 2]),
            (0xff, &[0x0a, 0xff]),
            (0x100, &[0x0b, 0, 1]),
            (0x1_0000, &[0x0c, 0, 0, 1, 0]),
            (1 << 32, &[0x0e, 0, 0, 0, 0, 1, 0, 0, 0]),
        ] {
            assert_eq!(written(|w| w.integer(value)), expected, "{value:#x}");
        }
    }

    /// The specification's own example is PNP0303 and PNP0C09.
    #[test]
    fn identifiers_are_compressed() {
        assert_eq!(eisa_id("PNP0A03"), [0x41, 0xd0, 0x0a, 0x03]);
        assert_eq!(eisa_id("PNP0303"), [0x41, 0xd0, 0x03, 0x03]);
        assert_eq!(eisa_id(""), [0; 4]);
    }

    #[test]
    fn templates_end_and_are_sized() {
        let bytes = written(|w| {
            w.resources("_CRS", |r| {
                r.ports(0x3f8, 8);
                r.irq(4);
            });
        });
        let template = [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0, 0x79, 0];
        assert_eq!(bytes[..8], [0x08, b'_', b'C', b'R', b'S', 0x11, 16, 0x0a]);
        assert_eq!(bytes[8], 13);
        assert_eq!(bytes[9..], template);
    }

    #[test]
    fn what_has_no_room_is_told_at_the_end() {
        let write = |writer: &mut Writer<'_>| {
            writer.device("DEV0", |w| {
                w.name("_HID", Term::Eisa("PNP0501"));
                w.resources("_CRS", |r| r.ports(0x60, 1));
            });
        };
        let whole = written(write).len();
        for length in 0..=whole {
            let mut bytes = vec![0; length];
            let mut writer = Writer::new(&mut bytes);
            write(&mut writer);
            let expected = if length == whole {
                Ok(whole)
            } else {
                Err(Full(length))
            };
            assert_eq!(writer.finish(), expected);
        }
        let mut bytes = [0; 1000];
        let mut writer = Writer::new(&mut bytes);
        writer.resources("_CRS", |r| (0..40).for_each(|port| r.ports(port, 1)));
        assert!(writer.finish().is_err());
    }
}
