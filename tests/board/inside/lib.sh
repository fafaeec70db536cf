# Sourced by what runs inside a board or container. Every check says what it looked at; the first that fails ends it.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
start_s=$(date +%s)

step() { printf '== [%4ds] %s\n' $(($(date +%s) - start_s)) "$*"; }
fail() {
    echo "FAILED: $*"
    journalctl -u boardfit --no-pager -n 40 2>/dev/null || true
    exit 1
}
expect() { local what=$1; shift; if "$@" >/tmp/expect.log 2>&1; then echo "ok    $what"; else cat /tmp/expect.log; fail "$what: $*"; fi; }
refuse() { local what=$1; shift; if "$@" >/tmp/expect.log 2>&1; then cat /tmp/expect.log; fail "$what: $*"; else echo "ok    $what"; fi; }

# README's section "Install on a board" is followed word by word: its blocks of commands, in this order, and no others.
INSTALL=1 CONFIGURE=2 UPGRADE=3 BACK=4 REMOVE=5
# What a person types: yes where apt asks, and in the editor the test's configuration.
printf 'APT::Get::Assume-Yes "true";\nAPT::Sandbox::User "root";\nquiet "1";\n' >/etc/apt/apt.conf.d/99answers
printf '#!/bin/sh\ncat /job/in/site.yaml >>"$1"\n' >/usr/local/bin/editor
chmod 755 /usr/local/bin/editor

# readme BLOCK FOLDER [LINE]: runs a block there, or one line of it.
readme() {
    local block line
    block=$(awk -v want="$1" '/^## /{on = /Install on a board/} on && /^```sh/{n++; next} /^```/{if (on && n == want) exit} on && n == want' /job/in/README.md)
    [ -z "${3:-}" ] || block=$(sed -n "$3p" <<<"$block")
    [ -n "$block" ] || fail "README has no block $1 with a line ${3:-}"
    cd "$2"
    while IFS= read -r line <&3; do
        printf '$ %s\n' "$line"
        bash -ec "$line" </dev/null || fail "$line"
    done 3<<<"$block"
    cd /job
}
all_blocks_known() {
    local blocks
    blocks=$(awk '/^## /{on = /Install on a board/} on && /^```sh/{n++} END {print n}' /job/in/README.md)
    [ "$blocks" = "$REMOVE" ] || fail "README has $blocks blocks there and not $REMOVE"
}

# The application has engines of its own: those of the package's first version, copied before it changes.
application_starts() {
    mkdir -p /srv/application
    cp -a /opt/boardfit/lib/python3*/site-packages/. /srv/application/
    rm -rf /srv/application/agent
    cp /job/in/inside/application.py /job/in/inside/consumer.py /srv/application/
    systemd-run -q --unit=application -p User=nobody -p Environment=PYTHONPATH=/srv/application \
        -p StandardOutput=append:/run/application.log python3 /srv/application/application.py /var/lib/boardfit/deploy/digits/current
    wait_for 300 application_answered 3
}
application_answered() { [ "$(grep -c ^answered /run/application.log)" -ge "$1" ]; }
# application_went_on COUNT: it has answered since it had that many answers, goes on, and never failed.
application_went_on() {
    local during; during=$(($(grep -c ^answered /run/application.log) - $1))
    [ "$during" -gt 0 ] || fail "the application did not answer in the meantime"
    wait_for 300 application_answered $(($1 + during + 5))
    refuse "the application never failed" grep -A20 FAILED /run/application.log
    awk -v first="$1" '$1 == "answered" {n++; if (n > first && n > 1 && $3 - last > gap) gap = $3 - last; last = $3}
        END {printf "ok    it went on answering: %d times, %.1f s apart at most\n", n - first, gap}' /run/application.log
}

python=/opt/boardfit/bin/python
# what the state holds, and the number of its format
state() {
    "$python" - <<'P'
import sqlite3
connection = sqlite3.connect("file:/var/lib/boardfit/boardfit.db?mode=ro", uri=True)
print(*(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("measurement", "decision", "facts")))
P
}
state_format() { "$python" -c 'import sqlite3; print(sqlite3.connect("file:/var/lib/boardfit/boardfit.db?mode=ro", uri=True).execute("PRAGMA user_version").fetchone()[0])'; }
serving() { [ "$(systemctl show -P StatusText boardfit)" = serving ]; }
version() { dpkg-deb -f "$1"/boardfit_*.deb Version | cut -d- -f1; }
same() { if [ "$2" = "$3" ]; then echo "ok    $1: $3"; else fail "$1: $2, then $3"; fi; }

