//! Comparison of answers, against the one list of known differences.
//!
//! `differences.list` holds records of five lines, apart by blank lines; lines that start with `#` are comments:
//!
//! ```text
//! test: qtest-lines
//! input: inb
//! qemu: <exits>
//! thimble: FAIL *
//! reason: crashes QEMU
//! ```
//!
//! A `*` that ends an answer stands for any rest, since a list that repeats wording would only be a second place
//! to change. The reasons are few on purpose: see `REASONS`.

use std::fmt::Write;

use crate::Emulator;

/// The reason of an entry that need not be met in each run.
const VARIES: &str = "varies by run";

/// Why two answers may differ. The last one goes on with the section of the manual.
const REASONS: [&str; 5] = [
    "invalid JSON from QEMU",
    "absent from 7.2",
    VARIES,
    "crashes QEMU",
    "QEMU contradicts the manual: ",
];

/// One known difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    test: String,
    input: String,
    qemu: String,
    thimble: String,
    reason: String,
}

impl Entry {
    fn covers(&self, input: &str, qemu: &str, thimble: &str) -> bool {
        self.input == input && matches(&self.qemu, qemu) && matches(&self.thimble, thimble)
    }
}

fn matches(pattern: &str, answer: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => answer.starts_with(start),
        None => pattern == answer,
    }
}

/// Collects what both emulators answered to the same inputs of one test.
pub struct Comparison {
    test: String,
    known: Vec<(Entry, bool)>,
    unknown: Vec<Entry>,
    compared: usize,
}

impl Comparison {
    /// Begins the comparison of the test that the list's `test:` lines call `test`.
    ///
    /// # Panics
    ///
    /// If the list of differences can't be read.
    pub fn new(test: &str) -> Self {
        let known = load()
            .into_iter()
            .filter(|entry| entry.test == test)
            .map(|entry| (entry, false))
            .collect();
        Self {
            test: test.to_string(),
            known,
            unknown: Vec::new(),
            compared: 0,
        }
    }

    /// Adds one pair of answers. Line ends in them are written as `\n`.
    pub fn add(&mut self, input: &str, qemu: &str, thimble: &str) {
        self.compared += 1;
        let [input, qemu, thimble] = [input, qemu, thimble].map(one_line);
        if qemu == thimble {
            return;
        }
        let covering = self
            .known
            .iter_mut()
            .find(|(entry, _)| entry.covers(&input, &qemu, &thimble));
        match covering {
            Some((_, used)) => *used = true,
            None => self.unknown.push(Entry {
                test: self.test.clone(),
                input,
                qemu,
                thimble,
                reason: String::new(),
            }),
        }
    }

    /// Leaves an input out that this run can't answer; what the list says of it is not stale for that.
    pub fn leave_out(&mut self, input: &str) {
        for (_, used) in self
            .known
            .iter_mut()
            .filter(|(entry, _)| entry.input == input)
        {
            *used = true;
        }
    }

    /// Ends the comparison.
    ///
    /// # Panics
    ///
    /// If answers differ that the list doesn't have, if an entry of the list was not met, or if nothing was compared.
    pub fn finish(self) {
        if let Some(report) = self.failures() {
            panic!("{report}");
        }
    }

    fn failures(self) -> Option<String> {
        let mut report = String::new();
        let mut write = |text: String| writeln!(report, "{text}").expect("a String takes text");
        if self.compared == 0 {
            write(format!("{}: nothing was compared", self.test));
        }
        for entry in &self.unknown {
            write(format!(
                "answers differ:\ntest: {}\ninput: {}\nqemu: {}\nthimble: {}\n",
                entry.test, entry.input, entry.qemu, entry.thimble
            ));
        }
        let unused = self.known.iter().filter(|(_, used)| !used);
        // What varies may happen to be the same this time.
        for (entry, _) in unused.filter(|(entry, _)| entry.reason != VARIES) {
            write(format!(
                "stale entry in differences.list:\ntest: {}\ninput: {}\n",
                entry.test, entry.input
            ));
        }
        (!report.is_empty()).then_some(report)
    }
}

/// Checks that the list is well formed and names only tests in `tests`; returns how many entries it has.
///
/// # Panics
///
/// If it isn't.
pub fn check_list(tests: &[String]) -> usize {
    let entries = load();
    for entry in &entries {
        assert!(
            tests.contains(&entry.test),
            "differences.list names the unknown test {}",
            entry.test
        );
    }
    entries.len()
}

