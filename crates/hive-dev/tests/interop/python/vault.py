"""A client of a vault, as hvac has it: numbered checks, each one line of JSON with what came of it.

Its first line of input is what it may know: {"address", "token", "jwt", "jwks_url", "postgres", "username", "password"}.
What is printed is only what can be foreseen, so that the lines of two vaults can be compared.
"""

import json
import sys

import hvac
from hvac import exceptions

KNOWN = json.loads(sys.stdin.readline())
CREATION = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
READ_KV = 'path "kv/data/*" { capabilities = ["read"] }'


def client(token, namespace=None):
    return hvac.Client(url=KNOWN["address"], token=token, namespace=namespace, timeout=20)


root = client(KNOWN["token"])
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def refused(call, *arguments, **more):
    """The exception that hvac makes of an error, and its text."""
    try:
        call(*arguments, **more)
    except exceptions.VaultError as error:
        return [type(error).__name__, error.errors]
    return "not refused"


# -- the system


@check
def is_initialised_and_unsealed():
    return [root.sys.is_initialized(), root.sys.is_sealed(), root.sys.read_leader_status()["ha_enabled"]]


@check
def health():
    return sorted(set(root.sys.read_health_status(method="GET")) - {"performance_standby"})


@check
def health_of_a_head():
    return root.sys.read_health_status(method="HEAD").status_code


@check
def is_authenticated():
    return [root.is_authenticated(), client("nonsense").is_authenticated(), client(None).is_authenticated()]


@check
def mounts():
    root.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    root.sys.enable_secrets_engine("kv", path="one", options={"version": "1"})
    listed = root.sys.list_mounted_secrets_engines()["data"]
    root.sys.tune_mount_configuration("kv", default_lease_ttl="1h", max_lease_ttl="2h")
    tuned = root.sys.read_mount_configuration("kv")["data"]
    return [listed["kv/"]["type"], listed["kv/"]["options"], sorted(tuned), tuned["default_lease_ttl"]]


@check
def a_mount_twice():
    return refused(root.sys.enable_secrets_engine, "kv", path="kv")


@check
def authentication_methods():
    for kind in ["approle", "jwt"]:
        root.sys.enable_auth_method(kind)
    listed = root.sys.list_auth_methods()["data"]
    return [sorted(listed), listed["jwt/"]["type"]]


@check
def policies():
    root.sys.create_or_update_policy("reader", READ_KV)
    names = root.sys.list_policies()["data"]["policies"]
    return [names, root.sys.read_policy("reader")["data"]["rules"]]


@check
def acl_policies():
    root.sys.create_or_update_acl_policy("other", READ_KV)
    before = root.sys.read_acl_policy("other")["data"]["policy"]
    root.sys.delete_acl_policy("other")
    return [before, root.sys.list_acl_policies()["data"]["keys"], refused(root.sys.read_acl_policy, "other")]


# -- KV, version 2

v2 = root.secrets.kv.v2


@check
def write_and_read():
    made = v2.create_or_update_secret("app", {"user": "me"}, mount_point="kv")["data"]
    read = v2.read_secret_version("app", mount_point="kv", raise_on_deleted_version=True)["data"]
    return [made["version"], read["data"], sorted(read["metadata"])]


@check
def check_and_set():
    wrong = refused(v2.create_or_update_secret, "app", {"a": 1}, cas=7, mount_point="kv")
    right = v2.create_or_update_secret("app", {"user": "you"}, cas=1, mount_point="kv")["data"]["version"]
    return [wrong, right]


@check
def patch():
    v2.patch("app", {"more": "yes"}, mount_point="kv")
    read = v2.read_secret_version("app", mount_point="kv", raise_on_deleted_version=True)
    return [read["data"]["data"], refused(v2.patch, "nothing", {"a": 1}, mount_point="kv")]


@check
def versions():
    return v2.read_secret_version("app", version=1, mount_point="kv", raise_on_deleted_version=True)["data"]["data"]


