"""A credential with azure-identity's interface whose tokens say what they are for, so that a server can look."""

from base64 import urlsafe_b64encode
from typing import Self

from azure.core.credentials import AccessToken, AccessTokenInfo

HIDDEN_TOKEN = "hidden-token-4711"
_FOREVER = 4_000_000_000


def token_for(scope: str) -> str:
    """The token that is given out for a scope such as https://management.azure.com/.default."""
    resource = scope.removesuffix("/.default")
    return f"{HIDDEN_TOKEN}.{urlsafe_b64encode(resource.encode()).decode().rstrip('=')}"


class FakeCredential:
    """Gives out tokens, and remembers for what."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def get_token(self, *scopes: str, **_more: object) -> AccessToken:
        self.scopes += scopes
        return AccessToken(token_for(scopes[0]), _FOREVER)

    async def get_token_info(self, *scopes: str, options: object = None) -> AccessTokenInfo:
        self.scopes += scopes
        return AccessTokenInfo(token_for(scopes[0]), _FOREVER)

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        pass