fn load() -> Vec<Entry> {
    let path = crate::source_dir().join("differences.list");
    let text = std::fs::read_to_string(&path).expect("differences.list can be read");
    parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let mut record: Vec<(&str, &str)> = Vec::new();
    for (number, line) in text.lines().chain([""]).enumerate() {
        if line.starts_with('#') {
            continue;
        }
        if !line.is_empty() {
            let field = line.split_once(':').ok_or("a line without a colon");
            let (name, value) = field.map_err(|error| format!("line {}: {error}", number + 1))?;
            record.push((name, value.strip_prefix(' ').unwrap_or(value)));
            continue;
        }
        if record.is_empty() {
            continue;
        }
        let entry =
            entry(&record).map_err(|error| format!("before line {}: {error}", number + 1))?;
        entries.push(entry);
        record.clear();
    }
    Ok(entries)
}

fn entry(record: &[(&str, &str)]) -> Result<Entry, String> {
    let names: Vec<_> = record.iter().map(|(name, _)| *name).collect();
    if names != ["test", "input", "qemu", "thimble", "reason"] {
        return Err(format!("a record of the lines {names:?}"));
    }
    let value = |index: usize| record[index].1.to_string();
    let entry = Entry {
        test: value(0),
        input: value(1),
        qemu: value(2),
        thimble: value(3),
        reason: value(4),
    };
    let allowed = REASONS.iter().any(|reason| {
        if reason.ends_with(' ') {
            entry.reason.len() > reason.len() && entry.reason.starts_with(reason)
        } else {
            entry.reason == *reason
        }
    });
    if !allowed {
        return Err(format!(
            "the reason '{}' is none of {REASONS:?}",
            entry.reason
        ));
    }
    Ok(entry)
}

fn one_line(text: &str) -> String {
    text.trim_end_matches(['\r', '\n'])
        .replace('\r', "\\r")
        .replace('\n', "\\n")
}

/// Asks both emulators by the same function, QEMU first.
pub fn ask_both<T>(mut ask: impl FnMut(Emulator) -> T) -> [T; 2] {
    Emulator::BOTH.map(&mut ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        "# known\n\ntest: a\ninput: inb\nqemu: <exits>\nthimble: FAIL *\nreason: crashes QEMU\n";

    fn comparison(list: &str) -> Comparison {
        Comparison {
            test: "a".into(),
            known: parse(list)
                .expect("a list")
                .into_iter()
                .map(|entry| (entry, false))
                .collect(),
            unknown: Vec::new(),
            compared: 0,
        }
    }

    #[test]
    fn equal_answers_and_known_differences_pass() {
        let mut comparison = comparison(LIST);
        comparison.add("inb 1", "OK 0x1", "OK 0x1");
        comparison.add("inb", "<exits>", "FAIL one argument is missing");
        assert_eq!(comparison.failures(), None);
    }

    #[test]
    fn an_unknown_difference_fails() {
        let mut comparison = comparison("");
        comparison.add("inb 1", "OK 0x1", "OK 0x2");
        let report = comparison.failures().expect("a failure");
        assert!(report.contains("thimble: OK 0x2"));
    }

    #[test]
    fn an_answer_that_changed_fails_twice() {
        let mut comparison = comparison(LIST);
        comparison.add("inb", "<exits>", "OK");
        let report = comparison.failures().expect("a failure");
        assert!(report.contains("answers differ") && report.contains("stale entry"));
    }

    #[test]
    fn a_stale_entry_fails() {
        let mut comparison = comparison(LIST);
        comparison.add("inb", "FAIL x", "FAIL x");
        assert!(comparison.failures().is_some_and(|r| r.contains("stale")));
    }

    #[test]
    fn nothing_compared_fails() {
        assert!(comparison("").failures().is_some());
    }

    #[test]
    fn what_varies_may_be_the_same() {
        let mut comparison = comparison(&LIST.replace("crashes QEMU", VARIES));
        comparison.add("inb", "OK", "OK");
        assert_eq!(comparison.failures(), None);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for list in [
            "test: a\n",
            "test: a\ninput: b\nqemu: c\nthimble: d\nreason: we like it\n",
            "test: a\ninput: b\nqemu: c\nthimble: d\nreason: QEMU contradicts the manual: \n",
            "nonsense\n",
        ] {
            assert!(parse(list).is_err(), "{list}");
        }
    }
}
