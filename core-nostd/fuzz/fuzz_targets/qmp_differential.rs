//! The same bytes to the QMP parser and to serde_json: both accept or both refuse, and both read the
//! same value. What the writer prints reads back, by both, as what was read.
//!
//! Where QMP's dialect differs from JSON, the difference is expected as such, and nothing else:
//!
//! | input | QMP | here |
//! |---|---|---|
//! | strings in single quotes, and the escape `\'` | taken | translated before the reference reads it |
//! | U+0000 as the bytes C0 80 in a string | taken | translated |
//! | a name twice in one object | refused | `DuplicateKey` must be the answer |
//! | U+FDD0..U+FDEF and the last two of each plane | refused | `Utf8` or, escaped, `Unicode` must be |
//! | more than 1024 levels, 8192 tokens, 128 KiB | refused | that limit must be the answer |
//! | `-0` | an integer, without a sign | one value with the reference's -0.0 |
//! | an exponent right behind a single zero, `0e1` | the zero ends | refused as two values |
//! | several values in a row | taken one by one | only the first counts, so both refuse |
//! | bytes FE, FF and control characters outside of strings | end an error | whatever came before, what comes after is read as if by a fresh parser |
//!
//! Several of the causes for refusal may meet in one text; the answer must be one of them.
#![no_main]

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use thimble_core::qmp::{
    ParseError, Parser, QMP_MESSAGE_MAX, QMP_NESTING_MAX, QMP_TOKENS_MAX, Value, write_value,
};
use thimble_fuzz::reference::Tree;
use thimble_fuzz::{Output, Source, json, plant};

/// White space between tokens.
const WHITE: &[u8] = b" \t\r\n";

/// Levels that the reference, which is recursive, is given; more than QMP takes.
const REFERENCE_DEPTH: i32 = 1500;
const _: () = assert!(REFERENCE_DEPTH > QMP_NESTING_MAX);

thread_local! {
    static PARSER: RefCell<Box<Parser>> = RefCell::new(
        // SAFETY: a parser is valid when zero; memory that could not be had is a crash of the fuzzer.
        unsafe { Box::from_raw(alloc_zeroed(Layout::new::<Parser>()).cast()) }
    );
}

/// One document that was read, and how it is printed.
#[derive(Debug)]
struct Document {
    tree: Tree,
    printed: Vec<u8>,
}

impl Document {
    fn of(message: Value<'_>) -> Self {
        let mut output = Output::default();
        write_value(&mut output, message).expect("memory does not fill up");
        Self {
            tree: Tree::of(message),
            printed: output.0,
        }
    }
}

/// Reads one document, in two pieces. Without a message, or with more behind it than white space,
/// there is no error to tell.
fn parse(parser: &mut Parser, text: &[u8], cut: usize) -> Result<Document, Option<ParseError>> {
    let pieces = text.split_at(cut.min(text.len()));
    let mut found = None;
    // A number or word at the end needs something behind it.
    for mut piece in [pieces.0, pieces.1, b"\n"] {
        while !piece.is_empty() {
            if found.is_some() {
                if piece.iter().any(|byte| !WHITE.contains(byte)) {
                    return Err(None);
                }
                break;
            }
            let progress = parser.push(piece);
            piece = &piece[progress.consumed..];
            match progress.message {
                Some(Ok(())) => found = Some(Document::of(parser.message())),
                Some(Err(error)) => {
                    let _ = error.pieces(parser.text());
                    return Err(Some(error));
                }
                None => assert!(piece.is_empty()),
            }
        }
    }
    found.ok_or(None)
}

/// What a scan of the text finds, strings told from the rest as both parsers do.
#[derive(Default)]
struct Scan {
    /// The text in plain JSON.
    json: Vec<u8>,
    /// Bytes without the white space between tokens.
    size: usize,
    tokens: usize,
    depth: i32,
    raw_noncharacters: usize,
    /// A single zero with an exponent.
    zero_exponent: bool,
}

