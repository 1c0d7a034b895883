//! Pure: counters → which version answered how many requests, as rows for people.
use e2e::visit::Counts;

/// Answers of each version, of one kind of visitors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Split {
    v1: u64,
    v2: u64,
}

/// The same of both kinds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Splits {
    pub(crate) others: Split,
    pub(crate) canary: Split,
}

impl Split {
    /// What the counters say.
    pub(crate) fn of(counts: &Counts) -> Self {
        let of = |version: &str| counts.versions.get(version).copied().unwrap_or(0);
        Self { v1: of("v1"), v2: of("v2") }
    }

    /// Part of the second version, in percent; `None` of no answers.
    pub(crate) fn share(self) -> Option<u64> {
        (self.v2 * 100 + self.all() / 2).checked_div(self.all())
    }

    fn all(self) -> u64 {
        self.v1 + self.v2
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { v1: self.v1 + other.v1, v2: self.v2 + other.v2 }
    }

    fn since(self, before: Self) -> Self {
        Self { v1: self.v1.saturating_sub(before.v1), v2: self.v2.saturating_sub(before.v2) }
    }

    fn row(self) -> String {
        let share = self.share().map_or("-".into(), |share| format!("{share} %"));
        format!("{:>7} {:>7} {share:>7}", self.v1, self.v2)
    }
}

impl Splits {
    /// What came after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { others: self.others.since(before.others), canary: self.canary.since(before.canary) }
    }

    /// Answers of all kinds.
    pub(crate) fn all(self) -> u64 {
        self.others.plus(self.canary).all()
    }

    /// The names of the columns of [`Splits::row`].
    pub(crate) fn head() -> String {
        let columns = format!("{:>7} {:>7} {:>7}", "v1", "v2", "to v2");
        format!(
            "  {:<27}  {:<27}\n  {columns}      {columns}      failed",
            "  answers to everybody", "        x-canary-user: true"
        )
    }

    /// Everybody's answers, and the canary users'.
    pub(crate) fn row(self, failed: u64) -> String {
        format!("  {}      {}   {failed:>9}", self.others.row(), self.canary.row())
    }
}
