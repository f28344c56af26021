//! What commands ask about the log. Trace events are the process' own: nobody is asked for them.

use crate::QmpError;

/// The log of what processors and devices do.
pub trait Traces {
    /// Logs these items from now on, apart by commas, and no others; `none` is none of them. False if one is no item.
    ///
    /// # Errors
    /// If one can't be logged here, in words.
    fn set_log(&mut self, items: &[u8]) -> Result<bool, QmpError>;

    /// Shows a text of all items, in lines.
    fn visit_log_items(&self, visit: &mut dyn FnMut(&str));

    /// Lets log and traces go to a file of this name, which is created, from now on.
    ///
    /// # Errors
    /// If it can't be created, in words.
    fn set_log_file(&mut self, name: &[u8]) -> Result<(), QmpError>;
}