fn scan(text: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut quote = None;
    let (mut depth, mut in_word) = (0, false);
    let (mut at, mut word_start) = (0, 0);
    while let Some(&byte) = text.get(at) {
        let rest = &text[at..];
        let (taken, json): (usize, &[u8]) = match (quote, rest) {
            (None, [b'\'' | b'"', ..]) => {
                quote = Some(byte);
                scan.tokens += 1;
                (1, b"\"")
            }
            (None, _) => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                let word = !b"{}[],: \t\r\n".contains(&byte);
                if !(word && in_word) {
                    scan.tokens += usize::from(!WHITE.contains(&byte));
                    word_start = at;
                }
                in_word = word;
                let zero = matches!(&text[word_start..at], b"0" | b"-0");
                scan.zero_exponent |= zero && matches!(byte, b'e' | b'E');
                (1, &rest[..1])
            }
            (Some(open), _) if byte == open => {
                quote = None;
                (1, b"\"")
            }
            (Some(_), [b'\\', b'\'', ..]) => (2, b"'"),
            (Some(_), [b'\\', _, ..]) => (2, &rest[..2]),
            (Some(_), [b'"', ..]) => (1, b"\\\""),
            (Some(_), [0xc0, 0x80, ..]) => (2, b"\\u0000"),
            (Some(_), _) => (1, &rest[..1]),
        };
        in_word &= quote.is_none();
        if quote.is_some() || !WHITE.contains(&byte) {
            scan.size += taken;
        }
        scan.json.extend_from_slice(json);
        scan.depth = scan.depth.max(depth);
        at += taken;
    }
    let characters = String::from_utf8_lossy(text);
    scan.raw_noncharacters = characters.chars().filter(|c| is_noncharacter(*c)).count();
    scan
}

fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// Why QMP must refuse what JSON allows.
#[derive(Debug)]
struct Reasons {
    duplicate_key: bool,
    zero_exponent: bool,
    raw_noncharacter: bool,
    escaped_noncharacter: bool,
    size: bool,
    tokens: bool,
    depth: bool,
}

impl Reasons {
    fn of(tree: &Tree, scan: &Scan) -> Self {
        let (mut duplicate_key, mut noncharacters) = (false, 0);
        let mut count = |text: &str| {
            noncharacters += text.chars().filter(|c| is_noncharacter(*c)).count();
        };
        tree.visit(&mut |value| match value {
            Tree::Text(text) => count(text),
            Tree::Object(members) => {
                let mut names = HashSet::new();
                for (name, _) in members {
                    count(name);
                    duplicate_key |= !names.insert(name);
                }
            }
            _ => {}
        });
        Self {
            duplicate_key,
            zero_exponent: scan.zero_exponent,
            raw_noncharacter: scan.raw_noncharacters > 0,
            escaped_noncharacter: noncharacters > scan.raw_noncharacters,
            size: scan.size > QMP_MESSAGE_MAX,
            tokens: scan.tokens > QMP_TOKENS_MAX,
            depth: scan.depth > QMP_NESTING_MAX,
        }
    }

    fn any(&self) -> bool {
        let Self {
            duplicate_key,
            zero_exponent,
            raw_noncharacter,
            escaped_noncharacter,
            size,
            tokens,
            depth,
        } = *self;
        let characters = raw_noncharacter || escaped_noncharacter;
        duplicate_key || zero_exponent || characters || size || tokens || depth
    }

    /// Whether this may be the answer; `None` where more than one value was found.
    fn allow(&self, error: Option<&ParseError>) -> bool {
        let Some(error) = error else {
            return self.zero_exponent;
        };
        match error {
            ParseError::DuplicateKey => self.duplicate_key,
            // An exponent without its number is a word, or nothing.
            ParseError::SeparatorInList | ParseError::SeparatorInObject | ParseError::Stray(_) => {
                self.zero_exponent
            }
            ParseError::Utf8 => self.raw_noncharacter,
            ParseError::Unicode(_) => self.escaped_noncharacter,
            ParseError::MessageSize => self.size,
            ParseError::TokenCount => self.tokens,
            ParseError::Nesting => self.depth,
            _ => false,
        }
    }
}

/// Compares both parsers, and what is printed with what was read.
fn check(parser: &mut Parser, text: &[u8], cut: usize) -> Option<Tree> {
    let ours = parse(parser, text, cut);
    let scan = scan(text);
    if scan.depth > REFERENCE_DEPTH {
        assert!(ours.is_err(), "{} levels were taken", scan.depth);
        return None;
    }
    let reference = Tree::read(&scan.json);
    let Some(reference) = reference else {
        assert!(ours.is_err(), "the reference refuses {ours:?}");
        return None;
    };
    let reasons = Reasons::of(&reference, &scan);
    match ours {
        Ok(Document { tree, printed }) => {
            assert!(!reasons.any(), "taken in spite of {reasons:?}");
            assert!(tree.same(&reference), "{tree:?} against {reference:?}");
            reads_back(parser, &tree, &printed);
            Some(tree)
        }
        Err(error) if reasons.allow(error.as_ref()) => None,
        Err(error) => panic!("{error:?}, but {reasons:?} of {reference:?}"),
    }
}

