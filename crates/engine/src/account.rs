//! What drafts may cost a sequence.
//!
//! Accepted tokens earn the time of the steps that they save, drafts and what a model reads for them cost theirs, and nothing
//! is done that the account does not cover. It begins with the time of two steps, as long as all sequences together have that left
//! ([`crate::accept::Others`]), and grows by a fiftieth of what the sequence takes without drafts, its prompt included, which
//! bounds what drafts can cost it, whatever acceptance was measured.

/// What it may hold at most, in steps without drafts.
const CAP: f64 = 8.0;
/// What it grows by: a part of the time that the sequence takes without drafts.
pub(crate) const INCOME: f64 = 0.02;

/// See the module.
#[derive(Debug)]
pub(crate) struct Account {
    /// Steps that it begins with.
    start: f64,
    /// Seconds; `None` before it is known how long a step takes.
    seconds: Option<f64>,
    /// Seconds that drafts saved, less what they cost.
    saved: f64,
    /// The same of a model's drafts alone.
    saved_by_model: f64,
    /// Seconds of a step of the sequence alone.
    step: f64,
    /// Seconds that its prompt and its steps would have taken without drafts.
    plain: f64,
}

/// What drafts came to, in steps of the sequence alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Balance {
    /// What they saved, less what they cost.
    pub saved: f64,
    /// What the sequence would have taken without.
    pub plain: f64,
}

/// Whose a draft is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Lookup,
    Model,
}

impl Account {
    /// Begins with the time of so many steps.
    pub fn new(start: f64) -> Account {
        Account { start, seconds: None, saved: 0.0, saved_by_model: 0.0, step: 0.0, plain: 0.0 }
    }

    /// A step goes by that takes so many seconds for the sequence without a draft; 0: that is not known.
    pub fn step(&mut self, step: f64) {
        self.step = step;
        self.plain += step;
        if step > 0.0 {
            let seconds = self.seconds.get_or_insert(self.start * step);
            *seconds = (*seconds + INCOME * step).min(CAP * step);
        }
    }

    /// What the large model read of the sequence took so many seconds, and a step of it will take `step`, if that is known.
    pub fn begin(&mut self, read: f64, step: f64) {
        self.plain += read;
        if step > 0.0 {
            self.seconds = Some((self.start * step + INCOME * read).min(CAP * step));
        }
    }

    /// Seconds that may be spent.
    pub fn covers(&self) -> f64 {
        self.seconds.unwrap_or(0.0)
    }

    /// Pays for something; what is less than nothing is earned.
    pub fn spend(&mut self, by: By, seconds: f64) {
        self.saved -= seconds;
        if by == By::Model {
            self.saved_by_model -= seconds;
        }
        if let Some(account) = &mut self.seconds {
            *account -= seconds;
        }
    }

    /// Seconds that a model's drafts have saved, less what they cost.
    pub fn saved_by_model(&self) -> f64 {
        self.saved_by_model
    }

    /// Seconds that the sequence would have taken without drafts.
    pub fn plain(&self) -> f64 {
        self.plain
    }

    /// Seconds that drafts saved, less what they cost.
    pub fn saved(&self) -> f64 {
        self.saved
    }

    /// What drafts came to; `None` where nothing was measured.
    pub fn balance(&self) -> Option<Balance> {
        (self.step > 0.0).then(|| Balance { saved: self.saved / self.step, plain: self.plain / self.step })
    }
}
