#!/bin/bash
# make board-test: a whole arm64 board from installation to removal, with a power cut in between.
#
#   boot-test.sh [--suite SUITE] [--deb FILE] [--timeout S]
#
# Without --deb the package is built inside an arm64 Debian (user emulation), from wheels gathered on this machine.
# The board pulls from a registry and talks to a mosquitto on this machine, over the network. $PYTHON is an environment
# that has boardfit's dependencies (default: .venv/bin/python). Run as root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); top=$(cd "$here/../.." && pwd)
. "$here/job.sh"
suite=bookworm deb= limit=1500
while [ $# -gt 0 ]; do
  case $1 in --suite) suite=$2; shift 2 ;; --deb) deb=$2; shift 2 ;; --timeout) limit=$2; shift 2 ;; *) sed -n '2,10p' "$0" >&2; exit 2 ;; esac
done
python=${PYTHON:-$top/.venv/bin/python}
began=$(date +%s); said() { printf '[%4ds] %s\n' $(($(date +%s) - began)) "$*" >&2; }
work=$(mktemp -d "${TMPDIR:-/tmp}/boardfit.XXXXXX"); pids=()
finish() { for one in ${pids[@]+"${pids[@]}"}; do kill "$one" 2>/dev/null || true; done; rm -rf "$work"; }
trap finish EXIT; trap 'exit 130' INT TERM

if [ -z "$deb" ]; then
  said "building the package inside arm64 $suite"
  deb=$(build_in_chroot "$suite" "$work")
fi
said "a later version of it"
lay_out "$work/in" "$deb" "$suite"

cp "$top/systemd/boardfit.service" "$top/systemd/boardfit.slice" "$work/in/"
said "the unit and its groups; sensors through the kernel's drivers"
"$here/boot-board.sh" --suite "$suite" --board jetson-orin-nano --timeout "$limit" --in "$work/in" -- \
  bash -c 'bash in/inside/unit.sh && PYTHONPATH=in/files python3 in/inside/sensors.py'
said "registry and broker"
PYTHONPATH=$top "$python" - "$work/models" "$work/in/candidates" <<'P'
import sys
from pathlib import Path
from tests.scenarios.conftest import CANDIDATES, publish
publish(Path(sys.argv[1]), CANDIDATES[:2])
Path(sys.argv[2]).write_text("\n".join(CANDIDATES[:2]) + "\n")
P
cp "$work/models/root.json" "$work/in/"
free() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
web=$(free); mqtt=$(free)
"$python" -m http.server --bind 127.0.0.1 --directory "$work/models" "$web" >"$work/web.log" 2>&1 & pids+=($!)
printf 'listener %s 127.0.0.1\nallow_anonymous true\npersistence false\n' "$mqtt" >"$work/mosquitto.conf"
PATH=$PATH:/usr/sbin mosquitto -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 & pids+=($!)
until mosquitto_sub -h 127.0.0.1 -p "$mqtt" -t x -W 1 -E 2>/dev/null; do sleep 0.2; done
mosquitto_sub -h 127.0.0.1 -p "$mqtt" -t 'boardfit/#' -v >"$work/heard.txt" 2>/dev/null & pids+=($!)
cat >"$work/in/site.yaml" <<X
registry: {url: "http://board-host:$web", root: /etc/boardfit/root.json}
mqtt: {url: "mqtt://board-host:$mqtt", fleet: board-test}
tasks: {digits: {budgets: {accuracy_top1: ">= 0.5"}}}
measure: {min_runs: 10, min_time: 0.05 s, max_time: 1 s, threads: [1], contended: flag, deadline: 600 s}
X
board() { "$here/boot-board.sh" --suite "$suite" --disk "$work/disk.qcow2" --board pi4 --forward "$web" --forward "$mqtt" --timeout "$limit" --in "$work/in" --out "$work/out" -- bash "/job/in/inside/$1"; }
said "first boot: installation, a pass, a power cut"
board boot-1.sh
[ -s "$work/out/cut.log" ] || { said "the power was not cut"; exit 1; }
said "second boot"
board boot-2.sh
said "what the broker heard"
version() { dpkg-deb -f "$1"/boardfit_*.deb Version | cut -d- -f1; }
PYTHONPATH=$top "$python" "$here/heard.py" "$work/heard.txt" "$work/out/served" "$(version "$work/in/old")" "$(version "$work/in/new")"
said "board-test $suite: passed, $(($(date +%s) - began)) s in all"
