//! What the guest boots from: `-boot` and `-option-rom`.

use thimble_core::firmware::boot_order::{Letters, LettersError};

use super::MachineKind;
use super::opts::{Kind, OptsTable, Reason, SubOption};

/// `-boot`: what several of them say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOptions {
    /// Letters, in order.
    pub order: Option<String>,
    /// Letters until the first reset.
    pub once: Option<String>,
    /// Whether there is a menu.
    pub menu: bool,
    /// A picture's file.
    pub splash: Option<String>,
    /// Milliseconds that it, or the menu's prompt, is shown.
    pub splash_time: Option<u16>,
    /// Milliseconds until firmware starts over; `None`: never.
    pub reboot_timeout: Option<u16>,
    /// Nothing without an index is tried.
    pub strict: bool,
    /// Floppy disks need no signature (`-no-fd-bootchk`).
    pub no_floppy_signature: bool,
    /// The option that was given last, for messages about files.
    pub origin: String,
}

/// `-option-rom`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionRom {
    /// The file.
    pub file: String,
    /// Its place in the boot order; -1: none.
    pub bootindex: i32,
    /// The option as given, for messages.
    pub origin: String,
}

pub(super) static BOOT: OptsTable = OptsTable {
    name: "boot-opts",
    implied: Some("order"),
    options: &[
        SubOption::new(
            "order",
            Kind::Text,
            "kinds of devices: a and b floppies, c hard disks, d CD-ROMs, n networks",
        ),
        SubOption::new("once", Kind::Text, "the same, until the first reset"),
        SubOption::new("menu", Kind::Bool, "whether firmware offers a menu"),
        SubOption::new("splash", Kind::Text, "a picture, JPEG or BMP, for the menu"),
        SubOption::new(
            "splash-time",
            Kind::Integer,
            "milliseconds that the menu waits for a key",
        ),
        SubOption::new(
            "reboot-timeout",
            Kind::Integer,
            "milliseconds until firmware that found nothing starts over; -1: never",
        ),
        SubOption::new(
            "strict",
            Kind::Bool,
            "try only devices with a bootindex, if any has one",
        ),
    ],
};

pub(super) static OPTION_ROM: OptsTable = OptsTable {
    name: "option-rom",
    implied: Some("romfile"),
    options: &[
        SubOption::new("romfile", Kind::Text, "the file"),
        SubOption::new(
            "bootindex",
            Kind::Integer,
            "its place in the boot order, from 0",
        ),
    ],
};

impl BootOptions {
    /// Adds what one `-boot` says.
    ///
    /// # Errors
    /// In QEMU's words.
    pub(super) fn add(&mut self, text: &str, origin: &str) -> Result<(), Reason> {
        let given = BOOT.parse(text).map_err(|reason| in_words(&reason))?;
        for letters in [given.text("order"), given.text("once")] {
            Letters::check(letters.unwrap_or_default()).map_err(|error| error.to_string())?;
        }
        self.order = given.owned("order").or(self.order.take());
        self.once = given.owned("once").or(self.once.take());
        self.menu = given.bool("menu").unwrap_or(self.menu);
        self.splash = given.owned("splash").or(self.splash.take());
        self.strict = given.bool("strict").unwrap_or(self.strict);
        if let Some(time) = given.integer("splash-time") {
            let time = u16::try_from(time).map_err(|_| {
                "splash-time is invalid,it should be a value between 0 and 65535".to_owned()
            })?;
            self.splash_time = Some(time);
        }
        match given.integer("reboot-timeout") {
            None => {}
            Some(-1) => self.reboot_timeout = None,
            Some(time) => {
                let time = u16::try_from(time).map_err(|_| {
                    "reboot timeout is invalid,it should be a value between -1 and 65535".to_owned()
                })?;
                self.reboot_timeout = Some(time);
            }
        }
        origin.clone_into(&mut self.origin);
        Ok(())
    }

