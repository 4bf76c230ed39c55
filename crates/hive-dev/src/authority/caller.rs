//! Many callers in one process, each with an identity of its own.

use std::time::Duration;

use hive_security::{Audience, Workload, WorkloadConfig};

use super::{Authority, Entry, Error};

/// A machine that is busy takes this long and no longer.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);

impl Authority {
    /// A workload of this process that calls `service` under the identity of `path`. One process has one identity at a
    /// time, so this one is fetched whole, and then its entry goes: what was fetched serves until it expires. While this
    /// process has another entry, the workload is that one's.
    pub async fn caller(&self, path: &str, service: &str) -> Result<Workload, Error> {
        let entry = self.add_entry(Entry::of_process(path, std::process::id()))?;
        let fetched = fetch(self.endpoint(), service).await;
        self.remove_entry(entry);
        fetched.map_err(|source| Error::Caller { path: path.to_owned(), source })
    }
}

async fn fetch(endpoint: String, service: &str) -> Result<Workload, hive_security::Error> {
    let config = WorkloadConfig::new(endpoint, FETCH_DEADLINE);
    let (workload, upkeep) = Workload::attach(config).await?;
    let audience = Audience::of_service(service, &workload.trust_domain())?;
    workload.jwt_svid(&audience).await?;
    // Nobody hears of it when the entry goes.
    drop(upkeep);
    Ok(workload)
}