@check
def delete_and_undelete():
    v2.delete_latest_version_of_secret("app", mount_point="kv")
    gone = refused(v2.read_secret_version, "app", mount_point="kv", raise_on_deleted_version=True)
    data = v2.read_secret_version("app", mount_point="kv", raise_on_deleted_version=False)["data"]["data"]
    v2.undelete_secret_versions("app", [3], mount_point="kv")
    back = v2.read_secret_version("app", mount_point="kv", raise_on_deleted_version=True)["data"]["data"]
    return [gone, data, back]


@check
def destroy():
    v2.delete_secret_versions("app", [1], mount_point="kv")
    v2.destroy_secret_versions("app", [2], mount_point="kv")
    versions = v2.read_secret_metadata("app", mount_point="kv")["data"]["versions"]
    return {number: [one["destroyed"], bool(one["deletion_time"])] for number, one in versions.items()}


@check
def metadata():
    v2.update_metadata("app", max_versions=5, custom_metadata={"owner": "me"}, mount_point="kv")
    data = v2.read_secret_metadata("app", mount_point="kv")["data"]
    return [sorted(data), data["custom_metadata"], data["max_versions"], data["current_version"]]


@check
def listing():
    v2.create_or_update_secret("dir/a", {"x": 1}, mount_point="kv")
    keys = v2.list_secrets("", mount_point="kv")["data"]["keys"]
    return [keys, refused(v2.list_secrets, "nothing", mount_point="kv")]


@check
def configuration():
    v2.configure(max_versions=4, cas_required=False, mount_point="kv")
    return v2.read_configuration(mount_point="kv")["data"]["max_versions"]


@check
def the_end_of_a_secret():
    v2.delete_metadata_and_all_versions("dir/a", mount_point="kv")
    return refused(v2.read_secret_metadata, "dir/a", mount_point="kv")


@check
def version_one():
    v1 = root.secrets.kv.v1
    v1.create_or_update_secret("app", {"a": "b"}, mount_point="one")
    read = [v1.read_secret("app", mount_point="one")["data"], v1.list_secrets("", mount_point="one")["data"]]
    v1.delete_secret("app", mount_point="one")
    return [*read, refused(v1.read_secret, "app", mount_point="one")]


# -- tokens


@check
def a_token():
    made = root.auth.token.create(policies=["reader"], ttl="10m", meta={"who": "me"})["auth"]
    mine = client(made["client_token"])
    data = mine.auth.token.lookup_self()["data"]
    return [sorted(made), made["policies"], made["lease_duration"], sorted(data), data["meta"]]


@check
def a_token_may_and_may_not():
    mine = client(root.auth.token.create(policies=["reader"], ttl="10m")["auth"]["client_token"])
    read = mine.secrets.kv.v2.read_secret_version("app", mount_point="kv", raise_on_deleted_version=True)
    write = refused(mine.secrets.kv.v2.create_or_update_secret, "app", {"a": 1}, mount_point="kv")
    paths = ["kv/data/app", "kv/metadata/app"]
    return [read["data"]["data"], write, mine.sys.get_capabilities(paths=paths)["data"]]


@check
def a_token_is_renewed():
    mine = client(root.auth.token.create(policies=["reader"], ttl="10m", explicit_max_ttl="1h")["auth"]["client_token"])
    return [mine.auth.token.renew_self(increment=300)["auth"]["lease_duration"],
            bool(mine.auth.token.renew_self(increment="5h")["warnings"])]


@check
def a_token_is_revoked():
    mine = client(root.auth.token.create(policies=["reader"], ttl="10m")["auth"]["client_token"])
    mine.auth.token.revoke_self()
    return refused(mine.auth.token.lookup_self)


@check
def accessors():
    made = root.auth.token.create(policies=["reader"], ttl="10m")["auth"]
    known = root.auth.token.lookup_accessor(made["accessor"])["data"]
    root.auth.token.revoke_accessor(made["accessor"])
    return [known["id"], known["policies"], refused(client(made["client_token"]).auth.token.lookup_self)]


