//! Pure: a table and a request → everything that happens to the request before it leaves, and to its
//! response.
//! Never: endpoints, tries, time. Asked by `exchange`, once for each request.
use std::{sync::Arc, time::Duration};

use http::{
    HeaderName, HeaderValue, StatusCode,
    uri::{Authority, PathAndQuery},
};

use super::{
    answer::{Answer, Cause},
    cors::Crossing,
    edit::{Changes, HeaderEdits},
    fault::Injected,
    find::find,
    model::{Action, BackendRef, Destination, Forward, Missing, PortRoutes, Rule, Target},
    redirect::split,
    request::RequestHead,
    timeout::Timeouts,
};

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<'t> {
    /// The rule that decided; `None` when none matches.
    pub rule: Option<&'t Rule>,
    /// How long it waits before anything else, on purpose (flag DI).
    pub delay: Option<Duration>,
    /// What happens then.
    pub step: Step<'t>,
}

/// What happens to a request after a delay on purpose.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<'t> {
    /// It is answered.
    Answer(Answer),
    /// It goes on.
    Forward(Onward<'t>),
}

/// A request that goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Onward<'t> {
    /// To whom, in all its tries.
    pub backend: &'t Arc<BackendRef>,
    /// How; tries, for example.
    pub forward: &'t Forward,
    /// Who gets a copy.
    pub mirrors: Vec<&'t Arc<BackendRef>>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// The path and query, if they change.
    pub target: Option<PathAndQuery>,
    /// The authority, if it changes.
    pub authority: Option<HeaderValue>,
    /// Changes to its headers.
    pub request: Changes,
    /// Changes to the headers of the response.
    pub response: Changes,
}

/// Decides about a request, in Istio's order: fault, CORS, then the rule's action. `draw` gives numbers
/// that are drawn from all `u32` alike.
pub fn decide<'t>(
    routes: &'t PortRoutes,
    head: &RequestHead<'_>,
    draw: &mut impl FnMut() -> u32,
) -> Decision<'t> {
    let Some(rule) = find(routes, head) else {
        let answer = Answer::new(StatusCode::NOT_FOUND, Cause::RouteNotFound);
        return Decision { rule: None, delay: None, step: Step::Answer(answer) };
    };
    let Injected { delay, abort } =
        rule.fault.as_ref().map_or_else(Injected::default, |fault| fault.inject(draw));
    let step = match abort {
        Some(status) => Step::Answer(Answer::abort(status)),
        None => cross(rule, head, draw),
    };
    Decision { rule: Some(rule), delay, step }
}

/// CORS, then the rule's action.
fn cross<'t>(rule: &'t Rule, head: &RequestHead<'_>, draw: &mut impl FnMut() -> u32) -> Step<'t> {
    let crossing = rule.cors.as_ref().map_or(Crossing::Pass, |cors| cors.judge(head));
    let grant = match crossing {
        Crossing::Preflight(headers) => return Step::Answer(Answer::preflight(headers)),
        Crossing::Allowed(changes) => changes,
        Crossing::Pass => Changes::default(),
    };
    let mut answer = match &rule.action {
        Action::Forward(forward) => match onward(rule, forward, head, draw) {
            Ok(mut onward) => {
                onward.response.append(grant);
                return Step::Forward(onward);
            }
            Err((status, cause)) => Answer::new(status, cause),
        },
        Action::Redirect(redirect) => match redirect.location(head) {
            Ok(location) => edited(Answer::redirect(redirect.status, location), rule, head),
            Err(_) => Answer::new(StatusCode::INTERNAL_SERVER_ERROR, Cause::BadRewrite),
        },
        Action::Direct(direct) => edited(Answer::direct(direct), rule, head),
    };
    grant.apply(Some(answer.status), &mut answer.headers);
    Step::Answer(answer)
}

/// The rule's changes to responses are for what it answers itself, too; not for failures.
fn edited(mut answer: Answer, rule: &Rule, head: &RequestHead<'_>) -> Answer {
    let mut changes = Changes::default();
    rule.headers.response.plan(head, &rule.name, &mut changes);
    changes.apply(Some(answer.status), &mut answer.headers);
    answer
}

fn onward<'t>(
    rule: &'t Rule,
    forward: &'t Forward,
    head: &RequestHead<'_>,
    draw: &mut impl FnMut() -> u32,
) -> Result<Onward<'t>, (StatusCode, Cause)> {
    let failed = |cause| (StatusCode::INTERNAL_SERVER_ERROR, cause);
    let destination = forward.destinations.draw(draw());
    let destination = destination.ok_or_else(|| failed(Cause::NoDestination))?;
    let backend = match &destination.target {
        Target::Backend(backend) => backend,
        Target::Missing(missing) => return Err(nobody(missing)),
    };
    let target = forward.rewrite.path.target(head.path, head.query);
    let target = target.map_err(|_| failed(Cause::BadRewrite))?;
    let timeouts = Timeouts::of(forward, head);
    let (mut request, mut response) = (Changes::default(), Changes::default());
    timeouts.plan(head, &mut request);
    if target.is_some()
        && let Ok(original) = HeaderValue::try_from(head.target())
    {
        request.set(ORIGINAL_PATH, original);
    }
    for HeaderEdits { request: asked, response: answered } in [&rule.headers, &destination.headers]
    {
        asked.plan(head, &rule.name, &mut request);
        answered.plan(head, &rule.name, &mut response);
    }
    let (mirrors, authority) =
        (mirrors(forward, draw), authority(rule, forward, destination, head));
    Ok(Onward { backend, forward, mirrors, timeouts, target, authority, request, response })
}

/// The answer when nobody is behind a destination.
fn nobody(missing: &Missing) -> (StatusCode, Cause) {
    let (status, why) = match missing {
        Missing::Cluster(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        Missing::Backend(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
    };
    (status, Cause::ClusterNotFound(why.clone()))
}

/// Who gets a copy of this request.
fn mirrors<'t>(forward: &'t Forward, draw: &mut impl FnMut() -> u32) -> Vec<&'t Arc<BackendRef>> {
    let drawn = forward.mirrors.iter().filter(|mirror| mirror.share.hits(draw()));
    drawn
        .filter_map(|mirror| match &mirror.target {
            Target::Backend(backend) => Some(backend),
            Target::Missing(_) => None,
        })
        .collect()
}

/// The new authority: what stands closest to the destination counts. One that a client could make and
/// that is none changes nothing.
fn authority(
    rule: &Rule,
    forward: &Forward,
    destination: &Destination,
    head: &RequestHead<'_>,
) -> Option<HeaderValue> {
    let edited = |edits: &HeaderEdits| edits.request.authority(head, &rule.name);
    let edited = edited(&destination.headers).or_else(|| edited(&rule.headers));
    let authority = edited.or_else(|| forward.rewrite.authority.clone());
    authority.filter(|authority| Authority::try_from(authority.as_bytes()).is_ok())
}

/// The authority of a copy (Envoy's shadow writer): `-shadow` stands after the host.
pub fn shadow(authority: &str) -> String {
    let (host, port) = split(authority);
    port.map_or_else(|| format!("{host}-shadow"), |port| format!("{host}-shadow:{port}"))
}
