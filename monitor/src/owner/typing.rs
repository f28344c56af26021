//! What sessions of the human monitor ask, beside what their commands do.

/// What a session of the human monitor asks while a line is typed.
pub trait Typing {
    /// Whether the process is about to end, so that there is nothing more to say.
    fn quits(&self) -> bool;

    /// Tells the names of files that begin with this path, in order; those of directories end with `/`. It is for
    /// a user who is asked which one he means: of a large directory, a part is enough.
    fn visit_files(&self, path: &[u8], visit: &mut dyn FnMut(&[u8]));
}
