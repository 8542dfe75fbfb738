#!/usr/bin/env bash
# Makes the Python environment of the tests in .build, if it is not there yet, and prints the path of its python: OpenAI's
# client, and the protobuf compiler for the client written from the documents.
set -euo pipefail
cd "$(dirname "$0")/.."
environment="$PWD/.build/python-environment"
mkdir -p .build
# Tests of several processes may want it at once.
exec 9>"$environment.lock"
flock 9
if ! "$environment/bin/python" -c 'import openai, grpc_tools' 2>/dev/null; then
    python3 -m venv --clear "$environment" >&2
    "$environment/bin/pip" install --quiet --disable-pip-version-check 'openai>=1.40,<3' 'grpcio-tools>=1.60,<2' >&2
fi
echo "$environment/bin/python"
