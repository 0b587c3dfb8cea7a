"""What a laptop needs: the hub, the traffic, the demo. Nothing that runs in production imports it.

The hub, from the outside in:

broker      the process: options, listening, stopping
connection  one client's TCP connection, with Qpid Proton as the AMQP engine
links       what hangs on a connection: consumers, producers, the two request nodes
hubs        hubs, partitions, consumer groups: who may read what, who is told when there is more
log         the append-only log behind a partition, in memory or in a file
positions   where a consumer asked to start
cbs         tokens in, verdicts out
management  questions about hubs and partitions
messages    an encoded message: taken apart, stamped, put together
frames      the byte stream: frames cut, looked into, padded
encoding    AMQP values as bytes
refusals    why the broker says no, in the words of the real service

Its faults: faults (what can go wrong), injector (makes it go wrong), wire (a connection that is slow or dead), admin
(the port where they are asked for). And chaos: a plan of faults from a seed, and who carries it out.

The traffic: send, traffic, workspace, damage. The demo: demo, deployment, children, receiver, verdict, view.
"""
