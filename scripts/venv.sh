#!/bin/sh
# venv.sh DIR PIP-ARGUMENTS…  makes the virtual environment DIR if need be and installs into it.
# Needs only a shell and Python; $PYTHON chooses the interpreter.
set -eu

dir=$1
shift
python=${PYTHON:-python3}

fail() {
    echo "make: $*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 ||
    fail "'$python' was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python install"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" -V 2>&1) is too old: Python 3.11 or newer is needed. Name one: make PYTHON=python3.12 install"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "'$python' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"

# An environment whose interpreter is gone (an upgrade, a moved folder) cannot be mended.
if [ -e "$dir" ] && ! "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "$dir is broken: making it anew" >&2
    rm -rf "$dir"
fi
[ -e "$dir" ] || "$python" -m venv "$dir"

# Not compiled here: Python compiles what is imported, which is a fraction of it. Where it may not keep that, every
# start of a component would compile everything again, for seconds.
echo "installing into $dir (half a minute or so)"
"$dir/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check --no-input "$@"
case " $* " in
    *" --editable "*) own="jobapi jobkit worker controlplane protos" ;;
    *) own="" ;;
esac
# shellcheck disable=SC2086 # several folders
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || "$dir/bin/python" -m compileall -q -j 0 "$dir/lib" $own >/dev/null || true
