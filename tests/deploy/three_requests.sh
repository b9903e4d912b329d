#!/usr/bin/env bash
# The road of a first calibration, as README has it: three requests, and an answer with a calibrated confidence.
#
#   tests/deploy/three_requests.sh URL KEY MODEL ROWS
#
# ROWS is a table with names in its first line and the label last; its first row is predicted.
set -euo pipefail
url=$1 key=$2 model=$3 rows=$4

ask() {
    local answer
    answer=$(curl --silent --show-error --fail-with-body -H "Authorization: Bearer $key" "$@") || {
        echo "$answer" >&2
        return 1
    }
    echo "$answer"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

job=$(ask "$url/v1/jobs" -F "model=@$model" -F "dataset=@$rows" -F 'dataset_options={"seen_by_model": "no"}' \
    -F 'job={"publish_as": "digits", "method": "post_hoc"}')
id=$(field id <<<"$job")
echo "$id"

# Each answer comes when the job has ended, or after a minute: ten of them are far more than it takes.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    job=$(ask "$url/v1/jobs/$id?wait=60")
    status=$(field status <<<"$job")
    case $status in succeeded | failed | cancelled) break ;; esac
done
test "$status" = succeeded || { echo "the job is $status: $job" >&2; exit 1; }

row=$(sed -n 2p "$rows")
answer=$(ask "$url/v1/models/digits/predict" -H 'Content-Type: application/json' -d "{\"inputs\": [[${row%,*}]]}")
echo "$answer"
python3 -c 'import json, sys; (one,) = json.load(sys.stdin)["predictions"]; assert 0 < one["confidence"] <= 1' <<<"$answer"
