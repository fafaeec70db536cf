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

# readme N: runs the Nth block of commands of README's section "Install on a board", word by word; `editor FILE` is what
# a person types there, and here the test's configuration.
readme() {
    local number=$1 block
    block=$(awk -v want="$number" '/^## /{on = /Install on a board/} on && /^```sh/{n++; next} /^```/{if (on && n == want) exit} on && n == want' /job/in/README.md)
    [ -n "$block" ] || fail "README has no block $number"
    cd "$2"
    while IFS= read -r line; do
        printf '$ %s\n' "$line"
        case $line in
        "editor /etc/boardfit/agent.yaml") cp /job/in/site.yaml /etc/boardfit/conf.d/site.yaml ;;
        "systemctl status"*) $line --no-pager || fail "$line" ;;
        "apt install ./"*) apt-get -o APT::Sandbox::User=root install -y -q ./boardfit_*.deb || fail "$line" ;;
        apt\ *) $line -y -q || fail "$line" ;;
        *) bash -ec "$line" || fail "$line" ;;
        esac
    done <<<"$block"
    cd /job
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
