"""The Event Grid worker: reads events from Event Hubs, and makes something happen.

The modules in order of travel:

hub, source the hub's messages, one bounded feed per partition; lease: until when it is surely ours
pipeline    one partition from top to bottom; start reading here
decode      bytes to events, or to a reason why not; decode_limit: when that is too often
keys        what events are compared by
duplicates  re-sent events recognised
order       the events of one subject back in order
route       which sinks an event is for; filters and operators say what a filter means
deliver     one lane per sink: order, concurrency, retries, giving up
sinks       the destinations
deadletters what was given up, kept
progress    what is settled, and how far without a hole
claim       one claim of a partition: takes it, runs its pipeline, leaves it
ownership   the fence: one generation after the other, asked for and handed over
keep        writes state and checkpoint, soon and not too often
state       the partition state object, to and from bytes
stores      where ownership, checkpoints, state and dead letters survive
app         builds all of it, starts it, stops it in order
cli         arguments in, exit code out
config      the two files as frozen values; loading reads them (documents, crosschecks, mistakes, settings)
explain, metrics, health, http, logs
local       what a laptop needs: the hub, the traffic, the demo
"""
