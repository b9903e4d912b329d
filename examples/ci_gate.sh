#!/bin/sh
# A gate in CI: a model passes where a calibrated one is served in its place, or where it is fine as it is. In a step:
#
#     pip install 'fedlas[cli]'                    # with FEDLAS_URL and FEDLAS_API_KEY: a service does the work
#     pip install 'fedlas[library,cli]'            # without FEDLAS_URL: this machine does it
#     sh ci_gate.sh model.onnx rows.npz            # and options of `fedlas calibrate`: --seen-by-model no, --budget 10m
#
# It writes calibrated.onnx, the file to deploy, and report.html into the current folder. FEDLAS_REQUIRE=significant
# asks for proof on the test rows besides, which each further look at the same rows makes harder.
#
# Exit codes: 0 deploy calibrated.onnx; 1 the input cannot be used; 2 a wrong command line; 4 nobody has said what the
# model has seen, so nothing is known; 5 calibrated and not proven; 70 a defect of FedLAS. `fedlas calibrate` says 3
# where nothing made the model better: that is 0 here, and calibrated.onnx is the model as it was sent.
# More about it: docs/how-to/ci-gate.md
set -u

if [ $# -lt 2 ]; then
    echo "usage: sh ci_gate.sh MODEL ROWS [OPTION]…" >&2
    exit 2
fi
model=$1 rows=$2
shift 2
if [ -z "${FEDLAS_URL:-}" ]; then
    set -- --local "$@"
fi

fedlas calibrate "$model" "$rows" --require "${FEDLAS_REQUIRE:-calibrated}" \
    --out calibrated.onnx --report report.html -q "$@"
code=$?

case $code in
    0) echo "pass: deploy calibrated.onnx" ;;
    3) echo "pass: the test rows show nothing better, so that calibrated.onnx is the model as it was sent" && code=0 ;;
    4) echo "stop: say which rows the model has seen, --seen-by-model no or a column split" ;;
    5) echo "stop: calibrated, but the test rows do not prove it; see report.html" ;;
    *) echo "stop: fedlas calibrate ended with $code, and says why above" ;;
esac
exit $code
