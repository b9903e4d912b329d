#!/bin/sh
# Calibrate a classifier with curl alone, and ask for predictions. Start a service first (`fedlas serve`), then
#
#     sh calibrate.sh m.onnx rows.csv mine rows.json
#
# m.onnx     what torch.onnx.export writes; m.onnx.data beside it is sent, too
# rows.csv   labelled rows (column `label`) that the model was not trained on
# mine       the name that is to answer
# rows.json  rows to predict, [[0.3, -1.2, 0.8, 0.1]]
#
# FEDLAS_URL names another service than http://127.0.0.1:8000, FEDLAS_API_KEY its key. The answer goes to stdout, all
# else to stderr. Exit codes: 0 answered, 1 refused, failed or unreachable, 2 a wrong command line.
set -eu

if [ $# -ne 4 ]; then
    echo "usage: sh calibrate.sh MODEL ROWS NAME INPUTS" >&2
    exit 2
fi
model=$1 rows=$2 name=$3 inputs=$4
url=${FEDLAS_URL:-http://127.0.0.1:8000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "calibrate.sh: $1" >&2
    exit 1
}

for file in "$model" "$rows" "$inputs"; do
    [ -r "$file" ] || fail "$file: there is no such file"
done

# The first text of this name in the last answer.
text() {
    grep -o "\"$1\":\"[^\"]*" "$work/answer" | head -1 | cut -d '"' -f 4
}

# Send a request; curl tries 408, 429 and 5xx again as Retry-After says. A refusal ends the script with its reason.
ask() {
    status=$(curl -sS --retry 4 --connect-timeout 10 -o "$work/answer" -w '%{http_code}' \
        ${FEDLAS_API_KEY:+-H "Authorization: Bearer $FEDLAS_API_KEY"} "$@") || fail "$url cannot be reached"
    case $status in
        2*) ;;
        *) fail "$status $(text code): $(text detail)" ;;
    esac
}

# 1. A model, rows and a name in one request. The key makes a second try harmless: nothing is created twice.
set -- -F "model=@$model" -F "dataset=@$rows" -F 'dataset_options={"seen_by_model": "no"}' \
    -F "job={\"publish_as\": \"$name\", \"method\": \"post_hoc\"}" -H "Idempotency-Key: $(basename "$work")"
if [ -r "$model.data" ]; then
    set -- "$@" -F "data=@$model.data"
fi
ask "$url/v1/jobs" "$@"
job=$(text id)
echo "$job is created: $url/jobs/$job" >&2

# 2. Wait for its end; each request waits for a minute at most.
while [ "$(text status)" = queued ] || [ "$(text status)" = running ]; do
    ask "$url/v1/jobs/$job?wait=60"
done
[ "$(text status)" = succeeded ] || fail "$job has $(text status): $(grep -o '"error":{[^}]*' "$work/answer")"
echo "verdict: $(text verdict)" >&2

# 3. Calibrated predictions.
echo "{\"inputs\": $(cat "$inputs"), \"probabilities\": true}" > "$work/body"
ask "$url/v1/models/$name/predict" -H 'Content-Type: application/json' --data-binary "@$work/body"
cat "$work/answer"
