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
use tonic::{Request, Response, Status};

use super::Error;
use super::attest::{Decision, decide};
use super::entries::Entries;
use super::issuer::{Issuer, member};
use super::live::{JwtBundles, Live, Messages, X509Bundles, X509Svids};
use super::socket::Caller;
use super::wire::{self, spiffe_workload_api_server as server};

/// A child's first call and its registration race; the loser is waited for.
pub(super) const REGISTRATION_DEADLINE: Duration = Duration::from_secs(2);
/// Requests are a few audiences or one token.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
const AUDIENCES_MAX: usize = 32;

/// The service, behind the check of its security header.
pub(super) type Service = InterceptedService<
    server::SpiffeWorkloadApiServer<WorkloadApi>,
    fn(Request<()>) -> Result<Request<()>, Status>,
>;

pub(super) fn service(
    issuer: Arc<Issuer>,
    entries: Arc<Entries>,
    stop: CancellationToken,
) -> Service {
    let api = WorkloadApi(Arc::new(Shared { issuer, entries, stop }));
    let service =
        server::SpiffeWorkloadApiServer::new(api).max_decoding_message_size(REQUEST_BYTES_MAX);
    InterceptedService::new(service, require_header)
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
    pub(super) stop: CancellationToken,
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
        let mut identities = self.0.attest(&caller).await?;
        if !spiffe_id.is_empty() {
            let wanted = self.0.parse(&spiffe_id)?;
            identities.retain(|identity| *identity == wanted);
        }
        if identities.is_empty() {
            return Err(no_identity());
        }
        let mut svids = Vec::with_capacity(identities.len());
        for id in &identities {
            let token =
                self.0.issuer.jwt_svid(id, &audience).await.map_err(|error| not_issued(&error))?;
            let svid = token.expose_secret().to_owned();
            svids.push(wire::Jwtsvid { spiffe_id: id.to_string(), svid, hint: String::new() });
        }
        Ok(Response::new(wire::JwtsvidResponse { svids }))
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
        self.0.attest(&caller).await?;
        let (id, claims) = self.0.issuer.validate(&svid, &audience).map_err(|reason| {
            Status::invalid_argument(format!("the JWT-SVID is not valid: {reason}"))
        })?;
        let claims = Some(to_struct(claims));
        Ok(Response::new(wire::ValidateJwtsvidResponse { spiffe_id: id.to_string(), claims }))
    }
}

impl Shared {
    /// Who is calling. Waits a moment for a registration that may be under way.
    pub(super) async fn attest(&self, caller: &Caller) -> Result<Vec<SpiffeId>, Status> {
        let deadline = Instant::now() + REGISTRATION_DEADLINE;
        let mut changes = self.entries.changes();
        loop {
            match self.decide(caller)? {
                Decision::Identities(identities) => return known(identities),
                Decision::Wait(otherwise) => {
                    let change = tokio::time::timeout_at(deadline, changes.changed()).await;
                    if change.is_err() {
                        return known(otherwise);
                    }
                }
            }
        }
    }

    /// Who is calling, as far as is known now.
    pub(super) fn attest_again(&self, caller: &Caller) -> Result<Vec<SpiffeId>, Status> {
        match self.decide(caller)? {
            Decision::Identities(identities) | Decision::Wait(identities) => known(identities),
        }
    }

    fn decide(&self, caller: &Caller) -> Result<Decision, Status> {
        let process = caller.process.as_ref().ok_or_else(no_identity)?;
        let facts = process.facts(caller.uid).ok_or_else(no_identity)?;
        Ok(decide(&facts, &self.entries.rules()))
    }

    /// An ID that names nobody of this trust domain is refused like an identity of someone else.
    fn parse(&self, id: &str) -> Result<SpiffeId, Status> {
        SpiffeId::parse(id)
            .map_err(|_| Status::invalid_argument("`spiffe_id` is not a SPIFFE ID"))?;
        member(&self.issuer.trust_domain, id).ok_or_else(no_identity)
    }

    pub(super) fn trust_domain_id(&self) -> String {
        format!("spiffe://{}", self.issuer.trust_domain)
    }
}

pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Option<Caller>>().cloned().flatten().ok_or_else(no_identity)
}

fn known(identities: Vec<SpiffeId>) -> Result<Vec<SpiffeId>, Status> {
    if identities.is_empty() { Err(no_identity()) } else { Ok(identities) }
}

/// The words are SPIRE's: clients compare them.
pub(super) fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
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
