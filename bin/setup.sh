# shellcheck shell=sh
# Makes .venv complete: sourced by bin/bus (`setup bus`), bin/test (`setup test`) and bin/bench (`setup bench`), with
# $root set.
#
# It installs what the lock file pins and then this folder, editable, with uv where it is found, else with pip.
# When nothing has changed since the last time it says nothing, needs no network and costs one cksum.
# It writes only .venv and .setup.lock in the project's folder, besides the installer's own cache.
# Started twice at once, one waits for the other; interrupted, it starts again from nothing the next time.
# It exits with 69 where it cannot go on: no Python, or the installer failed. No command of `bus` uses that code.

venv=${root:?}/.venv
python=$venv/bin/python

say() { printf 'taskbus: %s\n' "$*" >&2; }

give_up() {
    say "$*"
    # Installers change nothing before they have all they need: what failed is not what was interrupted.
    rm -f "$venv/.taskbus-incomplete"
    exit 69
}

setup() {
    if is_current "$1"; then return; fi
    lock_python=$python
    if ! is_usable "$python"; then lock_python=$(find_python); fi
    [ -n "$lock_python" ] || give_up_on_python
    # The lock is the kernel's, on an open file: it ends with the processes that hold it, even by kill -9.
    exec 9>"$root/.setup.lock"
    wait_for_lock
    # Whoever had the lock before may have done the work.
    is_current "$1" || make_current "$1"
    exec 9>&-
}

lock_file() {
    case $1 in
        test) printf '%s\n' "$root/requirements-dev.lock" ;;
        bench) printf '%s\n' "$root/requirements-bench.lock" ;;
        *) printf '%s\n' "$root/requirements.lock" ;;
    esac
}

# What a complete .venv was made from. The paths are part of it: a .venv that was copied along with its folder
# is completed again, since its editable install still points to the folder it came from.
stamp() { cksum "$root/pyproject.toml" "$(lock_file "$1")"; }

is_current() {
    [ -x "$venv/bin/bus" ] && [ -x "$python" ] && [ -f "$venv/.taskbus-$1" ] &&
        [ "$(stamp "$1")" = "$(cat "$venv/.taskbus-$1")" ]
}

is_usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

has_uv() { command -v uv >/dev/null 2>&1; }

# Prints the real path of a Python that can make a virtual environment, or nothing. The real path, because a
# .venv that hangs on /usr/bin/python3 changes its version when the system does, and is then silently empty.
find_python() {
    needs=venv,ensurepip
    if has_uv; then needs=sys; fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 uv; do
        if [ "$candidate" = uv ]; then
            candidate=$(uv python find --no-project --no-python-downloads '>=3.11' 2>/dev/null) || continue
        fi
        if is_usable "$candidate" && "$candidate" -c "import $needs" >/dev/null 2>&1; then
            "$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))'
            return
        fi
    done
}

give_up_on_python() {
    if is_usable python3; then
        give_up "$(command -v python3) has no venv module with ensurepip: install the package python3-venv, or uv."
    fi
    give_up 'Python 3.11 or newer is needed; looked for python3 and python3.11 to python3.14 on the PATH.' \
        'Install one, or put it on the PATH.'
}

wait_for_lock() {
    "$lock_python" -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("taskbus: waiting for another set-up of this folder to end", file=sys.stderr)
    try:
        fcntl.flock(9, fcntl.LOCK_EX)
    except KeyboardInterrupt:
        sys.exit(130)
except OSError as error:
    print(f"taskbus: this file system has no locks ({error}): start nothing else here now", file=sys.stderr)
' 9>&9
}

make_current() {
    made_from=$(stamp "$1")
    if [ -e "$venv/.taskbus-incomplete" ]; then
        say 'an earlier set-up was interrupted: making .venv anew'
        rm -rf "$venv"
    elif [ -e "$venv" ] && ! is_usable "$python"; then
        say 'the Python of .venv is broken or older than 3.11: making .venv anew'
        rm -rf "$venv"
    fi
    if [ ! -e "$venv" ]; then make_venv; fi

    # A .venv that is not ours (made by hand) is never marked: it is completed, whatever happens on the way.
    if [ -e "$venv/.taskbus-bus" ]; then : >"$venv/.taskbus-incomplete"; fi
    # What the lock files have in common they pin alike: what was made from them as they are now stays as it is.
    for kind in bus test bench; do
        is_current "$kind" || rm -f "$venv/.taskbus-$kind"
    done
    lock=$(lock_file "$1")
    say "installing what ${lock##*/} pins"
    install --require-hashes --requirement "$lock"
    install --no-deps --no-build-isolation --editable "$root"
    # The other lock files hold all that is in the smallest one.
    if [ "$1" != bus ]; then stamp bus >"$venv/.taskbus-bus"; fi
    printf '%s\n' "$made_from" >"$venv/.taskbus-$1"
    rm -f "$venv/.taskbus-incomplete"
    say 'ready'
}

make_venv() {
    base=$(find_python)
    [ -n "$base" ] || give_up_on_python
    say "making .venv with $("$base" --version), $base"
    mkdir "$venv"
    : >"$venv/.taskbus-incomplete"
    if has_uv && uv venv --quiet --no-project --allow-existing --python "$base" "$venv"; then return; fi
    "$base" -m venv "$venv" || give_up "$base could not make .venv (see above)."
}

install() {
    if has_uv; then
        if uv pip install --quiet --python "$python" --reinstall-package taskbus "$@" 1>&2; then return; fi
        # uv does not read pip's configuration: where a mirror is set up for pip only, pip can still do it.
        say 'uv could not install it (see above): trying pip'
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip --default-pip >/dev/null || give_up 'pip could not be put into .venv (see above).'
    fi
    "$python" -m pip install --quiet --quiet --disable-pip-version-check "$@" 1>&2 ||
        give_up 'the install failed (see above). It needs a package index the first time; then run this again.'
}
