//! The QMP lexer, parser and writer.
