"""Why the broker says no: an AMQP condition and the sentence the real service sends with it.

The conditions decide how an SDK reacts (try again, give up, hand the partition over), so they are the real ones.
"""

ARGUMENT_ERROR = "com.microsoft:argument-error"
ARGUMENT_OUT_OF_RANGE = "com.microsoft:argument-out-of-range"
AUTH_FAILED = "com.microsoft:auth-failed"
CONNECTION_FORCED = "amqp:connection:forced"
DECODE_ERROR = "amqp:decode-error"
DETACH_FORCED = "amqp:link:detach-forced"
INTERNAL_ERROR = "amqp:internal-error"
LINK_STOLEN = "amqp:link:stolen"
MESSAGE_SIZE_EXCEEDED = "amqp:link:message-size-exceeded"
NOT_FOUND = "amqp:not-found"
NOT_IMPLEMENTED = "amqp:not-implemented"
RESOURCE_LIMIT_EXCEEDED = "amqp:resource-limit-exceeded"
SERVER_BUSY = "com.microsoft:server-busy"
UNAUTHORIZED_ACCESS = "amqp:unauthorized-access"


class Refused(Exception):
    """What was asked for is not given: the link is detached, or the request answered, with this."""

    def __init__(self, condition: str, description: str) -> None:
        self.condition = condition
        self.description = description
        super().__init__(f"{condition}: {description}")


def entity_not_found(address: str) -> Refused:
    """A hub that this broker does not have."""
    return Refused(NOT_FOUND, f"The messaging entity '{address}' could not be found.")
