//! Codecs of outside formats.
