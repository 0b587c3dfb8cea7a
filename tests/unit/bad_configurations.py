"""Bad configurations: one change to a good one each, and how the mistake is said."""

from typing import NamedTuple

from tests.unit.configurations import CONNECTION
from worker.sinks.table import KINDS


class Bad(NamedTuple):
    """A change to one of the good files, and how the mistake it makes is said."""

    file: str
    old: str
    new: str
    mistake: str


LIST = "must be a list: [first, second], or one line with '- ' for each"
SECTION = "must be a section: keys and values, indented below it"
BAD = [
    # Keys
    Bad("worker", "  hub:", "  hob:", "worker.yaml:3:3: source.hob: there is no such key; did you mean hub?"),
    Bad(
        "worker",
        "  path: data/worker.db",
        "  paht: x",
        "worker.yaml:6:3: store.paht: there is no such key; did you mean path?",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    only: lates",
        "routes.yaml:15:5: routes[1].only: cannot be lates; did you mean latest?",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    onyl: latest",
        "routes.yaml:15:5: routes[1].onyl: there is no such key; did you mean only?",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    changed: eTag",
        "routes.yaml:15:5: routes[1].changed: 'eTag' is nothing to compare by; did you mean etag?",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    changed: subject",
        "routes.yaml:15:5: routes[1].changed: 'subject' is nothing to compare by; write etag, or a key such as "
        "data.contentLength",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    changed: data.a..b",
        "routes.yaml:15:5: routes[1].changed: cannot be read from",
    ),
    Bad("worker", "store:", "stroe: 1\nstore:", "worker.yaml:4:1: stroe: there is no such key; did you mean store?"),
    Bad(
        "worker",
        "store:",
        "limits: {inflight: 1}\nstore:",
        "worker.yaml:4:10: limits.inflight: there is no such key; did you mean in_flight?",
    ),
    Bad(
        "worker",
        "store:",
        "dead_letters: {keep_days: 1, stop_ratio: 2}\nstore:",
        "worker.yaml:4:30: dead_letters.stop_ratio: ",
    ),
    Bad(
        "worker",
        "store:",
        "notes: {}\nstore:",
        "worker.yaml:4:1: notes: there is no such key; write one of",
    ),
    Bad(
        "worker",
        "connection_string_env: HUB",
        f"connection_string: {CONNECTION}",
        "worker.yaml:2:3: source.connection_string: secrets do not stand in this file; name an "
        "environment variable in connection_string_env or a file in connection_string_file",
    ),
    Bad(
        "routes",
        "    sinks: [out]",
        "    sink: [out]",
        "routes.yaml:12:5: routes[0].sink: there is no such key; did you mean sinks?",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    timeout: 1",
        "routes.yaml:5:5: sinks[0].timeout: there is no such key; did you mean timeout_seconds?",
    ),
    Bad(
        "routes",
        "routes:",
        "  - {name: mail, kind: email, host: smtp.example.org, form: a@example.org, to: [b@example.org]}\nroutes:",
        "routes.yaml:8:55: sinks[2].form: there is no such key; did you mean from?",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        '    url_env: OUT\n    quiet: {group_by: [], mute: [{from: "22:00", until: "07:00"}]}',
        "routes.yaml:5:50: sinks[0].quiet.mute[0].until: there is no such key; write one of days, from, to, timezone",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    quiet: {limit: {messages: 1, per_seconds: 60}}",
        "routes.yaml:2:5: sinks[0]: quiet without group_by needs the ledger, to know after a crash which events went "
        "alone; add on_unknown: resend, or group_by",
    ),
    Bad(
        "routes", "routes:", "rules: []\nroutes:", "routes.yaml:8:1: rules: there is no such key; did you mean routes?"
    ),
    # Sections
    Bad("worker", "store:\n  kind: sqlite\n  path: data/worker.db\n", "", "worker.yaml:1:1: store: is missing; add it"),
    Bad("worker", "store:", "order: 5\nstore:", f"worker.yaml:4:1: order: {SECTION}"),
    Bad("worker", "store:", "http:\nstore:", f"worker.yaml:4:1: http: {SECTION}"),
    Bad("routes", "  - name: failed\n", "  - just text\n  - name: failed\n", f"routes.yaml:9:5: routes[0]: {SECTION}"),
    Bad("routes", "    sinks: [out]", "    sinks: out", f"routes.yaml:12:5: routes[0].sinks: {LIST}"),
    Bad(
        "routes",
        "    sinks: [out]",
        "    sinks: []",
        "routes.yaml:12:5: routes[0].sinks: has too few entries; write at least 1",
    ),
    Bad(
        "routes",
        "    sinks: [out]",
        "    sinks: [out]\n    sources: []",
        "routes.yaml:13:5: routes[0].sources: has too few entries; write at least 1",
    ),
    Bad(
        "routes",
        "    filter:\n      includedEventTypes: [Some.Type]",
        "    filter: Some.Type",
        f"routes.yaml:10:5: routes[0].filter: {SECTION}",
    ),
    # Values
    Bad(
        "worker",
        "store:",
        'http: {port: "8080"}\nstore:',
        "worker.yaml:4:8: http.port: must be a whole number, without quotes",
    ),
    Bad("worker", "store:", "http: {port: eighty}\nstore:", "worker.yaml:4:8: http.port: must be a whole number"),
    Bad("worker", "store:", "http: {port: 1.5}\nstore:", "worker.yaml:4:8: http.port: must be a whole number"),
    Bad("worker", "store:", "http: {port: true}\nstore:", "worker.yaml:4:8: http.port: must be a whole number"),
    Bad("worker", "store:", "http: {port: 65536}\nstore:", "worker.yaml:4:8: http.port: must be at most 65535"),
    Bad("worker", "store:", "http: {port: -1}\nstore:", "worker.yaml:4:8: http.port: must be at least 0"),
    Bad(
        "worker",
        "store:",
        "http: {port: 80, status_port: 80}\nstore:",
        "worker.yaml:4:18: http.status_port: is http.port already; leave it out, and the page is served there",
    ),
    Bad(
        "worker",
        "store:",
        "http: {status_page: false, status_port: 81}\nstore:",
        "worker.yaml:4:28: http.status_port: means nothing while status_page is false; remove one of the two",
    ),
    Bad(
        "worker",
        "store:",
        "http: {status_host: localhost}\nstore:",
        "worker.yaml:4:8: http.status_host: means nothing without status_port: the page is on host and port then",
    ),
    Bad(
        "worker",
        "store:",
        "http: {host: 127}\nstore:",
        "worker.yaml:4:8: http.host: must be text; put it in quotes if it looks like a number or a word such as true",
    ),
    Bad(
        "worker",
        "store:",
        "http: {host: ''}\nstore:",
        "worker.yaml:4:8: http.host: is empty; write a value, or leave the key out",
    ),
    Bad("worker", "store:", "limits: {in_flight: 0}\nstore:", "worker.yaml:4:10: limits.in_flight: must be at least 1"),
    Bad(
        "worker",
        "store:",
        "order: {memory_hours: 0}\nstore:",
        "worker.yaml:4:9: order.memory_hours: must be more than 0",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: -1}\nstore:",
        "worker.yaml:4:9: order.window_seconds: must be at least 0",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: automatic}\nstore:",
        "worker.yaml:4:9: order.window_seconds: must be a number of seconds such as 5, without quotes, or auto",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: auto, late_target: 0}\nstore:",
        "worker.yaml:4:31: order.late_target: must be more than 0",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: auto, late_target: 1}\nstore:",
        "worker.yaml:4:31: order.late_target: must be at most 0.5",
    ),
    Bad(
        "worker",
        "store:",
        "order: {late: dropp}\nstore:",
        "worker.yaml:4:9: order.late: cannot be dropp; did you mean drop?",
    ),
    Bad(
        "routes",
        "late: drop",
        "late: xyz",
        "routes.yaml:15:5: routes[1].late: cannot be xyz; write one of deliver, drop, dead_letter",
    ),
    Bad(
        "worker",
        "hub: ml-events",
        "hub: ml-events\n  start: yesterday",
        "worker.yaml:4:3: source.start: is not a start; write earliest, latest or a time such as 2026-01-31T06:00:00Z",
    ),
    Bad(
        "worker",
        "hub: ml-events",
        "hub: -x",
        "worker.yaml:3:3: source.hub: has a character or a length that is not allowed; it must match ^[A-Za-z0-9]",
    ),
    Bad(
        "routes",
        "url_env: OUT",
        "url_env: OUT\n    paused: yes",
        "routes.yaml:5:5: sinks[0].paused: must be true or false, without quotes",
    ),
    Bad("worker", "path: data/worker.db", "path: ''", "worker.yaml:6:3: store.path: is empty; write a path"),
    # Alternatives and kinds
    Bad(
        "worker",
        "kind: sqlite",
        "kind: sqllite",
        "worker.yaml:5:3: store.kind: cannot be sqllite; did you mean sqlite?",
    ),
    Bad("worker", "  kind: sqlite\n", "", "worker.yaml:4:1: store: has no kind; add the line `kind: …`"),
    Bad(
        "routes",
        "kind: webhook",
        "kind: webhok",
        "routes.yaml:3:5: sinks[0].kind: there is no kind webhok; did you mean webhook?",
    ),
    Bad(
        "routes",
        "    kind: webhook\n",
        "",
        f"routes.yaml:2:5: sinks[0]: has no kind; write one of {', '.join(sorted(KINDS))}",
    ),
    Bad(
        "worker",
        "  connection_string_env: HUB\n",
        "",
        "worker.yaml:1:1: source.namespace: one of connection_string_env, "
        "connection_string_file, namespace is needed; add it",
    ),
    Bad(
        "worker",
        "  hub:",
        "  namespace: a.example.org\n  hub:",
        "worker.yaml:3:3: source.namespace: connection_string_env and namespace exclude each other; keep one",
    ),
    Bad(
        "worker",
        "connection_string_env: HUB",
        "namespace: sb://team.servicebus.windows.net/",
        "worker.yaml:2:3: source.namespace: is not a full host name; write "
        "NAME.servicebus.windows.net, without sb:// and /",
    ),
    Bad(
        "worker",
        "connection_string_env: HUB",
        "namespace: team",
        "worker.yaml:2:3: source.namespace: is not a full host name; write "
        "NAME.servicebus.windows.net, without sb:// and /",
    ),
    Bad(
        "worker",
        "kind: sqlite\n  path: data/worker.db",
        "kind: blob\n  container: c-1\n  account_url: https://a.blob.core.windows.net/?sig=hunter2",
        "worker.yaml:7:3: store.account_url: is not of the form https://NAME.blob.core.windows.net",
    ),
    Bad(
        "worker",
        "kind: sqlite\n  path: data/worker.db",
        "kind: blob\n  container: c-1\n  account_url: http://10.0.0.1:10000/x",
        "worker.yaml:7:3: store.account_url: is not of the form https://NAME.blob.core.windows.net",
    ),
    Bad(
        "worker",
        "kind: sqlite\n  path: data/worker.db",
        "kind: blob\n  container: C\n  account_url: https://a.b.net",
        "worker.yaml:6:3: store.container: is not the name of a container; write 3 to 63 small "
        "letters, digits and single hyphens",
    ),
    Bad(
        "worker",
        "kind: sqlite\n  path: data/worker.db",
        "kind: blob\n  container: c-1",
        "worker.yaml:4:1: store.account_url: one of connection_string_env, "
        "connection_string_file, account_url is needed; add it",
    ),
    # References and names
    Bad(
        "routes",
        "sinks: [out]",
        "sinks: [oud]",
        "routes.yaml:12:13: routes[0].sinks[0]: there is no sink oud; did you mean out?",
    ),
    Bad(
        "routes",
        "name: all",
        "name: failed",
        "routes.yaml:13:5: routes[1].name: failed is used twice (first on line 9); choose another name",
    ),
    Bad(
        "routes",
        "sinks: [out]",
        "sinks: [out]\n  - {name: audit, kind: log}",
        "routes.yaml:13:19: routes[1].kind: there is no such key",
    ),
    Bad(
        "routes",
        "routes:",
        "  - {name: out, kind: log}\nroutes:",
        "routes.yaml:8:6: sinks[2].name: out is used twice (first on line 2); choose another name",
    ),
    Bad(
        "routes",
        "name: all",
        "name: ' '",
        "routes.yaml:13:5: routes[1].name: has a character or a length that is not allowed",
    ),
    # Filters
    Bad("routes", "includedEventTypes", "includedEventType", "routes.yaml:11:7: routes[0].filter.includedEventType: "),
    Bad(
        "routes",
        "[Some.Type]",
        "[Some.Type]\n      advancedFilters: [{operatorType: StringIs, key: data.x, values: [a]}]",
        'routes.yaml:12:26: routes[0].filter.advancedFilters[0].operatorType: "StringIs" is no operator; did you mean ',
    ),
    Bad(
        "routes",
        "[Some.Type]",
        "[Some.Type]\n      advancedFilters:\n        - operatorType: NumberIn\n          key: data.x\n"
        "          values:\n            - 1\n            - 'two'",
        "routes.yaml:17:15: routes[0].filter.advancedFilters[0].values[1]: must be a number, without quotes",
    ),
    Bad(
        "routes",
        "[Some.Type]",
        "[Some.Type]\n      advancedFilters:\n        - operatorType: NumberInRange\n          key: data.x\n"
        "          values: [[9, 5]]",
        "routes.yaml:15:20: routes[0].filter.advancedFilters[0].values[0]: is a range that holds nothing: 9 is greater "
        "than 5; write [5, 9]",
    ),
    Bad(
        "routes",
        "[Some.Type]",
        "[Some.Type]\n      any_of:\n        - advancedFilters:\n            - {operatorType: BoolEquals,\n"
        "               key: data.x, value: 'true'}",
        "routes.yaml:15:29: routes[0].filter.any_of[0].advancedFilters[0].value: must be true or false, without quotes",
    ),
    # Intervals
    Bad(
        "worker",
        "  hub:",
        "  ownership_expiry_seconds: 7\n  hub:",
        "worker.yaml:3:3: source.ownership_expiry_seconds: ownership_expiry_seconds must be at "
        "least 4 times balance_interval_seconds, because attempts stop two "
        "intervals before the ownership expires and a renewal may fail; write 8 or more, or a shorter interval",
    ),
    Bad(
        "worker",
        "  hub:",
        "  balance_interval_seconds: 6\n  hub:",
        "worker.yaml:3:3: source.balance_interval_seconds: ownership_expiry_seconds must be at least 4 times",
    ),
    Bad(
        "worker",
        "store:",
        "limits: {hand_over_seconds: 1.5}\nstore:",
        "worker.yaml:4:10: limits.hand_over_seconds: limits.hand_over_seconds must be more than "
        "store.state_interval_seconds and half a second, because an owner that "
        "is alive takes so long to answer; write more than 1.5, or a shorter interval",
    ),
    Bad(
        "worker",
        "  path:",
        "  state_interval_seconds: 5\n  path:",
        "worker.yaml:6:3: store.state_interval_seconds: limits.hand_over_seconds must be more "
        "than store.state_interval_seconds and half a second",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: 43200}\nstore:",
        "worker.yaml:4:9: order.window_seconds: order.window_seconds must be less than half of source.retention_hours",
    ),
    *(
        Bad(
            "worker",
            "store:",
            f"order: {{{window}{key}: 0.2}}\nstore:",
            f"worker.yaml:4:{column}: order.{key}: counts only with order.window_seconds: auto; write that too",
        )
        for window, column in (("", 9), ("window_seconds: 5, ", 28))
        for key in ("late_target", "min_seconds", "max_seconds")
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: auto, max_seconds: 43200}\nstore:",
        "worker.yaml:4:31: order.max_seconds: order.max_seconds must be less than half of source.retention_hours",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: auto, min_seconds: 61}\nstore:",
        "worker.yaml:4:31: order.min_seconds: order.min_seconds must not be more than order.max_seconds (60); write a "
        "smaller min_seconds, or a max_seconds of at least 61",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: auto, max_seconds: 0.5}\nstore:",
        "worker.yaml:4:31: order.max_seconds: order.min_seconds must not be more than order.max_seconds (0.5)",
    ),
    Bad(
        "worker",
        "store:",
        "order: {window_seconds: auto, max_seconds: 90, memory_hours: 0.02}\nstore:",
        "worker.yaml:4:48: order.memory_hours: memory_hours must not be shorter than max_seconds",
    ),
    Bad(
        "worker",
        "store:",
        "order: {memory_hours: 0.001}\nstore:",
        "worker.yaml:4:9: order.memory_hours: memory_hours must not be shorter than window_seconds",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    retry: {give_up_after_seconds: 86395}",
        "routes.yaml:5:13: sinks[0].retry.give_up_after_seconds: must be less than 86395 "
        "(source.retention_hours, less order.window_seconds)",
    ),
    Bad(
        "worker",
        "store:",
        "ledger: {keep_days: 1}\nstore:",
        "worker.yaml:4:10: ledger.keep_days: must be more than 1 (source.retention_hours), because the hub can give an "
        "event again for so long",
    ),
    # The ledger
    Bad(
        "routes",
        "    path: audit.jsonl",
        "    path: audit.jsonl\n    on_unknown: skip",
        "routes.yaml:8:5: sinks[1].on_unknown: means nothing to a sink of this kind, which does without a ledger; "
        "remove it",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    on_unknown: verify",
        "routes.yaml:5:5: sinks[0].on_unknown: cannot be verify: this kind cannot ask its destination what came; "
        "write resend or skip",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    on_unknown: ignore",
        "routes.yaml:5:5: sinks[0].on_unknown: cannot be ignore; write one of resend, skip, verify",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    retry: {max_attempts: 0}",
        "routes.yaml:5:13: sinks[0].retry.max_attempts: must be at least 1",
    ),
    Bad(
        "routes",
        "    url_env: OUT",
        "    url_env: OUT\n    retry: {give_up_after_seconds: 2h}",
        "routes.yaml:5:13: sinks[0].retry.give_up_after_seconds: must be a number, without a unit",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\n    only: newest",
        "routes.yaml:16:5: routes[1].only: cannot be newest; write latest",
    ),
    # Expectations
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a}",
        "routes.yaml:17:5: expect[0]: has no time; add within or every, such as within: 2h",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 6}",
        "routes.yaml:17:36: expect[0].within: has no unit; write 6s, 6m, 6h or 6d",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 0h}",
        "routes.yaml:17:36: expect[0].within: is no length of time; write a whole number and its unit, such as 30s",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 999d}",
        "routes.yaml:17:36: expect[0].within: is too long; write at most 366d",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 6h, every: 2h}",
        "routes.yaml:17:48: expect[0].every: within and every exclude each other; keep one",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, within: 6h}",
        "routes.yaml:17:5: expect[0]: within needs then; add it",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, every: 6h}",
        "routes.yaml:17:5: expect[0]: every needs sources; add it",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, every: 6h, sources: [/x], then: {}}",
        "routes.yaml:17:41: expect[0].then: goes only with within; remove it, or write within in place of every; "
        "with every, `events` says what counts as a sign of life",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 6h, events: {}}",
        "routes.yaml:17:48: expect[0].events: goes only with every; remove it",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, afer: {}, then: {}, within: 6h}",
        "routes.yaml:17:15: expect[0].afer: there is no such key; did you mean after?",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {includedEventTypes: 1}, then: {}, within: 6h}",
        "routes.yaml:17:23: expect[0].after.includedEventTypes: must be a list",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 6h, correlate: '{{ notice.x }}'}",
        "routes.yaml:17:48: expect[0].correlate: the template cannot be read: notice is no name that templates know",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 6h, correlate: {after: '{{ event.foo }}', "
        "then: b}}",
        "routes.yaml:17:60: expect[0].correlate.after: the template cannot be read: there is no foo in event",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, after: {}, then: {}, within: 6h, correlate: {after: a}}",
        "routes.yaml:17:48: expect[0].correlate.then: is missing; add it",
    ),
    Bad(
        "routes",
        "    late: drop",
        "    late: drop\nexpect:\n  - {name: a, sources: [/x], every: 6h}\n  - {name: a, sources: [/y], every: 6h}",
        "routes.yaml:18:6: expect[1].name: a is used twice (first on line 17); choose another name",
    ),
    # Secrets
    Bad(
        "worker",
        "connection_string_env: HUB",
        "connection_string_env: NO_HUB",
        "worker.yaml:2:3: source.connection_string_env: the environment variable NO_HUB is not "
        "set; set it, or name another",
    ),
    Bad(
        "worker",
        "connection_string_env: HUB",
        f"connection_string_env: {CONNECTION}",
        "worker.yaml:2:3: source.connection_string_env: is no name of an environment variable; "
        "the secret itself must not stand in this file",
    ),
    Bad(
        "worker",
        "connection_string_env: HUB",
        "connection_string_file: secret",
        "worker.yaml:2:3: source.connection_string_file: secret cannot be read: No such file or directory",
    ),
    Bad(
        "worker",
        "connection_string_env: HUB",
        "connection_string_env: OUT",
        "worker.yaml:2:3: source.connection_string_env: the connection string is no connection string",
    ),
    Bad(
        "routes",
        "url_env: OUT",
        "url_env: NO_OUT",
        "routes.yaml:4:5: sinks[0].url_env: the environment variable NO_OUT is not set; set it, or name another",
    ),
    Bad(
        "routes",
        "url_env: OUT",
        "url_env: OUT\n    headers_env: {A: OUT, B: NO_OUT}",
        "routes.yaml:5:27: sinks[0].headers_env.B: the environment variable NO_OUT is not set",
    ),
    Bad(
        "routes",
        "url_env: OUT",
        "url: https://x.example.org/?sig=hunter2",
        "routes.yaml:4:5: sinks[0].url: the URL has a query",
    ),
]
