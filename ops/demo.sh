#!/usr/bin/env bash
# A cluster on this machine: a coordinator and 4 workers in 2 stages, on the demo model. Asks it something, shows who
# holds what, and keeps it up until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
tramontane=${TRAMONTANE:-.build/release/tramontane}
state=${STATE:-.demo}
mkdir -p "$state"

# The usual ports where they are free, others where something listens already.
port() { if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then echo 0; else echo "$1"; fi; }

ready="$state/ready"
rm -f "$ready"
mkfifo "$ready"
# Its own process group: Ctrl-C comes here, and from here once to the cluster.
set -m
"$tramontane" up --model cluster/demo --workers 4 --stages 2 \
    --http "127.0.0.1:$(port 8080)" --listen "127.0.0.1:$(port 7000)" --state "$state" >"$ready" &
up=$!
set +m
stop() {
    trap - INT TERM HUP EXIT
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
    rm -f "$ready"
    echo
    echo "stopped"
}
trap 'stop; exit 0' INT
trap 'stop; exit 143' TERM HUP
trap stop EXIT

line=
while read -r word http listen <&3; do
    if [ "$word" = ready ]; then
        line="$word $http $listen"
        break
    fi
done 3<"$ready"
if [ -z "$line" ]; then
    wait "$up" || true
    echo "the cluster did not start; the logs are in $state" >&2
    exit 1
fi
http=${http#http=}
listen=${listen#listen=}

echo
echo "> Speak, what news from the north?"
python3 ops/ask.py "$http" "Speak, what news from the north?"
echo
"$tramontane" status --cluster "$listen"
cat <<END

The cluster is up. Try, in another terminal:

  curl -N http://$http/v1/chat/completions -H 'content-type: application/json' -d \\
      '{"messages": [{"role": "user", "content": "Who goes there?"}], "stream": true, "max_tokens": 60}'
  $tramontane chat --cluster $listen
  $tramontane status --cluster $listen
  curl http://$http/metrics
  $tramontane generate --model cluster/demo --prompt 'ROMEO:' --max-tokens 40 --temperature 0.8 --seed 7

Ctrl-C ends it.
END
wait "$up" || true
