//! Pure: thousands of random schedules against what must always hold, and a model of ejection that is
//! written once more, the plain way.
//! Never: a clock.
use std::{collections::HashMap, time::Instant};

use super::{
    super::{Balancer, Kind, Limits, Permit, Pick, Wish},
    *,
};
use crate::backend::{Algorithm, HashKey, HashTable, LoadBalancer};

const SCHEDULES: u64 = 3_000;
const EVENTS: u64 = 150;
const MOST_HOSTS: u64 = 8;

/// One endpoint, as the specification tells its story.
#[derive(Clone, Default)]
struct Told {
    run: u32,
    multiplier: u32,
    out: Option<(Instant, Duration)>,
    returned: Option<Instant>,
}

impl Told {
    fn sweep(&mut self, at: Instant, interval: Duration) {
        match self.out {
            Some((since, length)) if at - since >= length => {
                (self.out, self.run, self.returned) = (None, 0, Some(at));
            }
            Some(_) => {}
            None if self.returned.is_none_or(|returned| at - returned >= interval) => {
                self.multiplier = self.multiplier.saturating_sub(1);
            }
            None => {}
        }
    }
}

struct World {
    dice: Dice,
    now: Instant,
    next_sweep: Instant,
    detection: OutlierDetection,
    algorithm: Algorithm,
    balancer: Balancer,
    limits: Arc<Limits>,
    most: u32,
    under_way: Vec<(Pick, Permit)>,
    present: Vec<u8>,
    told: HashMap<u8, Told>,
    log: Vec<String>,
}

fn number(pick: &Endpoint) -> u8 {
    let name = &pick.workload.name;
    name.rsplit('-').next().unwrap().parse().unwrap()
}

impl World {
    fn new(seed: u64, start: Instant) -> Self {
        let mut dice = Dice::new(seed);
        let algorithm = match dice.below(5) {
            0 => Algorithm::RoundRobin,
            1 => Algorithm::Random,
            2 => Algorithm::ConsistentHash { key: HashKey::SourceIp, table: HashTable::Ring(64) },
            3 => {
                Algorithm::ConsistentHash { key: HashKey::SourceIp, table: HashTable::Maglev(251) }
            }
            _ => Algorithm::LeastRequest,
        };
        let detection = OutlierDetection {
            consecutive_5xx: Some(1 + dice.below(4) as u32),
            interval: Duration::from_secs(1 + dice.below(30)),
            base_ejection_time: Duration::from_secs(1 + dice.below(120)),
            max_ejection_percent: [10, 34, 50, 100][dice.below(4) as usize],
            min_health_percent: [0, 30, 60][dice.below(3) as usize],
            ..OutlierDetection::default()
        };
        let mut world = Self {
            now: start,
            next_sweep: start + detection.interval,
            balancer: Balancer::default(),
            limits: Arc::default(),
            most: 1 + dice.below(5) as u32,
            under_way: Vec::new(),
            present: Vec::new(),
            told: HashMap::new(),
            log: Vec::new(),
            dice,
            detection,
            algorithm,
        };
        world.change();
        world
    }

    fn event(&mut self) {
        match self.dice.below(20) {
            0 => self.change(),
            1..=3 => self.step(),
            4..=11 => self.begin(),
            _ => self.end(),
        }
        self.check();
    }

    /// Endpoints come and go.
    fn change(&mut self) {
        let all = 0..MOST_HOSTS as u8;
        self.present = all.filter(|_| self.dice.below(3) > 0).collect();
        self.told.retain(|host, _| self.present.contains(host));
        for host in &self.present {
            self.told.entry(*host).or_default();
        }
        let endpoints = self.present.iter().map(|host| endpoint(*host, "")).collect();
        let mut policy = detecting(self.detection.clone());
        policy.load_balancer =
            LoadBalancer { algorithm: self.algorithm.clone(), ..Default::default() };
        self.balancer.update(view(endpoints, policy), self.now);
        self.log.push(format!("change {:?}", self.present));
    }

    /// Time passes, sometimes much of it.
    fn step(&mut self) {
        let seconds = match self.dice.below(10) {
            0 => self.dice.below(2_000),
            _ => self.dice.below(40),
        };
        self.now += Duration::from_millis(seconds * 1_000 + self.dice.below(1_000));
        while self.next_sweep <= self.now {
            let at = self.next_sweep;
            self.told.values_mut().for_each(|told| told.sweep(at, self.detection.interval));
            self.next_sweep += self.detection.interval;
        }
        self.balancer.advance(self.now);
        self.log.push(format!("step {seconds}"));
    }

