//! The SPIFFE Workload API: answers once, or keeps a stream that says the whole state after every change.

use std::sync::Arc;
use std::time::Duration;

use hive_security::SpiffeId;
use prost_types::value::Kind;
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

use super::Error;
use super::attest::{Decision, Identity, decide};
use super::entries::Entries;
use super::federation::Reach;
use super::hashes::Hashes;
use super::issuer::{Issuer, member};
use super::live::{JwtBundles, Live, Messages, X509Bundles, X509Svids};
use super::malformed::Spoil;
use super::socket::Caller;
use super::weather::{Condition, Method, Weather};
use super::wire::{self, spiffe_workload_api_server as server};

/// A child's first call and its registration race; the loser is waited for.
pub(super) const REGISTRATION_DEADLINE: Duration = Duration::from_secs(2);
/// Requests are a few audiences or one token.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
const AUDIENCES_MAX: usize = 32;

/// The Workload API behind the check of its security header, and beside it server reflection, which needs neither
/// header nor identity. Whatever else is asked for is not implemented.
pub(super) fn server(shared: Arc<Shared>) -> Router {
    let service = server::SpiffeWorkloadApiServer::new(WorkloadApi(shared))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
    };
    Server::builder()
        .add_service(InterceptedService::new(service, require_header))
        .add_service(reflection().build_v1().expect("the descriptors are the compiler's"))
        .add_service(reflection().build_v1alpha().expect("the descriptors are the compiler's"))
}

/// Workload Endpoint standard, section 3: a request that a tricked HTTP client could have sent is no request.
fn require_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut found = request.metadata().get_all("workload.spiffe.io").iter();
    match (found.next(), found.next()) {
        (Some(value), None) if value == "true" => Ok(request),
        _ => Err(Status::invalid_argument("the metadata `workload.spiffe.io: true` is missing")),
    }
}

pub(super) struct WorkloadApi(Arc<Shared>);

/// What every call and every stream needs.
pub(super) struct Shared {
    pub(super) issuer: Arc<Issuer>,
    pub(super) entries: Arc<Entries>,
    pub(super) weather: Weather,
    pub(super) stop: CancellationToken,
    hashes: Arc<Hashes>,
}

#[tonic::async_trait]
impl server::SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<wire::X509svidResponse>;
    type FetchX509BundlesStream = Messages<wire::X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<wire::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Live::<X509Svids>::open(&self.0, &request).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Live::<X509Bundles>::open(&self.0, &request).await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Live::<JwtBundles>::open(&self.0, &request).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        let caller = caller(&request)?;
        let wire::JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        check_audience(&audience)?;
        let (mut identities, condition) = self.0.greet(Method::FetchJwtSvid, &caller).await?;
        if !spiffe_id.is_empty() {
            let wanted = self.0.parse(&spiffe_id)?;
            identities.retain(|identity| identity.spiffe_id == wanted);
        }
        let mut answer = self.0.jwt_svids(&known(identities)?, &audience, condition).await?;
        if let Condition::Malformed(how) = condition {
            answer.spoil(how);
        }
        Ok(Response::new(answer))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        let caller = caller(&request)?;
        let wire::ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        if audience.is_empty() || svid.is_empty() {
            return Err(Status::invalid_argument("both an audience and a JWT-SVID are needed"));
        }
        let (identities, condition) = self.0.greet(Method::ValidateJwtSvid, &caller).await?;
        let reach = Reach::of(&identities);
        let (id, claims) = self.0.issuer.validate(&svid, &audience, &reach).map_err(|reason| {
            Status::invalid_argument(format!("the JWT-SVID is not valid: {reason}"))
        })?;
        let claims = Some(to_struct(claims));
        let mut answer = wire::ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims };
        if let Condition::Malformed(how) = condition {
            answer.spoil(how);
        }
        Ok(Response::new(answer))
    }
}

impl Shared {
    pub(super) fn new(issuer: Arc<Issuer>, entries: Arc<Entries>, stop: CancellationToken) -> Self {
        let weather = Weather::new(issuer.clock.clone());
        Self { issuer, entries, weather, stop, hashes: Arc::default() }
    }

    /// Who is calling a method that answers once, and what the answer shall be.
    async fn greet(
        &self,
        method: Method,
        caller: &Caller,
    ) -> Result<(Vec<Identity>, Condition), Status> {
        let identities = self.attest(caller).await?;
        let condition = self.weather.meet(method, caller, &self.stop).await?;
        if condition == Condition::Late {
            return Ok((self.attest_again(caller).await?, condition));
        }
        Ok((identities, condition))
    }