/// What is printed reads back, by the reference and by us, and is printed the same again.
fn reads_back(parser: &mut Parser, tree: &Tree, printed: &[u8]) {
    let shown = String::from_utf8_lossy(printed);
    assert!(printed.is_ascii(), "{shown}");
    let read = Tree::read(printed).expect("JSON is printed");
    assert!(tree.equal(&read), "{tree:?} became {shown}");
    parser.reset();
    match parse(parser, printed, usize::MAX) {
        Ok(again) => {
            assert!(tree.equal(&again.tree), "{tree:?} became {:?}", again.tree);
            // A double of -0 is printed as an integer, which has no sign.
            let mut negative_zero = false;
            tree.visit(&mut |value| {
                negative_zero |=
                    matches!(value, Tree::Float(zero) if zero.to_bits() == (-0.0_f64).to_bits())
            });
            if !negative_zero {
                assert_eq!(shown, String::from_utf8_lossy(&again.printed));
            }
        }
        // Escapes are longer than what they stand for, and so is the space behind commas.
        Err(Some(ParseError::MessageSize)) if printed.len() > QMP_MESSAGE_MAX => {}
        Err(error) => panic!("{error:?}: {shown}"),
    }
}

/// After a reset byte and the end of its line, nothing is left of what came before.
fn starts_afresh(parser: &mut Parser, before: &[u8], after: &[u8], cut: usize) {
    parser.reset();
    let fresh = parse(parser, after, cut);
    parser.reset();
    for mut rest in [before, b"\xff\n"] {
        while !rest.is_empty() {
            rest = &rest[parser.push(rest).consumed..];
        }
    }
    match (fresh, parse(parser, after, cut)) {
        (Ok(fresh), Ok(later)) => {
            assert!(fresh.tree.same(&later.tree), "{fresh:?} became {later:?}")
        }
        (Err(fresh), Err(later)) => assert_eq!(fresh, later),
        (fresh, later) => panic!("{fresh:?} became {later:?}"),
    }
}

/// An object in a list, with a double in it.
fn is_deep(tree: &Tree) -> bool {
    let double = |tree: &Tree| matches!(tree, Tree::Object(members) if members.iter().any(|(_, value)| matches!(value, Tree::Float(_))));
    matches!(tree, Tree::List(elements) if elements.iter().any(double))
}

/// Texts at the limits, just below and just above: too long to be tried again and again.
fn limits(parser: &mut Parser) {
    let levels = QMP_NESTING_MAX as usize;
    for levels in levels - 1..=levels + 1 {
        let (open, close) = (b"[{\"a\": ".repeat(levels / 2), b"}]".repeat(levels / 2));
        let odd: [&[u8]; 2] = if levels % 2 == 0 {
            [b"", b""]
        } else {
            [b"[", b"]"]
        };
        check_limit(
            parser,
            &[odd[0], &open, b"1", &close, odd[1]].concat(),
            levels <= QMP_NESTING_MAX as usize,
        );
    }
    for tokens in QMP_TOKENS_MAX - 1..=QMP_TOKENS_MAX + 1 {
        let mut text = b"[".to_vec();
        // Brackets, elements, and commas between them; an empty list makes the number even.
        let even: &[u8] = if tokens % 2 == 0 { b"[]" } else { b"0" };
        text.extend(b"0, ".repeat((tokens - 3) / 2 - usize::from(tokens % 2 == 0)));
        text.extend(even);
        if tokens % 2 == 0 {
            text.extend(b", true");
        }
        text.push(b']');
        check_limit(parser, &text, tokens <= QMP_TOKENS_MAX);
    }
    for size in QMP_MESSAGE_MAX - 1..=QMP_MESSAGE_MAX + 1 {
        let text = ["[1, \"", &"a".repeat(size - 6), "\"]"].concat();
        check_limit(parser, text.as_bytes(), size <= QMP_MESSAGE_MAX);
    }
}

fn check_limit(parser: &mut Parser, text: &[u8], within: bool) {
    parser.reset();
    let tree = check(parser, text, text.len() / 2);
    assert_eq!(tree.is_some(), within, "{} bytes", text.len());
}

fuzz_target!(init: PARSER.with_borrow_mut(|parser| limits(parser)), |data: &[u8]| {
    // The first byte says where the text is cut, and where it comes from.
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let (mut made, cut) = (Vec::new(), usize::from(first >> 1));
    let text = if first & 1 == 0 {
        rest
    } else {
        json::value(&mut Source(rest), &mut made);
        &made
    };
    PARSER.with_borrow_mut(|parser| {
        parser.reset();
        let tree = check(parser, text, cut);
        plant(tree.is_some_and(|tree| is_deep(&tree)));
        if let Some(at) = text.iter().rposition(|byte| *byte == 0xff) {
            starts_afresh(parser, &text[..at], &text[at + 1..], cut);
        }
    });
});
