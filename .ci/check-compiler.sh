#!/bin/sh
# Says which package to install when the local hub's AMQP engine cannot be compiled, before pip fails in a page of output.
set -u
python=${PYTHON:-python3}

command -v "$python" >/dev/null 2>&1 || {
    echo "make: $python is missing. Install Python 3.11, 3.12 or 3.13 (Debian: apt-get install python3; macOS: brew install python@3.13)." >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "make: $python is $("$python" -V 2>&1), but 3.11, 3.12 or 3.13 is needed. Name another one: make PYTHON=python3.12 …" >&2
    exit 1
}
"$python" -c 'import venv, ensurepip' 2>/dev/null || {
    echo "make: $python has no venv module. Debian: apt-get install python3-venv" >&2
    exit 1
}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
printf '#include <Python.h>\nint main(void) { return 0; }\n' >"$work/probe.c"
command -v "${CC:-cc}" >/dev/null 2>&1 || {
    echo "make: no C compiler. Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install" >&2
    exit 1
}
"${CC:-cc}" -I"$include" -c "$work/probe.c" -o "$work/probe.o" 2>"$work/log" || {
    echo "make: the Python headers (Python.h) or the C library's are missing. Debian: apt-get install python3-dev libc6-dev" >&2
    sed 's/^/  /' "$work/log" | head -n 3 >&2
    exit 1
}
