//! One request, one answer: limits, headers, addresses.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, header};
use reqwest::{Method, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::config::VaultConfig;
use super::counts::{Counts, Operation};
use super::error::VaultError;
use super::nodes::{Nodes, Rank};
use super::route::Route;
use super::sys::Health;
use super::tls::{checked_base, config, settings};
use super::verdict::{classify, is_of_policy, login_fault, texts};
use crate::Workload;
use crate::error::causes;

const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
const TOTAL_DEADLINE: Duration = Duration::from_secs(10);
/// Vault's own limit for a request is 32 MiB, but nothing that we read comes near this.
const BODY_MAX_BYTES: usize = 1 << 20;
/// How long a cluster may need to tell all its nodes what one of them has written.
const REPLICATION: Duration = Duration::from_secs(5);
/// The pauses before a call is made again that a node refused which may not know our token yet: 2 s together at most.
const CATCH_UP_MS: [u64; 5] = [100, 200, 400, 600, 700];
const JSON: &str = "application/json";
const INDEX: &str = "x-vault-index";

pub(super) struct Http {
    client: reqwest::Client,
    /// Makes a connection for each call, so that a login shows the X.509-SVID of the moment.
    fresh: Option<reqwest::Client>,
    nodes: Nodes,
    counts: std::sync::Arc<Counts>,
    seen: Mutex<Seen>,
}

/// What the next calls have to respect.
#[derive(Default)]
struct Seen {
    /// How far the cluster was after our last write, in its own opaque words.
    index: Option<(HeaderValue, Instant)>,
    logged_in: Option<Instant>,
    /// Whether a token was of use since then.
    is_proven: bool,
}

/// What is asked.
pub(super) struct Call<'a> {
    operation: Operation,
    method: Method,
    route: Route,
    token: Option<&'a SecretString>,
    namespace: Option<&'a HeaderValue>,
    body: Option<Bytes>,
    content_type: &'static str,
    wrap_ttl: Option<Duration>,
}

/// An answer, be it a success or not.
pub(super) struct Reply {
    shown: String,
    operation: Operation,
    pub(super) status: u16,
    retry_after: Option<Duration>,
    is_json: bool,
    body: Zeroizing<Vec<u8>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation, method: Method, route: Route) -> Self {
        Self {
            operation,
            method,
            route,
            token: None,
            namespace: None,
            body: None,
            content_type: JSON,
            wrap_ttl: None,
        }
    }

    pub(super) fn token(self, token: &'a SecretString) -> Self {
        Self { token: Some(token), ..self }
    }

    pub(super) fn namespace(self, namespace: Option<&'a HeaderValue>) -> Self {
        Self { namespace, ..self }
    }

    pub(super) fn body(self, body: Bytes) -> Self {
        Self { body: Some(body), ..self }
    }

    pub(super) fn content_type(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    pub(super) fn wrapped_for(self, ttl: Duration) -> Self {
        Self { wrap_ttl: Some(ttl), ..self }
    }

    fn is_read(&self) -> bool {
        self.method == Method::GET
    }

    fn shown(&self) -> String {
        format!("{} {}", self.method, self.route.shown())
    }
}

impl Http {
    pub(super) fn new(told: &VaultConfig) -> Result<Self, VaultError> {
        let has_ca = told.ca_pem.is_some();
        let addresses = std::iter::once(&told.address).chain(&told.other_addresses);
        let urls = addresses.map(|address| checked_base(address, has_ca));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        let (ca, identity) = (told.ca_pem.as_deref(), told.identity.as_ref());
        let fresh = identity.map(|_| client(ca, identity, 0)).transpose()?;
        Ok(Self {
            client: client(ca, identity, usize::MAX)?,
            fresh,
            nodes: Nodes::new(urls),
            counts: std::sync::Arc::default(),
            seen: Mutex::default(),
        })
    }

    pub(super) fn counts(&self) -> std::sync::Arc<Counts> {
        std::sync::Arc::clone(&self.counts)
    }

    pub(super) fn has_identity(&self) -> bool {
        self.fresh.is_some()
    }

