//! What the human monitor does with drives beside what QMP does: makes them and takes them away, reads and writes them.

use std::fmt;

use thimble_core::qmp::Parser;
use thimble_monitor::QmpError;
use thimble_monitor::owner::block::{DriveName, Unheard};
use thimble_monitor::schema::arguments::BlockdevOptions;
use thimble_monitor::schema::read_option;

use super::Vm;
use super::block::{refused, text};
use crate::block::storage_commands::{self, Target};
use crate::options::{BlockOption, Interface, parse_drive};

impl Vm {
    /// Makes a drive without a device.
    pub(super) fn add_drive(&mut self, options: &str) -> Result<(), QmpError> {
        let parsed = parse_drive(options, options, &self.settings.drive_options);
        let drive = parsed.map_err(refused)?;
        let blocks = &self.settings.blocks;
        let opened = blocks.open_drive(&drive.id, &drive.image);
        let opened = opened.map_err(refused)?;
        if drive.interface != Interface::None {
            blocks.remove_drive(&opened);
            let number = drive.interface.number();
            return Err(refused(format!("Can't hot-add drive to type {number}")));
        }
        let option = BlockOption::Drive(Box::new(drive));
        self.settings.drive_options.push(option);
        Ok(())
    }

    /// Opens a node.
    pub(super) fn add_node(&mut self, options: &str) -> Result<(), QmpError> {
        let mut parser = Box::new(Parser::new());
        let options = read_option::<BlockdevOptions<'_>>(&mut parser, options);
        let options = options.map_err(|error| refused(error.to_string()))?;
        if options.node_name.is_none() {
            return Err(refused("'node-name' needs to be specified".to_owned()));
        }
        self.settings.blocks.add(&options).map_err(refused)
    }

    /// Takes a drive or a node away.
    pub(super) fn delete_drive(&mut self, name: &str) -> Result<(), QmpError> {
        let blocks = self.settings.blocks.clone();
        if blocks.node(name).is_some() {
            return blocks.remove(name).map_err(refused);
        }
        let drive = blocks.drive(name);
        let drive = drive.ok_or_else(|| refused(format!("Device '{name}' not found")))?;
        self.settings.drive_options.retain(|option| match option {
            BlockOption::Drive(drive) => drive.id != name,
            BlockOption::Node { .. } => true,
        });
        blocks.remove_drive(&drive);
        self.settle_blocks();
        if drive
            .device
            .borrow()
            .as_ref()
            .is_some_and(|device| device.removable)
        {
            self.tell_medium(&drive);
        }
        Ok(())
    }

    /// Reads or writes a drive or a node.
    pub(super) fn command_storage(
        &mut self,
        name: DriveName<'_>,
        words: &str,
        say: &mut dyn fmt::Write,
    ) -> Result<(), Unheard> {
        let blocks = self.settings.blocks.clone();
        let target = match name {
            DriveName::Device(_) => Target::Drive(self.find(name)?.drive),
            DriveName::Drive(name) => {
                let name = text(name);
                match blocks.drive(&name) {
                    Some(drive) => Target::Drive(drive),
                    None => {
                        let node = blocks.known_node(&name);
                        let target = node.and_then(|node| Target::of_node(&node));
                        target.map_err(refused)?
                    }
                }
            }
        };
        storage_commands::run(&blocks, target, words, say)?;
        self.settle_blocks();
        Ok(())
    }
}
