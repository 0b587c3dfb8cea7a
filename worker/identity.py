"""Access tokens of the process's own identity, for sinks that log in with one. Keeps none: azure-identity does.

What its errors say may hold tenant and client ids, or more; only the code of Entra's that is looked up is passed on.
"""

import re

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError

from worker.errors import Misconfigured, SinkUnavailable

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
