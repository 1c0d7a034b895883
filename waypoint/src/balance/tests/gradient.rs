//! Pure: what the limit that is found out promises, with a service of known capacity behind it, in random
//! schedules.
//! Never: a clock.
use std::time::Instant;

use super::{
    super::{
        Kind, Limits, Permit,
        gradient::{Gradient, LEAST, MOST},
    },
    *,
};

/// How often clients look for an answer.
const STEP: Duration = Duration::from_millis(2);

/// A service that answers so many at once in its own time; beyond them everybody waits for everybody.
struct Service {
    at_once: u32,
    takes: Duration,
}

struct World {
    dice: Dice,
    now: Instant,
    gradient: Gradient,
    limits: Arc<Limits>,
    most: u32,
    service: Service,
    /// When each is answered, since when it is under way, and its place; and those that never are.
    under_way: Vec<(Option<Instant>, Instant, Permit)>,
    refused: u64,
    slowest: Duration,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "only differences count")]
    fn new(seed: u64, at_once: u32, takes: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            now: Instant::now(),
            gradient: Gradient::default(),
            limits: Arc::default(),
            most: u32::MAX,
            service: Service { at_once, takes: Duration::from_millis(takes) },
            under_way: Vec::new(),
            refused: 0,
            slowest: Duration::ZERO,
        }
    }

    fn ask(&mut self, hangs: bool) {
        let Some(permit) = self.gradient.admit(&self.limits, self.most) else {
            let most = self.gradient.limit().min(self.most) as usize;
            assert!(self.under_way.len() >= most, "refused with places left");
            self.refused += 1;
            return;
        };
        let busy = self.under_way.len() as u32 + 1;
        let Service { at_once, takes } = self.service;
        let shared = takes * busy.max(at_once) / at_once;
        // Some noise: up to a fifth more.
        let noise = shared / 5 * self.dice.below(100) as u32 / 100;
        let answered = (!hangs).then_some(self.now + shared + noise);
        self.under_way.push((answered, self.now, permit));
    }

    /// So much later; whoever was answered meanwhile gives his place back.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.under_way.sort_by_key(|(answered, begun, _)| (answered.is_none(), *answered, *begun));
        while let Some((Some(at), begun, _)) = self.under_way.first()
            && *at <= until
        {
            let (at, latency) = (*at, *at - *begun);
            self.slowest = self.slowest.max(latency);
            self.gradient.report(latency, at);
            drop(self.under_way.remove(0));
        }
        self.now = until;
        self.check();
    }

    fn check(&self) {
        let limit = self.gradient.limit();
        assert!((LEAST..=MOST).contains(&limit), "{limit}");
        assert_eq!(self.limits.taken(Kind::Request) as usize, self.under_way.len());
    }

    /// So many clients, each of which asks again at once, for so many steps.
    fn crowd(&mut self, clients: usize, steps: u64) {
        for _ in 0..steps {
            (self.under_way.len()..clients).for_each(|_| self.ask(false));
            self.pass(STEP);
        }
    }

    /// The same for so many seconds.
    fn load(&mut self, clients: usize, seconds: u64) {
        self.crowd(clients, seconds * 500);
    }
}

#[test]
fn the_limit_settles_where_requests_begin_to_wait_and_stays_there() {
    for (at_once, takes) in [(50, 20), (10, 50), (200, 5)] {
        let mut world = World::new(1, at_once, takes);
        let clients = 3 * at_once as usize;
        world.load(clients, 30);
        for later in 0..3 {
            world.slowest = Duration::ZERO;
            world.load(clients, 40);
            let limit = world.gradient.limit();
            // Half of it, while it looks anew.
            assert!((at_once / 2..=at_once * 3).contains(&limit), "{limit} of {at_once}, {later}");
            let slowest = world.slowest.as_millis() as u64;
            assert!(slowest < 4 * takes + 10, "{slowest} ms where {takes} are usual");
        }
        assert!(world.refused > 0);
    }
}

#[test]
fn who_does_not_press_is_never_refused() {
    let mut world = World::new(2, 50, 20);
    world.load(15, 300);
    assert_eq!(world.refused, 0);
}

#[test]
fn a_service_that_has_become_another_is_learned_anew() {
    let mut world = World::new(3, 50, 20);
    world.load(500, 60);
    // It is four times slower for good, and takes as many at once: that is no queue.
    world.service.takes *= 4;
    world.load(500, 120);
    let limit = world.gradient.limit();
    assert!((25..=150).contains(&limit), "{limit}");
    // Now it takes a fifth of them.
    world.service.at_once = 10;
    world.load(500, 120);
    let limit = world.gradient.limit();
    assert!((5..=30).contains(&limit), "{limit}");
}

#[test]
fn who_has_no_patience_says_nothing_of_the_service() {
    let mut world = World::new(4, 50, 20);
    world.load(15, 10);
    let (before, mut now, mut held) = (world.gradient.limit(), world.now, Vec::new());
    let mut gave_up = |waited: u64| {
        for _ in 0..1_000 {
            now += Duration::from_millis(1);
            // There are as many as there may be.
            while let Some(permit) = world.gradient.admit(&world.limits, MOST) {
                held.push(permit);
            }
            world.gradient.gave_up(Duration::from_millis(waited), now);
        }
        world.gradient.limit()
    };
    assert_eq!(gave_up(1), before);
    assert!(gave_up(1_000) < before, "who waited long does");
}

#[test]
fn whatever_happens_the_limit_keeps_its_bounds_and_places_come_back() {
    for seed in 0..60 {
        let mut world = World::new(seed, 1 + (seed % 97) as u32, 1 + seed % 50);
        for _ in 0..150 {
            match world.dice.below(12) {
                0 => world.service.at_once = 1 + world.dice.below(300) as u32,
                1 => world.service.takes = Duration::from_micros(world.dice.below(200_000)),
                2 => world.most = 1 + world.dice.below(2_000) as u32,
                // It hangs, and its clients leave without an answer.
                3 => {
                    let hanging = world.dice.below(50);
                    (0..hanging).for_each(|_| world.ask(true));
                }
                4 => world.under_way.retain(|(answered, ..)| answered.is_some()),
                5 => {
                    let seconds = world.dice.below(1_000);
                    world.pass(Duration::from_secs(seconds));
                }
                _ => {
                    let clients = world.dice.below(400) as usize;
                    world.crowd(clients, 50);
                }
            }
            world.check();
        }
        world.under_way.clear();
        assert_eq!(world.limits.taken(Kind::Request), 0, "seed {seed}");
    }
}
