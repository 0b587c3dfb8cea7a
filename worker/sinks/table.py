"""The kinds of sinks: from the word in `kind:` to its settings and to what builds it.

A new kind is one module with its settings and its sink, and one row here; nothing else knows the kinds. Here are the
built-in ones; those that other distributions bring are found by `installed`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from worker.settings import SinkSettings
from worker.sinks import Sink, TokenSource
from worker.sinks.acs_email import AcsEmailSettings, AcsEmailSink
from worker.sinks.azuredevops import AzureDevOpsSettings, AzureDevOpsSink
from worker.sinks.azureml_batch import AzureMlBatchSettings, AzureMlBatchSink
from worker.sinks.azureml_deployment import AzureMlDeploymentSink
from worker.sinks.azureml_job import AzureMlJobSettings, AzureMlJobSink
from worker.sinks.blob import BlobSettings, BlobSink
from worker.sinks.datafactory import DataFactorySettings, DataFactorySink
from worker.sinks.deployment_settings import AzureMlDeploymentSettings
from worker.sinks.discard import DiscardSettings, DiscardSink
from worker.sinks.email import EmailSink
from worker.sinks.email_settings import EmailSettings
from worker.sinks.eventhub import EventHubSettings, EventHubSink
from worker.sinks.file import FileSettings, FileSink
from worker.sinks.github import GitHubSettings, GitHubSink
from worker.sinks.log import LogSettings, LogSink
from worker.sinks.teams import TeamsSettings, TeamsSink
from worker.sinks.webhook import WebhookSink
from worker.sinks.webhook_settings import WebhookSettings


@dataclass(frozen=True, slots=True)
class SinkKind:
    """What a kind is made of."""

    settings: type[SinkSettings]
    build: Callable[[Any, TokenSource | None], Sink]
    """From an instance of `settings` to the sink, not yet opened. There are tokens where its `needs_identity` asks."""


def _alone(build: Callable[[Any], Sink]) -> Callable[[Any, TokenSource | None], Sink]:
    """For kinds that log in by themselves, or not at all."""
    return lambda settings, _tokens: build(settings)


KINDS: Mapping[str, SinkKind] = MappingProxyType(
    {
        "acs_email": SinkKind(AcsEmailSettings, AcsEmailSink),
        "azuredevops": SinkKind(AzureDevOpsSettings, AzureDevOpsSink),
        "azureml_batch": SinkKind(AzureMlBatchSettings, AzureMlBatchSink),
        "azureml_deployment": SinkKind(AzureMlDeploymentSettings, AzureMlDeploymentSink),
        "azureml_job": SinkKind(AzureMlJobSettings, AzureMlJobSink),
        "blob": SinkKind(BlobSettings, BlobSink),
        "datafactory": SinkKind(DataFactorySettings, DataFactorySink),
        "discard": SinkKind(DiscardSettings, _alone(DiscardSink)),
        "email": SinkKind(EmailSettings, EmailSink),
        "eventhub": SinkKind(EventHubSettings, EventHubSink),
        "file": SinkKind(FileSettings, _alone(FileSink)),
        "github": SinkKind(GitHubSettings, GitHubSink),
        "log": SinkKind(LogSettings, _alone(LogSink)),
        "teams": SinkKind(TeamsSettings, _alone(TeamsSink)),
        "webhook": SinkKind(WebhookSettings, _alone(WebhookSink)),
    }
)
