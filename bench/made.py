"""Events of about 900 bytes, as Azure ML sends them, made by the hundred thousand: what the benchmarks of parts run on.

The traffic of `worker local send` tells stories and knows what is true about them; these are only many, and cheap.
"""

from collections.abc import Iterator

from worker.events import Message, PartitionId, UnixSeconds

PARTITION = PartitionId("0")
START = 1_767_225_600.0
"""When the first is enqueued: 2026-01-01."""
PER_SECOND = 1024
"""So many are enqueued in a second; a power of two, so that no time is rounded."""
TYPES = tuple(f"Microsoft.MachineLearningServices.Run{number}Changed" for number in range(10))
TEAMS = 100
_MASK = (
    '[{"topic":"/subscriptions/0b2cd1a4-5f0e-4d5a-9d3a-2b6c1f0e7a11/resourceGroups/machine-learning/providers/'
    'Microsoft.MachineLearningServices/workspaces/production","subject":"%s","eventType":"%s","eventTime":"%s",'
    '"id":"%032x","data":{"experimentId":"0fa9dfaa-cba3-4fa7-b590-23e48548f5c1","experimentName":"train-nightly",'
    '"runId":"run_%08d","runType":"azureml.StepRun","runTags":{"owner":"team","stage":"train","attempt":"1"},'
    '"runProperties":{"azureml.pipelinerunid":"5a2c7a1b-3cdd-4d6a-a5c1-0d9d77a0d4f1","contentSnapshotId":'
    '"9c1b8c5e-7d0e-4c6a-8d6e-4f4a3f2e1d0c","azureml.moduleid":"c2f5a0d7-3e55-4d64-a7b1-1f0e6a9b8c7d",'
    '"StepType":"PythonScriptStep","ComputeTargetType":"AmlCompute"},"runStatus":"Running"},'
    '"dataVersion":"2","metadataVersion":"1"}]'
)


def team(number: int) -> str:
    """The beginning of the subjects of a team; they are not all of one length."""
    return f"experiments/{'nightly-' * (number % 5)}team-{number:02d}/"


def message(number: int, subject: int, *, at: int | None = None) -> Message:
    """The message with this sequence number, of the subject with this number; `at`: its true place, when not that."""
    at = number if at is None else at
    moment, ticks = divmod(at, PER_SECOND)
    hours, minutes, seconds = moment // 3600 % 24, moment // 60 % 60, moment % 60
    time = f"2026-01-{1 + moment // 86_400:02d}T{hours:02d}:{minutes:02d}:{seconds:02d}.{ticks:07d}Z"
    name = f"{team(subject % TEAMS)}runs/run_{subject:08d}"
    body = _MASK % (name, TYPES[subject % len(TYPES)], time, number, subject)
    return Message(PARTITION, number, str(number), UnixSeconds(START + number / PER_SECOND), body.encode())


def messages(first: int, count: int, *, subjects: int) -> Iterator[Message]:
    """So many in a row; each subject comes again after all the others."""
    # A stride that has no divisor in common with the number of subjects: neighbours are of other subjects.
    return (message(number, number * 7919 % subjects) for number in range(first, first + count))
