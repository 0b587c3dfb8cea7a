"""The settings of the e-mail sink: who gets mail from whom, by way of which server, and how to log in there."""

import re
from email.headerregistry import Address
from email.utils import getaddresses
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from worker.settings import FilePath, one_of
from worker.sinks.addresses import check_host
from worker.sinks.mail_addresses import checked_addresses, is_address
from worker.sinks.mail_settings import MailSettings

_SCOPE = "https://outlook.office365.com/.default"
"""What Exchange Online wants a token for."""

_HOST = re.compile(r"[A-Za-z0-9.:_-]+")
_WITH_PORT = re.compile(r"[^:]+:\d*")

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class EmailSettings(MailSettings):
    """A sink of kind `email`."""

    ledger = "always"

    kind: Literal["email"] = "email"
    concurrency: int = Field(default=3, ge=1, le=1000)
    """Messages at one time per process, each over a connection of its own. Mail services allow few at a time."""
    allow_private: bool = False
    """Permits private, link-local and reserved addresses, and security: none. The loopback is always permitted."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """starttls: encryption begins after the greeting, and is insisted on. tls: from the first byte. none: never."""
    host: str
    """The mail server."""
    port: int = Field(default=0, ge=0, le=65535)
    """587 with starttls, 465 with tls, 25 with none, unless set."""
    sender: str = Field(alias="from")
    """Who it is from: an address, or `Name <address>`."""
    to: tuple[str, ...]
    """Who gets it. All are named in the message."""
    username: str | None = None
    """Whom to log in as; left out: without logging in."""
    auth: Literal["password", "xoauth2"] = "password"
    """What to log in with. xoauth2: an access token of the process's identity (azure-identity), as Exchange Online
    wants it; `username` is then the mailbox."""
    scope: str | None = Field(default=None, pattern=r"^[!-~]+$")
    """xoauth2: what the token is asked for; left out: Exchange Online."""
    password_env: str | None = None
    password_file: FilePath | None = None
    """What `username` proves itself with."""
    timeout_seconds: float = Field(default=60, gt=0, le=600)
    """For one attempt, from the connection (10 s at most) to the server's last word. It pays to be patient: when the
    last word is missed, nobody knows whether the message goes out."""

    @property
    def needs_identity(self) -> bool:
        """Whether it logs in with a token."""
        return self.auth == "xoauth2"

    @property
    def connects_to_port(self) -> int:
        """`port`, or what is usual for its security."""
        return self.port or _PORTS[self.security]

    @property
    def token_scope(self) -> str:
        """What a token is asked for."""
        return self.scope or _SCOPE

    @field_validator("host")
    @classmethod
    def _host(cls, host: str) -> str:
        if not _HOST.fullmatch(host) or _WITH_PORT.fullmatch(host):  # it is not repeated: it may hold a password
            raise ValueError("is no host; write a name such as smtp.example.org, without smtp://, and the port as port")
        return host

    @field_validator("sender")
    @classmethod
    def _from(cls, text: str) -> str:
        [(name, address), *others] = getaddresses([text])
        if others or not text.isprintable() or not is_address(address):
            raise ValueError(f"{text!r} is no sender; write name@example.org, or Name <name@example.org>")
        return str(Address(name, addr_spec=address))

    @field_validator("to")
    @classmethod
    def _to(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        if not to:
            raise ValueError("names nobody; write at least one address")
        return checked_addresses(to)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        here = check_host(self.host, what="the mail goes", allow_private=self.allow_private)
        if self.security == "none" and not here and not self.allow_private:
            raise ValueError(
                f"the mail would go to {self.host} without encryption; use security: starttls or tls, "
                "or allow_private: true"
            )
        self._check_login()
        return self

    def _check_login(self) -> None:
        password = self.password_env or self.password_file
        if self.auth == "xoauth2":
            if self.username is None:
                raise ValueError("auth: xoauth2 logs in to a mailbox; add its address as username")
            if password:
                raise ValueError("auth: xoauth2 uses a token instead of a password; remove password_env, password_file")
            return
        if self.scope is not None:
            raise ValueError("scope is for auth: xoauth2; remove it, or add auth: xoauth2")
        one_of(dict(self), "password_env", "password_file", required=self.username is not None)
        if self.username is None and password:
            raise ValueError("there is a password but no username; add username")
