"""A client of the registry, generated from the field table of the contract that existing clients were generated from.

Its first line of input is what it may know: {"worker", "operator", "worker_token", "operator_token"}, the first two
being addresses. It makes numbered checks; each prints one line of JSON with what came of it.
"""

import json
import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "neural_hive.service_registry"
DEADLINE_S = 15

ENUMS = """
AgentType: AGENT_TYPE_UNSPECIFIED=0 WORKER=1 SCOUT=2 GUARD=3 ANALYST=4
AgentStatus: AGENT_STATUS_UNSPECIFIED=0 HEALTHY=1 UNHEALTHY=2 DEGRADED=3
EventType: EVENT_TYPE_UNSPECIFIED=0 REGISTERED=1 UPDATED=2 DEREGISTERED=3 STATUS_CHANGED=4
"""

MESSAGES = """
AgentTelemetry: success_rate=1 double, avg_duration_ms=2 i64, total_executions=3 i64, failed_executions=4 i64, last_execution_at=5 i64
AgentInfo: agent_id=1 str, agent_type=2 AgentType, capabilities=3 rep str, metadata=4 map, telemetry=5 AgentTelemetry, status=6 AgentStatus, registered_at=7 i64, last_seen=8 i64, namespace=9 str, cluster=10 str, version=11 str, schema_version=12 i32
AgentChangeEvent: event_type=1 EventType, agent=2 AgentInfo, timestamp=3 i64
"""

METHODS = """
Register | agent_type=1 AgentType, capabilities=2 rep str, metadata=3 map, namespace=4 str, cluster=5 str, version=6 str, telemetry=7 AgentTelemetry | agent_id=1 str, registration_token=2 str, registered_at=3 i64
Heartbeat | agent_id=1 str, telemetry=2 AgentTelemetry | status=1 AgentStatus, last_seen=2 i64
Deregister | agent_id=1 str | success=1 bool
DiscoverAgents | capabilities=1 rep str, filters=2 map, max_results=3 i32 | agents=1 rep AgentInfo, ranked=2 bool
GetAgent | agent_id=1 str | agent=1 AgentInfo
ListAgents | agent_type=1 AgentType, filters=2 map | agents=1 rep AgentInfo
NotifyAgent | agent_id=1 str, notification_type=2 str, message=3 str, metadata=4 map | success=1 bool, error=2 str
WatchAgents | agent_type=1 AgentType |
"""

Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "bool": Field.TYPE_BOOL,
    "double": Field.TYPE_DOUBLE,
    "i32": Field.TYPE_INT32,
    "i64": Field.TYPE_INT64,
    "str": Field.TYPE_STRING,
}


def rows(table, separator):
    return [[cell.strip() for cell in line.split(separator)] for line in table.strip().splitlines()]


def generate():
    """A class for each message."""
    file = descriptor_pb2.FileDescriptorProto(name="registry.proto", package=PACKAGE, syntax="proto3")
    for name, values in rows(ENUMS, ":"):
        enum = file.enum_type.add(name=name)
        for value in values.split():
            word, number = value.split("=")
            enum.value.add(name=word, number=int(number))
    enums = {enum.name for enum in file.enum_type}
    for name, fields in rows(MESSAGES, ":"):
        add_message(file, enums, name, fields)
    for name, request, response in rows(METHODS, "|"):
        add_message(file, enums, f"{name}Request", request)
        if response:
            add_message(file, enums, f"{name}Response", response)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = lambda name: pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
    return {m.name: message_factory.GetMessageClass(find(m.name)) for m in file.message_type}


def add_message(file, enums, name, fields):
    message = file.message_type.add(name=name)
    for text in fields.split(", "):
        head, *kind = text.split()
        field_name, number = head.split("=")
        repeated = kind[0] == "rep" or kind[0] == "map"
        label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
        field = message.field.add(name=field_name, number=int(number), label=label)
        set_type(message, field, enums, kind[-1], f".{PACKAGE}.{name}")


def set_type(message, field, enums, kind, full_name):
    if kind in SCALARS:
        field.type = SCALARS[kind]
    elif kind == "map":
        entry = message.nested_type.add(name=field.name.capitalize() + "Entry")
        entry.options.map_entry = True
        for number, name in ((1, "key"), (2, "value")):
            entry.field.add(name=name, number=number, label=Field.LABEL_OPTIONAL, type=Field.TYPE_STRING)
        field.type, field.type_name = Field.TYPE_MESSAGE, f"{full_name}.{entry.name}"
    else:
        field.type = Field.TYPE_ENUM if kind in enums else Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


TYPES = generate()


