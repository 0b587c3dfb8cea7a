"""Connection strings and addresses: what can be seen to be wrong without connecting, and where they lead.

No sentence here repeats any part of a connection string, and nothing keeps its key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a connection string leads."""

    namespace: str
    """The host, with the port where one stands, exactly as the SDK hands it to a checkpoint store."""
    hub: str | None
    """EntityPath: the one hub that the key is for."""
    emulator: bool
    """The connection goes without TLS to a hub on this machine or network."""


def hub_address(connection_string: str) -> HubAddress:
    """Reads an Event Hubs connection string. Raises ValueError with a sentence that holds no part of it."""
    parts = _parts(connection_string)
    if "endpoint" not in parts and "accountname" in parts:
        raise ValueError("is a storage account's connection string; take the Event Hubs namespace's")
    endpoint = _endpoint(parts)
    _check_credentials(parts)
    emulator = parts.get("usedevelopmentemulator")
    if emulator not in (None, "true", "false"):
        raise ValueError("UseDevelopmentEmulator is neither true nor false in small letters; write it so")
    return HubAddress(endpoint.netloc, parts.get("entitypath"), emulator == "true")


def _endpoint(parts: Mapping[str, str]) -> SplitResult:
    if "endpoint" not in parts:
        raise ValueError("has no Endpoint=sb://…; copy it whole from the namespace's shared access policies")
    try:
        endpoint = urlsplit(parts["endpoint"].rstrip("/"))
        _ = endpoint.port
    except ValueError:
        raise ValueError("has an Endpoint that is no address; copy it whole, with the port if it has one") from None
    if endpoint.scheme != "sb" or not endpoint.hostname or "@" in endpoint.netloc or endpoint.path:
        raise ValueError("has an Endpoint that is not of the form sb://NAME.servicebus.windows.net/")
    return endpoint


def _check_credentials(parts: Mapping[str, str]) -> None:
    if "sharedaccesssignature" in parts:
        if "sharedaccesskey" in parts:
            raise ValueError("has both SharedAccessKey and SharedAccessSignature; keep one")
        return
    for key, name in (("sharedaccesskeyname", "SharedAccessKeyName"), ("sharedaccesskey", "SharedAccessKey")):
        if not parts.get(key):
            raise ValueError(f"has no {name}; copy it whole from the namespace's shared access policies")


def check_storage_connection_string(connection_string: str) -> None:
    """Raises ValueError, with a sentence that holds no part of it, unless it leads to a storage account."""
    parts = _parts(connection_string)
    if parts.get("endpoint", "").startswith("sb:"):
        raise ValueError("is an Event Hubs connection string; take the storage account's")
    if parts.get("usedevelopmentstorage") == "true":
        return
    if "accountname" not in parts and "blobendpoint" not in parts:
        raise ValueError("has neither AccountName nor BlobEndpoint; copy it whole from the account's access keys")
    if "accountkey" not in parts and "sharedaccesssignature" not in parts:
        raise ValueError(
            "has neither AccountKey nor SharedAccessSignature; copy it whole from the account's access keys"
        )


def checked_host_name(value: str) -> str:
    """A namespace's host name as it stands in the configuration. Raises ValueError."""
    if not value.replace("-", "").replace(".", "").isalnum() or "." not in value:
        raise ValueError("is not a full host name; write NAME.servicebus.windows.net, without sb:// and /")
    return value


def checked_account_url(value: str) -> str:
    """A storage account's address as it stands in the configuration. Raises ValueError."""
    message = (
        "is not of the form https://NAME.blob.core.windows.net; a signature (?…) belongs into connection_string_env"
    )
    try:
        url = urlsplit(value)
    except ValueError:
        raise ValueError(message) from None
    local = url.scheme == "http" and url.hostname in ("127.0.0.1", "localhost", "::1")
    if (url.scheme != "https" and not local) or not url.hostname or url.query or url.fragment or "@" in url.netloc:
        raise ValueError(message)
    if ".dfs." in url.hostname or (".blob." in url.hostname and url.path.strip("/")):
        raise ValueError(
            "is not of the form https://NAME.blob.core.windows.net; write the blob address of the account alone"
        )
    return value.rstrip("/")


def checked_container(value: str) -> str:
    """The name of a container of blobs. Raises ValueError."""
    if not re.fullmatch(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", value):
        raise ValueError("is not the name of a container; write 3 to 63 small letters, digits and single hyphens")
    return value


def endpoint_of(connection_string: str) -> str | None:
    """The address in a connection string of Azure's, whatever its service; None where there is none to be seen."""
    try:
        parts = _parts(connection_string)
    except ValueError:
        return None
    if named := parts.get("blobendpoint") or parts.get("endpoint"):
        return named
    if "accountname" not in parts:
        return None
    return f"https://{parts['accountname']}.blob.{parts.get('endpointsuffix', 'core.windows.net')}"


def _parts(connection_string: str) -> dict[str, str]:
    """Its parts by name in lower case, which is how the SDKs read it."""
    if connection_string != connection_string.strip(" \t\r\n\"'"):
        raise ValueError("begins or ends with white space or a quote; store it without")
    parts: dict[str, str] = {}
    for part in connection_string.rstrip(";").split(";"):
        name, _, value = part.partition("=")
        if not name or not value:
            raise ValueError("is no connection string: its parts are NAME=VALUE with ; between them")
        if name.lower() in parts:
            raise ValueError("names one of its parts twice; copy it whole, once")
        parts[name.lower()] = value
    return parts
