//! Pure: policies and a connection → a verdict with the object that decided.
//! Never: logs, reads a snapshot.
use std::{fmt, net::SocketAddr, sync::Arc};

use super::model::{
    Action, Clause, Condition, Mode, PeerAuthentication, Policy, Rule, Test, within,
};
use crate::{identity::Identity, origin::Origin};

/// A connection as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What the client's certificate proved; `None` for plaintext.
    pub peer: Option<&'a Identity>,
    /// The client's address.
    pub source: SocketAddr,
    /// The workload's address and port, after services and tunnels.
    pub destination: SocketAddr,
}

/// The answer, with its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allowed(Allowed),
    /// It may not.
    Denied(Denied),
}

/// Why a connection may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// No ALLOW policy protects the workload, and no DENY matches.
    NoPolicy,
    /// This rule of an ALLOW policy matches.
    By(Decided),
}

/// Why a connection may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It is plaintext, and this PeerAuthentication asks for tunnels.
    Strict(Arc<PeerAuthentication>),
    /// This rule of a DENY policy matches.
    By(Decided),
    /// There are ALLOW policies, and none matches.
    NoAllow(Option<NearMiss>),
    /// A manifest was damaged when the agent started, and may hold a policy.
    Damaged,
}

/// A rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Its policy.
    pub policy: Arc<Policy>,
    /// Which of its rules, counted from zero.
    pub rule: usize,
}

/// The ALLOW rule that came closest, and the first condition of it that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: Decided,
    /// What failed, for people.
    pub failed: String,
}

/// What decides about connections to one workload.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// All AuthorizationPolicies that cover it.
    pub policies: Vec<Arc<Policy>>,
    /// All PeerAuthentications that cover it, from the closest scope to the widest.
    pub peers: Vec<Arc<PeerAuthentication>>,
    /// There may be others that nobody could read.
    pub damaged: bool,
}

impl Guard {
    /// The mode of a port, with the object that says so; PERMISSIVE when none does.
    pub fn mode(&self, port: u16) -> (Mode, Option<&Arc<PeerAuthentication>>) {
        for peer in &self.peers {
            // A port that is listed without a mode leaves it to the rest of its object.
            let mode = peer.ports.get(&port).copied().flatten().or(peer.mode);
            if let Some(mode) = mode {
                return (mode, Some(peer));
            }
        }
        (Mode::Permissive, None)
    }
}

/// Decides about a connection: plaintext under STRICT is refused; then any DENY that matches; then,
/// if there is any ALLOW, one must match (Istio's order).
pub fn authorize(guard: &Guard, asked: &Asked<'_>) -> Verdict {
    if guard.damaged {
        return Verdict::Denied(Denied::Damaged);
    }
    if let (Mode::Strict, Some(by)) = guard.mode(asked.destination.port())
        && asked.peer.is_none()
    {
        return Verdict::Denied(Denied::Strict(by.clone()));
    }
    if let Some(decided) = first_match(guard, Action::Deny, asked) {
        return Verdict::Denied(Denied::By(decided));
    }
    if !enforced(guard, Action::Allow).any(|_| true) {
        return Verdict::Allowed(Allowed::NoPolicy);
    }
    match first_match(guard, Action::Allow, asked) {
        Some(decided) => Verdict::Allowed(Allowed::By(decided)),
        None => Verdict::Denied(Denied::NoAllow(nearest(guard, asked))),
    }
}

/// The rules of AUDIT policies, and of policies that are only tried out, that match.
pub fn noted<'a>(guard: &'a Guard, asked: &'a Asked<'_>) -> impl Iterator<Item = Decided> + 'a {
    let noting = |policy: &&Arc<Policy>| policy.dry_run || policy.action == Action::Audit;
    guard.policies.iter().filter(noting).filter_map(|policy| matching(policy, asked))
}

fn enforced(guard: &Guard, action: Action) -> impl Iterator<Item = &Arc<Policy>> {
    guard.policies.iter().filter(move |policy| policy.action == action && !policy.dry_run)
}

fn first_match(guard: &Guard, action: Action, asked: &Asked<'_>) -> Option<Decided> {
    enforced(guard, action).find_map(|policy| matching(policy, asked))
}

fn matching(policy: &Arc<Policy>, asked: &Asked<'_>) -> Option<Decided> {
    let rule = policy.rules.iter().position(|rule| rule_matches(rule, policy.action, asked))?;
    Some(Decided { policy: policy.clone(), rule })
}

/// What cannot be asked without HTTP never opens a door, and never keeps one from being shut.
fn rule_matches(rule: &Rule, action: Action, asked: &Asked<'_>) -> bool {
    let known = rule.unsupported.is_empty() || action == Action::Deny;
    known && rule.clauses.iter().all(|clause| clause_holds(clause, asked))
}

