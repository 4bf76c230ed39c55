//! Credentials from Vault: an epoch for each ticket.

use crate::runner::{Lender, Loan, NotLent};
use hive_security::Workload;
use hive_security::epoch::{Epoch, Issued, Request};
use hive_security::vault::VaultClient;
use std::time::Duration;

/// Opens epochs with this worker's identity.
pub(crate) struct VaultLender {
    pub(crate) vault: VaultClient,
    pub(crate) workload: Workload,
}

impl Lender for VaultLender {
    type Loan = Epoch;

    async fn lend(
        &self,
        role: String,
        requests: Vec<Request>,
        deadline: Duration,
    ) -> Result<Epoch, NotLent> {
        let (vault, workload) = (self.vault.clone(), self.workload.clone());
        Epoch::open(vault, workload, role, requests, deadline).await.map_err(|error| NotLent {
            reason: hive_runtime::errors::chain(&error),
            is_transient: error.is_transient(),
        })
    }
}

impl Loan for Epoch {
    fn issued(&self) -> &[Issued] {
        self.credentials()
    }

    fn skipped(&self) -> &[String] {
        self.skipped()
    }

    fn failed(&self) -> impl Future<Output = String> + Send + 'static {
        let failed = self.failed();
        async move { hive_runtime::errors::chain(&failed.await) }
    }

    async fn close(self, deadline: Duration) -> Result<(), String> {
        self.close(deadline).await.map_err(|error| hive_runtime::errors::chain(&error))
    }
}
