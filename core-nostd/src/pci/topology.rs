//! Which function stands where: buses, device and function numbers.
//!
//! Bus 0 is the host bridge's; any other is the secondary bus of a bridge. A bus is known here by
//! the bridge above it, not by a number, which the guest gives it in that bridge's registers.

use core::fmt;

/// Functions that a machine has at most, on all buses together.
pub const FUNCTIONS_MAX: usize = 32;

/// Device numbers of a bus.
const DEVICES: u8 = 32;

/// A bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusId {
    /// The host bridge's.
    Root,
    /// Below the bridge of this index.
    Below(u8),
}

/// A function and where it stands. `T` is the machine's own name for one of its functions, small and
/// `Copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The bus.
    pub bus: BusId,
    /// Device and function number in one byte: `device << 3 | function`.
    pub devfn: u8,
    /// Whether it says that its device has more functions.
    pub multifunction: bool,
    /// The function.
    pub function: T,
}

impl<T> Placed<T> {
    /// Device number, 0 to 31.
    pub const fn device(&self) -> u8 {
        self.devfn >> 3
    }
}

/// Why a function can't stand somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// The function of this index stands there.
    Taken(usize),
    /// Function 0 of the device says that it is the only one.
    SingleFunction,
    /// It would be a function 0 that says it is the only one, and this one is there.
    NotSingle(u8),
    /// No device number of the bus is free.
    Full,
    /// There are [`FUNCTIONS_MAX`] functions.
    TooMany,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(_) => f.write_str("another PCI function stands there"),
            Self::SingleFunction => f.write_str("the PCI device has a single function"),
            Self::NotSingle(function) => write!(f, "there is a PCI function {function}"),
            Self::Full => f.write_str("no PCI slot is free"),
            Self::TooMany => write!(f, "more than {FUNCTIONS_MAX} PCI functions"),
        }
    }
}

/// All functions by index. An index stays the same as long as its function is there.
#[derive(Clone, Debug)]
pub struct Functions<T> {
    entries: [Option<Placed<T>>; FUNCTIONS_MAX],
}

impl<T: Copy> Default for Functions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy> Functions<T> {
    /// Empty buses.
    pub const fn new() -> Self {
        Self {
            entries: [None; FUNCTIONS_MAX],
        }
    }

    /// Whether a function could stand somewhere: at a free place, and in a device that agrees on
    /// having more than one function. With function 0 that says so may be others; others that come
    /// before function 0 need not say so themselves.
    ///
    /// # Errors
    /// See [`SlotError`].
    pub fn check(&self, bus: BusId, devfn: u8, multifunction: bool) -> Result<(), SlotError> {
        if let Some((index, _)) = self.find(bus, devfn) {
            return Err(SlotError::Taken(index));
        }
        let first = devfn & !7;
        if devfn != first {
            let single = self.find(bus, first).filter(|(_, f)| !f.multifunction);
            if single.is_some() {
                return Err(SlotError::SingleFunction);
            }
        } else if !multifunction {
            let other = (1..8).find(|function| self.find(bus, first | function).is_some());
            if let Some(other) = other {
                return Err(SlotError::NotSingle(other));
            }
        }
        if self.entries.iter().all(Option::is_some) {
            return Err(SlotError::TooMany);
        }
        Ok(())
    }

    /// Function 0 of the first device of a bus that has none.
    ///
    /// # Errors
    /// [`SlotError::Full`].
    pub fn free_slot(&self, bus: BusId) -> Result<u8, SlotError> {
        let mut all = (0..DEVICES).map(|device| device << 3);
        all.find(|devfn| self.find(bus, *devfn).is_none())
            .ok_or(SlotError::Full)
    }

    /// Lets a function stand where [`Functions::check`] has found that it can, and gives its index.
    ///
    /// # Errors
    /// As [`Functions::check`].
    pub fn insert(&mut self, placed: Placed<T>) -> Result<usize, SlotError> {
        self.check(placed.bus, placed.devfn, placed.multifunction)?;
        let free = self.entries.iter().position(Option::is_none);
        let index = free.ok_or(SlotError::TooMany)?;
        self.entries[index] = Some(placed);
        Ok(index)
    }