fn clause_holds(clause: &Clause, asked: &Asked<'_>) -> bool {
    let holds = |conditions: &Vec<Condition>| conditions.iter().all(|one| one.holds(asked));
    clause.alternatives.iter().any(holds)
}

impl Condition {
    fn holds(&self, asked: &Asked<'_>) -> bool {
        self.test.fits(asked) != self.negative
    }

    /// `from.source.namespaces is not one of shop, admin`
    fn failure(&self, asked: &Asked<'_>) -> String {
        let not = if self.negative { "is" } else { "is not" };
        format!("{} ({}) {not} one of {}", self.field, self.test.found(asked), self.test)
    }
}

impl Test {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::Principal(patterns) => {
                let principal = asked.peer.map(principal);
                principal.is_some_and(|text| patterns.iter().any(|p| p.matches(&text)))
            }
            Self::Namespace(patterns) => asked.peer.is_some_and(|peer| {
                patterns.iter().any(|pattern| pattern.matches(peer.namespace()))
            }),
            Self::ServiceAccount(accounts) => asked.peer.is_some_and(|peer| {
                let own = (peer.namespace(), peer.service_account());
                accounts.iter().any(|(namespace, account)| (&**namespace, &**account) == own)
            }),
            Self::SourceIp(blocks) => within(blocks, asked.source.ip()),
            Self::DestinationIp(blocks) => within(blocks, asked.destination.ip()),
            Self::DestinationPort(ports) => ports.contains(&asked.destination.port()),
        }
    }

    /// What the connection has in the place of what is asked.
    fn found(&self, asked: &Asked<'_>) -> String {
        let of_peer = |text: &dyn Fn(&Identity) -> String| {
            asked.peer.map_or_else(|| "no identity".to_owned(), text)
        };
        match self {
            Self::Principal(_) => of_peer(&principal),
            Self::Namespace(_) => of_peer(&|peer| peer.namespace().to_owned()),
            Self::ServiceAccount(_) => {
                of_peer(&|peer| format!("{}/{}", peer.namespace(), peer.service_account()))
            }
            Self::SourceIp(_) => asked.source.ip().to_string(),
            Self::DestinationIp(_) => asked.destination.ip().to_string(),
            Self::DestinationPort(_) => asked.destination.port().to_string(),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: ToString>(values: &[T]) -> String {
            values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        f.write_str(&match self {
            Self::Principal(patterns) | Self::Namespace(patterns) => list(patterns),
            Self::ServiceAccount(accounts) => {
                let names: Vec<_> = accounts.iter().map(|(n, a)| format!("{n}/{a}")).collect();
                list(&names)
            }
            Self::SourceIp(blocks) | Self::DestinationIp(blocks) => list(blocks),
            Self::DestinationPort(ports) => list(ports),
        })
    }
}

/// A SPIFFE ID as policies write it.
fn principal(identity: &Identity) -> String {
    let text = identity.to_string();
    text.strip_prefix("spiffe://").unwrap_or(&text).to_owned()
}

/// The ALLOW rule of which most clauses hold.
fn nearest(guard: &Guard, asked: &Asked<'_>) -> Option<NearMiss> {
    let rules = enforced(guard, Action::Allow).flat_map(|policy| {
        policy.rules.iter().enumerate().map(move |(rule, content)| (policy, rule, content))
    });
    let score = |rule: &Rule| rule.clauses.iter().filter(|c| clause_holds(c, asked)).count();
    let (policy, rule, content) =
        rules.max_by_key(|(_, rule, content)| (score(content), std::cmp::Reverse(*rule)))?;
    let decided = Decided { policy: policy.clone(), rule };
    Some(NearMiss { rule: decided, failed: failure(content, asked) })
}

fn failure(rule: &Rule, asked: &Asked<'_>) -> String {
    if let Some(field) = rule.unsupported.first() {
        return format!("{field} needs HTTP, and is never allowed without");
    }
    let failed = rule.clauses.iter().find(|clause| !clause_holds(clause, asked));
    let conditions = failed.into_iter().flat_map(|clause| clause.alternatives.iter().flatten());
    let texts: Vec<_> =
        conditions.filter(|one| !one.holds(asked)).map(|one| one.failure(asked)).collect();
    if texts.is_empty() { "the rule is empty".into() } else { texts.join(", or ") }
}

impl Verdict {
    /// Whether the connection may pass.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// The object that decided, if one did.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Allowed(Allowed::By(decided)) | Self::Denied(Denied::By(decided)) => {
                Some(&decided.policy.origin)
            }
            Self::Denied(Denied::Strict(peer)) => Some(&peer.origin),
            Self::Denied(Denied::NoAllow(near)) => {
                near.as_ref().map(|near| &near.rule.policy.origin)
            }
            Self::Allowed(Allowed::NoPolicy) | Self::Denied(Denied::Damaged) => None,
        }
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {} ({})", self.policy.name, self.rule, self.policy.origin)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(Allowed::NoPolicy) => f.write_str("allowed: no policy applies"),
            Self::Allowed(Allowed::By(decided)) => write!(f, "allowed by {decided}"),
            Self::Denied(Denied::Strict(peer)) => {
                write!(f, "denied: plaintext, and {} ({}) is STRICT", peer.name, peer.origin)
            }
            Self::Denied(Denied::By(decided)) => write!(f, "denied by {decided}"),
            Self::Denied(Denied::Damaged) => f.write_str(
                "denied: a damaged manifest, unread since the agent started, may hold a policy",
            ),
            Self::Denied(Denied::NoAllow(None)) => {
                f.write_str("denied: ALLOW policies apply, and none has a rule")
            }
            Self::Denied(Denied::NoAllow(Some(near))) => {
                write!(f, "denied: no ALLOW matched; nearest {}: {}", near.rule, near.failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::{Pattern, Scope};

    fn condition(negative: bool, test: Test) -> Condition {
        Condition { field: "field", negative, test }
    }

    fn namespaces(names: &[&str]) -> Test {
        Test::Namespace(names.iter().map(|name| Pattern::new(name)).collect())
    }

    fn rule(conditions: Vec<Condition>) -> Rule {
        Rule { clauses: vec![Clause { alternatives: vec![conditions] }], unsupported: Vec::new() }
    }

    fn policy(action: Action, rules: Vec<Rule>) -> Arc<Policy> {
        Arc::new(Policy {
            name: "shop/p".into(),
            origin: Origin { file: "m.yaml".into(), line: 3 },
            action,
            dry_run: false,
            scope: Scope { namespace: None, selector: BTreeMap::new() },
            rules,
        })
    }

    fn guard(policies: Vec<Arc<Policy>>) -> Guard {
        Guard { policies, ..Guard::default() }
    }

    fn ask(guard: &Guard, peer: Option<&str>) -> Verdict {
        let peer: Option<Identity> =
            peer.map(|peer| format!("spiffe://cluster.local/ns/{peer}/sa/web").parse().unwrap());
        let (source, destination) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        authorize(guard, &Asked { peer: peer.as_ref(), source, destination })
    }

    #[test]
    fn deny_comes_before_allow_and_allow_before_nothing() {
        let from = |names: &[&str]| vec![rule(vec![condition(false, namespaces(names))])];
        let allow = policy(Action::Allow, from(&["shop"]));
        let deny = policy(Action::Deny, from(&["evil"]));
        let everything = guard(vec![allow.clone(), deny.clone()]);
        assert_eq!(
            ask(&everything, Some("shop")).to_string(),
            "allowed by shop/p rule 0 (m.yaml:3)"
        );
        assert_eq!(
            ask(&everything, Some("evil")).to_string(),
            "denied by shop/p rule 0 (m.yaml:3)"
        );
        let missed = ask(&everything, Some("other")).to_string();
        assert!(
            missed.contains("nearest") && missed.contains("(other) is not one of shop"),
            "{missed}"
        );
        assert!(!ask(&everything, None).is_allowed());
        assert!(ask(&guard(vec![deny]), Some("other")).is_allowed());
        assert_eq!(ask(&guard(vec![]), None).to_string(), "allowed: no policy applies");
        assert!(!ask(&guard(vec![policy(Action::Allow, vec![])]), Some("shop")).is_allowed());
        assert!(ask(&guard(vec![policy(Action::Allow, vec![Rule::default()])]), None).is_allowed());
        assert!(ask(&guard(vec![policy(Action::Audit, from(&["shop"]))]), None).is_allowed());
    }

    #[test]
    fn what_needs_http_never_allows_and_never_spares() {
        let with = |action| {
            let mut unclear = rule(vec![condition(false, namespaces(&["shop"]))]);
            unclear.unsupported.push("to.operation.methods".into());
            guard(vec![policy(action, vec![unclear])])
        };
        let verdict = ask(&with(Action::Allow), Some("shop"));
        assert!(verdict.to_string().contains("methods needs HTTP"), "{verdict}");
        assert!(!ask(&with(Action::Deny), Some("shop")).is_allowed());
        assert!(ask(&with(Action::Deny), Some("other")).is_allowed());
    }

    #[test]
    fn the_closest_scope_decides_whether_plaintext_may_pass() {
        let peer = |mode, ports: &[(u16, Option<Mode>)]| {
            Arc::new(PeerAuthentication {
                name: "shop/x".into(),
                origin: Origin { file: "m.yaml".into(), line: 1 },
                created: String::new(),
                scope: Scope { namespace: None, selector: BTreeMap::new() },
                mode,
                ports: ports.iter().copied().collect(),
            })
        };
        let (strict, permissive) = (Some(Mode::Strict), Some(Mode::Permissive));
        for (peers, expected) in [
            (vec![], Mode::Permissive),
            (vec![peer(strict, &[])], Mode::Strict),
            (vec![peer(permissive, &[]), peer(strict, &[])], Mode::Permissive),
            (vec![peer(None, &[]), peer(strict, &[])], Mode::Strict),
            (vec![peer(strict, &[(80, permissive)])], Mode::Permissive),
            (vec![peer(strict, &[(81, permissive)])], Mode::Strict),
            (vec![peer(permissive, &[(80, strict), (81, strict)])], Mode::Strict),
            (vec![peer(strict, &[(80, None)])], Mode::Strict),
            (vec![peer(None, &[(80, None)]), peer(strict, &[])], Mode::Strict),
        ] {
            let guard = Guard { peers, ..Guard::default() };
            assert_eq!(guard.mode(80).0, expected);
            assert_eq!(ask(&guard, None).is_allowed(), expected == Mode::Permissive);
            assert!(ask(&guard, Some("shop")).is_allowed());
        }
    }

    #[test]
    fn a_damaged_folder_allows_nothing() {
        let guard = Guard { damaged: true, ..Guard::default() };
        assert!(!ask(&guard, Some("shop")).is_allowed());
    }

    /// Small worlds, so that many things match.
    fn tests() -> impl Strategy<Value = Condition> {
        let names =
            prop::collection::vec(prop::sample::select(vec!["a", "b", "a*", "*b", "*"]), 1..3);
        let test = prop_oneof![
            names.prop_map(|names| namespaces(&names)),
            prop::collection::vec(79_u16..82, 1..3).prop_map(Test::DestinationPort),
            prop::sample::select(vec!["10.0.0.0/8", "10.0.0.1/32", "192.0.2.0/24"])
                .prop_map(|block| Test::SourceIp(vec![block.parse().unwrap()])),
        ];
        (any::<bool>(), test).prop_map(|(negative, test)| condition(negative, test))
    }

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let alternatives = prop::collection::vec(prop::collection::vec(tests(), 0..3), 0..3);
        let clauses =
            prop::collection::vec(alternatives.prop_map(|a| Clause { alternatives: a }), 0..3);
        let rule = (clauses, prop::bool::weighted(0.2)).prop_map(|(clauses, unclear)| Rule {
            clauses,
            unsupported: if unclear { vec!["x".into()] } else { vec![] },
        });
        prop::collection::vec(rule, 0..3)
    }

    /// Written as the documentation reads: slowly, and without a shortcut.
    fn reference(guard: &Guard, asked: &Asked<'_>) -> bool {
        let clause = |clause: &Clause| {
            let mut one = false;
            for conditions in &clause.alternatives {
                let failed = conditions.iter().filter(|c| c.test.fits(asked) == c.negative);
                one |= failed.count() == 0;
            }
            one
        };
        let matches = |policy: &Policy| {
            let mut any = false;
            for rule in &policy.rules {
                let clear = policy.action == Action::Deny || rule.unsupported.is_empty();
                let failed = rule.clauses.iter().filter(|one| !clause(one));
                any |= clear && failed.count() == 0;
            }
            any
        };
        let of = |action| guard.policies.iter().filter(move |p| p.action == action && !p.dry_run);
        let denied = of(Action::Deny).any(|policy| matches(policy));
        let allowed = of(Action::Allow).any(|policy| matches(policy));
        !denied && (allowed || of(Action::Allow).count() == 0)
    }

    proptest! {
        #[test]
        fn the_evaluator_agrees_with_the_slow_reference(
            policies in prop::collection::vec((prop::sample::select(vec![Action::Allow, Action::Deny, Action::Audit]), rules(), prop::bool::weighted(0.1)), 0..4),
            peer in prop::option::of(prop::sample::select(vec!["a", "b", "ab", "c"])),
            port in 79_u16..82,
        ) {
            let made = policies.into_iter().map(|(action, rules, dry_run)| {
                let mut made = Arc::unwrap_or_clone(policy(action, rules));
                made.dry_run = dry_run;
                Arc::new(made)
            });
            let guard = guard(made.collect());
            let identity: Option<Identity> = peer.map(|n| format!("spiffe://t/ns/{n}/sa/x").parse().unwrap());
            let asked = Asked {
                peer: identity.as_ref(),
                source: "10.0.0.1:5".parse().unwrap(),
                destination: ([10, 0, 0, 2], port).into(),
            };
            prop_assert_eq!(authorize(&guard, &asked).is_allowed(), reference(&guard, &asked));
        }
    }
}