    /// Asks once. A success, or the error that the answer means.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Reply, VaultError> {
        self.counted(&call, |reply| reply.success(self.is_early(&call))).await
    }

    /// Asks once, and also takes "not found" for an answer where there is data with it.
    pub(super) async fn call_or_absent(&self, call: Call<'_>) -> Result<Reply, VaultError> {
        let judge = |reply: Reply| match reply.data::<IgnoredAny>() {
            Ok(_) if reply.status == 404 => Ok(reply),
            _ => reply.success(self.is_early(&call)),
        };
        self.counted(&call, judge).await
    }

    async fn counted(
        &self,
        call: &Call<'_>,
        judge: impl Fn(Reply) -> Result<Reply, VaultError>,
    ) -> Result<Reply, VaultError> {
        let begun = Instant::now();
        let outcome = timeout(TOTAL_DEADLINE, self.ask_patiently(call, judge)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let cause = "it took too long";
            Err(VaultError::Unreachable { operation: call.shown(), cause, never_sent: false })
        });
        self.counts.add(call.operation, &outcome, begun.elapsed());
        if outcome.is_ok() {
            let mut seen = self.seen();
            match call.operation {
                Operation::Login => {
                    (seen.logged_in, seen.is_proven) = (Some(Instant::now()), false);
                }
                _ => seen.is_proven |= call.token.is_some(),
            }
        }
        outcome
    }

    /// A node that has not heard of our token yet will in a moment. What it refused had no effect.
    async fn ask_patiently(
        &self,
        call: &Call<'_>,
        judge: impl Fn(Reply) -> Result<Reply, VaultError>,
    ) -> Result<Reply, VaultError> {
        for pause in CATCH_UP_MS {
            let outcome = self.ask_nodes(call, &judge).await;
            if !outcome.as_ref().is_err_and(is_lag) {
                return outcome;
            }
            let pause = Duration::from_millis(pause);
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        }
        self.ask_nodes(call, &judge).await
    }

    /// Goes on to the next address only when the one before certainly did nothing.
    async fn ask_nodes(
        &self,
        call: &Call<'_>,
        judge: impl Fn(Reply) -> Result<Reply, VaultError>,
    ) -> Result<Reply, VaultError> {
        if self.nodes.are_to_be_asked() {
            self.explore().await;
        }
        let mut order = self.nodes.in_order().into_iter().peekable();
        while let Some(place) = order.next() {
            let outcome = self.ask(place, call).await.and_then(&judge);
            let goes_on = outcome.as_ref().is_err_and(is_for_another_node);
            if goes_on && !outcome.as_ref().is_err_and(is_lag) {
                self.nodes.failed(place);
            } else {
                self.nodes.answered(place);
            }
            if !goes_on || order.peek().is_none() {
                return outcome;
            }
        }
        Err(config("no address"))
    }

    /// Asks every node for its state, all at once.
    async fn explore(&self) {
        let ranks = (0..self.nodes.urls().len()).map(|place| async move {
            match timeout(CONNECT_DEADLINE, self.health_of(place)).await {
                Ok(Ok(health)) => Rank::of(&health),
                _ => Rank::Away,
            }
        });
        self.nodes.learn(&join_all(ranks).await);
    }

    async fn health_of(&self, place: usize) -> Result<Health, VaultError> {
        let reply = self.ask(place, &Health::call()).await?;
        let health = reply.success(false)?.parse::<Health>()?;
        self.note(&health);
        Ok(health)
    }

    /// An index of another cluster means nothing to this one.
    pub(super) fn note(&self, health: &Health) {
        if self.nodes.is_another_cluster(health) {
            self.seen().index = None;
        }
    }

    async fn ask(&self, place: usize, call: &Call<'_>) -> Result<Reply, VaultError> {
        let shown = call.shown();
        let (url, response) = self.send(place, call, &shown).await?;
        let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
        let elsewhere = location
            .filter(|_| response.status().is_redirection())
            .and_then(|location| self.nodes.redirected(&url, location));
        let response = match elsewhere.filter(|elsewhere| *elsewhere != place) {
            Some(elsewhere) => self.send(elsewhere, call, &shown).await?.1,
            None => response,
        };
        self.remember(call, response.headers());
        read(response, shown, call.operation).await
    }

    async fn send(
        &self,
        place: usize,
        call: &Call<'_>,
        shown: &str,
    ) -> Result<(Url, reqwest::Response), VaultError> {
        let base = self.nodes.urls().get(place).ok_or_else(|| config("no address"))?;
        let url = call.route.url(base)?;
        let client = match (call.operation, &self.fresh) {
            (Operation::Login, Some(fresh)) => fresh,
            _ => &self.client,
        };
        let mut request = client.request(call.method.clone(), url.clone());
        request = request.headers(self.headers(call)?);
        if let Some(body) = &call.body {
            request = request.header(header::CONTENT_TYPE, call.content_type).body(body.clone());
        }
        let response = request.send().await.map_err(|error| unreachable(shown, &error))?;
        Ok((url, response))
    }

    fn headers(&self, call: &Call<'_>) -> Result<HeaderMap, VaultError> {
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if let Some(namespace) = call.namespace {
            headers.insert("x-vault-namespace", namespace.clone());
        }
        if let Some(token) = call.token {
            headers.insert("x-vault-token", token_header(token)?);
        }
        if let Some(ttl) = call.wrap_ttl {
            let ttl = HeaderValue::from(whole_seconds(ttl));
            headers.insert("x-vault-wrap-ttl", ttl);
        }
        let index = self.seen().index.clone().filter(|(_, since)| since.elapsed() < REPLICATION);
        if let Some((index, _)) = index.filter(|_| call.is_read()) {
            headers.insert(INDEX, index);
        }
        Ok(headers)
    }

    fn remember(&self, call: &Call<'_>, headers: &HeaderMap) {
        if let Some(index) = headers.get(INDEX).filter(|_| !call.is_read()) {
            self.seen().index = Some((index.clone(), Instant::now()));
        }
    }

    /// Whether a node may not have heard of our token yet. Behind one address there may be several nodes; there a token
    /// is doubted only until it was of use once.
    fn is_early(&self, call: &Call<'_>) -> bool {
        let seen = self.seen();
        let is_fresh = seen.logged_in.is_some_and(|at| at.elapsed() < REPLICATION);
        let is_told = call.token.is_some() && call.operation != Operation::Wrapping;
        is_told && is_fresh && (self.nodes.are_several() || !seen.is_proven)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.nodes.urls().iter().map(Url::as_str).collect();
        f.debug_struct("Http").field("addresses", &addresses).finish_non_exhaustive()
    }
}

