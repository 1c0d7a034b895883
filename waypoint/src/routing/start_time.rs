//! Pure: a moment in the forms of Envoy's `%START_TIME(...)%`.
//! Never: asks what time it is; another zone than UTC.
use std::{
    fmt::{self, Write},
    time::{Duration, SystemTime},
};

/// The form of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimeForm(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(char),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// Since 1970.
    Seconds,
    /// So many digits of a fraction of a second.
    Fraction(u8),
}

/// Digits of a fraction, unless said.
const NANOSECONDS: u8 = 9;

impl TimeForm {
    /// That of the access log: RFC 3339, with milliseconds.
    pub(super) fn standard() -> Self {
        Self::read("%FT%T.%3fZ").unwrap_or(Self(Vec::new()))
    }

    /// Reads `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`, `%F`, `%T`, `%s`, `%f` with a number of digits (`%3f`) or
    /// without, and `%%`; `None` for others.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (mut pieces, mut rest) = (Vec::new(), text.chars());
        while let Some(next) = rest.next() {
            if next != '%' {
                pieces.push(Piece::Text(next));
                continue;
            }
            let text = Piece::Text;
            match rest.next()? {
                'Y' => pieces.push(Piece::Year),
                'm' => pieces.push(Piece::Month),
                'd' => pieces.push(Piece::Day),
                'H' => pieces.push(Piece::Hour),
                'M' => pieces.push(Piece::Minute),
                'S' => pieces.push(Piece::Second),
                'F' => pieces.extend([Piece::Year, text('-'), Piece::Month, text('-'), Piece::Day]),
                'T' => {
                    pieces.extend([Piece::Hour, text(':'), Piece::Minute, text(':'), Piece::Second])
                }
                's' => pieces.push(Piece::Seconds),
                'f' => pieces.push(Piece::Fraction(NANOSECONDS)),
                '%' => pieces.push(text('%')),
                digits @ '1'..='9' if rest.next() == Some('f') => {
                    pieces.push(Piece::Fraction(digits.to_digit(10)?.try_into().ok()?));
                }
                _ => return None,
            }
        }
        Some(Self(pieces))
    }

    /// A moment in this form; what was before 1970 is 1970.
    pub(super) fn of(&self, moment: SystemTime) -> String {
        let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut text = String::new();
        // Text takes everything.
        let _ = self.0.iter().try_for_each(|piece| piece.write(since, &mut text));
        text
    }
}

impl Piece {
    fn write(&self, since: Duration, into: &mut String) -> fmt::Result {
        let seconds = since.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        match self {
            Self::Text(text) => into.write_char(*text),
            Self::Year => write!(into, "{year:04}"),
            Self::Month => write!(into, "{month:02}"),
            Self::Day => write!(into, "{day:02}"),
            Self::Hour => write!(into, "{:02}", seconds / 3_600 % 24),
            Self::Minute => write!(into, "{:02}", seconds / 60 % 60),
            Self::Second => write!(into, "{:02}", seconds % 60),
            Self::Seconds => write!(into, "{seconds}"),
            Self::Fraction(digits) => {
                let all = format!("{:09}", since.subsec_nanos());
                into.write_str(all.get(..usize::from(*digits)).unwrap_or(&all))
            }
        }
    }
}

/// Year, month and day of so many days after 1970-01-01, in the Gregorian calendar: years are counted from
/// March, so that the day of the leap is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01, in cycles of 400 years.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * cycle + year + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_the_form_that_is_asked_for() {
        let moment = SystemTime::UNIX_EPOCH + Duration::new(1_709_210_096, 7_654_321);
        for (form, expected) in [
            ("%Y/%m/%d %H:%M:%S", "2024/02/29 12:34:56"),
            ("%FT%T.%3fZ", "2024-02-29T12:34:56.007Z"),
            ("t=%s.%3f", "t=1709210096.007"),
            ("%s%6f%%", "1709210096007654%"),
            ("%f", "007654321"),
            ("", ""),
        ] {
            assert_eq!(TimeForm::read(form).unwrap().of(moment), expected, "{form}");
        }
        for form in ["%", "%Q", "%3s", "%0f", "%3"] {
            assert_eq!(TimeForm::read(form), None, "{form}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for day in (0..120_000).step_by(37) {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
            let expected = humantime::format_rfc3339_millis(moment).to_string();
            assert_eq!(TimeForm::standard().of(moment), expected);
        }
    }
}
