"""The two nodes that answer questions: `$cbs` takes tokens, `$management` tells about hubs and partitions.

Pure: a request's properties in, an answer out. How both travel is `links`' work.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from proton import UNDESCRIBED, Array, Data, int32, timestamp

from worker.local.cbs import TokenCheck
from worker.local.hubs import Address, Hub, Hubs, Partition
from worker.local.refusals import ARGUMENT_ERROR, AUTH_FAILED, NOT_FOUND, NOT_IMPLEMENTED, Refused

CBS, MANAGEMENT = "$cbs", "$management"

_STATUS = {NOT_FOUND: 404, AUTH_FAILED: 401, NOT_IMPLEMENTED: 501}
_BAD_REQUEST = 400
_HUB_TYPE, _PARTITION_TYPE = "com.microsoft:eventhub", "com.microsoft:partition"
_NO_OFFSET = "-1"


class Answer(NamedTuple):
    """What goes back to who asked."""

    status: int
    description: str
    condition: str | None = None
    body: dict[str, Any] | None = None

    @classmethod
    def refusing(cls, refusal: Refused) -> "Answer":
        """A refusal in the form of an answer."""
        status = _STATUS.get(refusal.condition, _BAD_REQUEST)
        return cls(status, refusal.description, refusal.condition)

    def properties(self) -> dict[str, Any]:
        """The application properties: both spellings of each name are in use, one by each SDK and node."""
        status = int32(self.status)
        properties = {
            "status-code": status,
            "statusCode": status,
            "status-description": self.description,
            "statusDescription": self.description,
        }
        if self.condition is not None:
            properties |= {"error-condition": self.condition, "errorCondition": self.condition}
        return properties


class Node(Protocol):
    """What answers requests."""

    def answer(self, properties: Mapping[str, Any], body: object, now: float) -> Answer:
        """Answers one request; raises Refused."""
        ...


class CbsNode:
    """`$cbs` of one connection: tokens that pass open the way to a hub, for this connection."""

    def __init__(self, hubs: Hubs, tokens: TokenCheck) -> None:
        self._hubs = hubs
        self._tokens = tokens
        self._admitted: set[str] = set()

    def admits(self, address: str) -> bool:
        """Whether a link to this address may be opened."""
        return not self._tokens.required or Address.parse(address).hub.casefold() in self._admitted

    def answer(self, properties: Mapping[str, Any], body: object, now: float) -> Answer:
        """Checks the token of a put-token request; raises Refused."""
        if properties.get("operation") != "put-token":
            raise Refused(NOT_IMPLEMENTED, f"{CBS} knows the operation put-token only.")
        audience = str(properties.get("name", ""))
        name = Address.parse(audience).hub
        self._hubs.find(name, asked_for=audience)
        self._tokens.check(str(body), audience, now)
        self._admitted.add(name.casefold())
        return Answer(202, "Accepted")


class ManagementNode:
    """`$management`: READ of a hub or of one of its partitions."""

    def __init__(self, hubs: Hubs, tokens: TokenCheck) -> None:
        self._hubs = hubs
        self._tokens = tokens
        self._readers: dict[str, Callable[[Hub, Mapping[str, Any]], dict[str, Any]]] = {
            _HUB_TYPE: _hub_properties,
            _PARTITION_TYPE: _partition_properties,
        }

    def answer(self, properties: Mapping[str, Any], body: object, now: float) -> Answer:  # noqa: ARG002 - a Node's
        """Answers a READ; raises Refused."""
        name = str(properties.get("name", ""))
        self._tokens.check(str(properties.get("security_token", "")), f"{name}/{MANAGEMENT}", now)
        hub = self._hubs.find(name, asked_for=name)
        reader = self._readers.get(str(properties.get("type")))
        if properties.get("operation") != "READ" or reader is None:
            raise Refused(NOT_IMPLEMENTED, f"{MANAGEMENT} knows READ of {' and '.join(self._readers)} only.")
        return Answer(200, "OK", body=reader(hub, properties))


def _hub_properties(hub: Hub, _request: Mapping[str, Any]) -> dict[str, Any]:
    ids = [str(partition.id) for partition in hub.partitions]
    return {
        "name": hub.name,
        "type": _HUB_TYPE,
        "created_at": timestamp(hub.created_at_ms),
        "partition_count": int32(len(ids)),
        "partition_ids": Array(UNDESCRIBED, Data.STRING, *ids),  # type: ignore[arg-type]  # the constant for "none"
        "georeplication_factor": int32(1),
    }


def _partition_properties(hub: Hub, request: Mapping[str, Any]) -> dict[str, Any]:
    if "partition" not in request:
        raise Refused(ARGUMENT_ERROR, "The request names no partition.")
    partition: Partition = hub.partition(str(request["partition"]))
    last = partition.log.last
    return {
        "name": hub.name,
        "type": _PARTITION_TYPE,
        "partition": str(partition.id),
        "begin_sequence_number": 0 if last else -1,
        "last_enqueued_sequence_number": last.sequence_number if last else -1,
        "last_enqueued_offset": str(last.offset) if last else _NO_OFFSET,
        "last_enqueued_time_utc": timestamp(last.enqueued_ms if last else 0),
        "is_partition_empty": last is None,
    }