impl Reply {
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, VaultError> {
        // A list would be taken for the members of a struct, in their order.
        let is_object = self.body.trim_ascii_start().starts_with(b"{");
        let parsed = is_object.then(|| serde_json::from_slice(&self.body).ok()).flatten();
        parsed.ok_or_else(|| self.odd("it is not the expected JSON"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// It renewed nothing.
    pub(super) fn not_renewed(&self) -> VaultError {
        VaultError::NotRenewed { operation: self.shown.clone() }
    }

    pub(super) fn odd(&self, what: &'static str) -> VaultError {
        VaultError::Protocol { operation: self.shown.clone(), what }
    }

    /// Itself, or what it means.
    pub(super) fn success(self, is_early: bool) -> Result<Self, VaultError> {
        if (200..300).contains(&self.status) {
            return match self.is_json || self.body.is_empty() {
                true => Ok(self),
                false => Err(self.odd("it is not JSON by its own account")),
            };
        }
        Err(self.error(is_early))
    }

    /// What an answer that is no success means.
    fn error(self, is_early: bool) -> VaultError {
        let (operation, status, text) = (self.shown, self.status, texts(&self.body));
        if status == 403 && is_early && !is_of_policy(&text) {
            return VaultError::NotServing { operation, status };
        }
        match login_fault(&text) {
            Some(fault) if self.operation == Operation::Login && matches!(status, 400 | 500) => {
                VaultError::Login { operation, fault }
            }
            _ => classify(operation, status, self.retry_after, &text),
        }
    }
}

fn client(
    ca_pem: Option<&str>,
    identity: Option<&Workload>,
    idle_max: usize,
) -> Result<reqwest::Client, VaultError> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(settings(ca_pem, identity)?)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .pool_max_idle_per_host(idle_max)
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(TOTAL_DEADLINE)
        .build()
        .map_err(|_| config("the TLS settings of this process"))
}

fn token_header(token: &SecretString) -> Result<HeaderValue, VaultError> {
    let value = HeaderValue::from_str(token.expose_secret());
    let mut value = value.map_err(|_| config("a token that is no header value"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether a node refused a token that it may not know yet.
fn is_lag(error: &VaultError) -> bool {
    matches!(error, VaultError::NotServing { status: 403, .. })
}

fn is_for_another_node(error: &VaultError) -> bool {
    matches!(
        error,
        VaultError::NotServing { .. }
            | VaultError::Sealed { .. }
            | VaultError::Unreachable { never_sent: true, .. }
    )
}

/// Vault counts in whole seconds; rounding up never asks for less than was wanted.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// Only a failed connect is sure to have had no effect; everything after it may have arrived.
fn unreachable(operation: &str, error: &reqwest::Error) -> VaultError {
    let cause = match (error.is_timeout(), error.is_connect()) {
        (true, _) => "it took too long",
        (_, true) if causes(error).any(is_about_tls) => {
            "TLS failed, for its certificate is not of the CA that was given, or it refused ours"
        }
        (_, true) => "the connection failed",
        _ => "the connection broke",
    };
    VaultError::Unreachable {
        operation: operation.to_owned(),
        cause,
        never_sent: error.is_connect(),
    }
}

fn is_about_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

async fn read(
    mut response: reqwest::Response,
    shown: String,
    operation: Operation,
) -> Result<Reply, VaultError> {
    let status = response.status().as_u16();
    let (retry_after, is_json) = (retry_after(response.headers()), is_json(response.headers()));
    let mut body = Zeroizing::new(Vec::with_capacity(4096));
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&shown, &error))? {
        if body.len() + chunk.len() > BODY_MAX_BYTES {
            return Err(VaultError::Protocol { operation: shown, what: "it is larger than 1 MiB" });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { shown, operation, status, retry_after, is_json, body })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    kind.eq_ignore_ascii_case(JSON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_line_break_is_refused_and_not_shown() {
        let error = token_header(&SecretString::from("hvs.\nabc")).expect_err("not a header value");
        assert!(!format!("{error:?} {error}").contains("hvs."));
    }
}
