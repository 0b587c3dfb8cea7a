#!/usr/bin/env bash
# Builds both images of the Dockerfile without an engine and without a registry, and runs them as the pod of
# deploy/k8s/local: Buildah with chroot isolation, on Debian 13 with its Python 3.13 in place of the Dockerfile's base.
# By hand, as root, five minutes: apt-get install buildah debootstrap curl. What it found is in docs/kubernetes.md.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
base=localhost/event-grid-worker-stand-in
export BUILDAH_ISOLATION=chroot
trap 'buildah rm $(cat "$work"/containers 2>/dev/null) >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

# The base: as in Python's own images, `python` and `pip` are in /usr/local, and no compiler is there.
debootstrap --variant=minbase --include=python3,python3-venv,python3-dev,ca-certificates trixie "$work/root" >"$work/debootstrap.log" ||
    { tail "$work/debootstrap.log"; exit 1; }
chroot "$work/root" python3 -m venv /usr/local
# How this machine reaches its registries.
for file in /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/apt/apt.conf.d/99*; do
    if [ -f "$file" ]; then cp "$file" "$work/root$file"; fi
done
container=$(buildah from scratch)
echo "$container" >>"$work/containers"
buildah copy --quiet "$container" "$work/root" / >/dev/null
buildah config --env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet "$container" "$base" >/dev/null

for target in worker local; do
    buildah bud --quiet --format docker --layers --pull-never --network host --build-arg PYTHON="$base" --target "$target" \
        --tag "localhost/event-grid-worker:$target" . >"$work/build.log" 2>&1 || { tail "$work/build.log"; exit 1; }
    container=$(buildah from --pull-never "localhost/event-grid-worker:$target")
    echo "$container" >>"$work/containers"
    printf '%s: %s bytes in /opt/worker\n' "$target" "$(du --bytes --summarize "$(buildah mount "$container")/opt/worker" | cut -f1)"
done
{ read -r _; read -r worker; read -r hub; } <"$work/containers"

# The pod. Two ports are others, because the network is this machine's.
app=$(buildah mount "$worker")/app
mkdir -p "$app/config" "$app/.data"
chown 10001 "$app/.data"
cp deploy/k8s/local/config/*.yaml "$app/config"
sed -i 's/port: 8080/port: 18080/; s/port: 8081/port: 0/; s/0\.0\.0\.0/127.0.0.1/' "$app/config/worker.yaml"
secret='Endpoint=sb://127.0.0.1:15672;SharedAccessKeyName=local;SharedAccessKey=any;UseDevelopmentEmulator=true;EntityPath=ml-events'
in_pod() { buildah run --user 10001:10001 --env EVENTHUB_CONNECTION_STRING="$secret" "$@"; }
in_pod "$hub" -- sh -c 'echo $$; exec worker local broker --port 15672 --hub ml-events --partitions 4' >"$work/hub.log" 2>&1 &
in_pod "$worker" -- sh -c 'echo $$; python --version; exec worker run' >"$work/worker.log" 2>&1 &
running=$!
until curl --silent --fail --output /dev/null http://127.0.0.1:18080/readyz; do kill -0 "$running"; sleep 0.5; done
in_pod "$worker" -- worker local send --count 1000 --seed 1
until [ "$(grep --count '"sink":"seen"' "$work/worker.log")" -ge 1000 ]; do kill -0 "$running"; sleep 0.5; done
kill -TERM "$(head -1 "$work/worker.log")"
wait "$running" && echo "the worker stopped with exit code 0, on $(sed -n 2p "$work/worker.log")"
kill -TERM "$(head -1 "$work/hub.log")"