@check
def orphans_and_batches():
    orphan = root.auth.token.create_orphan(policies=["reader"], ttl="10m")["auth"]
    batch = root.auth.token.create(policies=["reader"], ttl="10m", type="batch")["auth"]
    renewal = refused(client(batch["client_token"]).auth.token.renew_self)
    return [orphan["orphan"], batch["token_type"], batch["renewable"], renewal]


@check
def token_roles():
    root.auth.token.create_or_update_role("worker", allowed_policies="reader", orphan=True)
    data = root.auth.token.read_role("worker")["data"]
    listed = root.auth.token.list_roles()["data"]["keys"]
    root.auth.token.delete_role("worker")
    return [data["orphan"], data["allowed_policies"], listed]


# -- logins


@check
def approle():
    method = root.auth.approle
    method.create_or_update_approle("app", token_policies=["reader"], token_ttl="10m", secret_id_num_uses=2)
    role_id = method.read_role_id("app")["data"]["role_id"]
    made = method.generate_secret_id("app", metadata={"host": "one"})["data"]
    auth = client(None).auth.approle.login(role_id, made["secret_id"])["auth"]
    found = method.read_secret_id("app", made["secret_id"])["data"]
    return [sorted(made), auth["policies"], auth["metadata"], found["secret_id_num_uses"], found["metadata"]]


@check
def approle_refuses():
    role_id = root.auth.approle.read_role_id("app")["data"]["role_id"]
    return [refused(client(None).auth.approle.login, role_id, "nonsense"),
            refused(client(None).auth.approle.login, "nonsense", "nonsense")]


@check
def approle_with_a_wrapped_secret_id():
    wrapped = root.auth.approle.generate_secret_id("app", wrap_ttl="60s")["wrap_info"]
    mine = client(wrapped["token"])
    secret_id = mine.sys.unwrap()["data"]["secret_id"]
    role_id = root.auth.approle.read_role_id("app")["data"]["role_id"]
    auth = client(None).auth.approle.login(role_id, secret_id)["auth"]
    return [wrapped["creation_path"], wrapped["ttl"], auth["policies"], refused(mine.sys.unwrap)]


@check
def jwt():
    method = root.auth.jwt
    method.configure(jwks_url=KNOWN["jwks_url"])
    method.create_role("app", user_claim="sub", role_type="jwt", allowed_redirect_uris=[],
                       bound_audiences=["vault.conformance.test"], token_policies=["reader"], token_ttl="10m")
    auth = client(None).auth.jwt.jwt_login("app", KNOWN["jwt"])["auth"]
    return [auth["policies"], auth["metadata"], auth["lease_duration"], method.list_roles()["data"]["keys"]]


@check
def jwt_refuses():
    login = client(None).auth.jwt.jwt_login
    return [refused(login, "app", "nonsense"), refused(login, "nothing", KNOWN["jwt"]),
            refused(login, "app", KNOWN["jwt"][:-4] + "AAAA")]


# -- wrapping


@check
def wrapping():
    wrapped = root.write_data("sys/wrapping/wrap", data={"a": "b"}, wrap_ttl="60s")["wrap_info"]
    inside = root.sys.unwrap(wrapped["token"])["data"]
    return [sorted(wrapped), inside, refused(root.sys.unwrap, wrapped["token"])]


# -- the database, and leases

database = root.secrets.database


@check
def a_connection():
    root.sys.enable_secrets_engine("database")
    database.configure(
        "pg", "postgresql-database-plugin", allowed_roles=["app"], username=KNOWN["username"],
        password=KNOWN["password"],
        connection_url="postgresql://{{username}}:{{password}}@" + KNOWN["postgres"] + "/hive?sslmode=disable")
    read = database.read_connection("pg")["data"]
    return [sorted(read), sorted(read["connection_details"]), database.list_connections()["data"]["keys"]]


