//! Who is who: the SPIFFE ID paths of the services and the audiences of their JWT-SVIDs.
//!
//! Two services that disagree on a name refuse each other, so the names stand here once.

/// A service that others call, or a caller that services know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// The name in audiences, logs and addresses.
    pub name: &'static str,
    /// The path of its SPIFFE ID, or the pattern of its members' paths.
    pub path: &'static str,
}

impl Party {
    /// The SPIFFE ID, or pattern of SPIFFE IDs, in `trust_domain`.
    pub fn id_pattern(&self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}{}", self.path)
    }
}

/// People and programs at the command line.
pub const OPERATOR: Party = Party { name: "operator", path: "/ns/neural-hive/sa/operator" };

/// The orchestrator.
pub const ORCHESTRATOR: Party = Party {
    name: "orchestrator-dynamic",
    path: "/ns/neural-hive-orchestration/sa/orchestrator-dynamic",
};

/// The service registry.
pub const REGISTRY: Party =
    Party { name: "service-registry", path: "/ns/neural-hive-registry/sa/service-registry" };

/// Vault or OpenBao: known by its audience only.
pub const VAULT: Party = Party { name: "vault", path: "/ns/vault/sa/vault" };

/// The workers: one shared identity, or one each below it.
pub const WORKERS: Party =
    Party { name: "worker-agents", path: "/ns/neural-hive-execution/sa/worker-agents/**" };

/// The path of one worker's own SPIFFE ID.
pub fn worker_path(worker: &str) -> String {
    format!("/ns/neural-hive-execution/sa/worker-agents/{worker}")
}

/// The Vault role that a ticket of this kind logs in with, such as `ticket-deploy`.
pub fn ticket_role(kind: hive_plan::TicketKind) -> String {
    format!("ticket-{}", kind.to_string().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_one_of_the_workers() {
        let prefix = WORKERS.path.trim_end_matches("**");
        assert!(worker_path("worker-1").starts_with(prefix));
    }

    #[test]
    fn the_role_of_a_ticket_is_its_kind_in_lower_case() {
        assert_eq!(ticket_role(hive_plan::TicketKind::Deploy), "ticket-deploy");
    }
}
