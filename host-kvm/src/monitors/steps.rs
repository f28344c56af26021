//! What happened to a connection and waits for its session, in order.

use std::collections::VecDeque;

/// Changes of who has the terminal that wait at most; more undo each other.
const FOCUS_MAX: usize = 8;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A client has connected.
    Open {
        /// The terminal is this session's.
        focus: bool,
    },
    /// A shared terminal is this session's now, or others'.
    Focus(bool),
    /// Bytes came in.
    Input(Vec<u8>),
}

/// What waits: one input at most.
#[derive(Debug, Default)]
pub(super) struct Steps(VecDeque<Step>);

impl Steps {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether input waits.
    pub(super) fn has_input(&self) -> bool {
        self.0.iter().any(|step| matches!(step, Step::Input(_)))
    }

    /// Adds what happened last.
    pub(super) fn push(&mut self, step: Step) {
        if let (Step::Focus(on), Some(Step::Focus(last))) = (&step, self.0.back())
            && on != last
            && self.0.len() >= FOCUS_MAX
        {
            self.0.pop_back();
        } else {
            self.0.push_back(step);
        }
    }

    /// Takes what happened first.
    pub(super) fn take(&mut self) -> Option<Step> {
        self.0.pop_front()
    }

    /// Puts back what is left of a step.
    pub(super) fn put_back(&mut self, step: Step) {
        self.0.push_front(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_order_and_bounded() {
        let mut steps = Steps::default();
        steps.push(Step::Open { focus: false });
        for _ in 0..1000 {
            steps.push(Step::Focus(true));
            steps.push(Step::Focus(false));
        }
        steps.push(Step::Focus(true));
        steps.push(Step::Input(b"x".to_vec()));
        assert!(steps.has_input() && steps.0.len() <= FOCUS_MAX + 2);
        assert_eq!(steps.take(), Some(Step::Open { focus: false }));
        let mut focus = false;
        while let Some(step) = steps.take() {
            match step {
                Step::Focus(on) => {
                    assert_ne!(on, focus);
                    focus = on;
                }
                other => assert_eq!(other, Step::Input(b"x".to_vec())),
            }
        }
        assert!(focus);
    }
}
