//! What befalls one service, on a real OpenBao, in real time: all at once, each in a namespace of its own.

use std::time::Duration;

use hive_dev::openbao::OpenBao;
use hive_dev::proxy::Fault;
use hive_security::credentials::Policy;

use super::cable::Cable;
use super::ends::seconds;
use super::scene::{Scene, Setting};
use super::stage::Stage;
use super::world::{Cluster, Terms};
use super::{answers, database, identity, limits, shutdown};

const NO_RENEW: &str = "path \"database/creds/*\" { capabilities = [\"read\"] }\n\
    path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n\
    path \"sys/leases/renew\" { capabilities = [\"deny\"] }";
const NO_REVOKE: &str = "path \"database/creds/*\" { capabilities = [\"read\"] }";

/// A server and a database for all of them.
struct Theatre {
    bao: OpenBao,
    cluster: Cluster,
}

impl Theatre {
    fn usual(&self, name: &'static str) -> Setting {
        Setting::usual(name, &self.cluster)
    }

    async fn set(&self, setting: Setting) -> Scene<'_> {
        Scene::set(&self.bao, &self.cluster, setting).await
    }

    async fn spoilt_answers(&self) {
        let slow = async {
            let drops = Fault::Drip { bytes: 64, pause: Duration::from_millis(100) };
            let faults = [Fault::Slow(seconds(5)), drops];
            let scene = self.set(self.usual("slow")).await;
            let each = seconds(1);
            answers::slow_answers_and_such_as_come_in_drops_delay_nobody(scene, faults, each).await;
        };
        let lost = async {
            let scene = self.set(self.usual("lost")).await;
            answers::a_login_whose_answer_is_lost_is_one_orphan_which_its_token_takes_along(scene)
                .await;
        };
        tokio::join!(slow, lost, self.answers_without_sense());
    }

    async fn answers_without_sense(&self) {
        let terms = Terms { lease_s: (60, 3600), token_s: (20, 3600) };
        let scene = self.set(Setting { terms, ..self.usual("senseless") }).await;
        let service = scene.serve(Policy::default()).await;
        answers::answers_that_make_no_sense_delay_nobody(&scene, &service, seconds(2)).await;
        // A token whose answer was cut off has ended by itself.
        scene.pass(seconds(21)).await;
        let outcome = scene.close(service).await;
        assert!(outcome.is_flawless(), "{outcome:?}");
        scene.stop().await;
    }

    async fn a_database_that_does_not_obey(&self) {
        let away = async {
            let cable = Cable::to(self.cluster.postgres.port);
            let terms = Terms { lease_s: (40, 3600), token_s: (300, 3600) };
            let setting = Setting { database_port: cable.port, terms, ..self.usual("away") };
            database::a_cable_that_is_pulled(self.set(setting).await, cable).await;
        };
        let owner = async {
            let setting = Setting { revoke: &database::DROP_ONLY, ..self.usual("owner") };
            let (scene, watched) = (self.set(setting).await, seconds(30));
            database::a_login_that_owns_something_is_not_dropped_and_that_is_told_and_not_tried_for_ever(
                scene, watched,
            )
            .await;
        };
        tokio::join!(away, owner);
    }

    async fn limits(&self) {
        let short = async {
            let terms = Terms { lease_s: (3600, 7200), token_s: (30, 30) };
            let scene = self.set(Setting { terms, ..self.usual("short") }).await;
            let (watched, generations) = (seconds(45), 2..=4);
            limits::a_token_that_ends_before_its_leases_is_replaced_with_them_in_time(
                scene,
                watched,
                generations,
            )
            .await;
        };
        let no_renew = async {
            let terms = Terms { lease_s: (60, 3600), token_s: (300, 3600) };
            let setting = Setting { policy: NO_RENEW, terms, ..self.usual("no-renew") };
            let (scene, watched) = (self.set(setting).await, seconds(50));
            limits::without_the_right_to_renew_everything_is_replaced_before_it_ends(
                scene, watched, 2,
            )
            .await;
        };
        let no_revoke = async {
            let setting = Setting { policy: NO_REVOKE, ..self.usual("no-revoke") };
            let scene = self.set(setting).await;
            limits::without_the_right_to_revoke_a_lease_the_token_takes_it_along(scene).await;
        };
        let quota = async {
            let scene = self.set(self.usual("quota")).await;
            limits::a_quota_of_one_call_a_second_is_kept_and_noticed_by_nobody(scene).await;
        };
        tokio::join!(short, no_renew, no_revoke, quota);
    }

    async fn keys_and_an_end(&self) {
        let key = async {
            let scene = self.set(self.usual("key")).await;
            identity::a_key_of_the_authority_may_be_replaced_and_revoked_between_two_logins(scene)
                .await;
        };
        let stop = async {
            let scene = self.set(self.usual("stop")).await;
            shutdown::whoever_stops_in_the_middle_of_a_rotation_leaves_nothing_behind(scene).await;
        };
        tokio::join!(key, stop);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_openbao_what_goes_wrong_around_a_service_is_noticed_by_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = hive_dev::tools::program("bao").expect("`cargo xtask real` puts OpenBao there");
    let bao = OpenBao::dev(&program, directory.path()).await.expect("it starts");
    let theatre = Theatre { bao, cluster: Cluster::start().await };
    tokio::join!(
        theatre.spoilt_answers(),
        theatre.a_database_that_does_not_obey(),
        theatre.limits(),
        theatre.keys_and_an_end(),
    );
    theatre.bao.stop().await;
    theatre.cluster.stop().await;
}
