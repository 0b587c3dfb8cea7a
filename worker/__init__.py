"""The Event Grid worker: reads events from Event Hubs, and makes something happen.

The modules in order of travel:

source      the hub's messages, one bounded feed per partition
pipeline    one partition from top to bottom; start reading here
decode      bytes to events, or to a reason why not
duplicates  re-sent events recognised
order       the events of one subject back in order
route       which sinks an event is for; filters says what a filter means
deliver     one lane per sink: order, concurrency, retries, giving up
sinks       the destinations
deadletters what was given up, kept
progress    what is settled, and how far without a hole
ownership   one generation of one partition: take, keep, hand over
state       the partition state object, to and from bytes
stores      where ownership, checkpoints, state and dead letters survive
app         builds all of it, starts it, stops it in order
cli, config, settings, explain, metrics, http, logs
local       what a laptop needs: the hub, the traffic, the demo
"""