class Client:
    """The methods, as an existing client calls them: with a bearer token."""

    def __init__(self, address, token):
        self.channel = grpc.insecure_channel(address)
        self.metadata = [("authorization", f"Bearer {token}")]

    def __getattr__(self, method):
        request = TYPES[f"{method}Request"]
        response = TYPES.get(f"{method}Response") or TYPES["AgentChangeEvent"]
        kind = self.channel.unary_stream if method == "WatchAgents" else self.channel.unary_unary
        call = kind(
            f"/{PACKAGE}.ServiceRegistry/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return lambda **fields: call(request(**fields), metadata=self.metadata, timeout=DEADLINE_S)


KNOWN = json.loads(sys.stdin.readline())
worker = Client(KNOWN["worker"], KNOWN["worker_token"])
operator = Client(KNOWN["operator"], KNOWN["operator_token"])
Telemetry = TYPES["AgentTelemetry"]


def refused(call, **fields):
    """The code with which a call is refused."""
    try:
        call(**fields)
    except grpc.RpcError as error:
        return error.code().name
    return "not refused"


def is_told_to_register_again(call, **fields):
    """Whether the predecessor's worker would: it looks for these words."""
    try:
        call(**fields)
    except grpc.RpcError as error:
        return "não encontrado" in error.details()
    return False


def registers_with_the_defaults():
    answer = worker.Register(agent_type=1, capabilities=["python", "terraform"], metadata={"slots": "2"})
    known["id"] = answer.agent_id
    agent = operator.GetAgent(agent_id=answer.agent_id).agent
    labels = [agent.namespace, agent.cluster, agent.version]
    return [sorted(agent.capabilities), dict(agent.metadata), labels, agent.status, answer.registration_token]


def is_refused_without_type_or_capabilities():
    return [
        refused(worker.Register, capabilities=["python"]),
        refused(worker.Register, agent_type=1),
        refused(worker.Register, agent_type=9, capabilities=["python"]),
    ]


def heartbeats_say_how_it_stands():
    def status(rate):
        telemetry = Telemetry(success_rate=rate, total_executions=10)
        answered = worker.Heartbeat(agent_id=known["id"], telemetry=telemetry).status
        # Others are told a moment later.
        deadline = time.monotonic() + DEADLINE_S
        while operator.GetAgent(agent_id=known["id"]).agent.status != answered:
            if time.monotonic() > deadline:
                return "others were never told"
            time.sleep(0.02)
        return answered

    unknown = "00000000-0000-4000-8000-000000000000"
    return [
        status(0.2),
        status(0.4),
        status(0.9),
        refused(worker.Heartbeat, agent_id=unknown),
        is_told_to_register_again(worker.Heartbeat, agent_id=unknown),
    ]


def is_discovered():
    def found(**fields):
        answer = operator.DiscoverAgents(**fields)
        return [len(answer.agents), answer.ranked]

    return [
        found(capabilities=["python"]),
        found(capabilities=["python", "rust"]),
        found(capabilities=["python"], filters={"agent_type": "worker", "status": "HEALTHY"}),
        found(capabilities=["python"], filters={"agent_type": "scout"}),
    ]


def is_listed():
    return [len(operator.ListAgents(agent_type=kind).agents) for kind in (0, 1, 2)]


def is_watched():
    events = operator.WatchAgents(agent_type=1)
    first = next(events)
    # An existing client does not know the number 5, which says that it is in sync.
    synced = next(events)
    second = worker.Register(agent_type=1, capabilities=["python"]).agent_id
    registered = next(events)
    worker.Deregister(agent_id=second)
    left = next(events)
    events.cancel()
    same = [first.agent.agent_id == known["id"], registered.agent.agent_id == second]
    return [same, [event.event_type for event in (first, synced, registered, left)], left.agent.agent_type]


def is_not_said_to_be_notified_when_it_is_not():
    answer = operator.NotifyAgent(agent_id=known["id"], notification_type="drain", message="soon")
    return [answer.success, answer.error != ""]


def may_not_do_what_is_not_its_to_do():
    return [
        refused(operator.Register, agent_type=1, capabilities=["python"]),
        refused(Client(KNOWN["worker"], "nonsense").ListAgents),
    ]


def leaves():
    answer = worker.Deregister(agent_id=known["id"])
    return [answer.success, refused(operator.GetAgent, agent_id=known["id"])]


known = {}
CHECKS = [
    registers_with_the_defaults,
    is_refused_without_type_or_capabilities,
    heartbeats_say_how_it_stands,
    is_discovered,
    is_listed,
    is_watched,
    is_not_said_to_be_notified_when_it_is_not,
    may_not_do_what_is_not_its_to_do,
    leaves,
]

for check in CHECKS:
    print(json.dumps([check.__name__, check()]), flush=True)
