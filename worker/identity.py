"""Access tokens of the process's own identity, for sinks that log in with one. Keeps none: azure-identity does.

A sink whose SDK asks for tokens by itself hands it `AsCredential`. What azure-identity's errors say may hold tenant and
client ids, or more; only the code of Entra's that is looked up is passed on.
"""

import re
import time
from collections.abc import Callable
from typing import Any, Self

from azure.core.credentials import AccessToken
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError

from worker.errors import Misconfigured, SinkUnavailable
from worker.sinks import TokenSource

_ASKED_AGAIN_SECONDS = 300
"""azure-identity renews a token this long before its end, so what it hands out is good for so long at least."""
_ENTRA_CODE = re.compile(r"\bAADSTS\d{1,9}\b")


class Tokens:
    """A TokenSource over a credential, which stays the caller's to close."""

    def __init__(self, credential: AsyncTokenCredential) -> None:
        self._credential = credential

    async def token(self, scope: str) -> str:
        """A token for this scope. Raises Misconfigured when there is none to be had, SinkUnavailable when not now."""
        try:
            return (await self._credential.get_token(scope)).token
        except ClientAuthenticationError as error:
            code = _ENTRA_CODE.search(str(error))
            raise Misconfigured(
                f"the identity of the process gets no token for {scope}{f' ({code[0]})' if code else ''}: "
                "check that it has an identity here, and that it is allowed to ask for this"
            ) from None
        except (AzureError, OSError) as error:
            raise SinkUnavailable(
                f"the identity service cannot be reached for a token for {scope} ({type(error).__name__})"
            ) from None


class AsCredential:
    """A TokenSource with the face of azure-identity's credentials. Closes nothing: the credential is the process's."""

    def __init__(self, tokens: TokenSource, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._clock = clock

    async def get_token(self, *scopes: str, **_more: Any) -> AccessToken:
        """A token for the first of the scopes, which is to be asked for again soon: its true end is not known here."""
        return AccessToken(await self._tokens.token(scopes[0]), int(self._clock()) + _ASKED_AGAIN_SECONDS)

    async def close(self) -> None:
        """Nothing is held."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()
