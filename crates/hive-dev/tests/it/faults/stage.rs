//! Where a fault is played: before our vault, in a time that the test turns, or before a real OpenBao, in real time.

use std::time::Duration;

use hive_dev::authority::Authority;
use hive_dev::proxy::Proxy;
use hive_security::credentials::{Credentials, Error, Policy};
use serde_json::Value;
use sqlx::postgres::PgPool;

use super::load::Outcome;
use super::world::{Service, World};

/// A service, and what it depends on.
pub(crate) trait Stage {
    /// What stands before Vault.
    fn proxy(&self) -> &Proxy;

    /// Who gives the service its identity.
    fn authority(&self) -> &Authority;

    /// The administrator of the database.
    fn root(&self) -> &PgPool;

    /// A service under load. What it needs of Vault it asks through the proxy.
    async fn serve(&self, policy: Policy) -> Service;

    /// Time passes.
    async fn pass(&self, time: Duration);

    /// Time passes until it is so, but no more than so much; and how much it was.
    async fn pass_until(
        &self,
        what: &str,
        at_most: Duration,
        so: impl AsyncFnMut() -> bool,
    ) -> Duration;

    /// Something that an operator does.
    async fn operate(&self, method: &str, path: &str, body: Value) -> (u16, Value);

    /// From now on so many calls are answered within a second, and no more; or, again, any number.
    async fn limit_calls(&self, per_second: Option<u32>) -> bool;

    /// The database logins that Vault made for this stage and that are there now.
    async fn logins(&self) -> Vec<String>;

    /// Ends the service as it is meant to, and looks for what it left behind: nothing.
    async fn close(&self, service: Service) -> Outcome;

    async fn close_credentials(&self, credentials: Credentials) -> Result<(), Error>;

    async fn stop(self);
}

impl Stage for World {
    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("nobody took it away")
    }

    fn root(&self) -> &PgPool {
        &self.root
    }

    async fn serve(&self, policy: Policy) -> Service {
        self.serve(policy).await
    }

    async fn pass(&self, time: Duration) {
        self.pass(time).await;
    }

    async fn pass_until(
        &self,
        what: &str,
        at_most: Duration,
        so: impl AsyncFnMut() -> bool,
    ) -> Duration {
        self.pass_until(what, at_most, so).await
    }

    async fn operate(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.operate(method, path, body).await
    }

    async fn limit_calls(&self, per_second: Option<u32>) -> bool {
        let (path, method) = ("sys/quotas/rate-limit/all", per_second.map_or("DELETE", |_| "POST"));
        let quota = serde_json::json!({ "rate": per_second, "interval": "1s" });
        self.operate(method, path, quota).await.0 == 204
    }

    async fn logins(&self) -> Vec<String> {
        self.logins().await
    }

    async fn close(&self, service: Service) -> Outcome {
        self.close(service).await
    }

    async fn close_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        self.close_credentials(credentials).await
    }

    async fn stop(self) {
        self.stop().await;
    }
}
