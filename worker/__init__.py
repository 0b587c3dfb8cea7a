"""The Event Grid worker: reads events from Event Hubs, and makes something happen.

The modules in order of travel:

hub, source the hub's messages, one bounded feed per partition; messages: from the SDK's to ours
lease       until when a partition is surely ours; link: whether the hub is heard; watchdog: when to connect anew
pipeline    one partition from top to bottom; start reading here. clock: what time it is there; room: when it is full;
            parts: what they share
decode      bytes to events, or to a reason why not; decode_limit: when that is too often
events      the values that travel
caution     an event that kills every process that touches it
keys        what events are compared by
judge       late or not, a copy or not: duplicates (re-sent events recognised) and order (one subject's events in order,
            disorder: and how long they should wait for each other)
sightings   a sample of the subjects of a partition; spread: whether one comes on several partitions
route       which sinks an event is for; filters and operators say what a filter means; latest: who is superseded;
            unchanged: who says what its sink has already
expect      what must follow on what (expect_settings: as it stands in the file); pending: what has not come yet;
            expecting: asks that of each event; missed: what is told; alarms: tells it
through     how far a partition is with what the hub has
across      the same where other partitions have a part, in a table that they share: noting writes events into it,
            correlations and silences say what its rows mean, board: the table as this process sees it, by the marks of
            its rows; overdue: how far a partition is, and what is to be told
quiet       when a sink is told: at once, with others, or not now; groups: who is told together; digests: what of;
            outbox: sends digests; shelf: keeps what waits
deliver     one lane per sink: attempts, and their pace; chains: whose turn it is; breaker: whether any may flow;
            outcomes: how attempts end; conclude: what that means, from done to given up;
            lane_log: what it says
ledger      intent, act, outcome: for sinks that must not act twice and cannot tell
sinks       the destinations: a module for each kind, named like it, and its parts beside it (datafactory_runs,
            blob_link, deployment_…). table: the built-in kinds; installed: and those that other distributions bring;
            identity: access tokens of the process, for those that log in with them. What kinds share: posting (one
            HTTP request), answers and addresses; rest: a request to an API that wants a token; patterns: templates
            over the event; runs: which run of a pipeline was a delivery's; batching: several events in one request
errors      named by what is done about them
about       what an event is about, in words; notice: what a message says of it, or of several
deadletters what was given up, kept; replay: delivered again; letters: as an operator sees them
settling    what becomes of a partition's deliveries, and when an event is settled
progress    what is settled, and how far without a hole; unsettled: who still waits; lag: for how long;
            givenup: whose successors wait
owner       what pipeline, replays, outbox and alarms have in common towards the lanes
claim       one claim of a partition: takes it, runs its pipeline, leaves it
ownership   the fence: one generation after the other, asked for and handed over; reset: positions of another hub
keep        writes state and checkpoint, soon and not too often; recall: and the memory, in parts
state       the partition state object, to and from bytes; memory: what grows with the subjects
stores      where ownership, checkpoints, state, memory, ledger and dead letters survive
rules       what routes.yaml says, in force: exchanged while events are on their way. reload: notices changes, reads,
            has built; changes: what differs; lanes: runs and exchanges the lanes; way: of a lane, to its sink
process     one process's tasks: who claims, delivers, keeps watch; and how it stops
app         builds all of it, and closes it again
cli         arguments in, exit code out
config      the two files as frozen values; loading reads them (documents, crosschecks, mistakes, settings, strict)
advice      what is allowed and looks wrong; reach: what can be proved of routes; schema: the files' form, for editors
subscription
            which event subscriptions bring the hub what the routes need; pushdown: what of a route Event Grid can be
            asked; resources: ARM ids; subscription_text: commands of az, Bicep, JSON
trial       one delivery through one sink, for a person who tries it; samples: what it is sent
casebook    the cases of `worker test`; rehearsal: plays them through the pipeline; virtual: on a clock that never
            waits; expected: what should have come against what came
seek        puts a partition where an operator wants it read from: target says which place that is, peek looks for one;
            overview: how each partition stands
doctor      looks at everything that a worker needs: recent at the newest messages, reachable at destinations; finding:
            what came out
shown       what a process knows of itself, for the status page: status makes the page, plots its drawings; lately: what
            happened last
tracing     which trace an event belongs to, and the span under way; spans: makes them, otlp: exports them, and only
            where it is asked for; otel_environment: what OpenTelemetry's variables may say
explain, metrics (counted: what is asked of hub and store), health, http, logs; connections: addresses and connection
            strings, before they are used; retry: back-off towards the store; standing: partitions that are not read;
            terminal: safe to print
local       what a laptop needs: the hub, the traffic, the demo
"""
