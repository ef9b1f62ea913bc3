#!/bin/sh
# Unit, contract, integration and model tests under coverage, and the floors; then the system tests and one short run
# of each fault, without coverage: they must meet components at full speed. All faults: `make faults`.
# Arguments go to pytest, over all tests but the faults; a selection is not held to the floors.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
report=$(mktemp)
trap 'rm -f "$report"' EXIT
# Some of a test is waiting: a process more than cores. A file's tests stay together, and share what they start.
many="--numprocesses=3 --dist=loadfile"
apart="--ignore=tests/bench --ignore=tests/drills --ignore=tests/faults"

floors() {
    # Without the servers much of the adapters cannot run: then the numbers say nothing. CI has them all.
    skipped=$($python -c 'import sys, xml.etree.ElementTree as t; print(len(t.parse(sys.argv[1]).findall(".//skipped")))' "$report")
    if [ "${CI:-}" != true ] && [ "$skipped" -ne 0 ]; then
        echo "coverage floors were not applied: $skipped tests were skipped (their servers are not here)"
        return
    fi
    $python -m coverage report --format=total --fail-under=85 >/dev/null || {
        echo "coverage of the whole is under 85 %" >&2
        exit 1
    }
    $python -m coverage report --include='jobkit/domain/*' --fail-under=95 --format=total >/dev/null || {
        echo "coverage of jobkit/domain is under 95 %" >&2
        exit 1
    }
    echo "coverage floors hold: 85 % of the whole, 95 % of jobkit/domain"
}

if [ $# -ne 0 ]; then
    exec $python -m pytest tests $apart "$@"
fi
$python -m coverage erase
status=0
$python -m coverage run -m pytest tests $apart --ignore=tests/system $many --quiet --durations=15 --junit-xml="$report" || status=$?
$python -m coverage combine --quiet
$python -m coverage report || status=$?
[ "$status" -eq 0 ] || exit "$status"
floors
$python -m pytest tests/system --numprocesses=3 --dist=loadfile --quiet --durations=15
$python -m pytest tests/faults -m short --quiet --durations=15