@check
def a_role():
    database.create_role("app", "pg", [CREATION], default_ttl="1h", max_ttl="2h")
    read = database.read_role("app")["data"]
    return [read["default_ttl"], read["max_ttl"], read["db_name"], database.list_roles()["data"]["keys"]]


@check
def a_login():
    made = database.generate_credentials("app")
    lease = made["lease_id"]
    known = root.sys.read_lease(lease)["data"]
    renewed = root.sys.renew_lease(lease, increment=600)
    capped = root.sys.renew_lease(lease, increment=36000)
    root.sys.revoke_lease(lease)
    return [sorted(made["data"]), made["lease_duration"], made["renewable"], sorted(known),
            renewed["lease_duration"], bool(capped["warnings"])]


@check
def a_lease_that_is_gone():
    lease = database.generate_credentials("app")["lease_id"]
    root.sys.revoke_prefix("database/creds/app")
    return [refused(root.sys.renew_lease, "nonsense"), refused(root.sys.read_lease, "nonsense"),
            len(lease.split("/"))]


@check
def an_unknown_role():
    return refused(database.generate_credentials, "nothing")


# -- PKI

pki = root.secrets.pki


@check
def certificates():
    root.sys.enable_secrets_engine("pki")
    made = pki.generate_root("internal", "Test Root", extra_params={"ttl": "100h", "key_type": "ec", "key_bits": 256})
    pki.create_or_update_role("web", {"allowed_domains": ["example.test"], "allow_subdomains": True, "key_type": "ec",
                                      "key_bits": 256, "ttl": "1h"})
    issued = pki.generate_certificate("web", "a.example.test")["data"]
    refusal = refused(pki.generate_certificate, "web", "a.elsewhere.test")
    revoked = pki.revoke_certificate(issued["serial_number"])["data"]
    return [sorted(made["data"]), sorted(issued), refusal, sorted(revoked), len(pki.list_certificates()["data"]["keys"])]


@check
def authorities():
    return [pki.read_ca_certificate().splitlines()[0], pki.read_crl().splitlines()[0],
            pki.read_certificate("ca")["data"]["certificate"].splitlines()[0]]


# -- transit

transit = root.secrets.transit


@check
def keys():
    root.sys.enable_secrets_engine("transit")
    transit.create_key("app")
    transit.create_key("signer", key_type="ecdsa-p256")
    read = transit.read_key("app")["data"]
    return [sorted(read), read["type"], transit.list_keys()["data"]["keys"]]


@check
def encryption():
    sealed = transit.encrypt_data("app", "aGVsbG8=")["data"]["ciphertext"]
    transit.rotate_key("app")
    again = transit.rewrap_data("app", sealed)["data"]["ciphertext"]
    opened = [transit.decrypt_data("app", one)["data"]["plaintext"] for one in [sealed, again]]
    return [sealed[:9], again[:9], opened, refused(transit.decrypt_data, "app", "nonsense")]


@check
def signatures():
    signature = transit.sign_data("signer", "aGVsbG8=")["data"]["signature"]
    verify = [transit.verify_signed_data("signer", text, signature=signature)["data"]["valid"]
              for text in ["aGVsbG8=", "b3RoZXI="]]
    return [signature[:9], verify]


# -- namespaces


@check
def namespaces():
    root.sys.create_namespace("team")
    listed = root.sys.list_namespaces()["data"]["keys"]
    inside = client(KNOWN["token"], namespace="team")
    inside.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    inside.secrets.kv.v2.create_or_update_secret("app", {"in": "team"}, mount_point="kv")
    read = inside.secrets.kv.v2.read_secret_version("app", mount_point="kv", raise_on_deleted_version=True)
    return [listed, read["data"]["data"]]


for number, function in enumerate(CHECKS, 1):
    try:
        result = function()
    except Exception as error:  # whatever it is, it is what came of the check
        result = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps([number, function.__name__, result], sort_keys=True), flush=True)