    async fn jwt_svids(
        &self,
        identities: &[Identity],
        audience: &[String],
        condition: Condition,
    ) -> Result<wire::JwtsvidResponse, Status> {
        let mut svids = Vec::with_capacity(identities.len());
        for identity in identities {
            let token = self.issuer.jwt_svid(identity, audience, condition.validity()).await;
            let token = token.map_err(|error| not_issued(&error))?;
            svids.push(wire::Jwtsvid {
                spiffe_id: identity.spiffe_id.to_string(),
                svid: token.expose_secret().to_owned(),
                hint: identity.terms.hint.clone(),
            });
        }
        Ok(wire::JwtsvidResponse { svids })
    }

    /// Who is calling. Waits a moment for a registration that may be under way.
    pub(super) async fn attest(&self, caller: &Caller) -> Result<Vec<Identity>, Status> {
        let deadline = Instant::now() + REGISTRATION_DEADLINE;
        let mut changes = self.entries.changes();
        loop {
            if self.stop.is_cancelled() {
                return Err(stopping());
            }
            let otherwise = match self.decide(caller).await? {
                Decision::Identities(identities) => return known(identities),
                Decision::Wait(otherwise) => otherwise,
            };
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return known(otherwise),
                () = self.stop.cancelled() => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Who is calling, as far as is known now.
    pub(super) async fn attest_again(&self, caller: &Caller) -> Result<Vec<Identity>, Status> {
        match self.decide(caller).await? {
            Decision::Identities(identities) | Decision::Wait(identities) => known(identities),
        }
    }

    async fn decide(&self, caller: &Caller) -> Result<Decision, Status> {
        let process = caller.process.as_ref().ok_or_else(no_identity)?;
        let (rules, ids) = (self.entries.rules(), (caller.uid, caller.gid));
        let facts = if rules.ask_for_sha256() {
            // Reading a whole executable takes a moment: the runtime has others to serve.
            let (process, hashes) = (process.clone(), Arc::clone(&self.hashes));
            let facts = tokio::task::spawn_blocking(move || process.facts(ids, Some(&hashes)));
            facts.await.ok().flatten()
        } else {
            process.facts(ids, None)
        };
        Ok(decide(&facts.ok_or_else(no_identity)?, &rules))
    }

    /// An ID that names nobody of this trust domain is refused like an identity of someone else.
    fn parse(&self, id: &str) -> Result<SpiffeId, Status> {
        SpiffeId::parse(id)
            .map_err(|_| Status::invalid_argument("`spiffe_id` is not a SPIFFE ID"))?;
        member(&self.issuer.trust_domain, id).ok_or_else(no_identity)
    }
}

pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Option<Caller>>().cloned().flatten().ok_or_else(no_identity)
}

fn known(identities: Vec<Identity>) -> Result<Vec<Identity>, Status> {
    if identities.is_empty() { Err(no_identity()) } else { Ok(identities) }
}

/// The words are SPIRE's: clients compare them.
pub(super) fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

pub(super) fn stopping() -> Status {
    Status::unavailable("the development authority is stopping")
}

/// The caller can do nothing about it but try again; the cause is for the log.
pub(super) fn not_issued(error: &Error) -> Status {
    tracing::error!(error = error as &dyn std::error::Error, "a document was not issued");
    Status::unavailable("the development authority could not issue a document; its log says why")
}

fn check_audience(audience: &[String]) -> Result<(), Status> {
    if audience.is_empty()
        || audience.len() > AUDIENCES_MAX
        || audience.iter().any(String::is_empty)
    {
        return Err(Status::invalid_argument(format!(
            "1 to {AUDIENCES_MAX} audiences are needed, none of them empty"
        )));
    }
    Ok(())
}

fn to_struct(fields: Map<String, Value>) -> prost_types::Struct {
    let field = |(name, value)| (name, prost_types::Value { kind: Some(to_kind(value)) });
    prost_types::Struct { fields: fields.into_iter().map(field).collect() }
}

fn to_kind(value: Value) -> Kind {
    let list = |values: Vec<Value>| {
        values.into_iter().map(|value| prost_types::Value { kind: Some(to_kind(value)) })
    };
    match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        // The wire has one kind of number; times in seconds fit it exactly.
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: list(values).collect() })
        }
        Value::Object(fields) => Kind::StructValue(to_struct(fields)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_keep_their_shape_on_the_wire() {
        let claims = serde_json::json!({ "aud": ["a"], "exp": 1_700_000_000, "more": { "yes": true, "no": null } });
        let Value::Object(claims) = claims else { unreachable!("it is an object") };
        let fields = to_struct(claims).fields;
        assert_eq!(fields["exp"].kind, Some(Kind::NumberValue(1_700_000_000.0)));
        assert!(
            matches!(&fields["aud"].kind, Some(Kind::ListValue(list)) if list.values.len() == 1)
        );
        assert!(
            matches!(&fields["more"].kind, Some(Kind::StructValue(inner)) if inner.fields.len() == 2)
        );
    }
}