    /// Takes a function off its bus.
    pub fn remove(&mut self, index: usize) -> Option<Placed<T>> {
        self.entries.get_mut(index)?.take()
    }

    /// The function of an index.
    pub fn get(&self, index: usize) -> Option<&Placed<T>> {
        self.entries.get(index)?.as_ref()
    }

    /// Who stands at a place, and its index.
    pub fn find(&self, bus: BusId, devfn: u8) -> Option<(usize, &Placed<T>)> {
        self.iter()
            .find(|(_, placed)| placed.bus == bus && placed.devfn == devfn)
    }

    /// All functions with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Placed<T>)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// The next function of a bus, by device and function number from `from` on; `None` behind the
    /// last.
    pub fn next_on(&self, bus: BusId, from: u16) -> Option<(usize, &Placed<T>)> {
        let on_bus = self.iter().filter(|(_, placed)| placed.bus == bus);
        on_bus
            .filter(|(_, placed)| u16::from(placed.devfn) >= from)
            .min_by_key(|(_, placed)| placed.devfn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(devfn: u8, multifunction: bool, function: char) -> Placed<char> {
        Placed {
            bus: BusId::Root,
            devfn,
            multifunction,
            function,
        }
    }

    #[test]
    fn a_place_holds_one_function() {
        let mut functions = Functions::new();
        assert_eq!(functions.insert(at(8, false, 'i')), Ok(0));
        assert_eq!(
            functions.insert(at(8, false, 'x')),
            Err(SlotError::Taken(0))
        );
        let elsewhere = Placed {
            bus: BusId::Below(0),
            ..at(8, false, 'b')
        };
        assert_eq!(functions.insert(elsewhere), Ok(1));
        assert_eq!(functions.free_slot(BusId::Root), Ok(0));
        functions.insert(at(0, false, 'h')).unwrap();
        assert_eq!(functions.free_slot(BusId::Root), Ok(0x10));
        assert_eq!(functions.free_slot(BusId::Below(0)), Ok(0));
        assert_eq!(functions.remove(0).map(|placed| placed.function), Some('i'));
        assert_eq!(functions.free_slot(BusId::Root), Ok(8));
        assert_eq!(functions.insert(at(8, false, 'n')), Ok(0));
        let order = |bus| {
            let mut from = 0;
            core::iter::from_fn(|| {
                let (_, placed) = functions.next_on(bus, from)?;
                from = u16::from(placed.devfn) + 1;
                Some(placed.function)
            })
            .collect::<std::string::String>()
        };
        assert_eq!(order(BusId::Root), "hn");
        assert_eq!(order(BusId::Below(0)), "b");
        assert_eq!(order(BusId::Below(1)), "");
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn devices_agree_on_their_functions() {
        let mut functions = Functions::new();
        functions.insert(at(0x20, false, 'a')).unwrap();
        assert_eq!(
            functions.insert(at(0x21, false, 'b')),
            Err(SlotError::SingleFunction)
        );
        functions.insert(at(0x28, true, 'c')).unwrap();
        functions.insert(at(0x29, false, 'd')).unwrap();
        functions.insert(at(0x31, true, 'e')).unwrap();
        assert_eq!(
            functions.insert(at(0x30, false, 'f')),
            Err(SlotError::NotSingle(1))
        );
        functions.insert(at(0x30, true, 'g')).unwrap();
    }

    #[test]
    fn tables_end() {
        let mut functions = Functions::new();
        while let Ok(devfn) = functions.free_slot(BusId::Root) {
            functions.insert(at(devfn, true, 'f')).unwrap();
        }
        assert_eq!(functions.iter().count(), FUNCTIONS_MAX);
        let more = functions.insert(at(1, false, 'm'));
        assert_eq!(more, Err(SlotError::TooMany));
    }
}