    /// The order, and the one until the first reset. On other boards than the PC nobody reads them.
    ///
    /// # Errors
    /// What no PC boots from, in QEMU's words.
    pub fn letters(&self, kind: MachineKind) -> Result<(Letters, Option<Letters>), LettersError> {
        if kind != MachineKind::Pc {
            return Ok((Letters::DEFAULT, None));
        }
        let order = self.order.as_deref().map(Letters::parse).transpose()?;
        let once = self.once.as_deref().map(Letters::parse).transpose()?;
        Ok((order.unwrap_or(Letters::DEFAULT), once))
    }
}

/// The sentences of a machine's property, which `-boot` is to QEMU.
fn in_words(reason: &str) -> Reason {
    match reason.strip_prefix("Invalid parameter '") {
        Some(rest) => format!("Parameter 'boot.{rest} is unexpected"),
        None => reason.replacen("Parameter '", "Parameter 'boot.", 1),
    }
}

impl OptionRom {
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self, Reason> {
        let given = OPTION_ROM.parse(text).map_err(|reason| {
            // As QEMU says it of this option.
            reason.replacen("expects integer", "expects a number", 1)
        })?;
        let file = given.owned("romfile").filter(|file| !file.is_empty());
        let bootindex = given.integer("bootindex").unwrap_or(-1);
        Ok(Self {
            file: file.ok_or("Option ROM file is not specified")?,
            bootindex: i32::try_from(bootindex)
                .map_err(|_| "Parameter 'bootindex' does not fit 32 bits".to_owned())?,
            origin: origin.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(texts: &[&str]) -> Result<BootOptions, Reason> {
        let mut options = BootOptions::default();
        for text in texts {
            options.add(text, "")?;
        }
        Ok(options)
    }

    #[test]
    fn several_options_add_up() {
        let options = boot(&["dc,menu=on", "once=n,splash-time=3000", "reboot-timeout=5"]).unwrap();
        assert_eq!(options.order.as_deref(), Some("dc"));
        assert_eq!(options.once.as_deref(), Some("n"));
        assert!(options.menu && !options.strict);
        assert_eq!(options.splash_time, Some(3000));
        assert_eq!(options.reboot_timeout, Some(5));
        assert_eq!(
            boot(&["reboot-timeout=5", "reboot-timeout=-1"])
                .unwrap()
                .reboot_timeout,
            None
        );
    }

    /// QEMU 7.2's sentences.
    #[test]
    fn errors() {
        for (text, reason) in [
            ("q", "Invalid boot device 'q'"),
            ("once=aa", "Boot device 'a' was given twice"),
            ("menu", "Invalid boot device 'u'"),
            ("c,foo=1", "Parameter 'boot.foo' is unexpected"),
            ("menu=x", "Parameter 'boot.menu' expects 'on' or 'off'"),
            (
                "splash-time=x",
                "Parameter 'boot.splash-time' expects integer",
            ),
            (
                "splash-time=65536",
                "splash-time is invalid,it should be a value between 0 and 65535",
            ),
            (
                "reboot-timeout=-2",
                "reboot timeout is invalid,it should be a value between -1 and 65535",
            ),
        ] {
            assert_eq!(boot(&[text]).unwrap_err(), reason, "{text}");
        }
        let letters = |text, kind| {
            let letters = boot(&[text]).unwrap().letters(kind);
            letters.map_err(|error| error.to_string())
        };
        let too_many = "Too many boot devices for PC".to_owned();
        assert_eq!(letters("once=abcd", MachineKind::Pc), Err(too_many));
        assert!(letters("abcdefgh", MachineKind::Microvm).is_ok());
    }

    #[test]
    fn option_roms() {
        let rom = |text| OptionRom::parse(text, "");
        assert_eq!(rom("a,bootindex=3").unwrap().bootindex, 3);
        assert_eq!(rom("romfile=a").unwrap().bootindex, -1);
        for (text, reason) in [
            ("bootindex=1", "Option ROM file is not specified"),
            ("a,bootindex=x", "Parameter 'bootindex' expects a number"),
            ("a,foo=1", "Invalid parameter 'foo'"),
        ] {
            assert_eq!(rom(text).unwrap_err(), reason);
        }
    }
}