# upgrade: from /job/in/old to the later version in /job/in/new, while an application uses the model.
upgrade() {
    local before held now count pid configuration later
    before=$(whole) held=$(state) configuration=$(sha256sum /etc/boardfit/agent.yaml) later=$(version /job/in/new)
    same "the state's format" "$("$python" -c 'from agent.database import FORMAT; print(FORMAT)')" "$(state_format)"
    pid=$(systemctl show -P MainPID boardfit)
    application_starts
    count=$(grep -c ^answered /run/application.log)
    readme $UPGRADE /job/in/new
    expect "running again" systemctl is-active boardfit
    refuse "as a new process" test "$(systemctl show -P MainPID boardfit)" = "$pid"
    same "its version" "boardfit $later" "$(boardfit --version)"
    same "the deployed model" "$before" "$(whole)"
    application_went_on "$count"
    boardfit status | tee /tmp/status
    expect "what is new is seen" grep -q "Version: $later" /tmp/status
    same "the state's new format" "$("$python" -c 'from agent.database import FORMAT; print(FORMAT)')" "$(state_format)"
    refuse "which is another" test "$(state_format)" = 1
    now=$(state) # the pass at start may have added to it
    expect "nothing is lost of measurements, decisions and facts ($held, now $now)" "$python" -c '
import sys
held, now = ([int(one) for one in text.split()] for text in sys.argv[1:])
sys.exit(not all(0 < one <= other for one, other in zip(held, now, strict=True)))' "$held" "$now"
    same "the configuration" "$configuration" "$(sha256sum /etc/boardfit/agent.yaml)"
}
# the_earlier_refuses COMMAND...: what it says of a later version's state, and that it leaves it alone.
the_earlier_refuses() {
    local before
    before=$(state_format)
    "$@" >/tmp/later.log 2>&1 && fail "it was read"
    cat /tmp/later.log
    expect "refused in one sentence" grep -q "written by a later version of boardfit" /tmp/later.log
    refuse "and no traceback" grep -q Traceback /tmp/later.log
    same "the state's format" "$before" "$(state_format)"
}
removal() {
    readme $REMOVE /job 1
    refuse "nothing below /opt" test -e /opt/boardfit
    refuse "no unit" systemctl cat boardfit.service
    expect "configuration stays" test -s /etc/boardfit/agent.yaml
    expect "the deployed model stays" deployed
    readme $REMOVE /job 2
    for left in /etc/boardfit /var/lib/boardfit /var/cache/boardfit /opt/boardfit /etc/systemd/system/boardfit.service.d \
        /etc/systemd/system/multi-user.target.wants/boardfit.service /usr/lib/systemd/system/boardfit.service \
        /usr/share/boardfit /usr/share/doc/boardfit; do
        if [ -e "$left" ] || [ -L "$left" ]; then fail "purge left $left"; fi
    done
    refuse "dpkg knows nothing of it" dpkg -s boardfit
    expect "the user stays, as Debian's do" getent passwd boardfit
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
    local end=$(($(date +%s) + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || fail "waited in vain for: $*"
        sleep 1
    done
}

deployed() { [ -s /var/lib/boardfit/deploy/digits/current/deployment.json ]; }
# whole: the deployed model is there and is what its own document says.
whole() {
    /opt/boardfit/bin/python - <<'P'
import hashlib, json, pathlib
folder = pathlib.Path("/var/lib/boardfit/deploy/digits/current")
document = json.loads((folder / "deployment.json").read_text())
found = []
def walk(node):
    if isinstance(node, dict):
        if isinstance(node.get("sha256"), str): found.append(node)
        for value in node.values(): walk(value)
    elif isinstance(node, list):
        for value in node: walk(value)
walk(document)
model = document["model"]
path = pathlib.Path(model["path"] if isinstance(model, dict) else model)
path = path if path.is_absolute() else folder / path
digest = hashlib.sha256(path.read_bytes()).hexdigest()
assert digest in json.dumps(document), (digest, document)
print(document.get("candidate"), digest)
P
}