    fn begin(&mut self) {
        let Some(permit) = self.limits.take(Kind::Request, self.most) else {
            assert_eq!(self.under_way.len(), self.most as usize, "refused with places left");
            return;
        };
        let key =
            matches!(self.algorithm, Algorithm::ConsistentHash { .. }).then(|| self.dice.draw());
        let wish = Wish { key, ..Wish::default() };
        let Self { balancer, dice, now, .. } = self;
        let picked = balancer.pick(&wish, *now, &mut || dice.draw());
        let well = self.told.values().filter(|told| told.out.is_none()).count();
        let few = 100 * well < self.detection.min_health_percent as usize * self.told.len();
        // With one level, what it can take is its health with Envoy's factor.
        let panic = few && 140 * well < 100 * self.told.len();
        let Some(pick) = picked else {
            assert!(well == 0 && !panic, "somebody could have taken it");
            return;
        };
        let host = number(&pick.endpoint);
        let told = self.told.get(&host).expect("one that is there");
        assert!(told.out.is_none() || panic, "{host} is out");
        assert_eq!(self.balancer.panics(), panic);
        self.log.push(format!("pick {host}"));
        self.under_way.push((pick, permit));
    }

    fn end(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let place = self.dice.below(self.under_way.len() as u64) as usize;
        let (pick, _permit) = self.under_way.swap_remove(place);
        let code = if self.dice.below(2) == 0 { 503 } else { 200 };
        self.balancer.report(pick.id, &status(code), self.now);
        let host = number(&pick.endpoint);
        // One that left meanwhile, and perhaps came back as another, hears nothing.
        let same = self.balancer.hosts().iter().any(|h| h.id == pick.id);
        if same {
            self.tell(host, code);
        }
        self.log.push(format!("end {host} {code}"));
    }

    /// What the specification says of an answer.
    fn tell(&mut self, host: u8, code: u16) {
        let out = self.told.values().filter(|told| told.out.is_some()).count();
        let all = self.told.len();
        let most = self.detection.max_ejection_percent as f64;
        let base = self.detection.base_ejection_time;
        let longest = base.max(Duration::from_secs(300));
        let Some(told) = self.told.get_mut(&host) else { return };
        if code < 500 {
            told.run = 0;
            return;
        }
        told.run += 1;
        if Some(told.run) < self.detection.consecutive_5xx {
            return;
        }
        told.run = 0;
        if told.out.is_none() && 100.0 * (out + 1) as f64 / all as f64 <= most {
            if base * told.multiplier < longest + base {
                told.multiplier += 1;
            }
            told.out = Some((self.now, (base * told.multiplier).min(longest)));
        }
    }

    /// What always holds.
    fn check(&mut self) {
        assert!(self.under_way.len() <= self.most as usize);
        assert_eq!(self.limits.taken(Kind::Request) as usize, self.under_way.len());
        assert_eq!(self.balancer.hosts().len(), self.told.len());
        for host in self.balancer.hosts() {
            let told = &self.told[&number(&host.endpoint)];
            assert_eq!(host.standing.is_ejected(), told.out.is_some(), "{}", host.name());
            let until = host.standing.until(&self.detection);
            assert_eq!(until, told.out.map(|(since, length)| since + length), "{}", host.name());
            let load = self.under_way.iter().filter(|(pick, _)| pick.id == host.id).count();
            assert_eq!(host.load() as usize, load);
        }
        let out = self.told.values().filter(|told| told.out.is_some()).count();
        let most = self.detection.max_ejection_percent as usize;
        // Endpoints that leave may make too large a share of those that were out before.
        self.log.push(format!("out {out} of {} at {most} %", self.told.len()));
    }
}

#[expect(clippy::disallowed_methods, reason = "only differences count")]
fn run(seed: u64, start: Option<Instant>) -> (Vec<String>, usize) {
    let mut world = World::new(seed, start.unwrap_or_else(Instant::now));
    (0..EVENTS).for_each(|_| world.event());
    world.under_way.clear();
    assert_eq!(world.limits.taken(Kind::Request), 0, "all places are back");
    assert!(world.balancer.hosts().iter().all(|host| host.load() == 0));
    let ejections = usize::try_from(world.balancer.ejections().made).unwrap();
    (world.log, ejections)
}

#[test]
fn whatever_happens_the_promises_hold() {
    let mut ejections = 0;
    for seed in 0..SCHEDULES {
        let ran = std::panic::catch_unwind(|| run(seed, None));
        let Ok((_, made)) = ran else { panic!("seed {seed}") };
        ejections += made;
    }
    // A simulation in which nothing happens would prove nothing.
    assert!(ejections > SCHEDULES as usize, "{ejections}");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, None).0, run(seed, None).0);
    }
}
