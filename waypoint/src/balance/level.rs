//! Pure: how much of all requests each level of endpoints takes, by how many of it are well
//! (`envoy:source/common/upstream/load_balancer_impl.cc`).
//! Never: which endpoint takes one.

/// The share of a level that may be gone without anybody else standing in, as a factor in percent
/// (Envoy's overprovisioning).
const FACTOR: usize = 140;

/// How many endpoints a level, or a group of it, has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that are not left out.
    pub well: usize,
    /// All.
    pub all: usize,
}

impl Count {
    /// How well it is, percent: 100 also when some are gone.
    pub fn health(self) -> usize {
        self.part(100)
    }

    /// The same of so many parts.
    pub fn part(self, whole: usize) -> usize {
        (FACTOR * self.well * whole / 100).checked_div(self.all).unwrap_or(0).min(whole)
    }
}

/// What is asked of each level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// Percent of all requests, 100 together; empty when nobody can take any.
    pub percent: Vec<usize>,
    /// So few of a level are well that who is well no longer counts there.
    pub panic: Vec<bool>,
    /// What each level could take, percent.
    able: Vec<usize>,
}

impl Loads {
    /// The loads of these levels. Below `threshold` percent of well ones a level panics, if not all of
    /// the load can go elsewhere.
    pub fn of(levels: &[Count], threshold: u32) -> Self {
        let health: Vec<_> = levels.iter().map(|level| level.health()).collect();
        let total = health.iter().sum::<usize>().min(100);
        let few = |level: &Count| 100 * level.well < threshold as usize * level.all;
        let panic: Vec<_> = levels.iter().map(|level| total < 100 && few(level)).collect();
        let everybody: usize = levels.iter().map(|level| level.all).sum();
        let able = if !panic.is_empty() && panic.iter().all(|panic| *panic) {
            levels.iter().map(|level| 100 * level.all / everybody.max(1)).collect()
        } else {
            health
        };
        let percent = match able.iter().all(|able| *able == 0) {
            false => spread(&able),
            // Too few to count in percent are still somebody; nobody at all takes nothing.
            true => levels.iter().position(|level| level.well > 0).map_or_else(Vec::new, |first| {
                (0..levels.len()).map(|level| if level == first { 100 } else { 0 }).collect()
            }),
        };
        Self { percent, panic, able }
    }

    /// The same for a try that is to go to other levels than those before it; `None` while there were
    /// none, or when nobody else can take any: then it begins anew (Envoy's `previous_priorities`).
    pub fn elsewhere<'t>(&self, tried: impl Iterator<Item = &'t [usize]>) -> Option<Vec<usize>> {
        let mut excluded = Vec::new();
        let mut others = None;
        for levels in tried {
            excluded.extend_from_slice(levels);
            others = self.without(&excluded);
            if others.is_none() {
                excluded.clear();
            }
        }
        others
    }

    fn without(&self, excluded: &[usize]) -> Option<Vec<usize>> {
        let able = self.able.iter().enumerate();
        let able: Vec<_> =
            able.map(|(level, able)| if excluded.contains(&level) { 0 } else { *able }).collect();
        able.iter().any(|able| *able > 0).then(|| spread(&able))
    }
}

/// Each level takes what it can, and is given more if all together cannot take everything.
fn spread(able: &[usize]) -> Vec<usize> {
    let total = able.iter().sum::<usize>().clamp(1, 100);
    let mut left = 100;
    let mut percent: Vec<_> = able
        .iter()
        .map(|able| {
            let load = (able * 100 / total).min(left);
            left -= load;
            load
        })
        .collect();
    // What rounding left over.
    if let Some(first) = percent.iter_mut().find(|load| **load > 0) {
        *first += left;
    }
    percent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(levels: &[(usize, usize)], threshold: u32) -> (Vec<usize>, Vec<bool>) {
        let levels: Vec<_> = levels.iter().map(|&(well, all)| Count { well, all }).collect();
        let Loads { percent, panic, .. } = Loads::of(&levels, threshold);
        (percent, panic)
    }

    /// The tables of Envoy's documentation (`load_balancing/priority.rst`, `panic_threshold.rst`).
    #[test]
    fn loads_are_those_of_envoys_tables() {
        for (first, second, expected) in [
            (100, 100, [100, 0]),
            (72, 72, [100, 0]),
            (71, 71, [99, 1]),
            (50, 50, [70, 30]),
            (25, 100, [35, 65]),
            (25, 25, [50, 50]),
            (0, 100, [0, 100]),
        ] {
            let (percent, panic) = loads(&[(first, 100), (second, 100)], 0);
            assert_eq!(percent, expected, "{first} {second}");
            assert_eq!(panic, [false, false]);
        }
        assert_eq!(loads(&[(20, 100), (20, 100), (10, 100)], 0).0, [40, 40, 20]);
    }

    #[test]
    fn panic_needs_all_levels_together_to_be_short() {
        assert_eq!(loads(&[(20, 100), (100, 100)], 50), (vec![28, 72], vec![false, false]));
        assert_eq!(loads(&[(20, 100), (50, 100)], 30), (vec![29, 71], vec![true, false]));
        // All of them: everybody by their number.
        assert_eq!(loads(&[(1, 40), (0, 60)], 30), (vec![40, 60], vec![true, true]));
        assert_eq!(loads(&[(0, 2)], 30), (vec![100], vec![true]));
        assert_eq!(loads(&[(0, 2)], 0), (vec![], vec![false]));
        assert_eq!(loads(&[], 30), (vec![], vec![]));
        // Exactly the threshold is enough.
        assert_eq!(loads(&[(3, 10)], 30), (vec![100], vec![false]));
    }

    #[test]
    fn one_that_is_well_among_many_is_somebody() {
        assert_eq!(loads(&[(1, 200)], 0), (vec![100], vec![false]));
        assert_eq!(loads(&[(0, 9), (1, 200)], 0).0, [0, 100]);
        assert!(loads(&[(0, 200)], 0).0.is_empty());
        assert_eq!(Count { well: 7, all: 1_000 }.health(), 0);
        assert_eq!(Count { well: 7, all: 1_000 }.part(1_000_000), 9_800);
    }

    #[test]
    fn tries_go_elsewhere_while_there_is_an_elsewhere() {
        let levels = [Count { well: 2, all: 2 }, Count { well: 1, all: 1 }];
        let loads = Loads::of(&levels, 0);
        assert_eq!(loads.without(&[0]), Some(vec![0, 100]));
        assert_eq!(loads.without(&[0, 1]), None);
        let elsewhere = |tried: &[usize]| loads.elsewhere(tried.chunks_exact(2));
        assert_eq!(elsewhere(&[0]), None);
        assert_eq!(elsewhere(&[0, 0]), Some(vec![0, 100]));
        assert_eq!(elsewhere(&[0, 0, 1, 1]), None, "all were tried");
        assert_eq!(elsewhere(&[0, 0, 1, 1, 0]), None);
        assert_eq!(elsewhere(&[0, 0, 1, 1, 0, 0]), Some(vec![0, 100]), "once more");
    }
}
