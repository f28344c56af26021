//! Drives two emulators with one script.
