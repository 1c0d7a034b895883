//! Pure: which host names are to be looked up when, and what is known of them.
//! Never: forgets what a name had because nobody answers.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::backend::Names;

/// An answer is good for so long at least, whatever it says of itself.
pub(super) const SOONEST: Duration = Duration::from_secs(1);
/// And at most.
pub(super) const LATEST: Duration = Duration::from_secs(300);
/// Pause before a name is looked up again that has no addresses, or of which nobody could say.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Addresses of a name that are kept.
const MOST_ADDRESSES: usize = 256;

/// What a look at a name came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has these addresses, for so long.
    Found(Vec<IpAddr>, Duration),
    /// It has none: whoever is asked is sure of that.
    Nothing,
    /// Nobody could say.
    Silence(String),
}

/// All names, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    wanted: BTreeMap<Arc<str>, Wanted>,
    names: Names,
}

#[derive(Debug)]
struct Wanted {
    /// When it is looked up next; `None` while it is.
    due: Option<Instant>,
    /// Somebody has answered, or did not in time.
    asked: bool,
    /// Nobody could say, the last time.
    silent: bool,
}

/// What an answer changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The addresses of the name.
    pub(super) addresses: bool,
    /// Whether somebody can say, now; when that is otherwise than the last time.
    pub(super) heard: Option<bool>,
}

impl Schedule {
    /// These are the names from now on.
    pub(super) fn want(&mut self, names: BTreeSet<Arc<str>>, now: Instant) {
        let forgotten = &mut self.names;
        self.wanted.retain(|name, _| {
            let stays = names.contains(name);
            if !stays {
                forgotten.forget(name);
            }
            stays
        });
        for name in names {
            let new = Wanted { due: Some(now), asked: false, silent: false };
            self.wanted.entry(name).or_insert(new);
        }
    }

    /// At most so many names that are to be looked up now.
    pub(super) fn begin(&mut self, most: usize, now: Instant) -> Vec<Arc<str>> {
        let due = self.wanted.iter_mut().filter(|(_, wanted)| wanted.due.is_some_and(|d| d <= now));
        let begun = due.take(most).map(|(name, wanted)| {
            wanted.due = None;
            name.clone()
        });
        begun.collect()
    }

    /// When the next name is to be looked up, of those that are not being looked up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.wanted.values().filter_map(|wanted| wanted.due).min()
    }

    /// What a look at a name came to.
    pub(super) fn learn(&mut self, name: &Arc<str>, answer: Answer, now: Instant) -> News {
        let Some(wanted) = self.wanted.get_mut(name) else { return News::default() };
        wanted.asked = true;
        let silent = matches!(answer, Answer::Silence(_));
        let heard = (wanted.silent != silent).then_some(!silent);
        wanted.silent = silent;
        let (addresses, pause) = match answer {
            Answer::Found(mut addresses, good) => {
                addresses.truncate(MOST_ADDRESSES);
                (self.names.set(name, addresses), good.clamp(SOONEST, LATEST))
            }
            Answer::Nothing => (self.names.set(name, Vec::new()), RETRY),
            Answer::Silence(_) => (false, RETRY),
        };
        wanted.due = Some(now + pause);
        News { addresses, heard }
    }

    /// Whether each name was looked up once.
    pub(super) fn is_begun(&self) -> bool {
        self.wanted.values().all(|wanted| wanted.asked)
    }

    /// What is known.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn start(of: &[&str]) -> (Schedule, Instant) {
        let (mut schedule, now) = (Schedule::default(), culvert_agent::clock::now());
        schedule.want(names(of), now);
        (schedule, now)
    }

    #[test]
    fn a_name_is_looked_up_again_when_its_answer_ends_within_bounds() {
        let second = Duration::from_secs(1);
        for (said, pause) in [(0, SOONEST), (7, 7 * second), (86_400, LATEST)] {
            let (mut schedule, now) = start(&["a.example"]);
            let asked = schedule.begin(8, now);
            assert_eq!((asked.len(), schedule.next()), (1, None), "it is being looked up");
            let answer = Answer::Found(vec![ONE], said * second);
            let news = schedule.learn(&asked[0], answer, now);
            assert_eq!(news, News { addresses: true, heard: None });
            assert_eq!(schedule.next(), Some(now + pause));
            assert!(schedule.begin(8, now + pause - second / 1000).is_empty());
            assert_eq!(schedule.begin(8, now + pause).len(), 1);
        }
    }

    #[test]
    fn silence_keeps_what_is_known_and_a_name_without_addresses_has_none() {
        let (mut schedule, now) = start(&["a.example"]);
        let name = schedule.begin(8, now).remove(0);
        schedule.learn(&name, Answer::Found(vec![TWO, ONE, TWO], SOONEST), now);
        assert_eq!(schedule.names().addresses("a.example"), [ONE, TWO]);
        let silence = || Answer::Silence("nobody answers".into());
        let lost = News { addresses: false, heard: Some(false) };
        assert_eq!(schedule.learn(&name, silence(), now), lost);
        assert_eq!(schedule.learn(&name, silence(), now), News::default(), "it is told once");
        assert_eq!(schedule.names().addresses("a.example"), [ONE, TWO]);
        assert_eq!(schedule.next(), Some(now + RETRY));
        let again = Answer::Found(vec![ONE, TWO], SOONEST);
        let back = News { addresses: false, heard: Some(true) };
        assert_eq!(schedule.learn(&name, again, now), back);
        assert!(schedule.learn(&name, Answer::Nothing, now).addresses);
        assert!(schedule.names().addresses("a.example").is_empty());
    }

    #[test]
    fn names_come_and_go_and_only_so_many_are_looked_up_at_one_time() {
        let (mut schedule, now) = start(&["a.example", "b.example", "c.example"]);
        let first = schedule.begin(2, now);
        assert_eq!((first.len(), schedule.is_begun()), (2, false));
        schedule.learn(&first[0], Answer::Found(vec![ONE], LATEST), now);
        schedule.want(names(&["b.example", "d.example"]), now);
        assert!(schedule.names().addresses("a.example").is_empty(), "nobody asks for it");
        let late = Answer::Found(vec![ONE], LATEST);
        assert_eq!(schedule.learn(&first[0], late, now), News::default());
        assert_eq!(schedule.begin(8, now), [Arc::from("d.example")]);
        schedule.learn(&first[1], Answer::Nothing, now);
        schedule.learn(&Arc::from("d.example"), Answer::Silence(String::new()), now);
        assert!(schedule.is_begun());
    }
}
